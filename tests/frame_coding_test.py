"""The packets of a GOP: what is coded is what is decoded, layer by layer."""

import numpy as np
import pytest

from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import lattice
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import quantized
from pgsvc_jax.video import frame_coding
from pgsvc_jax.video import motion

HEIGHT, WIDTH, CHANNELS = 48, 80, 3
STEPS = (
    quantize.StepSizes(color=300),
    quantize.StepSizes(color=200),
    quantize.StepSizes(color=150, cell=3),
)


def random_splats(rng, count):
  scales = np.exp(rng.normal(0.5, 0.8, (count, 2)))
  return types.Splats(
      np.float32(rng.uniform(-5, [WIDTH + 5, HEIGHT + 5], (count, 2))),
      np.float32(
          np.stack([scales[:, 0], rng.normal(size=count), scales[:, 1]], -1)
      ),
      np.float32(rng.normal(0, 0.3, (count, CHANNELS))),
  )


def random_update(rng, layer, steps, births):
  dead = rng.random(len(layer.points)) < 0.1
  shape = int((~dead).sum()), layer.points.shape[1]
  changes = rng.integers(-3, 4, shape) * (rng.random(shape) < 0.2)
  born = frame_coding.births(
      quantize.quantize(random_splats(rng, births), steps), steps
  ).born
  return frame_coding.Update(dead, changes, born)


@pytest.fixture(name='group', scope='module')
def _group():
  """A GOP of five frames of every kind, and what the encoder has seen."""
  rng = np.random.default_rng(0)
  encoder = frame_coding.GopEncoder(
      STEPS, height=HEIGHT, width=WIDTH, channels=CHANNELS
  )
  shape = motion.field_shape(HEIGHT, WIDTH, 4)
  seen = []
  for frame in range(5):
    if frame:
      vectors = rng.integers(-30, 31, (*shape, 2)) if frame != 3 else None
      encoder.move(vectors)
    encoder.add(
        [
            random_update(rng, layer, steps, births)
            for layer, steps, births in zip(
                encoder.layers, STEPS, (60, 0 if frame == 2 else 30, 20)
            )
        ]
    )
    seen.append(frame_coding.layered(encoder.layers, STEPS, HEIGHT, WIDTH))
  return encoder, seen


def decode(packets, num_frames=5):
  return list(
      frame_coding.decode_gop(
          packets,
          num_frames=num_frames,
          height=HEIGHT,
          width=WIDTH,
          channels=CHANNELS,
      )
  )


@pytest.mark.parametrize('num_layers', [1, 2, 3])
def test_any_prefix_of_layers_decodes_to_what_the_encoder_saw(
    group, num_layers
):
  encoder, seen = group
  frames = decode(encoder.packets()[:num_layers])
  assert len(frames) == len(seen)
  for frame, whole in zip(frames, seen):
    assert frame.layer_sizes == whole.layer_sizes[:num_layers]
    count = sum(frame.layer_sizes)
    for got, expected in zip(frame.splats, whole.splats):
      np.testing.assert_array_equal(got, expected[:count])


def test_frame_sizes_are_those_that_were_coded(group):
  encoder, _ = group
  sizes = [frame_coding.frame_sizes(x, 5) for x in encoder.packets()]
  assert sizes == encoder.sizes


def test_still_frames_cost_next_to_nothing(group):
  encoder, seen = group
  layers = quantized.quantize_layers(seen[-1], STEPS)
  again = frame_coding.GopEncoder(
      STEPS, height=HEIGHT, width=WIDTH, channels=CHANNELS
  )
  again.add(list(map(frame_coding.births, layers.symbols, STEPS)))
  before = frame_coding.layered(again.layers, STEPS, HEIGHT, WIDTH)
  for _ in range(20):
    again.move(None)
    again.add(
        [
            frame_coding.Update(
                np.zeros(len(layer.points), bool),
                np.zeros_like(layer.points),
                quantize.zeros(0, CHANNELS),
            )
            for layer in again.layers
        ]
    )
  after = frame_coding.layered(again.layers, STEPS, HEIGHT, WIDTH)
  for a, b in zip(after.splats, before.splats):
    np.testing.assert_array_equal(a, b)
  assert max(sizes[-1] for sizes in again.sizes) <= 4
  assert len(decode(again.packets(), 21)) == 21


