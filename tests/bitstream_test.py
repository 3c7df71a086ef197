import collections
import dataclasses
import hashlib
import itertools
import math
import pathlib
import subprocess
import sys
import tracemalloc
import zlib

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import morton
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import range_coder
from pgsvc_jax.codec import splat_coding
from pgsvc_jax.codec import syntax
from pgsvc_jax.codec.versions import version1

SETTINGS = hypothesis.settings(
    max_examples=100, derandomize=True, deadline=None, database=None
)

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'v1_three_layers.pgsvc'
GOLDEN_STEP_SIZES = (
    version1.StepSizes(position=1024, cholesky=300, shear=400, color=85),
    version1.StepSizes(position=128, cholesky=32, shear=64, color=6),
    version1.StepSizes(position=256, cholesky=65535, shear=1, color=33),
)
GOLDEN2 = GOLDEN.with_name('v2_three_layers.pgsvc')
GOLDEN6 = GOLDEN.with_name('v6_three_layers.pgsvc')
# Those of later versions, of the same splats.
GOLDEN_SHAPES = {
    GOLDEN2: (),
    GOLDEN.with_name('v4_three_layers.pgsvc'): ((10, 15), (19, 30), (40, 60)),
    GOLDEN6: (),
    GOLDEN.with_name('v6_ladder.pgsvc'): ((10, 15), (19, 30), (40, 60)),
}
GOLDEN2_STEP_SIZES = (
    quantize.StepSizes(),
    quantize.StepSizes(color=1, cell=0),
    quantize.StepSizes(color=2000, shape=300, position=60000, cell=5),
)


def make_picture(layer_sizes, channels=3, seed=0, width=60, height=40):
  rng = np.random.default_rng(seed)
  n = sum(layer_sizes)
  diagonals = np.exp(rng.normal(1.1, 0.6, (n, 2)))
  cholesky = [diagonals[:, 0], rng.normal(0, 1.5, n), diagonals[:, 1]]
  splats = types.Splats(
      means=rng.uniform(-4, (width + 4, height + 4), (n, 2)),
      cholesky=np.stack(cholesky, -1),
      colors=rng.laplace(0, 0.2, (n, channels)),
  )
  return types.LayeredSplats(
      splats=types.Splats(*(array.astype(np.float32) for array in splats)),
      layer_sizes=tuple(layer_sizes),
      height=height,
      width=width,
  )


def split(picture):
  ends = itertools.accumulate(picture.layer_sizes)
  for end, size in zip(ends, picture.layer_sizes, strict=True):
    yield types.Splats(*(array[end - size : end] for array in picture.splats))


def assert_same(picture, expected, num_layers=None):
  """Equal to the last bit, on the first layers of the expected picture."""
  sizes = expected.layer_sizes[:num_layers]
  assert picture.layer_sizes == sizes
  assert (picture.width, picture.height) == (expected.width, expected.height)
  for array, other in zip(picture.splats, expected.splats, strict=True):
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, other[: sum(sizes)])


def forge(data, **changes):
  """The file with other claims in its header, checksum and all."""
  header = bitstream.read_header(data)
  packets = data[header.header_size :]
  return syntax.pack_header(dataclasses.replace(header, **changes)) + packets


def forge_entry(data, **changes):
  """The same for the claims on its base layer."""
  base, *others = bitstream.read_header(data).layers
  return forge(data, layers=(dataclasses.replace(base, **changes), *others))


@pytest.fixture(scope='module', name='picture')
def picture_fixture():
  return make_picture((30, 12, 8))


@pytest.fixture(scope='module', name='data')
def data_fixture(picture):
  return bitstream.write(picture, quantize.StepSizes())


@pytest.fixture(scope='module', name='decoded')
def decoded_fixture(data):
  return bitstream.read_layers(data)


