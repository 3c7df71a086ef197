"""Splats that show next to nothing move to where one gains more.

A splat at its best takes pi l11 l22 |color|^2 off the squared error, because
the residual is orthogonal to it: that is what taking it away costs. It moves
where a new splat would take off more than that.
"""

from typing import NamedTuple

from jaxtyping import Float, Int
import numpy as np

from pgsvc_jax import types
from pgsvc_jax.training import matching
from pgsvc_jax.training import peaks

# The cost of a splat whose mean lies outside of the picture, most of which
# nobody sees.
_OUTSIDE = 0.25


# A splat that is matched to a peak seldom gains this many times what a round
# one does, which is known before.
_PROMISE = 4.0


class Moves(NamedTuple):
  """Which splats are given up, and the new ones in their places.

  Attributes:
    chosen: indices of the old ones.
    splats: the new ones.
  """

  chosen: Int[np.ndarray, ' m']
  splats: types.Splats


def costs(
    splats: types.Splats, pixel_weights: Float[np.ndarray, 'h w']
) -> Float[np.ndarray, ' n']:
  """What the squared error rises by when a splat is taken away.

  Args:
    splats: in pixels of the weights.
    pixel_weights: of the squared error of each pixel.

  Returns:
    Weighted squared error, summed over pixels and channels.

  Example:
    >>> splat = types.Splats(
    ...     np.float32([[4, 4]]), np.float32([[1, 0, 2]]), np.float32([[0.5]]))
    >>> costs(splat, np.ones((8, 8), np.float32)).round(3)
    array([1.571])
  """
  height, width = pixel_weights.shape
  x, y = np.floor(splats.means).T
  is_inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
  column = np.clip(x, 0, width - 1).astype(np.int64)
  row = np.clip(y, 0, height - 1).astype(np.int64)
  area = np.pi * splats.cholesky[:, 0] * splats.cholesky[:, 2]
  energy = area * (np.asarray(splats.colors, np.float64) ** 2).sum(1)
  share = np.where(is_inside, 1, _OUTSIDE)
  return energy * share * pixel_weights[row, column]


def choose_moves(
    splats: types.Splats,
    residual: Float[np.ndarray, 'h w c'],
    pixel_weights: Float[np.ndarray, 'h w'],
    most: int,
    rng: np.random.Generator,
) -> Moves:
  """Pairs the cheapest splats with the best places, while that pays.

  Args:
    splats: of one layer, on the grid of the residual.
    residual: the picture minus the prefix up to this layer.
    pixel_weights: of the squared error of each pixel.
    most: how many may move.
    rng: the only source of randomness.

  Returns:
    The moves; none where no place is worth one.
  """
  cost = costs(splats, pixel_weights)
  cheapest = np.argsort(cost, kind='stable')[:most]
  found = peaks.find(residual, pixel_weights, len(cheapest))
  # Gains fall and costs rise: those that may pay come first.
  cheapest = cheapest[: len(found.gain)]
  hopeful = int((_PROMISE * found.gain > cost[cheapest]).sum())
  found = peaks.Peaks(*(x[:hopeful] for x in found))
  new, gains = matching.match(residual, pixel_weights, found, rng)
  best = np.argsort(-gains, kind='stable')
  num_moves = int((gains[best] > cost[cheapest[:hopeful]]).sum())
  new = types.Splats(*(x[best[:num_moves]] for x in new))
  return Moves(cheapest[:num_moves], new)
