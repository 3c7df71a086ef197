import dataclasses
import json
import pathlib
import zlib

import numpy as np
import pytest

from launch.lab import train_models
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import layer_coding
from pgsvc_jax.codec import mixing
from pgsvc_jax.codec import models
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import quantized
from pgsvc_jax.codec import syntax
from tests import bitstream_test

WEB = pathlib.Path(models.PATH).parents[1] / 'web'


@pytest.fixture(scope='module', name='layers')
def layers_fixture():
  picture = bitstream_test.make_picture((200, 0, 80), seed=3)
  return quantized.quantize_layers(picture, quantize.StepSizes())


def write_all(layers, model=None):
  coder = layer_coding.LayerCoder(
      layers.height, layers.width, layers.channels, model
  )
  return coder, list(map(coder.write, layers.symbols, layers.step_sizes))


def test_tables_are_as_the_page_says():
  """A few numbers that are easily found by hand."""
  assert mixing.SQUASH[2048] == 32768 and mixing.SQUASH[0] == 32
  assert mixing._STRETCH[2048] == 0 or mixing._STRETCH[2047] == 0
  assert (np.diff(mixing._STRETCH) >= 0).all()
  assert mixing._LEARN[0] == 40960
  assert mixing._SEEN[[0, 1, 2, 3, 64, 255]].tolist() == [0, 1, 1, 2, 5, 5]


def test_code_in_the_cache_is_that_of_both_files():
  source = pathlib.Path(mixing.__file__).read_bytes()
  assert layer_coding.MIXING == zlib.crc32(source), (
      'mixing.py has changed: put its new CRC-32 into layer_coding.py, whose'
      ' compiled code would not follow otherwise'
  )


def test_models_are_those_of_the_coder_and_of_the_page():
  model = models.load()
  assert len(model.states) == layer_coding.NUM_ROWS * 2 * mixing.NUM_NODES
  written = (WEB / 'models.js').read_text('ascii')
  found = written[written.index('{') : written.rindex('}') + 1]
  assert json.loads(found) == json.loads(models.PATH.read_text('ascii'))
  assert 'Kodak' in json.loads(found)['trained_on']


def test_bits_of_attributes_add_up_to_the_packets(layers):
  coder, packets = write_all(layers)
  bits = sum(coder.attribute_bits().values())
  # Costs are told of chances in 1/4096; each packet ends at a byte.
  assert abs(bits - 8 * sum(map(len, packets))) < 0.01 * bits + 24


def test_a_packet_needs_those_below(layers):
  _, packets = write_all(layers)
  alone = layer_coding.LayerCoder(layers.height, layers.width, 3)
  try:
    found = alone.read(packets[2], 80, layers.step_sizes[2])
  except ValueError:
    return
  assert (found.colors != layers.sort().symbols[2].colors).any()


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_splats_in_one_place_and_far_away(channels):
  """Boxes of one cell, cells that many share, and boxes that are not kept."""
  steps = quantize.StepSizes(cell=0)
  one = quantize.zeros(40, channels)
  far = quantize.zeros(3, channels)
  limit = quantize.CELL_LIMIT
  far.positions[:] = [[-limit, -limit], [0, 5], [limit - 1, limit - 1]]
  bits = quantize.cell_bits(far, steps)
  far.positions[:] <<= bits
  coder, reader = (layer_coding.LayerCoder(5, 7, channels) for _ in range(2))
  for layer in (one, far, one):
    packet = coder.write(layer, steps)
    found = reader.read(packet, len(layer.classes), steps)
    for ours, theirs in zip(found, layer):
      np.testing.assert_array_equal(ours, theirs)


def test_plain_python_writes_the_same(layers, monkeypatch):
  """Functions as they are without Numba."""
  few = dataclasses.replace(
      layers,
      symbols=tuple(
          quantize.Symbols(*(x[:9] for x in layer)) for layer in layers.symbols
      ),
  )
  _, expected = write_all(few)
  for module in (mixing, layer_coding):
    for name, function in vars(module).items():
      if hasattr(function, 'py_func'):
        monkeypatch.setattr(module, name, function.py_func)
  _, packets = write_all(few)
  assert packets == expected
  reader = layer_coding.LayerCoder(few.height, few.width, 3)
  for packet, layer, steps in zip(packets, few.sort().symbols, few.step_sizes):
    found = reader.read(packet, len(layer.classes), steps)
    for ours, theirs in zip(found, layer):
      np.testing.assert_array_equal(ours, theirs)


def test_training_learns_what_pictures_are_like(layers):
  size = lambda model: sum(map(len, write_all(layers, model)[1]))
  trained = train_models.train({'a': [layers], 'b': [layers]})
  # The weights of a model are changed by who writes with it.
  text = models.write(
      trained,
      trained_on='',
      table_rows=np.ravel(layer_coding.ROWS).tolist(),
  )
  blank = size(train_models.blank_model())
  assert size(trained) < blank and size(models.parse(text)) < blank


def test_compact_headers_are_as_short_as_can_be(layers):
  header, _ = bitstream.encode(layers)
  data = syntax.pack_header(header)
  # Magic, version, size; four numbers; entries; checksum.
  entries = [2 + 2 + 4 + 1, 1 + 1 + 4 + 1, 1 + 1 + 4 + 1]
  assert len(data) <= 8 + 1 + 1 + 4 + sum(entries) + 2 + 4
  assert syntax.read_header(data) == header
  # What is as in the layer below is not told.
  steps = dataclasses.replace(quantize.StepSizes(), color=300)
  finer = dataclasses.replace(layers, step_sizes=(steps,) * 3)
  header, _ = bitstream.encode(finer)
  assert len(syntax.pack_header(header)) <= len(data) + 2 + 2


def test_headers_that_tell_what_is_known_are_refused(layers):
  """One header, one spelling."""
  header, _ = bitstream.encode(layers)
  data = syntax.pack_header(header)
  start = 10
  body = bytearray(data[start:-4])
  # width, height, channels, layers; splats, size (2 bytes each), checksum.
  flags = 4 + 2 + 2 + 4
  assert body[flags] == 0
  body[flags] = 1
  body[flags + 1 : flags + 1] = syntax.pack_varint(256)
  forged = data[:9] + bytes([data[9] + 2]) + body
  forged += zlib.crc32(forged).to_bytes(4, 'little')
  with pytest.raises(syntax.BitstreamError, match='longer than need be'):
    syntax.read_header(forged)
