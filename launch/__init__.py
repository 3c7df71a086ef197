"""The commands: flags, paths, devices, progress. See launch/main.py."""
