"""Stopped at any moment, a run goes on and ends as if it never was."""

import dataclasses
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
from PIL import Image
import pytest

from launch import checkpoints
from launch import run_log
from pgsvc_jax import config as config_lib
from pgsvc_jax import metrics
from pgsvc_jax import render
from pgsvc_jax import types
from pgsvc_jax.codec import quantize
from pgsvc_jax.training import checkpoint
from pgsvc_jax.training import fit
from pgsvc_jax.training import loop
from pgsvc_jax.training import schedule
from pgsvc_jax.training import warm_start

ROOT = pathlib.Path(__file__).parents[1]

CONFIG = config_lib.FitConfig(
    layer_splats=(30, 15, 15),
    num_steps=60,
    num_births=6,
    rounding_steps=60,
    rounding_groups=2,
)


def scene(height=40, width=56, seed=0):
  y, x = np.mgrid[:height, :width] / 8
  waves = np.stack([np.sin(x + c + seed) * np.cos(y - c) for c in range(3)], -1)
  noise = np.random.default_rng(seed).normal(0, 0.05, waves.shape)
  return np.clip(0.5 + 0.3 * waves + noise, 0, 1).astype(np.float32)


class Stop(Exception):
  pass


class InMemory:
  """A checkpointer that keeps everything."""

  def __init__(self):
    self.snapshots = []

  def restore(self):
    return self.snapshots[-1] if self.snapshots else None

  def is_due(self, is_milestone):
    return True

  def save(self, snapshots):
    self.snapshots.append(snapshots)


def choose(layered, error, image):
  """Depends on everything that a rate is given."""
  color = 100 + len(layered.splats.means) + round(error) % 7
  color += round(10 * float(image[0, 0, 0]))
  return (quantize.StepSizes(color=color),) * len(layered.layer_sizes)


def fit_until(images, checkpointer, last_step=None, **kwargs):
  def report(states):
    # Before this step is saved, like a kill while it is.
    if states[0].step == last_step:
      raise Stop

  return fit.fit_quantized(
      images,
      CONFIG,
      rates=[choose] * len(images),
      devices=jax.local_devices()[:2],
      report=report,
      checkpointer=checkpointer,
      **kwargs,
  )


def assert_same(a, b):
  for x, y in zip(a, b, strict=True):
    assert x.step_sizes == y.step_sizes
    jax.tree.map(np.testing.assert_array_equal, x.symbols, y.symbols)


# ---- The fit ----------------------------------------------------------------


@pytest.mark.parametrize(
    'num_pictures', [1, pytest.param(2, marks=pytest.mark.slow)]
)
def test_a_fit_goes_on_as_if_never_stopped(num_pictures):
  images = [scene(seed=seed) for seed in range(num_pictures)]
  through = InMemory()
  expected = fit_until(images, through)
  steps = [x[0].step for x in through.snapshots]
  assert steps == list(range(10, steps[-1] + 1, 10))
  checkpointer = InMemory()
  # Between births, as rounding begins, and within.
  for last_step in (30, 70, 90):
    with pytest.raises(Stop):
      fit_until(images, checkpointer, last_step)
    assert checkpointer.snapshots[-1][0].step == last_step - 10
  assert_same(fit_until(images, checkpointer), expected)
  assert [x[0].step for x in checkpointer.snapshots] == steps
  # Of a fit that is done: nothing is left but the last rounding.
  assert_same(fit_until(images, checkpointer), expected)


def test_a_fit_goes_on_with_other_devices():
  image = scene()
  checkpointer = InMemory()
  with pytest.raises(Stop):
    fit_until([image], checkpointer, 50)
  one = jax.local_devices()[:1]
  results = [
      fit.fit_pictures(
          [image],
          CONFIG,
          step_sizes=quantize.StepSizes(),
          devices=devices,
          checkpointer=checkpointer,
      )[0]
      for checkpointer, devices in ((checkpointer, one), (None, one))
  ]
  levels = [
      [metrics.psnr_db(x / np.float32(255), image) for x in images]
      for images in map(render.render_prefixes, results)
  ]
  np.testing.assert_allclose(*levels, atol=0.3)


