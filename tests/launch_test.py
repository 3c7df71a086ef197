"""The commands, as a person runs them: real processes, files and statuses."""

import json
import os
import pathlib
import re
import subprocess
import sys
import time
import zipfile

import numpy as np
from PIL import Image
import pytest

from launch import command
from launch import main
import pgsvc_jax
from pgsvc_jax import render
from pgsvc_jax.codec import bitstream

ROOT = pathlib.Path(__file__).parents[1]


def read(path):
  with Image.open(path) as image:
    return np.asarray(image, float)


def run(verb, *flags, status=0, **kwargs):
  result = subprocess.run(
      [sys.executable, '-m', f'launch.{verb}', *map(str, flags)],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
      **kwargs,
  )
  assert result.returncode == status, result.stderr
  return result


def run_without(packages, verb, *flags, status=0):
  """Runs where these packages are not installed."""
  program = (
      'import runpy, sys\n'
      f'sys.modules.update(dict.fromkeys({packages}))\n'
      f'sys.argv = {[verb, *map(str, flags)]}\n'
      f'runpy.run_module("launch.{verb}", run_name="__main__")'
  )
  result = subprocess.run(
      [sys.executable, '-c', program],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
  )
  assert result.returncode == status, result.stderr
  return result


def source(verb):
  return (ROOT / 'launch' / f'{verb}.py').read_text()


