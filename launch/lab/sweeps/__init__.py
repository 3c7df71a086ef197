"""The parts of `launch.sweep`: its space, its trials, their runs, its plots."""
