"""Where new splats are born: on edges at first, on the residual later.

NumPy and SciPy on the host: it happens a few times in a fit, between compiled
chunks. Sampling without replacement is by the Gumbel top-k trick.
"""

from collections.abc import Callable

from jaxtyping import Float, Int
import numpy as np
import scipy.ndimage
import scipy.spatial

from pgsvc_jax import types
from pgsvc_jax.training import matching
from pgsvc_jax.training import peaks

# (picture, what the splats alive show or None before the first, pixel weights,
# means of the splats alive, how many, generator) -> that many new splats; see
# `new_splats`.
Initializer = Callable[
    [
        Float[np.ndarray, 'h w c'],
        Float[np.ndarray, 'h w c'] | None,
        Float[np.ndarray, 'h w'],
        Float[np.ndarray, 'n 2'],
        int,
        np.random.Generator,
    ],
    types.Splats,
]

# Sizes of newborn splats are clipped to this range, pixels.
_SIZE_RANGE = (0.6, 30.0)

# The density of later births: blur of the residual, pixels, and its power.
_RESIDUAL_SIGMA = 1.0
_RESIDUAL_POWER = 5

# Births prefer small sizes to what gains most: by the gain alone, kodim23 lost
# 0.4 dB, as few large splats took what many small ones show better.
_SMALL_FIRST = 1.0

# On a straight edge, standard deviations are multiplied and divided by this.
_STRETCH = 2.5

# Of the window of the structure tensor, pixels.
_TENSOR_SIGMA = 1.5


def from_grid(
    splats: types.Splats, factors: Float[np.ndarray, '2']
) -> types.Splats:
  """Splats that were made on a grid, in pixels of the picture.

  Args:
    splats: in pixels of the grid.
    factors: lengths on the grid / those on the picture, along x and y.

  Returns:
    The same as they are: not sharper for a finer grid.
  """
  return types.Splats(
      means=splats.means / factors,
      cholesky=splats.cholesky / factors[[0, 1, 1]],
      colors=splats.colors,
  )


def to_grid(
    splats: types.Splats, factors: Float[np.ndarray, '2']
) -> types.Splats:
  """The inverse of `from_grid`."""
  return from_grid(splats, 1 / factors)


def _normalize(density: np.ndarray) -> np.ndarray:
  total = density.sum(dtype=np.float64)
  if total <= 0 or not np.isfinite(total):
    return np.full_like(density, 1 / density.size)
  return density / total


def gradient_density(image: Float[np.ndarray, 'h w c']) -> np.ndarray:
  """Density of first splats: three quarters on edges, a quarter anywhere."""
  gray = image.mean(-1)
  magnitude = np.hypot(*(_derivative(gray, axis) for axis in (0, 1)))
  edges = _normalize(scipy.ndimage.gaussian_filter(magnitude, 1.0))
  return 0.75 * edges + 0.25 / edges.size


def _derivative(gray: np.ndarray, axis: int) -> np.ndarray:
  return scipy.ndimage.correlate1d(
      gray, np.array([-0.5, 0, 0.5], np.float32), axis, mode='nearest'
  )


def residual_density(residual: Float[np.ndarray, 'h w c']) -> np.ndarray:
  """Density of later splats: a high power of the blurred residual.

  Against the square blurred by 1.5 pixels, +0.3 to 0.5 dB at every prefix
  (kodim05, 13, 23, 500 steps): peaks are where one splat gains most.
  """
  rms = np.sqrt((residual**2).mean(-1))
  blurred = scipy.ndimage.gaussian_filter(rms, _RESIDUAL_SIGMA)
  # Scaled first: the power of a small residual is no float32.
  return _normalize((blurred / max(blurred.max(), 1e-12)) ** _RESIDUAL_POWER)


def sample_centres(
    density: Float[np.ndarray, 'h w'], count: int, rng: np.random.Generator
) -> Float[np.ndarray, 'count 2']:
  """Draws (x, y) in pixels, a pixel at most once while there are enough."""
  height, width = density.shape
  # log(0) = -inf: such pixels come last.
  with np.errstate(divide='ignore'):
    scores = np.log(density).ravel() + rng.gumbel(size=density.size)
  drawn = np.empty(0, np.int64)
  while len(drawn) < count:
    missing = min(count - len(drawn), density.size)
    best = np.argpartition(-scores, missing - 1)[:missing]
    drawn = np.concatenate([drawn, np.sort(best)])
  y, x = np.divmod(drawn, width)
  corners = np.stack([x, y], 1)
  return (corners + rng.uniform(size=corners.shape)).astype(np.float32)


def _along_edges(
    image: Float[np.ndarray, 'h w c'],
    y: Int[np.ndarray, ' n'],
    x: Int[np.ndarray, ' n'],
) -> Float[np.ndarray, 'n 3']:
  """Cholesky factors of unit area that lie along the edges at these pixels.

  The structure tensor gives direction and coherence (0 where the image is
  isotropic, 1 on a straight edge); the axes are stretched by
  `_STRETCH ** +-coherence`. Worth 0.1 dB after 500 steps (docs/results.md).
  """
  dx, dy = (_derivative(image, axis) for axis in (1, 0))
  jxx, jxy, jyy = (
      scipy.ndimage.gaussian_filter(
          np.einsum('hwc,hwc->hw', a, b), _TENSOR_SIGMA
      )[y, x]
      for a, b in ((dx, dx), (dx, dy), (dy, dy))
  )
  mean, half = (jxx + jyy) / 2, np.hypot((jxx - jyy) / 2, jxy)
  stretch = _STRETCH ** (half / (mean + 1e-6))
  # The gradient points across the edge.
  angle = np.arctan2(2 * jxy, jxx - jyy) / 2 + np.pi / 2
  cos, sin = np.cos(angle), np.sin(angle)
  l11 = np.hypot(cos * stretch, sin / stretch)
  l21 = cos * sin * (stretch**2 - stretch**-2) / l11
  return np.stack([l11, l21, 1 / l11], -1)


