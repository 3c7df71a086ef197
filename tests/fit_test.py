"""The whole fit on small pictures: convergence, strategies, determinism."""

import dataclasses
import itertools
import time

import jax
from jax import numpy as jnp
import numpy as np
import pytest
import skimage.data

import pallas_kernels
from pgsvc_jax import config as config_lib
from pgsvc_jax import metrics
from pgsvc_jax import render
from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import quantize
from pgsvc_jax.training import fit
from pgsvc_jax.training import loop
from pgsvc_jax.training import losses

CONFIG = config_lib.FitConfig(
    layer_splats=(60, 30, 30), num_steps=120, num_births=6
)


def scene(height=40, width=56, channels=3):
  """Smooth hills with an edge."""
  y, x = np.mgrid[:height, :width] / 10
  waves = [np.sin(x * (1 + c / 3) + c) * np.cos(y + c) for c in range(channels)]
  image = 0.5 + 0.25 * np.stack(waves, -1)
  image[:, width // 2 :] *= 0.6
  return image.astype(np.float32)


def psnrs(layered, image):
  images = render.render_prefixes(layered)
  return [metrics.psnr_db(x / np.float32(255), image) for x in images]


@pytest.fixture(scope='module')
def joint():
  return fit.fit_picture(scene(), CONFIG)


def test_every_further_layer_makes_the_picture_better(joint):
  levels = psnrs(joint, scene())
  assert levels[0] > 27
  assert levels[0] + 0.3 < levels[1] and levels[1] + 0.3 < levels[2]
  assert joint.layer_sizes == (60, 30, 30)
  for x in joint.splats:
    assert x.dtype == np.float32 and np.isfinite(x).all()


def test_one_seed_gives_one_result(joint):
  again = fit.fit_picture(scene(), CONFIG)
  for a, b in zip(joint.splats, again.splats):
    np.testing.assert_array_equal(a, b)
  other = fit.fit_picture(scene(), dataclasses.replace(CONFIG, seed=1))
  assert not np.array_equal(joint.splats.means, other.splats.means)


def test_implementations_fit_alike():
  short = dataclasses.replace(CONFIG, num_steps=20)
  results = [
      psnrs(fit.fit_picture(scene(), short, implementation=name), scene())
      for name in ('cpu', 'xla', 'reference')
  ]
  np.testing.assert_allclose(results[1:], [results[0]] * 2, atol=0.02)


@pytest.mark.gpu
def test_a_gpu_fits_as_the_processor_does_and_no_transfer_is_unasked():
  if jax.default_backend() != 'gpu':
    pytest.skip('needs a CUDA device')
  (device, *_), (host, *_) = jax.devices('gpu'), jax.devices('cpu')
  # A read of the device that is not asked for raises here only: what lies on a
  # CPU device is on the host already.
  with jax.transfer_guard('disallow'):
    layered = fit.fit_picture(scene(), CONFIG, devices=[device])
  expected = fit.fit_picture(scene(), CONFIG, devices=[host])
  np.testing.assert_allclose(
      psnrs(layered, scene()), psnrs(expected, scene()), atol=0.5
  )


def test_sequential_freezes_the_base():
  """With the base frozen, its picture is that of a fit of the base alone."""
  config = dataclasses.replace(CONFIG, strategy='sequential', num_steps=180)
  layered = fit.fit_picture(scene(), config)
  base = dataclasses.replace(
      config,
      strategy='single',
      layer_splats=(60,),
      num_steps=60,
      num_births=3,
      num_relocations=2,
  )
  alone = fit.fit_picture(scene(), base)
  np.testing.assert_allclose(
      layered.splats.means[:60], alone.splats.means, atol=1e-3
  )


def test_pruning_a_single_fit_leaves_holes_that_joint_layers_do_not():
  image = skimage.data.astronaut()[30:126, 180:276] / np.float32(255)
  config = dataclasses.replace(CONFIG, layer_splats=(120, 60, 60))
  joint = fit.fit_picture(image, config)
  pruned = fit.fit_picture(image, dataclasses.replace(config, strategy='prune'))
  assert pruned.layer_sizes == joint.layer_sizes
  contribution = (
      pruned.splats.cholesky[:, 0]
      * pruned.splats.cholesky[:, 2]
      * np.linalg.norm(pruned.splats.colors, axis=1)
  )
  assert (np.diff(contribution) <= 1e-6).all()
  ours, theirs = psnrs(joint, image), psnrs(pruned, image)
  assert ours[0] > theirs[0] + 0.7
  # The fit itself is no worse: only its cutting is bad.
  assert abs(ours[-1] - theirs[-1]) < 1.1


@pytest.mark.parametrize(
    'shape', [(1, 1, 3), (1, 37, 1), (9, 1, 4), (17, 23, 2)]
)
def test_any_size_and_channels(shape):
  image = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
  config = config_lib.FitConfig(layer_splats=(4, 2), num_steps=30)
  layered = fit.fit_picture(image, config)
  assert render.render_prefixes(layered).shape == (2, *shape)


def test_progress_is_reported_for_every_chunk():
  seen = []
  fit.fit_picture(scene(), CONFIG, report=seen.append)
  assert [p.step for p in seen] == list(range(10, 130, 10))
  assert [p.num_splats for p in seen] == sorted(p.num_splats for p in seen)
  assert len(seen[0].psnr_db) == 1 and len(seen[-1].psnr_db) == 3
  np.testing.assert_allclose(
      seen[-1].psnr_db[-1], -10 * np.log10(seen[-1].loss), rtol=1e-6
  )
  assert seen[-1].num_splats == 120


def test_divergence_stops_the_fit():
  image = scene()
  image[3, 3] = np.nan
  with pytest.raises(
      loop.DivergenceError, match='layer 0: .* not finite after step 1 of'
  ):
    fit.fit_picture(image, CONFIG)


def test_what_is_no_picture_is_refused():
  with pytest.raises(ValueError, match='h, w, c'):
    fit.fit_picture(np.zeros((4, 4), np.float32), CONFIG)


def test_a_rounded_fit_is_what_the_file_holds():
  image = scene()
  config = config_lib.FitConfig(
      layer_splats=(30, 12), num_steps=60, rounding_steps=110
  )
  steps = quantize.StepSizes(color=600)
  staged = fit.fit_picture(image, config, step_sizes=steps)
  decoded = bitstream.read_layers(bitstream.write(staged, steps))
  layers = np.cumsum(staged.layer_sizes)[:-1]
  for array, other in zip(staged.splats, decoded.splats, strict=True):
    pairs = zip(np.split(array, layers), np.split(other, layers), strict=True)
    for x, y in pairs:
      np.testing.assert_array_equal(np.sort(x, 0), np.sort(y, 0))
  plain = fit.fit_picture(image, config)
  rounded = bitstream.read_layers(bitstream.write(plain, steps))
  error = lambda x: np.square(
      np.asarray(
          pallas_kernels.composite(
              *x.splats, layer_sizes=x.layer_sizes, height=40, width=56
          )
      )[-1]
      - image
  ).sum()
  assert error(decoded) < error(rounded)


def test_every_layer_is_rounded_with_its_own_steps():
  config = config_lib.FitConfig(
      layer_splats=(30, 12), num_steps=60, rounding_steps=110
  )
  steps = [quantize.StepSizes(color=900), quantize.StepSizes(color=150)]
  staged = fit.fit_picture(scene(), config, step_sizes=steps)
  data = bitstream.write(staged, steps)
  decoded = bitstream.read_layers(data)
  assert [x.step_sizes for x in bitstream.read_header(data).layers] == steps
  for array, other in zip(staged.splats, decoded.splats, strict=True):
    np.testing.assert_array_equal(np.sort(array, 0), np.sort(other, 0))
  with pytest.raises(ValueError, match='1 step sizes for 2 layers'):
    fit.fit_picture(scene(), config, step_sizes=steps[:1])


def test_a_fit_out_of_time_has_all_splats_and_is_rounded():
  config = dataclasses.replace(CONFIG, rounding_steps=110)
  steps = quantize.StepSizes(color=100)
  seen = []

  def finish(deadline):
    (layered,) = fit.fit_pictures(
        [scene()],
        config,
        step_sizes=steps,
        report=lambda states: seen.append(states[0]),
        deadline=deadline,
    )
    return layered

  late = finish(time.perf_counter())
  assert len(seen) < 8 and seen[-1].num_splats == 120
  decoded = bitstream.read_layers(bitstream.write(late, steps))
  for array, other in zip(late.splats, decoded.splats, strict=True):
    np.testing.assert_array_equal(np.sort(array, 0), np.sort(other, 0))
  seen.clear()
  early = finish(time.perf_counter() + 1e6)
  assert all(b.step - a.step == 10 for a, b in itertools.pairwise(seen))
  whole = fit.fit_picture(scene(), config, step_sizes=steps)
  for array, other in zip(early.splats, whole.splats, strict=True):
    np.testing.assert_array_equal(array, other)


# ---- What may be replaced ----------------------------------------------------
SHORT = dataclasses.replace(
    CONFIG, num_steps=40, num_births=1, num_relocations=0
)


def on_the_diagonal(image, render, pixel_weights, means, count, rng):
  del pixel_weights, means, rng
  height, width, channels = image.shape
  along = (np.arange(count, dtype=np.float32)[:, None] + 0.5) / count
  color = 0.5 if render is None else 0.0
  return types.Splats(
      along * np.float32([width, height]),
      np.tile(np.float32([2, 0, 2]), (count, 1)),
      np.full((count, channels), color, np.float32),
  )


def test_an_initializer_makes_the_splats_of_every_birth():
  calls = []

  def initializer(image, render, pixel_weights, means, count, rng):
    calls.append((render is None, len(means), count))
    return on_the_diagonal(image, render, pixel_weights, means, count, rng)

  # A step so small that the splats stay where they were born.
  still = dataclasses.replace(SHORT, means_rate=1e-6)
  layered = fit.fit_picture(scene(), still, initializer=initializer)
  assert calls == [(True, 0, 60), (False, 60, 30), (False, 90, 30)]
  expected = np.concatenate(
      [
          on_the_diagonal(scene(), *[None] * 3, n, None).means
          for n in (60, 30, 30)
      ]
  )
  np.testing.assert_allclose(layered.splats.means, expected, atol=0.01)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'means': np.zeros((3, 2), np.float32)}, 'means made by'),
        ({'colors': np.zeros((60, 1), np.float32)}, 'colors made by'),
        ({'colors': np.full((60, 3), np.nan, np.float32)}, 'not finite'),
        ({'cholesky': np.zeros((60, 3), np.float32)}, 'must be positive'),
    ],
)
def test_what_an_initializer_makes_is_checked(change, message):
  def initializer(*args):
    return on_the_diagonal(*args)._replace(**change)

  with pytest.raises(ValueError, match=message):
    fit.fit_picture(scene(), SHORT, initializer=initializer)


