"""Hostile videos: each is decoded to a valid prefix or refused in one line.

What the container holds is told by a reader written from the page alone.
"""

import collections
import fractions
import io
import itertools
import re
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest

from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.video import frame_coding
from pgsvc_jax.video import motion
from pgsvc_jax.video import playback
from tests import hostile_test
from tests import independent_decoder
from tests import independent_video_reader

MAX_SECONDS = 2
MAX_BYTES = 2**28

EXTREMES = (
    *hostile_test.EXTREMES,
    *(4096, 4097, 2**53, 2**53 + 1, 2**54, 2**55, 2**56 - 1),
)
HEADER_NAMES = (
    'version flags size width height channels layers order primaries transfer'
    ' matrix full reserved tn td fn fd an ad'
).split()
HEADER_FORMAT = '<BBHIIBB6B6I'
HEADER_BITS = (8, 8, 16, 32, 32, 8, 8, *[8] * 6, *[32] * 6)


def make_packets(rng, num_frames, sizes, channels, height, width):
  """A GOP in which splats are born, move, change and die."""
  steps = quantize.StepSizes()
  encoder = frame_coding.GopEncoder(
      [steps] * len(sizes), height=height, width=width, channels=channels
  )
  field = motion.field_shape(height, width, 4)
  for frame in range(num_frames):
    if frame:
      encoder.move(rng.integers(-9, 10, (*field, 2)))
    updates = []
    for n, layer in zip(sizes, encoder.layers):
      dead = rng.random(len(layer.points)) < 0.2
      shape = np.sum(~dead), layer.points.shape[1]
      born = hostile_test.make_layer(rng, n >> frame, channels)
      updates.append(
          frame_coding.births(quantize.quantize(born, steps), steps)._replace(
              dead=dead, changes=rng.integers(-1, 2, shape)
          )
      )
    encoder.add(updates)
  return encoder.packets()


def make_originals(rng):
  """Videos as numbers: a header, and GOPs of numbers and packets."""
  models = []
  for channels, sizes in ((3, (9, 4)), (1, (5,)), (4, (0, 3, 0))):
    size = [int(x) for x in rng.integers(1, 50, 2)]
    header = dict(
        zip(HEADER_NAMES, (3, 0, 0, *size, channels, len(sizes), 0, 1, 1, 1, 0))
    )
    header |= dict(reserved=0, tn=1, td=24, fn=24, fd=1, an=1, ad=1)
    header['shapes'] = []
    if channels == 3:
      header |= dict(version=5, shapes=[[1, 1], size])
    gops = []
    for num_frames in rng.integers(1, 4, 3).tolist():
      packets = make_packets(rng, num_frames, sizes, channels, *size[::-1])
      gops.append(
          {
              'frames': num_frames,
              'start': 0,
              'runs': [[1, num_frames]],
              'packets': packets,
              'sizes': [len(packet) for packet in packets],
          }
      )
    models.append((header, gops))
  return models


def copy(model):
  header, gops = model
  gops = [
      gop
      | {
          'runs': [[*run] for run in gop['runs']],
          'packets': [*gop['packets']],
          'sizes': [*gop['sizes']],
      }
      for gop in gops
  ]
  return header | {'shapes': [[*x] for x in header['shapes']]}, gops


def varint(value):
  data = b''
  while value > 127:
    data += bytes([value & 127 | 128])
    value >>= 7
  return data + bytes([value])


def serialize(model):
  """The file of such numbers, whatever they are, with good checksums."""
  header, gops = model
  metadata = b'{}'
  shapes = b''.join(
      struct.pack('<II', *(side % 2**32 for side in shape))
      for shape in header['shapes']
  )
  values = [header[name] or 0 for name in HEADER_NAMES]
  values[2] = header['size'] or 52 + len(shapes) + len(metadata) + 4
  values = [v % 2**bits for v, bits in zip(values, HEADER_BITS)]
  body = syntax.MAGIC + struct.pack(HEADER_FORMAT, *values)
  body += shapes + metadata
  data = body + zlib.crc32(body).to_bytes(4, 'little')
  entries = []
  for gop in gops:
    body = varint(gop['frames']) + varint(gop['start'])
    body += b''.join(varint(number) for run in gop['runs'] for number in run)
    for size, packet in zip(gop['sizes'], gop['packets']):
      body += varint(size) + zlib.crc32(packet).to_bytes(4, 'little')
    body = ((len(body) + 6) % 2**16).to_bytes(2, 'little') + body
    entries.append(body + zlib.crc32(body).to_bytes(4, 'little'))
  if header['order'] == 0:
    for entry, gop in zip(entries, gops):
      data += entry + b''.join(gop['packets'])
    return data + b'\0\0'
  directory = b''.join(entries)
  directory = struct.pack('<II', len(gops), len(directory)) + directory
  data += directory + zlib.crc32(directory).to_bytes(4, 'little')
  layers = itertools.zip_longest(*(gop['packets'] for gop in gops))
  return data + b''.join(p or b'' for layer in layers for p in layer)


