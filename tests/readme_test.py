"""The README's commands do what it says."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from pgsvc_jax.video import media as video_media

from . import clips

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / 'README.md').read_text()


def blocks(language):
  return re.findall(rf'```{language}\n(.*?)```', TEXT, re.DOTALL)


@pytest.fixture
def folder(tmp_path):
  y, x = np.mgrid[:48, :64] / 9
  image = 128 + 100 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], -1)
  Image.fromarray(image.astype(np.uint8)).save(tmp_path / 'photo.png')
  return tmp_path


def run(arguments, folder):
  environment = os.environ | {'PYTHONPATH': str(ROOT)}
  subprocess.run(arguments, cwd=folder, env=environment, check=True)


def test_the_commands_work(folder):
  clips.write(folder / 'clip.mp4', clips.moving(2))
  commands = [
      line
      for block in blocks('bash')
      for line in block.splitlines()
      if line.startswith('python -m launch.')
  ]
  assert len(commands) == 5
  for line in commands:
    run([sys.executable, *line.split()[1:]], folder)
  with Image.open(folder / 'small.png') as image:
    assert image.size == (64, 48)
  with video_media.open_video(folder / 'base.mp4') as video:
    assert len(list(video)) == 2


def test_the_python_example_works(folder):
  (program,) = blocks('python')
  run([sys.executable, '-c', program], folder)
  with Image.open(folder / 'cut.png') as image:
    assert image.size == (64, 48)


PAGES = [
    'README.md',
    'CONTRIBUTING.md',
    *sorted(f'docs/{x.name}' for x in (ROOT / 'docs').glob('*.md')),
]


@pytest.mark.parametrize('page', PAGES)
def test_make_targets_exist(page):
  makefile = (ROOT / 'Makefile').read_text()
  for targets in re.findall(
      r'(?:^|`)make ([a-z0-9 -]+)', (ROOT / page).read_text(), re.MULTILINE
  ):
    for target in targets.split():
      assert re.search(rf'^{target}:', makefile, re.MULTILINE), target


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
  path = ROOT / page
  prose = re.sub(r'```.*?```', '', path.read_text(), flags=re.DOTALL)
  for target in re.findall(r'\]\(([^)]+)\)', prose):
    if not target.startswith('http'):
      assert (path.parent / target.partition('#')[0]).exists(), target
