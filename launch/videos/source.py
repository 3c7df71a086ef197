"""Which frames of which video: --start, --frames, --size, --raw, --frame_rate.

`encode` and `evaluate` take the same flags, so that what is measured is what
was encoded.
"""

from collections.abc import Mapping
import contextlib
import fractions
import pathlib
from typing import Any

from absl import flags

from pgsvc_jax import profiles
from pgsvc_jax.codec import syntax
from pgsvc_jax.video import frame_source
from pgsvc_jax.video import media as video_media
from pgsvc_jax.video import stream_format


class Source(frame_source.VideoFile):
  """A video file or a folder of pictures, with `options` of `open_video`."""

  def as_in(self, header: syntax.VideoHeader) -> 'Source':
    """With colors as a file has them: HDR is in its own curve there."""
    if header.transfer not in profiles.HDR_CURVES:
      return self
    return Source(path=self.path, options={**self.options, 'color': 'keep'})

  def expected_frames(self) -> int | None:
    """How many frames there should be, for progress.

    What a container says of itself; None where it says nothing, or would have
    to be read for it.
    """
    path = pathlib.Path(self.path)
    most = self.options.get('frames')
    count = None
    if path.is_dir():
      count = sum(x.suffix != '.json' for x in path.iterdir())
    elif path.is_file() and not self.options.get('raw'):
      import av  # An extra.

      with contextlib.suppress(av.FFmpegError), av.open(self.path) as container:
        for stream in container.streams.video[:1]:
          count = stream.frames or None
          if not count and container.duration and stream.average_rate:
            seconds = container.duration / av.time_base
            count = round(seconds * float(stream.average_rate))
    if count is None:
      return most
    left = max(0, count - self.options.get('start', 0))
    return left if most is None else min(left, most)


class Flags:
  """The flags of a command; made once, where it defines its others."""

  def __init__(self):
    self._holders = {
        'start': flags.DEFINE_integer(
            'start', None, 'of a video: frames to leave out', lower_bound=0
        ),
        'frames': flags.DEFINE_integer(
            'frames', None, 'of a video: frames at most', lower_bound=1
        ),
        'size': flags.DEFINE_string(
            'size', None, 'of a video: WIDTHxHEIGHT to shrink it to'
        ),
        'raw': flags.DEFINE_string(
            'raw',
            None,
            'of raw video without a header: WIDTHxHEIGHT:PIXEL_FORMAT:RATE,'
            ' such as 1920x1080:yuv420p:24',
        ),
        'frame_rate': flags.DEFINE_string(
            'frame_rate', None, 'of a folder of frames: 24, or 30000/1001'
        ),
    }

  def given(self) -> list[str]:
    """Names of those that are on the command line."""
    return [name for name, x in self._holders.items() if x.value is not None]

  def options(self) -> dict[str, Any]:
    """Arguments of `video_media.open_video`; raises as `parse_options`."""
    return parse_options(self.values())

  def values(self) -> dict[str, str]:
    """Those given, as they stand on the command line."""
    return {name: str(self._holders[name].value) for name in self.given()}


def parse_options(values: Mapping[str, str]) -> dict[str, Any]:
  """Values of the flags as arguments of `video_media.open_video`.

  Raises:
    ValueError: one cannot be read.

  Example:
    >>> parse_options({'size': '64x48'})
    {'start': 0, 'frames': None, 'size': (64, 48)}
  """
  parsers = {'size': parse_size, 'raw': parse_raw, 'frame_rate': parse_rate}
  options = {name: parsers.get(name, int)(x) for name, x in values.items()}
  return {'start': 0, 'frames': None} | options


def is_clip(path: str) -> bool:
  """As `video_media.is_video`; where PyAV is missing, nothing is."""
  try:
    return video_media.is_video(path)
  except ModuleNotFoundError:
    return False


def parse_size(text: str) -> tuple[int, int]:
  """WIDTHxHEIGHT.

  Example:
    >>> parse_size('640x360')
    (640, 360)
  """
  width, _, height = text.partition('x')
  if not (width.isdecimal() and height.isdecimal()):
    raise ValueError(f'no size WIDTHxHEIGHT: {text}')
  return int(width), int(height)


def parse_rate(text: str) -> fractions.Fraction:
  """Frames a second: 24, 23.976 or 30000/1001."""
  try:
    rate = fractions.Fraction(text)
  except (ValueError, ZeroDivisionError):
    raise ValueError(f'no frame rate: {text}') from None
  if rate <= 0:
    raise ValueError(f'no frame rate: {text}')
  return rate


def parse_raw(text: str) -> stream_format.RawFormat:
  """WIDTHxHEIGHT:PIXEL_FORMAT:RATE."""
  parts = text.split(':')
  if len(parts) != 3:
    raise ValueError(f'no WIDTHxHEIGHT:PIXEL_FORMAT:RATE: {text}')
  width, height = parse_size(parts[0])
  return stream_format.RawFormat(
      width=width,
      height=height,
      pixel_format=parts[1],
      frame_rate=parse_rate(parts[2]),
  )
