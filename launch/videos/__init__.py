"""What the commands do with a video."""