def refusal(verb, *flags):
  """Runs what must fail; returns the one line it says."""
  result = run(verb, *flags, status=1)
  *before, last = result.stderr.strip().splitlines()
  assert last.startswith(f'{verb}: '), result.stderr
  # What encode says before the fit starts, and any command that compiles.
  said = 'needs about', 'compiling kernels'
  before = [line for line in before if not line.startswith(said)]
  # The demo passes on what its commands say.
  assert not before or verb == 'demo', result.stderr
  assert 'Traceback' not in result.stderr and result.stdout == ''
  return last


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A picture, its file and the run that made it."""
  path = tmp_path_factory.mktemp('launch')
  y, x = np.mgrid[:50, :70] / 12
  waves = np.stack([np.sin(x + c) * np.cos(y - c) for c in range(3)], -1)
  image = np.round(127.5 + 100 * waves).astype(np.uint8)
  Image.fromarray(image).save(path / 'picture.png')
  encode(path, 'file.pgsvc', f'--workdir={path / "run"}')
  return path


def encode(path, name, *flags):
  return run(
      'encode',
      f'--input={path / "picture.png"}',
      f'--output={path / name}',
      '--config=configs/image.py:smoke',
      '--config.fit.layer_splats=(40,20,20)',
      *flags,
  )


def test_decode_gives_every_prefix(folder):
  errors = []
  reference = read(folder / 'picture.png')
  for k in (1, 2, 3):
    output = folder / f'{k}.png'
    run(
        'decode',
        f'--input={folder / "file.pgsvc"}',
        f'--output={output}',
        f'--layers={k}',
    )
    decoded = read(output)
    errors.append(np.mean((decoded - reference) ** 2))
  assert errors[0] > errors[1] > errors[2]
  run(
      'decode',
      f'--input={folder / "file.pgsvc"}',
      f'--output={folder / "all.png"}',
  )
  np.testing.assert_array_equal(
      read(folder / 'all.png'), read(folder / '3.png')
  )


def test_decode_writes_other_formats_and_sizes(folder):
  for suffix, size in (('jpg', 1.0), ('webp', 2.0), ('bmp', 0.5)):
    output = folder / f'out.{suffix}'
    run(
        'decode',
        f'--input={folder / "file.pgsvc"}',
        f'--output={output}',
        f'--scale={size}',
    )
    with Image.open(output) as image:
      assert image.size == (round(70 * size), round(50 * size))


def test_rates_of_layers_are_reached_in_no_time(folder):
  result = encode(
      folder, 'layers.pgsvc', '--layer_bpp=0.8,1.1,1.5', '--max_seconds=0.1'
  )
  assert 'more than 0.1' in result.stderr
  data = (folder / 'layers.pgsvc').read_bytes()
  header = bitstream.read_header(data)
  np.testing.assert_allclose(header.bits_per_pixel, [0.8, 1.1, 1.5], rtol=0.05)
  colors = {layer.step_sizes.color for layer in header.layers}
  assert len(colors) == 3


def test_a_quality_is_reached_or_said_to_be_out_of_reach(folder):
  def psnr_db(name, target):
    result = encode(folder, name, f'--target_psnr={target}')
    layered = bitstream.read_layers((folder / name).read_bytes())
    decoded = render.render_picture(layered)
    error = np.mean((decoded - read(folder / 'picture.png')) ** 2)
    return 20 * np.log10(255) - 10 * np.log10(error), result.stderr

  reached, text = psnr_db('30.pgsvc', 30)
  assert 30 <= reached < 30.15 and 'as near' not in text
  reached, text = psnr_db('70.pgsvc', 70)
  assert reached < 60
  assert f'{reached:.2f} dB is as near as this fit comes to 70' in text


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--target_bpp=1', '--target_psnr=30'], 'only one of them'),
        (['--layer_bpp=0.1,x'], '--layer_bpp=0.1,x: not all numbers'),
        (['--layer_bpp=0.2,0.1'], 'layer_bpp must be increasing'),
        (['--target_psnr=nan'], 'target_psnr must be'),
        (['--max_seconds=-1'], 'max_seconds must be'),
        (['--target_psnr=30', '--parallel=batch'], 'its own number of splats'),
    ],
)
def test_rates_that_make_no_sense_are_one_line(folder, flags, message):
  line = refusal(
      'encode',
      f'--input={folder / "picture.png"}',
      f'--output={folder / "none.pgsvc"}',
      *flags,
  )
  assert message in line
  assert not (folder / 'none.pgsvc').exists()


def test_info_tells_the_bits_of_attributes(folder):
  file = folder / 'file.pgsvc'
  text = run('info', f'--input={file}', '--attributes').stdout
  header = 'layer  position  color  scale  aspect  shear    all'
  assert header in text and len(text.splitlines()) == 11
  output = run('info', f'--input={file}', '--attributes', '--json').stdout
  info = json.loads(output)
  header = bitstream.read_header(file.read_bytes())
  for row, entry in zip(info['layers'], header.layers, strict=True):
    bits = sum(row['bits_per_splat'].values()) * entry.num_splats
    # Chances are told in 1/4096, and a packet ends in a whole byte.
    assert abs(8 * entry.packet_size - bits) < 16 + 0.01 * bits
  golden = ROOT / 'tests' / 'golden' / 'v1_three_layers.pgsvc'
  line = refusal('info', f'--input={golden}', '--attributes')
  assert 'version 1 has no bits by attribute' in line


def test_info_and_evaluate_agree_with_the_file(folder):
  file = folder / 'file.pgsvc'
  info = json.loads(run('info', f'--input={file}', '--json').stdout)
  measured = json.loads(
      run(
          'evaluate',
          f'--input={file}',
          f'--reference={folder / "picture.png"}',
          '--json',
      ).stdout
  )
  assert info['layers'][-1]['bytes'] == os.path.getsize(file)
  # All but a few that rounding found too weak.
  assert [row['splats'] for row in info['layers']] == [
      pytest.approx(count, rel=0.05) for count in (40, 60, 80)
  ]
  for told, seen in zip(info['layers'], measured['layers']):
    assert told['psnr_db'] is None and told['ms_ssim'] is None
    assert seen['ms_ssim'] is None  # 50 rows are too few for five scales
    np.testing.assert_allclose(seen['bpp'], 8 * seen['bytes'] / 3500)
  # The figures are those of the decoded picture.
  decoded = folder / 'top.png'
  run('decode', f'--input={file}', f'--output={decoded}')
  difference = read(decoded) - read(folder / 'picture.png')
  psnr_db = 10 * np.log10(255**2 / np.mean(difference**2))
  np.testing.assert_allclose(
      measured['layers'][-1]['psnr_db'], psnr_db, atol=1e-3
  )
  assert 'splats' in run('info', f'--input={file}').stdout


def test_extract_is_the_prefix_and_decodes_alike(folder):
  file, cut = folder / 'file.pgsvc', folder / 'cut.pgsvc'
  run('extract', f'--input={file}', f'--output={cut}', '--layers=2')
  run('decode', f'--input={cut}', f'--output={folder / "cut.png"}')
  run(
      'decode',
      f'--input={file}',
      f'--output={folder / "two.png"}',
      '--layers=2',
  )
  assert (folder / 'cut.png').read_bytes() == (folder / 'two.png').read_bytes()
  header = bitstream.read_header(cut.read_bytes())
  assert header.file_size == os.path.getsize(cut)


def test_a_cut_file_decodes_to_the_last_whole_layer(folder):
  data = (folder / 'file.pgsvc').read_bytes()
  points = bitstream.read_header(data).truncation_points
  cut = folder / 'short.pgsvc'
  cut.write_bytes(data[: points[1] + 5])
  result = run('decode', f'--input={cut}', f'--output={folder / "short.png"}')
  assert '2 of 3 layers' in result.stderr
  assert '(cut off)' in run('info', f'--input={cut}').stdout
  cut.write_bytes(data[: points[0] - 1])
  assert 'base layer' in refusal(
      'decode', f'--input={cut}', f'--output={folder / "none.png"}'
  )
  assert not (folder / 'none.png').exists()


def test_one_seed_one_file(folder):
  encode(folder, 'again.pgsvc')
  data = (folder / 'file.pgsvc').read_bytes()
  assert (folder / 'again.pgsvc').read_bytes() == data
  encode(folder, 'other.pgsvc', '--config.fit.seed=1')
  assert (folder / 'other.pgsvc').read_bytes() != data


def test_a_run_leaves_what_repeats_it(folder):
  run_folder = folder / 'run'
  config = json.loads((run_folder / 'config.json').read_text())
  assert config['fit']['layer_splats'] == [40, 20, 20]
  assert 'jax' in json.loads((run_folder / 'run.json').read_text())['versions']
  rows = [
      json.loads(line)
      for line in (run_folder / 'metrics.jsonl').read_text().splitlines()
  ]
  assert [row['step'] for row in rows] == [10, 20, 30]


def test_a_folder_becomes_a_folder_of_files(folder, tmp_path):
  """Two devices: two pictures side by side, then one by bands."""
  pictures = tmp_path / 'pictures'
  (pictures / 'inner').mkdir(parents=True)
  data = (folder / 'picture.png').read_bytes()
  for name in ('a.png', 'b.png', 'c.png', '.hidden.png', 'inner/d.png'):
    (pictures / name).write_bytes(data)
  Image.new('RGB', (40, 30), 'teal').save(pictures / 'small.png')
  (pictures / 'text.png').write_text('not a picture')
  (pictures / 'notes.txt').write_text('not a picture')
  out = tmp_path / 'out'
  flags = (
      f'--input={pictures}',
      f'--output={out}',
      '--config=configs/image.py:smoke',
      '--config.fit.layer_splats=(40,20,20)',
      '--num_devices=2',
      f'--workdir={tmp_path / "run"}',
  )
  result = run('encode', *flags, status=1)
  lines = result.stderr.splitlines()
  assert 'text.png' in lines[0] and lines[-1] == (
      'encode: 1 of 5 pictures failed'
  )
  assert (
      'a.png and 1 more' in result.stderr and 'Traceback' not in result.stderr
  )
  assert lines[-2].startswith('4 pictures encoded, ')
  assert lines[-2].endswith('; 2 others left out (inner, notes.txt)')
  names = {'a.pgsvc', 'b.pgsvc', 'c.pgsvc', 'small.pgsvc'}
  assert {path.name for path in out.iterdir()} == names
  assert (out / 'a.pgsvc').read_bytes() == (out / 'b.pgsvc').read_bytes()
  assert len((tmp_path / 'run/b/metrics.jsonl').read_text().splitlines()) == 3
  info = json.loads(run('info', f'--input={out / "c.pgsvc"}', '--json').stdout)
  # All but a few that rounding found too weak.
  assert [row['splats'] for row in info['layers']] == [
      pytest.approx(count, rel=0.05) for count in (40, 60, 80)
  ]
  (pictures / 'text.png').unlink()
  before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
  again = run('encode', pictures, out, '--skip_existing').stderr
  assert again.startswith('0 pictures encoded; 4 were there already; 2 others')
  assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}


def test_a_picture_that_cannot_be_fitted_leaves_the_others_their_files(
    folder, tmp_path
):
  """The fit of two fails; one by one, each meets its own fate."""
  out = tmp_path / 'out'
  (out / 'b.pgsvc').mkdir(parents=True)
  for name in ('a.png', 'b.png'):
    (tmp_path / name).write_bytes((folder / 'picture.png').read_bytes())
  flags = (
      f'--input={tmp_path / "a.png"}',
      f'--input={tmp_path / "b.png"}',
      f'--output={out}',
      '--config=configs/image.py:smoke',
      '--num_devices=2',
  )
  assert 'b.pgsvc: it is no regular file' in refusal('encode', *flags)
  (out / 'b.pgsvc').rmdir()
  rates = '--config.fit.colors_rate=1e38'
  result = run('encode', *flags, rates, status=1)
  assert result.stderr.count('not finite') == 3
  assert 'now one by one' in result.stderr
  assert '2 of 2 pictures failed' in result.stderr
  assert not list(out.iterdir())


def test_wrong_use_is_one_line(folder):
  picture, file = folder / 'picture.png', folder / 'file.pgsvc'
  out = folder / 'x.pgsvc'
  text = folder / 'text.png'
  text.write_text('not a picture')
  a_png = folder / 'a.png'
  encode = ('encode', f'--input={picture}', f'--output={out}')
  decode = ('decode', f'--input={file}', f'--output={a_png}')
  cases = {
      ('encode', f'--input={folder / "no.png"}', f'--output={out}'): (
          'no.png: No such file'
      ),
      ('encode', f'--input={text}', f'--output={out}'): 'not a picture',
      ('encode', f'--input={picture}', f'--output={folder / "no" / "x"}'): (
          'no folder'
      ),
      ('encode', f'--input={picture}', f'--output={folder}'): 'regular file',
      encode[:2]: '--output must have a value',
      (*encode[:2], f'--output={folder / "x.jpg"}'): (
          'x.jpg: encode writes .pgsvc files'
      ),
      (*encode[:2], f'--output={folder / "x.mp4"}'): (
          'x.mp4: encode writes .pgsvc files'
      ),
      (*encode, '--config=huge'): "unknown preset 'huge'",
      (*encode, '--config=video', '--skip_existing'): (
          '--skip_existing is for pictures'
      ),
      (*encode, '--config=configs/image.py:huge'): "unknown preset 'huge'",
      (*encode, '--config.fit.stepps=3'): "'stepps'",
      (*encode, '--config.fit.strategy=other'): 'strategy must be one of joint',
      (*encode, '--config.fit.layer_splats=(0.5,2.5)'): 'an integer',
      (*encode, '--config=no.py'): "'no.py'",
      (*encode, 'x'): "unexpected argument 'x'",
      (*encode, '--num_devices=99999'): 'num_devices=99999, but',
      (*encode, '--num_devices=-1'): 'non-negative',
      (*encode, '--parallel=rows'): 'auto|bands|batch',
      (*encode, '--coordinator=localhost:1'): 'all or none',
      (*encode, '--num_processes=2', '--process_id=0'): 'all or none',
      (
          *encode,
          '--coordinator=localhost:1',
          '--num_processes=2',
          '--process_id=2',
      ): 'counts from 0',
      (*encode, '--distributed', '--parallel=batch'): 'for one process',
      (*encode, f'--input={picture}', f'--output={folder / "new"}'): (
          'would become'
      ),
      (*encode, f'--input={file}', f'--output={file}'): 'no folder',
      (*encode, '--implementation=best'): "implementation='best' is not one",
      ('decode', f'--input={picture}', f'--output={out}'): (
          'picture.png: not a .pgsvc file'
      ),
      (*decode[:2], f'--output={folder / "a.xyz"}'): 'a.xyz: ',
      (*decode, '--layers=4'): 'file.pgsvc: ',
      (*decode, '--scale=1e9'): 'more than max_pixels',
      (*decode, '--scale=-1'): 'scale must be positive',
      ('extract', f'--input={file}', f'--output={out}', '--layers=0'): (
          'file.pgsvc: '
      ),
      ('evaluate', f'--input={file}', f'--reference={text}'): 'not a picture',
      ('info', f'--input={folder}'): 'Is a directory',
      ('info', '--unknown=1'): "Unknown command line flag 'unknown'",
      ('demo', f'--input={folder / "no.png"}', f'--output={folder / "run"}'): (
          'encode ended with 1'
      ),
  }
  before = set(folder.iterdir())
  for (verb, *flags), what in cases.items():
    assert what in refusal(verb, *flags), (verb, flags)
  assert set(folder.iterdir()) == before, 'a refused command left a file'


def test_a_preset_may_stand_for_its_file(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  words = command._with_config(['encode', '--config=fast'], 'video.py')
  assert words[1] == f'--config={command.CONFIGS / "video.py"}:fast'
  for name in ('kodak', 'configs/kodak.py', 'kodak.py'):
    words = command._with_config(['encode', f'--config={name}:smoke'], 'x.py')
    assert words[1] == f'--config={command.CONFIGS / "kodak.py"}:smoke'
  words = command._with_config(['encode', '--a'], 'image.py')
  assert words[1:] == [f'--config={command.CONFIGS / "image.py"}', '--a']
  words = command._with_config(['encode', '--config=my/own.py'], 'image.py')
  assert words[1] == '--config=my/own.py'


def test_the_installed_command_runs_the_verbs(folder):
  result = run('main', 'info', f'--input={folder / "file.pgsvc"}')
  assert '70 x 50' in result.stdout
  assert 'encode' in run('main', '--help').stdout
  assert 'usage' in run('main', status=2).stderr
  wrong = run('main', 'encod', status=2).stderr
  assert wrong == "pgsvc: 'encod' is no verb; did you mean 'encode'?\n"
  assert 'pgsvc --help' in run('main', 'paint', status=2).stderr


@pytest.mark.parametrize('verb', ['main', 'info', 'encode'])
def test_version(verb):
  assert run(verb, '--version').stdout == f'pgsvc_jax {pgsvc_jax.__version__}\n'


def test_paths_need_no_names(folder):
  file, cut, out = (folder / x for x in ('file.pgsvc', 'c.pgsvc', 'c.png'))
  assert '70 x 50' in run('info', file).stdout
  said = run('extract', file, cut, '--layers', 1).stderr
  assert said.startswith(f'{cut}: {cut.stat().st_size} bytes, ')
  said = run('decode', '--scale', 0.5, cut, out).stderr
  assert f'{out}: 1 of 1 layers, 40 splats; ' in said
  with Image.open(out) as image:
    assert image.size == (35, 25)
  assert "unexpected argument 'x'" in refusal('decode', cut, out, 'x')
  cut.unlink()
  out.unlink()


def test_help_has_the_name_that_was_called():
  assert '\npython -m launch.info FILE' in run('info', '--help').stdout
  assert '\npgsvc info FILE' in run('main', 'info', '--help').stdout


@pytest.mark.parametrize('verb', main.VERBS)
def test_help_lists_the_flags(verb):
  text = run(verb, '--help').stdout
  flags = re.findall(r'DEFINE_\w+\(\s*\'(\w+)\'', source(verb))
  flags += ['config'] if 'define_config' in source(verb) else []
  for flag in flags:
    assert re.search(rf'^  --(\[no\])?{flag}:', text, re.MULTILINE), flag


def test_demo_makes_the_table_and_the_picture(folder):
  out = folder / 'demo'
  result = run(
      'demo',
      f'--input={folder / "picture.png"}',
      f'--output={out}',
      '--config=configs/image.py:smoke',
  )
  assert 'PSNR' in result.stdout
  with Image.open(out / 'prefixes.png') as image:
    assert image.size[0] > 500


def test_an_ended_run_says_so_and_leaves_no_file(folder):
  command = [
      sys.executable,
      '-m',
      'launch.encode',
      f'--input={folder / "picture.png"}',
      f'--output={folder / "ended.pgsvc"}',
      '--config.fit.num_steps=2000000',
  ]
  with subprocess.Popen(
      command, cwd=ROOT, stderr=subprocess.PIPE, text=True
  ) as process:
    # It says so before the fit, which would take minutes.
    lines = iter(process.stderr.readline, '')
    assert any('of host memory' in line for line in lines)
    time.sleep(3)
    process.terminate()
    _, rest = process.communicate(timeout=60)
  assert process.returncode == 130
  assert rest.splitlines()[-1] == (
      'encode: interrupted; nothing was written; with --workdir=FOLDER, a run'
      ' resumes'
  )
  assert 'Traceback' not in rest
  assert not (folder / 'ended.pgsvc').exists()
  assert not list(folder.glob('.partial*'))


@pytest.mark.slow  # Installs the build tools.
def test_the_wheel_has_no_generic_names(tmp_path):
  subprocess.run(
      [
          sys.executable,
          '-m',
          'pip',
          'wheel',
          '--no-deps',
          '-q',
          f'--wheel-dir={tmp_path}',
          str(ROOT),
      ],
      check=True,
  )
  (wheel,) = tmp_path.glob('*.whl')
  names = zipfile.ZipFile(wheel).namelist()
  top = {name.split('/')[0] for name in names}
  assert {x for x in top if '.dist-info' not in x} == {
      'pgsvc_jax',
      'pallas_kernels',
  }
  assert 'pallas_kernels/py.typed' in names
  for name in (
      '__init__.pyi',
      'py.typed',
      'launch/encode.py',
      'launch/main.py',
      'launch/lab/reports/picture_page.html',
      'configs/image.py',
      'configs/published.json',
  ):
    assert f'pgsvc_jax/{name}' in names


_JAX = ['jax', 'jaxlib', 'flax', 'optax', 'psutil', 'rich']


@pytest.mark.parametrize('missing', [_JAX, [*_JAX, 'numba', 'llvmlite']])
def test_files_are_read_where_jax_and_numba_are_not(tmp_path, missing):
  whole = ROOT / 'tests' / 'golden' / 'v1_three_layers.pgsvc'
  cut = tmp_path / 'cut.pgsvc'
  info = run_without(missing, 'info', f'--input={whole}', '--json')
  assert len(json.loads(info.stdout)['layers']) == 3
  run_without(
      missing, 'extract', f'--input={whole}', f'--output={cut}', '--layers=2'
  )
  here, there = tmp_path / 'here.png', tmp_path / 'there.png'
  run('decode', f'--input={cut}', f'--output={here}')
  run_without(missing, 'decode', f'--input={cut}', f'--output={there}')
  pictures = [np.asarray(Image.open(x)).astype(int) for x in (here, there)]
  assert np.abs(pictures[0] - pictures[1]).max() <= 1
  refused = run_without(
      missing, 'encode', f'--input={here}', f'--output={cut}', status=1
  )
  assert refused.stderr.splitlines()[-1].startswith(
      'encode: this command needs'
  )


def test_a_target_rate_is_met(folder):
  encode(
      folder, 'rate.pgsvc', '--target_bpp=1.5', '--config.fit.rounding_steps=60'
  )
  flags = (f'--input={folder / "rate.pgsvc"}', '--json')
  *_, top = json.loads(run('info', *flags).stdout)['layers']
  # The header alone is 0.3 bits a pixel here.
  assert 1.2 < top['bpp'] < 1.6


def test_a_rate_that_cannot_be_met_is_said(folder):
  result = encode(folder, 'far.pgsvc', '--target_bpp=0.001')
  assert 'is as near as it comes to 0.001' in result.stderr
