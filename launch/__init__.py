"""The commands: flags, paths, devices, progress. See launch/main.py."""

import sys

from . import interrupts

# So it is while `python -m` looks for one of the commands, and never else.
if sys.argv[:1] == ['-m']:
  interrupts.end_at_once()
