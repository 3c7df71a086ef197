"""Deprecated: `reproduce --experiment=video_gsvc`."""

import sys

from . import command
from . import reproduce

if __name__ == '__main__':
  command.complain('deprecated: use reproduce --experiment=video_gsvc')
  sys.argv.insert(1, '--experiment=video_gsvc')
  command.run(reproduce.main)
