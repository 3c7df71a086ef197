"""Videos: encoded by processes, group by group, and decoded again."""

import dataclasses
from fractions import Fraction
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from launch import locks
from launch.videos import encoding as encode_video
from launch.videos import source as video_source
from pgsvc_jax import config as config_lib
from pgsvc_jax import render
from pgsvc_jax import types
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.video import flow
from pgsvc_jax.video import frame_coding
from pgsvc_jax.video import groups
from pgsvc_jax.video import media as video_media
from pgsvc_jax.video import playback

from . import clips

SMALL = (
    '--config=configs/video.py:smoke',
    '--config.image.fit.layer_splats=(60,30)',
    '--config.image.fit.num_births=4',
    '--num_devices=2',
)
TIMES = [5, 10, 20, 22, 31, 40, 41, 50]


def launch(verb, *options):
  words = [sys.executable, '-m', f'launch.{verb}', *map(str, options)]
  return subprocess.run(words, capture_output=True, text=True)


@pytest.fixture(name='clip', scope='module')
def _clip(tmp_path_factory):
  """Eight frames with a cut before the fifth, at irregular times."""
  path = tmp_path_factory.mktemp('clip') / 'clip.mkv'
  clips.write(path, clips.with_cut(), time_base=Fraction(1, 1000), times=TIMES)
  return path


@pytest.fixture(name='encoded', scope='module')
def _encoded(clip):
  output = clip.with_suffix('.pgsvc')
  run = launch(
      'encode',
      f'--input={clip}',
      f'--output={output}',
      f'--workdir={clip.parent / "work"}',
      *SMALL,
  )
  assert run.returncode == 0, run.stderr
  assert not clip.with_suffix('.pgsvc.part').exists()
  return output


@pytest.fixture(name='long_video', scope='module')
def _long_video(tmp_path_factory):
  """A thousand frames of a few splats, and a clip of the same times."""
  path = tmp_path_factory.mktemp('long') / 'long.pgsvc'
  header = syntax.VideoHeader(
      width=64, height=48, channels=3, num_layers=1, time_base=Fraction(1, 25)
  )
  splats = types.Splats(
      means=np.full((1, 2), 24.0),
      cholesky=np.array([[9.0, 0, 9]]),
      colors=np.ones((1, 3)),
  )
  layered = types.LayeredSplats(
      splats=splats, layer_sizes=(1,), height=48, width=64
  )
  packets = frame_coding.encode_gop([layered] * 50, quantize.StepSizes())
  with open(path, 'wb') as file:
    with stream.StreamWriter(file, header) as writer:
      for first in range(0, 1000, 50):
        writer.add_gop(range(first, first + 50), packets, last_duration=1)
  frame = np.zeros((48, 64, 3), np.uint8)
  clips.write(path.with_suffix('.mkv'), [frame] * 1000)
  return path


def psnr_db(a, b):
  return -10 * np.log10(np.mean((a / 255.0 - b / 255.0) ** 2))


def test_groups_begin_at_cuts_and_after_so_many_frames(clip):
  with video_media.open_video(clip) as video:
    found = list(groups.find_groups(video, config_lib.VideoConfig(gop=3)))
  assert [x.first_frame for x in found] == [0, 3, 4, 7]
  assert [x.index for x in found] == [0, 1, 2, 3]
  assert sum((x.times for x in found), ()) == tuple(TIMES)
  with video_media.open_video(clip) as video:
    whole = groups.find_groups(video, config_lib.VideoConfig(cut_ratio=0))
    assert [x.first_frame for x in whole] == [0]


def test_what_leaves_a_flat_ground_is_no_cut():
  rng = np.random.default_rng(0)
  ground = np.full((96, 160, 3), 0.3) + rng.normal(0, 0.004, (96, 160, 1))
  before = ground.copy()
  before[80:, :120] = 1
  assert flow.cut_ratio(before, ground, 300) < 1
  scenes = clips.moving(2), 255 - clips.moving(2, seed=1)
  assert flow.cut_ratio(scenes[0][0] / 255, scenes[1][0] / 255, 300) > 5


def test_a_video_comes_back_with_its_frames_and_times(encoded):
  with open(encoded, 'rb') as file:
    reader = stream.StreamReader(file)
    assert [x.first_frame for x in reader.gops] == [0, 3, 4, 7]
    frames = list(playback.frames(reader))
    assert [x.time for x in frames] == TIMES
    assert reader.header.time_base == Fraction(1, 1000)
    low = list(playback.frames(reader, num_layers=1))
  source = clips.with_cut()
  for frame, base, original in zip(frames, low, source, strict=True):
    whole = psnr_db(render.render_picture(frame.layered), original)
    part = psnr_db(render.render_picture(base.layered), original)
    assert whole > 20
    assert whole >= part - 0.5


