"""What `launch.benchmark` times, counts and draws."""
