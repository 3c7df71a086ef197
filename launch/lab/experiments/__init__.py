"""What `launch.reproduce` is made of."""
