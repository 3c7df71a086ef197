"""Configurations: files with `get_config(preset)`, departures only."""
