"""The `xla` implementation: plain lax operations, on any platform.

The picture is cut into tiles. A pair is a splat and a tile that its box
touches; a bin collects the pairs of one layer in one tile. Nothing has a
capacity that could overflow: the pairs are enumerated, never stored as a
whole, in chunks of a fixed size under a loop with a dynamic trip count. Each
chunk is sorted by bin, every bin's pairs are cut into blocks of `BLOCK` splats,
and a second dynamic loop evaluates `GROUP` blocks a step. A bin with thousands
of splats is many blocks, an empty one is none, so the work follows the pairs.

The exponent is evaluated as z1^2 + z2^2, not as the 6-term polynomial in tile
coordinates: a splat of 0.05 px has coefficients of 200 there, which leaves an
error of 3e-3 in s, and its second moments about the tile's centre cancel. Since
z1 is one number per column and z2 a sum of one per column and one per row, the
elementwise form is hardly slower (33 against 26 us for 32,768 weights).

Values of pixels are flat, [..., PIXELS], row by row.
"""

from collections.abc import Callable
import itertools
from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, UInt32
import numpy as np

from pallas_kernels import boxes
from pallas_kernels import constants
from pallas_kernels import dispatch

# Measured with 9,000 splats of sigma 4 in 3 layers at 768x512, where a bin
# holds 15 pairs: forward + backward 155 ms; 170 ms with tiles of 8 (three times
# the pairs to sort), 190 ms with blocks of 16 (more padding).
TILE = 16
PIXELS = TILE * TILE
BLOCK = 8
GROUP = 32
CHUNK = 2**16
# Splats are taken in slices whose pairs a 32-bit integer can count, whatever
# their sizes: nearly always one slice.
PAIRS_MAX = 2**30

_COLUMNS = np.tile(np.arange(TILE) + 0.5, TILE)
_ROWS = np.repeat(np.arange(TILE) + 0.5, TILE)
# Sums over the rows of a tile: [PIXELS] -> [TILE] columns.
_SUM_ROWS = np.tile(np.eye(TILE), (TILE, 1))

_HIGHEST = jax.lax.Precision.HIGHEST


