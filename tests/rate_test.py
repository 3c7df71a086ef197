"""Rates and errors that are asked for are reached."""

import dataclasses

import numpy as np
import pytest

from pgsvc_jax import bitstream
from pgsvc_jax import config as config_lib
from pgsvc_jax import quantize
from pgsvc_jax import rate
from pgsvc_jax import render
from pgsvc_jax import types


def random_fit(*sizes, height=120, width=160):
  rng = np.random.default_rng(0)
  n = sum(sizes)
  sigma = rng.lognormal(0.7, 0.5, (n, 3))
  sigma[:, 1] *= rng.normal(size=n) * 0.4
  return types.LayeredSplats(
      splats=types.Splats(
          rng.uniform(0, [width, height], (n, 2)).astype(np.float32),
          sigma.astype(np.float32),
          (rng.normal(0, 0.15, (n, 3)) + 0.05).astype(np.float32),
      ),
      layer_sizes=sizes,
      height=height,
      width=width,
  )


@pytest.mark.parametrize('target_bpp', [0.5, 1.0, 2.0])
def test_a_target_is_reached_from_below(target_bpp):
  layered = random_fit(400, 200)
  config = config_lib.EncodeConfig(target_bpp=target_bpp)
  steps = rate.choose_step_sizes(config, layered, error=1.0)
  strong = rate.keep(layered, ~quantize.weak(layered.splats, steps))
  data = bitstream.write(strong, steps)
  *_, bpp = bitstream.read_header(data).bits_per_pixel
  assert 0.97 * target_bpp < bpp <= target_bpp


def test_noise_of_rounding_is_about_what_was_asked_for():
  # Far from each other, so that errors do not overlap, and in mid-gray.
  layered = random_fit(60, height=400, width=400)
  y, x = np.divmod(np.arange(60), 8)
  means = np.stack([x, y], 1) * 45 + 40.3
  layered = dataclasses.replace(
      layered,
      splats=layered.splats._replace(
          means=means.astype(np.float32), colors=layered.splats.colors + 0.5
      ),
  )
  config = config_lib.EncodeConfig(rounding_noise=0.5)
  steps = rate.choose_step_sizes(config, layered, error=20.0)
  rounded = bitstream.read_layers(bitstream.write(layered, steps))
  before, after = (
      render.render_picture(x).astype(float) / 255 for x in (layered, rounded)
  )
  assert 0.3 * 10 < np.sum((before - after) ** 2) < 3 * 10
  fixed = dataclasses.replace(config, rounding_noise=0.0)
  assert rate.choose_step_sizes(fixed, layered, 20.0) == fixed.step_sizes


def test_splats_follow_the_rate_unless_they_are_given():
  config = config_lib.EncodeConfig(target_bpp=0.5)
  assert sum(rate.layer_splats(config, 100, 200)) == pytest.approx(417, abs=2)
  given = dataclasses.replace(
      config, fit=config_lib.FitConfig(layer_splats=(7, 3))
  )
  assert rate.layer_splats(given, 100, 200) == (7, 3)
  assert rate.layer_splats(config_lib.EncodeConfig(), 100, 200) == ()


def test_keep_counts_what_is_left_of_each_layer():
  layered = random_fit(3, 0, 4)
  mask = np.array([True, False, True, False, False, True, True])
  kept = rate.keep(layered, mask)
  assert kept.layer_sizes == (2, 0, 2)
  np.testing.assert_array_equal(
      kept.splats.means, layered.splats.means[[0, 2, 5, 6]]
  )


def test_weak_splats_round_to_one_step_at_most():
  layered = random_fit(200)
  steps = quantize.StepSizes(color=2000)
  weak = quantize.weak(layered.splats, steps)
  symbols = quantize.quantize(layered.splats, steps)
  assert 0 < weak.sum() < len(weak)
  np.testing.assert_array_equal(
      weak, (symbols.colors.astype(int) ** 2).sum(axis=1) <= 1
  )
