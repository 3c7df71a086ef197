"""Splats as arrays, for other programs."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

import pgsvc_jax
from pgsvc_jax.codec import stream
from pgsvc_jax.video import playback

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / 'tests' / 'golden'


def export(*words):
  return subprocess.run(
      [sys.executable, '-m', 'launch.export', *words],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
  )


def test_a_picture_comes_as_its_arrays(tmp_path):
  path, out = GOLDEN / 'v4_three_layers.pgsvc', tmp_path / 'splats.npz'
  result = export(f'--input={path}', f'--npz={out}', '--layers=2')
  assert result.returncode == 0, result.stderr
  layered = pgsvc_jax.read_layers(path.read_bytes(), 2)
  with np.load(out) as found:
    for name, expected in layered.splats._asdict().items():
      np.testing.assert_array_equal(found[name], expected)
    assert found['layer_sizes'].tolist() == [24, 9]
    assert found['size'].tolist() == [60, 40]
    assert found['native_sizes'].tolist() == [[15, 10], [30, 19]]


@pytest.mark.slow
def test_a_frame_of_a_video_comes_as_its_arrays(tmp_path):
  path, out = GOLDEN / 'v3_video.pgsvc', tmp_path / 'splats.npz'
  result = export(f'--input={path}', f'--npz={out}', '--frame=3')
  assert result.returncode == 0, result.stderr
  with path.open('rb') as file:
    (frame,) = playback.frames(
        stream.StreamReader(file), first_frame=3, num_frames=1
    )
  with np.load(out) as found:
    np.testing.assert_array_equal(found['means'], frame.layered.splats.means)
    assert tuple(found['layer_sizes']) == frame.layered.layer_sizes


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, words, why',
    [
        ('v3_video', [], 'is a video: --frame=N says which'),
        ('v2_three_layers', ['--frame=1'], 'is a picture: no --frame'),
        ('v2_three_layers', ['--layers=9'], '9 layers asked for'),
    ],
)
def test_what_cannot_be_exported_is_a_line(tmp_path, name, words, why):
  out = tmp_path / 'splats.npz'
  path = GOLDEN / f'{name}.pgsvc'
  result = export(f'--input={path}', f'--npz={out}', *words)
  assert result.returncode == 1
  assert len(result.stderr.splitlines()) == 1
  assert why in result.stderr
  assert not out.exists()
