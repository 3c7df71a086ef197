"""The operator: one suite for every implementation.

The truth is the dense reference in float64 with its gradient by autodiff, which
finite differences check in turn. Pixels where a splat lies within rounding of
the cut-off may fall on either side of it (a step of exp(-S_MAX) = 0.0022 of the
colour), so comparisons leave these pixels out: of the images, and of the
gradient by a cotangent of 0.
"""

import functools
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels import constants
from pallas_kernels import cpu
from pallas_kernels import dispatch
from pallas_kernels import reference
from pallas_kernels import xla


class Scene(NamedTuple):
  """Splats in float32, so that all precisions see the same numbers."""

  means: Float[np.ndarray, 'n 2']
  cholesky: Float[np.ndarray, 'n 3']
  colors: Float[np.ndarray, 'n c']
  layer_sizes: tuple[int, ...] = (1,)
  height: int = 37
  width: int = 53

  @property
  def splats(self) -> tuple[np.ndarray, ...]:
    return self.means, self.cholesky, self.colors

  @property
  def shape(self) -> tuple[int, ...]:
    layers = len(self.layer_sizes)
    return layers, self.height, self.width, self.colors.shape[1]


def make_scene(
    *layer_sizes, height=37, width=53, channels=3, sigma=(1, 6), seed=0
):
  """Random splats, a third of them elongated, colours of both signs."""
  rng = np.random.default_rng(seed)
  n = sum(layer_sizes)
  low, high = sigma
  cholesky = rng.uniform(low, high, (n, 3))
  cholesky[:, 1] = rng.normal(size=n) * low
  return Scene(
      rng.uniform(-3, [width + 3, height + 3], (n, 2)).astype(np.float32),
      cholesky.astype(np.float32),
      rng.normal(size=(n, channels)).astype(np.float32),
      layer_sizes,
      height,
      width,
  )


def make_splat(x, y, l11, l21, l22, **kwargs):
  means, cholesky, colors = np.split(
      np.array([[x, y, l11, l21, l22, 0.7, -0.4, 1.3]], np.float32), [2, 5], 1
  )
  return Scene(means, cholesky, colors, **kwargs)


# 100:1 at 30 degrees: the Cholesky factor of R diag(20, 0.2)^2 R^T.
_ELONGATED = np.linalg.cholesky(
    np.array([[0.75, 0.25 * 3**0.5], [0.25 * 3**0.5, 0.25]]) * 400
    + np.array([[0.25, -0.25 * 3**0.5], [-0.25 * 3**0.5, 0.75]]) * 0.04
)

SCENES = {
    'random': make_scene(80, 70, 50),
    'no splats': make_scene(0, 0),
    'one splat': make_splat(20.3, 11.8, 2, 0.7, 1.5),
    'outside': make_splat(-400, 900, 2, 0.7, 1.5),
    'huge': make_splat(20.3, 11.8, 1e4, 3e3, 1e4),
    'elongated': make_splat(25.2, 16.9, *_ELONGATED[[0, 1, 1], [0, 0, 1]]),
    'sub-pixel on a centre': make_splat(20.51, 11.47, 0.05, 0.01, 0.05),
    'sub-pixel off all centres': make_splat(20, 12, 0.05, 0, 0.05),
    'sub-pixel last in its tile': make_splat(15.52, 31.46, 0.05, 0, 0.05),
    '1 x 1': make_scene(5, 4, height=1, width=1),
    '1 x 45, 1 channel': make_scene(20, 10, height=1, width=45, channels=1),
    '45 x 1, 2 channels': make_scene(20, 10, height=45, width=1, channels=2),
    'whole tiles, 4 channels': make_scene(30, height=32, width=48, channels=4),
    '7 channels': make_scene(20, 10, channels=7),
    'empty layers': make_scene(0, 20, 0, 10, 0),
    '5,000 splats in one tile': make_scene(
        3000, 2000, height=8, width=8, sigma=(0.5, 2)
    ),
}


# Without a GPU, `triton` runs in the interpreter.
@pytest.fixture(
    params=[
        *pallas_kernels.IMPLEMENTATIONS,
        pytest.param('triton on a GPU', marks=pytest.mark.gpu),
    ]
)
def implementation(request) -> str:
  if request.param == 'triton on a GPU':
    if jax.default_backend() != 'gpu':
      pytest.skip('needs a CUDA device')
    return 'triton'
  if request.param == 'cpu' and jax.default_backend() != 'cpu':
    pytest.skip('runs on CPU')
  return request.param


