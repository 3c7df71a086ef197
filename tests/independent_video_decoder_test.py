"""Video packets against a decoder that was written from the page alone."""

import fractions
import io
import pathlib
import struct

import numpy as np
import pytest

from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import lattice
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import range_coder
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.video import frame_coding
from pgsvc_jax.video import motion
from pgsvc_jax.video import playback
from tests import independent_decoder
from tests import independent_decoder_test
from tests import independent_video_decoder
from tests import independent_video_reader

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'v3_video.pgsvc'
# The same but for the sizes of the layers.
GOLDEN_SHAPES = {
    GOLDEN: (),
    GOLDEN.with_name('v5_video.pgsvc'): ((9, 12), (18, 24), (35, 47)),
}
STEPS = tuple(independent_decoder_test.STEPS.values())
GOLDEN_STEPS = (
    quantize.StepSizes(color=300),
    quantize.StepSizes(color=200),
    quantize.StepSizes(color=150, cell=3),
)
# Start times and the last duration of each GOP.
GOLDEN_TIMES = ((5, 7, 9), 2), ((14, 16), 4)
NUMBERS = ('x', 'y', 'A', 'b', 'h')


def make_updates(rng, layers, steps, births):
  """Splats die, change a little, and are born."""
  updates = []
  for layer, step_sizes, count in zip(layers, steps, births):
    channels = layer.points.shape[1] - lattice.COLORS
    dead = rng.random(len(layer.points)) < 0.1
    shape = int((~dead).sum()), layer.points.shape[1]
    changes = rng.integers(-2, 3, shape) * (rng.random(shape) < 0.2)
    points = layer.points[~dead]
    found = lattice.Lattice(*(x[~dead] for x in layer.lattice))
    for i in range(len(points)):
      one = lattice.Lattice(*(x[i : i + 1] for x in found))
      try:
        lattice.check(points[i : i + 1] + changes[i], one, step_sizes)
      except ValueError:
        changes[i] = 0
    splats = independent_decoder_test.make_picture(
        (count,), channels, int(rng.integers(2**31))
    ).splats
    born = frame_coding.births(
        quantize.quantize(splats, step_sizes), step_sizes
    ).born
    updates.append(frame_coding.Update(dead, changes, born))
  return updates


def make_gop(
    rng,
    steps,
    births,
    *,
    width=47,
    height=35,
    channels=3,
    log2_block=4,
    vectors=(-30, 30),
):
  """Packets of a GOP with a frame for each of `births`, and its states."""
  encoder = frame_coding.GopEncoder(
      steps,
      height=height,
      width=width,
      channels=channels,
      log2_block=log2_block,
  )
  shape = motion.field_shape(height, width, log2_block)
  states = []
  for t, counts in enumerate(births):
    if t:
      field = rng.integers(*vectors, (*shape, 2), endpoint=True)
      encoder.move(None if t == 3 else field)
    encoder.add(make_updates(rng, encoder.layers, steps, counts))
    states.append(list(encoder.layers))
  return encoder.packets(), states


def integers(layer, channels):
  names = [*NUMBERS, *(f'c{i}' for i in range(channels))]
  return independent_decoder_test.columns(layer, names)


def assert_same_state(layer, state):
  """Integers: those of the page are those of the library."""
  channels = layer.colors.shape[1]
  np.testing.assert_array_equal(integers(layer, channels), state.points)
  of_birth = independent_decoder_test.columns(layer, ('K', 'T'))
  expected = np.stack([state.lattice.classes, state.lattice.precision], -1)
  np.testing.assert_array_equal(of_birth, expected)
  bits = independent_decoder_test.columns(layer, ('bits_x', 'bits_y'))
  np.testing.assert_array_equal(bits, state.lattice.bits)


def assert_same_frame(layers, layered):
  assert tuple(len(x.symbols) for x in layers) == layered.layer_sizes
  pairs = zip(layers, layered.layers, strict=True)
  for layer, splats in pairs:
    independent_decoder_test.assert_same_splats(layer, splats)