def test_the_record_of_a_run_is_of_its_frames(encoded):
  folder = encoded.parent / 'work'
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [row['frame'] for row in rows] == list(range(8))
  assert ''.join(row['kind'] for row in rows) == 'IPPIIPPI'
  with open(encoded, 'rb') as file:
    reader = stream.StreamReader(file)
    packets = sum(sum(gop.packet_sizes) for gop in reader.gops)
  heads = packets - sum(sum(row['bytes']) for row in rows)
  # Of four GOPs of two layers: 9 bytes, and one or two a frame.
  assert 0 < heads <= 4 * 2 * (9 + 3 * 2)
  run = json.loads((folder / 'run.json').read_text())
  assert run['seed'] == 0 and run['overrides']
  assert {'av', 'jax', 'opencv'} <= set(run['versions'])
  data = encoded.read_bytes()
  assert run['finished']['sha256'] == hashlib.sha256(data).hexdigest()
  means = np.mean([row['psnr_db'] for row in rows], axis=0)
  np.testing.assert_allclose(run['finished']['psnr_db'], means)
  config = json.loads((folder / 'config.json').read_text())
  assert config['image']['fit']['layer_splats'] == [60, 30]


def test_a_folder_of_another_run_is_refused(clip, encoded):
  words = [f'--input={clip}', f'--workdir={encoded.parent / "work"}', *SMALL]
  output = encoded.parent / 'again.pgsvc'
  run = launch('encode', *words, f'--output={output}', '--config.gop=2')
  assert run.returncode == 1
  assert 'has another run: config.gop is 3 there, 2 here' in run.stderr
  assert not list(encoded.parent.glob('again*'))


def test_devices_and_processes_do_not_change_the_file(clip, encoded):
  """Process 1 leaves its groups, process 0 puts all together."""
  output = clip.parent / 'shared.pgsvc'
  words = [f'--input={clip}', f'--output={output}', *SMALL[:-1]]
  words += ['--num_devices=1', '--num_processes=2']
  run = launch('encode', *words, '--process_id=1')
  assert run.returncode == 0, run.stderr
  parts = clip.parent / 'shared.pgsvc.parts'
  assert {x.name for x in parts.iterdir()} == {'1.pgsvc', '3.pgsvc'}
  # What is not there, process 0 does itself.
  (parts / '3.pgsvc').write_bytes(b'broken')
  run = launch('encode', *words, '--process_id=0')
  assert run.returncode == 0, run.stderr
  assert output.read_bytes() == encoded.read_bytes()
  assert not parts.exists()


@pytest.mark.slow
@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM', 'SIGKILL'])
def test_a_stopped_run_goes_on_after_its_last_whole_group(
    clip, encoded, tmp_path, name
):
  output, part = tmp_path / 'clip.pgsvc', tmp_path / 'clip.pgsvc.part'
  words = [f'--input={clip}', f'--output={output}', *SMALL]
  work = tmp_path.parent / f'work-{name}'
  words.insert(0, f'--workdir={work}')
  with subprocess.Popen(
      [sys.executable, '-m', 'launch.encode', *words],
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
  ) as process:
    header = 200
    while not (part.exists() and part.stat().st_size > header):
      assert process.poll() is None, 'faster than the signal'
      time.sleep(0.005)
    process.send_signal(getattr(signal, name))
    _, complaint = process.communicate()
  with pytest.raises(ProcessLookupError):  # No child is left.
    os.killpg(process.pid, 0)
  assert [path.name for path in tmp_path.iterdir()] == [part.name]
  if name != 'SIGKILL':
    assert process.returncode == 130
    *_, line = complaint.splitlines()  # After those of the progress.
    assert line == (
        'encode: interrupted; the same command goes on after the last whole'
        ' group'
    )
    assert 'Traceback' not in complaint
  with open(part, 'rb') as file:
    reader = stream.StreamReader(io.BytesIO(file.read()))
    assert list(playback.frames(reader))[0].time == TIMES[0]
  # Another run would write something else into this file.
  run = launch('encode', *words[:-1], '--num_devices=1')
  assert 'goes on after' in run.stderr
  assert run.returncode == 0, run.stderr
  assert output.read_bytes() == encoded.read_bytes()
  lines = (work / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['frame'] for line in lines] == list(range(8))
  (resumed,) = json.loads((work / 'run.json').read_text())['resumed']
  assert resumed['frame'] in (2, 3, 6)  # The last of a group.