@pytest.mark.parametrize('num_devices', [1, 3])
def test_pixel_weights_say_where_the_picture_should_be_good(num_devices):
  weights = np.full((40, 56), 0.01, np.float32)
  weights[10:30, 5:25] = 1
  devices = jax.devices()[:num_devices]
  image = skimage.data.astronaut()[40:80, 200:256] / np.float32(255)
  errors, counts, reports = [], [], []
  for w in (None, weights):
    layered = fit.fit_picture(
        image, SHORT, devices=devices, pixel_weights=w, report=reports.append
    )
    shown = render.render_picture(layered) / np.float32(255)
    errors.append(((shown - image) ** 2)[10:30, 5:25].mean())
    inside = (layered.splats.means > [5, 10]) & (
        layered.splats.means < [25, 30]
    )
    counts.append(inside.all(1).sum())
    # What is reported is the mean by weight.
    weight = (np.ones_like(weights) if w is None else w)[..., None]
    mse = (weight * (shown - image) ** 2).sum() / weight.sum() / 3
    np.testing.assert_allclose(reports[-1].loss, mse, rtol=0.2)
  assert errors[1] < 0.8 * errors[0] and counts[1] > 2 * counts[0]


@pytest.mark.parametrize(
    'weights', [np.ones((56, 40)), np.zeros((40, 56)), np.full((40, 56), -1.0)]
)
def test_weights_that_make_no_sense_are_refused(weights):
  with pytest.raises(ValueError, match='weights'):
    fit.fit_picture(scene(), SHORT, pixel_weights=weights)