@functools.partial(jax.jit, static_argnums=(4, 5, 6, 7))
def _images_and_gradients(
    means,
    cholesky,
    colors,
    cotangent,
    layer_sizes,
    height,
    width,
    implementation,
):
  images, vjp = jax.vjp(
      functools.partial(
          pallas_kernels.composite,
          layer_sizes=layer_sizes,
          height=height,
          width=width,
          implementation=implementation,
      ),
      means,
      cholesky,
      colors,
  )
  return images, *vjp(cotangent)


def composite(scene: Scene, cotangent, implementation) -> tuple[Array, ...]:
  """(images, gradients...) of the scene."""
  return _images_and_gradients(
      *scene.splats, cotangent, *scene[3:], implementation
  )


class Truth(NamedTuple):
  inside: Float[np.ndarray, 'h w 1']
  cotangent: Float[np.ndarray, 'l h w c']
  results: tuple[np.ndarray, ...]


def _inside(scene: Scene, margin: float) -> Float[np.ndarray, 'h w 1']:
  """1 where no splat is within `margin` of the cut-off, else 0."""
  means, cholesky = (x.astype(float)[:, None, None] for x in scene.splats[:2])
  y, x = np.indices((scene.height, scene.width)) + 0.5
  z1 = (x - means[..., 0]) / cholesky[..., 0]
  z2 = (y - means[..., 1] - cholesky[..., 1] * z1) / cholesky[..., 2]
  s = (z1**2 + z2**2) / 2
  near = np.any(np.abs(s - constants.S_MAX) < margin, axis=0)
  return 1.0 - near[..., None]


@functools.cache
def truth(name: str) -> Truth:
  scene = SCENES[name]
  inside = _inside(scene, 1e-4)
  cotangent = np.random.default_rng(1).normal(size=scene.shape) * inside
  cotangent = cotangent.astype(np.float32)
  with jax.enable_x64(True):
    exact = scene._replace(
        **{
            field: getattr(scene, field).astype(np.float64)
            for field in ('means', 'cholesky', 'colors')
        }
    )
    results = composite(exact, cotangent.astype(np.float64), 'reference')
    return Truth(inside, cotangent, tuple(map(np.asarray, results)))


def assert_close(actual, expected, relative, element) -> None:
  """Relative L2 and cosine of the vector; the element bound is relative, too.

  Elements are compared with the largest one: a component of the gradient may
  vanish by symmetry and keep only the rounding of its terms.
  """
  actual = np.asarray(actual, np.float64).ravel()
  expected = np.asarray(expected, np.float64).ravel()
  assert actual.shape == expected.shape and np.isfinite(actual).all()
  norm = np.linalg.norm(expected)
  if norm == 0:
    np.testing.assert_array_equal(actual, 0)
    return
  difference = actual - expected
  assert np.linalg.norm(difference) <= relative * norm
  cosine = actual @ expected / (np.linalg.norm(actual) * norm)
  assert cosine >= 1 - relative
  assert np.abs(difference).max() <= element * np.abs(expected).max()


@pytest.mark.parametrize('name', SCENES)
def test_images_and_gradients_match_float64(implementation, name):
  expected = truth(name)
  actual = composite(SCENES[name], expected.cotangent, implementation)
  assert expected.inside.mean() > 0.8
  # Measured, largest of the implementations and scenes: images 7e-7 (5,000
  # splats in one tile; 1.4e-7 elsewhere), gradients 3.6e-7; element bounds
  # 1.3e-6 and 5.4e-7. The elongated splat cancels terms 1e4 times its result in
  # L^-1 (p - mean): 1.9e-6 and 1.4e-5, and where l21 / l11 is wrong by 2 units
  # in the last place, as XLA's division on GPUs may be, 5.6e-6 and 4.5e-5.
  image_bound, gradient_bound = 3e-6, 2e-6
  if name == 'elongated':
    image_bound, gradient_bound = 1.2e-5, 1e-4
  images, *gradients = actual
  expected_images, *expected_gradients = expected.results
  assert_close(
      images * expected.inside,
      expected_images * expected.inside,
      image_bound,
      image_bound,
  )
  for gradient, expected_gradient in zip(
      gradients, expected_gradients, strict=True
  ):
    assert_close(
        gradient, expected_gradient, gradient_bound, 2 * gradient_bound
    )


