"""The `triton` implementation: Pallas kernels for CUDA devices.

Forward, the work is cut by pixels: a program composites one tile of the picture
from the list of the splats that touch it, in layer order, and stores the
running sum after each layer. The lists are built on the device: the pairs of a
splat and a tile that its box touches are enumerated splat after splat, and a
stable sort by bin (tile, then layer) gathers those of one bin.

Backward, the work is cut by splats: a program takes the box of one splat, or a
part of it (a job), reads the cotangents of the pixels there and sums in
registers. No tile lists, no sorting, no atomics: every job owns its slot of a
buffer, and the slots of a splat are adjacent and summed in their order, so the
same input gives the same bits. A box that need not be aligned with tiles holds
less than half of the pixels that the tiles of a splat hold.

Arrays have static sizes and the numbers of pairs and jobs do not, so both are
taken in windows of a static capacity, under a loop on the device: a capacity
that is too small costs another round, never a splat.

Without a CUDA device the same kernels run in Pallas' interpreter, slowly: for
tests. Every array inside a kernel has a power of two as size, as Triton wants.
"""

from collections.abc import Callable
import dataclasses
import functools
import itertools
import math
from typing import Any, TypeVar

import jax
from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array, Float, Int
import numpy as np

from pallas_kernels import boxes
from pallas_kernels import constants
from pallas_kernels import dispatch

_T = TypeVar('_T')

TILE = 16
PIXELS = TILE * TILE

# More channels than these are composited in groups.
_CHANNELS = 3
# weight = exp(-|z|^2 / 2) = 2^-|t|^2 with t = _SCALE z, both kept in t.
_SCALE = math.sqrt(0.5 * math.log2(math.e))
_T_MAX = constants.S_MAX * math.log2(math.e)
# Numbers that a job leaves: 5 moments and a sum per channel.
_SUMS = 8
# Pairs that one round counts in 32 bits; one splat has at most 2^23.
_ROUND = 2**30
# Numbers that a program of the search looks up.
_SEARCHES = 256
# Triton and Pallas index in 32 bits.
_MAX_SIZE = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
  """What decides speed and memory, and nothing else.

  `launch.benchmark --tune` times variants on the device at hand.
  """

  # Splats that a program of the forward pass has in flight.
  unroll: int = 4
  # Warps of a program, for 256 pixels at a time. Few: a warp that has several
  # pixels a thread loads a splat once for all of them, and one warp alone sums
  # over its threads without shared memory.
  forward_warps: int = 2
  backward_warps: int = 1
  # Pieces of 16x16 pixels that one job sums before it reduces over its threads.
  pieces: int = 8
  # Programs of the backward pass, each of which takes jobs in turn. Some times
  # as many as fit on the device at one time (18 a multiprocessor, 2,376 on an
  # H200), so that what is left when the first ones end is dealt out evenly.
  programs: int = 8192
  # Capacity of a window of pairs: as many per splat and per tile. A second
  # window costs more than room that is not used. Counted in fits to Kodak
  # pictures, of 1,536 tiles: 79,000 pairs of 960 splats, 121,000 of 3,900, and
  # 137,000 of 10,000.
  pairs_per_splat: int = 10
  pairs_per_tile: int = 72
  # The same of jobs: 10,000, 16,000 and 21,000 there.
  jobs_per_splat: int = 3
  jobs_per_tile: int = 8

  def pair_capacity(self, num_splats: int, num_tiles: int) -> int:
    """Pairs of a window, no more than there can be."""
    room = self.pairs_per_splat * num_splats + self.pairs_per_tile * num_tiles
    return min(room, num_splats * num_tiles)

  def job_capacity(self, num_splats: int, num_tiles: int) -> int:
    """Jobs of a window, no more than there can be."""
    room = self.jobs_per_splat * num_splats + self.jobs_per_tile * num_tiles
    return min(room, num_splats * num_tiles)


def _require_support(
    colors: Array, static: dispatch.Static, platform: str
) -> None:
  if platform not in ('cuda', 'cpu'):
    raise NotImplementedError(f'runs on CUDA devices, not {platform}')
  if colors.dtype != jnp.float32:
    raise NotImplementedError(f'computes in float32, not {colors.dtype}')
  layer_sizes, height, width = static
  if len(layer_sizes) * height * width * _CHANNELS > _MAX_SIZE:
    raise NotImplementedError(
        f'{len(layer_sizes)} images of {width}x{height} pixels have more than'
        ' 2^31 values'
    )


