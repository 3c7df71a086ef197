"""Which splats touch which tile of a picture, in Numba."""

import math

import numpy as np

from pallas_kernels import constants
from pallas_kernels import jit
from pallas_kernels import vectors

F32 = np.float32
I32 = np.int32
TILE = vectors.TILE

# (Tile, splat) pairs that are listed at most: 8 GiB. A failed allocation in
# native code could not be told from success.
MAX_PAIRS = 2**31

_K = F32(constants.CUTOFF_SIGMAS)
# Tile lists may hold a splat too many but never one too few: the span of a
# splat is widened by more than float32 rounding, relative and in pixels.
_SLACK_RELATIVE = F32(1 + 1e-5)
_SLACK_PIXELS = F32(0.01)


@jit.part
def _tiles(low, high, size):
  """First and last tile with pixel centres in low..high (last < first: none).

  Compared and clipped as floats, in a form that is false for NaN: the int of a
  huge float or of NaN is undefined. Above 2^24 a float32 rounds size - 1 up,
  hence the clip of the ints.
  """
  first = np.ceil(low - _SLACK_PIXELS - F32(0.5))
  last = np.floor(high + _SLACK_PIXELS - F32(0.5))
  end = F32(size - 1)
  if not (first <= last and first <= end and last >= F32(0)):
    return 0, -1
  first_pixel = min(int(max(first, F32(0))), size - 1)
  last_pixel = min(int(min(last, end)), size - 1)
  return first_pixel // TILE, last_pixel // TILE


@jit.part
def _tile_span(row, mean_x, mean_y, l11, l21, l22, width):
  """First and last tile column that the splat touches in a row of tiles.

  Within rows va..vb (relative to the mean) the ellipse of the cut-off is widest
  to the right at v = k l21 or at the nearest bound, since its edge is concave
  there; to the left at v = -k l21.

  Returns:
    (first, last) tile column, last < first where the splat does not touch.
  """
  k = _K * _SLACK_RELATIVE
  sigma_y = math.sqrt(l21 * l21 + l22 * l22)
  extent = k * sigma_y
  low = max(F32(row * TILE) + F32(0.5) - mean_y - _SLACK_PIXELS, -extent)
  high = min(F32(row * TILE + TILE) - F32(0.5) - mean_y + _SLACK_PIXELS, extent)
  if not low <= high:
    return 0, -1
  inverse = F32(1) / sigma_y
  slope = (l11 * inverse) * (l21 * inverse)
  half = k * l11 * (l22 * inverse)
  v = min(max(k * l21, low), high)
  u = v / extent
  right = slope * v + half * math.sqrt(max(F32(1) - u * u, F32(0)))
  v = min(max(-k * l21, low), high)
  u = v / extent
  left = slope * v - half * math.sqrt(max(F32(1) - u * u, F32(0)))
  return _tiles(mean_x + left, mean_x + right, width)


@jit.part
def _tile_rows(mean_y, l21, l22, height):
  """First and last row of tiles that the splat touches (last < first: none)."""
  extent = _K * _SLACK_RELATIVE * math.sqrt(l21 * l21 + l22 * l22)
  return _tiles(mean_y - extent, mean_y + extent, height)


@jit.unit
def bin_splats(means, cholesky, height, width):
  """Lists the splats of every tile, in the order of the splats.

  Returns:
    (starts, ids, fits): tile t (row-major) holds ids[starts[t]:starts[t + 1]];
    `fits` is False, and nothing listed, above MAX_PAIRS.
  """
  num_tiles_x = (width + TILE - 1) // TILE
  num_tiles_y = (height + TILE - 1) // TILE
  num_tiles = num_tiles_x * num_tiles_y
  num_splats = means.shape[0]

  # First and last row of tiles of every splat.
  rows = np.empty(2 * num_splats, I32)
  num_spans = 0
  for n in range(num_splats):
    first, last = _tile_rows(
        means[n, 1], cholesky[n, 1], cholesky[n, 2], height
    )
    rows[2 * n] = first
    rows[2 * n + 1] = last
    num_spans += max(last - first + 1, 0)

  # First and last tile of every splat in every row; and how much longer the
  # list of a tile is than that of the tile before.
  spans = np.empty(2 * num_spans, I32)
  steps = np.empty(num_tiles + 1, I32)
  for tile in range(num_tiles + 1):
    steps[tile] = 0
  i = 0
  for n in range(num_splats):
    x, y = means[n, 0], means[n, 1]
    l11, l21, l22 = cholesky[n, 0], cholesky[n, 1], cholesky[n, 2]
    for row in range(rows[2 * n], rows[2 * n + 1] + 1):
      first, last = _tile_span(row, x, y, l11, l21, l22, width)
      first += row * num_tiles_x
      last += row * num_tiles_x
      spans[i] = first
      spans[i + 1] = last
      steps[first] += 1
      steps[last + 1] -= 1
      i += 2

  starts = np.empty(num_tiles + 1, np.int64)
  starts[0] = 0
  length = 0
  for tile in range(num_tiles):
    length += steps[tile]
    starts[tile + 1] = starts[tile] + length
  fits = starts[num_tiles] <= MAX_PAIRS
  ids = np.empty(starts[num_tiles] if fits else 0, I32)
  if fits:
    cursor = np.empty(num_tiles, np.int64)
    for tile in range(num_tiles):
      cursor[tile] = starts[tile]
    i = 0
    for n in range(num_splats):
      for _ in range(rows[2 * n], rows[2 * n + 1] + 1):
        for tile in range(spans[i], spans[i + 1] + 1):
          ids[cursor[tile]] = n
          cursor[tile] += 1
        i += 2
  return starts, ids, fits