def test_reference_gradient_matches_finite_differences():
  scene = make_scene(4, 3, height=9, width=11, sigma=(1, 3))
  # A step of 1e-6 px moves s by less than 1e-5.
  weights = _inside(scene, 1e-3) * np.random.default_rng(2).normal(
      size=scene.shape
  )
  with jax.enable_x64(True):
    splats = tuple(x.astype(np.float64) for x in scene.splats)

    @jax.jit
    def loss(*splats):
      images = pallas_kernels.composite(
          *splats,
          layer_sizes=(4, 3),
          height=9,
          width=11,
          implementation='reference',
      )
      return jnp.vdot(images, weights)

    gradients = jax.grad(loss, (0, 1, 2))(*splats)
    for i, gradient in enumerate(gradients):
      for index in np.ndindex(gradient.shape):
        step = np.zeros_like(splats[i])
        step[index] = 1e-6
        ahead, behind = (
            loss(*splats[:i], splats[i] + sign * step, *splats[i + 1 :])
            for sign in (1, -1)
        )
        # Rounding of the loss over the step: 1e-15 / 1e-6.
        np.testing.assert_allclose(
            (ahead - behind) / 2e-6, gradient[index], rtol=1e-6, atol=1e-7
        )


def test_far_from_the_origin_matches_the_same_scene_at_the_origin(
    implementation,
):
  scene = make_scene(9, 6, height=20, width=24)
  # On a grid of 2^-10 px, all that float32 resolves at 8192 px: the shift then
  # rounds nothing and both scenes are the same, so the usual bound holds.
  means = np.round(scene.means * 1024) / 1024
  near = scene._replace(means=means)
  far = scene._replace(means=means + np.float32([8192, 0]), width=8192 + 24)
  cotangent = np.random.default_rng(1).normal(size=scene.shape)
  cotangent = (cotangent * _inside(near, 1e-4)).astype(np.float32)
  expected = composite(near, cotangent, implementation)
  far_cotangent = np.zeros(far.shape, np.float32)
  far_cotangent[:, :, 8192:] = cotangent
  images, *gradients = composite(far, far_cotangent, implementation)
  inside = _inside(near, 1e-4)
  actual = (images[:, :, 8192:] * inside, *gradients)
  expected = (expected[0] * inside, *expected[1:])
  for x, y in zip(actual, expected, strict=True):
    assert_close(x, y, 2e-6, 4e-6)


def test_float64(implementation):
  if implementation in ('cpu', 'triton'):
    pytest.skip('computes in float32')
  scene = make_scene(20, 10)
  with jax.enable_x64(True):
    exact = Scene(*(x.astype(np.float64) for x in scene.splats), *scene[3:])
    cotangent = np.random.default_rng(1).normal(size=scene.shape)
    actual = composite(exact, cotangent, implementation)
    expected = composite(exact, cotangent, 'reference')
    # No pixel is within 1e-12 of the cut-off. Measured 3e-16.
    for x, y in zip(actual, expected, strict=True):
      assert x.dtype == np.float64
      assert_close(x, y, 1e-14, 1e-14)


def test_prefix_is_the_composite_of_the_first_layers_alone(implementation):
  scene = make_scene(20, 0, 10)
  images = composite(scene, np.zeros(scene.shape, np.float32), implementation)[
      0
  ]
  np.testing.assert_array_equal(images[0], images[1])
  alone = scene._replace(
      means=scene.means[:20],
      cholesky=scene.cholesky[:20],
      colors=scene.colors[:20],
      layer_sizes=(20,),
  )
  first = composite(alone, np.zeros(alone.shape, np.float32), implementation)[0]
  # The order of summation may differ, so rounding may.
  np.testing.assert_allclose(images[0], first[0], rtol=0, atol=2e-6)


def test_two_runs_are_bitwise_equal(implementation):
  expected = truth('random')
  first, second = (
      composite(SCENES['random'], expected.cotangent, implementation)
      for _ in range(2)
  )
  for x, y in zip(first, second, strict=True):
    np.testing.assert_array_equal(x, y)