def change(rng, value):
  """Another number near it, or an extreme one."""
  if rng.random() < 0.5:
    return max(0, value + int(rng.integers(-2, 3)))
  return int(EXTREMES[rng.integers(len(EXTREMES))])


def leave(rng, model):
  pass


def forge_header(rng, model):
  for _ in range(rng.integers(1, 3)):
    shapes = model[0]['shapes']
    if shapes and rng.random() < 0.3:
      shape = shapes[rng.integers(len(shapes))]
      axis = rng.integers(2)
      shape[axis] = change(rng, shape[axis])
      continue
    name = HEADER_NAMES[rng.integers(len(HEADER_NAMES))]
    model[0][name] = change(rng, model[0][name])


def forge_entry(rng, model):
  gop = model[1][rng.integers(len(model[1]))]
  kind = rng.integers(5)
  if kind == 0:
    gop['frames'] = change(rng, gop['frames'])
  elif kind == 1:
    gop['start'] = change(rng, gop['start'])
  elif kind == 2:
    run = gop['runs'][rng.integers(len(gop['runs']))]
    run[rng.integers(2)] = change(rng, 1)
  elif kind == 3:
    layer = rng.integers(len(gop['sizes']))
    gop['sizes'][layer] = change(rng, gop['sizes'][layer])
  else:
    # Still as many frames.
    durations = rng.integers(1, 4, gop['frames'])
    gop['runs'] = [[int(duration), 1] for duration in durations]


def forge_packet(rng, model):
  gop = model[1][rng.integers(len(model[1]))]
  layer = rng.integers(len(gop['packets']))
  packet = bytearray(gop['packets'][layer] or b'\0')
  kind = rng.integers(4)
  if kind == 0:
    hostile_test.flip(rng, packet, None)
  elif kind == 1:
    hostile_test.cut(rng, packet, None)
  elif kind == 2:
    packet[:] = rng.bytes(int(rng.integers(60)))
  else:
    hostile_test.fill(rng, packet, None)
  gop['packets'][layer] = bytes(packet)
  gop['sizes'][layer] = len(packet)


def rearrange(rng, model):
  """GOPs missing, twice or in another order; layers of other GOPs."""
  gops = model[1]
  kind = rng.integers(3)
  if kind < 2:
    chosen = rng.integers(len(gops), size=rng.integers(5))
    gops[:] = copy((model[0], [gops[k] for k in chosen]))[1]
  else:
    a, b = (gops[k] for k in rng.integers(len(gops), size=2))
    for key in ('packets', 'sizes'):
      a[key][0], b[key][0] = b[key][0], a[key][0]


FORGERIES = (leave, forge_header, forge_entry, forge_packet, rearrange)
MUTATIONS = (
    None,
    hostile_test.flip,
    hostile_test.cut,
    hostile_test.splice,
    hostile_test.move,
    hostile_test.fill,
)


def hostile_files(num_files, seed):
  """Yields (name of what was done, bytes)."""
  rng = np.random.default_rng(seed)
  originals = make_originals(rng)
  files = [serialize(model) for model in originals]
  every = itertools.cycle(itertools.product(MUTATIONS, FORGERIES))
  for mutate, forge in itertools.islice(every, num_files):
    model = copy(originals[rng.integers(len(originals))])
    model[0]['order'] = int(rng.integers(2))
    forge(rng, model)
    data = bytearray(serialize(model))
    # Both would mostly be refused for the mutation's sake.
    if mutate and (forge is leave or rng.random() < 0.5):
      mutate(rng, data, files)
    name = mutate.__name__ if mutate else 'none'
    yield f'{forge.__name__}, {name}', bytes(data)


def assert_one_line(error):
  assert str(error) and '\n' not in str(error)


def open_video(data):
  """(reader, all entries), checked against the independent reader."""
  try:
    truth = independent_video_reader.read(data)
  except independent_decoder.FormatError:
    truth = None
  try:
    reader = stream.StreamReader(io.BytesIO(data))
    gops = reader.gops
  except bitstream.BitstreamError:
    assert truth is None
    raise
  assert truth is not None
  assert reader.is_complete == truth.whole
  header = reader.header
  for name, value in (
      *(('width', header.width), ('height', header.height)),
      *(('C', header.channels), ('L', header.num_layers)),
      *(('order', header.order), ('metadata', header.metadata)),
      *(
          ('primaries', header.primaries),
          ('full', header.full_range),
      ),
      ('native', [shape[::-1] for shape in header.native_shapes]),
      ('tn', header.time_base.numerator),
      ('ad', header.pixel_aspect.denominator),
      ('fn', header.frame_rate.numerator if header.frame_rate else 0),
  ):
    assert truth.header[name] == value, name
  assert [(list(g.times), g.end) for g in gops] == [
      (g.starts, g.end) for g in truth.gops
  ]
  for gop, packets in zip(gops, truth.packets, strict=True):
    assert reader.available_layers(gop.index) == len(packets)
    for layer, packet in enumerate(packets):
      if packet is not None:
        assert reader.packet(gop.index, layer) == packet
        continue
      with pytest.raises(
          bitstream.BitstreamError,
          match=f'^GOP {gop.index}, layer {layer}: packet is damaged',
      ):
        reader.packet(gop.index, layer)
  return reader, gops