@SETTINGS
@hypothesis.given(
    layer_sizes=st.lists(st.integers(0, 25), min_size=1, max_size=4),
    channels=st.integers(1, 4),
    steps=st.lists(st.integers(1, quantize.MAX_STEP), min_size=3, max_size=3),
    cell=st.integers(0, quantize.MAX_CELL),
    seed=st.integers(0, 1000),
    metadata=st.binary(max_size=20),
)
def test_read_gives_what_was_quantized(
    layer_sizes, channels, steps, cell, seed, metadata
):
  picture = make_picture(layer_sizes, channels, seed)
  color, shape, position = steps
  step_sizes = quantize.StepSizes(
      color=color, shape=shape, position=position, cell=cell
  )
  data = bitstream.write(picture, step_sizes, metadata=metadata)
  decoded = bitstream.read_layers(data)
  assert decoded.layer_sizes == picture.layer_sizes
  for layer, splats in zip(split(decoded), split(picture), strict=True):
    expected = quantize.dequantize(
        quantize.quantize(splats, step_sizes), step_sizes
    )
    rows, expected_rows = (np.concatenate(x, 1) for x in (layer, expected))
    by_row = lambda x: x[np.lexsort(x.T)]
    np.testing.assert_array_equal(by_row(rows), by_row(expected_rows))
  assert bitstream.read_header(data).metadata == metadata
  assert bitstream.write(decoded, step_sizes, metadata=metadata) == data


def test_extreme_splats_are_clamped_and_come_back(picture):
  means = picture.splats.means.copy()
  means[:4] = [[3e38, -3e38], [-3e38, 3e38], [0, 0], [1e-45, -1e-45]]
  splats = picture.splats._replace(means=means)
  extreme = dataclasses.replace(picture, splats=splats)
  data = bitstream.write(extreme, quantize.StepSizes())
  decoded = bitstream.read_layers(data)
  limit = quantize.CELL_LIMIT * 4
  assert limit - 4 < decoded.splats.means.max() < limit
  assert -limit < decoded.splats.means.min() < 4 - limit
  assert bitstream.write(decoded, quantize.StepSizes()) == data


def test_header_tells_where_everything_is(picture, data):
  header = bitstream.read_header(data)
  assert (header.width, header.height, header.channels) == (60, 40, 3)
  assert [entry.num_splats for entry in header.layers] == [30, 12, 8]
  assert header.file_size == len(data)
  ends = (*header.packet_offsets[1:], len(data))
  assert header.truncation_points == ends
  for entry, start, end in zip(
      header.layers, header.packet_offsets, ends, strict=True
  ):
    assert zlib.crc32(data[start:end]) == entry.checksum
  assert header.bits_per_pixel[-1] == 8 * len(data) / 2400
  assert bitstream.read_header(data[: header.header_size]) == header


def test_packets_do_not_depend_on_layers_above(picture, data):
  """A file of the first layers has the packets of the whole one."""
  for n in (1, 2):
    sizes = picture.layer_sizes[:n]
    splats = types.Splats(*(x[: sum(sizes)] for x in picture.splats))
    lower = dataclasses.replace(picture, splats=splats, layer_sizes=sizes)
    alone = bitstream.write(lower, quantize.StepSizes())
    assert alone == bitstream.extract(data, n)


def test_every_cut_gives_the_last_whole_prefix_or_the_stated_error(
    data, decoded
):
  header = bitstream.read_header(data)
  counts = collections.Counter()
  for end in range(len(data) + 1):
    cut = data[:end]
    whole = sum(end >= point for point in header.truncation_points)
    if end < header.header_size:
      with pytest.raises(bitstream.BitstreamError, match='inside the header'):
        bitstream.read_layers(cut)
      counts['header'] += 1
      continue
    assert header.available_layers(end) == whole
    if not whole:
      message = (
          rf'inside the base layer \(has {end} of'
          rf' {header.truncation_points[0]} bytes\)$'
      )
      with pytest.raises(bitstream.BitstreamError, match=message):
        bitstream.read_layers(cut)
    else:
      assert_same(bitstream.read_layers(cut), decoded, whole)
    counts[whole] += 1
    if whole < 3:
      with pytest.raises(bitstream.BitstreamError):
        bitstream.read_layers(cut, whole + 1)
  sizes = np.diff((header.header_size, *header.truncation_points)).tolist()
  expected = dict(zip((0, 1, 2), sizes, strict=True))
  assert counts == {'header': header.header_size, **expected, 3: 1}