def test_xla_in_many_chunks_and_slices(monkeypatch):
  scene, expected = SCENES['random'], truth('random')
  # 12 tiles: slices of 83 splats with up to 1,000 pairs each.
  monkeypatch.setattr(xla, 'CHUNK', 64)
  monkeypatch.setattr(xla, 'PAIRS_MAX', 1000)
  splats = tuple(map(jnp.asarray, scene.splats))
  static = dispatch.Static(*scene[3:])
  cotangent = jnp.asarray(expected.cotangent)

  @jax.jit
  def both(*splats):
    gradients = xla.composite_vjp(*splats, cotangent, static)
    return xla.composite(*splats, static), *gradients

  for x, y in zip(both(*splats), expected.results, strict=True):
    assert_close(x, y, 2e-6, 4e-6)


# ---- The weighted squared error ----------------------------------------------
def _error_arguments(scene: Scene) -> tuple[np.ndarray, ...]:
  rng = np.random.default_rng(3)
  layers, *size = scene.shape
  pixel_weights = rng.uniform(0, 2, size[:2]) * _inside(scene, 1e-4)[..., 0]
  level_weights = rng.uniform(0.5, 2, layers)
  return tuple(
      x.astype(np.float32)
      for x in (rng.normal(size=size), pixel_weights, level_weights)
  )


def test_error_is_the_composition_of_images_and_squares(implementation):
  scene = SCENES['random']
  arguments = _error_arguments(scene)

  def error(*splats):
    return pallas_kernels.composite_error(
        *splats,
        *arguments,
        layer_sizes=scene.layer_sizes,
        implementation=implementation,
    )

  def composition(*splats):
    target, pixel_weights, level_weights = arguments
    images = pallas_kernels.composite(
        *splats,
        layer_sizes=scene.layer_sizes,
        height=scene.height,
        width=scene.width,
        implementation='reference',
    )
    errors = jnp.einsum('lhwc,hw->l', (images - target) ** 2, pixel_weights)
    return errors @ level_weights, errors

  (loss, errors), gradients = jax.jit(
      jax.value_and_grad(error, (0, 1, 2), has_aux=True)
  )(*scene.splats)
  (expected_loss, expected_errors), expected_gradients = jax.jit(
      jax.value_and_grad(composition, (0, 1, 2), has_aux=True)
  )(*scene.splats)
  # Both sides round: measured 2e-7 and, in the gradients, 4e-7.
  np.testing.assert_allclose(loss, expected_loss, rtol=2e-6)
  np.testing.assert_allclose(errors, expected_errors, rtol=2e-6)
  for x, y in zip(gradients, expected_gradients, strict=True):
    assert_close(x, y, 3e-6, 6e-6)


def test_only_the_loss_carries_a_gradient(implementation):
  scene = make_scene(6, 4, height=9, width=11)

  def error(scale, arguments):
    loss, errors = pallas_kernels.composite_error(
        *arguments, layer_sizes=scene.layer_sizes, implementation=implementation
    )
    return scale * loss + errors.sum()

  gradient = jax.jit(jax.grad(error, 1))
  arguments = (*scene.splats, *_error_arguments(scene))
  once, thrice = gradient(1.0, arguments), gradient(3.0, arguments)
  for x, y in zip(once, thrice, strict=True):
    np.testing.assert_allclose(3 * x, y, rtol=1e-6, atol=1e-6 * np.abs(y).max())
  for x in gradient(0.0, arguments):
    np.testing.assert_array_equal(x, 0)


def test_the_target_and_the_weights_get_the_gradient_of_the_formula(
    implementation,
):
  scene = make_scene(6, 4, height=9, width=11)
  others = _error_arguments(scene)

  def error(others):
    return pallas_kernels.composite_error(
        *scene.splats,
        *others,
        layer_sizes=scene.layer_sizes,
        implementation=implementation,
    )[0]

  def formula(others):
    target, pixel_weights, level_weights = others
    images = pallas_kernels.composite(
        *scene.splats,
        layer_sizes=scene.layer_sizes,
        height=9,
        width=11,
        implementation='reference',
    )
    squares = pixel_weights[:, :, None] * (images - target) ** 2
    return (level_weights * squares.sum((1, 2, 3))).sum()

  actual = jax.jit(jax.grad(error))(others)
  expected = jax.jit(jax.grad(formula))(others)
  for x, y in zip(actual, expected, strict=True):
    assert np.abs(y).max() > 0
    assert_close(x, y, 3e-6, 6e-6)


