"""The front door to files: pictures and frames of a .pgsvc file.

Needs no JAX. Of a video, entropy decoding is a few frames ahead of rendering,
and both are ahead of whoever takes the frames: so each uses its own cores, and
a few frames are held at a time however long the video is.
"""

import collections
from collections.abc import Generator, Iterable, Iterator
import concurrent.futures
import contextlib
import dataclasses
import io
import os
import time
from typing import Any, BinaryIO, TypeVar

from jaxtyping import UInt
import numpy as np

from pgsvc_jax import render
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.video import playback

_T = TypeVar('_T')

# What a file may be handed over as.
Source = bytes | str | os.PathLike[str] | BinaryIO | stream.StreamReader

_PATHS = str, os.PathLike

# Items that a stage has ready: enough for frames that differ in cost.
_DEPTH = 3
# Of the pixels, by bits a sample.
_DTYPES = {8: np.uint8, 16: np.uint16}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DecodedFrame:
  """A frame as it is shown; a picture is one.

  Attributes:
    pixels: gray, gray + alpha, RGB or RGB + alpha.
    index: in the file, from 0.
    time: when it starts, units of the time base of the file; 0 of a picture.
    duration: until the next one starts, or the video ends.
    num_layers: that are shown.
    num_splats: of these.
    seconds: that decoding the splats took, and rendering them.
  """

  pixels: UInt[np.ndarray, 'h w c']
  index: int
  time: int
  duration: int
  num_layers: int
  num_splats: int
  seconds: tuple[float, float]


def decode(
    source: Source,
    num_layers: int | None = None,
    *,
    first_frame: int | str = 0,
    num_frames: int | None = None,
    scale: float | None = None,
    max_pixels: int = 2**27,
    depth: int = 8,
) -> Any:
  """Decodes a .pgsvc file, whole, cut or still being written.

  Args:
    source: the bytes of the file or of a beginning of it, its path, the file
      opened for reading (of a video, only the packets that are needed are
      read), or a `StreamReader`.
    num_layers: layers to show, the base counted; None: all that are whole, of
      each group of pictures.
    first_frame: of a video, the first to yield, such as 48 or '2.5s'; decoding
      starts at the I-frame before it.
    num_frames: of a video, how many at most; None: all there are.
    scale: sides of the result over those of the whole picture; None: the size
      that the highest layer shown was fitted at, one for all frames.
    max_pixels: larger results, and larger frames of a video, are refused: a
      small file can claim them.
    depth: bits a sample: 8 or 16.

  Returns:
    The picture, uint8 or uint16 [h, w, c]: gray, gray + alpha, RGB or RGB +
    alpha. Of a video an iterator of such frames, which are decoded as they are
    asked for.

  Raises:
    BitstreamError: the file is damaged, or what is asked for is not in it.
    ValueError: num_layers, num_frames or scale is not positive, or too many
      pixels.
    TypeError: the source is none of the above.

  Example:
    >>> from pgsvc_jax import types
    >>> from pgsvc_jax.codec import bitstream, quantize
    >>> one = types.Splats(
    ...     means=np.float32([[1.5, 0.5]]),
    ...     cholesky=np.float32([[1, 0, 1]]),
    ...     colors=np.float32([[0.8]]),
    ... )
    >>> layered = types.LayeredSplats(
    ...     splats=one, layer_sizes=(1,), height=1, width=4
    ... )
    >>> data = bitstream.write(layered, quantize.StepSizes(color=8))
    >>> decode(data)[..., 0]
    array([[123, 204, 125,  28]], dtype=uint8)
    >>> decode(data, scale=2).shape
    (2, 8, 1)
  """
  reader, frames = _open(
      *(source, num_layers, first_frame, num_frames, scale, max_pixels, depth)
  )
  pixels = (frame.pixels for frame in frames)
  return pixels if reader.is_video else next(pixels)