@pytest.mark.parametrize(
    'verb, name',
    [
        ('decode', 'SIGTERM'),
        pytest.param('decode', 'SIGINT', marks=pytest.mark.slow),
        pytest.param('evaluate', 'SIGINT', marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_reader_leaves_what_was_there(
    long_video, tmp_path, verb, name
):
  output = tmp_path / 'out.mp4'
  output.write_bytes(b'of an earlier run')
  words = {
      'decode': [f'--input={long_video}', f'--output={output}'],
      'evaluate': [
          f'--input={long_video}',
          f'--reference={long_video.with_suffix(".mkv")}',
          f'--side_by_side={output}',
      ],
  }
  with subprocess.Popen(
      [sys.executable, '-m', f'launch.{verb}', *words[verb]],
      stderr=subprocess.PIPE,
      text=True,
  ) as process:
    while len(list(tmp_path.iterdir())) < 2:  # A temporary file.
      assert process.poll() is None, process.stderr.read()
      time.sleep(0.005)
    process.send_signal(getattr(signal, name))
    _, complaint = process.communicate()
  assert process.returncode == 130
  assert complaint == f'{verb}: interrupted; the output was not written\n'
  assert [path.name for path in tmp_path.iterdir()] == [output.name]
  assert output.read_bytes() == b'of an earlier run'


def test_an_empty_part_is_no_run(tmp_path):
  part = tmp_path / 'x.part'
  part.touch()
  header = syntax.VideoHeader(
      width=4, height=2, channels=3, num_layers=1, time_base=Fraction(1)
  )
  with encode_video._growing(part, header, restart=False) as (_, done):
    assert done == 0


def test_a_part_of_another_video_is_replaced(tmp_path, capsys):
  part = tmp_path / 'x.part'
  header = syntax.VideoHeader(
      width=4, height=2, channels=3, num_layers=1, time_base=Fraction(1)
  )
  with open(part, 'wb') as file:
    writer = stream.StreamWriter(file, header)
    writer.add_gop([0, 1], [b'packet'], last_duration=1)
    file.write(b'the rest of a crash')
  before = part.read_bytes()
  with encode_video._growing(part, header, restart=False) as (file, done):
    assert done == 2 and file.read() == before
  assert not capsys.readouterr().err
  other = dataclasses.replace(header, metadata=b'another')
  with encode_video._growing(part, other, restart=False) as (file, done):
    assert done == 0 and not file.read()
  assert 'of another video or of other settings: it is repl' in (
      capsys.readouterr().err
  )
  part.write_bytes(b'what is this')
  with encode_video._growing(part, header, restart=False) as (_, done):
    assert done == 0


def test_two_runs_do_not_write_one_file(tmp_path):
  output = str(tmp_path / 'x.pgsvc')
  with locks.output(output):
    with pytest.raises(OSError, match='another process writes it'):
      with locks.output(output):
        pass
    with locks.output(str(tmp_path / 'y.pgsvc')):
      pass
  with locks.output(output):
    pass
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'option, message',
    [
        ('--size=12', 'WIDTHxHEIGHT'),
        ('--frame_rate=0', 'frame rate'),
        ('--raw=4x4:rgb24', 'PIXEL_FORMAT'),
        ('--config.gop=0', 'gop'),
        ('--target_bpp=0.5', 'pictures; --target_kbps is for videos'),
        ('--target_psnr=30', 'for pictures'),
        ('--layer_bpp=0.1,0.2,0.3', 'for pictures'),
        ('--max_seconds=9', 'for pictures'),
        ('--target_kbps=-1', 'target_kbps must be'),
    ],
)
def test_options_that_make_no_sense_are_one_line(clip, option, message):
  run = launch('encode', f'--input={clip}', '--output=/tmp/x.pgsvc', option)
  assert run.returncode == 1
  assert message in run.stderr
  assert len(run.stderr.splitlines()) == 1


def test_flags_of_videos_are_refused_for_pictures(tmp_path):
  run = launch(
      'encode', f'--input={tmp_path}/a.png', '--output=/tmp/x', '--frames=2'
  )
  assert run.returncode == 1 and '--frames is for videos' in run.stderr
  run = launch('encode', '--input=a.png', '--output=x', '--target_kbps=9')
  assert run.returncode == 1 and '--target_kbps is for videos' in run.stderr


def test_rates_and_formats_are_read():
  assert video_source.parse_rate('30000/1001') == Fraction(30000, 1001)
  form = video_source.parse_raw('64x48:yuv420p:24')
  assert (form.width, form.height, form.frame_rate) == (64, 48, 24)