# ---- Transformations ---------------------------------------------------------
def test_vmap_is_a_loop(implementation):
  scenes = [make_scene(12, 8, height=19, width=21, seed=i) for i in range(3)]
  cotangent = np.random.default_rng(1).normal(size=scenes[0].shape)
  cotangent = cotangent.astype(np.float32)
  stacked = [np.stack(x) for x in zip(*(s.splats for s in scenes), strict=True)]
  # The sizes are static and the cotangent is shared.
  batched = jax.vmap(
      lambda *splats: composite(
          Scene(*splats, *scenes[0][3:]), cotangent, implementation
      )
  )(*stacked)
  for i, scene in enumerate(scenes):
    one = composite(scene, cotangent, implementation)
    for x, y in zip(batched, one, strict=True):
      assert_close(x[i], y, 1e-6, 2e-6)


def test_descent_in_a_scan_is_a_loop(implementation):
  scene = make_scene(6, 4, height=9, width=11)
  arguments = _error_arguments(scene)

  def step(splats, _):
    def error(splats):
      return pallas_kernels.composite_error(
          *splats,
          *arguments,
          layer_sizes=scene.layer_sizes,
          implementation=implementation,
      )[0]

    loss, gradients = jax.value_and_grad(error)(splats)
    return jax.tree.map(lambda x, g: x - 1e-4 * g, splats, gradients), loss

  start = tuple(map(jnp.asarray, scene.splats))
  _, losses = jax.jit(lambda splats: jax.lax.scan(step, splats, length=4))(
      start
  )
  jitted, splats, expected = jax.jit(step), start, []
  for _ in range(4):
    splats, loss = jitted(splats, None)
    expected.append(loss)
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  assert np.all(np.diff(losses) < 0)


def test_runs_where_jit_is_turned_off():
  scene = make_scene(6, 4, height=9, width=11)
  images = functools.partial(
      pallas_kernels.composite,
      *scene.splats,
      layer_sizes=scene.layer_sizes,
      height=scene.height,
      width=scene.width,
  )
  with jax.disable_jit():
    eager = images()
  np.testing.assert_array_equal(eager, images())


# ---- Wrong input and choice of implementation --------------------------------
_GOOD = {
    'means': np.ones((4, 2), np.float32),
    'cholesky': np.ones((4, 3), np.float32),
    'colors': np.ones((4, 3), np.float32),
    'layer_sizes': (3, 1),
    'height': 5,
    'width': 7,
}


@pytest.mark.parametrize(
    'wrong',
    [
        {'means': np.ones((4, 3), np.float32)},
        {'means': np.ones((5, 2), np.float32)},
        {'means': np.float32(1)},
        {'cholesky': np.ones((4, 2), np.float32)},
        {'colors': np.ones(4, np.float32)},
        {'colors': np.ones((4, 0), np.float32)},
        {'colors': np.ones((4, 3), np.float16)},
        {'layer_sizes': (3, 2)},
        {'layer_sizes': (5, -1)},
        {'layer_sizes': ()},
        {'height': 0},
        {'width': -1},
        {'implementation': 'fastest'},
        {'implementation': np},
        {'implementation': 7},
    ],
    ids=str,
)
def test_wrong_arguments_raise(wrong):
  with pytest.raises(ValueError):
    pallas_kernels.composite(**{**_GOOD, **wrong})


@pytest.mark.parametrize(
    'wrong',
    [
        {'target': np.ones((5, 7), np.float32)},
        {'target': np.ones((5, 7, 1), np.float32)},
        {'pixel_weights': np.ones((7, 5), np.float32)},
        {'level_weights': np.ones(3, np.float32)},
    ],
    ids=str,
)
def test_wrong_error_arguments_raise(wrong):
  good = {k: v for k, v in _GOOD.items() if k not in ('height', 'width')}
  good.update(
      target=np.ones((5, 7, 3), np.float32),
      pixel_weights=np.ones((5, 7), np.float32),
      level_weights=np.ones(2, np.float32),
  )
  with pytest.raises(ValueError):
    pallas_kernels.composite_error(**{**good, **wrong})


