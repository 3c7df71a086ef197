"""Devices and processes: whatever shares the work, the fit is the same."""

import dataclasses
import functools
import logging
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
from PIL import Image
import pytest

from pgsvc_jax import config as config_lib
from pgsvc_jax import metrics
from pgsvc_jax import render
from pgsvc_jax import types
from pgsvc_jax.training import bands
from pgsvc_jax.training import fit
from pgsvc_jax.training import loop
from pgsvc_jax.training import schedule as schedule_lib
from pgsvc_jax.training import train

ROOT = pathlib.Path(__file__).parents[1]

SHORT = config_lib.FitConfig(layer_splats=(60, 30), num_steps=20, num_births=4)


def scene(height=40, width=56, seed=0):
  """Waves above, noise below: most of the work is at the bottom."""
  y, x = np.mgrid[:height, :width] / 10
  waves = 0.5 + 0.2 * np.sin(x + seed)[..., None] * np.cos(y)[..., None]
  noise = np.random.default_rng(seed).uniform(size=(height, width, 3))
  return np.where(y[..., None] > height / 15, noise, waves).astype(np.float32)


def psnrs(layered, image):
  images = render.render_prefixes(layered)
  return [metrics.psnr_db(x / np.float32(255), image) for x in images]


def random_splats(count, height, width, seed=0):
  rng = np.random.default_rng(seed)
  return types.Splats(
      rng.uniform(-20, [width + 20, height + 20], (count, 2)),
      rng.normal(0, 1, (count, 3)) * [0, 3, 0]
      + rng.uniform(0.3, 9, (count, 3)),
      np.zeros((count, 3)),
  )


# ---- Cutting the rows -------------------------------------------------------


@pytest.mark.parametrize('shape', [(128, 192), (50, 70), (8, 300), (1, 1)])
def test_estimated_work_is_the_pairs_of_the_operator(shape):
  """Against the definition, splat by splat and tile by tile."""
  height, width = shape
  splats = random_splats(60, height, width)
  y, x = np.mgrid[:height, :width] + 0.5
  rows, columns = -(-height // 8), -(-width // 8)
  pairs = np.zeros(rows)
  for (mx, my), (l11, l21, l22) in zip(splats.means, splats.cholesky):
    z1 = (x - mx) / l11
    z2 = (y - my - l21 * z1) / l22
    touched = np.zeros((rows * 8, columns * 8), bool)
    touched[:height, :width] = np.hypot(z1, z2) <= 3.5
    tiles = touched.reshape(rows, 8, columns, 8).any((1, 3))
    pairs += tiles.sum(1)
  nothing = types.Splats(*(a[:0] for a in splats))
  constant = bands.row_work(nothing, height, width)
  assert (constant > 0).all()
  work = bands.row_work(splats, height, width) - constant
  np.testing.assert_allclose(work, pairs, rtol=0.15, atol=12)
  np.testing.assert_allclose(work.sum(), pairs.sum(), rtol=0.1, atol=12)


@pytest.mark.parametrize('num_bands', [1, 2, 3, 5, 7, 8, 64])
def test_shares_are_as_equal_as_rows_allow(num_bands):
  rng = np.random.default_rng(num_bands)
  for num_rows in (1, 5, 40, 100):
    work = rng.uniform(1, 3, num_rows)
    edges = bands.cut_rows(work, num_bands)
    rows = np.divide(edges, 8).astype(int)
    assert rows[0] == 0 and rows[-1] == num_rows and len(rows) == num_bands + 1
    heights = np.diff(edges)
    assert (heights >= 0).all()
    assert heights.max() <= bands.capacity(num_rows * 8, num_bands)
    shares = [work[a:b].sum() for a, b in zip(rows, rows[1:])]
    assert max(shares) <= work.sum() / num_bands + work.max()


def test_a_band_is_never_higher_than_its_arrays():
  """All work in one row: the rest must still go somewhere."""
  work = np.full(40, 1e-9)
  work[0] = 1e9
  heights = np.diff(bands.cut_rows(work, 4))
  assert heights.sum() == 320 and heights.max() <= bands.capacity(320, 4) == 120


def test_bands_put_together_are_the_picture():
  image = scene(45)
  for edges in ([0, 8, 24, 48], [0, 24, 48, 48], bands.cut_evenly(45, 3)):
    cut = train.make_bands(image, edges)
    assert len({band.target.shape for band in cut}) == 1
    joined = bands.join_rows(np.stack([x.target for x in cut]), edges, 45)
    np.testing.assert_array_equal(joined, image)
    assert sum(x.pixel_weights.sum() for x in cut) == image[..., 0].size


def test_detail_makes_a_band_lower():
  seen = []
  config = dataclasses.replace(SHORT, num_steps=10, num_births=2)
  image = scene(160)

  def spy(image, edges, *rest):
    seen.append(edges)
    return original(image, edges, *rest)

  original = train.make_bands
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train, 'make_bands', spy)
    fit.fit_picture(image, config, devices=jax.local_devices()[:2])
  assert seen[-1][1] > 80, seen


