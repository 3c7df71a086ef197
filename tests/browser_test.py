"""What the pages do in a real browser: make test-browser."""

import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import PIL.Image
import pytest

from launch import table
from launch.viewer import page
import pgsvc_jax
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import quantize
from tests import independent_decoder_test

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / 'tests' / 'golden'
NPM = pathlib.Path(os.environ.get('PGSVC_NPM', ROOT / 'build' / 'browser'))
CHROMIUM = next(
    filter(
        None,
        map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')),
    ),
    None,
)

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True)
def _needs():
  if CHROMIUM is None:
    pytest.skip('there is no browser: apt install chromium')
  if shutil.which('node') is None:
    pytest.skip('Node.js is not installed')
  if not (NPM / 'node_modules' / 'playwright-core').is_dir():
    pytest.skip('playwright-core is not installed: make test-browser does it')


def run(script, files):
  """Runs a test of Node in the browser; it must pass."""
  environment = os.environ | {
      'PGSVC_CHROMIUM': CHROMIUM,
      'PGSVC_NPM': str(NPM),
      'PGSVC_FILES': str(files),
  }
  result = subprocess.run(
      ['node', '--test', script],
      cwd=ROOT / 'tests' / 'web',
      env=environment,
      capture_output=True,
      text=True,
      timeout=200,
      check=False,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  assert '# pass 0' not in result.stdout


def rgba(pixels):
  """Pixels as a canvas has them."""
  height, width, channels = pixels.shape
  out = np.full((height, width, 4), 255, np.uint8)
  out[..., :3] = pixels[..., :3] if channels > 2 else pixels[..., :1]
  if channels in (2, 4):
    out[..., 3] = pixels[..., -1]
  return out


def picture(layer_sizes, channels, *, width=96, height=64, shapes=()):
  """A file of random splats over all of a picture."""
  rng = np.random.default_rng(sum(layer_sizes))
  n = sum(layer_sizes)
  l11, l22 = rng.uniform(1, 9, (2, n))
  splats = pgsvc_jax.Splats(
      rng.uniform(0, (width, height), (n, 2)).astype(np.float32),
      np.stack([l11, rng.normal(0, 2, n), l22], 1).astype(np.float32),
      rng.normal(0.02, 0.1, (n, channels)).astype(np.float32),
  )
  layered = pgsvc_jax.LayeredSplats(
      splats=splats,
      layer_sizes=layer_sizes,
      height=height,
      width=width,
      layer_shapes=shapes,
  )
  return bitstream.write(layered, quantize.StepSizes())


def write_files(folder):
  """Files, and what `decode` makes of each of their layers."""
  files = {f'/golden/v{v}_three_layers.pgsvc': None for v in (1, 2, 4)}
  for channels in (1, 2, 3, 4):
    files[f'/files/c{channels}.pgsvc'] = picture((200, 90), channels)
  files['/files/large.pgsvc'] = picture((900, 600, 400), 3)
  layered = independent_decoder_test.make_picture((60, 30), 3)
  files['/files/rough.pgsvc'] = bitstream.write(layered, quantize.StepSizes())
  expected = []
  for url, data in files.items():
    name = pathlib.PurePosixPath(url).name
    if data is None:
      data = (GOLDEN / name).read_bytes()
    else:
      (folder / name).write_bytes(data)
    header = pgsvc_jax.read_header(data)
    for k in range(len(header.layers)):
      pixels = rgba(pgsvc_jax.decode(data, k + 1))
      (folder / f'{name}.raw.{k}').write_bytes(pixels.tobytes())
    native = [shape[::-1] for shape in header.native_shapes]
    expected.append({'url': url, 'native': native, 'raw': f'{name}.raw'})
  (folder / 'expected.json').write_text(json.dumps(expected))


def test_elements(tmp_path):
  write_files(tmp_path)
  broken = bytearray((GOLDEN / 'v2_three_layers.pgsvc').read_bytes())
  broken[30] ^= 1
  (tmp_path / 'broken.pgsvc').write_bytes(broken)
  # Larger than what is asked for first.
  ladder = picture(
      (25_000, 25_000), 3, width=400, shapes=((16, 100), (64, 400))
  )
  (tmp_path / 'ladder.pgsvc').write_bytes(ladder)
  run('elements.browser.mjs', tmp_path)


def test_viewer(tmp_path):
  data = picture((900, 600, 400), 3)
  photo = tmp_path / 'photo.pgsvc'
  photo.write_bytes(data)
  whole = pgsvc_jax.decode(data).astype(int)
  noise = np.random.default_rng(1).integers(-9, 10, whole.shape)
  original = np.clip(whole + noise, 0, 255).astype(np.uint8)
  PIL.Image.fromarray(original).save(tmp_path / 'photo.png')
  PIL.Image.fromarray(original).save(tmp_path / 'photo.jpg', quality=40)
  files = {'file': str(photo), 'original': str(tmp_path / 'photo.png')}
  held = {key: page.shown_bytes(path) for key, path in files.items()}
  (tmp_path / 'page.html').write_text(page.write(held))
  broken = bytearray(data)
  broken[20] ^= 1
  (tmp_path / 'broken.pgsvc').write_bytes(broken)
  info = table.describe(data)
  table.add_attributes(info, data)
  expected = {
      'ends': list(pgsvc_jax.read_header(data).truncation_points),
      'psnr': [
          float(pgsvc_jax.psnr_db(pgsvc_jax.decode(data, k + 1), original))
          for k in range(3)
      ],
      'bits': [sum(row['bits_per_splat'].values()) for row in info['layers']],
  }
  (tmp_path / 'expected.json').write_text(json.dumps(expected))
  run('viewer.browser.mjs', tmp_path)
