"""Decodes video files, one frame at a time, through PyAV (an extra)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
import contextlib
import dataclasses
from fractions import Fraction
import functools
import importlib
import io
import os
from typing import TYPE_CHECKING, Any
import warnings

from jaxtyping import Float
import lazy_loader
import numpy as np
import PIL
from PIL import ExifTags
from PIL import Image

from pgsvc_jax import hdr
from pgsvc_jax import profiles
from pgsvc_jax.video import av_frames
from pgsvc_jax.video import color
from pgsvc_jax.video import stream_format
from pgsvc_jax.video import structure

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
# Whether to transpose, then flip in x, then flip in y, to stand upright.
_EXIF_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
# By degrees counterclockwise.
_QUARTER_TURNS = {
    0: _EXIF_TURNS[1],
    90: _EXIF_TURNS[8],
    180: _EXIF_TURNS[3],
    270: _EXIF_TURNS[6],
}


class AvReader:
  """A file; what `media.VideoReader` adds is the choice of frames.

  Attributes:
    format: as the file says, upright.
    notes: what reading changes or leaves out.
  """

  def __init__(
      self,
      path: str | os.PathLike[str],
      raw: stream_format.RawFormat | None,
      color_of: str = 'keep',
  ):
    self._path = path
    self._open = functools.partial(open_container, path, raw)
    if raw is None and is_picture(path):
      raise ValueError('it is a picture, not a video')
    with self._open() as (container, stream):
      timing = _timing(container, stream, has_times=True)
      decoder = av_frames.Decoder(timing)
      frame, stamp = next(decoder.frames(container.demux(stream)), (None, None))
      if frame is None:
        cut = 'the end of the file is missing: '
        cut *= _is_cut(path, container, stream)
        raise ValueError(f'{cut}it has no frames')
      # Elementary streams have no times.
      has_times = frame.pts is not None
      self._timing = _timing(container, stream, has_times)
      self._coded = frame.width, frame.height
      self._crop = _crop(path, container, stream)
      self._turn = self._orientation(frame)
      self.format = self._format(stream, frame)
      is_rgb = color.is_rgb(frame.format)
      if not is_rgb:
        # Refuses unknown ones.
        color.rgb_from_yuv(color.guessed_matrix(self.format))
      self.notes = _notes(container, stream, frame, self.format)
      self._hdr = profiles.HDR_CURVES.get(self.format.transfer)
      if self._hdr is not None and color_of == 'keep':
        self.notes.append(f'{self._hdr} values taken as they are')
        self._hdr = None
      self._stored = self.format
      if self._hdr is not None:
        self.notes.append(f'{self._hdr} tone-mapped to BT.709')
        is_rgb = self.format.matrix == stream_format.RGB_MATRIX
        self.format = dataclasses.replace(
            self.format,
            primaries=1,
            transfer=1,
            matrix=stream_format.RGB_MATRIX if is_rgb else 1,
        )
      if any(self._turn):
        self.notes.append('rotation applied')
      if any(self._crop):
        self.notes.append(
            f'cropped to {self.format.width}x{self.format.height}'
        )
      if decoder.lacking:
        self.notes.append(
            f'{_count(decoder.lacking)} at the start left out, whose'
            ' references are missing'
        )
      self._index = av_frames.Index(
          self._packets(),
          stream.codec_context.codec,
          self._timing,
          is_progressive=not frame.interlaced_frame,
      )

  def _format(
      self, stream: av.VideoStream, frame: av.VideoFrame
  ) -> stream_format.VideoFormat:
    """What the file says of its frames."""
    width, height = self._coded
    width -= self._crop.left + self._crop.right
    height -= self._crop.top + self._crop.bottom
    aspect = _positive(stream.sample_aspect_ratio) or Fraction(1)
    if self._turn[0]:
      width, height, aspect = height, width, 1 / aspect
    is_rgb = color.is_rgb(frame.format)
    return stream_format.VideoFormat(
        width=width,
        height=height,
        time_base=self._timing.tick,
        frame_rate=_rate(stream, self._timing.has_times),
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
        matrix=stream_format.RGB_MATRIX if is_rgb else int(frame.colorspace),
        full_range=color.is_full_range(frame),
        pixel_aspect=aspect,
    )

  def _packets(self) -> Generator[av.Packet]:
    """All packets, read but not decoded."""
    with self._open() as (container, stream):
      yield from container.demux(stream)

  def open(self) -> av_frames.Clip:
    """Opens the file, for `frames`."""
    return av_frames.Clip(self._open, self._index, self._timing)

  def close(self) -> None:
    """Closes what is open to look frames up."""
    self._index.close()

  def frames(
      self, clip: av_frames.Clip, start: int
  ) -> Iterator[stream_format.Frame]:
    """Frames from `start` on, as `av_frames.Clip.frames` gives them."""
    converter = color.Converter(self._stored)
    number, end = start, Fraction(0)
    for number, frame, time, duration in clip.frames(start):
      if (frame.width, frame.height) != self._coded:
        raise ValueError(
            f'the size changes from {self._coded[0]}x{self._coded[1]} to'
            f' {frame.width}x{frame.height} at frame {number}'
        )
      pixels = self._shown(converter.to_rgb(frame))
      if self._hdr is not None:
        pixels = hdr.to_bt709(pixels, self._hdr, self._stored.primaries)
      end = (time + duration) * self._timing.tick
      yield stream_format.Frame(pixels=pixels, time=time, duration=duration)
    self._note_joints(clip.decoder.joints)
    if _is_cut(self._path, clip.container, clip.stream):
      raise ValueError(
          'the end of the file is missing: it ends after frame'
          f' {number}, at {float(end):.2f} seconds'
      )

  def _shown(
      self, pixels: Float[np.ndarray, 'h w 3']
  ) -> Float[np.ndarray, 'h2 w2 3']:
    """Crops, then turns upright."""
    height, width, _ = pixels.shape
    left, right, top, bottom = self._crop
    pixels = pixels[top : height - bottom, left : width - right]
    transposed, flip_x, flip_y = self._turn
    if transposed:
      pixels = pixels.swapaxes(0, 1)
    pixels = pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    return np.ascontiguousarray(pixels)

  def _note_joints(self, joints: list[tuple[int, int]]) -> None:
    """Says where the stream was put together, once it was read."""
    for number, lacking in joints:
      note = f'times begin anew at frame {number}: they go on from there'
      if lacking:
        note += f', without {_count(lacking)} whose references are missing'
      if note not in self.notes:
        self.notes.append(note)

  def _orientation(self, frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Whether to transpose, then flip in x, then flip in y."""
    try:
      matrix = frame.side_data.get('DISPLAYMATRIX')
    except ValueError:
      # PyAV 18 reads none if it does not know one of them.
      with self._open() as (container, stream):
        packet = bytes(next(container.demux(stream)))
      return _exif_orientation(packet) or _QUARTER_TURNS[frame.rotation % 360]
    if matrix is None:
      return False, False, False
    # x' = a x + c y and y' = b x + d y, in 16.16 fixed point.
    values = np.frombuffer(matrix, np.int32)[:5] / 65536
    a, b, _, c, d = values.tolist()
    if (b, c) == (0, 0) and abs(a) == abs(d) == 1:
      return False, a < 0, d < 0
    if (a, d) == (0, 0) and abs(b) == abs(c) == 1:
      return True, c < 0, b < 0
    raise ValueError('it is rotated by other than quarter turns')


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
      # As players choose.
      is_default = av.stream.Disposition.default
      stream = next((s for s in streams if s.disposition & is_default), None)
      stream = stream or streams[0]
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
      # Otherwise damaged frames are patched up in silence; those of H.264 are
      # marked, and there 'explode' refuses whole ones that follow missing ones.
      strict = '+explode' * (stream.codec_context.codec.name != 'h264')
      stream.codec_context.options = {
          'err_detect': f'crccheck+bitstream+buffer{strict}'
      }
      yield container, stream


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