# ---- Bands over devices -----------------------------------------------------


@functools.cache
def one_device_curve():
  curve = []
  layered = fit.fit_picture(
      scene(),
      SHORT,
      devices=jax.local_devices()[:1],
      report=lambda x: curve.append(x.loss),
  )
  return layered, curve


@pytest.mark.parametrize('num_devices', [2, 3, 4, 5, 7, 8])
def test_bands_over_devices_change_nothing(num_devices):
  """Five rows of tiles: not divisible by 2, 3, 4, fewer than 7 and 8."""
  devices = jax.local_devices()[:num_devices]
  assert len(devices) == num_devices
  one, expected = one_device_curve()
  curve = []
  many = fit.fit_picture(
      scene(), SHORT, devices=devices, report=lambda x: curve.append(x.loss)
  )
  # Sums in another order: float32 rounding, grown over 20 steps of Adam.
  for a, b in zip(one.splats, many.splats):
    np.testing.assert_allclose(a, b, atol=2e-2)
  np.testing.assert_allclose(curve, expected, rtol=1e-4)
  np.testing.assert_allclose(
      psnrs(one, scene()), psnrs(many, scene()), atol=0.02
  )


def test_moving_the_edges_changes_nothing_but_rounding():
  """One step from one state, with bands cut in different ways."""
  image = scene(72)
  config = dataclasses.replace(SHORT, layer_splats=(90,), chunk_steps=1)
  schedule = schedule_lib.make_schedule(config, 72, 56)
  devices = jax.local_devices()[:3]
  chunk = train.make_train_chunk(config, schedule, devices)
  show = train.make_render(devices)
  rng = np.random.default_rng(0)
  splats = random_splats(90, 72, 56)._replace(colors=rng.normal(size=(90, 3)))
  state = train.add_splats(train.create_train_state(90, 3), 0, splats)
  results, pictures = [], []
  for edges in ([0, 24, 48, 72], [0, 32, 40, 72], [0, 0, 40, 72]):
    placed = train.place([state] * 3, devices)
    inputs = train.place([schedule.inputs] * 3, devices)
    cut = train.place(train.make_bands(image, edges), devices)
    results.append(train.fetch(chunk(placed, inputs, cut))[0])
    ends = train.place([np.int32(90)] * 3, devices)
    (shown,) = train.fetch(show(placed, cut, ends))
    pictures.append(bands.join_rows(shown, edges, 72))
  for (after, errors), shown in zip(results[1:], pictures[1:]):
    np.testing.assert_allclose(errors, results[0][1], rtol=1e-5)
    np.testing.assert_allclose(shown, pictures[0], atol=1e-5)
    # What is summed over the bands.
    for a, b in zip(after.opt_state.mean, results[0][0].opt_state.mean):
      np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())


