"""Deprecated: `reproduce --experiment=video_frames`."""

import sys

from . import command
from . import reproduce

if __name__ == '__main__':
  command.complain('deprecated: use reproduce --experiment=video_frames')
  sys.argv.insert(1, '--experiment=video_frames')
  command.run(reproduce.main)
