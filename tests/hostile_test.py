"""Hostile files: each is decoded to a valid prefix or refused in one line."""

import collections
import contextlib
import dataclasses
import io
import itertools
import pathlib
import resource
import time
import tracemalloc
import zlib

import numpy as np
import pytest

from pallas_kernels import numpy_kernels
from pgsvc_jax import render
from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import layer_coding
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import splat_coding
from pgsvc_jax.codec import syntax
from pgsvc_jax.codec.versions import version1

GOLDEN = pathlib.Path(__file__).parent / 'golden'

MAX_SECONDS = 2
MAX_BYTES = 2**30
# What is rendered: larger pictures only cost time.
MAX_RENDERED = 2**15

EXTREMES = (0, 1, 2, 15, 16, 127, 128, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1)
STEPS = (1, 2, 300, 5000, 2**15, 2**16 - 1)
# Offset and bytes of the header's fields, and of those of a directory entry.
FIELDS = ((8, 1), (9, 1), (10, 2), (12, 4), (16, 4), (20, 1), (21, 1))
ENTRY_FIELDS = ((0, 4), (4, 4), (8, 4), (12, 2), (14, 2), (16, 2), (18, 2))


def make_step_sizes(rng):
  color, shape, position = (int(x) for x in rng.choice(STEPS, 3))
  return quantize.StepSizes(
      color=color, shape=shape, position=position, cell=int(rng.integers(16))
  )


def make_layer(rng, n, channels):
  return types.Splats(
      rng.uniform(-4, 44, (n, 2)),
      np.stack(
          [
              np.exp(rng.normal(1, 0.7, n)),
              rng.normal(0, 2, n),
              np.exp(rng.normal(1, 0.7, n)),
          ],
          -1,
      ),
      rng.laplace(0, 0.3, (n, channels)),
  )


def make_file(rng, packets, sizes, steps, channels, version=2):
  """A file of these packets, whatever they hold, with good checksums."""
  layers = tuple(
      syntax.LayerEntry(
          num_splats=size,
          packet_size=len(packet),
          checksum=zlib.crc32(packet),
          step_sizes=step_sizes,
      )
      for packet, size, step_sizes in zip(packets, sizes, steps, strict=True)
  )
  header = syntax.Header(
      width=int(rng.integers(1, 50)),
      height=int(rng.integers(1, 50)),
      channels=channels,
      layers=layers,
      metadata=rng.bytes(int(rng.integers(4))),
      version=version,
  )
  return syntax.pack_header(header) + b''.join(packets)


def make_originals(rng):
  """Both golden files, and others with steps of all sizes."""
  files = [file.read_bytes() for file in sorted(GOLDEN.glob('*.pgsvc'))]
  for channels, sizes in ((3, (30, 12)), (1, (20,)), (4, (0, 9, 0)), (2, (3,))):
    layers = [make_layer(rng, n, channels) for n in sizes]
    picture = types.LayeredSplats(
        splats=types.Splats(*map(np.concatenate, zip(*layers))),
        layer_sizes=sizes,
        height=int(rng.integers(1, 50)),
        width=int(rng.integers(1, 50)),
    )
    for steps in (quantize.StepSizes(), make_step_sizes(rng)):
      files.append(bitstream.write(picture, steps, metadata=b'{}'))
  return files


def header_size(data):
  """What the header says that it takes."""
  if data[8:9] == b'\x06':
    with contextlib.suppress(ValueError):
      return syntax.read_varint(io.BytesIO(data[9:]))
  return int.from_bytes(data[10:12], 'little')


def put(data, offset, size, value):
  """Writes a little-endian field, where there is room for it."""
  if offset + size <= len(data):
    data[offset : offset + size] = (value % 256**size).to_bytes(size, 'little')


def repair(data):
  """Renews the checksums of whatever the header claims there is."""
  if len(data) < 22:
    return
  size = header_size(data)
  if data[8] == 6:
    repair_compact(data, size)
    return
  start = size
  for k in range(data[21]):
    entry = 22 + 20 * k
    length = int.from_bytes(data[entry + 4 : entry + 8], 'little')
    put(data, entry + 8, 4, zlib.crc32(data[start : start + length]))
    start += length
  if 26 <= size <= len(data):
    put(data, size - 4, 4, zlib.crc32(data[: size - 4]))


def repair_compact(data, size):
  """The same of version 6, whose entries have no fixed place."""
  if not 24 <= size <= len(data):
    return
  with contextlib.suppress(ValueError):
    start = 9 + len(syntax.pack_varint(size))
    header = syntax._parse_compact(io.BytesIO(data[start : size - 4]))
    layers, at = [], size
    for entry in header.layers:
      packet = data[at : at + entry.packet_size]
      layers.append(dataclasses.replace(entry, checksum=zlib.crc32(packet)))
      at += entry.packet_size
    packed = syntax.pack_header(
        dataclasses.replace(header, layers=tuple(layers))
    )
    if len(packed) == size:
      data[:size] = packed
  put(data, size - 4, 4, zlib.crc32(data[: size - 4]))


def flip(rng, data, files):
  for _ in range(rng.integers(1, 9)):
    data[rng.integers(len(data))] ^= rng.integers(1, 256)