@pytest.mark.parametrize('given', ['argument', 'setting', 'error_fn'])
def test_another_loss_is_what_is_lowered(given):
  """Squared error takes a minority of outliers into account; L1 does not."""

  def absolute_error(
      means,
      cholesky,
      colors,
      target,
      pixel_weights,
      level_weights,
      *,
      layer_sizes,
  ):
    height, width, _ = target.shape
    images = pallas_kernels.composite(
        means,
        cholesky,
        colors,
        layer_sizes=layer_sizes,
        height=height,
        width=width,
    )
    differences = pixel_weights[..., None] * (images - target)
    absolute = jnp.abs(differences).sum((1, 2, 3))
    return level_weights @ absolute, (differences**2).sum((1, 2, 3))

  image = np.full((24, 24, 1), 0.25, np.float32)
  outliers = np.random.default_rng(0).uniform(size=image.shape) < 0.2
  config = dataclasses.replace(SHORT, layer_splats=(4,), num_steps=200)

  def median(config, **options):
    layered = fit.fit_picture(
        np.where(outliers, 1, image).astype(np.float32), config, **options
    )
    return np.median(render.render_picture(layered)) / 255

  absolute = losses.Loss(
      error_fn=lambda *args, implementation, **kwargs: absolute_error(
          *args, **kwargs
      ),
      unit='absolute error',
  )
  match given:
    case 'argument':
      result = median(config, loss=absolute)
    case 'setting':
      result = median(dataclasses.replace(config, loss='charbonnier'))
    case 'error_fn':
      with pytest.warns(DeprecationWarning, match='loss=losses.Loss'):
        result = median(config, error_fn=absolute_error)
  assert abs(result - 0.25) < 0.05
  assert median(config) > 0.35


