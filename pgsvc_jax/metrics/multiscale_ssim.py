"""Multi-scale structural similarity."""

import math

from jaxtyping import Float
import numpy as np

from pgsvc_jax.metrics import metric

_RADIUS = 5
_WINDOW = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / 1.5) ** 2)
_WINDOW /= _WINDOW.sum()
_C1 = 0.01**2
_C2 = 0.03**2
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# The window must fit into the fifth scale: 161 -> 81 -> 41 -> 21 -> 11.
_SMALLEST_SIDE = 161


def ms_ssim(image: np.ndarray, reference: np.ndarray) -> float | None:
  """Multi-scale structural similarity (Wang, Simoncelli and Bovik, 2003).

  Follows pytorch-msssim, whose numbers most papers report: mean over channels,
  windows inside the picture only, and sides of odd length get one line of
  zeros in front before they are halved.

  Args:
    image: `[H, W, C]` in [0, 1]; uint8 is divided by 255.
    reference: the same shape; uint8 is divided by 255.

  Returns:
    1 for equal pictures; None if a side is shorter than 161 pixels, too short
    for five scales.

  Raises:
    ValueError: the shapes differ.

  Example:
    >>> ms_ssim(np.ones((161, 200, 3)), np.ones((161, 200, 3)))
    1.0
    >>> ms_ssim(np.ones((160, 200, 3)), np.ones((160, 200, 3))) is None
    True
  """
  image, reference = metric.comparable(image, reference)
  if min(image.shape[:2]) < _SMALLEST_SIDE:
    return None
  channels = [
      _ms_ssim_channel(image[..., c], reference[..., c])
      for c in range(image.shape[2])
  ]
  return float(np.mean(channels))


def _ms_ssim_channel(
    x: Float[np.ndarray, 'h w'], y: Float[np.ndarray, 'h w']
) -> float:
  """Product over the scales of contrast, and at the last of the whole SSIM."""
  product = 1.0
  for weight in _SCALE_WEIGHTS[:-1]:
    _, contrast = _ssim(x, y)
    product *= max(contrast, 0.0) ** weight
    x, y = _halved(x), _halved(y)
  ssim, _ = _ssim(x, y)
  return product * max(ssim, 0.0) ** _SCALE_WEIGHTS[-1]


def _ssim(
    x: Float[np.ndarray, 'h w'], y: Float[np.ndarray, 'h w']
) -> tuple[float, float]:
  """Returns the means of SSIM and of its contrast-structure term."""
  mean_x, mean_y = _blurred(x), _blurred(y)
  square_x, square_y, cross = mean_x**2, mean_y**2, mean_x * mean_y
  # One blur of x^2 + y^2: only the sum of the variances counts.
  variances = _blurred(x**2 + y**2) - square_x - square_y
  covariance = _blurred(x * y) - cross
  contrast = (2 * covariance + _C2) / (variances + _C2)
  luminance = (2 * cross + _C1) / (square_x + square_y + _C1)
  return float(np.mean(luminance * contrast)), float(np.mean(contrast))


def _blurred(x: Float[np.ndarray, 'h w']) -> Float[np.ndarray, 'i j']:
  """Gaussian means over the windows that lie inside the picture."""
  from scipy import ndimage  # Slow to import.

  inside = slice(_RADIUS, -_RADIUS)
  x = ndimage.correlate1d(x, _WINDOW, axis=0)[inside]
  return ndimage.correlate1d(x, _WINDOW, axis=1)[:, inside]


def _halved(x: Float[np.ndarray, 'h w']) -> Float[np.ndarray, 'i j']:
  """Means over 2 x 2 pixels."""
  x = np.pad(x, [(side % 2, 0) for side in x.shape])
  height, width = x.shape
  return x.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))


def in_db(value: float) -> float:
  """MS-SSIM in decibels, -10 log10(1 - x), which spreads the values near 1."""
  return -10 * math.log10(1 - value) if value < 1 else math.inf


METRICS = (
    metric.Metric(
        name='ms_ssim',
        title='MS-SSIM',
        digits=4,
        function=ms_ssim,
        spread=in_db,
        ticks=(
            0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995,
            0.998, 0.999,
        ),
        order=3,
    ),
)  # fmt: skip
