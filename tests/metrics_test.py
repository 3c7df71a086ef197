import json
import pathlib
import subprocess
import sys
import time

import numpy as np
from PIL import Image
import pytest
from scipy import ndimage
from scipy import signal
import skimage.measure
import skimage.metrics

import pgsvc_jax
from pgsvc_jax import metrics
from pgsvc_jax.metrics import multiscale_ssim


def noisy_pair(seed, shape, noise=0.1):
  rng = np.random.default_rng(seed)
  reference = ndimage.gaussian_filter(rng.random(shape), (3, 3, 0))
  reference = (reference - reference.min()) / np.ptp(reference)
  image = np.clip(reference + noise * rng.standard_normal(shape), 0, 1)
  return image, reference


def plain_ms_ssim(x, y):
  """The published formula with whole 2D windows, as plain as can be."""
  taps = np.exp(-0.5 * (np.arange(11) - 5.0) ** 2 / 1.5**2)
  window = np.outer(taps, taps) / taps.sum() ** 2
  blur = lambda v: signal.convolve2d(v, window, mode='valid')
  factors = []
  for scale in range(5):
    contrast = (2 * (blur(x * y) - blur(x) * blur(y)) + 0.03**2) / (
        (blur(x * x) - blur(x) ** 2) + (blur(y * y) - blur(y) ** 2) + 0.03**2
    )
    luminance = (2 * blur(x) * blur(y) + 0.01**2) / (
        blur(x) ** 2 + blur(y) ** 2 + 0.01**2
    )
    terms = contrast * luminance if scale == 4 else contrast
    factors.append(max(terms.mean(), 0))
    if scale < 4:
      assert x.shape[0] % 2 == x.shape[1] % 2 == 0
      x, y = (skimage.measure.block_reduce(v, 2, np.mean) for v in (x, y))
  return np.prod(np.power(factors, (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)))


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_psnr_equals_skimage(dtype):
  image, reference = (v.astype(dtype) for v in noisy_pair(0, (40, 30, 3)))
  expected = skimage.metrics.peak_signal_noise_ratio(
      reference.astype(np.float64), image.astype(np.float64), data_range=1.0
  )
  assert metrics.psnr_db(image, reference) == pytest.approx(expected, rel=1e-9)


def test_psnr_of_8_bit_pictures_has_peak_255():
  rng = np.random.default_rng(1)
  image, reference = rng.integers(0, 256, (2, 9, 7, 3), dtype=np.uint8)
  expected = skimage.metrics.peak_signal_noise_ratio(reference, image)
  assert metrics.psnr_db(image, reference) == pytest.approx(expected, rel=1e-9)
  mixed = metrics.psnr_db(image / 255.0, reference)
  assert mixed == pytest.approx(expected, rel=1e-9)


def test_psnr_of_equal_pictures_is_infinite():
  image = np.random.default_rng(2).random((5, 4, 3))
  assert metrics.psnr_db(image, image) == float('inf')


def test_8_bit_codes_equal_what_float32_has_of_them():
  codes = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
  for dtype in (np.float32, np.float64):
    floats = codes.astype(dtype) / dtype(255)
    assert metrics.psnr_db(codes, floats) == float('inf')
    (row,) = [metrics.score(metrics.choose(False), codes, floats)]
    assert row['psnr_db'] is None


@pytest.mark.parametrize('metric', [metrics.psnr_db, metrics.ms_ssim])
def test_unequal_shapes_are_refused(metric):
  with pytest.raises(ValueError, match='shapes differ'):
    metric(np.zeros((200, 200, 3)), np.zeros((200, 200, 1)))


@pytest.mark.parametrize('shape', [(11, 11), (40, 33), (64, 90)])
def test_ssim_of_one_scale_equals_skimage(shape):
  x, y = (v[..., 0] for v in noisy_pair(3, (*shape, 1)))
  _, full = skimage.metrics.structural_similarity(
      x,
      y,
      data_range=1.0,
      gaussian_weights=True,
      sigma=1.5,
      truncate=3.4,  # int(3.4 * 1.5 + 0.5) = 5: 11 taps
      use_sample_covariance=False,
      full=True,
  )
  ssim, _ = multiscale_ssim._ssim(x, y)
  assert ssim == pytest.approx(full[5:-5, 5:-5].mean(), rel=1e-6)


@pytest.mark.parametrize('noise', [0.01, 0.1, 0.5])
def test_ms_ssim_equals_the_plain_formula(noise):
  image, reference = noisy_pair(4, (176, 208, 2), noise)
  expected = np.mean(
      [plain_ms_ssim(image[..., c], reference[..., c]) for c in range(2)]
  )
  assert metrics.ms_ssim(image, reference) == pytest.approx(expected, rel=1e-9)