def test_no_single_byte_change_passes(data):
  """2,000 changes: a CRC-32 sees every error of up to 32 bits in a row."""
  rng = np.random.default_rng(0)
  for _ in range(2000):
    damaged = bytearray(data)
    damaged[rng.integers(len(data))] ^= rng.integers(1, 256)
    with pytest.raises(bitstream.BitstreamError) as caught:
      bitstream.read_layers(bytes(damaged))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('layer', [0, 1, 2])
def test_damage_names_its_packet_and_leaves_the_layers_below(
    data, decoded, layer
):
  header = bitstream.read_header(data)
  damaged = bytearray(data)
  damaged[header.packet_offsets[layer] + 3] ^= 1
  damaged = bytes(damaged)
  message = rf'^layer {layer}: packet is damaged \(checksum\)$'
  with pytest.raises(bitstream.BitstreamError, match=message):
    bitstream.read_layers(damaged)
  with pytest.raises(bitstream.BitstreamError, match=message):
    bitstream.extract(damaged, 3)
  if layer:
    assert_same(bitstream.read_layers(damaged, layer), decoded, layer)


@SETTINGS
@hypothesis.given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_refused(data, with_magic):
  if with_magic:
    data = syntax.MAGIC + bytes([syntax.VERSION]) + data
  with pytest.raises(bitstream.BitstreamError):
    bitstream.read_layers(data)


@SETTINGS
@hypothesis.given(
    packet=st.binary(min_size=1, max_size=300), num_splats=st.integers(1, 200)
)
def test_any_packet_with_a_good_checksum_is_read_or_refused(packet, num_splats):
  header = syntax.Header(
      width=8,
      height=8,
      channels=3,
      layers=(
          syntax.LayerEntry(
              num_splats=num_splats,
              packet_size=len(packet),
              checksum=zlib.crc32(packet),
              step_sizes=quantize.StepSizes(),
          ),
      ),
  )
  try:
    picture = bitstream.read_layers(syntax.pack_header(header) + packet)
  except bitstream.BitstreamError:
    return
  assert picture.layer_sizes == (num_splats,)
  assert all(np.isfinite(array).all() for array in picture.splats)


@pytest.mark.parametrize(
    'gaps',
    [[-1], [2**48], [2**61] * 3, [2**47, 2**47], [2**48 - 1] * 40000],
    ids=['negative', 'too long', 'wrapping', 'past the end', 'many'],
)
def test_positions_off_the_curve_are_refused(gaps):
  encoder = range_coder.Encoder()
  encoder.column(np.array(gaps), np.zeros(len(gaps), np.int64))
  coded = encoder.finish()
  with pytest.raises(ValueError, match='off the curve'):
    splat_coding.decode(bytes(8) + coded, len(gaps), 4, quantize.StepSizes())


@pytest.mark.parametrize('column', range(5))
@pytest.mark.parametrize('value', [2**24, -(2**61)])
def test_symbols_beyond_their_limits_are_refused(column, value):
  """Class, color, size, shear, aspect: before they decide anything."""
  encoder = range_coder.Encoder()
  zero = np.zeros(1, np.int64)
  encoder.column(zero, zero)
  contexts = [0, 4, 1, 0, 0]
  for k, context in enumerate(contexts):
    number = np.array([value if k == column else 0])
    encoder.column(number, np.array([context]))
  # Bits enough for whatever is asked for.
  encoder.bits(np.array([0, 0]), np.array([40, 40]))
  with pytest.raises(ValueError, match='out of range'):
    steps = quantize.StepSizes()
    quantize.dequantize(
        splat_coding.decode(bytes(8) + encoder.finish(), 1, 1, steps),
        steps,
    )