def compilations(caplog, run):
  caplog.clear()
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    run()
  messages = [record.getMessage() for record in caplog.records]
  return [x for x in messages if x.startswith('Compiling')]


def test_a_whole_incremental_fit_compiles_two_programs(caplog):
  """The chunk, and the picture for births.

  Births, layers, the cycle and the edges of the bands are data, and placement
  is the pmap's own.
  """
  config = dataclasses.replace(SHORT, num_steps=40)
  devices = jax.local_devices()[:3]
  run = lambda: fit.fit_picture(scene(41), config, devices=devices)
  compiled = compilations(caplog, run)
  assert sum("Mesh('bands'" in x for x in compiled) == 2, compiled
  # Eager operations compile too; births must not bring any.
  assert len(compiled) < 12, compiled

  images = [scene(41), scene(41, seed=1)]
  run = lambda: fit.fit_pictures(images, config, devices=devices)
  compiled = compilations(caplog, run)
  assert sum("Mesh('bands'" in x for x in compiled) == 2, compiled
  assert len(compiled) < 12, compiled


@pytest.mark.parametrize('num_devices', [1, 2])
def test_a_fit_transfers_nothing_unasked(num_devices):
  devices = jax.local_devices()[:num_devices]
  with jax.transfer_guard('disallow'):
    fit.fit_picture(scene(), SHORT, devices=devices)


# ---- Pictures over devices --------------------------------------------------


def test_pictures_side_by_side_are_as_on_one_device_each():
  images = [scene(seed=seed) for seed in range(3)]
  curves = []
  layered = fit.fit_pictures(
      images,
      SHORT,
      devices=jax.local_devices()[:3],
      report=lambda states: curves.append([x.loss for x in states]),
  )
  for i, image in enumerate(images):
    curve = []
    alone = fit.fit_picture(
        image,
        SHORT,
        devices=jax.local_devices()[:1],
        report=lambda state, curve=curve: curve.append(state.loss),
    )
    assert layered[i].layer_sizes == alone.layer_sizes
    # XLA compiles for three devices and for one a little differently.
    for a, b in zip(layered[i].splats, alone.splats):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-3)
    np.testing.assert_allclose(
        curve, [losses[i] for losses in curves], rtol=1e-5
    )


def test_pictures_share_the_devices_evenly():
  """Two pictures on five devices: two bands each, one device idle."""
  images = [scene(seed=seed) for seed in range(2)]
  layered = fit.fit_pictures(images, SHORT, devices=jax.local_devices()[:5])
  for i, image in enumerate(images):
    alone = fit.fit_picture(image, SHORT, devices=jax.local_devices()[:2])
    for a, b in zip(layered[i].splats, alone.splats):
      np.testing.assert_allclose(a, b, atol=2e-2)


def test_pruned_pictures_are_cut_into_layers():
  config = dataclasses.replace(SHORT, strategy='prune')
  images = [scene(), scene(seed=1)]
  for layered in fit.fit_pictures(images, config):
    assert layered.layer_sizes == (60, 30)


def test_pictures_that_cannot_be_fitted_together_are_refused():
  with pytest.raises(ValueError, match='several sizes'):
    fit.fit_pictures([scene(), scene(41)], SHORT)
  with pytest.raises(ValueError, match='1 devices for 2 pictures'):
    fit.fit_pictures([scene()] * 2, SHORT, devices=jax.local_devices()[:1])


def test_one_diverging_picture_is_named():
  bad = scene()
  bad[3, 3] = np.nan
  with pytest.raises(
      loop.DivergenceError, match='layer 0: .* not finite after step 1 of'
  ):
    fit.fit_pictures([scene(), bad], SHORT)


# ---- Processes --------------------------------------------------------------


