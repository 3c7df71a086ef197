"""Decodes video files, one frame at a time, through PyAV (an extra)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
import contextlib
from fractions import Fraction
import importlib
import os
import re
from typing import TYPE_CHECKING, Any
import warnings

from jaxtyping import Float
import lazy_loader
import numpy as np
import PIL
from PIL import Image

from pgsvc_jax import media
from pgsvc_jax.video import color
from pgsvc_jax.video import stream_format

# Loaded on first use: what reads pictures does without it.
if TYPE_CHECKING:
  import av
else:
  av = lazy_loader.load('av')

# As for pictures: larger frames are refused before they are decoded.
_MAX_PIXELS = 2**27

# Pillow calls these pictures; as videos they have more than one frame.
_ANIMATED = ('GIF', 'PNG')
# What FFmpeg opens as video although it is a picture or a text.
_NOT_VIDEO = (
    *('adf', 'bin', 'fits', 'ico', 'idf', 'image2', 'tty', 'txd', 'xbin'),
)
_PICTURE_BRANDS = ('avif', 'avis', 'heic', 'heix', 'mif1')
_HDR_TRANSFERS = {16: 'PQ', 18: 'HLG'}


class AvReader:
  """A file; what `media.VideoReader` adds is the choice of frames.

  Attributes:
    format: as the file says, upright.
    notes: what reading changes or leaves out.
  """

  def __init__(
      self, path: str | os.PathLike[str], raw: stream_format.RawFormat | None
  ):
    self._path = path
    self._raw = raw
    if raw is None and is_picture(path):
      raise ValueError('it is a picture, not a video')
    with open_container(path, raw) as (container, stream):
      try:
        frame = next(_decode(container, stream), None)
      except (av.error.FFmpegError, ValueError) as error:
        raise ValueError(
            f'frame 0 is damaged: {media.reason(error)}'
        ) from error
      if frame is None:
        raise ValueError('it has no frames')
      rate = _positive(stream.average_rate) or _positive(stream.guessed_rate)
      # Elementary streams have no times.
      self._has_times = frame.pts is not None
      if not self._has_times:
        rate = rate or stream_format.DEFAULT_RATE
      time_base = _positive(stream.time_base) if self._has_times else 1 / rate
      self._coded = frame.width, frame.height
      self._turn = _orientation(frame)
      width, height = self._coded[::-1] if self._turn[0] else self._coded
      aspect = _positive(stream.sample_aspect_ratio) or Fraction(1)
      is_rgb = color.is_rgb(frame.format)
      self.format = stream_format.VideoFormat(
          width=width,
          height=height,
          time_base=time_base,
          frame_rate=rate,
          primaries=int(frame.color_primaries),
          transfer=int(frame.color_trc),
          matrix=stream_format.RGB_MATRIX if is_rgb else int(frame.colorspace),
          full_range=color.is_full_range(frame),
          pixel_aspect=1 / aspect if self._turn[0] else aspect,
      )
      if not is_rgb:
        color.rgb_from_yuv(
            color.guessed_matrix(self.format)
        )  # refuses unknown ones
      self.notes = _notes(container, stream, frame, self._turn, self.format)
      self._end = _declared_end(container, stream)

  def frames(self, start: int) -> Generator[stream_format.Frame | None]:
    """Gives None for each frame before `start`, then frames."""
    with open_container(self._path, self._raw) as (container, stream):
      timed = self._timed(container, stream)
      for frame_idx, (frame, time, duration) in enumerate(timed):
        if frame_idx < start:
          yield None
          continue
        if (frame.width, frame.height) != self._coded:
          raise ValueError(
              f'the size changes from {self._coded[0]}x{self._coded[1]} to'
              f' {frame.width}x{frame.height} at frame {frame_idx}'
          )
        if frame.is_corrupt:
          raise ValueError(f'frame {frame_idx} is damaged')
        pixels = _turned(color.to_rgb(frame, self.format), self._turn)
        yield stream_format.Frame(pixels=pixels, time=time, duration=duration)

  def _timed(
      self, container: av.container.InputContainer, stream: av.VideoStream
  ) -> Generator[tuple[av.VideoFrame, int, int]]:
    """Adds times in order, and durations that end where the next begins."""
    rate = self.format.frame_rate
    step = max(1, round(1 / (rate * self.format.time_base))) if rate else 1
    waiting = None  # the frame whose duration is still unknown
    time, longest, failure = -step, step, None
    num_frames = 0
    try:
      for frame in _decode(container, stream):
        # AVI has no times but an order of decoding.
        stamp = frame.dts if container.format.name == 'avi' else frame.pts
        if not self._has_times or stamp is None or (waiting and stamp <= time):
          time += step
        else:
          time = stamp
        num_frames += 1
        if waiting is not None:
          longest = max(longest, time - waiting[1])
          yield *waiting, time - waiting[1]
        waiting = frame, time
    except (av.error.FFmpegError, ValueError) as error:
      failure = error
    if waiting is not None:
      yield *waiting, (self._has_times and waiting[0].duration) or step
    if failure is not None:
      raise ValueError(
          f'frame {num_frames} is damaged: {media.reason(failure)}'
      ) from failure
    if self._end is not None:
      end = (time + longest) * self.format.time_base
      # A cut file still says how long it once was. Less than that may be a
      # rounded time or a long last frame.
      if self._end - end > max(Fraction(1, 2), longest * self.format.time_base):
        raise ValueError(
            f'it ends after frame {num_frames - 1}, at {float(end):.2f} of'
            f' {float(self._end):.2f} seconds'
        )


@contextlib.contextmanager
def open_container(
    path: str | os.PathLike[str], raw: stream_format.RawFormat | None
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
  """Opens a file and chooses its video stream."""
  # Missing, it is named by this error; not by that of the lazy module.
  importlib.import_module('av')
  # A playlist could make FFmpeg read other files or the network.
  options: dict[str, Any] = {'options': {'protocol_whitelist': 'none'}}
  if raw is not None:
    options['format'] = 'rawvideo'
    options['options'] |= {
        'video_size': f'{raw.width}x{raw.height}',
        'pixel_format': raw.pixel_format,
        'framerate': str(raw.frame_rate),
    }
  if int(av.__version__.split('.')[0]) < 19:
    # Later ones keep bytes that are no UTF-8 without being told.
    options['metadata_errors'] = 'replace'
  # An open file, because FFmpeg takes some names for addresses or patterns.
  with open(path, 'rb') as file:
    try:
      container = av.open(file, 'r', **options)
    except av.error.FFmpegError as error:
      # FFmpeg's own reasons are at times far from it ('resource busy').
      what = 'raw video so described' if raw else 'a video of a known format'
      raise ValueError(f'not {what}, or damaged') from error
    with container:
      name = container.format.name
      streams = [
          stream
          for stream in container.streams.video
          if not stream.disposition & av.stream.Disposition.attached_pic
      ]
      if not streams:
        raise ValueError('it has no video stream')
      stream = streams[0]
      brand = container.metadata.get('major_brand', '')
      if (
          name in _NOT_VIDEO
          or name.endswith('_pipe')
          or brand.strip() in _PICTURE_BRANDS
      ):
        raise ValueError('it is not a video')
      if stream.codec_context is None:
        raise ValueError('it has a codec that FFmpeg does not know')
      if stream.width * stream.height > _MAX_PIXELS:
        raise ValueError(
            f'{stream.width} x {stream.height} pixels, allowed are'
            f' {_MAX_PIXELS}'
        )
      # Otherwise damaged frames are patched up in silence.
      stream.codec_context.options = {
          'err_detect': 'crccheck+bitstream+buffer+explode'
      }
      yield container, stream


def _decode(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Generator[av.VideoFrame]:
  """Decodes frame by frame; a packet that was cut off is an error."""
  for packet in container.demux(stream):
    if packet.is_corrupt:
      raise ValueError('its data are incomplete')
    yield from packet.decode()


def is_picture(path: str | os.PathLike[str]) -> bool:
  """Whether Pillow takes the file for a picture that does not move."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    try:
      with Image.open(path) as image:
        if image.format in ('MPEG', 'FLI'):
          return False
        moves = getattr(image, 'is_animated', False)
        return not (moves and image.format in _ANIMATED)
    except PIL.UnidentifiedImageError:
      return False
    except OSError as error:
      # With a number the file cannot be read at all; without, it is a damaged
      # picture.
      return error.errno is None
    except Exception:  # a picture, but damaged: Pillow raises nearly anything
      return True