@pytest.mark.parametrize(
    'channels, size, log2_block',
    [(1, (1, 1), 6), (2, (47, 35), 2), (3, (130, 20), 4), (4, (9, 300), 5)],
)
def test_every_frame_of_every_layer_agrees(channels, size, log2_block):
  births = [(20, 9, 5), (6, 0, 5), (0, 8, 0), (4, 4, 4), (1, 1, 1)]
  form = dict(zip(('width', 'height'), size)) | {'channels': channels}
  rng = np.random.default_rng(channels)
  packets, states = make_gop(rng, STEPS, births, log2_block=log2_block, **form)
  ours = independent_video_decoder.decode_gop(packets, len(births), **form)
  theirs = list(
      frame_coding.decode_gop(packets, num_frames=len(births), **form)
  )
  assert len(ours) == len(theirs) == len(births)
  for layers, layered, expected in zip(ours, theirs, states):
    for layer, state in zip(layers, expected, strict=True):
      assert_same_state(layer, state)
    assert_same_frame(layers, layered)


@pytest.mark.parametrize('vector', [-(2**15), 2**15])
def test_splats_that_motion_drives_to_the_end_of_the_cells_agree(vector):
  births = [(30, 0, 30)] + [(0, 0, 0)] * 4
  steps = [quantize.StepSizes(color=2000, cell=cell) for cell in (0, 1, 2)]
  rng = np.random.default_rng(5)
  packets, states = make_gop(rng, steps, births, vectors=(vector, vector))
  points, found, _ = states[-1][0]
  ends = quantize.CELL_LIMIT << found.bits
  ends = -ends if vector < 0 else ends - 1
  assert (points[:, :2] == ends).mean() > 0.5
  frames = independent_video_decoder.decode_gop(packets, 5, 47, 35, 3)
  for layers, expected in zip(frames, states):
    for layer, state in zip(layers, expected, strict=True):
      assert_same_state(layer, state)


def forge(frames, padding=0):
  """A packet of frames of columns, each its name, its one set and its values.

  Of bits below the cell, how many there are stands for the set.
  """
  statistics = range_coder.Statistics()
  payloads = []
  for columns in frames:
    encoder = range_coder.Encoder()
    for name, which, values in columns:
      constant = np.full(len(values), which)
      if name == 'bits':
        encoder.bits(np.array(values), constant)
      else:
        encoder.column(np.array(values), constant, statistics, name)
    payloads.append(encoder.finish() + bytes(padding))
  head = struct.pack('<HHHHB', 256, 1, 4871, 2, 6)
  sizes = b''.join(syntax.pack_varint(len(x)) for x in payloads)
  return head + sizes + b''.join(payloads)


def born(count=1, origin=(0, 0), **values):
  """Columns of splats that are all the same, at the start of their cells."""
  values = dict.fromkeys(('class', 'color 0', 'size', 'shear', 'aspect'), 0) | (
      values
  )
  columns = [('births', 0, [count]), ('origin', 0, origin[:1])]
  columns += [('origin', 1, origin[1:]), ('gap', 0, [0] * count)]
  # Where the class and the color are 0: T = 1.
  sets = {'color 0': 4, 'size': 1}
  for name, value in values.items():
    columns.append((name, sets.get(name, 0), [value] * count))
  return [*columns, *([('bits', 2, [0] * count)] * 2)]


def later(*, moves=0, vector=(), dead=0, still=1, changes=(), births=0):
  """Columns of a frame after one in which a splat was born."""
  columns = [('moves', 0, [moves])]
  columns += [('vector', 5 * k, [x]) for k, x in enumerate(vector)]
  columns.append(('dead', 0, [dead]))
  if not dead:
    columns.append(('still', 1, [still]))
  total = 0
  for k, change in enumerate(changes):
    columns.append((f'change {k}', min(total.bit_length(), 3), [change]))
    total += abs(change)
  return [*columns, ('births', 0, [births])]


def changes(k, change):
  return {'still': 0, 'changes': [0] * k + [change] + [0] * (5 - k)}


# One splat: n = 4015, D = 2^16, and 2 bits of x and y below the cell.
@pytest.mark.parametrize(
    'make, allowed, refused',
    [
        (lambda x: later(moves=1, vector=(x, -x)), [0, 2**15], [2**15 + 1]),
        # Anything but 0 is a 1.
        (lambda x: later(moves=x, vector=(9, 9)), [1, 2, -1, 2**60], []),
        (lambda x: later(dead=x), [0, 1, 2, -1, 2**60], []),
        (lambda x: later(still=x), [1, 2, -1, 2**60], []),
        (lambda x: later(births=x), [0], [-1, 2, 2**40, -(2**60)]),
        (
            lambda x: later(**changes(2, x)),
            [47 * 4015, -47 * 4015],
            [47 * 4015 + 1, -47 * 4015 - 1, 2**30 + 1, 2**60],
        ),
        (
            lambda x: later(**changes(3, x)),
            [49152, -49152],
            [49153, -49153, 2**60],
        ),
        (
            lambda x: later(**changes(4, x)),
            [2**20 - 1, 1 - 2**20],
            [2**20, -(2**20)],
        ),
        (
            lambda x: later(**changes(5, x)),
            [2**22 - 1, 1 - 2**22],
            [2**22, -(2**22)],
        ),
    ],
)
def test_limits_of_a_frame_are_those_of_the_library(make, allowed, refused):
  for value in allowed + refused:
    packet = forge([born(), make(value)])
    outcome = assert_same_outcome([packet], 2, 1)
    assert (outcome is not None) == (value in allowed), value


