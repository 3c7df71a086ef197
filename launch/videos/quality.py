"""The frames of a video, prefix by prefix, beside their originals."""

from collections.abc import Iterator, Sequence
import dataclasses
from fractions import Fraction
import itertools
import statistics
import time
from typing import NamedTuple

from jaxtyping import Float, UInt8
import numpy as np

from pgsvc_jax import render
from pgsvc_jax import resolution
from pgsvc_jax.codec import stream
from pgsvc_jax.video import playback
from pgsvc_jax.video import stream_format

from . import source as video_source


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
  """A frame, its prefixes and its original.

  Attributes:
    index: of the frame in the file, from 0.
    time: when it starts, units of the file's time base.
    duration: until the next one starts, or the video ends.
    original: RGB in [0, 1].
    images: of each prefix, from the base up, at the size it was fitted at; RGB.
    targets: the original at these sizes.
    splats: of each prefix.
    entropy_ms: of entropy decoding, for each prefix by itself.
    render_ms: of rendering, for each prefix by itself.
  """

  index: int
  time: int
  duration: int
  original: Float[np.ndarray, 'h w 3']
  images: list[UInt8[np.ndarray, '_ _ 3']]
  targets: list[Float[np.ndarray, '_ _ 3']]
  splats: list[int]
  entropy_ms: list[float]
  render_ms: list[float]

  def without_pixels(self) -> 'Comparison':
    """The rest, to be kept."""
    return dataclasses.replace(
        self, original=np.empty((0, 0, 3)), images=[], targets=[]
    )


def summary(rows: Sequence[dict]) -> dict:
  """Means over frames; of a figure that a frame lacks, None.

  Returns:
    The means, and `per_frame`: lists of the figures.
  """
  columns = {name: [row[name] for row in rows] for name in rows[0]}
  means = {
      name: None if None in values else statistics.fmean(values)
      for name, values in columns.items()
  }
  return means | {'per_frame': columns}


def originals(
    source: video_source.Source, times: Sequence[Fraction]
) -> Iterator[Float[np.ndarray, 'h w 3']]:
  """The frames that start at these times.

  Args:
    source: of the originals.
    times: in seconds, increasing.

  Yields:
    Their pixels.

  Raises:
    ValueError: there is no frame at one of the times.
  """
  with source.open() as video:
    base = video.format.time_base
    frames = iter(video)
    for index, wanted in enumerate(times):
      for frame in frames:
        if frame.time * base >= wanted:
          break
      else:
        raise ValueError(
            f'{source.path} ends before frame {index} of the file, at'
            f' {float(wanted):.3f} s; --start and --frames must be those of'
            ' encode'
        )
      if frame.time * base != wanted:
        raise ValueError(
            f'{source.path} has no frame at {float(wanted):.3f} s, as frame'
            f' {index} of the file is; --start must be that of encode'
        )
      yield frame.pixels


def check_size(
    form: stream_format.VideoFormat, path: str, width: int, height: int
) -> None:
  """Refuses originals of another size than the file.

  Raises:
    ValueError: the sizes differ.
  """
  if (form.width, form.height) != (width, height):
    raise ValueError(
        f'{path} is {form.width}x{form.height}, the file {width}x{height};'
        f' shrink it as encode did, by --size={width}x{height}'
    )


def frame_times(reader: stream.StreamReader) -> list[int]:
  """When the frames start of all GOPs that have at least a base layer."""
  return [time for gop, _ in reader.playable(1) for time in gop.times]


def num_layers(reader: stream.StreamReader) -> int:
  """Layers that all GOPs with at least a base layer have."""
  return min(layers for _, layers in reader.playable())


class _Drawn(NamedTuple):
  """A frame of one prefix, and what it took."""

  frame: playback.FrameSplats
  image: UInt8[np.ndarray, 'h w 3']
  entropy_ms: float
  render_ms: float


def _draw(frames: Iterator[playback.FrameSplats]) -> _Drawn:
  """Decodes and renders the next frame."""
  begin = time.perf_counter()
  frame = next(frames)
  decoded = time.perf_counter()
  image = render.render_picture(render.at_native_size(frame.layered))
  end = time.perf_counter()
  return _Drawn(frame, image, 1e3 * (decoded - begin), 1e3 * (end - decoded))


def compare(
    reader: stream.StreamReader, source: video_source.Source
) -> Iterator[Comparison]:
  """Decodes every prefix by itself, in step with the originals.

  A few frames are held at a time.

  Args:
    reader: of the file.
    source: of the originals.

  Yields:
    The frames.

  Raises:
    BitstreamError: the file is damaged.
    ValueError: a frame has no original.
  """
  base = reader.header.time_base
  times = [time * base for time in frame_times(reader)]
  streams = [
      playback.frames(reader, num_layers=k + 1)
      for k in range(num_layers(reader))
  ]
  for original in originals(source, times):
    drawn = [_draw(stream) for stream in streams]
    first = drawn[0].frame
    shapes = reader.header.native_shapes[: len(drawn)]
    sizes = {x: resolution.downsample(original, *x) for x in set(shapes)}
    yield Comparison(
        index=first.index,
        time=first.time,
        duration=first.duration,
        original=original,
        images=[x.image for x in drawn],
        targets=[sizes[shape] for shape in shapes],
        splats=[sum(x.frame.layered.layer_sizes) for x in drawn],
        entropy_ms=[x.entropy_ms for x in drawn],
        render_ms=[x.render_ms for x in drawn],
    )


def frame_bytes(reader: stream.StreamReader, layer: int) -> Iterator[int]:
  """Bytes of each frame in the packets of a layer.

  The head of a packet counts for its first frame.
  """
  from pgsvc_jax.video import frame_coding  # Numba: only where it is needed.

  for gop, _ in reader.playable(1):
    packet = reader.packet(gop.index, layer)
    sizes = frame_coding.frame_sizes(packet, gop.num_frames)
    yield len(packet) - sum(sizes[1:])
    yield from sizes[1:]


def prefix_bytes(reader: stream.StreamReader) -> list[list[int]]:
  """Bytes of each frame in every prefix, from the base up."""
  layers = [list(frame_bytes(reader, k)) for k in range(num_layers(reader))]
  return [
      [sum(sizes) for sizes in zip(*prefix)]
      for prefix in itertools.accumulate(([x] for x in layers), list.__add__)
  ]