def _positive(value: Any) -> Fraction | None:
  """Turns PyAV's ratios, which may be None or 0/0, into fractions."""
  if value is None or value.numerator <= 0 or value.denominator <= 0:
    return None
  return Fraction(value.numerator, value.denominator)


def _declared_end(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Fraction | None:
  """When the video ends by its header, in seconds; None if it does not say."""
  # As FFmpeg and mkvmerge write it into Matroska.
  declared = re.fullmatch(
      r'(\d+):(\d+):(\d+(?:\.\d+)?)', stream.metadata.get('DURATION', '')
  )
  if declared is not None:
    hours, minutes, seconds = (Fraction(x) for x in declared.groups())
    return (hours * 60 + minutes) * 60 + seconds
  tick = _positive(stream.time_base)
  if stream.duration is not None and tick is not None:
    return (stream.duration + (stream.start_time or 0)) * tick
  if container.duration is None or len(container.streams) > 1:
    return None
  microseconds = container.duration + (container.start_time or 0)
  return Fraction(microseconds, 1_000_000)


def _notes(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    frame: av.VideoFrame,
    turn: tuple[bool, bool, bool],
    form: stream_format.VideoFormat,
) -> list[str]:
  """Says what reading changes or leaves out."""
  notes = []
  if (num_videos := len(container.streams.video)) > 1:
    notes.append(f'one of {num_videos} video streams taken')
  if container.streams.audio:
    notes.append('sound left out')
  if any(turn):
    notes.append('rotation applied')
  if color.has_alpha(frame.format) or stream.metadata.get('alpha_mode') == '1':
    notes.append('alpha left out')
  if frame.interlaced_frame:
    notes.append('interlaced frames taken as they are')
  if form.pixel_aspect != 1:
    notes.append(f'pixels are not square ({form.pixel_aspect})')
  if form.transfer in _HDR_TRANSFERS:
    notes.append(f'{_HDR_TRANSFERS[form.transfer]} values taken as they are')
  return notes


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
  """Whether to transpose, then flip in x, then flip in y, to stand upright."""
  matrix = frame.side_data.get('DISPLAYMATRIX')
  if matrix is None:
    return False, False, False
  # x' = a x + c y and y' = b x + d y, in 16.16 fixed point.
  a, b, _, c, d = (int(x) / 65536 for x in np.frombuffer(matrix, np.int32)[:5])
  if (b, c) == (0, 0) and abs(a) == abs(d) == 1:
    return False, a < 0, d < 0
  if (a, d) == (0, 0) and abs(b) == abs(c) == 1:
    return True, c < 0, b < 0
  raise ValueError('it is rotated by other than quarter turns')


def _turned(
    pixels: Float[np.ndarray, 'h w 3'], turn: tuple[bool, bool, bool]
) -> Float[np.ndarray, ...]:
  """Turns a picture upright."""
  transposed, flip_x, flip_y = turn
  if transposed:
    pixels = pixels.swapaxes(0, 1)
  pixels = pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
  return np.ascontiguousarray(pixels)