def _rate(stream: av.VideoStream, has_times: bool) -> Fraction | None:
  """Frames a second, average or nominal."""
  rate = _positive(stream.average_rate) or _positive(stream.guessed_rate)
  return rate or (None if has_times else stream_format.DEFAULT_RATE)


def _timing(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    has_times: bool,
) -> av_frames.Timing:
  """What the file says of its times."""
  rate = _rate(stream, has_times)
  tick = _positive(stream.time_base) if has_times else 1 / rate
  tick = tick or Fraction(1)
  return av_frames.Timing(
      tick=tick,
      step=max(1, round(1 / (rate * tick))) if rate else 1,
      has_times=has_times,
      by_order=container.format.name == 'avi',
      can_jump=av_frames.may_jump(container),
  )


def _is_cut(
    path: str | os.PathLike[str],
    container: av.container.InputContainer,
    stream: av.VideoStream,
) -> bool:
  """Whether a part of the file that is known to exist is not there."""
  name = container.format.name
  if name.startswith('mov'):
    # The largest entry; fragments add theirs while they are read.
    size = os.path.getsize(path)
    entries = stream.index_entries
    if any(entry.pos + entry.size > size for entry in entries):
      return True
  return structure.is_cut(path, name)


def _crop(
    path: str | os.PathLike[str],
    container: av.container.InputContainer,
    stream: av.VideoStream,
) -> structure.Crop:
  """What players leave out at the sides."""
  crops = structure.crops(path, container.format.name)
  number = list(container.streams.video).index(stream)
  return crops[number] if number < len(crops) else structure.Crop()


def _exif_orientation(packet: bytes) -> tuple[bool, bool, bool] | None:
  """Of a frame that is a picture file of its own; None if it is not."""
  try:
    with Image.open(io.BytesIO(packet)) as image:
      tag = image.getexif().get(ExifTags.Base.Orientation, 1)
  except Exception:  # Pillow raises nearly anything.
    return None
  return _EXIF_TURNS.get(tag, _EXIF_TURNS[1])


def _count(num_frames: int) -> str:
  return f'{num_frames} frame{"s" * (num_frames != 1)}'


def _notes(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    frame: av.VideoFrame,
    form: stream_format.VideoFormat,
) -> list[str]:
  """Says what reading changes or leaves out."""
  notes = []
  videos = list(container.streams.video)
  if len(videos) > 1:
    notes.append(
        f'video track {videos.index(stream) + 1} of {len(videos)} taken'
    )
  if container.streams.audio:
    notes.append('sound left out')
  if color.has_alpha(frame.format) or stream.metadata.get('alpha_mode') == '1':
    notes.append('alpha left out')
  if frame.interlaced_frame:
    notes.append('interlaced frames taken as they are')
  if form.pixel_aspect != 1:
    notes.append(f'pixels are not square ({form.pixel_aspect})')
  return notes
