"""Cheap symbols: what they are said to cost, and what they save."""

import dataclasses

import numpy as np
import pytest

from pgsvc_jax import config as config_lib
from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import code_lengths
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import range_coder

STEPS = quantize.StepSizes(color=800)


def random_splats(n, channels=3):
  rng = np.random.default_rng(0)
  cholesky = rng.lognormal(0.7, 0.5, (n, 3))
  cholesky[:, 1] *= rng.normal(size=n) * 0.4
  return types.Splats(
      rng.uniform(0, 200, (n, 2)).astype(np.float32),
      cholesky.astype(np.float32),
      rng.normal(0, 0.4, (n, channels)).astype(np.float32),
  )


def test_lengths_are_those_of_the_coder():
  rng = np.random.default_rng(0)
  contexts = rng.integers(0, 3, 20_000)
  values = np.rint(rng.laplace(0, [1, 4, 20], (20_000, 3)))
  values = values[np.arange(20_000), contexts].astype(np.int64)
  encoder = range_coder.Encoder()
  encoder.column(values, contexts)
  table = code_lengths.learn(values, contexts)
  bits = code_lengths.count_bits(table, values, contexts)
  assert bits.sum() == pytest.approx(encoder.num_bits, rel=0.02)


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_cheap_symbols_are_nearest_or_next_to_zero(channels):
  splats = random_splats(2000, channels)
  nearest = quantize.quantize(splats, STEPS)
  cheap, strong = code_lengths.round_strong(splats, STEPS, 1.0)
  np.testing.assert_array_equal(strong, ~quantize.weak(nearest))
  nearest = quantize.Symbols(*(x[strong] for x in nearest))
  change = np.abs(nearest.colors) - np.abs(cheap.colors)
  assert set(np.unique(change)) == {0, 1}
  assert (cheap.colors * nearest.colors >= 0).all()
  assert quantize.precisions(cheap.colors).min() > 1
  np.testing.assert_array_equal(cheap.classes, nearest.classes)


def test_they_save_more_bits_than_they_cost_in_error():
  splats = random_splats(3000)
  sizes, errors = [], []
  for weight in (0.0, 1.0, 3.0):
    symbols, strong = code_lengths.round_strong(splats, STEPS, weight)
    exact = types.Splats(*(x[strong] for x in splats))
    rounded = quantize.dequantize(symbols, STEPS)
    picture = types.LayeredSplats(
        splats=rounded, layer_sizes=(strong.sum(),), height=200, width=200
    )
    sizes.append(len(bitstream.write(picture, STEPS)))
    sigma = np.exp2(symbols.classes[:, np.newaxis] / 2)
    shift = (rounded.colors - exact.colors) * sigma
    errors.append(np.square(shift / (STEPS.color * quantize.STEP_UNIT)).sum())
  assert sizes[0] - 50 > sizes[1] > sizes[2] + 100
  bits = 8 * (sizes[0] - np.array(sizes[1:]))
  worth = bits * 2 * np.log(2) / 12
  # Aspects and shears share the savings; each error is within what it saves.
  assert (errors[1:] - errors[0] < worth * [1, 3]).all()
  assert errors[0] < errors[1] < errors[2]


def test_without_a_weight_symbols_are_the_nearest():
  splats = random_splats(10)
  symbols, strong = code_lengths.round_strong(splats, STEPS, 0.0)
  nearest = quantize.quantize(splats, STEPS)
  for x, y in zip(symbols, nearest, strict=True):
    np.testing.assert_array_equal(x, y[strong])
  none = types.Splats(*(x[:0] for x in splats))
  symbols, strong = code_lengths.round_strong(none, STEPS, 1.0)
  assert not len(symbols.classes) and not len(strong)
  with pytest.raises(ValueError, match='rounding_bit_weight'):
    dataclasses.replace(config_lib.FitConfig(), rounding_bit_weight=-1.0)
