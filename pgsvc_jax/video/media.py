"""Videos in and out, one frame at a time: files through PyAV, and folders.

Pixels are the RGB values that the file stores: its own matrix and range turn
YUV into RGB. HDR is tone-mapped unless asked otherwise; apart from that, no
transfer function or color space is applied, and the tags come along.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
import contextlib
import dataclasses
from fractions import Fraction
import itertools
import os
import pathlib
import secrets
import shutil
from typing import Literal, Self
import weakref

from jaxtyping import Float, UInt8
import numpy as np
from PIL import Image

from pgsvc_jax import media
from pgsvc_jax import pipes
from pgsvc_jax.video import av_reader
from pgsvc_jax.video import av_writer
from pgsvc_jax.video import frame_folder
from pgsvc_jax.video import stream_format
from pgsvc_jax.video import y4m

# What is taken for granted where nothing is said: BT.601 and 709, sRGB.
_USUAL_TAGS = {1, 2, 5, 6, 13}


# Of files that are videos if they are anything.
SUFFIXES = (
    *('.264', '.265', '.3gp', '.avi', '.flv', '.h264', '.h265', '.hevc'),
    *('.m2ts', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts', '.mxf'),
    *('.ogv', '.ts', '.webm', '.wmv', '.y4m'),
)


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
    path = pipes.seekable(path)
    if not os.path.isfile(path) or av_reader.is_picture(path):
      return False
    with av_reader.open_container(path, None):
      return True
  except (OSError, ValueError):
    return False


def open_video(
    path: str | os.PathLike[str],
    *,
    start: int = 0,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    raw: stream_format.RawFormat | None = None,
    frame_rate: Fraction | int = 24,
    color: Literal['srgb', 'keep'] = 'srgb',
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
    color: srgb tone-maps HDR (PQ, HLG) to BT.709, as FFmpeg's filters do by
      default; keep leaves the values in their own curve.

  Returns:
    The video; it can be iterated several times.

  Raises:
    media.MediaError: the file is missing, no video, damaged or not supported.
    ValueError: an argument makes no sense.

  Example:
    >>> import tempfile
    >>> form = stream_format.VideoFormat(
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
  rate = Fraction(frame_rate)
  with media.errors('read', path):
    if os.path.isdir(path):
      source = frame_folder.FolderReader(pathlib.Path(path), rate)
    else:
      source = av_reader.AvReader(pipes.seekable(path), raw, color)
      source.notes += pipes.note(path)
  return VideoReader(path, source, start, frames, size)


class VideoReader:
  """An open video: its format, and its frames by iteration.

  Each iteration reads the file anew and holds a few decoded frames at a time.
  Leaving the `with` block ends the iterations that are still running.

  Attributes:
    format: size, times and colors; the size is that of the frames given.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = os.path.join(folder, '1.png')
    ...   media.write_picture(path, np.zeros((4, 6, 3), np.uint8))
    ...   with open_video(folder) as video:
    ...     video.format.width, len(list(video))
    (6, 1)
  """

  format: stream_format.VideoFormat

  def __init__(
      self,
      path: str | os.PathLike[str],
      source: av_reader.AvReader | frame_folder.FolderReader,
      start: int,
      frames: int | None,
      size: tuple[int, int] | None,
  ):
    self._path = path
    self._start = start
    self._stop = None if frames is None else start + frames
    self._running: weakref.WeakSet[Generator[stream_format.Frame]] = (
        weakref.WeakSet()
    )
    self._source = source
    self.format = _shrunk_format(self._source.format, size)
    # For `frames`: the file, what is being read of it, and where that is.
    self._clip = None
    self._reading: Iterator[stream_format.Frame] = iter(())
    self._next: int | None = None

  @property
  def notes(self) -> tuple[str, ...]:
    """What reading changes or leaves out, for the user.

    Some is known only when all frames were read.
    """
    return tuple(self._source.notes)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    """Closes the file, and ends the iterations that are still running."""
    for frames in tuple(self._running):
      frames.close()
    if self._clip is not None:
      self._clip.close()
      self._clip = None
    self._source.close()

  def __iter__(self) -> Iterator[stream_format.Frame]:
    frames = self._iterate()
    self._running.add(frames)
    return frames

  def _iterate(self) -> Generator[stream_format.Frame]:
    with media.errors('read', self._path):
      clip = self._source.open()
      with contextlib.closing(clip):
        count = None if self._stop is None else self._stop - self._start
        frames = self._source.frames(clip, self._start)
        yield from map(self._shrink, itertools.islice(frames, count))

  def frames(self, start: int, stop: int) -> Iterator[stream_format.Frame]:
    """Reads a range of frames.

    All ranges are read from the file that the first one opened. One that
    begins where the one before has ended costs just its frames; any other also
    those from the key frame before it.

    Args:
      start: of the range, counted from the first frame that iteration gives.
      stop: where it ends, at the latest.

    Yields:
      The frames. Only the range asked for last may be read.

    Raises:
      media.MediaError: there is no frame `start`, or one is damaged.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...   for k in range(5):
      ...     path = os.path.join(folder, f'{k}.png')
      ...     media.write_picture(path, np.full((4, 6, 3), 51, np.uint8))
      ...   with open_video(folder) as video:
      ...     [frame.time for frame in video.frames(2, 4)]
      [2, 3]
    """
    start += self._start
    stop += self._start
    if self._stop is not None:
      stop = min(stop, self._stop)
    with media.errors('read', self._path):
      if start != self._next:
        if self._clip is None:
          self._clip = self._source.open()
        self._reading = self._source.frames(self._clip, start)
      for place in range(start, stop):
        self._next = None
        frame = next(self._reading, None)
        if frame is None:
          return
        self._next = place + 1
        yield self._shrink(frame)

  def _shrink(self, frame: stream_format.Frame) -> stream_format.Frame:
    size = self.format.width, self.format.height
    return dataclasses.replace(frame, pixels=_shrink(frame.pixels, size))


def _shrunk_format(
    form: stream_format.VideoFormat, size: tuple[int, int] | None
) -> stream_format.VideoFormat:
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


def _lost(suffix: str, form: stream_format.VideoFormat) -> tuple[str, ...]:
  """What a kind of file cannot say."""
  notes = []
  if suffix in ('.gif', '.webp') and form.pixel_aspect != 1:
    notes.append(f'{suffix} cannot say that pixels are {form.pixel_aspect}')
  tags = form.primaries, form.transfer
  if suffix in ('.gif', '.webp', '.y4m') and not {*tags} <= _USUAL_TAGS:
    notes.append(
        f'{suffix} cannot say that the color primaries are {tags[0]} and the'
        f' transfer is {tags[1]}'
    )
  return tuple(notes)


class VideoWriter:
  """Writes a video; an existing file is replaced only by a whole new one.

  What is written depends on the suffix:

  - .mp4: H.264 of high quality, 4:2:0 (4:4:4 where a side is odd).
  - .mkv: FFV1, lossless RGB. Matroska rounds times to milliseconds.
  - .webm: VP9 of high quality, 4:2:0. Times as in Matroska.
  - .y4m: uncompressed 4:4:4 YUV, at a constant frame rate only. So is what goes
    to - (standard output) and to pipes.
  - .gif: 256 colors a frame, times rounded to hundredths of a second.
  - .webp: an animation of high quality. Times as in Matroska.
  - none: a folder of PNG files with a list of their times, `times.json`.

  Times come back exactly, except where said; in a file, times below zero are
  moved, all by the same, so that the first is zero. Color tags come back, apart
  from the matrix of what is stored as RGB (.mkv) and from y4m, which knows no
  tag but the range. RGB sources are written as YUV of limited range.

  Args:
    path: the file or folder to write. A folder must be new or empty.
    format: what the video is.

  Attributes:
    notes: what of the format the file cannot say, for the user.

  Raises:
    media.MediaError: the suffix is unknown, a frame does not fit, or the file
      cannot be written.

  Example:
    >>> import tempfile
    >>> form = stream_format.VideoFormat(
    ...     width=6, height=4, time_base=Fraction(1, 24), frame_rate=24
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = os.path.join(folder, 'frames')
    ...   with VideoWriter(path, form) as writer:
    ...     writer.write(np.zeros((4, 6, 3), np.uint8), 0, 1)
    ...   sorted(os.listdir(path))
    ['frame_000000.png', 'times.json']
  """

  def __init__(
      self, path: str | os.PathLike[str], format: stream_format.VideoFormat
  ):
    self._path = pathlib.Path(path)
    self._format = format
    self._num_frames = 0
    self._last_time: int | None = None
    self._stack = contextlib.ExitStack()
    self._is_pipe = pipes.is_pipe(path)
    suffix = '.y4m' if self._is_pipe else self._path.suffix.lower()
    self._suffix = suffix
    with media.errors('write', path):
      self._is_folder = not suffix or self._path.is_dir()
      if self._is_folder:
        if self._path.exists() and (
            not self._path.is_dir() or any(self._path.iterdir())
        ):
          raise ValueError('it exists and is not an empty folder')
      elif suffix not in (*av_writer.ENCODINGS, '.y4m'):
        known = ', '.join((*av_writer.ENCODINGS, '.y4m'))
        raise ValueError(
            f'{suffix!r} is not a video format to write; try {known} or a'
            ' folder (no suffix)'
        )
    self._temporary = self._path.with_name(f'.{secrets.token_hex(8)}.tmp')
    self.notes = _lost(suffix, format)

  def __enter__(self) -> Self:
    with media.errors('write', self._path):
      if self._is_pipe:
        file = self._stack.enter_context(pipes.open_for_writing(self._path))
        self._sink = y4m.Y4mWriter(file, self._format)
        return self
      try:
        if self._is_folder:
          self._sink = frame_folder.FolderWriter(self._temporary, self._format)
        elif self._suffix == '.y4m':
          self._sink = y4m.Y4mWriter(self._temporary, self._format)
        else:
          encoding = av_writer.ENCODINGS[self._suffix]
          self._sink = av_writer.AvWriter(
              self._temporary, self._format, encoding
          )
      except BaseException:
        if not self._is_folder:
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
    with media.errors('write', self._path):
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
      with media.errors('write', self._path):
        if kind is not None:
          self._sink.abandon()
          return
        if not self._num_frames:
          self._sink.abandon()
          raise ValueError('there are no frames')
        self._sink.finish()
        if not self._is_pipe:
          os.replace(self._temporary, self._path)
    finally:
      self._stack.close()
      if self._is_folder:
        shutil.rmtree(self._temporary, ignore_errors=True)
      else:
        self._temporary.unlink(missing_ok=True)