@pytest.mark.parametrize('n', [100, 1000, 5000, 20000])
def test_sorting_saves_the_bits_of_the_order(n):
  """The table of format_v2.md: a set has log2(n!) bits less than a list."""

  def coded_bits(*columns):
    encoder = range_coder.Encoder()
    for column in columns:
      encoder.column(column, np.zeros(n, np.int64))
    return 8 * len(encoder.finish())

  cells = np.random.default_rng(0).integers(0, [192, 128], (n, 2))
  unsorted_bits = coded_bits(*cells.T)
  codes = np.sort(morton.encode(cells))
  gap_bits = coded_bits(np.diff(codes, prepend=0))
  order_bits = math.lgamma(n + 1) / math.log(2)
  print(n, unsorted_bits / n, gap_bits / n, order_bits / n)
  # Measured: 1.08 (few contexts to learn), 1.02, 1.00, 0.98.
  assert 0.97 < (unsorted_bits - gap_bits) / order_bits < 1.1


def test_an_empty_or_foreign_file_is_refused(data):
  refused = {
      b'': 'inside the header',
      b'\x89PNG\r\n\x1a\n': 'not a .pgsvc file',
      data.replace(b'\r\n', b'\n'): 'not a .pgsvc file',
      data[:8] + b'\3' + data[9:]: 'a video, not a picture',
      data[:8] + b'\5' + data[9:]: 'a video, not a picture',
      data[:8] + b'\7' + data[9:]: 'version 7 is not supported',
      data[:20] + b'\4' + data[21:]: r'header is damaged \(checksum\)',
      data + b'ab': '2 bytes after the last packet',
  }
  for file, message in refused.items():
    with pytest.raises(bitstream.BitstreamError, match=message):
      bitstream.read_layers(file)


def test_false_claims_are_refused_without_allocation(data):
  base = bitstream.read_header(data).layers[0]
  forged = {
      'bad picture size': [
          forge(data, width=0),
          forge(data, height=0),
          forge(data, width=2**32 - 1, height=2**32 - 1),
          forge(data, width=2**14, height=2**14 + 1),
      ],
      'number of channels': [forge(data, channels=0), forge(data, channels=5)],
      'number of layers 0': [forge(data, layers=())],
      'bad layer 0': [
          forge_entry(data, num_splats=10**6),
          forge_entry(data, num_splats=2**32 - 1),
          forge_entry(data, num_splats=base.packet_size + 1),
          forge_entry(data, num_splats=0),
      ],
      'inside the base layer': [
          forge_entry(data, num_splats=2**32 - 1, packet_size=2**32 - 1),
      ],
      'damaged': [
          forge_entry(data, num_splats=29),
          forge_entry(data, num_splats=31),
          forge_entry(data, num_splats=base.packet_size),
          forge(data, channels=2),
      ],
  }
  bitstream.read_layers(data)  # Whatever loads late is loaded now.
  for message, files in forged.items():
    for file in files:
      tracemalloc.start()
      with pytest.raises(bitstream.BitstreamError, match=message):
        bitstream.read_layers(file)
      peak = tracemalloc.get_traced_memory()[1]
      tracemalloc.stop()
      # The tables of the models, and of blocks of the largest picture.
      assert peak < 2**24


@pytest.mark.parametrize(
    'offset, value, message',
    [
        (9, b'\1', r'^flags 0x01 are not supported$'),
        # Step sizes of the base layer.
        (34, b'\0\0', 'step size color must be'),
        (40, b'\x10\0', 'step size cell must be'),
    ],
)
def test_flags_and_step_sizes_of_zero_are_refused(offset, value, message):
  data = GOLDEN2.read_bytes()
  end = bitstream.read_header(data).header_size - 4
  body = data[:offset] + value + data[offset + len(value) : end]
  with pytest.raises(bitstream.BitstreamError, match=message):
    bitstream.read_header(body + zlib.crc32(body).to_bytes(4, 'little'))


