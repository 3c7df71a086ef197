"""Pictures and videos with the oldest and newest PyAV and Pillow admitted.

It needs a package index; another Python has other newest versions. By hand:

python -m pip install --no-deps --target ENDS 'av==18.0' 'pillow==12.1'
PYTHONPATH=ENDS python -m pytest tests/video_media_test.py
"""

import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
NAMES = ('av', 'pillow')
TESTS = (
    *('media_test.py', 'picture_color_test.py', 'video_in_test.py'),
    *('video_media_test.py', 'video_out_test.py', 'video_seek_test.py'),
)


def oldest():
  """The lowest version of each that pyproject.toml admits."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  texts = [*project['dependencies'], *project['optional-dependencies']['video']]
  found = [re.match(rf'({"|".join(NAMES)})>=([\d.]+)', x) for x in texts]
  return [f'{m[1]}=={m[2]}.*' for m in found if m]


@pytest.mark.slow  # Minutes.
@pytest.mark.parametrize('end', ['oldest', 'newest'])
def test_media_at_both_ends(tmp_path, end):
  wanted = oldest() if end == 'oldest' else list(NAMES)
  assert len(wanted) == len(NAMES)
  pip = [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps']
  installed = subprocess.run(
      [*pip, '--target', tmp_path, *wanted],
      capture_output=True,
      text=True,
      check=False,
  )
  if installed.returncode:
    pytest.skip(f'cannot install: {installed.stderr.strip()[-200:]}')
  run = subprocess.run(
      [
          *(sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider'),
          *(f'tests/{name}' for name in TESTS),
      ],
      cwd=ROOT,
      env={**os.environ, 'PYTHONPATH': str(tmp_path)},
      capture_output=True,
      text=True,
      check=False,
  )
  assert run.returncode == 0, run.stdout[-3000:]