def _call(
    kernel: Callable[..., None],
    *,
    programs: int,
    outputs: Any,
    num_warps: int,
    interpret: bool,
    name: str,
) -> Callable[..., Any]:
  """A pallas_call whose operands are plain pointers to flat arrays."""
  whole = pl.BlockSpec(memory_space=pl.ANY)
  return pl.pallas_call(
      kernel,
      grid=(programs,),
      out_shape=outputs,
      out_specs=whole,
      # Given explicitly, they select the Triton backend on every JAX version.
      compiler_params=plt.CompilerParams(num_warps=num_warps, num_stages=1),
      interpret=interpret,
      name=name,
  )


def _search_kernel(sorted_ref, offset_ref, found_ref, *, size, right):
  """Where `offset + i` belongs in a sorted array; a block of i a program."""
  slots = pl.program_id(0) * _SEARCHES + lax.iota(jnp.int32, _SEARCHES)
  query = offset_ref[0] + slots
  low = jnp.zeros(_SEARCHES, jnp.int32)

  def halve(k, low):
    # Invariant: all entries before `low` are on the left of the query.
    probe = low + (1 << (size.bit_length() - 1 - k)) - 1
    entry = plt.load(sorted_ref.at[probe], mask=probe < size, other=_MAX_SIZE)
    is_left = (entry <= query) if right else (entry < query)
    return jnp.where(is_left & (probe < size), probe + 1, low)

  low = lax.fori_loop(0, size.bit_length(), halve, low)
  plt.store(found_ref.at[slots], low)


