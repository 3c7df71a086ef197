"""The pages that `launch.report` writes."""