@pytest.fixture
def picture(tmp_path):
  path = tmp_path / 'picture.png'
  Image.fromarray(np.round(scene(50, 70) * 255).astype(np.uint8)).save(path)
  return path


def start(picture, output, *flags):
  return subprocess.Popen(
      [
          sys.executable,
          '-m',
          'launch.encode',
          f'--input={picture}',
          f'--output={output}',
          '--config=configs/image.py:smoke',
          '--config.fit.layer_splats=(40,20)',
          *flags,
      ],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
  )


def start_two(pictures, outputs, *flags, num_devices=1):
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    port = probe.getsockname()[1]
  return [
      start(
          pictures[i],
          outputs[i],
          f'--coordinator=localhost:{port}',
          '--num_processes=2',
          f'--process_id={i}',
          f'--num_devices={num_devices}',
          *flags,
      )
      for i in range(2)
  ]


def finish(processes):
  """Statuses and what was said; nothing may hang."""
  try:
    said = [process.communicate(timeout=120)[1] for process in processes]
  finally:
    for process in processes:
      process.kill()
  return [process.returncode for process in processes], said


def test_two_processes_make_the_file_of_one_with_as_many_devices(
    picture, tmp_path
):
  outputs = [tmp_path / 'two.pgsvc', tmp_path / 'other.pgsvc']
  processes = start_two([picture] * 2, outputs, num_devices=2)
  statuses, said = finish(processes)
  assert statuses == [0, 0], said
  assert 'decoded' in said[0] and 'step' in said[0]
  assert 'decoded' not in said[1] and 'step' not in said[1]
  one = tmp_path / 'one.pgsvc'
  statuses, said = finish([start(picture, one, '--num_devices=4')])
  assert statuses == [0], said
  assert outputs[0].read_bytes() == one.read_bytes()
  assert not outputs[1].exists()


@pytest.mark.slow
def test_two_processes_go_on_from_the_checkpoint_of_the_first(
    picture, tmp_path
):
  output, folder = tmp_path / 'x.pgsvc', tmp_path / 'run'

  def fit_by_two():
    output.unlink(missing_ok=True)
    flags = (f'--workdir={folder}', '--checkpoint_every=0')
    statuses, said = finish(start_two([picture] * 2, [output] * 2, *flags))
    assert statuses == [0, 0], said
    return output.read_bytes(), said

  data, _ = fit_by_two()
  shutil.rmtree(folder / 'checkpoints' / '30')
  again, said = fit_by_two()
  assert again == data
  assert 'goes on after step 20' in said[0] and said[1] == ''
  # A run of another picture is refused, and nobody waits forever.
  with Image.open(picture) as image:
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(picture)
  statuses, said = finish(
      start_two([picture] * 2, [output] * 2, f'--workdir={folder}')
  )
  assert 0 not in statuses and 'has another run: the source' in said[0]


@pytest.mark.slow
def test_a_process_that_dies_ends_the_other(picture, tmp_path):
  outputs = [tmp_path / '0.pgsvc', tmp_path / '1.pgsvc']
  leader, other = start_two(
      [picture] * 2, outputs, '--config.fit.num_steps=10000'
  )
  for line in leader.stderr:
    if 'step' in line:  # The fit is under way.
      break
  os.kill(other.pid, signal.SIGKILL)
  (status, _), (said, _) = finish([leader, other])
  assert status not in (0, None) and 'encode: ' in said
  assert {path.name for path in tmp_path.iterdir()} == {'picture.png'}


def test_processes_that_do_not_agree_are_refused(picture, tmp_path):
  """Unchecked, they would wait for each other forever."""
  mirrored = tmp_path / 'mirrored.png'
  with Image.open(picture) as image:
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored)
  statuses, said = finish(
      start_two([picture, mirrored], [tmp_path / 'x.pgsvc'] * 2)
  )
  assert 0 not in statuses
  assert any('do not have the same picture' in text for text in said)
  assert not (tmp_path / 'x.pgsvc').exists()
