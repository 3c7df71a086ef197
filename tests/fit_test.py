"""The whole fit on small pictures: convergence, strategies, determinism."""

import dataclasses
import itertools
import time
import types as python_types

import numpy as np
import pytest
import skimage.data

import pallas_kernels
from pgsvc_jax import bitstream
from pgsvc_jax import config as config_lib
from pgsvc_jax import fit
from pgsvc_jax import metrics
from pgsvc_jax import quantize
from pgsvc_jax import render

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


def test_sequential_freezes_the_base():
  """With the base frozen, its picture is that of a fit of the base alone."""
  config = dataclasses.replace(CONFIG, strategy='sequential', num_steps=180)
  layered = fit.fit_picture(scene(), config)
  base = dataclasses.replace(
      config, strategy='single', layer_splats=(60,), num_steps=60, num_births=3
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
  # The fit itself is as good: only its cutting is bad.
  assert abs(ours[-1] - theirs[-1]) < 0.7


@pytest.mark.parametrize(
    'shape', [(1, 1, 3), (1, 37, 1), (9, 1, 4), (8, 8, 2), (17, 23, 3)]
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
  with pytest.raises(fit.DivergenceError, match='not finite after step 10'):
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


def paced(budget, chunk_seconds, num_steps, monkeypatch):
  """The steps at which chunks begin when each takes so long."""
  now = [100.0]
  clock = python_types.SimpleNamespace(perf_counter=lambda: now[0])
  monkeypatch.setattr(fit, 'time', clock)
  pace = fit._Pace(100.0 + budget, num_steps)
  starts, step = [], 0
  while step < num_steps:
    starts.append(step)
    now[0] += chunk_seconds
    step = pace.next_step(step + 10, 10)
  return starts, now[0] - 100.0


@pytest.mark.parametrize('budget', [2.0, 5.0, 7.7, 9.9])
def test_a_pace_leaves_out_steps_evenly(budget, monkeypatch):
  starts, seconds = paced(budget, 0.1, 1000, monkeypatch)
  assert budget - 0.3 < seconds < budget + 0.15
  gaps = np.diff(starts)[2:]
  assert gaps.max() - gaps.min() <= 10
  assert starts[-1] >= 1000 - 10 - gaps.max()


def test_a_pace_with_time_enough_leaves_out_nothing(monkeypatch):
  starts, _ = paced(10.5, 0.1, 1000, monkeypatch)
  assert starts == list(range(0, 1000, 10))


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
