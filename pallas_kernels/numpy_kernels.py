"""Splat compositing in NumPy: for decoding where there is no Numba.

Splat by splat over its box; a few times slower than the kernels of
`cpu_kernels`, and on any machine that has NumPy.
"""

from jaxtyping import Float, Int
import numpy as np

from pallas_kernels import constants


def composite(
    means: Float[np.ndarray, 'n 2'],
    cholesky: Float[np.ndarray, 'n 3'],
    colors: Float[np.ndarray, 'n c'],
    layer_ends: Int[np.ndarray, ' l'],
    images: Float[np.ndarray, 'l h w c'],
) -> bool:
  """Writes the prefix images of the splats into `images`.

  Args:
    means: as in `pallas_kernels.composite`.
    cholesky: as in `pallas_kernels.composite`; finite.
    colors: as in `pallas_kernels.composite`.
    layer_ends: running sums of the splats per layer.
    images: float32, overwritten.

  Returns:
    True, as `cpu_kernels.composite` where it could be done.

  Example:
    >>> images = np.empty((1, 1, 2, 1), np.float32)
    >>> composite(np.float32([[0.5, 0.5]]), np.float32([[1, 0, 1]]),
    ...     np.float32([[1]]), np.array([1]), images)
    True
    >>> images.ravel().round(3).tolist()
    [1.0, 0.6069999933242798]
  """
  _, height, width, channels = images.shape
  total = np.zeros((height, width, channels), np.float32)
  l11, l21, l22 = cholesky.astype(np.float64).T
  extents = constants.CUTOFF_SIGMAS * np.stack([l11, np.hypot(l21, l22)], 1)
  # A pixel of margin, for rounding; the cut-off itself is tested below.
  first = np.floor(means - extents - 1).clip(0, [width, height]).astype(int)
  last = np.ceil(means + extents + 1).clip(0, [width, height]).astype(int)
  xs = np.arange(width, dtype=np.float32) + np.float32(0.5)
  ys = np.arange(height, dtype=np.float32) + np.float32(0.5)
  start = 0
  for layer, end in enumerate(layer_ends):
    touched = np.flatnonzero((first[start:end] < last[start:end]).all(axis=1))
    for n in (start + touched).tolist():
      (left, top), (right, bottom) = first[n], last[n]
      z1 = (xs[left:right] - means[n, 0]) / cholesky[n, 0]
      dy = (ys[top:bottom] - means[n, 1])[:, np.newaxis]
      z2 = (dy - cholesky[n, 1] * z1) / cholesky[n, 2]
      s = (z1 * z1 + z2 * z2) / 2
      # Far pixels would underflow, slowly.
      weight = np.exp(-np.minimum(s, constants.S_MAX))
      weight[s > constants.S_MAX] = 0
      total[top:bottom, left:right] += weight[..., np.newaxis] * colors[n]
    images[layer] = total
    start = end
  return True