class Halved:
  """An implementation from outside, told apart by its half-bright images."""

  @staticmethod
  def composite(means, cholesky, colors, static, platform):
    if static.height > 100:
      raise NotImplementedError('too high')
    return reference.composite(means, cholesky, colors / 2, static, platform)

  @staticmethod
  def composite_vjp(means, cholesky, colors, cotangents, static, platform):
    return reference.composite_vjp(
        means, cholesky, colors, cotangents / 2, static, platform
    )


def test_an_implementation_from_outside_is_used_for_values_and_gradients():
  scene = make_scene(5, height=9, width=11)
  cotangent = np.ones(scene.shape, np.float32)
  images, means, cholesky, colors = composite(scene, cotangent, Halved)
  expected = composite(scene, cotangent, 'reference')
  np.testing.assert_allclose(images, expected[0] / 2, rtol=1e-6)
  np.testing.assert_allclose(colors, expected[3] / 2, rtol=1e-6)

  def loss(splats, implementation, target):
    return pallas_kernels.composite_error(
        *splats,
        target,
        np.ones(scene.shape[1:3], np.float32),
        np.ones(len(scene.layer_sizes), np.float32),
        layer_sizes=scene.layer_sizes,
        implementation=implementation,
    )[0]

  target = np.ones(scene.shape[1:], np.float32)
  # |image / 2 - target|^2 = |image - 2 target|^2 / 4.
  ours = jax.value_and_grad(loss)(scene.splats, Halved, target)
  theirs = jax.value_and_grad(loss)(scene.splats, 'reference', 2 * target)
  np.testing.assert_allclose(ours[0], theirs[0] / 4, rtol=1e-5)
  # The gradient of the means is its own: that of the halved images.
  for x, y in zip(ours[1][:2], theirs[1][:2]):
    np.testing.assert_allclose(x, y / 4, rtol=1e-4, atol=1e-5)


def test_an_implementation_from_outside_says_what_it_cannot_do():
  with pytest.raises(NotImplementedError, match='Halved: too high'):
    pallas_kernels.composite(**{**_GOOD, 'height': 101}, implementation=Halved)


def test_devices_that_say_gpu_take_what_cuda_does():
  assert dispatch.default_implementations('gpu') == ('triton', 'xla')


def test_float64_falls_back_to_xla_where_the_default_computes_in_float32():
  scene = make_scene(5, height=9, width=11)
  with jax.enable_x64(True):
    exact = Scene(*(x.astype(np.float64) for x in scene.splats), *scene[3:])
    cotangent = np.ones(scene.shape)
    with pytest.raises(NotImplementedError):
      composite(exact, cotangent, 'cpu')
    for x, y in zip(
        composite(exact, cotangent, None),
        composite(exact, cotangent, 'xla'),
        strict=True,
    ):
      np.testing.assert_array_equal(x, y)


# ---- The native handlers -----------------------------------------------------
def _f32(*shape):
  return np.ones(shape, np.float32)


_ENDS = np.array([3, 4], np.int32)
_SPLATS = (_f32(4, 2), _f32(4, 3), _f32(4, 3))
_HANDLERS = {
    'pgsvc_composite_3': ((*_SPLATS, _ENDS), (_f32(2, 5, 7, 3),)),
    'pgsvc_composite_vjp_3': ((*_SPLATS, _ENDS, _f32(2, 5, 7, 3)), _SPLATS),
    'pgsvc_composite_error_3': (
        (*_SPLATS, _ENDS, _f32(5, 7, 3), _f32(5, 7), _f32(2)),
        (_f32(2), *_SPLATS),
    ),
}


def _call(name, operands, results) -> None:
  shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results)
  # A call without results would be removed if it had no side effect.
  call = jax.ffi.ffi_call(name, shapes, has_side_effect=True)
  jax.block_until_ready(call(*operands))


def _wrong_versions(arrays):
  """Every array in turn with a wrong rank, length, and type."""
  for i, array in enumerate(arrays):
    for wrong in (
        array[None],
        np.concatenate([array, array[-1:]], axis=-1 if array.ndim == 1 else 0),
        array.astype(np.float16),
    ):
      yield (*arrays[:i], wrong, *arrays[i + 1 :])
  yield arrays[:-1]
  yield (*arrays, arrays[-1])


