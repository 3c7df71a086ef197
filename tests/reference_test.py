"""The API reference can be built, and shows what the sources say."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_the_reference_shows_names_settings_and_modules(tmp_path):
  subprocess.run(
      [sys.executable, '-W', 'error', 'docs/reference.py', str(tmp_path)],
      cwd=ROOT,
      check=True,
  )
  page = (tmp_path / 'pgsvc_jax.html').read_text()
  for name in ('encode', 'fit_picture', 'composite', 'LayeredSplats'):
    assert f'id="{name}"' in page
  # A comment in config.py, one for three fields, and no boilerplate.
  assert 'means_rate, cholesky_rate, colors_rate' in page
  assert 'thinner splats fall between pixel centres' in page
  assert 'Alias for field number' not in page
  for path in ('pgsvc_jax/training/train', 'pallas_kernels/dispatch', 'index'):
    assert (tmp_path / f'{path}.html').exists()
