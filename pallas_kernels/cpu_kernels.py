"""Splat compositing on CPU: Numba kernels.

The picture is cut into tiles. Every tile has the list of the splats that touch
it, in layer order, so the running sum after the last splat of layer k is the
tile of prefix image R_k. All arrays are C-contiguous.

In these kernels `weight` is exp(-s), s = |z|^2 / 2, z = L^-1 (p - mean).
With z scaled by sqrt(log2(e) / 2), weight = 2^-(z1^2 + z2^2).
"""

import functools
import math

from jaxtyping import Float, Int
import numpy as np

from pallas_kernels import constants
from pallas_kernels import jit
from pallas_kernels import tile_lists
from pallas_kernels import vectors

F32 = np.float32
TILE = vectors.TILE
PIXELS = vectors.PIXELS

_Z_SCALE = F32(math.sqrt(0.5 * math.log2(math.e)))
_EXPONENT_MAX = F32(constants.S_MAX * math.log2(math.e))

# Columns of a splat's row: its mean, _Z_SCALE times the lower triangle of L^-1,
# its colors.
_COLORS = 5
# Columns of its moments: two and three of `_add_moments`, dloss/dcolor.
_MOMENTS = 5

# Channels that a kernel is made for at most, see `composite`.
MAX_CHANNELS = 4


@jit.unit
def _pack(means, cholesky, colors):
  """The rows of all splats, [N, _COLORS + C]."""
  num_splats, channels = colors.shape
  splats = np.empty((num_splats, _COLORS + channels), F32)
  for n in range(num_splats):
    splats[n, 0] = means[n, 0]
    splats[n, 1] = means[n, 1]
    splats[n, 2] = _Z_SCALE / cholesky[n, 0]
    splats[n, 4] = _Z_SCALE / cholesky[n, 2]
    splats[n, 3] = -(cholesky[n, 1] / cholesky[n, 0]) * splats[n, 4]
    for c in range(channels):
      splats[n, _COLORS + c] = colors[n, c]
  return splats


