"""PSNR of the planes of 4:2:0 video, by which video codecs are quoted.

The planes are 8-bit codes of limited range with peak 255, as FFmpeg and the
encoders measure them, by BT.709 whatever the file says. Chroma is the mean of
2 x 2 pixels, so that a codec that halves chroma loses nothing by it. A plane
counts 60 dB at most, as in libvmaf: gray videos have exact chroma.
"""

from jaxtyping import UInt8
import numpy as np

from pgsvc_jax.metrics import metric
from pgsvc_jax.metrics import psnr

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


def _planes_db(image: np.ndarray, reference: np.ndarray) -> list[float]:
  pairs = zip(to_yuv420(image), to_yuv420(reference))
  return [min(_MOST_DB, psnr.psnr_db(*pair)) for pair in pairs]


def y_psnr_db(image: np.ndarray, reference: np.ndarray) -> float:
  """PSNR of luma, decibels; RGB, `[H, W, 3]`, uint8 or in [0, 1]."""
  return _planes_db(image, reference)[0]


def yuv_psnr_db(image: np.ndarray, reference: np.ndarray) -> float:
  """(6 Y + U + V) / 8 of the PSNR of the planes; RGB as for `y_psnr_db`."""
  return float(np.dot((6, 1, 1), _planes_db(image, reference)) / 8)


METRICS = (
    metric.Metric(
        name='y_psnr_db',
        title='Y PSNR',
        unit='dB',
        function=y_psnr_db,
        is_for_pictures=False,
        has_curve=False,
        order=1,
    ),
    metric.Metric(
        name='yuv_psnr_db',
        title='YUV PSNR',
        unit='dB',
        function=yuv_psnr_db,
        is_for_pictures=False,
        order=2,
    ),
)
