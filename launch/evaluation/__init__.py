"""What `launch.evaluate` measures pictures with."""