def assert_copies(reader):
  """Extraction and reordering, of what the checksums allow."""
  layers = reader.available_layers(0)
  first = io.BytesIO()
  count = stream.extract(reader, first)
  copied, gops = open_video(first.getvalue())
  assert copied.is_complete and len(gops) == count
  assert copied.header.num_layers == layers
  there, back = io.BytesIO(), io.BytesIO()
  other = syntax.PacketOrder(1 - reader.header.order)
  stream.reorder(copied, there, other)
  again, _ = open_video(there.getvalue())
  stream.reorder(again, back, reader.header.order)
  assert back.getvalue() == first.getvalue()
  for k, gop in enumerate(gops):
    assert again.packets(k, layers) == reader.packets(k, layers)
    assert gop.times == reader.gop(k).times


def read(data):
  """What becomes of a file."""
  try:
    reader, gops = open_video(data)
  except bitstream.BitstreamError as error:
    assert_one_line(error)
    message = str(error)
    for what in ('header', 'directory', 'entry'):
      if what in message:
        return f'{what} refused'
    return 'refused'
  header = reader.header
  shown = 0
  try:
    for frame in playback.frames(reader):
      shown += 1
      layered = frame.layered
      assert frame.index == shown - 1
      assert (layered.height, layered.width) == (header.height, header.width)
      assert sum(layered.layer_sizes) == len(layered.splats.means)
      for array, columns in zip(
          layered.splats, (2, 3, header.channels), strict=True
      ):
        assert array.shape[1] == columns and np.isfinite(array).all()
  except bitstream.BitstreamError as error:
    assert_one_line(error)
    if not gops or not reader.available_layers(0):
      return 'nothing whole'
    assert re.match(r'GOP \d+, layer \d+: ', str(error)), str(error)
    return 'checksum refused' if 'checksum' in str(error) else 'packet refused'
  # Up to the first GOP of which nothing is there.
  assert shown == sum(
      gop.num_frames
      for gop in itertools.takewhile(
          lambda gop: reader.available_layers(gop.index), gops
      )
  )
  assert_copies(reader)
  return 'decoded' if reader.is_complete else 'prefix decoded'


def run(num_files, seed):
  counts, longest = collections.Counter(), 0.0
  for name, data in hostile_files(num_files, seed):
    start = time.process_time()
    try:
      counts[name, read(data)] += 1
    except Exception as error:
      raise AssertionError(f'{name}: {data.hex()}') from error
    longest = max(longest, time.process_time() - start)
  assert longest < MAX_SECONDS
  return counts


def test_hostile_videos_are_decoded_or_refused():
  read(serialize(make_originals(np.random.default_rng(0))[0]))  # Compiles.
  counts = hostile_test.totals(run(700, seed=1))
  # Each of them happens, or this file tests less than it says.
  for outcome in (
      *('header refused', 'directory refused', 'entry refused', 'refused'),
      *('nothing whole', 'checksum refused', 'packet refused'),
      *('decoded', 'prefix decoded'),
  ):
    assert counts[outcome] > 10, counts


@pytest.mark.slow  # Minutes.
def test_20_000_hostile_videos_are_decoded_or_refused():
  counts = run(20_000, seed=2)
  print(dict(hostile_test.totals(counts)))


@pytest.mark.parametrize('order', [0, 1])
def test_what_a_header_claims_is_not_allocated(order):
  """The most frames and the largest packets in a file of a few bytes."""
  header, gops = make_originals(np.random.default_rng(0))[0]
  header = header | dict(order=order, width=2**14, height=2**14)
  gop = gops[0] | {'frames': 4096, 'runs': [[2**40, 4096]]}
  gop['sizes'] = [2**32 - 1] * 2
  data = serialize((header, [gop]))
  tracemalloc.start()
  reader, _ = open_video(data)
  with pytest.raises(
      bitstream.BitstreamError, match='ends before the base layer'
  ):
    next(playback.frames(reader))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 2**21


def test_many_small_gops_cost_little_memory():
  """The most entries that bytes may claim."""
  header = syntax.VideoHeader(
      width=1,
      height=1,
      channels=1,
      num_layers=1,
      time_base=fractions.Fraction(1, 24),
  )
  file = io.BytesIO()
  with stream.StreamWriter(file, header) as writer:
    for k in range(5000):
      writer.add_gop([k], [b''], last_duration=1)
  size = len(file.getvalue())
  tracemalloc.start()
  reader = stream.StreamReader(file)
  assert len(reader.gops) == 5000
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 50 * size
