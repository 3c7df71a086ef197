"""The roofline: counted work against brute force, and its arithmetic."""

from jax import numpy as jnp
import numpy as np
import pytest

from launch.lab.benchmarks import roofline
from launch.lab.benchmarks import workloads
from pallas_kernels import constants
from pallas_kernels import cpu_kernels
from pallas_kernels import triton
from pallas_kernels import xla

TINY = workloads.Shape(height=21, width=37, layer_sizes=(9, 0, 7))


def inside(shape):
  """Which pixels are inside the cut-off of which splat, [n, h, w]."""
  means, cholesky, _ = workloads.make_splats(shape)
  rows = []
  for (x, y), (l11, l21, l22) in zip(means.tolist(), cholesky.tolist()):
    covariance = np.array([[l11, 0], [l21, l22]])
    covariance = covariance @ covariance.T
    py, px = np.mgrid[: shape.height, : shape.width] + 0.5
    offset = np.stack([px - x, py - y], -1)
    s = 0.5 * np.sum(offset @ np.linalg.inv(covariance) * offset, -1)
    rows.append(s <= constants.S_MAX)
  return np.stack(rows)


def test_weights_are_the_pixels_inside_the_cutoff():
  assert roofline.count_weights(TINY) == inside(TINY).sum()


def test_evaluations_of_cpu_are_whole_tiles_along_the_ellipse():
  pairs = 0
  for mask in inside(TINY):
    for top in range(0, TINY.height, cpu_kernels.TILE):
      columns = np.flatnonzero(mask[top : top + cpu_kernels.TILE].any(0))
      tiles = columns // cpu_kernels.TILE
      pairs += tiles[-1] - tiles[0] + 1 if len(tiles) else 0
  count = roofline.count_evaluations(TINY, 'cpu', ('weigh',))
  assert count == pairs * cpu_kernels.PIXELS


def test_evaluations_of_xla_are_padded_blocks_of_boxes():
  means, cholesky, _ = workloads.make_splats(TINY)
  counts = {}
  for i, ((x, y), (l11, l21, l22)) in enumerate(zip(means, cholesky)):
    layer = int(np.searchsorted(np.cumsum(TINY.layer_sizes), i, side='right'))
    half = constants.CUTOFF_SIGMAS * np.array([l11, np.hypot(l21, l22)])
    columns = np.arange(TINY.width)[
        abs(np.arange(TINY.width) + 0.5 - x) <= half[0]
    ]
    rows = np.arange(TINY.height)[
        abs(np.arange(TINY.height) + 0.5 - y) <= half[1]
    ]
    for tile in {(r // xla.TILE, c // xla.TILE) for r in rows for c in columns}:
      counts[layer, tile] = counts.get((layer, tile), 0) + 1
  blocks = sum(-(-count // xla.BLOCK) for count in counts.values())
  count = roofline.count_evaluations(TINY, 'xla', ('weigh',))
  assert count == blocks * xla.BLOCK * xla.PIXELS


def test_evaluations_of_triton_are_pieces_of_boxes_backward():
  pieces = 0
  means, cholesky, _ = workloads.make_splats(TINY)
  for (x, y), (l11, l21, l22) in zip(means, cholesky):
    sides = []
    for centre, sigma, size in (
        (x, l11, TINY.width),
        (y, np.hypot(l21, l22), TINY.height),
    ):
      distance = abs(np.arange(size) + 0.5 - centre)
      pixels = np.count_nonzero(distance <= constants.CUTOFF_SIGMAS * sigma)
      sides.append(-(-pixels // triton.TILE))
    pieces += sides[0] * sides[1]
  count = roofline.count_evaluations(TINY, 'triton', ('weigh', 'gradient'))
  assert count == pieces * triton.PIXELS


def test_every_implementation_evaluates_all_weights():
  shape = workloads.SHAPES['thumbnail']
  num_weights = roofline.count_weights(shape)
  counts = [
      roofline.count_evaluations(shape, name, ('weigh',))
      for name in ('cpu', 'triton', 'xla', 'reference')
  ]
  assert [num_weights, *counts] == sorted({num_weights, *counts})
  # Of a new one it is not known yet: the benchmark goes without.
  assert roofline.count_evaluations(shape, 'fastest', ('weigh',)) is None


def test_operations_are_added_up():
  forward = roofline.count_operations(('weigh', 'accumulate'), 3)
  assert (forward.slots, forward.flops, forward.exp) == (10, 16, 1)
  both = roofline.count_operations(('weigh', 'accumulate', 'gradient'), 3)
  assert (both.slots, both.flops, both.exp) == (24, 38, 1)


def test_shares_are_of_the_ceilings():
  ceilings = roofline.Ceilings(fma=1e9, exp=1e8, num_bytes=1e10, cores=None)
  work = roofline.Operations(add_mul=3, fma=2, exp=1)
  shares = roofline.shares(ceilings, work, 10**6, 10**7, time_ms=20)
  assert shares == pytest.approx(
      {'fma_share': 0.25, 'exp_share': 0.5, 'bytes_share': 0.05}
  )


def test_the_exponential_of_the_ceilings_is_one():
  x = np.linspace(-80, 80, 10001).astype(np.float32)
  y = roofline._exp_as_polynomial(jnp.asarray(x))
  np.testing.assert_allclose(y, np.exp(x.astype(np.float64)), rtol=1e-5)
