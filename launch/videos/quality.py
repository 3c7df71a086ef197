"""How close the frames of a video are to their originals, one at a time.

PSNR and MS-SSIM are of RGB at 8 bits, as of pictures. Video codecs are quoted
by the PSNR of their planes. Those here are 4:2:0 in 8-bit codes of limited
range with peak 255, as FFmpeg and the encoders measure them; by BT.709 whatever
the file says; chroma is the mean of 2 x 2 pixels, so that a codec that halves
chroma loses nothing by it. A plane counts 60 dB at most, as in libvmaf: gray
videos have exact chroma. Weighted is (6 Y + U + V) / 8. Means over frames are
of the figures of each frame.
"""

from collections.abc import Iterator, Sequence
import dataclasses
from fractions import Fraction
import itertools
import statistics
import time
from typing import NamedTuple

from jaxtyping import Float, UInt8
import numpy as np

from pgsvc_jax import metrics
from pgsvc_jax import render
from pgsvc_jax import resolution
from pgsvc_jax.codec import stream
from pgsvc_jax.video import playback
from pgsvc_jax.video import stream_format

from . import source as video_source

METRICS = ('psnr_db', 'y_psnr_db', 'yuv_psnr_db', 'ms_ssim')

# Of a plane.
_MOST_DB = 60.0
# Rows: luma, then blue and red differences, from RGB in [0, 1]; ITU-R BT.709.
_YUV = np.array(
    [
        [0.2126, 0.7152, 0.0722],
        [-0.2126 / 1.8556, -0.7152 / 1.8556, 0.9278 / 1.8556],
        [0.7874 / 1.5748, -0.7152 / 1.5748, -0.0722 / 1.5748],
    ],
    np.float32,
)


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


def to_yuv420(pixels: np.ndarray) -> list[UInt8[np.ndarray, '_ _']]:
  """The planes Y, U, V as 8-bit codes of limited range.

  Args:
    pixels: RGB, `[H, W, 3]`, in [0, 1] or uint8. Of odd sides, the last line
      comes twice.

  Returns:
    Luma, of even sides, and chroma of half the size.

  Example:
    >>> [plane.tolist() for plane in to_yuv420(np.ones((2, 2, 3)))]
    [[[235, 235], [235, 235]], [[128]], [[128]]]
  """
  values = np.asarray(pixels, np.float32)
  if pixels.dtype == np.uint8:
    values = values / np.float32(255)
  height, width = values.shape[:2]
  values = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)), 'edge')
  luma, *chroma = np.einsum('hwc,kc->khw', values, _YUV)
  halves = (
      plane.reshape(plane.shape[0] // 2, 2, -1, 2).mean((1, 3))
      for plane in chroma
  )
  codes = [16 + 219 * luma, *(128 + 224 * plane for plane in halves)]
  return [np.rint(plane).astype(np.uint8) for plane in codes]


def yuv420_bytes(pixels: np.ndarray) -> bytes:
  """The frame as raw yuv420p, to be read by other programs."""
  return b''.join(plane.tobytes() for plane in to_yuv420(pixels))


def score(
    image: UInt8[np.ndarray, 'h w 3'], original: Float[np.ndarray, 'h w 3']
) -> dict[str, float | None]:
  """The figures of a frame, by the names in METRICS; identical: no PSNR."""
  planes = [
      min(_MOST_DB, metrics.psnr_db(*pair))
      for pair in zip(to_yuv420(image), to_yuv420(original))
  ]
  decibels = {
      'psnr_db': metrics.psnr_db(image, original),
      'y_psnr_db': planes[0],
      'yuv_psnr_db': float(np.dot((6, 1, 1), planes) / 8),
  }
  # JSON has no infinity.
  finite = {name: x if np.isfinite(x) else None for name, x in decibels.items()}
  return finite | {'ms_ssim': metrics.ms_ssim(image, original)}


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