@pytest.mark.parametrize(
    'value, fine', [(2**14 - 2, True), (2**14 - 1, False), (-(2**14), False)]
)
def test_limits_of_the_origin(value, fine):
  for origin in ((value, 0), (0, value)):
    outcome = assert_same_outcome([forge([born(origin=origin)])], 1, 1)
    assert (outcome is not None) == fine


def test_frames_without_splats_may_have_no_bytes():
  packet = forge(
      [[('births', 0, [0])], [('moves', 0, [0]), ('births', 0, [0])]]
  )
  assert frame_coding.frame_sizes(packet, 2) == [0, 0]
  frames = assert_same_outcome([packet, packet], 2, 1)
  assert [[len(x.symbols) for x in layers] for layers in frames] == [[0, 0]] * 2
  assert assert_same_outcome([packet, b''], 2, 1) is None


def test_still_is_not_the_same_as_changes_of_zero():
  """What is not still may have changed by nothing."""
  packet = forge([born(), later(still=0, changes=[0] * 6)])
  (before,), (after,) = assert_same_outcome([packet], 2, 1)
  np.testing.assert_array_equal(integers(before, 1), integers(after, 1))


def test_a_frame_has_a_byte_a_splat_at_least():
  (bare,) = frame_coding.frame_sizes(forge([born(400)]), 1)
  assert bare < 300
  for size, fine in ((400, True), (399, False)):
    packet = forge([born(400)], size - bare)
    outcome = assert_same_outcome([packet], 1, 1)
    assert (outcome is not None) == fine


def assert_same_outcome(packets, num_frames, channels):
  """Frames as the page has them, or None where both refuse."""
  form = {'width': 47, 'height': 35, 'channels': channels}
  try:
    theirs = list(
        frame_coding.decode_gop(packets, num_frames=num_frames, **form)
    )
  except bitstream.BitstreamError:
    theirs = None
  try:
    ours = independent_video_decoder.decode_gop(packets, num_frames, **form)
  except independent_decoder.FormatError:
    ours = None
  assert (ours is None) == (theirs is None)
  if ours is not None:
    for layers, layered in zip(ours, theirs, strict=True):
      assert_same_frame(layers, layered)
  return ours


def test_forged_packets_are_refused_by_both_or_by_neither():
  births = [(9, 5), (4, 3), (0, 2)]
  rng = np.random.default_rng(6)
  whole, _ = make_gop(rng, STEPS[:2], births)
  verdicts = []
  for _ in range(150):
    packets = list(whole)
    k = rng.integers(2)
    packet = bytearray(packets[k])
    place = rng.integers(len(packet))
    match rng.integers(4):
      case 0:
        packet[place] ^= 1 << rng.integers(8)
      case 1:
        packet[rng.integers(16)] = rng.integers(256)
      case 2:
        packet = packet[: max(place, 3)]
      case 3:
        packet[place] = rng.integers(256)
    packets[k] = bytes(packet)
    verdicts.append(assert_same_outcome(packets, 3, 3) is None)
  assert 20 < sum(verdicts) < 130


def golden_states():
  """Expected layers of each frame of the golden file."""
  with np.load(GOLDEN.with_suffix('.npz')) as stored:
    counts = stored['counts']
    arrays = {
        name: stored[name] for name in ('points', *lattice.Lattice._fields)
    }
  ends = np.cumsum(counts).reshape(counts.shape)
  states = []
  for sizes, stops in zip(counts, ends):
    layers = []
    for size, stop in zip(sizes, stops):
      part = {name: x[stop - size : stop] for name, x in arrays.items()}
      points = part.pop('points').astype(np.int64)
      found = {name: x.astype(np.int64) for name, x in part.items()}
      layers.append(frame_coding.Layer(points, lattice.Lattice(**found), None))
    states.append(layers)
  return states


