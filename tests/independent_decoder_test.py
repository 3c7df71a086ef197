"""The library against a decoder that was written from the page alone."""

import dataclasses
import itertools
import pathlib
import struct
import zlib

import numpy as np
import pytest

from pgsvc_jax import render
from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import range_coder
from pgsvc_jax.codec import syntax
from tests import independent_decoder

GOLDEN = pathlib.Path(__file__).parent / 'golden'
# What the library calls a column, and what the page does.
COLUMNS = {
    'classes': 'K',
    'sizes': 'j',
    'aspects': 'b',
    'shears': 'h',
}
STEPS = {
    'default': quantize.StepSizes(),
    # D at its least, n at its largest, no bits below the cell.
    'least': quantize.StepSizes(color=1, shape=1, position=65535, cell=0),
    # n = 1, and all bits below the cell.
    'most': quantize.StepSizes(color=999, shape=65535, position=1, cell=15),
}


def make_picture(layer_sizes, channels, seed=0):
  """Splats from a hundredth of a pixel to a few pictures, some outside it."""
  rng = np.random.default_rng(seed)
  n = sum(layer_sizes)
  width, height = 47, 35
  sizes = np.exp(rng.uniform(-4.5, 5, (n, 1)))
  diagonals = sizes * np.exp(rng.normal(0, 0.5, (n, 2)))
  l11, l22 = diagonals.T
  colors = rng.laplace(0, 0.3, (n, channels)) / np.sqrt(1 + sizes)
  return types.LayeredSplats(
      splats=types.Splats(
          rng.uniform(-9, (width + 9, height + 9), (n, 2)).astype(np.float32),
          np.stack([l11, l22 * rng.normal(0, 1, n), l22], 1).astype(np.float32),
          colors.astype(np.float32),
      ),
      layer_sizes=tuple(layer_sizes),
      height=height,
      width=width,
  )


def split(layered):
  ends = itertools.accumulate(layered.layer_sizes)
  for end, size in zip(ends, layered.layer_sizes):
    yield types.Splats(*(array[end - size : end] for array in layered.splats))


def columns(layer, names):
  return np.array(
      [[s[name] for name in names] for s in layer.symbols], np.int64
  ).reshape(len(layer.symbols), len(names))


def assert_same_symbols(layer, symbols, channels):
  colors = [f'c{i}' for i in range(channels)]
  np.testing.assert_array_equal(columns(layer, 'xy'), symbols['positions'])
  np.testing.assert_array_equal(columns(layer, colors), symbols['colors'])
  for name, column in COLUMNS.items():
    np.testing.assert_array_equal(columns(layer, [column])[:, 0], symbols[name])


def assert_same_splats(layer, splats):
  """Positions to the last bit, all else to the last but one, as the page."""
  np.testing.assert_array_equal(layer.means, splats.means)
  for ours, theirs in (
      (layer.cholesky, splats.cholesky),
      (layer.colors, splats.colors),
  ):
    assert ours.shape == theirs.shape
    if ours.size:
      np.testing.assert_array_max_ulp(ours, theirs, maxulp=1)


def assert_same_decoding(data, steps):
  """Symbols and splats of all layers, of a file of version 2."""
  ours = independent_decoder.decode(data)
  theirs = bitstream.read_layers(data)
  assert (ours.width, ours.height) == (theirs.width, theirs.height)
  assert tuple(len(x.symbols) for x in ours.layers) == theirs.layer_sizes
  points = bitstream.read_header(data).truncation_points
  assert ours.truncation_points == list(points)
  for layer, splats, step_sizes in zip(ours.layers, split(theirs), steps):
    assert_same_splats(layer, splats)
    symbols = quantize.quantize(splats, step_sizes)._asdict()
    assert_same_symbols(layer, symbols, ours.channels)
  return ours, theirs


def assert_same_pictures(ours, theirs):
  images = render.render_prefixes(theirs).astype(int)
  for k, image in enumerate(images):
    expected = np.rint(independent_decoder.render(ours, k + 1) * 255)
    assert np.abs(image - expected).max() <= 1


def assert_same_levels(ours, theirs):
  """Every operating point at its native size."""
  sizes = [shape[::-1] for shape in theirs.native_shapes]
  assert ours.native_sizes == sizes
  for k, (image, size) in enumerate(zip(render.render_levels(theirs), sizes)):
    expected = np.rint(independent_decoder.render(ours, k + 1, size) * 255)
    assert np.abs(image - expected).max() <= 1


@pytest.mark.parametrize('version', [1, 2, 4, 6])
def test_golden_files_decode_to_their_symbols(version):
  path = GOLDEN / f'v{version}_three_layers.pgsvc'
  data = path.read_bytes()
  ours = independent_decoder.decode(data)
  theirs = bitstream.read_layers(data)
  assert (ours.version, ours.metadata) == (version, b'{"k": 1}')
  with np.load(path.with_suffix('.npz')) as stored:
    for k, (layer, splats) in enumerate(zip(ours.layers, split(theirs))):
      assert_same_splats(layer, splats)
      if version != 1:
        names = ('positions', 'colors', *COLUMNS)
        symbols = {name: stored[f'{name}{k}'] for name in names}
        assert_same_symbols(layer, symbols, ours.channels)
      else:
        names = ('x', 'y', 'l11', 'shear', 'l22', 'Y', 'Co', 'Cg', 'c3')
        np.testing.assert_array_equal(
            columns(layer, names), stored[f'layer{k}']
        )
  assert_same_pictures(ours, theirs)
  assert_same_levels(ours, theirs)