def _search(
    entries: Int[Array, ' n'],
    offset: Int[Array, ''],
    count: int,
    *,
    right: bool,
    interpret: bool,
) -> Int[Array, ' count']:
  """`searchsorted(entries, offset + arange(count))` as one kernel.

  jnp.searchsorted is a kernel for every few steps of the search.
  """
  blocks = -(-count // _SEARCHES)
  return _call(
      functools.partial(_search_kernel, size=entries.shape[0], right=right),
      programs=blocks,
      outputs=jax.ShapeDtypeStruct((blocks * _SEARCHES,), jnp.int32),
      num_warps=4,
      interpret=interpret,
      name='splat_search',
  )(entries, offset.reshape(1))[:count]


def _for_each_window(
    body: Callable[[_T, Any, Any, Any], _T],
    carry: _T,
    counts: Int[Array, ' n'],
    most: int,
    capacity: int,
    interpret: bool,
) -> _T:
  """Folds `body(carry, ids, ranks, runs)` over windows of numbered items.

  Items are numbered splat after splat, counts[n] of them for splat n. A window
  holds `capacity` items in order; `ids` are their splats (n past the last
  item), `ranks` their numbers within the splat, and `runs` = (starts, stops)
  the window's slots of each splat.

  Args:
    body: what to do with a window.
    carry: what it starts from.
    counts: items per splat.
    most: bound of a count.
    capacity: items of a window.
    interpret: run kernels in the interpreter.

  Returns:
    The last carry.
  """
  n = counts.shape[0]
  slots = np.arange(capacity, dtype=np.int32)
  # Sums of more than 2^31 would wrap around: such splats are taken in rounds.
  in_rounds = n * most > _ROUND

  def window(carry, first, offset):
    """The items from `offset` on of the round that starts at splat `first`."""
    if in_rounds:
      later = jnp.arange(n, dtype=jnp.int32) >= first
      ends = jnp.cumsum(jnp.where(later, counts, 0), dtype=jnp.int32)
      over = ends > _ROUND
      # The first end that is over has not wrapped around yet.
      stop = jnp.where(over.any(), jnp.argmax(over).astype(jnp.int32), n)
      ends = jnp.minimum(ends, ends[stop - 1])
      ends = jnp.where(np.arange(n) < stop, ends, ends[stop - 1])
    else:
      stop = n
      ends = jnp.cumsum(counts, dtype=jnp.int32)
    total = ends[-1]
    starts = jnp.concatenate([jnp.zeros(1, jnp.int32), ends[:-1]])
    items = offset + slots
    ids = _search(ends, offset, capacity, right=True, interpret=interpret)
    ranks = items - starts[jnp.minimum(ids, n - 1)]
    runs = jnp.clip(starts - offset, 0, capacity), jnp.clip(
        ends - offset, 0, capacity
    )
    carry = body(carry, ids, ranks, runs)
    offset += capacity
    is_last = offset >= total
    return (
        carry,
        jnp.where(is_last, stop, first).astype(jnp.int32),
        jnp.where(is_last, 0, offset).astype(jnp.int32),
    )

  state = carry, jnp.int32(0), jnp.int32(0)
  if not interpret:
    # The first window, nearly always the only one, stands before the loop: a
    # loop's condition is a round trip to the host.
    state = window(*state)
  return lax.while_loop(
      lambda state: state[1] < n, lambda state: window(*state), state
  )[0]


def _pack(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    colors: Float[Array, 'n c'],
) -> Float[Array, ' n*8']:
  """(x, y, m11, m21, m22, colors...) of each splat, t = M (p - mean)."""
  l11, l21, l22 = cholesky.T
  m11, m22 = _SCALE / l11, _SCALE / l22
  columns = [*means.T, m11, -(l21 / l11) * m22, m22, *colors.T]
  columns += [jnp.zeros_like(l11)] * (_SUMS - len(columns))
  return jnp.stack(columns, axis=1).ravel()


def _tile_boxes(first, last):
  """First tile (x, y) of a pixel box, and how many along x and y."""
  touches = first <= last
  first = first // TILE
  return first, jnp.where(touches, last // TILE - first + 1, 0)


def _touches(
    means: Float[Array, 'p 2'],
    cholesky: Float[Array, 'p 3'],
    column: Int[Array, ' p'],
    row: Int[Array, ' p'],
) -> Array:
  """Whether the cut-off ellipse may touch the pixel centres of a tile.

  Within rows va..vb (relative to the mean) the ellipse is widest to the right
  at v = k l21 or at the nearest bound, since its edge is concave there; to the
  left at v = -k l21.
  """
  l11, l21, l22 = cholesky.T
  # Of a factor with negative diagonals, the one with positive ones.
  l11, l21, l22 = jnp.abs(l11), l21 * jnp.sign(l11), jnp.abs(l22)
  k = constants.CUTOFF_SIGMAS * boxes.SLACK_RELATIVE
  slack = boxes.SLACK_PIXELS
  sigma = jnp.hypot(l21, l22)
  extent = k * sigma
  x = (column * TILE).astype(means.dtype) + 0.5 - means[:, 0]
  y = (row * TILE).astype(means.dtype) + 0.5 - means[:, 1]
  low = jnp.maximum(y - slack, -extent)
  high = jnp.minimum(y + (TILE - 1 + slack), extent)
  slope, half = l11 / sigma * l21 / sigma, k * l11 * l22 / sigma

  def edge(sign):
    v = jnp.clip(sign * k * l21, low, high)
    u = v / extent
    return slope * v + sign * half * jnp.sqrt(jnp.maximum(1 - u * u, 0))

  return (
      (low <= high)
      & (edge(-1) - slack <= x + (TILE - 1))
      & (edge(1) + slack >= x)
  )


def _composite_kernel(
    edges_ref,
    ids_ref,
    splats_ref,
    images_ref,
    *,
    num_layers,
    height,
    width,
    channels,
    unroll,
):
  """Composites one tile; program t takes tile t (row-major)."""
  tile = pl.program_id(0)
  num_columns = -(-width // TILE)
  left = tile % num_columns * TILE
  top = tile // num_columns * TILE
  pixels = lax.iota(jnp.int32, PIXELS)
  column, row = pixels % TILE, pixels // TILE
  inside = (left + column < width) & (top + row < height)
  place = (top + row) * width + left + column
  x = column.astype(jnp.float32) + 0.5
  y = row.astype(jnp.float32) + 0.5

  def add_splats(first, stop, sums):
    for i in range(unroll):
      live = first + i < stop
      at = ids_ref[jnp.minimum(first + i, stop - 1)] * _SUMS
      # Relative to the tile first: keeps sub-pixel accuracy far away from the
      # origin.
      dx = x - (splats_ref[at] - left.astype(jnp.float32))
      dy = y - (splats_ref[at + 1] - top.astype(jnp.float32))
      t1 = splats_ref[at + 2] * dx
      t2 = splats_ref[at + 4] * dy + splats_ref[at + 3] * dx
      t = t1 * t1 + t2 * t2
      weight = jnp.where((t <= _T_MAX) & live, jnp.exp2(-t), 0.0)
      sums = tuple(
          total + splats_ref[at + 5 + c] * weight
          for c, total in enumerate(sums)
      )
    return sums

  def add_layer(layer, sums):
    first = edges_ref[tile * num_layers + layer]
    stop = edges_ref[tile * num_layers + layer + 1]
    sums = lax.fori_loop(
        0,
        (stop - first + unroll - 1) // unroll,
        lambda j, sums: add_splats(first + j * unroll, stop, sums),
        sums,
    )
    for c in range(channels):
      at = (layer * channels + c) * (height * width) + place
      plt.store(images_ref.at[at], sums[c], mask=inside)
    return sums

  zero = jnp.zeros(PIXELS, jnp.float32)
  lax.fori_loop(0, num_layers, add_layer, (zero,) * channels)


def _composite_planes(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    colors: Float[Array, 'n c'],
    static: dispatch.Static,
    platform: str,
    tuning: Tuning,
) -> Float[Array, 'l c h w']:
  """Prefix images, channels first: so the threads of a row write neighbours."""
  _require_support(colors, static, platform)
  interpret = platform != 'cuda'
  layer_sizes, height, width = static
  num_splats, channels = colors.shape
  num_layers = len(layer_sizes)
  num_columns, num_rows = -(-width // TILE), -(-height // TILE)
  num_tiles = num_columns * num_rows
  num_bins = num_tiles * num_layers
  if not num_splats:
    return jnp.zeros((num_layers, channels, height, width), means.dtype)

  first, span = _tile_boxes(*boxes.pixel_boxes(means, cholesky, height, width))
  layers = np.repeat(np.arange(num_layers, dtype=np.int32), layer_sizes)
  groups = [
      _pack(means, cholesky, colors[:, c : c + _CHANNELS])
      for c in range(0, channels, _CHANNELS)
  ]

  def add_window(images, ids, ranks, runs):
    del runs
    splat = jnp.minimum(ids, num_splats - 1)
    across = jnp.maximum(span[splat, 0], 1)
    column = first[splat, 0] + ranks % across
    row = first[splat, 1] + ranks // across
    keep = _touches(means[splat], cholesky[splat], column, row)
    bins = (row * num_columns + column) * num_layers + jnp.asarray(layers)[
        splat
    ]
    bins = jnp.where((ids < num_splats) & keep, bins, num_bins)
    # Stable: pairs of a bin stay in the order of the splats. Unsigned and short
    # if possible: XLA hands such pairs to CUB's radix sort, a pass for every
    # eight bits.
    keys = bins.astype(jnp.uint16 if num_bins < 2**16 else jnp.uint32)
    keys, splat = lax.sort((keys, splat), num_keys=1, is_stable=True)
    bins = keys.astype(jnp.int32)
    edges = _search(
        bins, jnp.int32(0), num_bins + 1, right=False, interpret=interpret
    )
    return tuple(
        image
        + _call(
            functools.partial(
                _composite_kernel,
                num_layers=num_layers,
                height=height,
                width=width,
                channels=image.shape[1],
                unroll=tuning.unroll,
            ),
            programs=num_tiles,
            outputs=jax.ShapeDtypeStruct((image.size,), jnp.float32),
            num_warps=tuning.forward_warps,
            interpret=interpret,
            name='splat_composite',
        )(edges, splat, packed).reshape(image.shape)
        for packed, image in zip(groups, images, strict=True)
    )

  images = _for_each_window(
      add_window,
      tuple(
          jnp.zeros(
              (num_layers, min(_CHANNELS, channels - c), height, width),
              jnp.float32,
          )
          for c in range(0, channels, _CHANNELS)
      ),
      span[:, 0] * span[:, 1],
      num_tiles,
      tuning.pair_capacity(num_splats, num_tiles),
      interpret,
  )
  return jnp.concatenate(images, axis=1)


def composite(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    colors: Float[Array, 'n c'],
    static: dispatch.Static,
    platform: str,
    tuning: Tuning = Tuning(),
) -> Float[Array, 'l h w c']:
  """See `pallas_kernels.composite`."""
  planes = _composite_planes(means, cholesky, colors, static, platform, tuning)
  return jnp.moveaxis(planes, 1, -1)


def _gradient_kernel(
    ids_ref,
    ranks_ref,
    count_ref,
    splats_ref,
    boxes_ref,
    cotangents_ref,
    sums_ref,
    *,
    height,
    width,
    channels,
    pieces,
    programs,
):
  """Sums over the pixels of jobs; program i takes jobs i, i + programs, ...

  With g = dloss/ds at each pixel, s = |z|^2 / 2: the sums of g t and g t t^T,
  and dloss/dcolor.
  """
  program = pl.program_id(0)
  pixels = lax.iota(jnp.int32, PIXELS)
  column, row = pixels % TILE, pixels // TILE

  def do_job(i, carry):
    job = program + i * programs
    splat = ids_ref[job]
    x, y, m11, m21, m22 = (splats_ref[splat * _SUMS + k] for k in range(5))
    colors = [splats_ref[splat * _SUMS + 5 + c] for c in range(channels)]
    left, top, across, num_pieces, layer = (
        boxes_ref[splat * 5 + k] for k in range(5)
    )
    first = ranks_ref[job] * pieces

    def add_piece(piece, sums):
      # Python's // and % round down, with five times as many instructions.
      down = lax.div(piece, across)
      piece_left = left + (piece - down * across) * TILE
      piece_top = top + down * TILE
      inside = (piece_left + column < width) & (piece_top + row < height)
      place = (piece_top + row) * width + piece_left + column
      dx = column.astype(jnp.float32) + (
          0.5 - (x - piece_left.astype(jnp.float32))
      )
      dy = row.astype(jnp.float32) + (0.5 - (y - piece_top.astype(jnp.float32)))
      t1 = m11 * dx
      t2 = m22 * dy + m21 * dx
      t = t1 * t1 + t2 * t2
      inside &= t <= _T_MAX
      weight = jnp.where(inside, jnp.exp2(-t), 0.0)
      shade = jnp.zeros(PIXELS, jnp.float32)
      in_colors = []
      for c in range(channels):
        at = (layer * channels + c) * (height * width) + place
        cotangent = plt.load(cotangents_ref.at[at], mask=inside, other=0.0)
        in_colors.append(weight * cotangent)
        shade += colors[c] * cotangent
      g = -weight * shade
      terms = g * t1, g * t2, g * t1 * t1, g * t1 * t2, g * t2 * t2, *in_colors
      return tuple(total + term for total, term in zip(sums, terms))

    zero = jnp.zeros(PIXELS, jnp.float32)
    sums = lax.fori_loop(
        first,
        jnp.minimum(first + pieces, num_pieces),
        add_piece,
        (zero,) * (5 + channels),
    )
    for k, total in enumerate(sums):
      sums_ref[job * _SUMS + k] = jnp.sum(total)
    return carry

  num_jobs = (count_ref[0] - program + programs - 1) // programs
  lax.fori_loop(0, num_jobs, do_job, jnp.int32(0))


_BLOCK = 32


def _sum_runs_kernel(starts_ref, stops_ref, sums_ref, out_ref, *, n, programs):
  """Sums the slots of each splat; program i takes splats i, i + programs..."""
  program = pl.program_id(0)
  slot = lax.broadcasted_iota(jnp.int32, (_BLOCK, _SUMS), 0)
  entry = lax.broadcasted_iota(jnp.int32, (_BLOCK, _SUMS), 1)

  def do_splat(i, carry):
    splat = program + i * programs
    start, stop = starts_ref[splat], stops_ref[splat]

    def add_block(j, total):
      slots = start + j * _BLOCK + slot
      block = plt.load(
          sums_ref.at[slots * _SUMS + entry], mask=slots < stop, other=0.0
      )
      return total + jnp.sum(block, axis=0)

    total = lax.fori_loop(
        0,
        (stop - start + _BLOCK - 1) // _BLOCK,
        add_block,
        jnp.zeros(_SUMS, jnp.float32),
    )
    out_ref[pl.ds(splat * _SUMS, _SUMS)] = total
    return carry

  num_splats = (n - program + programs - 1) // programs
  lax.fori_loop(0, num_splats, do_splat, jnp.int32(0))


def _vjp_of_planes(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    colors: Float[Array, 'n c'],
    cotangents: Float[Array, 'l c h w'],
    static: dispatch.Static,
    platform: str,
    tuning: Tuning,
) -> tuple[Array, Array, Array]:
  """Gradients of sum(planes * cotangents)."""
  _require_support(colors, static, platform)
  layer_sizes, height, width = static
  num_splats, channels = colors.shape
  if not num_splats:
    return means, cholesky, colors
  # The interpreter runs programs one by one, and copies all outputs for each.
  interpret = platform != 'cuda'
  programs = 4 if interpret else tuning.programs

  # A splat of layer j shows in every prefix k >= j: its cotangent is the suffix
  # sum.
  planes = jnp.stack([*itertools.accumulate(cotangents[::-1])][::-1])
  first, last = boxes.pixel_boxes(means, cholesky, height, width)
  across, down = ((last - first + TILE) // TILE).T
  num_pieces = across * down
  layers = np.repeat(np.arange(len(layer_sizes), dtype=np.int32), layer_sizes)
  frames = jnp.stack([*first.T, across, num_pieces, layers], axis=1).ravel()
  most = -(-width // TILE) * -(-height // TILE)
  capacity = tuning.job_capacity(num_splats, most)

  def add_window(gradients, ids, ranks, runs):
    starts, stops = runs
    results = []
    for gradient, c in zip(gradients, range(0, channels, _CHANNELS)):
      group = slice(c, c + _CHANNELS)
      num_channels = colors[:, group].shape[1]
      sums = _call(
          functools.partial(
              _gradient_kernel,
              height=height,
              width=width,
              channels=num_channels,
              pieces=tuning.pieces,
              programs=min(programs, capacity),
          ),
          programs=min(programs, capacity),
          outputs=jax.ShapeDtypeStruct((capacity * _SUMS,), jnp.float32),
          num_warps=tuning.backward_warps,
          interpret=interpret,
          name='splat_gradient',
      )(
          ids,
          ranks,
          stops[-1:],
          _pack(means, cholesky, colors[:, group]),
          frames,
          planes[:, group].ravel(),
      )
      total = _call(
          functools.partial(
              _sum_runs_kernel,
              n=num_splats,
              programs=min(programs, num_splats),
          ),
          programs=min(programs, num_splats),
          outputs=jax.ShapeDtypeStruct((num_splats * _SUMS,), jnp.float32),
          num_warps=1,
          interpret=interpret,
          name='splat_sum_runs',
      )(starts, stops, sums)
      results.append(gradient + total.reshape(num_splats, _SUMS))
    return tuple(results)

  num_groups = -(-channels // _CHANNELS)
  groups = _for_each_window(
      add_window,
      (jnp.zeros((num_splats, _SUMS), jnp.float32),) * num_groups,
      -(-num_pieces // tuning.pieces),
      most,
      capacity,
      interpret,
  )
  # v = sum g z and V = sum g z z^T give dloss/dmean = -L^-T v and dloss/dL =
  # the lower triangle of -L^-T V.
  moments = sum(group[:, :5] for group in groups)
  v1, v2 = moments[:, :2].T / _SCALE
  v11, v12, v22 = moments[:, 2:].T / _SCALE**2
  l11, l21, l22 = cholesky.T
  slope = l21 / l22
  grad_means = [(slope * v2 - v1) / l11, -v2 / l22]
  grad_cholesky = [(slope * v12 - v11) / l11, -v12 / l22, -v22 / l22]
  grad_colors = [group[:, 5:] for group in groups]
  return (
      jnp.stack(grad_means, axis=1),
      jnp.stack(grad_cholesky, axis=1),
      jnp.concatenate(grad_colors, axis=1)[:, :channels],
  )


def composite_vjp(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    colors: Float[Array, 'n c'],
    cotangents: Float[Array, 'l h w c'],
    static: dispatch.Static,
    platform: str,
    tuning: Tuning = Tuning(),
) -> tuple[Array, Array, Array]:
  """Gradients of sum(images * cotangents)."""
  cotangents = jnp.moveaxis(cotangents, -1, 1)
  return _vjp_of_planes(
      means, cholesky, colors, cotangents, static, platform, tuning
  )


def composite_error(
    means: Float[Array, 'n 2'],
    cholesky: Float[Array, 'n 3'],
    colors: Float[Array, 'n c'],
    target: Float[Array, 'h w c'],
    pixel_weights: Float[Array, 'h w'],
    level_weights: Float[Array, ' l'],
    static: dispatch.Static,
    platform: str,
    tuning: Tuning = Tuning(),
) -> tuple[Array, ...]:
  """See `pallas_kernels.composite_error`; channels stay first throughout."""
  splats = means, cholesky, colors
  planes = _composite_planes(*splats, static, platform, tuning)
  differences = planes - jnp.moveaxis(target, -1, 0)
  weighted = pixel_weights * differences
  errors = jnp.sum(weighted * differences, axis=(1, 2, 3))
  cotangents = 2 * level_weights[:, None, None, None] * weighted
  return errors, *_vjp_of_planes(*splats, cotangents, static, platform, tuning)