def test_damage_is_named(group):
  encoder, _ = group
  packets = encoder.packets()
  for packet in (packets[1][:5], packets[1][:-1], packets[1] + b'\1', b''):
    with pytest.raises(bitstream.BitstreamError, match='^layer 1: packet is'):
      decode([packets[0], packet])


def test_garbage_is_refused_or_decodes_to_finite_splats(group):
  encoder, _ = group
  rng = np.random.default_rng(1)
  packets = encoder.packets()
  outcomes = set()
  for _ in range(150):
    layer = int(rng.integers(3))
    damaged = bytearray(packets[layer])
    damaged[rng.integers(len(damaged))] = rng.integers(256)
    trial = [*packets[:layer], bytes(damaged), *packets[layer + 1 :]]
    try:
      frames = decode(trial)
    except bitstream.BitstreamError as error:
      assert f'layer {layer}' in str(error)
      outcomes.add('refused')
      continue
    outcomes.add('decoded')
    for frame in frames:
      assert all(np.isfinite(x).all() for x in frame.splats)
      assert (frame.splats.cholesky[:, [0, 2]] > 0).all()
  assert outcomes == {'refused', 'decoded'}


def test_a_change_out_of_range_is_refused(group):
  encoder, _ = group
  layer = encoder.layers[0]
  changes = np.zeros_like(layer.points)
  changes[0, lattice.SHEAR] = 2**21
  update = frame_coding.Update(
      np.zeros(len(changes), bool), changes, quantize.zeros(0, CHANNELS)
  )
  with pytest.raises(ValueError, match='range'):
    frame_coding.apply(layer, update, STEPS[0])


def test_lattice_points_are_the_splats_of_the_quantiser():
  splats = random_splats(np.random.default_rng(2), 200)
  for steps in STEPS:
    symbols = quantize.quantize(splats, steps)
    points, found = lattice.from_symbols(symbols, steps)
    expected = quantize.dequantize(symbols, steps)
    for got, want in zip(lattice.splats(points, found, steps), expected):
      np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)
    back = lattice.coordinates(lattice.splats(points, found, steps))
    unit = lattice.steps(found, steps, CHANNELS)
    origin = lattice.offsets(found, steps, CHANNELS)
    np.testing.assert_allclose((back - origin) / unit, points, atol=1e-2)


def test_motion_moves_splats_as_the_field_says():
  """Bilinear between the middles of blocks, against a float version."""
  rng = np.random.default_rng(3)
  splats = random_splats(rng, 300)
  steps = STEPS[0]
  points, found = lattice.from_symbols(quantize.quantize(splats, steps), steps)
  rows, cols = motion.field_shape(HEIGHT, WIDTH, 3)
  vectors = rng.integers(-40, 41, (rows, cols, 2))
  moved = motion.move(points, found, steps, vectors, 3)
  unit = lattice.steps(found, steps, CHANNELS)[:, :2]
  x, y = ((points[:, :2] + 0.5) * unit / 8 - 0.5).T
  x, y = np.clip(x, 0, cols - 1), np.clip(y, 0, rows - 1)
  x0, y0 = np.floor([x, y]).astype(int)
  x1, y1 = np.minimum(x0 + 1, cols - 1), np.minimum(y0 + 1, rows - 1)
  fx, fy = (x - x0)[:, None], (y - y0)[:, None]
  v = vectors / 4
  expected = (1 - fy) * ((1 - fx) * v[y0, x0] + fx * v[y0, x1])
  expected += fy * ((1 - fx) * v[y1, x0] + fx * v[y1, x1])
  shift = (moved - points)[:, :2] * unit
  assert (np.abs(shift - expected) <= unit / 2 + 1e-9).all()
  np.testing.assert_array_equal(moved[:, 2:], points[:, 2:])


@pytest.mark.parametrize('shape', [(1, 1), (1, 5), (7, 1), (6, 9)])
def test_motion_fields_of_any_shape_come_back(shape):
  rng = np.random.default_rng(4)
  field = rng.integers(-100, 101, (*shape, 2))
  values = []

  def write(contexts, column):
    assert len(contexts) == len(column)
    values.append(column)
    return column

  written = motion.code(write, shape, field)
  np.testing.assert_array_equal(written, field)
  read = motion.code(lambda contexts, _: values.pop(0), shape)
  np.testing.assert_array_equal(read, field)