def _tile_grid(height: int, width: int) -> tuple[int, int]:
  return -(-height // TILE), -(-width // TILE)


def _tile_boxes(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    height: int,
    width: int,
) -> tuple[Int[Array, 'n 2'], Int[Array, 'n 2']]:
  """First tile (x, y) of a splat's box, and how many along x and y."""
  first, last = boxes.pixel_boxes(means, cholesky, height, width)
  touches = first <= last
  first //= TILE
  return first, jnp.where(touches, last // TILE - first + 1, 0)


def _cut_into_blocks(
    keys: UInt32[Array, ' chunk'], num_bins: int
) -> tuple[
    Int[Array, ' b'], Int[Array, ' b'], Int[Array, ' b'], Int[Array, '']
]:
  """Cuts sorted pairs, keys = bin * chunk + slot, into blocks within the bins.

  Returns:
    (bins, starts, stops, count): of each block its bin and its first pair, and
    the end of the bin; only the first `count` blocks are real.
  """
  chunk = keys.shape[0]
  edges = jnp.searchsorted(
      keys, jnp.arange(num_bins + 1, dtype=jnp.uint32) * chunk
  ).astype(jnp.int32)
  sizes = (edges[1:] - edges[:-1] + BLOCK - 1) // BLOCK
  ends = jnp.cumsum(sizes, dtype=jnp.int32)
  # Every bin wastes less than one block; rounded up to whole groups.
  capacity = -(-(chunk // BLOCK + min(num_bins, chunk)) // GROUP) * GROUP
  blocks = jnp.arange(capacity, dtype=jnp.int32)
  bins = jnp.searchsorted(ends, blocks, side='right')
  bins = jnp.minimum(bins, num_bins - 1).astype(jnp.int32)
  starts = edges[bins] + (blocks - (ends - sizes)[bins]) * BLOCK
  stops = jnp.where(blocks < ends[-1], edges[bins + 1], 0)
  return bins, starts, stops, ends[-1]


def _for_each_group(
    body: Callable[[Any, Array, Array], Any],
    carry: Any,
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    layer_sizes: tuple[int, ...],
    height: int,
    width: int,
) -> Any:
  """Folds `body(carry, bins, ids)` over all pairs of splats and tiles.

  A bin is layer * tiles + tile. `bins` is [GROUP]; `ids` is [GROUP, BLOCK], the
  splats of one block each, filled up with n.
  """
  num_splats = means.shape[0]
  num_rows, num_columns = _tile_grid(height, width)
  num_tiles = num_rows * num_columns
  num_bins = len(layer_sizes) * num_tiles
  first, span = _tile_boxes(means, cholesky, height, width)
  layers = np.repeat(np.arange(len(layer_sizes), dtype=np.int32), layer_sizes)
  base = first[:, 1] * num_columns + first[:, 0] + layers * num_tiles

  # A power of two for cheap division; bin * chunk + slot must fit in 32 bits.
  chunk = min(CHUNK, 1 << (num_splats * num_tiles - 1).bit_length())
  chunk = min(chunk, 1 << (2**32 // (num_bins + 1)).bit_length() - 1)
  most = max(PAIRS_MAX // num_tiles, 1)
  for offset in range(0, num_splats, most):
    part = slice(offset, min(offset + most, num_splats))
    columns, rows = span[part].T
    counts = columns * rows
    ends = jnp.cumsum(counts, dtype=jnp.int32)

    def chunk_body(
        i, carry, part=part, columns=columns, starts=ends - counts, ends=ends
    ):
      slots = jnp.arange(chunk, dtype=jnp.int32)
      pairs = i * chunk + slots
      ids = jnp.searchsorted(ends, pairs, side='right').astype(jnp.int32)
      ids = jnp.minimum(ids, ends.shape[0] - 1)
      row, column = jnp.divmod(
          pairs - starts[ids], jnp.maximum(columns, 1)[ids]
      )
      bins = base[part][ids] + row * num_columns + column
      bins = jnp.where(pairs < ends[-1], bins, num_bins)
      keys = bins.astype(jnp.uint32) * chunk + slots.astype(jnp.uint32)
      keys = jax.lax.sort(keys, is_stable=False)
      ids = part.start + ids[(keys % chunk).astype(jnp.int32)]
      block_bins, block_starts, block_stops, count = _cut_into_blocks(
          keys, num_bins
      )

      def group_body(j, carry):
        group = lambda x: jax.lax.dynamic_slice(x, (j * GROUP,), (GROUP,))
        entries = group(block_starts)[:, None] + np.arange(
            BLOCK, dtype=np.int32
        )
        inside = entries < group(block_stops)[:, None]
        entries = jnp.minimum(entries, chunk - 1)
        return body(
            carry,
            group(block_bins),
            jnp.where(inside, ids[entries], num_splats),
        )

      return jax.lax.fori_loop(0, -(-count // GROUP), group_body, carry)

    num_chunks = -(-ends[-1] // chunk)
    carry = jax.lax.fori_loop(0, num_chunks, chunk_body, carry)
  return carry


def _pad(
    means: Array, cholesky: Array, colors: Array
) -> Float[Array, 'n+1 5+c']:
  """Joins the parameters, with a last splat far outside: its weights are 0."""
  return jnp.concatenate(
      [
          jnp.pad(means, ((0, 1), (0, 0)), constant_values=-1e6),
          jnp.pad(cholesky, ((0, 1), (0, 0)), constant_values=1),
          jnp.pad(colors, ((0, 1), (0, 0))),
      ],
      axis=1,
  )


def _corners(num_layers: int, height: int, width: int, dtype: Any) -> Array:
  """Pixel coordinates (x, y) of the corner of every bin's tile, [bins, 2]."""
  y, x = (
      np.indices(_tile_grid(height, width), dtype=dtype).reshape(2, -1) * TILE
  )
  return jnp.tile(jnp.stack([x, y], axis=1), (num_layers, 1))


def _weigh(
    splats: Float[Array, 'g b 5+c'], corners: Float[Array, 'g 2']
) -> tuple[Float[Array, 'g b p'], Float[Array, 'g b x'], Float[Array, 'g b p']]:
  """(weights, z1, z2) at the pixels of the tiles; z1 once per column."""
  l11, l21, l22 = jnp.moveaxis(splats[..., 2:5, None], 2, 0)
  # Relative to the tile first: keeps sub-pixel accuracy far from the origin.
  local = splats[..., :2] - corners[:, None]
  columns, rows = (jnp.asarray(x, splats.dtype) for x in (_COLUMNS, _ROWS))
  # Flat from the start: where a loop over [TILE, TILE] ends in a reshape, XLA
  # on CPU divides integers for every pixel, 200 us instead of 33 a group.
  i11, i22 = 1 / l11, 1 / l22
  dx = columns - local[..., :1]
  z1 = i11 * dx
  z2 = i22 * (rows - local[..., 1:] - l21 * i11 * dx)
  s = (z1 * z1 + z2 * z2) / 2
  weights = jnp.where(s <= constants.S_MAX, jnp.exp(-s), 0)
  return weights, i11 * (columns[:TILE] - local[..., :1]), z2


def composite(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    colors: Float[Array, 'n c'],
    static: dispatch.Static,
    platform: str = '',
) -> Float[Array, 'l h w c']:
  """See `pallas_kernels.composite`; float32 or float64."""
  del platform  # Runs anywhere.
  layer_sizes, height, width = static
  num_layers, channels = len(layer_sizes), colors.shape[1]
  num_rows, num_columns = _tile_grid(height, width)
  splats = _pad(means, cholesky, colors)
  corners = _corners(num_layers, height, width, means.dtype)

  def body(tiles, bins, ids):
    group = splats[ids]
    weights, _, _ = _weigh(group, corners[bins])
    # As a product and a sum: 4x faster on CPU than a batched matrix product
    # with 3 columns.
    product = group[..., 5:, None] * weights[:, :, None]
    return tiles.at[bins].add(product.sum(axis=1))

  tiles = jnp.zeros(
      (num_layers * num_rows * num_columns, channels, PIXELS), means.dtype
  )
  images = _for_each_group(
      body, tiles, means, cholesky, layer_sizes, height, width
  )
  images = images.reshape(
      num_layers, num_rows, num_columns, channels, TILE, TILE
  )
  images = images.transpose(0, 1, 4, 2, 5, 3).reshape(
      num_layers, num_rows * TILE, num_columns * TILE, channels
  )
  return jnp.stack([*itertools.accumulate(images[:, :height, :width])])


def composite_vjp(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    colors: Float[Array, 'n c'],
    cotangents: Float[Array, 'l h w c'],
    static: dispatch.Static,
    platform: str = '',
) -> tuple[Array, Array, Array]:
  """Gradients of sum(images * cotangents)."""
  del platform
  layer_sizes, height, width = static
  num_layers, channels = len(layer_sizes), colors.shape[1]
  num_rows, num_columns = _tile_grid(height, width)
  splats = _pad(means, cholesky, colors)
  corners = _corners(num_layers, height, width, means.dtype)
  # A splat of layer j shows in every prefix k >= j: its cotangent is the suffix
  # sum. Pixels outside the picture keep 0.
  tiles = jnp.pad(
      jnp.stack([*itertools.accumulate(cotangents[::-1])][::-1]),
      (
          (0, 0),
          (0, num_rows * TILE - height),
          (0, num_columns * TILE - width),
          (0, 0),
      ),
  )
  tiles = tiles.reshape(
      num_layers, num_rows, TILE, num_columns, TILE, channels
  ).transpose(0, 1, 3, 5, 2, 4)
  tiles = tiles.reshape(-1, channels, PIXELS)

  def body(gradients, bins, ids):
    group = splats[ids]
    weights, z1, z2 = _weigh(group, corners[bins])
    cotangent = tiles[bins]
    grad_colors = jnp.einsum(
        'gbp,gcp->gbc', weights, cotangent, precision=_HIGHEST
    )
    # g = dloss/ds; its moments v = sum g z, V = sum g z z^T over the pixels
    # give dloss/dmean = -L^-T v and dloss/dL = -tril(L^-T V).
    g = -weights * jnp.einsum(
        'gbc,gcp->gbp', group[..., 5:], cotangent, precision=_HIGHEST
    )
    # Summed over rows as one matrix product for the group: on CPU 18 us
    # against 90 us as reductions.
    g, g2, g22 = (
        jnp.matmul(x, _SUM_ROWS.astype(x.dtype), precision=_HIGHEST)
        for x in (g, g * z2, g * z2 * z2)
    )
    v1, v2, v11, v12, v22 = (
        x.sum(axis=-1) for x in (g * z1, g2, g * z1 * z1, g2 * z1, g22)
    )
    l11, l21, l22 = jnp.moveaxis(group[..., 2:5], -1, 0)
    slope = l21 / l22
    moments = jnp.stack(
        [
            -(v1 - slope * v2) / l11,
            -v2 / l22,
            -(v11 - slope * v12) / l11,
            -v12 / l22,
            -v22 / l22,
        ],
        axis=-1,
    )
    return gradients.at[ids].add(
        jnp.concatenate([moments, grad_colors], axis=-1)
    )

  gradients = _for_each_group(
      body,
      jnp.zeros_like(splats),
      means,
      cholesky,
      layer_sizes,
      height,
      width,
  )[:-1]
  return gradients[:, :2], gradients[:, 2:5], gradients[:, 5:]
