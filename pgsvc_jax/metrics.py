"""How close a picture is to its reference."""

from jaxtyping import Float
import numpy as np
from scipy import ndimage

_RADIUS = 5
_WINDOW = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / 1.5) ** 2)
_WINDOW /= _WINDOW.sum()
_C1 = 0.01**2
_C2 = 0.03**2
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# The window must fit into the fifth scale: 161 -> 81 -> 41 -> 21 -> 11.
_SMALLEST_SIDE = 161


def psnr_db(image: np.ndarray, reference: np.ndarray) -> float:
  """Peak signal-to-noise ratio for values in [0, 1].

  Args:
    image: any shape; uint8 is divided by 255.
    reference: the same shape; uint8 is divided by 255.

  Returns:
    Decibels; infinity for equal pictures.

  Raises:
    ValueError: the shapes differ.

  Example:
    >>> psnr_db(np.full((4, 4, 1), 0.6), np.full((4, 4, 1), 0.5))
    20.0
  """
  _require_same_shape(image, reference)
  # Row by row: in float64, the pictures of a fit would take all its memory.
  rows = zip(np.atleast_1d(image), np.atleast_1d(reference))
  error = sum(np.sum(np.square(np.subtract(*_comparable(*x)))) for x in rows)
  error /= np.size(image)
  return float(-10 * np.log10(error)) if error else float('inf')


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
  _require_same_shape(image, reference)
  image, reference = _comparable(image, reference)
  if min(image.shape[:2]) < _SMALLEST_SIDE:
    return None
  channels = [
      _ms_ssim_channel(image[..., c], reference[..., c])
      for c in range(image.shape[2])
  ]
  return float(np.mean(channels))


def _require_same_shape(image: np.ndarray, reference: np.ndarray) -> None:
  if np.shape(image) != np.shape(reference):
    raise ValueError(
        f'shapes differ: {np.shape(image)} and {np.shape(reference)}'
    )


def _comparable(
    image: np.ndarray, reference: np.ndarray
) -> tuple[Float[np.ndarray, '...'], Float[np.ndarray, '...']]:
  """Returns both as float64 in [0, 1], which E[x^2] - E[x]^2 needs."""
  pair = (np.asarray(image), np.asarray(reference))
  x, y = (
      np.divide(v, 255 if v.dtype == np.uint8 else 1, dtype=np.float64)
      for v in pair
  )
  return x, y


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
  inside = slice(_RADIUS, -_RADIUS)
  x = ndimage.correlate1d(x, _WINDOW, axis=0)[inside]
  return ndimage.correlate1d(x, _WINDOW, axis=1)[:, inside]


def _halved(x: Float[np.ndarray, 'h w']) -> Float[np.ndarray, 'i j']:
  """Means over 2 x 2 pixels."""
  x = np.pad(x, [(side % 2, 0) for side in x.shape])
  height, width = x.shape
  return x.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