def test_a_fit_of_other_layers_is_refused():
  checkpointer = InMemory()
  with pytest.raises(Stop):
    fit_until([scene()], checkpointer, 20)
  other = dataclasses.replace(CONFIG, layer_splats=(30, 30))
  with pytest.raises(ValueError, match='other layers'):
    fit.fit_pictures([scene()], other, checkpointer=checkpointer)


def test_divergence_names_step_and_layer():
  checkpointer = InMemory()
  what = r'layer 0: the loss is \d[^ ]* after step \d of 60;'
  with pytest.raises(loop.DivergenceError, match=what):
    fit.fit_pictures(
        [scene()],
        dataclasses.replace(CONFIG, colors_rate=1e3),
        checkpointer=checkpointer,
    )
  assert not checkpointer.snapshots  # Nothing bad is kept.


def test_divergence_names_an_upper_layer():
  """A splat above the base explodes: the fit that goes on says where."""
  checkpointer = InMemory()
  fit.fit_pictures([scene()], CONFIG, checkpointer=checkpointer)
  (snapshot,) = checkpointer.snapshots[-2]
  colors = snapshot.state.params.colors.copy()
  colors[40] = 1e30  # 30 + 15 splats are below the last layer.
  params = snapshot.state.params._replace(colors=colors)
  broken = dataclasses.replace(
      snapshot, state=snapshot.state.replace(params=params)
  )
  checkpointer.snapshots = [[broken]]
  with pytest.raises(loop.DivergenceError, match='layer 1: .* after step 51'):
    fit.fit_pictures([scene()], CONFIG, checkpointer=checkpointer)


# ---- Checkpoints on disk ----------------------------------------------------


@pytest.fixture(scope='module')
def snapshot():
  """In the middle of rounding, so that everything is there."""
  checkpointer = InMemory()
  fit_until([scene()], checkpointer)
  return checkpointer.snapshots[-2][0]


def at(snapshot, step):
  return dataclasses.replace(
      snapshot, state=snapshot.state.replace(step=np.int32(step))
  )


def test_a_checkpoint_comes_back_exactly(snapshot, tmp_path):
  assert snapshot.decided is not None
  config = {'fit': {'seed': 3}}
  with checkpoint.Checkpoints(tmp_path / 'new') as kept:
    kept.save(snapshot, config, 20.0)
  with checkpoint.Checkpoints(tmp_path / 'new', read_only=True) as kept:
    restored = kept.restore(snapshot.step)
    assert kept.config(snapshot.step) == config
  for field in dataclasses.fields(snapshot):
    jax.tree.map(
        np.testing.assert_array_equal,
        getattr(restored, field.name),
        getattr(snapshot, field.name),
    )
  assert jax.tree.structure(restored.state) == jax.tree.structure(
      snapshot.state
  )


def test_a_checkpoint_of_the_first_releases_goes_on():
  """They kept size classes, precisions and aspects of what was rounded."""
  checkpointer = InMemory()
  expected = fit_until([scene()], checkpointer)
  (snapshot,) = checkpointer.snapshots[-3]
  arrays, values = checkpoint._to_trees(snapshot)
  symbols = snapshot.decided.symbols
  arrays['decided'] = {
      'classes': symbols.classes,
      'precision': quantize.precisions(symbols.colors),
      'aspects': symbols.aspects,
      'tables': snapshot.decided.tables,
  }
  values['checksum'] = checkpoint._checksum(arrays)
  checkpointer.snapshots = [[checkpoint._from_trees(arrays, values)]]
  assert_same(fit_until([scene()], checkpointer), expected)


def test_the_best_and_the_latest_are_kept(snapshot, tmp_path):
  with checkpoint.Checkpoints(tmp_path) as kept:
    for step, psnr_db in ((10, 20.0), (20, 30.0), (30, 29.0), (40, 28.0)):
      kept.save(at(snapshot, step), {}, psnr_db)
    kept.wait()
    assert kept.steps == [20, 30, 40] and kept.best_step == 20
    with pytest.raises(OSError, match='step 40 is not higher'):
      kept.save(at(snapshot, 40), {}, 1.0)
    kept.forget_after(20)
    kept.save(at(snapshot, 30), {}, 29.0)
    kept.wait()
    assert kept.steps == [20, 30]


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 255
  path.write_bytes(data)


