"""Predicted frames against I-frames: the comparison, and a whole run."""

import json

import numpy as np
from PIL import Image
import pytest

from launch import predicted
from tests import launch_test


def coded(*pairs):
  return [predicted.CodedFrame(bytes=x, psnr_db=y) for x, y in pairs]


def test_equal_psnr_is_between_the_best_i_frames():
  # 2 dB an octave; one of them is dearer and no better.
  points = coded((100, 30.0), (400, 34.0), (420, 33.0))
  for psnr_db, size in [(30.0, 100), (31.0, 100 * 2**0.5), (34.0, 400)]:
    assert predicted.intra_bytes(points, psnr_db) == pytest.approx(size)
    assert predicted.intra_bytes(points[::-1], psnr_db) == pytest.approx(size)


def test_neighbors_alone_count():
  points = coded((100, 30.0), (400, 34.0), (200, 31.0))
  assert predicted.intra_bytes(points, 31.0) == pytest.approx(200)
  assert predicted.intra_bytes(points, 32.5) == pytest.approx(200 * 2**0.5)


def test_nothing_is_said_beyond_the_i_frames():
  points = coded((100, 30.0), (400, 34.0))
  assert predicted.intra_bytes(points, 29.9) is None
  assert predicted.intra_bytes(points, 34.1) is None
  assert predicted.intra_bytes([], 30.0) is None


def test_frames_that_are_not_predicted_are_refused(tmp_path):
  (tmp_path / 'clip').mkdir()
  flags = [f'--clips={tmp_path}', f'--output={tmp_path / "out"}', '--frames=4']
  message = launch_test.refusal('predicted', *flags, '--compared=0')
  assert 'predicted frames are 1..3' in message
  message = launch_test.refusal('predicted', *flags, '--names=other')
  assert 'no such clips' in message
  assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_a_run_says_what_the_files_are(tmp_path):
  clip = tmp_path / 'clips' / 'waves'
  clip.mkdir(parents=True)
  y, x = np.mgrid[:48, :64]
  for t in range(3):
    pixels = 128 + 90 * np.sin((x + 2 * t) / 7) * np.cos(y / 5)
    Image.fromarray(np.uint8(pixels)).convert('RGB').save(clip / f'{t}.png')
  flags = [
      f'--clips={clip.parent}',
      f'--output={tmp_path / "out"}',
      '--frames=3',
      '--compared=2',
      '--config=configs/video.py:smoke',
  ]
  table = launch_test.run('predicted', *flags).stdout
  assert table.count('\n') == 3 and '| waves |' in table
  (row,) = json.loads((tmp_path / 'out' / 'predicted.json').read_text())
  first, *others = row['frames']
  assert len(others) == 2
  assert max(frame['bytes'] for frame in others) < first['bytes']
  assert len(row['compared']['2']['intra']) == 5