def flip_behind_header(rng, data, files):
  start = header_size(data)
  for _ in range(rng.integers(1, 4)):
    if start < len(data):
      data[rng.integers(start, len(data))] = rng.choice([0, 1, 127, 255])


def cut(rng, data, files):
  del data[rng.integers(len(data)) :]


def splice(rng, data, files):
  other = files[rng.integers(len(files))]
  at = rng.integers(len(data))
  # Mostly at the same place, so that the headers still fit.
  start = at if rng.random() < 0.7 else rng.integers(len(other))
  data[at:] = other[start:]


def move(rng, data, files):
  a, b = sorted(rng.integers(len(data), size=2))
  at = rng.integers(len(data))
  data[at : at + (b - a) * rng.integers(2)] = data[a:b]


def fill(rng, data, files):
  a, b = sorted(rng.integers(len(data), size=2))
  data[a:b] = bytes([rng.choice([0, 255])]) * (b - a)


def forge_fields(rng, data, files):
  for _ in range(rng.integers(1, 4)):
    base, fields = 0, FIELDS
    if rng.random() < 0.7:
      base, fields = 22 + 20 * int(rng.integers(data[21] or 1)), ENTRY_FIELDS
    offset, size = fields[rng.integers(len(fields))]
    old = int.from_bytes(data[base + offset : base + offset + size], 'little')
    near = old + int(rng.integers(-2, 3))
    extreme = EXTREMES[rng.integers(len(EXTREMES))]
    put(data, base + offset, size, near if rng.random() < 0.5 else extreme)


def forge_version(rng, data, files):
  """The same bytes as symbols of another version."""
  data[8] ^= rng.choice([3, 4, 5, 7])
  # Fields that are a small number in the one and a step in the other.
  for k in range(data[21]):
    put(data, 22 + 20 * k + 18, 2, int(rng.integers(1, 16)))


def forge_packets(rng, data, files):
  """Packets of any bytes, with as many splats as they may claim."""
  channels = int(rng.integers(1, 5))
  version = int(rng.choice([1, 2, 6]))
  packets, sizes, steps = [], [], []
  for _ in range(rng.integers(1, 4)):
    packet = rng.bytes(int(rng.integers(1, 200)))
    kind = rng.integers(4)
    if kind == 0:  # Zeros are the most symbols for the bytes.
      packet = bytes(len(packet))
    elif kind == 1:
      packet = packet[:8] + bytes(200)
    elif kind == 2:  # A plausible origin.
      packet = bytes(8) + packet
    packets.append(packet)
    most = len(packet) if rng.random() < 0.3 else len(packet) // 8 + 1
    sizes.append(int(rng.integers(1, most + 1)))
    if version == 1:
      names = ('position', 'cholesky', 'shear', 'color')
      numbers = rng.choice(STEPS, 4).tolist()
      steps.append(version1.StepSizes(**dict(zip(names, numbers))))
    else:
      steps.append(make_step_sizes(rng))
  data[:] = make_file(rng, packets, sizes, steps, channels, version)


def forge_symbols(rng, data, files):
  """A packet of symbols at their limits, or one beyond: 1 in 10 of them."""
  channels, n = int(rng.integers(1, 5)), int(rng.integers(1, 9))
  steps = make_step_sizes(rng)

  def draw(limit, shape, least=None):
    least = -limit if least is None else least
    beyond = rng.random() < 0.1
    values = rng.integers(least, limit + 1, shape)
    small = np.clip(rng.integers(-3, 4, shape), least, limit)
    ends = np.where(rng.random(shape) < 0.5, limit + beyond, least - beyond)
    return np.choose(rng.integers(3, size=shape), [values, small, ends])

  classes = draw(quantize.CLASS_LIMIT, n)
  colors = draw(quantize.COLOR_LIMIT, (n, channels))
  precision = quantize.precisions(colors)
  sizes = draw(quantize.size_levels(precision, steps) - 1, n, 0)
  aspect_limits = quantize.ASPECT_LIMIT // quantize.shape_steps(
      precision, steps
  )
  aspects = draw(aspect_limits, n)
  shears = draw(quantize.SHEAR_LIMIT, n)
  symbols = quantize.Symbols(
      np.zeros((n, 2), np.int64), classes, colors, sizes, aspects, shears
  )
  limits = quantize.CELL_LIMIT << quantize.cell_bits(symbols, steps)
  symbols = symbols._replace(positions=draw(limits - 1, (n, 2), -limits))
  version, packet = 2, splat_coding.encode(symbols, steps)
  # Of version 6 what is beyond the limits is not even written.
  with contextlib.suppress(ValueError):
    if rng.random() < 0.5:
      coder = layer_coding.LayerCoder(9, 9, channels)
      version, packet = 6, coder.write(symbols, steps)
  data[:] = make_file(rng, [packet], [n], [steps], channels, version)


def randomize(rng, data, files):
  keep = int(rng.choice([0, 8, 9, 22, 42]))
  data[keep:] = rng.bytes(int(rng.integers(300)))


