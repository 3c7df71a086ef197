"""The colors of decoded frames: RGB from what a file stores, and back.

A matrix that is unspecified is guessed as players do: BT.709 where the long
side has 1280 pixels or more or the short one more than 576, BT.601 below. A
range that is unspecified is limited for YUV and full for RGB and gray. Where
chroma lies is as the file or its codec says, and centered where neither does.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from jaxtyping import Float, UInt8
import lazy_loader
import numpy as np

from pgsvc_jax.video import stream_format

# Loaded on first use: what reads pictures does without it.
if TYPE_CHECKING:
  import av
else:
  av = lazy_loader.load('av')

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
FULL_RANGE = 2  # FFmpeg's AVCOL_RANGE_JPEG; limited is 1, unspecified 0.
LIMITED_RANGE = 1
_ANY_TIME_BASE = Fraction(1, 1000)


def is_rgb(pixel_format: av.VideoFormat) -> bool:
  """Whether its samples are red, green and blue, or a palette of them."""
  return pixel_format.is_rgb or pixel_format.has_palette


def is_gray(pixel_format: av.VideoFormat) -> bool:
  """Whether it has luma alone, but for alpha."""
  colors = [c for c in pixel_format.components if not c.is_alpha]
  return len(colors) == 1 and not is_rgb(pixel_format)


def has_alpha(pixel_format: av.VideoFormat) -> bool:
  """Whether it has alpha."""
  return any(c.is_alpha for c in pixel_format.components)


def is_full_range(frame: av.VideoFrame) -> bool:
  """Whether the codes use their full range, as said or guessed."""
  if frame.color_range:
    return frame.color_range == FULL_RANGE or is_rgb(frame.format)
  return (
      frame.format.name.startswith('yuvj')
      or is_rgb(frame.format)
      or is_gray(frame.format)
  )


def guessed_matrix(form: stream_format.VideoFormat) -> int:
  """The matrix to compute with: as said, or guessed from the size."""
  if form.matrix not in (
      stream_format.RGB_MATRIX,
      stream_format.UNSPECIFIED,
      3,
  ):
    return form.matrix
  long, short = sorted((form.width, form.height), reverse=True)
  return 1 if long >= 1280 or short > 576 else 6


def rgb_from_yuv(matrix: int) -> Float[np.ndarray, '3 3']:
  """RGB in [0, 1] from luma in [0, 1] and chroma in [-0.5, 0.5].

  Args:
    matrix: code point, as `guessed_matrix` gives it.

  Returns:
    What (Y, U, V) is multiplied by.

  Raises:
    ValueError: the matrix is none that is known.

  Example:
    >>> rgb_from_yuv(8) @ [0.5, 0.25, 0.25]
    array([0.5 , 0.75, 0.  ])
  """
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


class Converter:
  """Turns decoded frames of any pixel format into RGB.

  Args:
    form: of their video; the matrix and the range count.
  """

  def __init__(self, form: stream_format.VideoFormat):
    self._form = form
    self._scaler = Scaler('yuv444p16le')

  def to_rgb(self, frame: av.VideoFrame) -> Float[np.ndarray, 'h w 3']:
    """Turns a frame into RGB in [0, 1].

    Args:
      frame: as decoded; its tags may be changed.

    Returns:
      RGB; samples at lower resolution are interpolated.
    """
    depth = max(c.bits for c in frame.format.components)
    # The layout of the samples is changed, not what they mean; and of what
    # they mean FFmpeg does not know all.
    frame.colorspace = stream_format.UNSPECIFIED
    if is_rgb(frame.format):
      # At 8 bits only bytes change places; FFmpeg's way from 8 to 16 is not
      # exact.
      name, white = ('rgb24', 255) if depth <= 8 else ('rgb48le', 65535)
      values = frame.to_ndarray(format=name)
      return np.divide(values, np.float32(white), dtype=np.float32)
    if is_gray(frame.format):
      return self._gray_to_rgb(frame, depth)
    if frame.format.name.startswith('yuvj'):
      # Under its own name FFmpeg would squeeze it into the limited range.
      plain = frame.format.name.replace('yuvj', 'yuv')
      frame = same_range(frame, plain, FULL_RANGE)
    frame = self._scaler.scale(frame)
    # FFmpeg has shifted all codes up to 16 bits.
    if self._form.full_range:
      black, luma_scale, chroma_scale = 0, *[65536 - 2.0 ** (16 - depth)] * 2
    else:
      black, luma_scale, chroma_scale = 16 * 256, 219 * 256, 224 * 256
    yuv = np.empty((3, frame.height, frame.width), np.float32)
    zeros, scales = (black, 32768, 32768), (luma_scale, *[chroma_scale] * 2)
    for plane_idx, (zero, scale) in enumerate(zip(zeros, scales)):
      yuv[plane_idx] = _plane(frame, plane_idx, '<u2')
      yuv[plane_idx] -= zero
      yuv[plane_idx] /= scale
    matrix = rgb_from_yuv(guessed_matrix(self._form))
    # Not a BLAS product: on a busy machine those took 60 times as long.
    rgb = np.einsum('chw,kc->hwk', yuv, matrix)
    return np.clip(rgb, 0, 1, out=rgb)

  def _gray_to_rgb(
      self, frame: av.VideoFrame, depth: int
  ) -> Float[np.ndarray, 'h w 3']:
    name, dtype = ('gray', 'u1') if depth <= 8 else ('gray16le', '<u2')
    frame = same_range(frame, name, FULL_RANGE)
    values = _plane(frame, 0, dtype)
    luma = np.divide(values, np.float32(np.iinfo(dtype).max), dtype=np.float32)
    if not self._form.full_range:
      codes = luma * np.float32(255 if depth <= 8 else 256 - 2.0 ** (8 - depth))
      luma = np.clip((codes - 16) / 219, 0, 1)
    return np.repeat(luma[..., None], 3, axis=2)


class Scaler:
  """Changes the layout of samples in YUV; knows where chroma lies.

  Unlike PyAV's `reformat`, FFmpeg's filter heeds the tag of each frame.

  Args:
    pixel_format: to change to.
    options: further ones of FFmpeg's filter `scale`.
  """

  def __init__(self, pixel_format: str, **options: str):
    self._pixel_format = pixel_format
    self._options = options
    self._key: tuple[str, int, int] | None = None

  def scale(self, frame: av.VideoFrame) -> av.VideoFrame:
    """Returns a frame in the other layout."""
    key = frame.format.name, frame.width, frame.height
    frame.color_range = LIMITED_RANGE
    if key != self._key:
      self._graph = av.filter.Graph()
      source = self._graph.add_buffer(
          width=frame.width,
          height=frame.height,
          format=frame.format,
          time_base=_ANY_TIME_BASE,
      )
      # The same on every machine.
      scale = self._graph.add(
          'scale',
          flags='bicubic+accurate_rnd+bitexact',
          in_range='limited',
          out_range='limited',
          **self._options,
      )
      wanted = self._graph.add('format', self._pixel_format)
      sink = self._graph.add('buffersink')
      self._graph.link_nodes(source, scale, wanted, sink).configure()
      self._key = key
    self._graph.vpush(frame)
    return self._graph.vpull()


def to_yuv(
    pixels: UInt8[np.ndarray, 'h w 3'], matrix: int, full_range: bool
) -> UInt8[np.ndarray, '3 h w']:
  """Turns RGB into 8-bit codes, chroma at full resolution.

  Args:
    pixels: RGB.
    matrix: code point, as `guessed_matrix` gives it.
    full_range: whether the codes use their full range.

  Returns:
    Planes Y, U, V.

  Example:
    >>> to_yuv(np.full((1, 1, 3), 255, np.uint8), 1, full_range=False).ravel()
    array([235, 128, 128], dtype=uint8)
  """
  inverse = np.linalg.inv(rgb_from_yuv(matrix).astype(np.float64))
  inverse = (inverse / 255).astype(np.float32)
  yuv = np.einsum('hwc,kc->khw', pixels.astype(np.float32), inverse)
  if full_range:
    yuv *= 255
    yuv[1:] += 128
  else:
    yuv[0] = yuv[0] * 219 + 16
    yuv[1:] = yuv[1:] * 224 + 128
  return np.clip(np.rint(yuv), 0, 255).astype(np.uint8)


def same_range(
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