@jit.part
def _make_rows():
  """The y of the pixel centres of a tile, for `_place`.

  In memory: LLVM would turn constants that all lanes of a register share into
  scalars, and spread each after the subtraction.
  """
  rows = np.empty((1, PIXELS), F32)
  for i in range(PIXELS):
    rows[0, i] = F32(i // TILE) + F32(0.5)
  return rows


@jit.part
def _place(splats, n, left, top, rows):
  """z1 of any strip, and z2, of splat n in the tile with corner (left, top)."""
  # Relative to the tile first: keeps sub-pixel accuracy far from the origin.
  dx = vectors.columns() - (splats[n, 0] - F32(left))
  dy = vectors.load_tile(rows, 0) - (splats[n, 1] - F32(top))
  z2 = vectors.repeat(splats[n, 3] * dx) + splats[n, 4] * dy
  return splats[n, 2] * dx, z2


@jit.part
def _weigh(splats, n, left, top, rows):
  """Weights of splat n at the pixels of the tile with corner (left, top)."""
  z1, z2 = _place(splats, n, left, top, rows)
  return vectors.exp2_minus(vectors.repeat(z1 * z1) + z2 * z2, _EXPONENT_MAX)


@jit.part
def _make_moments(num_splats, count):
  """Zeros for `_add_moments`, in rows of whole groups."""
  groups = (_MOMENTS + count + vectors.GROUP - 1) // vectors.GROUP
  return np.zeros((num_splats, groups * vectors.GROUP), F32)


@jit.part
def _add_moments(splats, n, left, top, rows, weight, cotangent, count, moments):
  """Adds one (tile, splat) pair to the moments of the splat.

  With h = -dloss/ds at each pixel these are v = sum h z (v1, v2) and
  V = sum h z z^T (v11, v12, v22), z scaled as in `weight`, then dloss/dcolor.
  Moments of z, not of p - mean: those cancel for elongated splats.
  """
  colors = vectors.load_row(splats, n, _COLORS, count)
  h = weight * vectors.sum_channels(colors * cotangent)
  z1, z2 = _place(splats, n, left, top, rows)
  h_z2 = h * z2
  v1 = z1 * vectors.sum_strips(h)
  v2 = vectors.sum_strips(h_z2)
  v22 = vectors.sum_strips(h_z2 * z2)
  vectors.add_totals(
      moments,
      n,
      (v1, v2, z1 * v1, z1 * v2, v22)
      + vectors.sum_channel_strips(weight * cotangent),
  )


@jit.unit
def _gradients(splats, moments, grad_means, grad_cholesky, grad_colors):
  """Writes the gradients of the splats from their moments.

  dloss/dmean = L^-T v, and dloss/dL = the lower triangle of L^-T V.
  """
  # L^-1 and z are both scaled.
  mean_scale = F32(1) / (_Z_SCALE * _Z_SCALE)
  scale = mean_scale / _Z_SCALE
  channels = grad_colors.shape[1]
  for n in range(splats.shape[0]):
    touched = False
    for i in range(_MOMENTS + channels):
      touched = touched or moments[n, i] != F32(0)
    if not touched:  # A splat in no tile may have any parameters.
      for i in range(2):
        grad_means[n, i] = F32(0)
      for i in range(3):
        grad_cholesky[n, i] = F32(0)
      for c in range(channels):
        grad_colors[n, c] = F32(0)
      continue
    m11, m21, m22 = splats[n, 2], splats[n, 3], splats[n, 4]
    v1, v2 = moments[n, 0], moments[n, 1]
    v11, v12, v22 = moments[n, 2], moments[n, 3], moments[n, 4]
    grad_means[n, 0] = mean_scale * (m11 * v1 + m21 * v2)
    grad_means[n, 1] = mean_scale * (m22 * v2)
    grad_cholesky[n, 0] = scale * (m11 * v11 + m21 * v12)
    grad_cholesky[n, 1] = scale * (m22 * v12)
    grad_cholesky[n, 2] = scale * (m22 * v22)
    for c in range(channels):
      grad_colors[n, c] = moments[n, _MOMENTS + c]


@jit.part
def _load(image, corner, edge, count):
  """Planes of a tile of [..., H, W, count]; 0 outside.

  `edge` is memory for a tile, to bring one together that is not all inside.
  """
  height, width = image.shape[-3], image.shape[-2]
  top, left = corner[-2], corner[-1]
  if top + TILE <= height and left + TILE <= width:
    return vectors.load_pixels(image, corner, count)
  edge[:] = F32(0)
  for y in range(min(TILE, height - top)):
    for x in range(min(TILE, width - left)):
      for c in range(count):
        edge[y, x, c] = image[(*corner[:-2], top + y, left + x, c)]
  return vectors.load_pixels(edge, (0, 0), count)


@jit.part
def _store(planes, images, layer, top, left, edge, count):
  """Writes planes to a tile of [L, H, W, count], what is inside."""
  height, width = images.shape[1], images.shape[2]
  if top + TILE <= height and left + TILE <= width:
    vectors.store_pixels(images, (layer, top, left), planes)
    return
  vectors.store_pixels(edge, (0, 0), planes)
  for y in range(min(TILE, height - top)):
    for x in range(min(TILE, width - left)):
      for c in range(count):
        images[layer, top + y, left + x, c] = edge[y, x, c]


# ---- The kernels -------------------------------------------------------------
# `count`, the number of channels, is a literal at most MAX_CHANNELS: each is a
# kernel of its own. All return whether it was done; none starts on more pairs
# of tiles and splats than `tile_lists.MAX_PAIRS`.
@jit.part
def composite_tiles(means, cholesky, colors, layer_ends, images, count):
  """Writes the prefix images [L, H, W, C] of the splats into `images`."""
  num_layers, height, width, _ = images.shape
  starts, ids, fits = tile_lists.bin_splats(means, cholesky, height, width)
  if not fits:
    return False
  splats = _pack(means, cholesky, colors)
  edge = np.empty((TILE, TILE, count), F32)
  rows = _make_rows()
  num_tiles_x = (width + TILE - 1) // TILE
  for tile in range(starts.shape[0] - 1):
    left = tile % num_tiles_x * TILE
    top = tile // num_tiles_x * TILE
    if top + TILE <= height and left + TILE <= width:
      # While the splats are summed.
      for layer in range(num_layers):
        vectors.prefetch_pixels(images, (layer, top, left), count)
    sums = vectors.zeros(count)
    i = starts[tile]
    end = starts[tile + 1]
    for layer in range(num_layers):
      while i < end and ids[i] < layer_ends[layer]:
        weight = _weigh(splats, ids[i], left, top, rows)
        sums += vectors.load_row(splats, ids[i], _COLORS, count) * weight
        i += 1
      _store(sums, images, layer, top, left, edge, count)
  return True


@jit.part
def composite_tiles_vjp(
    means,
    cholesky,
    colors,
    layer_ends,
    cotangents,
    grad_means,
    grad_cholesky,
    grad_colors,
    count,
):
  """Writes the gradients of sum(images * cotangents) ([L, H, W, C])."""
  num_layers, height, width, _ = cotangents.shape
  starts, ids, fits = tile_lists.bin_splats(means, cholesky, height, width)
  if not fits:
    return False
  splats = _pack(means, cholesky, colors)
  moments = _make_moments(means.shape[0], count)
  edge = np.empty((TILE, TILE, count), F32)
  rows = _make_rows()
  num_tiles_x = (width + TILE - 1) // TILE
  for tile in range(starts.shape[0] - 1):
    left = tile % num_tiles_x * TILE
    top = tile // num_tiles_x * TILE
    # A splat of layer j shows in every prefix k >= j: its cotangent is the sum
    # over these, so the layers go from the last to the first.
    cotangent = vectors.zeros(count)
    i = starts[tile + 1]
    for layer in range(num_layers - 1, -1, -1):
      cotangent += _load(cotangents, (layer, top, left), edge, count)
      start = layer_ends[layer - 1] if layer > 0 else 0
      while i > starts[tile] and ids[i - 1] >= start:
        i -= 1
        weight = _weigh(splats, ids[i], left, top, rows)
        _add_moments(
            splats, ids[i], left, top, rows, weight, cotangent, count, moments
        )
  _gradients(splats, moments, grad_means, grad_cholesky, grad_colors)
  return True


@jit.part
def composite_tiles_error(
    means,
    cholesky,
    colors,
    layer_ends,
    target,
    pixel_weights,
    level_weights,
    errors,
    grad_means,
    grad_cholesky,
    grad_colors,
    count,
):
  """Squared errors of all prefixes and the gradient of their weighted sum.

  errors[k] = sum_p pixel_weights[p] |R_k[p] - target[p]|^2; the gradients are
  those of sum_k level_weights[k] errors[k]. One pass: within a tile the weights
  of the forward pass are still in cache when the backward pass needs them, and
  no prefix image ever goes to memory.
  """
  num_layers = layer_ends.shape[0]
  height, width, _ = target.shape
  # A band of rows may end in rows of weight 0: they cost nothing. One row
  # stays: the tile lists of an empty picture would be out of bounds.
  while height > 1 and not pixel_weights[height - 1].any():
    height -= 1
  starts, ids, fits = tile_lists.bin_splats(means, cholesky, height, width)
  if not fits:
    return False
  longest = 0
  for tile in range(starts.shape[0] - 1):
    longest = max(longest, starts[tile + 1] - starts[tile])
  weights = np.empty((longest, PIXELS), F32)
  cotangents = np.empty((num_layers, count, PIXELS), F32)
  edge = np.empty((TILE, TILE, count), F32)
  mask_edge = np.empty((TILE, TILE, 1), F32)
  mask_image = pixel_weights.reshape((*pixel_weights.shape, 1))
  totals = np.zeros(num_layers, np.float64)
  splats = _pack(means, cholesky, colors)
  moments = _make_moments(means.shape[0], count)
  rows = _make_rows()
  num_tiles_x = (width + TILE - 1) // TILE
  for tile in range(starts.shape[0] - 1):
    left = tile % num_tiles_x * TILE
    top = tile // num_tiles_x * TILE
    goal = _load(target, (top, left), edge, count)
    mask = vectors.sum_channels(_load(mask_image, (top, left), mask_edge, 1))
    sums = vectors.zeros(count)
    first = starts[tile]
    end = starts[tile + 1]
    i = first
    for layer in range(num_layers):
      while i < end and ids[i] < layer_ends[layer]:
        weight = _weigh(splats, ids[i], left, top, rows)
        vectors.store_tile(weights, i - first, weight)
        sums += vectors.load_row(splats, ids[i], _COLORS, count) * weight
        i += 1
      difference = sums - goal
      weighted = difference * mask
      totals[layer] += vectors.sum_pixels(
          vectors.sum_channels(weighted * difference)
      )
      vectors.store_planes(
          cotangents, layer, weighted * (F32(2) * level_weights[layer])
      )

    # As in `composite_tiles_vjp`.
    cotangent = vectors.zeros(count)
    for layer in range(num_layers - 1, -1, -1):
      cotangent += vectors.load_planes(cotangents, layer, count)
      start = layer_ends[layer - 1] if layer > 0 else 0
      while i > first and ids[i - 1] >= start:
        i -= 1
        weight = vectors.load_tile(weights, i - first)
        _add_moments(
            splats, ids[i], left, top, rows, weight, cotangent, count, moments
        )
  _gradients(splats, moments, grad_means, grad_cholesky, grad_colors)
  for layer in range(num_layers):
    errors[layer] = F32(totals[layer])
  return True


@functools.cache
def _make_composite(channels, sources=jit.SOURCES):
  @jit.kernel()
  def kernel(means, cholesky, colors, layer_ends, images):
    _ = sources
    return composite_tiles(
        means, cholesky, colors, layer_ends, images, channels
    )

  return kernel


def channel_groups(channels: int) -> list[slice]:
  """The channels that a kernel does at a time."""
  return [
      slice(first, min(first + MAX_CHANNELS, channels))
      for first in range(0, channels, MAX_CHANNELS)
  ]


def prepare(channels: int) -> None:
  """Has what `composite` needs for so many channels compiled, or loaded.

  Example:
    >>> prepare(3)
  """
  for group in channel_groups(channels):
    count = group.stop - group.start
    array = lambda *shape: np.zeros(shape, F32)
    ends = np.zeros(1, np.int32)
    _make_composite(count)(
        array(0, 2), array(0, 3), array(0, count), ends, array(1, 1, 1, count)
    )


def composite(
    means: Float[np.ndarray, 'n 2'],
    cholesky: Float[np.ndarray, 'n 3'],
    colors: Float[np.ndarray, 'n c'],
    layer_ends: Int[np.ndarray, ' l'],
    images: Float[np.ndarray, 'l h w c'],
) -> bool:
  """Writes the prefix images of the splats into `images`, without JAX.

  The first call for a number of channels compiles for seconds, or loads what is
  in Numba's cache. Holds no GIL.

  Args:
    means: as in `pallas_kernels.composite`, and float32, as all that follow.
    cholesky: as in `pallas_kernels.composite`.
    colors: as in `pallas_kernels.composite`.
    layer_ends: running sums of the splats per layer, int32.
    images: overwritten.

  Returns:
    Whether it was done: not with more than 2^31 pairs of tiles and splats.

  Example:
    >>> images = np.empty((1, 1, 2, 1), np.float32)
    >>> composite(np.float32([[0.5, 0.5]]), np.float32([[1, 0, 1]]),
    ...     np.float32([[1]]), np.int32([1]), images)
    True
    >>> images.ravel().round(3).tolist()
    [1.0, 0.6069999933242798]
  """
  channels = images.shape[-1]
  if channels <= MAX_CHANNELS:
    kernel = _make_composite(channels)
    return kernel(means, cholesky, colors, layer_ends, images)
  for group in channel_groups(channels):
    part = np.empty((*images.shape[:-1], group.stop - group.start), F32)
    own = np.ascontiguousarray(colors[:, group])
    if not composite(means, cholesky, own, layer_ends, part):
      return False
    images[..., group] = part
  return True
