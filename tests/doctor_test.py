"""launch.doctor: what it finds here, and how it tells of failures."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from launch import doctor
import pallas_kernels
from pallas_kernels import xla

ROOT = pathlib.Path(__file__).parents[1]


def run(*flags, **environment):
  result = subprocess.run(
      [sys.executable, '-m', 'launch.doctor', *flags],
      cwd=ROOT,
      env=os.environ | environment,
      capture_output=True,
      text=True,
      check=False,
  )
  assert 'Traceback' not in result.stdout + result.stderr
  return result


@pytest.fixture
def report(monkeypatch):
  """A report on `xla` alone, to be filled with one small scene."""
  monkeypatch.setattr(doctor, '_SCENES', (((6, 4), 9, 11, 1),))
  monkeypatch.setattr(
      pallas_kernels, 'default_implementations', lambda platform: ('xla',)
  )
  monkeypatch.setattr(pallas_kernels, 'IMPLEMENTATIONS', ('xla',))
  return {'implementations': [], 'checks': []}


def test_a_sound_machine_passes():
  result = run('--json')
  document = json.loads(result.stdout)
  assert result.returncode == 0 and document['passed'], result.stdout
  assert {'jax', 'jaxlib', 'numba', 'numpy', 'optax'} <= set(
      document['versions']
  )
  assert document['devices']
  memory = document['memory']
  assert 0 < memory['available_bytes'] <= memory['total_bytes']
  assert {row['compiler'] for row in document['caches']} == {'xla', 'numba'}
  platform = document['devices'][0]['platform']
  default = [x for x in document['implementations'] if x['default']]
  assert [x['platform'] for x in default] == [platform]
  checked = {check['name'] for check in document['checks']}
  available = {
      x['name'] for x in document['implementations'] if not x['reason']
  }
  assert 'reference' in available
  assert checked == {'file round trip'} | {
      f'{name} on {platform}' for name in available - {'reference'}
  }


def test_no_device_is_a_line_and_a_status():
  result = run(JAX_PLATFORMS='no-such-platform')
  assert result.returncode == 1
  assert 'FAIL devices' in result.stdout
  assert 'PASS file round trip' in result.stdout
  assert result.stdout.splitlines()[-1] == '1 FAILED'


def test_a_wrong_implementation_fails(report, monkeypatch):
  right = xla.composite
  monkeypatch.setattr(xla, 'composite', lambda *args: 1.001 * right(*args))
  doctor._check_operator(report, 'cpu')
  (check,) = report['checks']
  assert check['name'] == 'xla on cpu' and not check['passed']
  assert 'images 1e-03' in check['detail']


def test_one_that_breaks_fails_with_the_reason(report, monkeypatch):
  def broken(*args):
    raise TypeError('no such\ninstruction')

  monkeypatch.setattr(xla, 'composite', broken)
  doctor._check_operator(report, 'cpu')
  (check,) = report['checks']
  assert not check['passed']
  assert check['detail'] == 'TypeError no such instruction'


def test_not_a_number_fails(monkeypatch):
  rows = [('images', 0.0), ('images', np.nan), ('images', 0.0)]
  monkeypatch.setattr(doctor, '_compare', lambda *args: rows)
  with pytest.raises(ArithmeticError, match='images nan'):
    doctor._compare_all('xla')


def test_one_that_cannot_is_no_failure(report, monkeypatch):
  def unable(*args):
    raise NotImplementedError('not on Mondays')

  monkeypatch.setattr(xla, 'composite', unable)
  doctor._check_operator(report, 'cpu')
  (row,) = report['implementations']
  assert not report['checks']
  assert row['reason'] == 'xla: not on Mondays' and not row['default']