@pytest.mark.parametrize('num_layers', [1, 2, 3])
def test_extract_copies_the_packets(data, decoded, num_layers):
  header = bitstream.read_header(data)
  end = header.truncation_points[num_layers - 1]
  small = bitstream.extract(data, num_layers)
  small_header = bitstream.read_header(small)
  assert small_header.layers == header.layers[:num_layers]
  assert small[small_header.header_size :] == data[header.header_size : end]
  assert bitstream.extract(data[:end], num_layers) == small
  assert_same(bitstream.read_layers(small), decoded, num_layers)
  assert (small == data) == (num_layers == 3)


def test_layers_that_are_not_there_are_refused(data):
  for read in (bitstream.read_layers, bitstream.extract):
    with pytest.raises(bitstream.BitstreamError, match='the file has 3$'):
      read(data, 4)
    with pytest.raises(bitstream.BitstreamError, match='cut after 2 of 3$'):
      read(data[:-1], 3)
    with pytest.raises(ValueError, match='num_layers=0'):
      read(data, 0)


def test_layers_without_splats_take_no_bytes(picture):
  empty = make_picture((0,))
  data = bitstream.write(empty, quantize.StepSizes())
  assert len(data) == 14 + 7 + 4
  assert_same(bitstream.read_layers(data), empty)
  holed = dataclasses.replace(picture, layer_sizes=(0, 50, 0))
  data = bitstream.write(holed, quantize.StepSizes())
  assert bitstream.read_layers(data).layer_sizes == (0, 50, 0)
  header = bitstream.read_header(data)
  base = data[: header.header_size]
  assert bitstream.read_layers(base).layer_sizes == (0,)


def test_splats_that_cost_nothing_are_padded_to_a_byte_each():
  n = 10001
  splats = types.Splats(
      means=np.zeros((n, 2), np.float32),
      cholesky=np.tile(np.float32([1, 0, 1]), (n, 1)),
      colors=np.zeros((n, 1), np.float32),
  )
  picture = types.LayeredSplats(
      splats=splats, layer_sizes=(n,), height=5, width=5
  )
  data = bitstream.write(picture, quantize.StepSizes(cell=0))
  assert bitstream.read_header(data).layers[0].packet_size == n
  assert bitstream.read_layers(data).layer_sizes == (n,)


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'width': 0}, 'bad picture size'),
        ({'width': 2**14, 'height': 2**15}, 'bad picture size'),
        ({'layer_sizes': (49,)}, 'do not sum'),
        ({'layer_sizes': (51, -1)}, 'do not sum'),
        ({'layer_sizes': (50,) + (0,) * 255}, 'number of layers 256'),
    ],
)
def test_pictures_that_do_not_fit_are_refused(picture, changes, message):
  with pytest.raises(ValueError, match=message):
    bitstream.write(
        dataclasses.replace(picture, **changes), quantize.StepSizes()
    )


def test_metadata_and_step_sizes_that_do_not_fit_are_refused(picture):
  with pytest.raises(ValueError, match='too long'):
    bitstream.write(picture, quantize.StepSizes(), metadata=bytes(2**16))
  with pytest.raises(ValueError, match='2 step sizes for 3 layers'):
    bitstream.write(picture, [quantize.StepSizes()] * 2)


def golden_symbols():
  """Stored symbols of the golden file, layer by layer."""
  with np.load(GOLDEN.with_suffix('.npz')) as arrays:
    return [arrays[f'layer{k}'] for k in range(3)]


def test_golden_file_of_version_1_decodes_to_its_symbols():
  data = GOLDEN.read_bytes()
  decoded = bitstream.read_layers(data)
  assert decoded.layer_sizes == (24, 9, 5)
  assert decoded.channels == 4
  for splats, symbols, step_sizes in zip(
      split(decoded), golden_symbols(), GOLDEN_STEP_SIZES, strict=True
  ):
    expected = version1.dequantize(symbols, step_sizes)
    for array, other in zip(splats, expected, strict=True):
      np.testing.assert_array_equal(array, other)
  small = bitstream.extract(data, 2)
  assert_same(bitstream.read_layers(small), decoded, 2)
  assert bitstream.read_header(small).version == 1


