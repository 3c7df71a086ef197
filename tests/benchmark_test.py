"""The benchmark: what it times, its document, its picture; never how long."""

import io
import json

import jax
from jax import numpy as jnp
from PIL import Image
import pytest

from launch.lab.benchmarks import cases
from launch.lab.benchmarks import measure
from launch.lab.benchmarks import plots as cost_plots
from launch.lab.benchmarks import timing
from launch.lab.benchmarks import tune
from launch.lab.benchmarks import workloads
import pallas_kernels
from tests import launch_test

TINY = workloads.Shape(height=21, width=37, layer_sizes=(9, 0, 7))


def test_bytes_are_inputs_once_and_outputs_once():
  pixels, splats = TINY.height * TINY.width, TINY.num_splats
  num_bytes = lambda case: cases.make_program(
      case, TINY, 'reference', jax.local_devices()[:2]
  ).num_bytes
  assert num_bytes('render') == 4 * (8 * splats + 3 * pixels)
  assert num_bytes('forward') == 4 * (8 * splats + 9 * pixels)
  assert num_bytes('backward') == 4 * (16 * splats + 9 * pixels)
  assert num_bytes('error_gradient') == 4 * (16 * splats + 4 * pixels + 7)


def test_off_cpu_a_sample_is_a_queue_of_calls(monkeypatch):
  function, x = jax.jit(lambda x: x + 1), jnp.zeros(3)
  assert timing.time_program(function, (x,), samples=2).calls == 1
  monkeypatch.setattr(timing.jax, 'default_backend', lambda: 'gpu')
  time = timing.time_program(function, (x,), samples=2)
  assert time.calls > 1 and time.dispatch_ms is not None
  assert time.cores is None


def test_sweeps_vary_one_thing():
  centre = workloads.SHAPES['kodak-9k']
  points = workloads.make_sweeps(centre, 6)
  found = {}
  for point in points:
    found.setdefault(point.sweep, []).append(point.value)
  assert list(found) == ['pixels', 'splats', 'layers', 'devices']
  assert all(values == sorted(set(values)) for values in found.values())
  assert found['devices'] == [1, 2, 4, 6]
  assert all(
      point.shape.num_splats == centre.num_splats
      for point in points
      if point.sweep != 'splats'
  )


def test_the_picture_has_a_panel_a_sweep():
  rows = [
      {
          'sweep': point.sweep,
          'value': point.value,
          'implementation': name,
          'case': point.case,
          'median_ms': point.value,
          'low_ms': 0.9 * point.value,
          'high_ms': 1.1 * point.value,
      }
      for name in ('cpu', 'xla')
      for point in workloads.make_sweeps(TINY, 2)
  ]
  with Image.open(io.BytesIO(cost_plots.draw(rows, 'head'))) as image:
    assert image.format == 'PNG' and image.size == (1600, 420)


@pytest.mark.slow
def test_json_is_one_document():
  result = launch_test.run(
      'benchmark',
      '--shapes=thumbnail',
      '--implementations=cpu',
      '--repeats=2',
      '--cases=render,backward,error_gradient,train_step,step_rest,fit',
      '--fit_steps=10',
      '--num_devices=2',
      '--json',
  )
  document = json.loads(result.stdout)
  assert document['command'].startswith('python -m launch.benchmark --shapes')
  assert document['platform'] == 'cpu' and document['driver'] is None
  assert document['device'] and document['num_devices'] == 2
  assert {'jax', 'jaxlib', 'python', 'numba'} <= set(document['versions'])
  assert 'commit' in document
  assert set(document['ceilings_per_second']) == {'1', '2'}
  for ceilings in document['ceilings_per_second'].values():
    assert all(ceilings[name] > 0 for name in ('fma', 'exp', 'num_bytes'))
  rows = {row['case']: row for row in document['times']}
  assert list(rows) == [
      'render',
      'backward',
      'error_gradient',
      'train_step',
      'step_rest',
      'fit',
  ]
  for row in rows.values():
    assert row['shape'] == 'thumbnail' and row['implementation'] == 'cpu'
    assert 0 < row['low_ms'] <= row['median_ms'] <= row['high_ms']
    assert row['compile_ms'] > 0 and row['lower_ms'] > 0
  assert [row['num_devices'] for row in rows.values()] == [1, 1, 1, 2, 2, 2]
  for case in ('render', 'backward', 'error_gradient', 'train_step'):
    row = rows[case]
    assert all(row[f'{x}_share'] > 0 for x in ('exp', 'fma', 'bytes'))
    assert row['evaluations'] > row['weights'] > 0 < row['flops']
  assert rows['step_rest']['exp_share'] == 0 < rows['step_rest']['bytes_share']
  assert 'weights' not in rows['fit']


