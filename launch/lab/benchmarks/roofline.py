"""How much work a benchmark does, and how much the device could do.

Work is counted, not estimated: the weights exp(-s) inside the cut-off, pixel by
pixel, the evaluations that the tiles of an implementation make for them, the
operations a weight needs and the bytes that must be moved. Ceilings are
measured on the device at hand with small loops. A share of a ceiling is the
time that the counted work would take at that rate, over the time it took; no
program can be faster than its largest share allows.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math
import time

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from pallas_kernels import constants
from pallas_kernels import cpu_kernels
from pallas_kernels import triton
from pallas_kernels import xla

from . import workloads

# Splats whose rows are counted at a time: bounds the memory.
_PART = 2**14

# Of each loop, to take the fastest.
_RUNS = 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operations:
  """Floating-point operations of one kind of work.

  Attributes:
    add_mul: additions, subtractions and products on their own.
    fma: products with a sum behind them, one instruction, two flops.
    exp: exponentials.
  """

  add_mul: int
  fma: int
  exp: int

  def __add__(self, other: 'Operations') -> 'Operations':
    return Operations(
        add_mul=self.add_mul + other.add_mul,
        fma=self.fma + other.fma,
        exp=self.exp + other.exp,
    )

  @property
  def slots(self) -> int:
    """Instructions at the rate of an FMA."""
    return self.add_mul + self.fma

  @property
  def flops(self) -> int:
    """As usually told: an FMA is two, an exponential one."""
    return self.add_mul + 2 * self.fma + self.exp


def operations(channels: int) -> dict[str, Operations]:
  """Operations a weight, of each pass over the weights.

  Counted by hand from the formulas of `pallas_kernels.composite`, elementwise:
  nothing is shared among the pixels of a row or column. What is done once a
  splat or once a pixel (the inverse of L, errors, sums over prefixes) is left
  out, and so are comparisons.

  Args:
    channels: of the picture.

  Returns:
    By pass: `weigh` (w = exp(-s)), `accumulate` (into the image), `gradient`
    (from w and the cotangents of the pixel, summed over pixels).
  """
  return {
      # dx, dy: 2; z1 = i11 dx: 1; z2 = i22 dy + i21 dx: 1 and an FMA;
      # s = z1 z1 + z2 z2: 1 and an FMA; exp(-s).
      'weigh': Operations(add_mul=5, fma=2, exp=1),
      # image[c] += color[c] w.
      'accumulate': Operations(add_mul=0, fma=channels, exp=0),
      # grad_color[c] += w cotangent[c]: an FMA a channel; the product of color
      # and cotangent: 1 and channels - 1 FMAs; g = -w times it: 1;
      # g z1, g z2: 2, and their sums: 2; the sums of g z1 z1, g z1 z2, g z2 z2:
      # 3 FMAs.
      'gradient': Operations(add_mul=6, fma=2 * channels + 2, exp=0),
  }


def count_operations(passes: Sequence[str], channels: int) -> Operations:
  """Operations a weight of several passes together."""
  table = operations(channels)
  zero = Operations(add_mul=0, fma=0, exp=0)
  return sum((table[name] for name in passes), zero)


def _row_spans(
    means: Float[np.ndarray, 'n 2'],
    cholesky: Float[np.ndarray, 'n 3'],
    height: int,
    width: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """The pixels inside the cut-off, as runs in rows of the picture.

  In a row, the ellipse of the cut-off is an interval about a centre that moves
  along the regression line of x on y.

  Returns:
    (splat, row, first column, last column) of every run; runs of one splat
    follow one another from top to bottom, and none is empty.
  """
  x, y = means.astype(np.float64).T
  l11, l21, l22 = cholesky.astype(np.float64).T
  sigma_y = np.hypot(l21, l22)
  extent = constants.CUTOFF_SIGMAS * sigma_y
  first = np.maximum(np.ceil(y - extent - 0.5), 0).astype(int)
  last = np.minimum(np.floor(y + extent - 0.5), height - 1).astype(int)
  counts = np.maximum(last - first + 1, 0)
  ids = np.repeat(np.arange(len(y)), counts)
  starts = np.cumsum(counts) - counts
  rows = first[ids] + np.arange(len(ids)) - starts[ids]

  dy = (rows + 0.5 - y[ids]) / sigma_y[ids]
  centre = x[ids] + (l11 * l21 / sigma_y)[ids] * dy
  half = (l11 * l22 / sigma_y)[ids] * np.sqrt(
      np.maximum(constants.CUTOFF_SIGMAS**2 - dy**2, 0)
  )
  left = np.maximum(np.ceil(centre - half - 0.5), 0).astype(int)
  right = np.minimum(np.floor(centre + half - 0.5), width - 1).astype(int)
  inside = left <= right
  return ids[inside], rows[inside], left[inside], right[inside]


@functools.cache
def count_weights(shape: workloads.Shape) -> int:
  """Pairs of a splat and a pixel of the picture inside its cut-off, exactly."""
  means, cholesky, _ = workloads.make_splats(shape)
  total = 0
  for start in range(0, len(means), _PART):
    part = slice(start, start + _PART)
    _, _, left, right = _row_spans(
        means[part], cholesky[part], shape.height, shape.width
    )
    total += int((right - left + 1).sum())
  return total


def _count_tile_spans(shape: workloads.Shape, tile: int) -> int:
  """Pairs of a splat and a tile, in each row of tiles from first to last."""
  means, cholesky, _ = workloads.make_splats(shape)
  total = 0
  for start in range(0, len(means), _PART):
    part = slice(start, start + _PART)
    ids, rows, left, right = _row_spans(
        means[part], cholesky[part], shape.height, shape.width
    )
    keys = ids * shape.height + rows // tile
    begins = np.flatnonzero(np.diff(keys, prepend=-1))
    if len(begins):
      first = np.minimum.reduceat(left, begins) // tile
      last = np.maximum.reduceat(right, begins) // tile
      total += int((last - first + 1).sum())
  return total


def _boxes(
    means: Float[np.ndarray, 'n 2'],
    cholesky: Float[np.ndarray, 'n 3'],
    shape: workloads.Shape,
) -> tuple[np.ndarray, np.ndarray]:
  """First and last pixel (x, y) of the box around each splat's cut-off."""
  l11, l21, l22 = cholesky.T
  extent = constants.CUTOFF_SIGMAS * np.stack([l11, np.hypot(l21, l22)], 1)
  end = np.array([shape.width - 1, shape.height - 1])
  first = np.maximum(np.ceil(means - extent - 0.5), 0).astype(int)
  last = np.minimum(np.floor(means + extent - 0.5), end).astype(int)
  return first, last