@pytest.mark.parametrize('path, shapes', GOLDEN_SHAPES.items())
@pytest.mark.parametrize('num_layers', [1, 2, 3])
def test_golden_video_decodes_to_its_integers(num_layers, path, shapes):
  data = path.read_bytes()
  ours = independent_video_decoder.decode(data)
  states = golden_states()
  reader = stream.StreamReader(io.BytesIO(data))
  frames = list(playback.frames(reader, num_layers=num_layers))
  assert len(frames) == len(ours) == len(states) == 5
  for frame, layers, expected in zip(frames, ours, states):
    for layer, state in zip(layers, expected, strict=True):
      assert_same_state(layer, state)
    assert_same_frame(layers[:num_layers], frame.layered)
    wanted = frame_coding.layered(
        expected[:num_layers], GOLDEN_STEPS[:num_layers], 35, 47
    )
    for array, other in zip(frame.layered.splats, wanted.splats, strict=True):
      np.testing.assert_array_equal(array, other)
  times = [frame.time for frame in frames]
  assert times == [time for starts, _ in GOLDEN_TIMES for time in starts]
  assert [frame.duration for frame in frames] == [2, 2, 2, 2, 4]
  assert reader.header.metadata == b'{"k": 1}'
  assert reader.header.layer_shapes == shapes
  assert {x.layered.layer_shapes for x in frames} == {shapes[:num_layers]}
  native = independent_video_reader.read(data).header['native']
  assert native == [shape[::-1] for shape in shapes or [(35, 47)] * 3]


def test_golden_video_has_all_that_a_video_may_have():
  """Motion, deaths, changes and births in some frame that is no I-frame."""
  data = GOLDEN.read_bytes()
  assert len(data) < 10_000
  frames = independent_video_decoder.decode(data)
  starts = [len(x.starts) for x in independent_video_reader.read(data).gops]
  assert starts == [3, 2]
  sizes = np.array([[len(x.symbols) for x in layers] for layers in frames])
  assert (sizes > 0).all()
  first, second = (layers[0].symbols for layers in frames[:2])
  # Gaps and bits of a birth tell splats apart, or nearly so.
  names = ('cell_x', 'cell_y', 'K', 'T', 'D', 'n', 'bits_x', 'gap')
  keys = [
      [tuple(s[x] for x in names) for s in rows] for rows in (first, second)
  ]
  before, after = set(keys[0]), set(keys[1])
  assert before - after and after - before
  kept = [
      (first[keys[0].index(key)], second[keys[1].index(key)])
      for key in before & after
      if keys[0].count(key) == keys[1].count(key) == 1
  ]
  for name in (*NUMBERS, 'c0'):
    assert any(a[name] != b[name] for a, b in kept), name


def write_golden(path, shapes):
  """Made a golden file, once: python -m tests.independent_video_decoder_test.

  It stays as it is for as long as its version is read.
  """
  header = syntax.VideoHeader(
      width=47,
      height=35,
      channels=3,
      num_layers=3,
      time_base=fractions.Fraction(1, 20),
      frame_rate=fractions.Fraction(10),
      primaries=1,
      transfer=1,
      matrix=1,
      metadata=b'{"k": 1}',
      layer_shapes=shapes,
  )
  rng = np.random.default_rng(7)
  file, states = io.BytesIO(), []
  with stream.StreamWriter(file, header) as writer:
    for times, last in GOLDEN_TIMES:
      births = [(24, 9, 5), (6, 4, 0), (0, 5, 3)][: len(times)]
      packets, frames = make_gop(rng, GOLDEN_STEPS, births)
      writer.add_gop(times, packets, last_duration=last)
      states += frames
  path.write_bytes(file.getvalue())
  if shapes:
    return
  every = [layer for layers in states for layer in layers]
  np.savez_compressed(
      GOLDEN.with_suffix('.npz'),
      counts=[[len(x.points) for x in layers] for layers in states],
      points=np.concatenate([x.points for x in every]).astype(np.int32),
      **{
          name: np.concatenate(
              [getattr(x.lattice, name) for x in every]
          ).astype(np.int32)
          for name in lattice.Lattice._fields
      },
  )


if __name__ == '__main__':
  for golden in GOLDEN_SHAPES.items():
    if not golden[0].exists():
      write_golden(*golden)
