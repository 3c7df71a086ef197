"""Layered pictures as symbols: what is written is what was decided."""

import dataclasses

import numpy as np
import pytest

from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import quantized

STEPS = (quantize.StepSizes(color=300), quantize.StepSizes(color=90))


def random_picture(sizes=(30, 12), channels=3):
  rng = np.random.default_rng(0)
  n = sum(sizes)
  shape = rng.lognormal(0.7, 0.5, (n, 3)) * [1, 0.3, 1]
  return types.LayeredSplats(
      splats=types.Splats(
          rng.uniform(0, 40, (n, 2)).astype(np.float32),
          shape.astype(np.float32),
          rng.normal(0, 0.2, (n, channels)).astype(np.float32),
      ),
      layer_sizes=sizes,
      height=40,
      width=40,
  )


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_symbols_are_written_as_they_are(channels):
  layers = quantized.quantize_layers(random_picture(channels=channels), STEPS)
  # No symbols that rounding to the nearest would ever choose.
  changed = tuple(x._replace(shears=x.shears + 1) for x in layers.symbols)
  layers = dataclasses.replace(layers, symbols=changed)
  read = bitstream.read_layers(bitstream.write(layers))
  expected = layers.sort().dequantize()
  assert read.layer_sizes == expected.layer_sizes
  for array, other in zip(read.splats, expected.splats, strict=True):
    np.testing.assert_array_equal(array, other)


def test_splats_are_rounded_once_whichever_way_they_are_written():
  picture = random_picture()
  layers = quantized.quantize_layers(picture, STEPS)
  data = bitstream.write(layers)
  assert bitstream.write(picture, STEPS) == data
  assert bitstream.write(layers.dequantize(), STEPS) == data


def test_what_is_left_out_is_left_out_of_its_layer():
  layers = quantized.quantize_layers(random_picture(), STEPS)
  mask = np.ones(42, bool)
  mask[[0, 1, 41]] = False
  kept = layers.keep(mask)
  assert kept.layer_sizes == (28, 11)
  np.testing.assert_array_equal(
      kept.symbols[1].colors, layers.symbols[1].colors[:-1]
  )


def test_sizes_step_sizes_and_shapes_go_together():
  picture = random_picture()
  with pytest.raises(ValueError, match='do not sum to 42'):
    quantized.quantize_layers(
        dataclasses.replace(picture, layer_sizes=(30, 13)), STEPS
    )
  with pytest.raises(ValueError, match='1 step sizes for 2 layers'):
    quantized.quantize_layers(picture, STEPS[:1])
  layers = quantized.quantize_layers(picture, STEPS)
  with pytest.raises(ValueError, match='1 step sizes for 2 layers'):
    dataclasses.replace(layers, step_sizes=STEPS[:1])
  with pytest.raises(ValueError, match='1 shapes for 2 layers'):
    dataclasses.replace(layers, layer_shapes=((40, 40),))
  with pytest.raises(TypeError, match='step sizes'):
    bitstream.write(picture)