DAMAGE = {
    'bits of the arrays': lambda x: [
        flip(y) for y in (x / 'arrays').rglob('d/*')
    ],
    'a cut array': lambda x: [
        y.write_bytes(y.read_bytes()[:99]) for y in (x / 'arrays').rglob('d/*')
    ],
    'no arrays': lambda x: shutil.rmtree(x / 'arrays'),
    'values': lambda x: flip(x / 'values' / 'metadata'),
    'figures': lambda x: (x / 'metrics' / 'metrics').write_text('{"psn'),
    'an empty folder': lambda x: (shutil.rmtree(x), x.mkdir()),
    'one written half': lambda x: x.rename(f'{x}.orbax-checkpoint-tmp'),
}


class Log:
  """What a saver needs of a log."""

  def __init__(self, folder):
    self.folder = folder
    self.resumed = []

  def resume(self, step):
    self.resumed.append(step)


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    snapshot, tmp_path, damage, capsys
):
  log = Log(tmp_path)
  with checkpoints.Saver([log], {}, 0.0) as saver:
    assert saver.restore() is None
    for step in (10, 20):
      saver.save([at(snapshot, step)])
  DAMAGE[damage](tmp_path / 'checkpoints' / '20')
  with checkpoints.Saver([log], {}, 0.0) as saver:
    assert saver.restore()[0].step == 10
    # The step is there to be saved again.
    saver.save([at(snapshot, 20)])
  with checkpoints.Saver([log], {}, 0.0) as saver:
    assert saver.restore()[0].step == 20
  assert log.resumed == [0, 10, 20]
  capsys.readouterr()


def test_a_wrong_checksum_is_damage(snapshot, tmp_path, monkeypatch):
  with checkpoint.Checkpoints(tmp_path) as kept:
    with monkeypatch.context() as patch:
      patch.setattr(checkpoint, '_checksum', lambda arrays: 1)
      kept.save(snapshot, {}, 1.0)
      kept.wait()
    with pytest.raises(ValueError, match='step .* is damaged: its checksum'):
      kept.restore(snapshot.step)


def test_pictures_go_on_from_a_step_they_share(snapshot, tmp_path):
  logs = [Log(tmp_path / name) for name in 'ab']
  with checkpoints.Saver(logs, {}, 0.0) as saver:
    saver.save([at(snapshot, 10)] * 2)
    saver.save([at(snapshot, 20)] * 2)
  shutil.rmtree(tmp_path / 'b' / 'checkpoints' / '20')
  with checkpoints.Saver(logs, {}, 0.0) as saver:
    assert [x.step for x in saver.restore()] == [10, 10]
  with checkpoints.Saver(logs[:1], {}, 0.0) as saver:
    saver.restore()
    saver.save([at(snapshot, 30)])
    saver.save([at(snapshot, 40)])
    saver.save([at(snapshot, 50)])
  with checkpoints.Saver(logs, {}, 0.0) as saver:
    steps = [set(checkpoint.Checkpoints(x).steps) for x in saver._folders]
    assert steps[1] == {10}
    if 10 not in steps[0]:  # The best may be any of equals.
      with pytest.raises(ValueError, match='no checkpoint of the same step'):
        saver.restore()


def test_where_to_go_back_to_is_said(snapshot, tmp_path):
  worse = dataclasses.replace(at(snapshot, 20), errors=4 * snapshot.errors)
  with checkpoints.Saver([Log(tmp_path)], {}, 0.0) as saver:
    assert saver.last_good() == ''
    saver.save([at(snapshot, 10)])
    assert saver.last_good() == (
        f'the last good checkpoint is step 10, in {tmp_path}'
    )
    saver.save([worse])
    assert saver.last_good() == (
        'the last good checkpoint is step 20, the best step 10, in'
        f' {tmp_path}'
    )


