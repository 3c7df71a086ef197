"""Which rows of a picture each device works on: shares of equal work.

Detail is not spread evenly: with bands of equal height, all devices wait for
the one that has the grass. NumPy on the host, at every birth.
"""

from collections.abc import Sequence
import math

from jaxtyping import Float
import numpy as np

from pallas_kernels import constants
from pgsvc_jax import types

# Edges are multiples of the rows that the operator works on at a time.
TILE = 8

# Work on a tile without splats (its pixels are loaded and compared), in units
# of the work on one splat in one tile; measured with the `cpu` implementation.
_TILE_WORK = 3.0

# Rows a band can have, as a multiple of equal shares. More would balance any
# picture; every row costs memory and, even without weight, a little time.
_SLACK = 1.5


def capacity(height: int, num_bands: int) -> int:
  """Rows of the arrays of every band, whole tiles.

  Example:
    >>> capacity(512, 2), capacity(512, 1), capacity(20, 3)
    (384, 512, 16)
  """
  rows = -(-height // TILE)
  if num_bands == 1:
    return rows * TILE
  return min(rows, int(np.ceil(_SLACK * rows / num_bands))) * TILE


def row_work(
    splats: types.Splats, height: int, width: int
) -> Float[np.ndarray, ' rows']:
  """Estimates the work on each row of tiles: splats in tiles, and tiles.

  Args:
    splats: those alive (NumPy).
    height: of the picture, pixels.
    width: pixels.

  Returns:
    One figure a row of tiles, in units of one splat in one tile.
  """
  num_rows = -(-height // TILE)
  work = np.full(num_rows, _TILE_WORK * -(-width // TILE))
  x, y = splats.means.T.astype(np.float64)
  l11, l21, l22 = splats.cholesky.T.astype(np.float64)
  sigma = np.hypot(l21, l22)
  extent = constants.CUTOFF_SIGMAS * sigma
  first = np.clip(np.floor((y - extent) / TILE), 0, num_rows).astype(int)
  last = np.clip(np.floor((y + extent) / TILE), -1, num_rows - 1).astype(int)
  counts = np.maximum(last - first + 1, 0)
  # One entry a splat and row that it touches.
  n = np.repeat(np.arange(len(y)), counts)
  row = np.arange(len(n)) - np.repeat(
      np.cumsum(counts) - counts - first, counts
  )
  # The ellipse of the cut-off, cut along the line of the row that is nearest to
  # the mean.
  v = np.clip(y[n], row * TILE, (row + 1) * TILE) - y[n]
  centre = x[n] + (l11 * l21 / sigma**2)[n] * v
  half = np.sqrt(np.maximum(1 - (v / extent[n]) ** 2, 0))
  half *= (constants.CUTOFF_SIGMAS * l11 * l22 / sigma)[n]
  span = np.minimum(centre + half, width) - np.maximum(centre - half, 0)
  # A span of s pixels touches s / TILE + 1 tiles on average.
  tiles = np.where(span > 0, span / TILE + 1, 0)
  return work + np.bincount(row, tiles, num_rows)


def cut_rows(work: Float[np.ndarray, ' rows'], num_bands: int) -> list[int]:
  """Cuts rows of tiles into bands, the largest share of work being smallest.

  Args:
    work: of each row of tiles.
    num_bands: how many; with more bands than rows some are empty.

  Returns:
    Edges in pixels, one more than bands: band i has rows edges[i]..edges[i+1].

  Example:
    >>> cut_rows(np.array([3.0, 1.0, 1.0, 1.0]), 2)
    [0, 8, 32]
  """
  total = np.concatenate([[0], np.cumsum(work)])
  most = capacity(len(work) * TILE, num_bands) // TILE

  def fill(share):
    """Gives every band as many rows as fit into the share."""
    edges = [0]
    for _ in range(num_bands):
      end = np.searchsorted(total, total[edges[-1]] + share, side='right') - 1
      edges.append(min(int(end), edges[-1] + most))
    return edges

  # Bisection: the smallest share with which all rows are given away.
  low, high = 0.0, total[-1] * (1 + 1e-9)
  for _ in range(30):
    middle = (low + high) / 2
    if fill(middle)[-1] == len(work):
      high = middle
    else:
      low = middle
  return [edge * TILE for edge in fill(high)]


def cut_evenly(height: int, num_bands: int) -> list[int]:
  """Edges of bands of equal height, for splats that are not known."""
  return cut_rows(np.ones(-(-height // TILE)), num_bands)


def scale_edges(edges: Sequence[int], ratio: float) -> list[int]:
  """Edges of the same bands on a grid of another size, to the nearest row.

  Example:
    >>> scale_edges([0, 24, 40], 0.25)
    [0, 6, 10]
  """
  return [math.floor(edge * ratio + 0.5) for edge in edges]


def join_rows(
    images: Float[np.ndarray, 'bands h w c'], edges: Sequence[int], height: int
) -> Float[np.ndarray, 'height w c']:
  """The picture whose bands these are; rows past a band's end are left out."""
  parts = [
      image[: last - first]
      for image, first, last in zip(images, edges, edges[1:])
  ]
  return np.concatenate(parts)[:height]