@pytest.mark.slow
def test_plot_draws_and_prints_the_sweeps(tmp_path):
  file = tmp_path / 'costs.png'
  result = launch_test.run(
      'benchmark',
      '--shapes=thumbnail',
      '--implementations=cpu',
      '--repeats=2',
      '--num_devices=1',
      '--markdown',
      f'--plot={file}',
  )
  with Image.open(file) as image:
    assert image.format == 'PNG'
  command, head, _, rule, *rows = [
      line for line in result.stdout.splitlines() if line.strip('`')
  ]
  assert command.startswith('python -m launch.benchmark --shapes=thumbnail')
  assert 'jax ' in head and 'ceilings' in head
  assert len(rows) == 15
  assert {row.count('|') for row in (rule, *rows)} == {rule.count('|')}


@pytest.mark.parametrize(
    'flags,what',
    [
        (['--shapes=stamp'], "unknown shape 'stamp'"),
        (['--cases=decode'], "unknown case 'decode'"),
        (['--repeats=1'], '--repeats'),
        (['--json', '--markdown'], 'give one'),
        (['--plot=x.jpg'], 'must end in .png'),
        (['--plot=no/folder/x.png'], 'no folder'),
        (['--plot=x.png', '--cases=fit'], 'no --cases'),
        (['--plot=x.png', '--shapes=thumbnail,kodak-9k'], 'one of --shapes'),
    ],
)
def test_wrong_flags_are_one_line(flags, what):
  result = launch_test.run('benchmark', *flags, status=1)
  assert result.stdout == '' and len(result.stderr.splitlines()) == 1
  assert what in result.stderr


def test_wrong_implementations_are_refused():
  devices = jax.local_devices()
  with pytest.raises(ValueError, match="unknown implementation 'best'"):
    measure.table_jobs(['thumbnail'], ['best'], ['render'], devices)
  with pytest.raises(ValueError, match='reference is dense'):
    measure.plot_jobs('kodak-9k', ['reference'], devices)


def test_default_implementations_suit_the_shape():
  jobs = measure.table_jobs(
      ['thumbnail', 'kodak-9k'], None, ['render'], jax.local_devices()
  )
  names = {'thumbnail': [], 'kodak-9k': []}
  for job in jobs:
    names[job.labels['shape']].append(job.implementation)
  assert names['kodak-9k'] == [*pallas_kernels.default_implementations('cpu')]
  assert names['thumbnail'] == [*names['kodak-9k'], 'reference']


@pytest.mark.slow
def test_tune_measures_variants_in_the_interpreter():
  shape = workloads.Shape(height=20, width=24, layer_sizes=(3, 2))
  names, tunings = zip(*tune.variants(), strict=True)
  assert names[0] == 'default' and len(set(tunings)) == len(names)
  times = tune.measure(shape, tunings[1], 'cpu', samples=2)
  assert set(times) == {'render', 'error_gradient'}
  assert all(time.median_ms > 0 for time in times.values())


def test_tune_needs_a_cuda_device():
  result = launch_test.run('benchmark', '--tune', status=1)
  assert 'needs a CUDA device' in result.stderr