def test_a_fit_that_loses_all_it_had_has_diverged():
  """All splats out of the picture: black, and no number is infinite."""
  checkpointer = InMemory()
  # Or else the next relocation would bring them back.
  config = dataclasses.replace(CONFIG, num_relocations=0)
  fit.fit_pictures([scene()], config, checkpointer=checkpointer)
  (snapshot,) = checkpointer.snapshots[-2]
  assert snapshot.lowest_loss < 0.25 * 0.01
  params = snapshot.state.params
  lost = params._replace(means=params.means + 99)
  state = snapshot.state.replace(params=lost)
  checkpointer.snapshots = [[dataclasses.replace(snapshot, state=state)]]
  with pytest.raises(loop.DivergenceError, match='after step 51 of 60'):
    fit.fit_pictures([scene()], config, checkpointer=checkpointer)


# ---- Warm starts ------------------------------------------------------------


def random_layers(sizes, height=40, width=56, channels=3):
  rng = np.random.default_rng(0)
  count = sum(sizes)
  splats = types.Splats(
      rng.uniform(0, [width, height], (count, 2)).astype(np.float32),
      (rng.uniform(1, 3, (count, 3)) * [1, 0.3, 1]).astype(np.float32),
      rng.normal(0, 0.1, (count, channels)).astype(np.float32),
  )
  return types.LayeredSplats(
      splats=splats, layer_sizes=sizes, height=height, width=width
  )


def test_a_resized_start_is_the_resized_picture():
  layered = random_layers((20,))
  large = warm_start.resize(layered, 80, 168)
  y, x = np.mgrid[:40, :56] + 0.5

  def evaluate(layered, x, y):
    means, (l11, l21, l22), colors = (
        layered.splats.means,
        layered.splats.cholesky.T,
        layered.splats.colors,
    )
    u = (x[..., None] - means[:, 0]) / l11
    v = (y[..., None] - means[:, 1] - l21 * u) / l22
    return np.exp(-(u**2 + v**2) / 2) @ colors

  np.testing.assert_allclose(
      evaluate(large, 3 * x, 2 * y), evaluate(layered, x, y), atol=1e-4
  )


def test_layers_are_filled_from_the_base():
  layered = random_layers((5, 3, 2))
  sizes = lambda slots, **kw: [
      len(x.means) for x in warm_start.fill_layers(layered, slots, **kw)
  ]
  assert sizes((5, 3, 2)) == [5, 3, 2]
  assert sizes((8, 3, 2)) == [5, 3, 2]
  assert sizes((4, 4, 4)) == [4, 4, 2]
  assert sizes((10,)) == [10]
  assert sizes((5, 9)) == [5, 5]
  assert sizes((2, 2)) == [2, 2]
  assert sizes((5, 3, 2, 7)) == [5, 3, 2, 0]
  assert sizes((6, 3, 2), without_gaps=True) == [5, 0, 0]
  # The strongest stay.
  strength = types.contributions(layered.splats)
  base, rest = warm_start.fill_layers(layered, (2, 8))
  best = np.sort(np.argsort(-strength[:5])[:2])
  np.testing.assert_array_equal(base.means, layered.splats.means[best])
  assert len(rest.means) == 8


def test_what_is_missing_is_born_later():
  plan = schedule.make_schedule(CONFIG, 40, 56, filled=(30, 10, 0))
  slots = [range(birth.first, birth.last) for birth in plan.births]
  assert sorted(x for part in slots for x in part) == [*range(40, 60)]
  assert plan.alive(10) == (40 + len(slots[0]), 2)
  assert plan.alive(60) == (60, 3)
  assert plan.inputs.level_weights[0].tolist() == [0.5, 1, 0]
  full = schedule.make_schedule(CONFIG, 40, 56, filled=(30, 15, 15))
  assert full.births == () and full.alive(10) == (60, 3)
  assert np.all(full.inputs.level_weights[:, 2] == 1)


@pytest.mark.parametrize(
    'sizes',
    [(30, 15, 15), pytest.param((20, 40), marks=pytest.mark.slow)],
)
def test_a_warm_start_is_ahead_of_a_cold_one(sizes):
  image = scene()
  config = dataclasses.replace(CONFIG, layer_splats=sizes)
  first = fit.fit_picture(image, CONFIG)
  curves = []
  for initial in (None, first):
    curve = []
    fit.fit_picture(
        image,
        dataclasses.replace(config, num_steps=20),
        initial=initial,
        report=curve.append,
    )
    curves.append([state.loss for state in curve])
  cold, warm = curves
  assert warm[0] < 0.7 * cold[0] and warm[-1] < 0.9 * cold[-1]
  with pytest.raises(ValueError, match='3 channels to begin with, and 1'):
    fit.fit_picture(image[..., :1], config, initial=first)


