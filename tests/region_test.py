"""A part of a picture, decoded alone."""

import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

import pgsvc_jax

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / 'tests' / 'golden'
PICTURE = GOLDEN / 'v2_three_layers.pgsvc'
VIDEO = GOLDEN / 'v3_video.pgsvc'


def decode(*words):
  return subprocess.run(
      [sys.executable, '-m', 'launch.decode', *map(str, words)],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
  )


def test_a_part_costs_what_reaches_it():
  scale, region = 40, (900, 700, 64, 48)
  part = pgsvc_jax.decode_region(PICTURE, region, scale=scale)
  whole = pgsvc_jax.decode(PICTURE, scale=scale)
  left, top, width, height = region
  expected = whole[top : top + height, left : left + width].astype(int)
  assert np.abs(part.pixels - expected).max() <= 1
  assert 0 < part.num_splats < 38
  # The whole would be refused, the part is not.
  small = {'scale': 400, 'max_pixels': 5000}
  with pytest.raises(ValueError, match='max_pixels'):
    pgsvc_jax.decode(PICTURE, **small)
  assert pgsvc_jax.decode_region(PICTURE, region, **small).pixels.any()


def test_the_command_writes_a_part(tmp_path):
  out = tmp_path / 'part.png'
  result = decode(PICTURE, out, '--region=5,4,20,10', '--layers=2')
  assert result.returncode == 0, result.stderr
  whole = pgsvc_jax.decode(PICTURE, 2)[4:14, 5:25].astype(int)
  with Image.open(out) as image:
    assert np.abs(np.asarray(image) - whole).max() <= 1


@pytest.mark.slow
def test_the_command_writes_a_part_of_a_frame(tmp_path):
  out = tmp_path / 'part.png'
  result = decode(VIDEO, out, '--region=0,0,9,9', '--frame=2')
  assert result.returncode == 0, result.stderr
  with Image.open(out) as image:
    assert image.size == (9, 9)


@pytest.mark.slow
@pytest.mark.parametrize(
    'path, words, why',
    [
        (PICTURE, ['--region=1,2,3'], 'four whole numbers'),
        (PICTURE, ['--region=0,0,900,2'], 'not inside of'),
        (VIDEO, ['--region=0,0,9,9'], '--frame'),
    ],
)
def test_what_is_no_part_is_a_line(tmp_path, path, words, why):
  out = tmp_path / 'part.png'
  result = decode(path, out, *words)
  assert result.returncode == 1
  assert len(result.stderr.splitlines()) == 1
  assert why in result.stderr
  assert not out.exists()