def decode_frames(
    source: Source,
    num_layers: int | None = None,
    *,
    first_frame: int | str = 0,
    num_frames: int | None = None,
    scale: float | None = None,
    max_pixels: int = 2**27,
    depth: int = 8,
    side_by_side: bool = True,
) -> Iterator[DecodedFrame]:
  """As `decode`, with the times of the frames; a picture is one frame.

  Args:
    source: as in `decode`, like all that follow.
    num_layers: to show.
    first_frame: the first to yield.
    num_frames: how many at most.
    scale: of the result.
    max_pixels: the most.
    depth: bits a sample.
    side_by_side: decode and render ahead, each in a thread.

  Returns:
    The frames, one after the other.

  Raises:
    BitstreamError: as `decode`, like all others.

  Example:
    >>> import fractions
    >>> from pgsvc_jax import types
    >>> from pgsvc_jax.codec import quantize
    >>> from pgsvc_jax.video import frame_coding
    >>> one = types.Splats(
    ...     means=np.float32([[1.5, 0.5]]),
    ...     cholesky=np.float32([[1, 0, 1]]),
    ...     colors=np.float32([[0.8]]),
    ... )
    >>> layered = types.LayeredSplats(
    ...     splats=one, layer_sizes=(1,), height=1, width=4
    ... )
    >>> file = io.BytesIO()
    >>> header = syntax.VideoHeader(
    ...     width=4, height=1, channels=1, num_layers=1,
    ...     time_base=fractions.Fraction(1, 24))
    >>> steps = quantize.StepSizes(color=8)
    >>> with stream.StreamWriter(file, header) as writer:
    ...   packets = frame_coding.encode_gop([layered], steps)
    ...   writer.add_gop([7], packets, last_duration=1)
    >>> (frame,) = decode_frames(file)
    >>> frame.time, frame.pixels[..., 0]
    (7, array([[123, 204, 125,  28]], dtype=uint8))
  """
  _, frames = _open(
      *(source, num_layers, first_frame, num_frames, scale, max_pixels, depth),
      side_by_side,
  )
  return frames


def decode_region(
    source: Source,
    region: tuple[int, int, int, int],
    num_layers: int | None = None,
    *,
    first_frame: int | str = 0,
    scale: float | None = None,
    max_pixels: int = 2**27,
    depth: int = 8,
) -> DecodedFrame:
  """A part of what `decode` shows, from the splats that reach it alone.

  So a part of a picture that is shown very large costs what the part does.

  Args:
    source: as in `decode`, like all that follow.
    region: left, top, width and height of the part, pixels of the result.
    num_layers: to show.
    first_frame: of a video, the one to show.
    scale: of the whole result.
    max_pixels: the most, of the part and of whole frames of a video.
    depth: bits a sample.

  Returns:
    The part; `num_splats` are those that reach it.

  Raises:
    BitstreamError: as `decode`, like all others.
    ValueError: the region is not inside of the result.

  Example:
    >>> from pgsvc_jax import types
    >>> from pgsvc_jax.codec import bitstream, quantize
    >>> splats = types.Splats(
    ...     means=np.float32([[1.5, 0.5], [90, 0.5]]),
    ...     cholesky=np.float32([[1, 0, 1]] * 2),
    ...     colors=np.float32([[0.8]] * 2),
    ... )
    >>> layered = types.LayeredSplats(
    ...     splats=splats, layer_sizes=(2,), height=1, width=100
    ... )
    >>> data = bitstream.write(layered, quantize.StepSizes(color=8))
    >>> part = decode_region(data, (1, 0, 3, 1))
    >>> part.pixels[..., 0], part.num_splats
    (array([[204, 125,  28]], dtype=uint8), 1)
  """
  if depth not in _DTYPES:
    raise ValueError(f'{depth=} is not 8 or 16')
  name = f'{os.fspath(source)}: ' if isinstance(source, _PATHS) else ''
  with contextlib.ExitStack() as stack, _naming(name):
    reader = _reader(source, stack)
    if isinstance(first_frame, str):
      first_frame = playback.frame_at(reader, first_frame)
    shape = playback.shown_shape(reader, num_layers, first_frame, scale)
    whole = reader.header.height, reader.header.width
    part = region[3], region[2]
    for height, width in (whole, part) if reader.is_video else (part,):
      if height * width > max_pixels:
        raise ValueError(f'{width} x {height} is more than {max_pixels=}')
    begin = time.perf_counter()
    (frame,) = playback.frames(
        reader, num_layers=num_layers, first_frame=first_frame, num_frames=1
    )
  seconds = time.perf_counter() - begin
  layered = render.cropped(render.resized(frame.layered, *shape), region)
  cut = dataclasses.replace(frame, layered=layered)
  shape = layered.height, layered.width
  return next(_draw([(cut, seconds)], shape, _DTYPES[depth]))