# What pytorch-msssim 1.0.0 says of these pairs in float64, given its own window
# in float64 (`win=`); by itself it makes that in float32, which moves these
# values by up to 9e-7. Odd sides on several scales.
@pytest.mark.parametrize(
    ('seed', 'shape', 'noise', 'expected'),
    [
        (10, (161, 161, 1), 0.1, 0.910696815381),
        (11, (161, 203, 3), 0.05, 0.953376432223),
        (12, (192, 256, 3), 0.2, 0.718787158289),
        (13, (255, 333, 4), 0.6, 0.379834726522),
    ],
)
def test_ms_ssim_equals_pytorch_msssim(seed, shape, noise, expected):
  pair = noisy_pair(seed, shape, noise)
  assert metrics.ms_ssim(*pair) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize('shape', [(161, 161, 1), (170, 203, 3)])
def test_ms_ssim_of_equal_pictures_is_one(shape):
  image, _ = noisy_pair(5, shape)
  assert metrics.ms_ssim(image, image) == pytest.approx(1, abs=1e-12)


def test_ms_ssim_falls_with_noise_and_is_symmetric():
  values = []
  for noise in (0.01, 0.05, 0.2, 0.8):
    image, reference = noisy_pair(6, (180, 170, 1), noise)
    values.append(metrics.ms_ssim(image, reference))
    swapped = metrics.ms_ssim(reference, image)
    assert swapped == pytest.approx(values[-1], rel=1e-12)
  assert values == sorted(values, reverse=True)
  assert 0 < values[-1] < values[0] < 1


def test_ms_ssim_of_a_negative_is_zero():
  image, _ = noisy_pair(7, (170, 170, 1))
  assert metrics.ms_ssim(1 - image, image) == 0


def test_ms_ssim_takes_8_bits_as_fractions_of_255():
  image, reference = (
      np.rint(v * 255).astype(np.uint8) for v in noisy_pair(8, (161, 170, 3))
  )
  expected = metrics.ms_ssim(image / 255, reference / 255)
  assert metrics.ms_ssim(image, reference) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ('shape', 'fits'),
    [((160, 900, 3), False), ((900, 160, 3), False), ((161, 161, 3), True)],
)
def test_ms_ssim_needs_161_pixels(shape, fits):
  image = np.full(shape, 0.5)
  assert (metrics.ms_ssim(image, image) is not None) == fits


def test_ms_ssim_of_a_photo_and_its_jpeg(data_dir, tmp_path):
  path = data_dir / 'kodak' / 'kodim01.png'
  reference = Image.open(path).convert('RGB')
  reference.save(tmp_path / 'x.jpg', quality=50)
  image = np.asarray(Image.open(tmp_path / 'x.jpg'))
  started = time.process_time()
  value = metrics.ms_ssim(image, np.asarray(reference))
  assert 0.95 < value < 0.99
  assert time.process_time() - started < 5  # 0.3 s; machines differ


_NEW = """
import numpy as np
from pgsvc_jax.metrics import metric

METRICS = (
    metric.Metric(
        name='worst',
        title='Worst pixel',
        digits=3,
        higher_is_better=False,
        function=lambda *pair: np.ptp(np.subtract(*metric.comparable(*pair))),
    ),
)
"""


def test_a_metric_is_one_module(tmp_path):
  """One more file of the package is measured and printed like the others."""
  root = pathlib.Path(pgsvc_jax.__file__).parents[1]
  (tmp_path / 'worst.py').write_text(_NEW)
  program = (
      'import runpy, sys, pgsvc_jax;'
      'import importlib.util as u;'
      "package = u.find_spec('pgsvc_jax.metrics');"
      'module = u.module_from_spec(package);'
      "sys.modules['pgsvc_jax.metrics'] = module;"
      f'module.__path__.append({str(tmp_path)!r});'
      'package.loader.exec_module(module);'
      'verb = sys.argv.pop(1);'
      "runpy.run_module(f'launch.{verb}', run_name='__main__', alter_sys=True)"
  )

  def run(verb, *flags):
    return subprocess.run(
        [sys.executable, '-c', program, verb, *flags],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

  golden = 'tests/golden/v2_three_layers.pgsvc'
  layers = json.loads(run('info', f'--input={golden}', '--json'))['layers']
  assert [row['worst'] for row in layers] == [None] * 3
  document = pgsvc_jax.decode((root / golden).read_bytes())
  Image.fromarray(document.squeeze()).save(tmp_path / 'same.png')
  flags = [f'--input={golden}', f'--reference={tmp_path / "same.png"}']
  layers = json.loads(run('evaluate', *flags, '--json'))['layers']
  assert layers[0]['worst'] > 1e-3 > layers[-1]['worst']
  text = run('evaluate', *flags)
  assert 'Worst pixel' in text.splitlines()[0]
  assert text.splitlines()[-1].split()[-1] == '0.000'
  assert 'worst' in run('sweep', '--help')