MUTATIONS = (
    flip,
    flip_behind_header,
    cut,
    splice,
    move,
    fill,
    forge_fields,
    forge_version,
    forge_packets,
    forge_symbols,
    randomize,
)


def hostile_files(num_files, seed):
  """Yields (name of the mutation, bytes)."""
  rng = np.random.default_rng(seed)
  files = make_originals(rng)
  for mutate in itertools.islice(itertools.cycle(MUTATIONS), num_files):
    data = bytearray(files[rng.integers(len(files))])
    mutate(rng, data, files)
    if rng.random() < 0.2 and len(data) > 22:
      MUTATIONS[rng.integers(8)](rng, data, files)
    if rng.random() < 0.8:
      repair(data)
    yield mutate.__name__, bytes(data)


def assert_valid(picture, header, num_bytes):
  num_layers = header.available_layers(num_bytes)
  sizes = tuple(entry.num_splats for entry in header.layers[:num_layers])
  assert picture.layer_sizes == sizes
  assert (picture.width, picture.height) == (header.width, header.height)
  n = sum(sizes)
  for array, columns in zip(
      picture.splats, (2, 3, header.channels), strict=True
  ):
    assert array.shape == (n, columns) and array.dtype == np.float32
    assert np.isfinite(array).all()
  assert (picture.splats.cholesky[:, [0, 2]] > 0).all()


def assert_renders(picture):
  images = render.render_prefixes(picture)
  shape = (len(picture.layer_sizes), picture.height, picture.width)
  assert images.shape == (*shape, picture.channels)
  if len(picture.splats.means) < 20:
    other = np.empty(images.shape, np.float32)
    ends = np.cumsum(picture.layer_sizes)
    assert numpy_kernels.composite(*picture.splats, ends, other)
    assert np.isfinite(other).all()


def read(data):
  """What becomes of a file: 'decoded', 'rendered', or where it is refused."""
  try:
    header = bitstream.read_header(data)
  except bitstream.BitstreamError as error:
    assert '\n' not in str(error)
    with pytest.raises(bitstream.BitstreamError) as caught:
      bitstream.read_layers(data)
    assert str(caught.value) in (
        str(error),
        'the file is a video, not a picture',
    )
    return 'header refused'
  if isinstance(header, syntax.VideoHeader):
    with pytest.raises(bitstream.BitstreamError, match='is a video'):
      bitstream.read_layers(data)
    return 'video refused'
  try:
    picture = bitstream.read_layers(data)
  except bitstream.BitstreamError as error:
    message = str(error)
    assert '\n' not in message
    if ': packet is damaged' not in message:
      return 'size refused'
    return 'checksum refused' if 'checksum' in message else 'symbols refused'
  assert_valid(picture, header, len(data))
  pixels = picture.height * picture.width * len(picture.layer_sizes)
  if pixels > MAX_RENDERED:
    return 'decoded'
  assert_renders(picture)
  return 'rendered'


def run(num_files, seed):
  """Counts of (mutation, what became of the file)."""
  for _, data in hostile_files(len(MUTATIONS), 0):  # Compiles.
    read(data)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  counts, longest = collections.Counter(), 0.0
  for name, data in hostile_files(num_files, seed):
    start = time.process_time()
    try:
      counts[name, read(data)] += 1
    except Exception as error:
      raise AssertionError(f'{name}: {data.hex()}') from error
    longest = max(longest, time.process_time() - start)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  print(f'longest {longest:.3f} s, {peak / 1024:.0f} MiB more at the peak')
  assert longest < MAX_SECONDS
  assert 1024 * peak < MAX_BYTES
  return counts


def totals(counts):
  result = collections.Counter()
  for (_, outcome), count in counts.items():
    result[outcome] += count
  return result


def test_hostile_files_are_decoded_or_refused():
  counts = totals(run(5500, seed=1))
  # Each of them happens, or this file tests less than it says.
  for outcome in (
      'header refused',
      'size refused',
      'checksum refused',
      'symbols refused',
      'rendered',
  ):
    assert counts[outcome] > 20, counts


@pytest.mark.parametrize('version', [1, 2, 6])
def test_the_most_splats_that_bytes_may_claim(version):
  """512 KiB of zeros, a splat a byte: the worst a byte can do."""
  packet = bytes(2**19)
  rng = np.random.default_rng(0)
  if version == 1:
    steps = version1.StepSizes(position=1, cholesky=1, shear=1, color=1)
  else:
    # Steps so coarse that zeros have no bits below the cell to read.
    steps = quantize.StepSizes(position=2**16 - 1, cell=0)
  for channels in (1, 4):
    sizes = [len(packet)]
    data = make_file(rng, [packet], sizes, [steps], channels, version)
    tracemalloc.start()
    start = time.process_time()
    picture = bitstream.read_layers(data)
    seconds = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert picture.layer_sizes == (2**19,)
    assert seconds < MAX_SECONDS and peak < MAX_BYTES


@pytest.mark.slow  # A minute.
def test_100_000_hostile_files_are_decoded_or_refused():
  counts = run(100_000, seed=2)
  for key, count in sorted(counts.items()):
    print(*key, count, sep='\t')
  print(dict(totals(counts)))
