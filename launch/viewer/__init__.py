"""The viewer page: served on this machine, or written as one file."""