def test_a_warm_start_goes_on_too():
  initial = random_layers((30, 20))
  images = [scene()]
  expected = fit_until(images, None, initial=[initial])
  checkpointer = InMemory()
  for last_step in (10, 40, 80):
    with pytest.raises(Stop):
      fit_until(images, checkpointer, last_step, initial=[initial])
  assert_same(fit_until(images, checkpointer, initial=[initial]), expected)


# ---- The command ------------------------------------------------------------


def command(verb, *flags):
  return [sys.executable, '-m', f'launch.{verb}', *map(str, flags)]


def run(verb, *flags, status=0):
  result = subprocess.run(
      command(verb, *flags), cwd=ROOT, capture_output=True, text=True
  )
  assert result.returncode == status, result.stderr
  assert 'Traceback' not in result.stderr
  return result


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('runs')
  image = np.round(255 * scene(64, 96)).astype(np.uint8)
  Image.fromarray(image).save(path / 'picture.png')
  return path


def flags_of(folder, name, *more):
  return (
      f'--input={folder / "picture.png"}',
      f'--output={folder / name}.pgsvc',
      f'--workdir={folder / name}',
      '--config=configs/image.py:smoke',
      '--config.fit.layer_splats=(40,20,20)',
      *more,
  )


def rows(folder):
  text = (folder / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
def test_a_stopped_command_goes_on(folder):
  flags = flags_of(folder, 'run', '--checkpoint_every=0')
  run('encode', *flags)
  data = (folder / 'run.pgsvc').read_bytes()
  assert [row['step'] for row in rows(folder / 'run')] == [10, 20, 30]
  # As after a kill behind step 20 and in the middle of a line.
  shutil.rmtree(folder / 'run' / 'checkpoints' / '30')
  with open(folder / 'run' / 'metrics.jsonl', 'a') as file:
    file.write('{"step": 40, "num')
  (folder / 'run.pgsvc').unlink()
  result = run('encode', *flags)
  assert 'goes on after step 20' in result.stderr
  assert (folder / 'run.pgsvc').read_bytes() == data
  assert [row['step'] for row in rows(folder / 'run')] == [10, 20, 30]
  seconds = [row['seconds'] for row in rows(folder / 'run')]
  assert seconds == sorted(seconds)
  record = json.loads((folder / 'run' / 'run.json').read_text())
  assert [x['step'] for x in record['resumed']] == [20]


@pytest.mark.slow  # Seven commands.
def test_a_run_can_be_repeated_evaluated_and_begun_with(folder):
  flags = flags_of(folder, 'long', '--checkpoint_every=0', '--tensorboard')
  run('encode', *flags)
  data = (folder / 'long.pgsvc').read_bytes()
  record = json.loads((folder / 'long' / 'run.json').read_text())
  assert record['finished']['bytes'] == len(data)
  assert record['overrides'] == {'fit.layer_splats': [40, 20, 20]}
  assert record['seed'] == 0 and record['versions']['jax'] == jax.__version__
  config = json.loads((folder / 'long' / 'config.json').read_text())
  assert config == record['config'] and config['fit']['num_steps'] == 30
  assert [row['step'] for row in rows(folder / 'long')] == [10, 20, 30]
  assert list((folder / 'long').glob('events.*'))

  # Finished: written again from the last checkpoint.
  (folder / 'long.pgsvc').unlink()
  assert ': step ' not in run('encode', *flags).stderr
  assert (folder / 'long.pgsvc').read_bytes() == data

  result = run('encode', *flags, '--config.fit.seed=4', status=1)
  assert result.stderr.splitlines()[-1] == (
      f'encode: {folder / "long"} has another run: config.fit.seed is 0 there,'
      ' 4 here; --restart starts anew'
  )
  picture = f'--reference={folder / "picture.png"}'
  document = json.loads(
      run('evaluate', f'--workdir={folder / "long"}', picture, '--json').stdout
  )
  assert document['step'] == 30 and document['file_bytes'] == len(data)
  measured = json.loads(
      run('evaluate', f'--input={folder}/long.pgsvc', picture, '--json').stdout
  )
  for row, other in zip(document['layers'], measured['layers']):
    assert row['bytes'] == other['bytes']
    assert row['psnr_db'] > other['psnr_db'] - 0.01  # Before it is rounded.

  warm = flags_of(folder, 'warm', f'--init_from={folder / "long"}')
  run('encode', *warm)
  assert rows(folder / 'warm')[0]['loss'] < rows(folder / 'long')[0]['loss']
  other = flags_of(folder, 'warm', f'--init_from={folder / "long.pgsvc"}')
  result = run('encode', *other, status=1)
  assert 'the splats to begin with' in result.stderr
  run('encode', *other, '--restart')


@pytest.mark.slow
def test_a_diverged_run_ends_with_one_line(folder):
  flags = flags_of(folder, 'bad', '--config.fit.colors_rate=1e3')
  result = run('encode', *flags, status=1)
  assert result.stderr.splitlines()[-1].startswith(
      'encode: the fit diverged in layer 0: the loss is '
  )
  assert not (folder / 'bad.pgsvc').exists()


def test_two_runs_do_not_share_a_folder(tmp_path):
  with run_log._locked(tmp_path):
    with pytest.raises(OSError, match='another process works there'):
      run_log.clear(tmp_path)


@pytest.mark.slow  # Some 25 commands.
def test_runs_killed_at_any_moment_end_with_the_same_bytes(folder):
  """One run killed over and over, and each kill somewhere else."""
  rng = random.Random(0)

  def flags(name):
    return (
        f'--input={folder / "picture.png"}',
        f'--output={folder / name}.pgsvc',
        f'--workdir={folder / name}',
        '--config.fit.num_steps=300',
        '--config.fit.rounding_steps=120',
        '--checkpoint_every=0.2',
    )

  begin = time.monotonic()
  run('encode', *flags('through'))
  duration = time.monotonic() - begin
  expected = (folder / 'through.pgsvc').read_bytes()
  plain = [x for x in flags('plain') if 'workdir' not in x and 'every' not in x]
  run('encode', *plain)
  assert (folder / 'plain.pgsvc').read_bytes() == expected
  log = [row | {'seconds': 0} for row in rows(folder / 'through')]
  went_on = 0
  for i in range(20):
    name = f'killed-{i}'
    process = subprocess.Popen(
        command('encode', *flags(name)),
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    # Anywhere: while it loads, fits, saves, writes, or behind its end.
    time.sleep(rng.uniform(0.2, 1.1) * duration)
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = run('encode', *flags(name))
    went_on += 'goes on after' in result.stderr
    assert (folder / f'{name}.pgsvc').read_bytes() == expected, i
    assert [row | {'seconds': 0} for row in rows(folder / name)] == log, i
    shutil.rmtree(folder / name)
  assert went_on >= 5  # Or else the test shows little.


@pytest.mark.slow
def test_pictures_side_by_side_go_on_after_a_kill(tmp_path):
  """Two at a time and one that is left over; the last are finished already."""
  pictures = tmp_path / 'pictures'
  pictures.mkdir()
  for seed in range(3):
    image = np.round(255 * scene(64, 96, seed)).astype(np.uint8)
    Image.fromarray(image).save(pictures / f'{seed}.png')

  def flags(name):
    return (
        f'--input={pictures}',
        f'--output={tmp_path / name}',
        f'--workdir={tmp_path / name}-runs',
        '--num_devices=2',
        '--config.fit.num_steps=300',
        '--config.fit.rounding_steps=120',
        '--checkpoint_every=0',
    )

  def files(name):
    return {x.name: x.read_bytes() for x in (tmp_path / name).iterdir()}

  run('encode', *flags('through'))
  assert len(files('through')) == 3
  for last_step in (150, 330):
    process = subprocess.Popen(
        command('encode', *flags('killed')),
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    log = tmp_path / 'killed-runs' / '1' / 'metrics.jsonl'
    while f'"step": {last_step},' not in (
        log.read_text() if log.exists() else ''
    ):
      assert process.poll() is None
      time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / 'killed').exists()
  result = run('encode', *flags('killed'))
  assert 'goes on after' in result.stderr
  assert files('killed') == files('through')