def _open(
    source: Source,
    num_layers: int | None,
    first_frame: int | str,
    num_frames: int | None,
    scale: float | None,
    max_pixels: int,
    depth: int,
    side_by_side: bool = True,
) -> tuple[stream.StreamReader, Iterator[DecodedFrame]]:
  """Checks all that can be known at once; the frames follow as asked for."""
  name = ''
  if depth not in _DTYPES:
    raise ValueError(f'{depth=} is not 8 or 16')
  if isinstance(source, _PATHS):
    name = f'{os.fspath(source)}: '
  with contextlib.ExitStack() as stack, _naming(name):
    reader = _reader(source, stack)
    if isinstance(first_frame, str):
      first_frame = playback.frame_at(reader, first_frame)
    shape = playback.shown_shape(reader, num_layers, first_frame, scale)
    # The motion field is that of whole frames, whatever is shown.
    whole = reader.header.height, reader.header.width
    for height, width in (whole, shape) if reader.is_video else (shape,):
      if height * width > max_pixels:
        raise ValueError(f'{width} x {height} is more than {max_pixels=}')
    splats = playback.frames(
        reader,
        num_layers=num_layers,
        first_frame=first_frame,
        num_frames=num_frames,
    )
    run = ahead if side_by_side and reader.is_video else iter
    drawn = run(_draw(run(_timed(splats)), shape, _DTYPES[depth]))
    return reader, _naming_frames(drawn, name, stack.pop_all())


def _reader(source: Source, stack: contextlib.ExitStack) -> stream.StreamReader:
  """Reads the header; the stack closes what was opened."""
  if isinstance(source, stream.StreamReader):
    return source
  if isinstance(source, _PATHS):
    return stream.StreamReader(stack.enter_context(open(source, 'rb')))
  if isinstance(source, bytes | bytearray | memoryview):
    return stream.StreamReader(io.BytesIO(source))
  if not (hasattr(source, 'read') and hasattr(source, 'seek')):
    raise TypeError(
        'a .pgsvc file is decoded from its bytes, its path or the open file,'
        f' not from {type(source).__name__}'
    )
  return stream.StreamReader(source)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
  """What is wrong with a file names it, where it has a name."""
  try:
    yield
  except syntax.BitstreamError as error:
    raise syntax.BitstreamError(f'{name}{error}') from error


def _naming_frames(
    frames: Iterable[DecodedFrame], name: str, files: contextlib.ExitStack
) -> Generator[DecodedFrame]:
  """The same frames; the files are closed when there are no more."""
  with files, _naming(name), contextlib.closing(iter(frames)) as opened:
    yield from opened


def _timed(
    frames: Iterator[playback.FrameSplats],
) -> Generator[tuple[playback.FrameSplats, float]]:
  """Frames, and the seconds that each took."""
  while True:
    begin = time.perf_counter()
    frame = next(frames, None)
    if frame is None:
      return
    yield frame, time.perf_counter() - begin


def _draw(
    frames: Iterable[tuple[playback.FrameSplats, float]],
    shape: tuple[int, int],
    dtype: type,
) -> Generator[DecodedFrame]:
  for frame, seconds in frames:
    begin = time.perf_counter()
    layered = frame.layered
    pixels = render.render_picture(render.resized(layered, *shape), dtype)
    yield DecodedFrame(
        pixels=pixels,
        index=frame.index,
        time=frame.time,
        duration=frame.duration,
        num_layers=len(layered.layer_sizes),
        num_splats=sum(layered.layer_sizes),
        seconds=(seconds, time.perf_counter() - begin),
    )


def ahead(items: Iterable[_T], depth: int = _DEPTH) -> Generator[_T]:
  """The same items, made in a thread, a few before they are asked for.

  An exception in that thread is raised here, after the items before it.
  """
  end: Any = object()
  iterator = iter(items)
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    make = lambda: pool.submit(next, iterator, end)
    waiting = collections.deque(make() for _ in range(depth))
    while (item := waiting.popleft().result()) is not end:
      waiting.append(make())
      yield item
