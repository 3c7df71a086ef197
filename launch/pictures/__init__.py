"""What `launch.encode` is made of, for pictures."""
