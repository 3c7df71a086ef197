"""The coding rules of GSVC, as they are compared with."""

import dataclasses

import jax
import numpy as np
import pytest

from launch.lab.experiments import gsvc
from pgsvc_jax import config as config_lib
from pgsvc_jax import metrics
from pgsvc_jax import render
from pgsvc_jax import types
from tests import clips


def make_splats(count, seed=0):
  rng = np.random.default_rng(seed)
  cholesky = rng.uniform(1, 5, (count, 3)) * rng.choice([1, 1, 9], (count, 1))
  return types.Splats(
      rng.uniform(0, 40, (count, 2)).astype(np.float32),
      cholesky.astype(np.float32),
      rng.normal(0, 0.3, (count, 3)).astype(np.float32),
  )


def code(splats, reference, groups=3):
  """Rounds all attributes group by group; returns the codes and the splats."""
  codes = gsvc.Codes(reference, 40, 60, seed=0)
  for attribute in ('colors', 'cholesky', 'means'):
    for group in range(groups):
      mine = np.arange(group, len(splats.means), groups)
      splats = codes.round(splats, attribute, mine, floor=0.3)
  return codes, splats


def test_a_first_frame_has_the_values_that_its_codes_allow():
  splats = make_splats(500)
  zeros = types.Splats(*map(np.zeros_like, splats))
  codes, rounded = code(splats, zeros)
  for column in rounded.cholesky.T:
    assert len(np.unique(column)) <= 64
  assert len(np.unique(rounded.colors, axis=0)) <= 64
  raw = codes.raw(rounded).means
  np.testing.assert_allclose(raw, np.float16(raw), atol=1e-6)
  # Half floats are finer than what they are of.
  np.testing.assert_allclose(rounded.means, splats.means, atol=0.02)
  error = np.mean((rounded.colors - splats.colors) ** 2)
  assert error < 0.2 * np.var(splats.colors)
  # Positions and side information; the codes take 6, 6, 6, 3 and 3 at most.
  known = 32 * 500 + 1728
  assert known < codes.bits() <= known + 24 * 500


def test_the_next_frame_codes_differences():
  splats = make_splats(300)
  change = make_splats(300, seed=1)
  moved = types.Splats(*(a + 0.01 * b for a, b in zip(splats, change)))
  reference = gsvc.Codes(splats, 40, 60, 0).raw(splats)
  _, rounded = code(moved, reference)
  for name in splats._fields:
    error = getattr(rounded, name) - getattr(moved, name)
    whole = getattr(moved, name) - getattr(splats, name)
    assert np.mean(error**2) < 0.2 * np.var(whole), name


def test_splats_that_do_not_change_cost_their_positions():
  splats = make_splats(100)
  reference = gsvc.Codes(splats, 40, 60, 0).raw(splats)
  codes, rounded = code(splats, reference)
  assert codes.bits() == 32 * 100 + 1728
  np.testing.assert_allclose(rounded.colors, splats.colors, atol=1e-6)


def test_a_range_leaves_out_what_does_not_matter():
  values = np.linspace(0, 1, 1000)[:, None] * np.ones(3)
  values[-1] = 1000
  weights = np.ones_like(values)
  weights[-1] = 1e-12
  offset, scale = gsvc.fit_range(values, weights)
  assert (scale < 1.1 / 63).all() and (np.abs(offset) < 0.1).all()
  weights[-1] = 1
  _, scale = gsvc.fit_range(values, weights)
  np.testing.assert_allclose(scale, 1000 / 63, rtol=1e-3)


def test_codewords_of_few_colors_are_these_colors():
  rng = np.random.default_rng(0)
  colors = rng.normal(size=(5, 3)).astype(np.float32)
  values = colors[rng.integers(5, size=200)]
  stages = gsvc.fit_codewords(values, np.ones(200), rng)
  coded, codes = gsvc.nearest(values, stages)
  assert stages.shape == (2, 8, 3) and codes.max() < 8
  np.testing.assert_allclose(coded, values, atol=1e-5)


@pytest.mark.slow  # Two programs to compile.
def test_frames_are_followed_and_rounding_is_refused_without_steps():
  config = config_lib.VideoConfig(
      image=config_lib.EncodeConfig(
          fit=config_lib.FitConfig(
              layer_splats=(100, 50), num_steps=100, rounding_steps=60
          )
      ),
      update_steps=40,
      update_rounding_steps=60,
  )
  device = jax.local_devices()[0]
  frames = clips.moving(3) / np.float32(255)
  coder = gsvc.Coder(config, *frames.shape[1:3], device=device)
  results = list(coder.encode(frames))
  for coded, frame in zip(results, frames, strict=True):
    assert coded.layered.layer_sizes == (150,)
    assert 32 * 150 + 1728 < coded.bits < 57 * 150 + 1728
    image = render.render_picture(coded.layered)
    assert metrics.psnr_db(image, frame) > 25
  with pytest.raises(ValueError, match='rounding_steps'):
    gsvc.Coder(
        dataclasses.replace(config, update_rounding_steps=0),
        *frames.shape[1:3],
        device=device,
    )
