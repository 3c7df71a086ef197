"""Copies the first layers of a .pgsvc file into a smaller file.

pgsvc extract FILE.pgsvc CUT.pgsvc --layers=K

Of a video also a part, which starts and ends with whole GOPs:

pgsvc extract VIDEO.pgsvc CUT.pgsvc [--layers=K] [--start=FRAME|SECONDSs]
    [--frames=N]
"""

import itertools
import os
import sys

from absl import flags

from pgsvc_jax.codec import stream
from pgsvc_jax.video import playback

from . import command

_INPUT, _OUTPUT = command.define_paths('a .pgsvc file', 'file to write')
_LAYERS = flags.DEFINE_integer(
    'layers',
    None,
    'layers to keep, the base counted; default for a video: those that its'
    ' first GOP has',
)
_START = flags.DEFINE_string(
    'start',
    None,
    'of a video: keep from the GOP of this frame (48) or time (2.5s)',
)
_FRAMES = flags.DEFINE_integer(
    'frames',
    None,
    'of a video: keep the GOPs of so many frames at most from there',
)


def main() -> None:
  """Copies bytes; nothing is decoded."""
  with open(_INPUT.value, 'rb') as file:
    with command.about(_INPUT.value):
      reader = stream.StreamReader(file)
    if not reader.is_video:
      why = f'{_INPUT.value} is a picture'
      command.refuse([_START, _FRAMES], why, 'for videos')
      if _LAYERS.value is None:
        raise ValueError(f'{why}: --layers=K must be given')
    with command.replacing(_OUTPUT.value) as output:
      with command.about(_INPUT.value):
        first, count = _gops(reader)
        kept = stream.extract(
            reader,
            output,
            num_layers=_LAYERS.value,
            first_gop=first,
            num_gops=count,
        )
      size = output.tell()
    _say(reader, size, first, first + kept - 1)


def _gops(reader: stream.StreamReader) -> tuple[int, int | None]:
  """(first GOP, how many) that hold what is asked for."""
  if _FRAMES.value is not None and _FRAMES.value < 1:
    raise ValueError(f'--frames={_FRAMES.value} is not positive')
  frame = playback.frame_at(reader, _START.value or '0')
  first = reader.gop_of_frame(frame)
  if _FRAMES.value is None:
    return first, None
  end = frame + _FRAMES.value
  following = itertools.islice(reader, first, None)
  kept = itertools.takewhile(lambda gop: gop.first_frame < end, following)
  return first, sum(1 for _ in kept)


def _say(reader: stream.StreamReader, size: int, first: int, last: int) -> None:
  """Says what was written."""
  whole = os.path.getsize(_INPUT.value)
  parts = ''
  if reader.is_video:
    begin, end = reader.gop(first), reader.gop(last)
    parts = (
        f'; GOPs {first} to {last}, frames {begin.first_frame} to'
        f' {end.first_frame + end.num_frames - 1}'
    )
  print(
      f'{_OUTPUT.value}: {size} bytes, {size / whole:.0%} of'
      f' {_INPUT.value}{parts}',
      file=sys.stderr,
  )


if __name__ == '__main__':
  command.run(main)
