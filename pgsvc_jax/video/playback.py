"""The frames of a file, one after the other, in bounded memory.

A picture is one frame.
"""

import bisect
from collections.abc import Iterator
import dataclasses
import fractions
import itertools

from pgsvc_jax import resolution
from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.video import stream_format


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameSplats:
  """A decoded frame.

  Attributes:
    index: in the file, from 0.
    time: when it starts, units of the time base.
    duration: until the next one starts, or the video ends.
    layered: its splats, of the layers that are shown.
  """

  index: int
  time: int
  duration: int
  layered: types.LayeredSplats


def frame_at(reader: stream.StreamReader, position: str) -> int:
  """The index of the frame at a position.

  Args:
    reader: of the file.
    position: the index itself, such as '48', or seconds after the first frame
      starts, such as '2.5s': the frame on show by then.

  Returns:
    The index.

  Raises:
    BitstreamError: the video ends before, or is damaged before.
    ValueError: this is no position.
  """
  try:
    if not position.endswith('s'):
      frame = int(position)
      reader.gop_of_frame(frame)
      return frame
    seconds = fractions.Fraction(position[:-1])
  except bitstream.BitstreamError:
    raise
  except (ValueError, ZeroDivisionError):
    raise ValueError(
        f'{position!r} is no position: a frame, such as 48, or seconds, such as'
        ' 2.5s'
    ) from None
  if seconds < 0:
    raise ValueError(f'{position!r} is before the video starts')
  time = reader.gop(0).start + seconds // reader.header.time_base
  gop = reader.gop(reader.gop_at(time))
  return gop.first_frame + max(0, bisect.bisect(gop.times, time) - 1)


def video_format(
    header: syntax.VideoHeader, height: int, width: int
) -> stream_format.VideoFormat:
  """What a video is decoded to: all that its header says of the source.

  Args:
    header: of the file.
    height: to show it at, pixels.
    width: to show it at, pixels.

  Returns:
    The format, for what writes the frames.
  """
  names = {x.name for x in dataclasses.fields(stream_format.VideoFormat)}
  shape = {'height': height, 'width': width}
  same = {name: getattr(header, name) for name in names - set(shape)}
  return stream_format.VideoFormat(**same, **shape)


def shown_shape(
    reader: stream.StreamReader,
    num_layers: int | None = None,
    first_frame: int = 0,
    scale: float | None = None,
) -> tuple[int, int]:
  """The size to show these `frames` at: one for all of them.

  Of a cut file, later frames may have fewer layers than the first, never more.

  Args:
    reader: of the file, which may be cut.
    num_layers: as in `frames`.
    first_frame: as in `frames`.
    scale: sides over those of the whole frames; None: the size that the highest
      layer of the first frame was fitted at.

  Returns:
    Height and width.

  Raises:
    BitstreamError: as in `frames`.
    ValueError: num_layers or scale is not positive.
  """
  header = reader.header
  if scale is not None:
    return resolution.scaled_shape(header.height, header.width, scale)
  start = reader.gop_of_frame(first_frame) if first_frame else 0
  _, layers = next(reader.playable(num_layers, start))
  return header.native_shapes[layers - 1]


def frames(
    reader: stream.StreamReader,
    *,
    num_layers: int | None = None,
    first_frame: int = 0,
    num_frames: int | None = None,
) -> Iterator[FrameSplats]:
  """Decodes frames in order.

  Decoding starts at the I-frame before the first frame.

  Args:
    reader: of the file, which may be cut.
    num_layers: to decode; None for all that are whole, GOP by GOP.
    first_frame: the first to yield.
    num_frames: how many at most; None for all there are.

  Yields:
    The frames; at least one.

  Raises:
    BitstreamError: what is needed is not there or damaged; the message names
      GOP and layer.
    ValueError: num_layers or num_frames is not positive.
  """
  if num_frames is not None and num_frames < 1:
    raise ValueError(f'{num_frames=} is not positive')
  start = reader.gop_of_frame(first_frame) if first_frame else 0
  every = itertools.chain.from_iterable(
      _gop_frames(reader, gop.index, layers)
      for gop, layers in reader.playable(num_layers, start)
  )
  skipped = first_frame - reader.gop(start).first_frame
  stop = None if num_frames is None else skipped + num_frames
  yield from itertools.islice(every, skipped, stop)


def _gop_frames(
    reader: stream.StreamReader, index: int, num_layers: int
) -> Iterator[FrameSplats]:
  gop, header = reader.gop(index), reader.header
  packets = reader.packets(index, num_layers)
  if not reader.is_video:
    layered = bitstream.decode_layers(header, packets)
    yield FrameSplats(index=0, time=0, duration=1, layered=layered)
    return
  from pgsvc_jax.video import frame_coding  # Numba: only where it is needed.

  decoded = frame_coding.decode_gop(
      packets,
      num_frames=gop.num_frames,
      height=header.height,
      width=header.width,
      channels=header.channels,
  )
  timeline = zip(itertools.count(gop.first_frame), gop.times, gop.durations)
  try:
    for (frame, time, duration), layered in zip(timeline, decoded, strict=True):
      layered = dataclasses.replace(
          layered, layer_shapes=header.layer_shapes[:num_layers]
      )
      yield FrameSplats(
          index=frame, time=time, duration=duration, layered=layered
      )
  except bitstream.BitstreamError as error:
    raise bitstream.BitstreamError(f'GOP {index}, {error}') from None