def write_golden(path, layer_shapes):
  """Made a golden file, once: PYTHONPATH=. python tests/bitstream_test.py.

  It stays as it is for as long as its version is read.
  """
  picture = make_picture((24, 9, 5), channels=4, seed=7)
  picture = dataclasses.replace(picture, layer_shapes=layer_shapes)
  data = bitstream.write(picture, GOLDEN2_STEP_SIZES, metadata=b'{"k": 1}')
  path.write_bytes(data)
  symbols = {
      f'{name}{k}': array
      for k, (splats, steps) in enumerate(
          zip(
              split(bitstream.read_layers(data)),
              GOLDEN2_STEP_SIZES,
              strict=True,
          )
      )
      for name, array in quantize.quantize(splats, steps)._asdict().items()
  }
  np.savez_compressed(path.with_suffix('.npz'), **symbols)


@pytest.mark.parametrize('path, shapes', GOLDEN_SHAPES.items())
def test_golden_file_decodes_to_its_symbols(path, shapes):
  data = path.read_bytes()
  decoded = bitstream.read_layers(data)
  assert decoded.layer_sizes == (24, 9, 5)
  assert decoded.layer_shapes == shapes
  with np.load(path.with_suffix('.npz')) as stored:
    for k, (splats, steps) in enumerate(
        zip(split(decoded), GOLDEN2_STEP_SIZES, strict=True)
    ):
      symbols = quantize.quantize(splats, steps)
      for name, array in symbols._asdict().items():
        np.testing.assert_array_equal(array, stored[f'{name}{k}'])
      for array, other in zip(
          splats, quantize.dequantize(symbols, steps), strict=True
      ):
        np.testing.assert_array_equal(array, other)
  written = bitstream.write(decoded, GOLDEN2_STEP_SIZES, metadata=b'{"k": 1}')
  if bitstream.read_header(data).version == syntax.VERSION:
    assert written == data
  assert_same(bitstream.read_layers(written), decoded)


@pytest.mark.parametrize('golden', [GOLDEN, GOLDEN6], ids=['v1', 'v6'])
@pytest.mark.parametrize('numba', ['with', 'without'])
def test_decoder_needs_neither_the_training_stack_nor_numba(numba, golden):
  """In a fresh process: imports, and the same picture from the golden file."""
  blocked = ['jax', 'optax', 'flax', 'scipy']
  if numba == 'without':
    blocked.append('numba')
  code = f"""
import sys
sys.modules.update(dict.fromkeys({blocked}))
import hashlib, pathlib
from pgsvc_jax.codec import bitstream
data = pathlib.Path({str(golden)!r}).read_bytes()
splats = bitstream.read_layers(data).splats
digest = hashlib.sha256(b''.join(array.tobytes() for array in splats))
print(digest.hexdigest())
"""
  root = pathlib.Path(__file__).parents[1]
  result = subprocess.run(
      [sys.executable, '-c', code],
      cwd=root,
      capture_output=True,
      text=True,
      check=True,
  )
  splats = bitstream.read_layers(golden.read_bytes()).splats
  digest = hashlib.sha256(b''.join(array.tobytes() for array in splats))
  assert result.stdout.strip() == digest.hexdigest()


def test_positions_of_very_wide_pictures_survive():
  """Cells of 4 pixels end at 65,532 pixels: they grow instead."""
  width = 150_000
  wide = types.LayeredSplats(
      splats=types.Splats(
          np.float32([[140_000.5, 1], [-width, 1], [2 * width, 1]]),
          np.float32([[2, 0, 2]] * 3),
          np.float32([[1]] * 3),
      ),
      layer_sizes=(3,),
      height=8,
      width=width,
  )
  data = bitstream.write(wide, quantize.StepSizes())
  means = np.sort(bitstream.read_layers(data).splats.means[:, 0])
  np.testing.assert_allclose(means, [-width, 140_000.5, 2 * width], atol=2)


if __name__ == '__main__':
  for golden, shapes in GOLDEN_SHAPES.items():
    if not golden.exists():
      write_golden(golden, shapes)
