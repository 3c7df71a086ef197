"""Pictures and splats on grids of several sizes, without any shift.

A grid of h x w pixels is laid over the whole picture, whatever its size: pixel
(row i, column j) is the rectangle from (j W / w, i H / h) to ((j + 1) W / w,
(i + 1) H / h) of a picture of H x W pixels, and its centre lies at (j + 0.5,
i + 0.5) of the grid. So lengths scale by w / W along x and h / H along y, and
nothing moves between sizes. NumPy; `resize_splats` also takes JAX arrays.
"""

from collections.abc import Sequence

from jaxtyping import Float
import numpy as np

from pgsvc_jax import types

# Of the Gaussian that stands for the box of a pixel, in pixels squared. The
# box's own, 1/12, is 1 to 2 dB farther from the means over the pixels of the
# picture (docs/resolution.md).
PIXEL_VARIANCE = 0.1


def scaled_shape(height: int, width: int, scale: float) -> tuple[int, int]:
  """Height and width at a scale: rounded, at least a pixel.

  Raises:
    ValueError: the scale is not positive and finite.

  Example:
    >>> scaled_shape(50, 71, 0.25)
    (12, 18)
  """
  if not 0 < scale < float('inf'):
    raise ValueError(f'the scale must be positive: {scale}')
  return max(1, round(height * scale)), max(1, round(width * scale))


def layer_shapes(
    scales: Sequence[float], height: int, width: int
) -> tuple[tuple[int, int], ...]:
  """Height and width of each layer's own grid; empty where all are full.

  Example:
    >>> layer_shapes((0.25, 1), 64, 32), layer_shapes((1, 1), 64, 32)
    (((16, 8), (64, 32)), ())
  """
  shapes = tuple(scaled_shape(height, width, scale) for scale in scales)
  return () if set(shapes) <= {(height, width)} else shapes


def downsample(
    image: Float[np.ndarray, 'H W c'], height: int, width: int
) -> Float[np.ndarray, 'h w c']:
  """The picture on another grid: the mean over the area of each of its pixels.

  Args:
    image: the picture.
    height: of the grid, pixels.
    width: pixels.

  Returns:
    The picture, float32; pixels that an edge cuts count by their share.

  Example:
    >>> downsample(np.float32([[[0], [1], [5]]]), 1, 2).ravel().tolist()
    [0.3333333432674408, 3.6666667461395264]
  """
  if image.shape[:2] == (height, width):
    return np.asarray(image, np.float32)
  rows = _area_means(image, height)
  means = _area_means(rows.swapaxes(0, 1), width).swapaxes(0, 1)
  return np.ascontiguousarray(means, np.float32)


def _area_means(values: np.ndarray, size: int) -> np.ndarray:
  """Means over `size` equal parts of the first axis, float64."""
  count = len(values)
  total = np.zeros((count + 1, *values.shape[1:]))
  np.cumsum(values, axis=0, dtype=np.float64, out=total[1:])
  # The running integral is linear within a pixel. Integers: no edge is missed.
  edge, part = np.divmod(np.arange(size + 1) * count, size)
  part = (part / size).reshape(-1, *[1] * (values.ndim - 1))
  above = np.minimum(edge + 1, count)
  integral = (1 - part) * total[edge] + part * total[above]
  return np.diff(integral, axis=0) * (size / count)


def resize_splats(
    splats: types.Splats, factors: tuple[float, float]
) -> types.Splats:
  """The splats on another grid, anti-aliased where it is coarser.

  A pixel of a grid that is s < 1 times as fine is the mean over 1 / s pixels of
  the picture along each axis. For a splat that is a convolution with a box,
  taken here as one with a Gaussian of variance 0.1 (1 - s^2) in pixels of the
  grid: none at s = 1. The color is lowered by sqrt(det / det') of the
  covariances, so that the integral over the plane is kept.

  Args:
    splats: NumPy or JAX arrays; differentiable.
    factors: lengths on the grid / those on the splats' own, along x and y.

  Returns:
    The splats in pixels of the other grid.

  Example:
    >>> one = types.Splats(
    ...     np.array([[6.0, 4]]), np.array([[2.0, 0, 1]]), np.ones((1, 1)))
    >>> small = resize_splats(one, (0.5, 0.5))
    >>> small.means.tolist(), small.cholesky.round(3).tolist()
    ([[3.0, 2.0]], [[1.037, 0.0, 0.57]])
    >>> small.colors.round(3).tolist()
    [[0.846]]
  """
  if tuple(factors) == (1, 1):
    return splats
  xp = splats.means.__array_namespace__()
  x, y = (float(factor) for factor in factors)
  var_x, var_y = (PIXEL_VARIANCE * max(0.0, 1 - factor**2) for factor in (x, y))
  l11, l21, l22 = (
      splats.cholesky[:, i] * factor for i, factor in enumerate((x, y, y))
  )
  means = xp.stack([splats.means[:, 0] * x, splats.means[:, 1] * y], axis=1)
  wide11 = xp.sqrt(l11**2 + var_x)
  # l11 / wide11, and what is left: both are exact at either end.
  cosine, sine2 = l11 / wide11, var_x / wide11**2
  wide21 = l21 * cosine
  wide22 = xp.sqrt(l22**2 + var_y + l21**2 * sine2)
  return types.Splats(
      means=means,
      cholesky=xp.stack([wide11, wide21, wide22], axis=1),
      colors=splats.colors * (cosine * l22 / wide22)[:, None],
  )
