"""Copies the first layers of a .pgsvc file into a smaller file.

python -m launch.extract --input=FILE.pgsvc --output=CUT.pgsvc --layers=K

Of a video also a part, which starts and ends with whole GOPs:

python -m launch.extract --input=VIDEO.pgsvc --output=CUT.pgsvc
    [--layers=K] [--start=FRAME|SECONDSs] [--frames=N]
"""

import itertools
import pathlib
import sys

from absl import flags

from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import stream
from pgsvc_jax.video import playback

from . import command

_INPUT = flags.DEFINE_string('input', None, 'a .pgsvc file', required=True)
_OUTPUT = flags.DEFINE_string('output', None, 'file to write', required=True)
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
  if command.is_video(_INPUT.value):
    _extract_video()
    return
  for flag in (_START, _FRAMES):
    if flag.value is not None:
      raise ValueError(
          f'{_INPUT.value} is a picture: --{flag.name} is for video'
      )
  if _LAYERS.value is None:
    raise ValueError(f'{_INPUT.value} is a picture: --layers=K must be given')
  data = pathlib.Path(_INPUT.value).read_bytes()
  with command.about(_INPUT.value):
    cut = bitstream.extract(data, _LAYERS.value)
  command.write_bytes(_OUTPUT.value, cut)


def _extract_video() -> None:
  with open(_INPUT.value, 'rb') as file:
    with command.about(_INPUT.value):
      reader = stream.StreamReader(file)
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
    last = reader.gop(first + kept - 1)
    first_frame = reader.gop(first).first_frame
    print(
        f'GOPs {first} to {last.index}, frames {first_frame} to'
        f' {last.first_frame + last.num_frames - 1}',
        file=sys.stderr,
    )


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


if __name__ == '__main__':
  command.run(main)
