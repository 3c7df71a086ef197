"""Rates and errors that are asked for are reached."""

import dataclasses

import numpy as np
import pytest

from pgsvc_jax import config as config_lib
from pgsvc_jax import metrics
from pgsvc_jax import render
from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import quantized
from pgsvc_jax.codec import rate

BLACK = np.zeros((120, 160, 3), np.float32)


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
  steps = rate.choose_step_sizes(config, layered, 1.0, BLACK)
  data = bitstream.write(rate.round_layers(config, layered, steps))
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
  steps = rate.choose_step_sizes(config, layered, 20.0, BLACK)
  rounded = bitstream.read_layers(bitstream.write(layered, steps))
  before, after = (
      render.render_picture(x).astype(float) / 255 for x in (layered, rounded)
  )
  assert 0.3 * 10 < np.sum((before - after) ** 2) < 3 * 10
  fixed = dataclasses.replace(config, rounding_noise=0.0)
  chosen = rate.choose_step_sizes(fixed, layered, 20.0, BLACK)
  assert chosen == (fixed.step_sizes,)


def test_splats_follow_the_rate_unless_they_are_given():
  config = config_lib.EncodeConfig(target_bpp=0.5)
  image = np.zeros((100, 200, 3), np.float32)
  assert sum(rate.layer_splats(config, image)) == pytest.approx(417, abs=2)
  given = dataclasses.replace(
      config, fit=config_lib.FitConfig(layer_splats=(7, 3))
  )
  assert rate.layer_splats(given, image) == (7, 3)
  assert rate.layer_splats(config_lib.EncodeConfig(), image) == ()


def test_splats_follow_the_steps_between_the_rates_of_layers():
  config = config_lib.EncodeConfig(layer_bpp=(0.3, 0.4, 0.8))
  low, middle, high = rate.layer_splats(config, BLACK)
  assert low == pytest.approx(0.3 * 120 * 160 / 24, abs=1)
  assert (middle, high) == (
      pytest.approx(low / 3, 2),
      pytest.approx(4 * low / 3, 2),
  )


def test_every_layer_ends_at_its_rate():
  layered = random_fit(400, 200, 300)
  config = config_lib.EncodeConfig(layer_bpp=(0.6, 1.0, 1.1))
  steps = rate.choose_step_sizes(config, layered, 1.0, BLACK)
  # The middle layer has the most bits a splat, the last one the fewest.
  assert steps[1].color < steps[0].color < steps[2].color
  data = bitstream.write(rate.round_layers(config, layered, steps))
  reached = np.array(bitstream.read_header(data).bits_per_pixel)
  assert (reached <= config.layer_bpp).all()
  np.testing.assert_allclose(reached, config.layer_bpp, rtol=0.03)


@pytest.mark.parametrize('target', [35.0, 45.0])
def test_a_quality_allows_for_what_the_refit_gives_back(target):
  layered = random_fit(400, 200)
  image = render.render_picture(layered).astype(np.float32) / 255
  config = config_lib.EncodeConfig(target_psnr=target)
  steps = rate.choose_step_sizes(config, layered, 1e-3, image)
  nearest = dataclasses.replace(
      config, fit=config_lib.FitConfig(rounding_bit_weight=0.0)
  )
  rounded = rate.round_layers(nearest, layered, steps).dequantize()
  psnr_db = metrics.psnr_db(render.render_picture(rounded), image)
  # All of the error is of rounding, of which the refit leaves 0.65: 1.9 dB.
  assert target - 1.9 < psnr_db < target - 1.6


def test_a_quality_beyond_the_fit_gets_steps_that_do_not_show():
  layered = random_fit(400)
  image = np.clip(render.render_picture(layered) / 255 + 0.1, 0, 1)
  config = config_lib.EncodeConfig(target_psnr=60.0)
  error = 0.01 * image.size
  steps = rate.choose_step_sizes(config, layered, error, image)
  assert steps[0].color > 1
  rounded = bitstream.read_layers(bitstream.write(layered, steps))
  before, after = (
      metrics.psnr_db(render.render_picture(x), image)
      for x in (layered, rounded)
  )
  assert before - 0.2 < after < 30


def test_a_file_that_is_too_good_is_trimmed_to_its_quality():
  layered = random_fit(300, 100)
  image = render.render_picture(layered).astype(np.float32) / 255
  steps = quantize.StepSizes(color=60)
  config = config_lib.EncodeConfig(target_psnr=33.0)
  layers = quantized.quantize_layers(layered, steps)
  trimmed = rate.trim(config, layers, image)
  decoded = bitstream.read_layers(bitstream.write(trimmed))
  assert 33 <= metrics.psnr_db(render.render_picture(decoded), image) < 33.3
  assert 200 < sum(trimmed.layer_sizes) < 390
  # One that is not good enough, or has no target, is left alone.
  for config in (
      config_lib.EncodeConfig(target_psnr=90.0),
      config_lib.EncodeConfig(),
  ):
    assert rate.trim(config, layers, image).layer_sizes == (300, 100)


def test_estimated_rates_rise_with_quality_and_detail():
  y, x = np.mgrid[:64, :80] / 64
  smooth = np.stack([x, y, x * y], -1).astype(np.float32)
  rough = np.random.default_rng(0).random((64, 80, 3), np.float32)
  for psnr_db in (25, 30, 35):
    assert rate.estimate_bpp(smooth, psnr_db) < rate.estimate_bpp(
        rough, psnr_db
    )
    assert rate.estimate_bpp(rough, psnr_db) < rate.estimate_bpp(
        rough, psnr_db + 1
    )
  assert rate.estimate_bpp(rough, 200.0) == 24
  assert rate.estimate_bpp(np.zeros((5, 3, 1), np.float32), 30.0) > 0


def test_keep_counts_what_is_left_of_each_layer():
  layered = random_fit(3, 0, 4)
  mask = np.array([True, False, True, False, False, True, True])
  kept = layered.keep(mask)
  assert kept.layer_sizes == (2, 0, 2)
  np.testing.assert_array_equal(
      kept.splats.means, layered.splats.means[[0, 2, 5, 6]]
  )


def test_weak_splats_round_to_one_step_at_most():
  layered = random_fit(200)
  steps = quantize.StepSizes(color=2000)
  symbols = quantize.quantize(layered.splats, steps)
  weak = quantize.weak(symbols)
  assert 0 < weak.sum() < len(weak)
  np.testing.assert_array_equal(
      weak, (symbols.colors.astype(int) ** 2).sum(axis=1) <= 1
  )