def test_native_sizes_of_the_page_are_those_of_the_library():
  data = (GOLDEN / 'v4_three_layers.pgsvc').read_bytes()
  size = struct.unpack_from('<H', data, 10)[0]
  for k, good in enumerate([(15, 10), (30, 19), (60, 40)]):
    assert struct.unpack_from('<II', data, 22 + 28 * k + 20) == good
  for k, bad in (
      *((0, x) for x in [(0, 10), (15, 0), (31, 10), (15, 20)]),
      *((1, x) for x in [(14, 19), (30, 9), (61, 19), (30, 41)]),
      *((2, x) for x in [(29, 40), (60, 18), (61, 40), (60, 41)]),
  ):
    forged = bytearray(data)
    struct.pack_into('<II', forged, 22 + 28 * k + 20, *bad)
    checksum = zlib.crc32(forged[: size - 4])
    struct.pack_into('<I', forged, size - 4, checksum)
    with pytest.raises(bitstream.BitstreamError, match='sizes of layers'):
      bitstream.read_layers(bytes(forged))
    with pytest.raises(independent_decoder.FormatError, match='native size'):
      independent_decoder.decode(bytes(forged))


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
@pytest.mark.parametrize('sizes', [(40, 0, 25), (0, 30, 12)])
def test_what_the_library_writes_is_what_the_page_says(channels, sizes):
  steps = list(STEPS.values())
  data = bitstream.write(make_picture(sizes, channels), steps)
  ours, theirs = assert_same_decoding(data, steps)
  assert_same_pictures(ours, theirs)


@pytest.mark.parametrize('steps', STEPS)
def test_long_layers_agree(steps):
  """Contexts past the 512 decisions after which they stop slowing down."""
  sizes = (600, 3)
  data = bitstream.write(make_picture(sizes, 3, seed=1), STEPS[steps])
  assert_same_decoding(data, [STEPS[steps]] * 2)


def test_splats_beyond_every_limit_agree():
  huge, tiny = np.float32(3e38), np.float32(1e-38)
  extremes = np.float32([-huge, -1, -tiny, 0, tiny, 1, huge])
  diagonals = np.float32([tiny, 1e-7, 1, 1024, 1e7, huge])
  rows = itertools.product(diagonals, extremes[::2], diagonals, extremes[::3])
  values = np.float32(list(rows))
  means = np.stack([values[:, 3], -values[:, 1]], 1)
  splats = types.Splats(means, values[:, :3], values[:, [3, 1, 3, 1]])
  picture = types.LayeredSplats(
      splats=splats, layer_sizes=(len(values),), height=9, width=9
  )
  for steps in STEPS.values():
    assert_same_decoding(bitstream.write(picture, steps), [steps])


def test_zero_bytes_after_the_symbols_are_skipped():
  one = make_picture((1,), 1).splats
  picture = types.LayeredSplats(
      splats=types.Splats(*(np.repeat(x, 4000, axis=0) for x in one)),
      layer_sizes=(4000,),
      height=9,
      width=9,
  )
  steps = quantize.StepSizes(color=65535)
  data = bitstream.write(picture, steps)
  assert data.endswith(bytes(2))
  assert_same_decoding(data, [steps])


@pytest.mark.parametrize('version', [1, 2, 4, 6])
def test_a_cut_file_decodes_its_last_whole_prefix(version):
  data = (GOLDEN / f'v{version}_three_layers.pgsvc').read_bytes()
  whole = independent_decoder.decode(data)
  points = whole.truncation_points
  start = bitstream.read_header(data).header_size
  for end in (0, 7, 12, 21, start - 1, start, points[0] - 1):
    with pytest.raises(bitstream.BitstreamError):
      bitstream.read_layers(data[:end])
    with pytest.raises(independent_decoder.FormatError):
      independent_decoder.decode(data[:end])
  for k, point in enumerate(points):
    for end in {point, point + 1, [*points, point + 1][k + 1] - 1}:
      cut = data[:end]
      assert len(bitstream.read_layers(cut).layer_sizes) == k + 1
      ours = independent_decoder.decode(cut).layers
      assert [x.symbols for x in ours] == [
          x.symbols for x in whole.layers[: k + 1]
      ]
      # Not by a cut, but by a choice of layers.
      chosen = independent_decoder.decode(data, k + 1).layers
      assert [x.symbols for x in chosen] == [x.symbols for x in ours]
  for read in (bitstream.read_layers, independent_decoder.decode):
    with pytest.raises(ValueError):
      read(data + b'\0')


