"""What only the `triton` implementation has: windows, lowering, real sizes."""

import contextlib
import re

import jax
from jax import numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels import boxes
from pallas_kernels import dispatch
from pallas_kernels import triton
from pallas_kernels import xla


def random_splats(n, height, width, seed=0):
  """Splats of a size that covers the picture about 12 times."""
  rng = np.random.default_rng(seed)
  sigma = 0.6 * np.sqrt(height * width / n)
  cholesky = sigma * rng.lognormal(0, 0.4, (n, 3))
  cholesky[:, 1] *= rng.normal(size=n)
  return (
      rng.uniform(-3, [width + 3, height + 3], (n, 2)).astype(np.float32),
      cholesky.astype(np.float32),
      rng.normal(0, 0.3, (n, 3)).astype(np.float32),
  )


# ---- Windows -----------------------------------------------------------------
@pytest.mark.parametrize(
    'platform', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]
)
@pytest.mark.parametrize('round_size', [2**30, 60], ids=['one round', 'rounds'])
def test_a_small_capacity_costs_rounds_and_no_splat(
    monkeypatch, round_size, platform
):
  if platform == 'cuda' and jax.default_backend() != 'gpu':
    pytest.skip('needs a CUDA device')
  monkeypatch.setattr(triton, '_ROUND', round_size)
  static = dispatch.Static((20, 0, 13), 21, 50)
  splats = random_splats(33, 21, 50)
  # Two splats over the whole picture: of many jobs.
  splats[1][:2] = [90, 3, 70]
  splats = tuple(map(jnp.asarray, splats))
  cotangents = jnp.asarray(
      np.random.default_rng(1).normal(size=(3, 21, 50, 3)), jnp.float32
  )
  small = triton.Tuning(
      pairs_per_splat=1,
      pairs_per_tile=0,
      jobs_per_splat=1,
      jobs_per_tile=0,
      pieces=1,
  )

  @jax.jit
  def both(*splats):
    images = triton.composite(*splats, static, platform, small)
    gradients = triton.composite_vjp(
        *splats, cotangents, static, platform, small
    )
    return images, *gradients

  expected = (
      xla.composite(*splats, static),
      *xla.composite_vjp(*splats, cotangents, static),
  )
  for x, y in zip(both(*splats), expected, strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=3e-6 * np.abs(y).max())


@pytest.mark.parametrize('round_size', [2**30, 40])
def test_windows_number_all_items_once(monkeypatch, round_size):
  monkeypatch.setattr(triton, '_ROUND', round_size)
  counts = np.array([0, 3, 0, 0, 29, 1, 17, 0, 5, 5, 30, 2, 0], np.int32)
  n, capacity = len(counts), 16

  def mark(seen, ids, ranks, runs):
    starts, stops = runs
    sizes = jnp.zeros(n, jnp.int32).at[ids].add(1, mode='drop')
    seen = seen.at[ids, ranks].add(1, mode='drop')
    # The runs are where the splats' items lie, and nowhere else.
    return seen + 1000 * jnp.any(sizes != stops - starts)

  seen = triton._for_each_window(
      mark,
      jnp.zeros((n, 40), jnp.int32),
      jnp.asarray(counts),
      30,
      capacity,
      interpret=True,
  )
  np.testing.assert_array_equal(seen, np.arange(40) < counts[:, None])


