"""What is kept between runs, and that --nocache leaves nothing behind."""

import os
import pathlib
import re
import subprocess
import sys
import types

import pytest

from launch import caches

ROOT = pathlib.Path(__file__).parents[1]

# A small command that compiles with both compilers.
_PROGRAM = """
from launch import caches, command

def main():
  import jax, numba
  from launch import runtime
  runtime.set_up(1, caches.KEEP.value)
  jax.jit(lambda x: x + 1)(1.0)
  numba.njit(lambda x: x + 1, cache=True)(1.0)

command.run(main)
"""


@pytest.fixture
def program(tmp_path):
  path = tmp_path / 'program.py'
  path.write_text(_PROGRAM)
  return path


def files(folder):
  return {path for path in folder.rglob('*') if path.is_file()}


def compiled(folder):
  return {path for path in files(folder) if path.suffix in ('.nbc', '.nbi')}


def run(home, *command):
  """Runs a command whose caches and temporary files lie in `home`."""
  for name in ('cache', 'tmp'):
    (home / name).mkdir(exist_ok=True)
  environment = os.environ | {
      'XDG_CACHE_HOME': str(home / 'cache'),
      'TMPDIR': str(home / 'tmp'),
      'PYTHONPATH': str(ROOT),
  }
  environment.pop('NUMBA_CACHE_DIR', None)
  before = compiled(ROOT)
  result = subprocess.run(
      [sys.executable, *map(str, command)],
      cwd=ROOT,
      env=environment,
      capture_output=True,
      text=True,
      check=False,
  )
  assert result.returncode == 0, result.stderr
  assert compiled(ROOT) == before, 'compiled code beside the sources'
  assert not files(home / 'tmp') and not compiled(home / '__pycache__')
  return files(home / 'cache')


@pytest.mark.skipif(sys.platform != 'linux', reason='where caches lie')
def test_a_second_run_finds_what_the_first_compiled(tmp_path, program):
  first = run(tmp_path, program)
  kept = tmp_path / 'cache' / 'pgsvc_jax'
  assert {path.relative_to(kept).parts[0] for path in first} == {'numba', 'xla'}
  assert compiled(kept / 'numba') and files(kept / 'xla')
  assert run(tmp_path, program) == first


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='where caches lie')
def test_nocache_leaves_no_file(tmp_path, program):
  assert not run(tmp_path, program, '--nocache')


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='where caches lie')
def test_a_folder_that_cannot_be_written_does_not_stop_a_run(tmp_path, program):
  (tmp_path / 'cache').mkdir()
  (tmp_path / 'cache' / 'pgsvc_jax').write_text('in the way')
  left = run(tmp_path, program)
  assert left == {tmp_path / 'cache' / 'pgsvc_jax'}


def test_a_folder_that_the_user_names_wins(tmp_path, monkeypatch):
  monkeypatch.setenv('NUMBA_CACHE_DIR', str(tmp_path))
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'x'))
  assert caches.folder('numba') == tmp_path
  assert caches.folder('xla') == tmp_path / 'x'


_PREPARE = """
from launch import caches, command

command.run(lambda: caches.prepare(1))
"""


def prepare(home, **environment):
  """What a command says that has kernels for one channel compiled."""
  path = home / 'program.py'
  path.write_text(_PREPARE)
  result = subprocess.run(
      [sys.executable, str(path)],
      cwd=ROOT,
      env=os.environ | {'PYTHONPATH': str(ROOT), **environment},
      capture_output=True,
      text=True,
      check=False,
  )
  assert result.returncode == 0, result.stderr
  return result.stderr


@pytest.mark.slow
def test_compiling_is_said_once(tmp_path):
  first = prepare(tmp_path, NUMBA_CACHE_DIR=str(tmp_path))
  assert re.fullmatch(r'compiling kernels, once: \d+ s\n', first)
  assert not prepare(tmp_path, NUMBA_CACHE_DIR=str(tmp_path))