def one_splat(symbols, origin=(0, 0)):
  """A file of a single gray splat, in which every number may be forged."""
  encoder = range_coder.Encoder()
  values = dict.fromkeys(('gap', 'K', 'c0', 'j', 'h', 'b'), 0) | symbols
  for value in values.values():
    # With one value in a column, all of its sets of contexts are the same.
    encoder.column(np.array([value]), np.array([0]))
  # The bits below the cell, whatever they are, come from the zeros.
  packet = struct.pack('<ii', *origin) + encoder.finish() + bytes(4)
  head = struct.pack('<8sBBHIIBB', syntax.MAGIC, 2, 0, 46, 9, 9, 1, 1)
  entry = struct.pack('<IIIHHHH', 1, 0, 0, 256, 1, 4871, 2)
  return with_packets(head + entry + bytes(4), [packet])


# Where c0 = 0 and s_shape = 1, D = 2^16 and so n = 4015.
@pytest.mark.parametrize(
    'name, allowed, refused',
    [
        ('gap', [0, 2**48 - 1], [-1, 2**48, 2**60]),
        ('K', [-46, 46], [-47, 47]),
        ('c0', [1 - 2**22, 2**22 - 1], [-(2**22), 2**22, 2**60]),
        ('j', [0, 4014], [-1, 4015]),
        ('h', [1 - 2**20, 2**20 - 1], [-(2**20), 2**20, 2**60]),
        ('b', [-49152, 49152], [-49153, 49153, 2**60]),
        ('x0', [1 - 2**14, 2**14 - 2], [-(2**14), 2**14 - 1, 2**31 - 1]),
        ('y0', [1 - 2**14, 2**14 - 2], [-(2**14), 2**14 - 1, -(2**31)]),
    ],
)
def test_limits_of_the_page_are_those_of_the_library(name, allowed, refused):
  for value in allowed + refused:
    symbols, origin = {name: value}, (0, 0)
    if name == 'gap' and value > 0:
      origin = (-(2**24), -(2**24))  # The last code leads to cell -1.
    if name in ('x0', 'y0'):
      symbols, origin = {}, (value, 0) if name == 'x0' else (0, value)
    data = one_splat(symbols, origin)
    if value in allowed:
      ours, _ = assert_same_decoding(
          data, [quantize.StepSizes(shape=1, position=4871)]
      )
      assert symbols.items() <= ours.layers[0].symbols[0].items()
    else:
      with pytest.raises(bitstream.BitstreamError):
        bitstream.read_layers(data)
      with pytest.raises(independent_decoder.FormatError):
        independent_decoder.decode(data)


def with_packets(data, packets):
  """The file with other packets, sizes and checksums made to fit."""
  if data[8] == 6:
    old = bitstream.read_header(data)
    changed = tuple(
        dataclasses.replace(
            entry, packet_size=len(packet), checksum=zlib.crc32(packet)
        )
        for entry, packet in zip(old.layers, packets, strict=True)
    )
    new = dataclasses.replace(old, layers=changed)
    return syntax.pack_header(new) + b''.join(packets)
  header = bytearray(data[: struct.unpack_from('<H', data, 10)[0]])
  entry_size = 28 if header[8] == 4 else 20
  for k, packet in enumerate(packets):
    sizes = len(packet), zlib.crc32(packet)
    struct.pack_into('<II', header, 22 + entry_size * k + 4, *sizes)
  struct.pack_into('<I', header, len(header) - 4, zlib.crc32(header[:-4]))
  return bytes(header) + b''.join(packets)


@pytest.mark.parametrize('version', [1, 2, 4, 6])
def test_forged_packets_are_refused_by_both_or_by_neither(version):
  """Every rule of what to refuse, found by damage with good checksums."""
  data = (GOLDEN / f'v{version}_three_layers.pgsvc').read_bytes()
  start, *ends = (
      bitstream.read_header(data).header_size,
      *independent_decoder.decode(data).truncation_points,
  )
  rng = np.random.default_rng(version)
  verdicts = []
  for _ in range(150):
    packets = [data[a:b] for a, b in itertools.pairwise((start, *ends))]
    k = rng.integers(3)
    packet = bytearray(packets[k])
    place = rng.integers(len(packet))
    match rng.integers(4):
      case 0:
        packet[place] ^= 1 << rng.integers(8)
      case 1:
        packet[place:] = rng.bytes(len(packet) - place)
      case 2:
        packet = packet[: max(place, 3)]
      case 3:
        packet += bytes([0, rng.integers(2)])
    packets[k] = bytes(packet)
    forged = with_packets(data, packets)
    try:
      theirs = list(split(bitstream.read_layers(forged)))
    except bitstream.BitstreamError:
      theirs = None
    try:
      ours = independent_decoder.decode(forged).layers
    except independent_decoder.FormatError:
      ours = None
    assert (ours is None) == (theirs is None)
    verdicts.append(ours is None)
    if ours is not None:
      for layer, splats in zip(ours, theirs):
        assert_same_splats(layer, splats)
  assert 20 < sum(verdicts) < 130