@pytest.mark.parametrize(
    'n, height, width, scale, large',
    [(9000, 512, 768, 1.3, 10), (960, 512, 768, 0.7, 40)],
)
def test_a_picture_takes_one_window(n, height, width, scale, large):
  """Of splats as in fits: large ones below many small ones."""
  means, cholesky, _ = random_splats(n, height, width)
  cholesky *= scale
  cholesky[:large] = [width, 0, height]
  first, last = boxes.pixel_boxes(means, cholesky, height, width)
  num_tiles = -(-height // triton.TILE) * -(-width // triton.TILE)
  tuning = triton.Tuning()
  _, span = triton._tile_boxes(first, last)
  pairs = int(jnp.prod(span, axis=1).sum())
  pieces = jnp.prod((last - first + triton.TILE) // triton.TILE, axis=1)
  jobs = int((-(-pieces // tuning.pieces)).sum())
  assert pairs <= tuning.pair_capacity(n, num_tiles)
  assert jobs <= tuning.job_capacity(n, num_tiles)
  # A window of half the size would not do for both.
  assert 2 * pairs > tuning.pair_capacity(
      n, num_tiles
  ) or 2 * jobs > tuning.job_capacity(n, num_tiles)


def test_platforms_without_triton_are_refused():
  splats = tuple(map(jnp.asarray, random_splats(3, 8, 8)))
  with pytest.raises(NotImplementedError, match='not tpu'):
    triton.composite(*splats, dispatch.Static((3,), 8, 8), 'tpu')


def test_more_values_than_32_bits_count_are_left_to_xla():
  static = dispatch.Static((1,) * 8, 2**14, 2**14)
  with pytest.raises(NotImplementedError, match='2.31'):
    jax.eval_shape(
        lambda *splats: triton.composite(*splats, static, 'cuda'),
        *random_splats(8, 10, 10),
    )


# ---- Lowering ----------------------------------------------------------------
def error_and_gradients(means, cholesky, colors):
  height, width, layer_sizes = 40, 50, (50, 20, 20)

  def error(*splats):
    return pallas_kernels.composite_error(
        *splats,
        jnp.zeros((height, width, 3)),
        jnp.ones((height, width)),
        jnp.ones(3),
        layer_sizes=layer_sizes,
    )[0]

  def top(*splats):
    images = pallas_kernels.composite(
        *splats, layer_sizes=layer_sizes, height=height, width=width
    )
    return images[-1].sum()

  return [
      jax.value_and_grad(f, argnums=(0, 1, 2))(means, cholesky, colors)
      for f in (error, top)
  ]


def calls_after_lowering(*platforms):
  """Names of the custom calls in the program for these platforms."""
  abstract_gpu = contextlib.nullcontext()
  if tuple(map(int, jax.__version__.split('.')[:2])) >= (0, 11):
    # Triton's lowering asks for the kind of the device.
    device = jax.sharding.AbstractDevice(
        device_kind='NVIDIA H200', num_cores=132, platform='cuda'
    )
    abstract_gpu = jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh((), (), abstract_device=device)
    )
  with abstract_gpu:
    traced = jax.jit(error_and_gradients).trace(*random_splats(90, 40, 50))
    program = traced.lower(lowering_platforms=platforms).as_text()
  return re.findall(r'custom_call @([\w.$]+)', program)


_TRITON = '__gpu$xla.gpu.triton'


def test_lowers_to_triton_for_cuda():
  calls = calls_after_lowering('cuda')
  # Twice a composite with its edges and pairs, and gradients with jobs and
  # sums, each before and in its loop.
  assert calls.count(_TRITON) == len(calls) == 2 * 2 * 6


def test_lowers_to_plain_operations_for_tpu():
  assert calls_after_lowering('tpu') == []


def test_one_program_serves_all_platforms():
  calls = set(calls_after_lowering('cpu', 'cuda', 'tpu'))
  assert calls == {
      _TRITON,
      # Kernels for three channels.
      'pgsvc_composite_3',
      'pgsvc_composite_vjp_3',
      'pgsvc_composite_error_3',
  }


# ---- On a GPU ----------------------------------------------------------------
@pytest.fixture(scope='module')
def gpu():
  if jax.default_backend() != 'gpu':
    pytest.skip('needs a CUDA device')


def hd_images_and_gradients(splats, dtype, implementation):
  layer_sizes, height, width = (30000, 10000, 10000), 1080, 1920
  cotangents = np.random.default_rng(1).normal(size=(3, height, width, 3))

  @jax.jit
  def both(cotangents, *splats):
    images, vjp = jax.vjp(
        lambda *splats: pallas_kernels.composite(
            *splats,
            layer_sizes=layer_sizes,
            height=height,
            width=width,
            implementation=implementation,
        ),
        *splats,
    )
    return images, *vjp(cotangents)

  return [
      np.asarray(x)
      for x in both(*(jnp.asarray(x, dtype) for x in (cotangents, *splats)))
  ]


@pytest.mark.gpu
def test_hd_with_50_000_splats_matches_float64(gpu):
  splats = random_splats(50000, 1080, 1920)
  actual = hd_images_and_gradients(splats, jnp.float32, 'triton')
  with jax.enable_x64(True):
    expected = hd_images_and_gradients(splats, jnp.float64, 'xla')
  for x, y in zip(actual, expected, strict=True):
    error = np.linalg.norm(x - y) / np.linalg.norm(y)
    print(f'relative error {error:.1e}')
    # A pixel at the cut-off of a splat may fall on either side of it: 0.2 % of
    # a colour, at one of 10,000 pixels.
    assert error < 1e-4


@pytest.mark.gpu
def test_hd_with_50_000_splats_gives_the_same_bits_twice(gpu):
  splats = random_splats(50000, 1080, 1920)
  first, second = (
      hd_images_and_gradients(splats, jnp.float32, 'triton') for _ in range(2)
  )
  for x, y in zip(first, second, strict=True):
    np.testing.assert_array_equal(x, y)
