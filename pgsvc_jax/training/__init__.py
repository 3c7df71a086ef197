"""What fits layered splats to a picture: joint loss, schedule, state."""