@pytest.mark.parametrize('scales', [(), (0.5, 1.0)])
def test_a_loss_that_looks_at_neighbours_sees_whole_pictures(scales):
  """However many devices there are, without rows that are padding."""
  shapes = []

  def variation(images, target, pixel_weights):
    shapes.append((target.shape, pixel_weights.shape))
    differences = pixel_weights[..., None] * (images - target)
    return jnp.square(jnp.diff(differences, axis=1)).sum((1, 2, 3))

  loss = losses.Loss(
      error_fn=losses.of_images(variation), unit='gradient', needs='whole'
  )
  config = dataclasses.replace(
      SHORT, layer_splats=(6, 6), layer_scales=scales, num_steps=20
  )
  image = scene(45, 30)  # No multiple of the rows of a tile.
  devices = jax.devices()[:3]
  layered = fit.fit_picture(image, config, loss=loss, devices=devices)
  assert render.render_picture(layered).shape == (45, 30, 3)
  expected = {(45, 30), (22, 15)} if scales else {(45, 30)}
  assert {x[:2] for x, _ in shapes} == {y for _, y in shapes} == expected


def test_losses_that_are_not_there_are_refused():
  with pytest.raises(
      ValueError, match="loss must be one of .*squared, not 'l3'"
  ):
    dataclasses.replace(CONFIG, loss='l3')
  with pytest.raises(TypeError, match="no option 'losss'"):
    fit.fit_picture(scene(), CONFIG, losss=None)


@pytest.mark.parametrize('name', losses.names())
def test_every_loss_is_least_where_the_picture_is_met(name):
  """Its value is a sum over pixels and prefixes, with the weights of both."""
  loss = losses.get(name)
  splats = types.Splats(
      np.float32([[4.5, 4.5], [8, 3]]),
      np.float32([[2, 0, 2], [1, 0.5, 3]]),
      np.float32([[0.5], [0.2]]),
  )
  kwargs = dict(layer_sizes=(1, 1), height=8, width=12)
  images = pallas_kernels.composite(*splats, **kwargs)
  weights = np.ones((8, 12), np.float32)

  def value(target, weights, levels=(1.0, 1.0)):
    loss_, errors = loss.error_fn(
        *splats,
        target,
        weights,
        np.float32(levels),
        layer_sizes=(1, 1),
        implementation='xla',
    )
    squares = weights[..., None] * (images - target) ** 2
    np.testing.assert_allclose(errors, squares.sum((1, 2, 3)), 1e-4, 1e-6)
    return float(loss_)

  target = np.asarray(images[-1])
  assert value(target, weights, (0.0, 1.0)) == pytest.approx(0, abs=1e-5)
  off = target + np.float32(0.1)
  assert value(off, weights) > 1e-3
  assert value(off, 2 * weights) == pytest.approx(
      2 * value(off, weights), rel=1e-4
  )
  # What the exchange rate says: the change where the error is that large.
  both = [
      value(target + np.float32(0.1 + d), weights, (0, 1)) for d in (0, 1e-3)
  ]
  rate = (both[1] - both[0]) / (96 * (0.101**2 - 0.1**2))
  assert rate == pytest.approx(loss.per_squared_error(0.1**2), rel=0.02)