@pytest.mark.skipif("jax.default_backend() != 'cpu'", reason='runs on CPU')
@pytest.mark.parametrize('name', _HANDLERS)
def test_handlers_refuse_wrong_buffers(name):
  function, channels = name.removeprefix('pgsvc_').rsplit('_', 1)
  assert cpu.register(function, int(channels)) == name
  operands, results = _HANDLERS[name]
  _call(name, operands, results)
  calls = [(x, results) for x in _wrong_versions(operands)]
  calls += [(operands, x) for x in _wrong_versions(results)]
  for ends in ([4, 3], [3, 5], [3, 3], [-1, 4], [], [1, 2, 4]):
    ends = np.array(ends, np.int32)
    calls.append(((*operands[:3], ends, *operands[4:]), results))
  for wrong_operands, wrong_results in calls:
    # JAX raises either, by version and by where the call is dispatched.
    with pytest.raises(
        (jax.errors.JaxRuntimeError, ValueError), match='INVALID_ARGUMENT'
    ):
      _call(name, wrong_operands, wrong_results)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, 1e30, -1e30])
@pytest.mark.parametrize('place', range(5))
@pytest.mark.parametrize(
    'kernels', ['cpu', 'triton', pytest.param('gpu', marks=pytest.mark.gpu)]
)
def test_kernels_survive_any_parameter(value, place, kernels):
  """One wild splat of three: no crash, and far pixels are not touched."""
  if (kernels, jax.default_backend()) in (('cpu', 'gpu'), ('gpu', 'cpu')):
    pytest.skip('for the other device')
  implementation = 'triton' if kernels == 'gpu' else kernels
  means = np.float32([[5, 5], [20, 20], [35, 30]])
  cholesky = np.float32([[2, 0.5, 2]] * 3)
  (means if place < 2 else cholesky)[
      1, place if place < 2 else place - 2
  ] = value
  colors = np.float32([[1.0], [0.0], [0.5]])
  images, *gradients = _images_and_gradients(
      *map(jnp.asarray, (means, cholesky, colors)),
      jnp.ones((2, 40, 40, 1)),
      (1, 2),
      40,
      40,
      implementation,
  )
  others = pallas_kernels.composite(
      *(jnp.asarray(x[[0, 2]]) for x in (means, cholesky, colors)),
      layer_sizes=(1, 1),
      height=40,
      width=40,
      implementation=implementation,
  )
  # Color 0: what the wild splat adds is 0, or not a number.
  finite = np.isfinite(images)
  np.testing.assert_allclose(images[finite], others[finite], atol=1e-6)
  for gradient in gradients:
    assert np.isfinite(gradient[0]).all() and np.isfinite(gradient[2]).all()


@pytest.mark.skipif("jax.default_backend() != 'cpu'", reason='runs on CPU')
@pytest.mark.parametrize('function', ['composite', 'vjp', 'error'])
def test_tile_lists_that_are_too_long_are_refused(function):
  """65,537 splats in each of 2^15 tiles: more pairs than are listed."""
  n, height, width = 2**16 + 1, 1024, 2048
  splats = (
      jnp.full((n, 2), 500.0),
      jnp.tile(jnp.array([1e6, 0, 1e6]), (n, 1)),
      jnp.ones((n, 1)),
  )
  static = dispatch.Static((n,), height, width)
  images = jnp.ones((1, height, width, 1))
  calls = {
      'composite': lambda: cpu.composite(*splats, static, 'cpu'),
      'vjp': lambda: cpu.composite_vjp(*splats, images, static, 'cpu'),
      'error': lambda: cpu.composite_error(
          *splats, images[0], images[0, ..., 0], jnp.ones(1), static, 'cpu'
      ),
  }
  with pytest.raises(
      (jax.errors.JaxRuntimeError, ValueError), match='RESOURCE_EXHAUSTED'
  ):
    jax.block_until_ready(jax.jit(calls[function])())


def test_sides_that_no_float32_counts():
  """At 2^24 + 8 pixels a float32 rounds the last pixel into the next tile."""
  width = 2**24 + 8
  images = pallas_kernels.composite(
      jnp.array([[width - 0.5, 0.5], [1e9, 0.5]]),
      jnp.array([[2.0, 0.0, 2.0], [1e9, 0.0, 1.0]]),
      jnp.array([[1.0], [0.25]]),
      layer_sizes=(2,),
      height=1,
      width=width,
      implementation='cpu',
  )
  assert images[0, 0, -1, 0] > 0.9