@pytest.mark.slow
def test_no_folder_at_all_is_a_note(tmp_path):
  in_the_way = tmp_path / 'file'
  in_the_way.touch()
  said = prepare(
      tmp_path, NUMBA_CACHE_DIR=f'{in_the_way}/x', TMPDIR='/dev/null'
  )
  note, compiled = said.splitlines()
  assert note == f'compiled code is not kept: {in_the_way}/x cannot be written'
  assert compiled.startswith('compiling kernels')


@pytest.mark.parametrize('full', ['cache', 'cache and tmp'])
def test_full_disks_are_not_written(tmp_path, monkeypatch, capsys, full):
  cache, temporary = tmp_path / 'cache', tmp_path / 'tmp'
  temporary.mkdir()
  monkeypatch.setattr(caches.tempfile, 'tempdir', str(temporary))
  monkeypatch.setenv('NUMBA_CACHE_DIR', str(cache))
  monkeypatch.setattr(
      caches.shutil,
      'disk_usage',
      lambda path: types.SimpleNamespace(
          free=1000 if path == cache or 'tmp' in full else 2**30
      ),
  )
  monkeypatch.setattr(caches, 'KEEP', types.SimpleNamespace(value=True))
  caches.set_up()
  chosen = pathlib.Path(os.environ['NUMBA_CACHE_DIR'])
  if full == 'cache':
    assert chosen.parent == temporary
  else:
    assert str(chosen) == os.devnull
  assert f'{cache} cannot be written' in capsys.readouterr().err


def test_a_user_without_a_home_has_no_cache(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv('NUMBA_CACHE_DIR', raising=False)
  monkeypatch.setattr(
      caches.platformdirs, 'user_cache_path', lambda name: pathlib.Path('~/x')
  )
  monkeypatch.setattr(caches, 'KEEP', types.SimpleNamespace(value=True))
  caches.set_up()
  assert pathlib.Path(os.environ['NUMBA_CACHE_DIR']).is_absolute()
  assert not any(tmp_path.iterdir())


@pytest.mark.slow  # Compiles everything, twice.
@pytest.mark.parametrize('flag', ['--cache', '--nocache'])
def test_real_commands_keep_all_or_nothing(tmp_path, flag):
  from PIL import Image

  picture, file = tmp_path / 'a.png', tmp_path / 'a.pgsvc'
  Image.new('RGB', (70, 50), 'teal').save(picture)
  encode = (
      '-m',
      'launch.encode',
      f'--input={picture}',
      f'--output={file}',
      '--config=configs/image.py:smoke',
      flag,
  )
  kept = run(tmp_path, *encode)
  assert bool(kept) == (flag == '--cache')
  for command in (
      encode,
      ('-m', 'launch.decode', f'--input={file}', f'--output={picture}', flag),
  ):
    assert run(tmp_path, *command) == kept


_COMPOSITE = """
import numpy as np, jax, pallas_kernels

rng = np.random.default_rng(0)
uniform = lambda *shape: rng.random(shape, np.float32)
means = 48 * uniform(300, 2)
cholesky = np.stack([uniform(300) + 1, uniform(300), uniform(300) + 1], -1)
colors = uniform(300, 3) - 0.5

def error(*splats):
  return pallas_kernels.composite_error(
      *splats, uniform(48, 48, 3), np.ones((48, 48), np.float32),
      np.ones(2, np.float32), layer_sizes=(100, 200))[0]

def energy(*splats):
  images = pallas_kernels.composite(
      *splats, layer_sizes=(100, 200), height=48, width=48)
  return (images**2).sum()

for function in error, energy:
  print(*(np.asarray(x).tobytes().hex() for x in jax.value_and_grad(
      function, (0, 1, 2))(means, cholesky, colors)[1]))
"""


@pytest.mark.slow
def test_the_run_that_compiles_computes_what_later_ones_do(tmp_path):
  environment = os.environ | {'NUMBA_CACHE_DIR': str(tmp_path)}
  first, second = (
      subprocess.check_output(
          [sys.executable, '-c', _COMPOSITE], cwd=ROOT, env=environment
      )
      for _ in range(2)
  )
  assert len(first) > 1000
  assert first == second
