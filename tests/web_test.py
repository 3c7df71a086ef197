"""The decoder in JavaScript against the library, in Node."""

import fractions
import gzip
import io
import json
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.video import playback
from tests import independent_decoder_test
from tests import independent_video_decoder_test

ROOT = pathlib.Path(__file__).parents[1]
WEB = ROOT / 'pgsvc_jax' / 'web'
GOLDEN = pathlib.Path(__file__).parent / 'golden'
STEPS = tuple(independent_decoder_test.STEPS.values())

needs_node = pytest.mark.skipif(
    shutil.which('node') is None, reason='Node.js is not installed'
)


def node(*arguments):
  """Runs Node, and gives what it printed."""
  result = subprocess.run(
      ['node', *map(str, arguments)],
      cwd=ROOT / 'tests' / 'web',
      capture_output=True,
      text=True,
      timeout=120,
      check=False,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  return result.stdout


@pytest.fixture(scope='module')
def golden():
  """What JavaScript finds in the golden files, by name."""
  paths = sorted(GOLDEN.glob('*.pgsvc'))
  found = json.loads(node('symbols.mjs', *paths))
  return dict(zip([path.stem for path in paths], found, strict=True))


@needs_node
def test_the_decoder_passes_its_own_tests():
  report = node('--test', 'decoder.test.mjs')
  assert '# fail 0' in report
  assert '# pass 0' not in report


def assert_same_symbols(found, expected, channels):
  """Of a layer of version 2 or 4: the integers of the quantiser."""
  numbers = np.array(found['numbers'], np.int64)
  sizes = numbers[2] - np.multiply(found['K'], found['n'])
  np.testing.assert_array_equal(numbers[:2].T, expected['positions'])
  np.testing.assert_array_equal(found['K'], expected['classes'])
  np.testing.assert_array_equal(sizes, expected['sizes'])
  np.testing.assert_array_equal(numbers[3], expected['aspects'])
  np.testing.assert_array_equal(numbers[4], expected['shears'])
  np.testing.assert_array_equal(numbers[5:].T, expected['colors'])
  assert len(numbers) == 5 + channels


def assert_same_splats(found, splats):
  """Positions to the last bit, all else to the last but one."""
  rows = np.array(found, np.float32).reshape(-1, 9)
  channels = splats.colors.shape[1]
  np.testing.assert_array_equal(rows[:, :2], splats.means)
  ours = rows[:, 2 : 5 + channels]
  theirs = np.concatenate([splats.cholesky, splats.colors], axis=1)
  if ours.size:
    np.testing.assert_array_max_ulp(ours, theirs, maxulp=1)
  assert not rows[:, 5 + channels :].any()


@needs_node
@pytest.mark.parametrize('version', [1, 2, 4])
def test_golden_pictures_decode_to_their_symbols(golden, version):
  name = f'v{version}_three_layers'
  found = golden[name]
  layered = bitstream.read_layers((GOLDEN / f'{name}.pgsvc').read_bytes())
  assert found['header']['version'] == version
  assert found['header']['metadata'] == '{"k": 1}'
  sizes = [tuple(size[::-1]) for size in found['header']['nativeSizes']]
  assert tuple(sizes) == layered.native_shapes
  parts = independent_decoder_test.split(layered)
  with np.load(GOLDEN / f'{name}.npz') as stored:
    for k, (layer, splats) in enumerate(zip(found['layers'], parts)):
      assert_same_splats(layer['splats'], splats)
      if version == 1:
        np.testing.assert_array_equal(
            np.transpose(layer['symbols']), stored[f'layer{k}']
        )
        continue
      names = quantize.quantize(splats, quantize.StepSizes())._asdict()
      expected = {x: stored[f'{x}{k}'] for x in names if f'{x}{k}' in stored}
      assert_same_symbols(layer['symbols'], expected, layered.channels)
  assert len(found['layers']) == 3


@needs_node
@pytest.mark.parametrize('name', ['v3_video', 'v5_video'])
def test_golden_videos_decode_to_their_integers(golden, name):
  found = golden[name]
  states = independent_video_decoder_test.golden_states()
  with (GOLDEN / f'{name}.pgsvc').open('rb') as file:
    reader = stream.StreamReader(file)
    frames = list(playback.frames(reader))
    base = reader.header.time_base
  assert len(found['frames']) == len(states) == 5
  for layers, expected, frame in zip(found['frames'], states, frames):
    assert len(layers) == len(expected) == 3
    parts = independent_decoder_test.split(frame.layered)
    for layer, state, splats in zip(layers, expected, parts):
      assert_same_state(layer['symbols'], state)
      assert_same_splats(layer['splats'], splats)
  played = [[layer['splats'] for layer in x] for x in found['frames']]
  assert found['shown'] == played
  first = frames[0].time
  times = [
      [float((x.time - first) * base), float(x.duration * base)] for x in frames
  ]
  np.testing.assert_allclose(found['times'], times, atol=1e-9)


def assert_same_state(symbols, state):
  np.testing.assert_array_equal(np.transpose(symbols['numbers']), state.points)
  np.testing.assert_array_equal(symbols['K'], state.lattice.classes)
  np.testing.assert_array_equal(symbols['T'], state.lattice.precision)
  bits = np.stack([symbols['bitsX'], symbols['bitsY']], axis=-1)
  np.testing.assert_array_equal(bits, state.lattice.bits)


def random_picture(seed):
  """A file of random splats, and its step sizes."""
  rng = np.random.default_rng(seed)
  sizes = tuple(int(n) for n in rng.integers(0, 60, rng.integers(1, 5)))
  channels = int(rng.integers(1, 5))
  layered = independent_decoder_test.make_picture(sizes, channels, seed)
  steps = [STEPS[rng.integers(len(STEPS))] for _ in sizes]
  return bitstream.write(layered, steps), steps


@needs_node
def test_files_of_random_splats_decode_to_their_symbols(tmp_path):
  files = [random_picture(seed) for seed in range(40)]
  paths = [tmp_path / f'{k}.pgsvc' for k in range(len(files))]
  for path, (data, _) in zip(paths, files):
    path.write_bytes(data)
  for found, (data, steps) in zip(
      json.loads(node('symbols.mjs', *paths)), files, strict=True
  ):
    layered = bitstream.read_layers(data)
    parts = independent_decoder_test.split(layered)
    for layer, splats, step_sizes in zip(
        found['layers'], parts, steps, strict=True
    ):
      assert_same_splats(layer['splats'], splats)
      expected = quantize.quantize(splats, step_sizes)._asdict()
      assert_same_symbols(layer['symbols'], expected, layered.channels)


def random_video(seed):
  """A file of a GOP of random splats, and the states of its frames."""
  rng = np.random.default_rng(seed)
  channels, log2_block = int(rng.integers(1, 5)), int(rng.integers(2, 7))
  width, height = (int(n) for n in rng.integers(1, 90, 2))
  births = [(20, 9, 5), (6, 0, 5), (0, 8, 0), (4, 4, 4)]
  packets, states = independent_video_decoder_test.make_gop(
      rng,
      STEPS,
      births,
      width=width,
      height=height,
      channels=channels,
      log2_block=log2_block,
      vectors=(-30, 30) if seed % 3 else (-(2**15), 2**15),
  )
  file = io.BytesIO()
  header = syntax.VideoHeader(
      width=width,
      height=height,
      channels=channels,
      num_layers=3,
      time_base=fractions.Fraction(1, 25),
  )
  with stream.StreamWriter(file, header) as writer:
    writer.add_gop(list(range(4)), packets, last_duration=1)
  return file.getvalue(), states


@needs_node
def test_videos_of_random_splats_decode_to_their_integers(tmp_path):
  files = [random_video(seed) for seed in range(10)]
  paths = [tmp_path / f'{k}.pgsvc' for k in range(len(files))]
  for path, (data, _) in zip(paths, files):
    path.write_bytes(data)
  for found, (_, states) in zip(
      json.loads(node('symbols.mjs', *paths)), files, strict=True
  ):
    for layers, expected in zip(found['frames'], states, strict=True):
      for layer, state in zip(layers, expected, strict=True):
        assert_same_state(layer['symbols'], state)


def modules_of(entry):
  """An ES module and all that it imports from beside it."""
  found, todo = set(), [entry]
  while todo:
    name = todo.pop()
    if name in found:
      continue
    found.add(name)
    text = (WEB / name).read_text()
    todo += [part.split("'")[0] for part in text.split("from './")[1:]]
    todo += [part.split("'")[0] for part in text.split("import './")[1:]]
    todo += [part.split("'")[0] for part in text.split("new URL('./")[1:]]
  return found


def test_the_decoder_is_small():
  names = modules_of('decoder.js')
  data = b''.join(
      (WEB / name).read_bytes() for name in names if name != 'models.js'
  )
  assert len(gzip.compress(data)) < 27_000
  # What contexts know at first.
  assert 'models.js' in names
  assert len(gzip.compress((WEB / 'models.js').read_bytes())) < 65_000
