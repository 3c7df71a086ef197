"""Video in and out of files, one frame at a time, through PyAV (an extra).

Pixels are the RGB values that the file stores: its own matrix and range turn
YUV into RGB, and no transfer function or color space is applied, so HDR stays
in its own curve. Chroma is taken as centered between the pixels it covers.

Tags are code points of ITU-T H.273 (CICP); 2 is unspecified. A matrix that is
unspecified is guessed as players do: BT.709 where the long side has 1280 pixels
or more or the short one more than 576, BT.601 below. A range that is
unspecified is limited for YUV and full for RGB and gray.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
import contextlib
import dataclasses
from fractions import Fraction
import importlib
import itertools
import json
import os
import pathlib
import re
import secrets
import shutil
from typing import TYPE_CHECKING, Any, Self
import warnings
import weakref

from jaxtyping import Float, UInt8
import lazy_loader
import numpy as np
import PIL
from PIL import Image

from pgsvc_jax import media

# Loaded on first use: what reads pictures does without it.
if TYPE_CHECKING:
  import av
else:
  av = lazy_loader.load('av')

UNSPECIFIED = 2
_RGB_MATRIX = 0
_YCGCO_MATRIX = 8
# Luma weights of red and blue by matrix: H.273, table 4.
_LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
_HDR_TRANSFERS = {16: 'PQ', 18: 'HLG'}
_FULL_RANGE = 2  # FFmpeg's AVCOL_RANGE_JPEG; limited is 1, unspecified 0.
_LIMITED_RANGE = 1

# As for pictures: larger frames are refused before they are decoded.
_MAX_PIXELS = 2**27

# A rate has to be made up for streams without times that name none.
_DEFAULT_RATE = Fraction(25)

# Pillow calls these pictures; as videos they have more than one frame.
_ANIMATED = ('GIF', 'PNG')
# What FFmpeg opens as video although it is a picture or a text.
_NOT_VIDEO = (
    *('adf', 'bin', 'fits', 'ico', 'idf', 'image2', 'tty', 'txd', 'xbin'),
)
_PICTURE_BRANDS = ('avif', 'avis', 'heic', 'heix', 'mif1')

_TIMES_FILE = 'times.json'


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoFormat:
  """What a video is, apart from its frames.

  Attributes:
    width: of the upright picture.
    height: of the upright picture.
    time_base: seconds a tick.
    frame_rate: frames a second, average or nominal; None if unknown.
    primaries: code point of the color primaries.
    transfer: code point of the transfer characteristics.
    matrix: code point of the matrix coefficients; 0 for RGB.
    full_range: whether the codes use their full range.
    pixel_aspect: width of a pixel divided by its height.
  """

  width: int
  height: int
  time_base: Fraction
  frame_rate: Fraction | None
  primaries: int = UNSPECIFIED
  transfer: int = UNSPECIFIED
  matrix: int = UNSPECIFIED
  full_range: bool = False
  pixel_aspect: Fraction = Fraction(1)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
  """One frame of a video.

  Attributes:
    pixels: RGB in [0, 1].
    time: when it is shown first, in ticks of the video's time base.
    duration: how long, in ticks; to the next frame, where there is one.
  """

  pixels: Float[np.ndarray, 'h w 3']
  time: int
  duration: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawFormat:
  """What the file does not say of raw video without any header.

  Attributes:
    width: in pixels.
    height: in pixels.
    pixel_format: FFmpeg's name, such as 'yuv420p' or 'yuv420p10le'.
    frame_rate: frames a second.
  """

  width: int
  height: int
  pixel_format: str
  frame_rate: Fraction


def is_video(path: str | os.PathLike[str]) -> bool:
  """Whether a file is a video that `open_video` can open.

  Animations (GIF, PNG) are videos; still pictures, folders and raw video
  without a header are not. Reads the header only.

  Args:
    path: any path.

  Returns:
    Whether it is a video.

  Raises:
    ModuleNotFoundError: the file is no picture and PyAV is not installed.

  Example:
    >>> is_video(__file__)
    False
  """
  try:
    if not os.path.isfile(path) or _is_picture(path):
      return False
    with _open_container(path, None):
      return True
  except (OSError, ValueError):
    return False


def open_video(
    path: str | os.PathLike[str],
    *,
    start: int = 0,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    raw: RawFormat | None = None,
    frame_rate: Fraction | int = 24,
) -> VideoReader:
  """Opens a video file, or a folder of pictures, to be read frame by frame.

  The first frame is decoded at once, so what cannot be read is known early.

  Args:
    path: a file in any format that PyAV reads, or a folder of pictures of one
      size, taken in natural order of their names (2 before 10).
    start: frames to leave out at the beginning.
    frames: how many to read at most; None for all.
    size: (width, height) to shrink to (Lanczos, on the RGB values).
    raw: the format of a file of raw video.
    frame_rate: of a folder without times (those that `VideoWriter` wrote have
      them).

  Returns:
    The video; it can be iterated several times.

  Raises:
    media.MediaError: the file is missing, no video, damaged or not supported.
    ValueError: an argument makes no sense.

  Example:
    >>> import tempfile
    >>> form = VideoFormat(
    ...     width=6, height=4, time_base=Fraction(1, 50), frame_rate=None
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = os.path.join(folder, 'clip.mkv')
    ...   with VideoWriter(path, form) as writer:
    ...     for time in (0, 2, 6):
    ...       writer.write(np.full((4, 6, 3), 51, np.uint8), time, 2)
    ...   with open_video(path) as video:
    ...     [frame.time * video.format.time_base for frame in video]
    [Fraction(0, 1), Fraction(1, 25), Fraction(3, 25)]
  """
  if start < 0:
    raise ValueError(f'start must not be negative: {start}')
  if frames is not None and frames < 1:
    raise ValueError(f'frames must be at least 1: {frames}')
  if frame_rate <= 0:
    raise ValueError(f'frame rate must be positive: {frame_rate}')
  return VideoReader(path, start, frames, size, raw, Fraction(frame_rate))


class VideoReader:
  """An open video: its format, and its frames by iteration.

  Each iteration reads the file anew and holds a few decoded frames at a time.
  Leaving the `with` block ends the iterations that are still running.

  Attributes:
    format: size, times and colors; the size is that of the frames given.
    notes: what reading changes or leaves out, for the user.
  """

  format: VideoFormat
  notes: tuple[str, ...]

  def __init__(
      self,
      path: str | os.PathLike[str],
      start: int,
      frames: int | None,
      size: tuple[int, int] | None,
      raw: RawFormat | None,
      frame_rate: Fraction,
  ):
    self._path = path
    self._start = start
    self._stop = None if frames is None else start + frames
    self._running: weakref.WeakSet[Generator[Frame]] = weakref.WeakSet()
    with _media_errors('read', path):
      if os.path.isdir(path):
        self._source = _PictureFolder(pathlib.Path(path), frame_rate)
      else:
        self._source = _VideoFile(path, raw)
    self.notes = tuple(self._source.notes)
    self.format = _shrunk_format(self._source.format, size)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    for frames in tuple(self._running):
      frames.close()

  def __iter__(self) -> Iterator[Frame]:
    frames = self._frames()
    self._running.add(frames)
    return frames

  def _frames(self) -> Generator[Frame]:
    size = self.format.width, self.format.height
    with _media_errors('read', self._path):
      num_frames = 0
      frames = self._source.frames(self._start)
      for frame in itertools.islice(frames, self._stop):
        num_frames += 1
        if frame is not None:
          yield dataclasses.replace(frame, pixels=_shrink(frame.pixels, size))
      if num_frames <= self._start:
        raise ValueError(
            f'it has {num_frames} frames, none from {self._start} on'
        )


class VideoWriter:
  """Writes a video; an existing file is replaced only by a whole new one.

  What is written depends on the suffix:

  - .mp4: H.264 of high quality, 4:2:0 (4:4:4 where a side is odd).
  - .mkv: FFV1, lossless RGB. Matroska rounds times to milliseconds.
  - .webm: VP9 of high quality, 4:2:0. Times as in Matroska.
  - .y4m: uncompressed 4:4:4 YUV, at a constant frame rate only.
  - none: a folder of PNG files with a list of their times, `times.json`.

  Times come back exactly, except where said; in a file, times below zero are
  moved, all by the same, so that the first is zero. Color tags come back, apart
  from the matrix of what is stored as RGB (.mkv) and from y4m, which knows no
  tag but the range. RGB sources are written as YUV of limited range.

  Args:
    path: the file or folder to write. A folder must be new or empty.
    format: what the video is.

  Raises:
    media.MediaError: the suffix is unknown, a frame does not fit, or the file
      cannot be written.
  """

  def __init__(self, path: str | os.PathLike[str], format: VideoFormat):
    self._path = pathlib.Path(path)
    self._format = format
    self._num_frames = 0
    self._last_time: int | None = None
    suffix = self._path.suffix.lower()
    with _media_errors('write', path):
      self._is_folder = not suffix or self._path.is_dir()
      if self._is_folder:
        if self._path.exists() and (
            not self._path.is_dir() or any(self._path.iterdir())
        ):
          raise ValueError('it exists and is not an empty folder')
      elif suffix not in _ENCODINGS:
        known = ', '.join(_ENCODINGS)
        raise ValueError(
            f'{suffix!r} is not a video format to write; try {known} or a'
            ' folder (no suffix)'
        )
    self._temporary = self._path.with_name(f'.{secrets.token_hex(8)}.tmp')

  def __enter__(self) -> Self:
    with _media_errors('write', self._path):
      if self._is_folder:
        self._sink = _PictureSink(self._temporary, self._format)
      else:
        try:
          self._sink = _EncodedSink(
              self._temporary,
              self._format,
              _ENCODINGS[self._path.suffix.lower()],
          )
        except BaseException:
          self._temporary.unlink(missing_ok=True)
          raise
    return self

  def write(
      self, pixels: UInt8[np.ndarray, 'h w 3'], time: int, duration: int
  ) -> None:
    """Writes the next frame.

    Args:
      pixels: RGB.
      time: in ticks, later than that of the frame before.
      duration: in ticks; used for the last frame, those before it last until
        the next.

    Raises:
      media.MediaError: the frame has another size or an impossible time, or it
        cannot be written.
    """
    shape = self._format.height, self._format.width, 3
    with _media_errors('write', self._path):
      if pixels.shape != shape or pixels.dtype != np.uint8:
        raise ValueError(
            f'need uint8 {list(shape)}, not'
            f' {pixels.dtype} {list(pixels.shape)}'
        )
      if self._last_time is not None and time <= self._last_time:
        raise ValueError(f'time {time} is not after {self._last_time}')
      if duration < 0:
        raise ValueError(f'duration {duration} is negative')
      self._sink.write(pixels, time, duration)
    self._last_time = time
    self._num_frames += 1

  def __exit__(self, kind: type | None, *_: object) -> None:
    try:
      with _media_errors('write', self._path):
        if kind is not None:
          self._sink.abandon()
          return
        if not self._num_frames:
          self._sink.abandon()
          raise ValueError('there are no frames')
        self._sink.finish()
        os.replace(self._temporary, self._path)
    finally:
      if self._is_folder:
        shutil.rmtree(self._temporary, ignore_errors=True)
      else:
        self._temporary.unlink(missing_ok=True)


# Reading.


class _VideoFile:
  """Decodes a file; what `VideoReader` adds is the choice of frames."""

  def __init__(self, path: str | os.PathLike[str], raw: RawFormat | None):
    self._path = path
    self._raw = raw
    if raw is None and _is_picture(path):
      raise ValueError('it is a picture, not a video')
    with _open_container(path, raw) as (container, stream):
      try:
        frame = next(_decode(container, stream), None)
      except (av.error.FFmpegError, ValueError) as error:
        raise ValueError(f'frame 0 is damaged: {_reason(error)}') from error
      if frame is None:
        raise ValueError('it has no frames')
      rate = _positive(stream.average_rate) or _positive(stream.guessed_rate)
      # Elementary streams have no times.
      self._has_times = frame.pts is not None
      if not self._has_times:
        rate = rate or _DEFAULT_RATE
      time_base = _positive(stream.time_base) if self._has_times else 1 / rate
      self._coded = frame.width, frame.height
      self._turn = _orientation(frame)
      width, height = self._coded[::-1] if self._turn[0] else self._coded
      aspect = _positive(stream.sample_aspect_ratio) or Fraction(1)
      is_rgb = _is_rgb(frame.format)
      self.format = VideoFormat(
          width=width,
          height=height,
          time_base=time_base,
          frame_rate=rate,
          primaries=int(frame.color_primaries),
          transfer=int(frame.color_trc),
          matrix=_RGB_MATRIX if is_rgb else int(frame.colorspace),
          full_range=_is_full_range(frame),
          pixel_aspect=1 / aspect if self._turn[0] else aspect,
      )
      if not is_rgb:
        _rgb_from_yuv(_guessed_matrix(self.format))  # refuses unknown ones
      self.notes = _notes(container, stream, frame, self._turn, self.format)
      self._end = _declared_end(container, stream)

  def frames(self, start: int) -> Generator[Frame | None]:
    """Gives None for each frame before `start`, then frames."""
    with _open_container(self._path, self._raw) as (container, stream):
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
        pixels = _turned(_to_rgb(frame, self.format), self._turn)
        yield Frame(pixels=pixels, time=time, duration=duration)

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
          f'frame {num_frames} is damaged: {_reason(failure)}'
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


class _PictureFolder:
  """A folder of pictures as a video."""

  def __init__(self, folder: pathlib.Path, frame_rate: Fraction):
    suffixes = Image.registered_extensions()
    self._paths = sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in suffixes
            and not path.name.startswith('.')
            and path.is_file()
        ),
        key=_natural_key,
    )
    if not self._paths:
      raise ValueError('the folder has no pictures')
    first = media.read_picture(self._paths[0])
    height, width, channels = first.pixels.shape
    self.notes = [*first.notes]
    if channels in (2, 4):
      self.notes.append('alpha left out')
    times = folder / _TIMES_FILE
    if times.is_file():
      self.format, self._times = _read_times(times, len(self._paths))
      if (self.format.width, self.format.height) != (width, height):
        raise ValueError(
            f'{_TIMES_FILE} says {self.format.width}x{self.format.height},'
            f' {self._paths[0].name} is {width}x{height}'
        )
      return
    self.format = VideoFormat(
        width=width,
        height=height,
        time_base=1 / frame_rate,
        frame_rate=frame_rate,
        matrix=_RGB_MATRIX,
        full_range=True,
    )
    self._times = [(time, 1) for time in range(len(self._paths))]

  def frames(self, start: int) -> Generator[Frame | None]:
    """Gives None for each frame before `start`, then frames."""
    shape = self.format.height, self.format.width
    for frame_idx, (path, times) in enumerate(zip(self._paths, self._times)):
      if frame_idx < start:
        yield None
        continue
      pixels = media.read_picture(path).pixels
      if pixels.shape[:2] != shape:
        raise ValueError(
            f'the size changes from {shape[1]}x{shape[0]} to'
            f' {pixels.shape[1]}x{pixels.shape[0]} at {path.name}'
        )
      if pixels.shape[2] < 3:
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
      yield Frame(
          pixels=np.ascontiguousarray(pixels[..., :3]),
          time=times[0],
          duration=times[1],
      )


@contextlib.contextmanager
def _open_container(
    path: str | os.PathLike[str], raw: RawFormat | None
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
  """Opens a file and chooses its video stream."""
  _require_av()
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


def _require_av() -> None:
  """Raises an error that names PyAV if it is missing; the lazy one does not."""
  importlib.import_module('av')


def _decode(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Generator[av.VideoFrame]:
  """Decodes frame by frame; a packet that was cut off is an error."""
  for packet in container.demux(stream):
    if packet.is_corrupt:
      raise ValueError('its data are incomplete')
    yield from packet.decode()


def _is_picture(path: str | os.PathLike[str]) -> bool:
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
    form: VideoFormat,
) -> list[str]:
  """Says what reading changes or leaves out."""
  notes = []
  if (num_videos := len(container.streams.video)) > 1:
    notes.append(f'one of {num_videos} video streams taken')
  if container.streams.audio:
    notes.append('sound left out')
  if any(turn):
    notes.append('rotation applied')
  if _has_alpha(frame.format) or stream.metadata.get('alpha_mode') == '1':
    notes.append('alpha left out')
  if frame.interlaced_frame:
    notes.append('interlaced frames taken as they are')
  if form.pixel_aspect != 1:
    notes.append(f'pixels are not square ({form.pixel_aspect})')
  if form.transfer in _HDR_TRANSFERS:
    notes.append(f'{_HDR_TRANSFERS[form.transfer]} values taken as they are')
  return notes


# Sizes and orientation.


def _shrunk_format(
    form: VideoFormat, size: tuple[int, int] | None
) -> VideoFormat:
  """The format after shrinking to a size."""
  if size is None:
    return form
  width, height = size
  if not (0 < width <= form.width and 0 < height <= form.height):
    raise ValueError(
        f'size {width}x{height} is not within 1x1 and the'
        f' {form.width}x{form.height} of the video'
    )
  aspect = form.pixel_aspect
  if aspect != 1:
    # So that the shape on screen stays; square pixels stay square, or rounding
    # 1280x720 to 320x181 would give odd ones.
    aspect *= Fraction(form.width * height, form.height * width)
  return dataclasses.replace(
      form, width=width, height=height, pixel_aspect=aspect
  )


def _shrink(
    pixels: Float[np.ndarray, 'h w 3'], size: tuple[int, int]
) -> Float[np.ndarray, 'h2 w2 3']:
  """Shrinks by Lanczos; its overshoots are clipped."""
  if pixels.shape[1::-1] == size:
    return pixels
  channels = [
      np.asarray(
          Image.fromarray(np.ascontiguousarray(pixels[..., channel])).resize(
              size, Image.Resampling.LANCZOS
          )
      )
      for channel in range(3)
  ]
  return np.clip(np.stack(channels, axis=2), 0, 1)


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


# Colors.


def _is_rgb(pixel_format: av.VideoFormat) -> bool:
  return pixel_format.is_rgb or pixel_format.has_palette


def _is_gray(pixel_format: av.VideoFormat) -> bool:
  colors = [c for c in pixel_format.components if not c.is_alpha]
  return len(colors) == 1 and not _is_rgb(pixel_format)


def _has_alpha(pixel_format: av.VideoFormat) -> bool:
  return any(c.is_alpha for c in pixel_format.components)


def _is_full_range(frame: av.VideoFrame) -> bool:
  if frame.color_range:
    return frame.color_range == _FULL_RANGE or _is_rgb(frame.format)
  return (
      frame.format.name.startswith('yuvj')
      or _is_rgb(frame.format)
      or _is_gray(frame.format)
  )


def _guessed_matrix(form: VideoFormat) -> int:
  """The matrix to compute with."""
  if form.matrix not in (_RGB_MATRIX, UNSPECIFIED, 3):
    return form.matrix
  long, short = sorted((form.width, form.height), reverse=True)
  return 1 if long >= 1280 or short > 576 else 6


def _rgb_from_yuv(matrix: int) -> Float[np.ndarray, '3 3']:
  """RGB in [0, 1] from luma in [0, 1] and chroma in [-0.5, 0.5]."""
  if matrix == _YCGCO_MATRIX:
    return np.array([[1, -1, 1], [1, 1, 0], [1, -1, -1]], np.float32)
  if matrix not in _LUMA_WEIGHTS:
    raise ValueError(f'color matrix {matrix} is not supported')
  red, blue = _LUMA_WEIGHTS[matrix]
  green = 1 - red - blue
  u, v = 2 * (1 - blue), 2 * (1 - red)
  return np.array(
      [[1, 0, v], [1, -u * blue / green, -v * red / green], [1, u, 0]],
      np.float32,
  )


def _plane(frame: av.VideoFrame, plane_idx: int, dtype: str) -> np.ndarray:
  """One plane of a frame, as stored."""
  plane = frame.planes[plane_idx]
  rows = np.frombuffer(plane, dtype).reshape(plane.height, -1)
  return rows[:, : plane.width]


def _to_rgb(
    frame: av.VideoFrame, form: VideoFormat
) -> Float[np.ndarray, 'h w 3']:
  """Turns a decoded frame of any pixel format into RGB in [0, 1]."""
  depth = max(c.bits for c in frame.format.components)
  if _is_rgb(frame.format):
    # At 8 bits only bytes change places; FFmpeg's way from 8 to 16 is not
    # exact.
    name, white = ('rgb24', 255) if depth <= 8 else ('rgb48le', 65535)
    values = frame.to_ndarray(format=name)
    return np.divide(values, np.float32(white), dtype=np.float32)
  if _is_gray(frame.format):
    name, dtype = ('gray', 'u1') if depth <= 8 else ('gray16le', '<u2')
    frame = _same_range(frame, name, _FULL_RANGE)
    values = _plane(frame, 0, dtype)
    luma = np.divide(values, np.float32(np.iinfo(dtype).max), dtype=np.float32)
    if not form.full_range:
      codes = luma * np.float32(255 if depth <= 8 else 256 - 2.0 ** (8 - depth))
      luma = np.clip((codes - 16) / 219, 0, 1)
    return np.repeat(luma[..., None], 3, axis=2)
  if frame.format.name.startswith('yuvj'):
    # Under its own name FFmpeg would squeeze it into the limited range.
    plain = frame.format.name.replace('yuvj', 'yuv')
    frame = _same_range(frame, plain, _FULL_RANGE)
  frame = _same_range(frame, 'yuv444p16le', _LIMITED_RANGE)
  # FFmpeg has shifted all codes up to 16 bits.
  if form.full_range:
    black, luma_scale, chroma_scale = 0, *[65536 - 2.0 ** (16 - depth)] * 2
  else:
    black, luma_scale, chroma_scale = 16 * 256, 219 * 256, 224 * 256
  scales = (luma_scale, chroma_scale, chroma_scale)
  yuv = np.empty((3, frame.height, frame.width), np.float32)
  for plane_idx, (zero, scale) in enumerate(zip((black, 32768, 32768), scales)):
    yuv[plane_idx] = _plane(frame, plane_idx, '<u2')
    yuv[plane_idx] -= zero
    yuv[plane_idx] /= scale
  matrix = _rgb_from_yuv(_guessed_matrix(form))
  # Not a BLAS product: on a busy machine those took 60 times as long.
  rgb = np.einsum('chw,kc->hwk', yuv, matrix)
  return np.clip(rgb, 0, 1, out=rgb)


def _to_yuv(
    pixels: UInt8[np.ndarray, 'h w 3'], matrix: int, full_range: bool
) -> UInt8[np.ndarray, '3 h w']:
  """Turns RGB into 8-bit codes, chroma at full resolution."""
  inverse = np.linalg.inv(_rgb_from_yuv(matrix).astype(np.float64))
  inverse = (inverse / 255).astype(np.float32)
  yuv = np.einsum('hwc,kc->khw', pixels.astype(np.float32), inverse)
  if full_range:
    yuv *= 255
    yuv[1:] += 128
  else:
    yuv[0] = yuv[0] * 219 + 16
    yuv[1:] = yuv[1:] * 224 + 128
  return np.clip(np.rint(yuv), 0, 255).astype(np.uint8)


def _same_range(
    frame: av.VideoFrame, pixel_format: str, color_range: int
) -> av.VideoFrame:
  """Changes the layout of the samples, and nothing about what they mean."""
  kinds = av.video.reformatter.Interpolation
  return frame.reformat(
      format=pixel_format,
      src_color_range=color_range,
      dst_color_range=color_range,
      # The same on every machine.
      interpolation=kinds.BICUBIC | kinds.ACCURATE_RND | kinds.BITEXACT,
  )


# Writing.


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Encoding:
  """How a video is written.

  Attributes:
    container: FFmpeg's name.
    codec: FFmpeg's name.
    pixel_format: for even sizes.
    odd_format: for odd sizes.
    options: of the codec.
  """

  container: str
  codec: str
  pixel_format: str
  odd_format: str
  options: dict[str, str]


_ENCODINGS = {
    # Without B-frames the times of the file are exact whoever reads them. At
    # 480p this preset takes a third of the default's time (23 for 68 ms) and
    # spends half as many bits again, at 0.6 dB more.
    '.mp4': _Encoding(
        container='mp4',
        codec='libx264',
        pixel_format='yuv420p',
        odd_format='yuv444p',
        options={'preset': 'superfast', 'crf': '8', 'bf': '0'},
    ),
    '.mkv': _Encoding(
        container='matroska',
        codec='ffv1',
        pixel_format='bgr0',
        odd_format='bgr0',
        options={},
    ),
    '.webm': _Encoding(
        container='webm',
        codec='libvpx-vp9',
        pixel_format='yuv420p',
        odd_format='yuv420p',
        options={'crf': '12', 'b': '0', 'cpu-used': '4', 'row-mt': '1'},
    ),
    '.y4m': _Encoding(
        container='yuv4mpegpipe',
        codec='rawvideo',
        pixel_format='yuv444p',
        odd_format='yuv444p',
        options={},
    ),
}


class _EncodedSink:
  """Encodes frames into a file."""

  def __init__(
      self, path: pathlib.Path, form: VideoFormat, encoding: _Encoding
  ):
    self._form = form
    self._constant = encoding.container == 'yuv4mpegpipe'
    self._is_matroska = encoding.container in ('matroska', 'webm')
    self._first_time: int | None = None
    self._milliseconds = -1
    self._num_frames = 0
    if self._constant and form.frame_rate is None:
      raise ValueError('y4m needs a frame rate')
    rate = form.frame_rate or _DEFAULT_RATE
    self._time_base = 1 / rate if self._constant else form.time_base
    is_odd = form.width % 2 or form.height % 2
    self._pixel_format = (
        encoding.odd_format if is_odd else encoding.pixel_format
    )
    self._is_rgb = not self._pixel_format.startswith('yuv')
    # Without a tag for it, readers will guess the matrix of y4m.
    untagged = dataclasses.replace(form, matrix=UNSPECIFIED)
    self._matrix = _guessed_matrix(untagged if self._constant else form)
    self._full_range = form.full_range and form.matrix != _RGB_MATRIX
    options = {}
    if encoding.container == 'mp4':
      # Or the start is rounded to milliseconds.
      options['movie_timescale'] = str(form.time_base.denominator)
    _require_av()
    self._file = open(path, 'xb')
    try:
      self._container = av.open(
          self._file, 'w', format=encoding.container, options=options
      )
      stream = self._container.add_stream(
          encoding.codec, rate=rate, options=encoding.options
      )
      stream.width, stream.height = form.width, form.height
      stream.pix_fmt = self._pixel_format
      stream.time_base = self._time_base
      codec = stream.codec_context
      codec.time_base = self._time_base
      codec.sample_aspect_ratio = form.pixel_aspect
      codec.color_primaries = form.primaries
      codec.color_trc = form.transfer
      if self._is_rgb:
        codec.colorspace = _RGB_MATRIX
      else:
        # What is unspecified or RGB will be guessed by readers as it is here.
        is_tagged = form.matrix == self._matrix
        codec.colorspace = form.matrix if is_tagged else UNSPECIFIED
        codec.color_range = _FULL_RANGE if self._full_range else _LIMITED_RANGE
      self._stream = stream
    except BaseException:
      self._file.close()
      raise
    self._durations: dict[int, int] = {}

  def write(
      self, pixels: UInt8[np.ndarray, 'h w 3'], time: int, duration: int
  ) -> None:
    """Encodes the next frame."""
    if self._constant:
      time, duration = self._tick(time), 1
    else:
      time = self._shown_time(time)
    if self._is_rgb:
      frame = av.VideoFrame.from_ndarray(pixels, format='rgb24')
      frame = frame.reformat(format=self._pixel_format)
    else:
      planes = _to_yuv(pixels, self._matrix, self._full_range)
      frame = av.VideoFrame(self._form.width, self._form.height, 'yuv444p')
      for plane, values in zip(frame.planes, planes):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = values
        plane.update(rows)
      frame = _same_range(frame, self._pixel_format, _LIMITED_RANGE)
      if self._full_range:
        frame.color_range = _FULL_RANGE
    frame.pts, frame.time_base, frame.duration = time, self._time_base, duration
    self._durations[time] = duration
    self._mux(self._stream.encode(frame))
    self._num_frames += 1

  def finish(self) -> None:
    """Completes the file."""
    try:
      self._mux(self._stream.encode(None))
      self._container.close()
    finally:
      self._file.close()

  def abandon(self) -> None:
    """Closes the file, whose content is of no use."""
    try:
      with contextlib.suppress(Exception):
        self._container.close()
    finally:
      self._file.close()

  def _shown_time(self, time: int) -> int:
    """Times from zero on: players drop what comes before."""
    if self._first_time is None:
      self._first_time = min(0, time)
    if self._is_matroska:
      milliseconds = round(1000 * (time - self._first_time) * self._time_base)
      if milliseconds <= self._milliseconds:
        raise ValueError(
            f'frame {self._num_frames} is less than a millisecond after the'
            ' one before, which Matroska cannot tell apart'
        )
      self._milliseconds = milliseconds
    return time - self._first_time

  def _tick(self, time: int) -> int:
    """The number of the frame, at a constant rate to within a tick."""
    if self._first_time is None:
      self._first_time = time
    exact = self._num_frames * self._time_base / self._form.time_base
    if abs(time - self._first_time - exact) > 1:
      raise ValueError(
          f'y4m needs a constant frame rate: frame {self._num_frames} is at'
          f' {time}, not {float(self._first_time + exact):g}'
      )
    return self._num_frames

  def _mux(self, packets: list[av.Packet]) -> None:
    for packet in packets:
      time = packet.pts * _positive(packet.time_base) / self._time_base
      # Encoders guess durations; and no codec here needs another order.
      packet.pts = packet.dts = round(time)
      packet.time_base = self._time_base
      packet.duration = self._durations.pop(packet.pts)
      self._container.mux(packet)


class _PictureSink:
  """Writes frames as pictures, and their times."""

  def __init__(self, folder: pathlib.Path, form: VideoFormat):
    self._folder = folder
    self._form = form
    self._times: list[tuple[int, int]] = []
    folder.mkdir()

  def write(
      self, pixels: UInt8[np.ndarray, 'h w 3'], time: int, duration: int
  ) -> None:
    """Writes the next picture."""
    path = self._folder / f'frame_{len(self._times):06d}.png'
    media.write_picture(path, pixels)
    self._times.append((time, duration))

  def finish(self) -> None:
    """Writes the times."""
    record = {
        key: str(value) if isinstance(value, Fraction) else value
        for key, value in dataclasses.asdict(self._form).items()
    }
    record['times'] = [time for time, _ in self._times]
    record['durations'] = [duration for _, duration in self._times]
    text = json.dumps(record, indent=1) + '\n'
    (self._folder / _TIMES_FILE).write_text(text, encoding='utf-8')

  def abandon(self) -> None:
    """Does nothing: the folder is removed as a whole."""


def _read_times(
    path: pathlib.Path, num_frames: int
) -> tuple[VideoFormat, list[tuple[int, int]]]:
  """Reads what `_PictureSink` wrote."""
  try:
    record = json.loads(path.read_text(encoding='utf-8'))
    times = [int(x) for x in record.pop('times')]
    durations = [int(x) for x in record.pop('durations')]
    for key in ('time_base', 'frame_rate', 'pixel_aspect'):
      if record[key] is not None:
        record[key] = Fraction(record[key])
        if record[key] <= 0:
          raise ValueError(f'{key} is not positive')
    form = VideoFormat(**record)
  except (
      ArithmeticError,
      AttributeError,
      KeyError,
      TypeError,
      ValueError,
  ) as e:
    raise ValueError(f'{path.name}: {e}') from e
  if not len(times) == len(durations) == num_frames:
    raise ValueError(
        f'{path.name} lists {len(times)} frames, the folder has {num_frames}'
    )
  if any(late >= soon for late, soon in zip(times, times[1:])):
    raise ValueError(f'{path.name}: the times do not increase')
  return form, list(zip(times, durations))


def _natural_key(path: pathlib.Path) -> list[tuple[int, str]]:
  """Sorts numbers in names by value: 2 before 10."""
  parts = re.split(r'([0-9]+)', path.name)
  return [
      (int(part), part) if part.isdecimal() else (-1, part) for part in parts
  ]


# Errors.


@contextlib.contextmanager
def _media_errors(action: str, path: str | os.PathLike[str]) -> Iterator[None]:
  """Errors in the block become one line that names the file."""
  try:
    yield
  except media.MediaError:
    raise
  except ModuleNotFoundError:
    raise
  except Exception as error:
    line = ' '.join(f'cannot {action} {path}: {_reason(error)}'.split())
    raise media.MediaError(line) from error


def _reason(error: Exception) -> str:
  return getattr(error, 'strerror', None) or str(error) or type(error).__name__