def born_splats(
    centres: Float[np.ndarray, 'new 2'],
    neighbours: Float[np.ndarray, 'n 2'],
    image: Float[np.ndarray, 'h w c'],
    *,
    size_factor: float,
    color_factor: float,
) -> types.Splats:
  """Splats at the centres, as large as the gaps between their neighbours.

  Args:
    centres: means of the new splats, pixels.
    neighbours: means of all splats, the new ones included.
    image: what the colors are read from: the picture, or its residual.
    size_factor: standard deviation / mean distance to the 3 nearest splats.
    color_factor: color / image at the centre.

  Returns:
    The splats.
  """
  height, width, _ = image.shape
  # The nearest neighbour of a centre is itself.
  nearest = min(4, len(neighbours))
  distances, _ = scipy.spatial.cKDTree(neighbours).query(centres, nearest)
  distances = np.reshape(distances, (len(centres), nearest))[:, 1:]
  spread = distances.mean(1) if nearest > 1 else np.full(len(centres), np.inf)
  # Alone, a splat is as large as the picture.
  spread = np.minimum(spread, max(height, width))
  sizes = np.clip(size_factor * spread, *_SIZE_RANGE)
  x = np.clip(centres[:, 0].astype(np.int64), 0, width - 1)
  y = np.clip(centres[:, 1].astype(np.int64), 0, height - 1)
  cholesky = sizes[:, None] * _along_edges(image, y, x)
  return types.Splats(
      centres.astype(np.float32),
      cholesky.astype(np.float32),
      (color_factor * image[y, x]).astype(np.float32),
  )


def check_splats(splats: types.Splats, count: int, channels: int) -> None:
  """Checks what an initializer has made.

  Raises:
    ValueError: not so many splats, or not such that can be fitted.

  Example:
    >>> empty = types.Splats(*(np.zeros((0, n)) for n in (2, 3, 1)))
    >>> check_splats(empty, 5, 1)
    Traceback (most recent call last):
    ValueError: means made by the initializer are (0, 2), not (5, 2)
  """
  for name, array, size in zip(splats._fields, splats, (2, 3, channels)):
    if np.shape(array) != (count, size):
      raise ValueError(
          f'{name} made by the initializer are {np.shape(array)}, not'
          f' {(count, size)}'
      )
    if not np.isfinite(array).all():
      raise ValueError(f'{name} made by the initializer are not finite')
  if not (np.asarray(splats.cholesky)[:, [0, 2]] > 0).all():
    raise ValueError('l11 and l22 made by the initializer must be positive')


def new_splats(
    image: Float[np.ndarray, 'h w c'],
    render: Float[np.ndarray, 'h w c'] | None,
    pixel_weights: Float[np.ndarray, 'h w'],
    means: Float[np.ndarray, 'n 2'],
    count: int,
    rng: np.random.Generator,
) -> types.Splats:
  """The splats of one birth: on edges at first, on the residual later.

  What a fit calls a few times, the births of `FitConfig.num_births`; another
  function of these arguments may stand in for it (`fit_picture`).

  Args:
    image: the picture.
    render: what the splats alive show; None before there are any.
    pixel_weights: of each pixel in the loss.
    means: of the splats alive.
    count: how many to make.
    rng: the only source of randomness.

  Returns:
    The new splats, float32.

  Example:
    >>> image = np.eye(8, dtype=np.float32)[..., np.newaxis]
    >>> rng = np.random.default_rng(0)
    >>> none = np.zeros((0, 2), np.float32)
    >>> splats = new_splats(image, None, np.ones((8, 8)), none, 3, rng)
    >>> splats.means.shape, splats.cholesky.shape, splats.colors.shape
    ((3, 2), (3, 3), (3, 1))
  """
  # Weights are of squares.
  factors = np.sqrt(pixel_weights)
  if render is None:
    centres = sample_centres(gradient_density(image) * factors, count, rng)
    return born_splats(
        centres,
        np.concatenate([means, centres]),
        image,
        size_factor=0.7,
        color_factor=0.3,
    )
  residual = image - render
  found = peaks.find(residual, pixel_weights, count, small_first=_SMALL_FIRST)
  matched, _ = matching.match(residual, pixel_weights, found, rng)
  missing = count - len(matched.means)
  if not missing:
    return matched
  # More splats than peaks: the others are drawn.
  density = residual_density(residual * factors[..., np.newaxis])
  centres = sample_centres(density, missing, rng)
  others = born_splats(
      centres,
      np.concatenate([means, matched.means, centres]),
      residual,
      size_factor=0.5,
      color_factor=0.3,
  )
  return types.Splats(*map(np.concatenate, zip(matched, others)))