def _count_boxed_blocks(shape: workloads.Shape, tile: int, block: int) -> int:
  """Blocks of splats, by layer and tile, of the tiles that boxes touch."""
  means, cholesky, _ = workloads.make_splats(shape)
  first, last = _boxes(means, cholesky, shape)
  touches = np.all(first <= last, axis=1)
  layers = np.repeat(np.arange(len(shape.layer_sizes)), shape.layer_sizes)
  layers = layers[touches]
  first = first[touches] // tile
  columns, rows = (last[touches] // tile - first + 1).T

  num_columns, num_rows = -(-shape.width // tile), -(-shape.height // tile)
  counts = columns * rows
  ids = np.repeat(np.arange(len(counts)), counts)
  k = np.arange(len(ids)) - (np.cumsum(counts) - counts)[ids]
  row, column = (
      first[ids, 1] + k // columns[ids],
      first[ids, 0] + k % columns[ids],
  )
  bins = (layers[ids] * num_rows + row) * num_columns + column
  return int((-(-np.bincount(bins) // block)).sum())


def _count_pieces(shape: workloads.Shape, tile: int) -> int:
  """Pieces of a tile's size that the boxes of all splats are cut into."""
  means, cholesky, _ = workloads.make_splats(shape)
  first, last = _boxes(means, cholesky, shape)
  sizes = np.maximum(last - first + tile, 0) // tile
  return int(sizes.prod(axis=1).sum())


@functools.cache
def count_evaluations(
    shape: workloads.Shape, implementation: str, passes: tuple[str, ...]
) -> int | None:
  """Weights that an implementation evaluates, inside of the cut-off or not.

  Whole tiles of `cpu` along the ellipse; of `xla` along the box of the splat,
  with the padding of its blocks (not that of groups and chunks, under one in a
  hundred of a large picture); of `triton` tiles along the ellipse forward and
  pieces of the box backward. Once for a pass, also where a pass forward and one
  backward are one program.

  Args:
    shape: what is worked on.
    implementation: of the operator.
    passes: as in `operations`.

  Returns:
    The number; None of an implementation whose work nobody has counted.
  """
  match implementation:
    case 'reference':
      return shape.num_splats * shape.height * shape.width
    case 'cpu':
      return _count_tile_spans(shape, cpu_kernels.TILE) * cpu_kernels.PIXELS
    case 'xla':
      blocks = _count_boxed_blocks(shape, xla.TILE, xla.BLOCK)
      return blocks * xla.BLOCK * xla.PIXELS
    case 'triton' if 'gradient' in passes:
      return _count_pieces(shape, triton.TILE) * triton.PIXELS
    case 'triton':
      return _count_tile_spans(shape, triton.TILE) * triton.PIXELS
  return None


@dataclasses.dataclass(frozen=True)
class Ceilings:
  """What some devices do together in a second, at best.

  Attributes:
    fma: additions, products or FMAs of float32.
    exp: exponentials of float32.
    num_bytes: read or written.
    cores: at work meanwhile, in the loops for each of the three; None where
      not on CPU.
  """

  fma: float
  exp: float
  num_bytes: float
  cores: tuple[float, float, float] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Loop:
  """A loop over an array.

  Attributes:
    size: of the array.
    trips: over the array.
    chains: independent ones for each element, which hide latency.
    length: of a chain of dependent operations.
  """

  size: int
  trips: int
  chains: int = 1
  length: int = 1


# On CPU small arrays: XLA shares larger ones among all cores, also those of the
# other devices. Runs of a millisecond, so that the fastest of many is one
# that no other process broke off. Measured on one core of a Xeon with AVX-512:
# 56 G FMAs a second, what two 256-bit units give (XLA does not take 512).
_CPU_FMA = _Loop(size=512, trips=1000, chains=8, length=16)
_CPU_EXP = _Loop(size=256, trips=300, chains=16, length=4)
# 128 MiB, more than caches hold, in parts.
_CPU_COPY = _Loop(size=2**25, trips=1)
_CPU_COPY_PART = 2**13
# Elsewhere each trip is a kernel: so long that its launch does not count.
_FMA = _Loop(size=2**24, trips=50, chains=16, length=32)
_EXP = _Loop(size=2**24, trips=50, chains=8, length=8)
_COPY = _Loop(size=2**26, trips=50)


def _run_chains(step: Callable[[Array], Array], x: Array, loop: _Loop) -> Array:
  total = jnp.zeros_like(x)
  for k in range(loop.chains):
    y = x + float(k)
    for _ in range(loop.length):
      y = step(y)
    total = total + y
  return total / loop.chains


def _exp_as_polynomial(x: Array) -> Array:
  """exp(x) as an implementation may write it where no unit does it.

  A power of two times a polynomial of degree 5, good to float32; faster than
  XLA's exp on CPU, and so nearer to the ceiling.
  """
  t = x * math.log2(math.e)
  whole = jnp.floor(t + 0.5)
  f = t - whole
  p = 0.00967546 + f * 0.0013266971
  p = 0.24022122 + f * (0.055507425 + f * p)
  p = 1.0000001 + f * (0.69314694 + f * p)
  bits = (whole.astype(jnp.int32) + 127) << 23
  return p * lax.bitcast_convert_type(bits, jnp.float32)


def _touch_in_parts(x: Array) -> Array:
  def body(i, x):
    start = (i * _CPU_COPY_PART,)
    part = lax.dynamic_slice(x, start, (_CPU_COPY_PART,))
    return lax.dynamic_update_slice(x, part + 1, start)

  return lax.fori_loop(0, x.size // _CPU_COPY_PART, body, x)


def _best_rate(
    body: Callable[[Array], Array],
    loop: _Loop,
    work: float,
    devices: Sequence[jax.Device],
) -> tuple[float, float]:
  """(work a second on all devices, in the fastest run; cores at work, in all).

  Args:
    body: of the loop.
    loop: its sizes.
    work: of a trip, for each element.
    devices: that run it side by side.
  """

  # Donated, so that no run writes to fresh pages.
  @functools.partial(jax.pmap, devices=devices, donate_argnums=0)
  def run(x):
    return lax.fori_loop(0, loop.trips, lambda _, x: body(x), x)

  sharding = jax.sharding.NamedSharding(
      jax.sharding.Mesh(np.array(devices), ('devices',)),
      jax.sharding.PartitionSpec('devices'),
  )
  x = jnp.zeros((len(devices), loop.size), jnp.float32, device=sharding)
  x = jax.block_until_ready(run(x))
  samples = []
  busy = time.process_time()
  for _ in range(_RUNS):
    begin = time.perf_counter()
    x = jax.block_until_ready(run(x))
    samples.append(time.perf_counter() - begin)
  busy = time.process_time() - busy
  total_work = work * loop.size * loop.trips * len(devices)
  return total_work / min(samples), busy / sum(samples)


@functools.cache
def measure_ceilings(devices: tuple[jax.Device, ...]) -> Ceilings:
  """Measures what some devices do side by side.

  It is what XLA reaches, in the best of some runs: a kernel written by hand may
  do better, and then its share is above one.
  """
  on_cpu = devices[0].platform == 'cpu'
  fma, exp, copy = (
      (_CPU_FMA, _CPU_EXP, _CPU_COPY) if on_cpu else (_FMA, _EXP, _COPY)
  )
  fma_rate = _best_rate(
      lambda x: _run_chains(lambda y: y * 0.999 + 0.001, x, fma),
      fma,
      # The sums at both ends of a chain are instructions as well.
      fma.chains * (fma.length + 2),
      devices,
  )
  exp_rate = max(
      _best_rate(
          lambda x, f=f: _run_chains(lambda y: f(-y), x, exp),
          exp,
          exp.chains * exp.length,
          devices,
      )
      for f in (jnp.exp, _exp_as_polynomial)
  )
  copy_rate = _best_rate(
      _touch_in_parts if on_cpu else lambda x: x + 1, copy, 8, devices
  )
  rates, cores = zip(fma_rate, exp_rate, copy_rate)
  return Ceilings(*rates, cores if on_cpu else None)


def shares(
    ceilings: Ceilings,
    work: Operations,
    num_weights: int,
    num_bytes: int,
    time_ms: float,
) -> dict[str, float]:
  """Shares of the ceilings that the counted work reached.

  Args:
    ceilings: of the devices that did it.
    work: a weight.
    num_weights: inside the cut-off.
    num_bytes: moved at least.
    time_ms: it took.

  Returns:
    `fma_share`, `exp_share`, `bytes_share`.
  """
  seconds = time_ms / 1e3
  return {
      'fma_share': num_weights * work.slots / ceilings.fma / seconds,
      'exp_share': num_weights * work.exp / ceilings.exp / seconds,
      'bytes_share': num_bytes / ceilings.num_bytes / seconds,
  }
