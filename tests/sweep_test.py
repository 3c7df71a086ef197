"""Sweeps: spaces, the queue that workers share, and whole runs."""

import csv
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import uuid

import numpy as np
import optuna
from PIL import Image
import psutil
import pytest
import sqlalchemy

from launch.lab.sweeps import slurm
from launch.lab.sweeps import space
from launch.lab.sweeps import summary
from launch.lab.sweeps import trials
from tests import report_test

ROOT = pathlib.Path(__file__).parents[1]

# In the place of `encode` and `evaluate`: no fit, but files and failures. With
# --config.fit.seed, the third trial waits at its first try for as long as its
# worker lives.
STUB = """
import json, os, pathlib, sys, time
verb, *words = sys.argv[1:]
flags = dict(word[2:].split('=', 1) for word in words if '=' in word)
if verb == 'evaluate':
  size = pathlib.Path(flags['input']).stat().st_size
  layer = {'bytes': size, 'bpp': size / 9, 'ms_ssim': None}
  layers = [layer | {'psnr_db': 20.0}, layer | {'psnr_db': 20 + size ** 0.5}]
  print(json.dumps({'layers': layers}))
  sys.exit()
folder = pathlib.Path(flags['workdir'])
if flags.get('config.fit.strategy') == 'bogus':
  sys.exit("encode: strategy 'bogus' is not one of many")
marker = folder / 'began'
waits = 'config.fit.seed' in flags and folder.name == '00002'
if waits and not marker.exists():
  marker.write_text(str(os.getppid()))
  os.read(0, 1)
size = 100 * int(flags['config.fit.num_births'])
pathlib.Path(flags['output']).write_bytes(bytes(size))
"""
WITH_STUB = f"""
import runpy, sys
from launch import command
def verb_line(verb, *words):
  if verb == 'sweep':
    return [sys.executable, '-c', sys.orig_argv[2], *words]
  return [sys.executable, '-IS', '-c', {STUB!r}, verb, *words]
command.verb_line = verb_line
sys.argv[0] = 'sweep'
runpy.run_module('launch.sweep', run_name='__main__')
"""


@pytest.fixture
def picture(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / 'picture.png')
  return tmp_path / 'picture.png'


def arguments(picture, *flags):
  return [
      f'--input={picture}',
      f'--study={picture.parent / "study"}',
      '--config=configs/image.py:smoke',
      '--lease=1',
      *flags,
  ]


def start(*flags, with_stub=True):
  program = ['-c', WITH_STUB] if with_stub else ['-m', 'launch.sweep']
  return subprocess.Popen(
      [sys.executable, *program, *flags],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
  )


def finish(process, status=0):
  out, error = process.communicate(timeout=600)
  assert process.returncode == status, error
  return out, error


def wait_for(path):
  deadline = time.monotonic() + 60
  while not (path.exists() and path.read_text()):
    assert time.monotonic() < deadline
    time.sleep(0.02)
  return path.read_text()


def results(folder):
  return json.loads((folder / 'results.json').read_text())


def tries_in_log(folder):
  """How often `encode` was run in each trial, by their logs."""
  return [
      path.read_text().count(' encode ')
      for path in sorted(folder.glob('trials/*/log.txt'))
  ]


def test_the_space_says_what_it_means():
  parameter = space.parse_parameter('log:0.05..0.5')
  assert (parameter.low, parameter.high, parameter.is_log) == (0.05, 0.5, True)
  assert not parameter.is_integer
  parameter = space.parse_parameter('int:4..48/4')
  assert (parameter.low, parameter.high, parameter.step) == (4, 48, 4)
  choices = space.parse_parameter('(400,200),(300,300),0.5,7,joint').values
  assert choices == ('(400,200)', '(300,300)', 0.5, 7, 'joint')
  points = space.grid({'a': space.parse_parameter('0.1..0.3/0.1')})
  np.testing.assert_allclose([x['a'] for x in points], [0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    'text',
    ['5..1', 'log:0..1', 'int:1.5..4', 'log:1..8/2', '1..', 'a,,b', 'a,a'],
)
def test_what_is_no_parameter_is_refused(text):
  with pytest.raises(ValueError, match='.'):
    space.parse_parameter(text)


def test_spaces_come_from_files(tmp_path):
  values = {'fit.num_births': 'int:1..9', 'fit.layer_splats': [[40, 20], [9]]}
  (tmp_path / 'a.json').write_text(json.dumps(values))
  (tmp_path / 'b.py').write_text(f'def get_space():\n  return {values}')
  read = space.read([str(tmp_path / 'a.json')])
  assert read == space.read([str(tmp_path / 'b.py')])
  assert read['fit.layer_splats'] == '(40,20),(9,)'


@pytest.mark.parametrize(
    'text, message',
    [
        ('fit.num_birth=int:1..2', 'did you mean fit.num_births'),
        ('fit.num_births=1..2', 'takes integers'),
        ('fit.num_births=2,2.5', 'takes integers'),
        ('fit.strategy=1..2', 'takes choices'),
        ('fit.means_rate=fast,slow', 'takes numbers'),
    ],
)
def test_fields_are_checked(text, message):
  fields = {'fit.num_births': 3, 'fit.strategy': 'joint', 'fit.means_rate': 0.1}
  parameters = {
      name: space.parse_parameter(values)
      for name, values in space.read([text]).items()
  }
  with pytest.raises(ValueError, match=message):
    space.check(parameters, fields)


def test_the_front_is_what_nothing_beats():
  rng = np.random.default_rng(1)
  # Few values: ties, and points twice.
  points = rng.integers(0, 5, (60, 3))
  rows = [dict(zip(('bytes', 'psnr', 'seconds'), map(int, x))) for x in points]
  signs = np.array([1, -1, 1])
  costs = points * signs
  expected = {
      i
      for i, a in enumerate(costs)
      if not any((b <= a).all() and (b < a).any() for b in costs)
  }
  objectives = {'bytes': False, 'psnr': True, 'seconds': False}
  assert summary.pareto(rows, objectives) == expected
  assert 1 < len(expected) < 60


def test_a_plan_says_what_it_lacks():
  parameters = {'x': space.parse_parameter('0.1..1')}
  with pytest.raises(ValueError, match='range with a step'):
    trials.plan('grid', parameters, None, 0)
  with pytest.raises(ValueError, match='--trials is needed'):
    trials.plan('tpe', parameters, None, 0)


@pytest.fixture
def database():
  """An empty database of the PostgreSQL server that PGSVC_POSTGRESQL names.

  PGSVC_POSTGRESQL=postgresql+psycopg://USER@HOST/postgres, of a USER who may
  create databases.
  """
  server = os.environ.get('PGSVC_POSTGRESQL')
  if not server:
    pytest.skip('no PGSVC_POSTGRESQL')
  url = sqlalchemy.make_url(server)
  name = f'pgsvc_{uuid.uuid4().hex}'
  engine = sqlalchemy.create_engine(
      url, isolation_level='AUTOCOMMIT', poolclass=sqlalchemy.NullPool
  )
  with engine.connect() as connection:
    connection.exec_driver_sql(f'CREATE DATABASE {name}')
  yield url.set(database=name).render_as_string(hide_password=False)
  with engine.connect() as connection:
    connection.exec_driver_sql(f'DROP DATABASE {name}')


@pytest.fixture(
    params=['sqlite', 'journal', pytest.param('server', marks=pytest.mark.slow)]
)
def storage(request):
  if request.param == 'server':
    return request.getfixturevalue('database')
  return request.param


def make_queue(
    folder, storage, num_trials=3, sampler='random', fields=('fit.num_births',)
):
  texts = dict.fromkeys(fields, 'int:1..99')
  definition = trials.Definition(
      config={},
      inputs={},
      space=texts,
      sampler=sampler,
      objectives=('bytes', 'psnr'),
      seed=0,
      lease=30,
  )
  files = {
      'sqlite': f'sqlite:///{folder / "db"}',
      'journal': str(folder / 'log'),
  }
  place = files.get(storage, storage)
  parameters = {
      name: space.parse_parameter(text) for name, text in texts.items()
  }
  planned = trials.plan(sampler, parameters, num_trials, 0)
  study = trials.open_study(place, 'study', definition)
  return trials.Queue(study, definition, planned)


def test_a_silent_trial_is_tried_again(tmp_path, storage, monkeypatch):
  now = [100.0]
  monkeypatch.setattr(trials.time, 'monotonic', lambda: now[0])
  ours = make_queue(tmp_path, storage, num_trials=2)
  others = make_queue(tmp_path, storage, num_trials=2)
  trial = others.claim()
  params, index = trial.params, trial.user_attrs['slot']
  finished = ours.claim()
  finished.set_user_attr('measured', {})
  finished.study.tell(finished, [1, 1])
  for seconds in (10.0, 20.0, 30.0):  # It counts on: nothing is taken away.
    now[0] += 25
    trial.set_user_attr('seconds', seconds)
    assert ours.claim() is None
  now[0] += 29
  assert ours.claim() is None
  now[0] += 2
  again = ours.claim()
  assert again.params == params
  assert again.user_attrs == {'slot': index, 'seconds': 30.0}
  with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
    trial.set_user_attr('seconds', 40.0)
  assert [slot.num_tries for slot in ours.slots()] == [2, 1]


def test_a_trial_that_kills_its_workers_is_given_up(tmp_path, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(trials.time, 'monotonic', lambda: now[0])
  queue = make_queue(tmp_path, 'journal', num_trials=1)
  for _ in range(3):
    assert queue.claim() is not None
    assert queue.claim() is None
    now[0] += 31
  assert queue.claim() is None
  (slot,) = queue.slots()
  assert slot.state == 'failed' and 'died' in slot.reason


@pytest.mark.parametrize('kept', [1, 10, -1])
def test_a_journal_cut_within_its_last_record_goes_on(tmp_path, kept):
  def work(queue):
    trial = queue.claim()
    trial.set_user_attr('measured', {})
    trial.study.tell(trial, [1, 1])

  before = make_queue(tmp_path, 'journal')
  work(make_queue(tmp_path, 'journal'))
  path = tmp_path / 'log'
  data = path.read_bytes()
  last = data.rstrip(b'\n').rfind(b'\n') + 1
  path.write_bytes(data[: last + kept] if kept > 0 else data[:kept])
  # A worker that was there before, and one that comes now.
  work(before)
  work(make_queue(tmp_path, 'journal'))
  states = [slot.state for slot in make_queue(tmp_path, 'journal').slots()]
  assert sorted(states) == ['finished', 'finished', 'running']
  assert list(map(json.loads, path.read_text().splitlines()))


def test_workers_claim_every_trial_once(tmp_path, storage):
  claimed, errors = [], []
  barrier = threading.Barrier(3)

  def work():
    try:
      barrier.wait()
      queue = make_queue(tmp_path, storage, num_trials=9)
      while (trial := queue.claim()) is not None:
        claimed.append(trial.user_attrs['slot'])
        trial.set_user_attr('measured', {})
        trial.study.tell(trial, [1, 1])
    except Exception as error:
      errors.append(error)

  threads = [threading.Thread(target=work) for _ in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not errors
  assert sorted(claimed) == list(range(9))


@pytest.mark.parametrize(
    'url, message',
    [
        # What is wrong depends on whether the driver is installed.
        ('postgresql+psycopg://me:secret@127.0.0.1:1/x', 'psycopg|refused'),
        ('postgresql+psycopg://me:secret@127.0.0.1:5432x/x', 'invalid'),
        ('postgresq://me:secret@127.0.0.1/x', 'plugin'),
    ],
)
def test_a_database_that_cannot_be_opened_is_one_line(picture, url, message):
  flags = arguments(picture, '--space=fit.num_births=1,2', '--sampler=grid')
  _, error = finish(start(*flags, f'--storage={url}'), 1)
  (line,) = error.splitlines()
  assert line.startswith('sweep: cannot open postgres') and 'secret' not in line
  assert re.search(message, line.partition('127.0.0.1')[2])


def test_a_storage_that_is_lost_is_one_line(tmp_path):
  queue = make_queue(tmp_path, 'sqlite')
  assert queue.claim() is not None
  # The connection stays open, as to a server that has gone.
  with open(tmp_path / 'db', 'r+b') as file:
    file.write(b'no database' * 10_000)
  with pytest.raises(ConnectionError, match='the same command goes on') as info:
    with trials.reaching(f'sqlite:///{tmp_path / "db"}'):
      queue.claim()
  assert len(str(info.value).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize('sampler, number', [('tpe', 60), ('nsga2', 200)])
def test_samplers_learn_from_trials(tmp_path, sampler, number):
  values = []
  for num_trials in (number // 2, number):  # Prolonged half-way.
    # NSGA-II mutates one field in so many: of one alone it would learn nothing.
    queue = make_queue(tmp_path, 'journal', num_trials, sampler, 'abcd')
    while (trial := queue.claim()) is not None:
      values.append(np.mean(list(trial.params.values())))
      trial.set_user_attr('measured', {})
      trial.study.tell(trial, [values[-1], 1])
  assert len(values) == number
  # Chance stays at 50, give or take 3 for the mean of so many.
  assert np.mean(values[-30:]) < 35


def test_random_trials_are_one_sequence():
  parameters = {'x': space.parse_parameter('log:0.1..10')}
  longer = trials.plan('random', parameters, 9, 5)
  assert trials.plan('random', parameters, 4, 5) == longer[:4]
  assert trials.plan('random', parameters, 4, 6) != longer[:4]
  assert len({x['x'] for x in longer}) == 9


@pytest.mark.parametrize(
    'storage',
    [
        'journal',
        pytest.param('sqlite', marks=pytest.mark.slow),
        pytest.param('server', marks=pytest.mark.slow),
    ],
    indirect=True,
)
def test_two_workers_one_killed_and_all_trials_finish(picture, storage):
  study = picture.parent / 'study'
  flags = arguments(
      picture,
      '--space=fit.num_births=int:1..40 fit.means_rate=log:0.1..0.5',
      '--trials=12',
      '--objectives=bytes,psnr,seconds',
      '--config.fit.seed=1',
      f'--storage={storage}',
  )
  workers = [start(*flags) for _ in range(2)]
  victim = int(wait_for(study / 'trials' / '00002' / 'began'))
  (killed,) = (worker for worker in workers if worker.pid == victim)
  (other,) = (worker for worker in workers if worker.pid != victim)
  killed.kill()
  killed.communicate()
  out, error = finish(other)
  rows = results(study)['trials']
  assert [row['state'] for row in rows] == ['finished'] * 12
  tries = [1, 1, 2] + [1] * 9
  assert [row['tries'] for row in rows] == tries_in_log(study) == tries
  # By the stub: what is said is what was measured of the file of the trial.
  for row in rows:
    size = 100 * row['params']['fit.num_births']
    assert (row['bytes'], row['psnr']) == (size, 20 + size**0.5)
  with open(study / 'trials.csv') as file:
    table = list(csv.DictReader(file))
  assert [float(row['bytes']) for row in table] == [x['bytes'] for x in rows]
  assert 'of 12: trial 00002' in error and 'front of' in error
  assert len(out.splitlines()) == 13
  for name in ('pareto.png', 'parameters.png'):
    with Image.open(study / name) as image:
      # More than paper: points and axes.
      assert min(image.size) > 300 and len(np.unique(image)) > 9


def write_results(folder, objectives, psnrs, reason=''):
  """What a sweep leaves: trials of a growing size, and one that failed."""
  slot = lambda index, state, measured: trials.Slot(
      index=index,
      state=state,
      params={'fit.num_births': 7 + index, 'fit.strategy': 'joint'},
      measured=measured,
      seconds=1.0,
      num_tries=1,
      reason=reason if state == 'failed' else '',
  )
  slots = [
      slot(i, 'finished', {'bytes': 1000 + i, 'psnr': psnr, 'seconds': 2.0})
      for i, psnr in enumerate(psnrs)
  ]
  slots.append(slot(len(psnrs), 'failed', {}))
  definition = {
      'config': {'fit.num_steps': 54321, 'fit.num_births': 1},
      'inputs': {'a <b>.png': ''},
      'space': {'fit.num_births': 'int:4..20', 'fit.strategy': 'joint,prune'},
      'sampler': 'random',
      'objectives': objectives,
  }
  rows = summary.make_rows(slots, summary.directions(objectives))
  summary.write(folder, definition, rows)
  return rows


def report(folder):
  output = folder / 'sweep.html'
  report_test.run('report', f'--input={folder}', f'--output={output}')
  return output.read_text()


def test_the_report_has_the_table_and_the_plots(tmp_path):
  reason = 'it is <i>not</i> possible'
  write_results(tmp_path, ['psnr', 'bytes'], [30.5, 32.5, 31.5], reason)
  text = report(tmp_path)
  parsed = report_test.Page(text)
  assert parsed.tags.count('svg') == 2 and '://' not in text
  assert len(set(parsed.ids)) == len(parsed.ids)
  for words in ('4 trials (3 finished, 1 failed)', 'a <b>.png', reason):
    assert words in parsed.text
  # Settings are said once: what was varied, and the rest.
  assert 'int:4..20' in parsed.text and '54321' in parsed.text
  rows = re.findall(r'<tr><td>(\d{5})</td><td>(\*?)</td>', text)
  assert rows == [('00001', '*'), ('00002', ''), ('00000', '*')]


def test_the_report_of_a_sweep_that_has_just_begun(tmp_path):
  write_results(tmp_path, ['bytes'], [])
  parsed = report_test.Page(report(tmp_path))
  assert 'No trial is finished' in parsed.text and 'svg' not in parsed.tags


@pytest.mark.parametrize('part', ['definition', 'trials'])
def test_the_report_refuses_what_lacks_a_part(tmp_path, part):
  write_results(tmp_path, ['bytes'], [30.0])
  path = tmp_path / 'results.json'
  document = json.loads(path.read_text())
  lost = {'definition': 'space', 'trials': 'params'}[part]
  holder = document[part]
  del (holder if isinstance(holder, dict) else holder[0])[lost]
  with pytest.raises(ValueError, match=f"not results of .sweep. .no '{lost}'"):
    summary.check(document, str(path))


@pytest.mark.slow
def test_real_trials_are_ordinary_runs_of_encode(picture):
  y, x = np.mgrid[:48, :64] / 9
  waves = np.stack([np.sin(x + c) * np.cos(y - c) for c in range(3)], -1)
  pixels = np.round(127.5 + 100 * waves).astype(np.uint8)
  Image.fromarray(pixels).save(picture)
  study = picture.parent / 'study'
  flags = arguments(
      picture,
      '--space=fit.num_births=int:1..6 fit.means_rate=log:0.1..0.5',
      '--space=fit.strategy=joint,sequential',
      '--config.fit.layer_splats=(30,15)',
      '--trials=12',
      '--num_devices=1',
  )
  workers = [start(*flags, with_stub=False) for _ in range(2)]
  log = study / 'trials' / '00002' / 'log.txt'
  while not (log.exists() and 'step' in log.read_text()):
    assert all(worker.poll() is None for worker in workers)
    time.sleep(0.05)
  (killed,) = (
      worker
      for worker in workers
      for child in psutil.Process(worker.pid).children()
      if str(log.parent) in ' '.join(child.cmdline())
  )
  killed.kill()
  killed.communicate()
  (other,) = (worker for worker in workers if worker is not killed)
  finish(other)
  rows = results(study)['trials']
  assert [row['state'] for row in rows] == ['finished'] * 12
  assert [row['tries'] for row in rows] == [1, 1, 2] + [1] * 9
  assert (study / 'pareto.png').exists()
  file = log.parent / 'picture.pgsvc'
  assert rows[2]['bytes'] == file.stat().st_size
  # The command in the log, elsewhere, writes the same file.
  *_, line = (x for x in log.read_text().splitlines() if '.encode ' in x)
  line = line.removeprefix('$ ').replace(str(log.parent), str(picture.parent))
  subprocess.run(shlex.split(line), cwd=ROOT, capture_output=True, check=True)
  assert (picture.parent / file.name).read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_interrupted_goes_on_and_failures_are_kept(picture):
  study = picture.parent / 'study'
  flags = arguments(
      picture,
      '--sampler=grid',
      '--space=fit.strategy=joint,bogus',
      '--space=fit.num_births=3,4',
      '--storage=journal',
      '--config.fit.seed=1',
  )
  worker = start(*flags, '--space=fit.num_steps=1,2')
  wait_for(study / 'trials' / '00002' / 'began')
  worker.send_signal(signal.SIGINT)
  _, error = finish(worker, 130)
  assert error.splitlines()[-1].endswith('the same command goes on')
  out, error = finish(start(*flags, '--space=fit.num_steps=1,2'))
  rows = results(study)['trials']
  assert [row['state'] for row in rows] == ['finished', 'failed'] * 4
  assert [row['tries'] for row in rows] == [1, 1, 2, 1, 1, 1, 1, 1]
  reasons = {row['reason'] for row in rows[1::2]}
  assert reasons == {"strategy 'bogus' is not one of many"}
  assert out.count('failed: strategy') == 4 and '8 of 8' in error

  # Nothing is left to do.
  again, _ = finish(start(*flags, '--space=fit.num_steps=1,2'))
  assert again == out and tries_in_log(study) == [1, 1, 2, 1, 1, 1, 1, 1]
  # Nor would another sweep find a place here.
  _, error = finish(start(*flags, '--space=fit.num_steps=1,3'), 1)
  assert 'of another sweep: space fit.num_steps is 1,2 there, 1,3 here' in error
  assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--space=fit.num_birth=1,2'], 'did you mean fit.num_births'),
        (['--space=fit.num_births=1,2', '--objectives=beauty'], 'beauty'),
    ],
)
def test_what_cannot_be_swept_is_one_line(picture, flags, message):
  _, error = finish(start(*arguments(picture, *flags)), 1)
  (line,) = error.splitlines()
  assert line.startswith('sweep: ') and message in line
  assert not (picture.parent / 'study').exists()


def test_children_do_not_outlive_their_parent(tmp_path):
  child = (
      'import os, time; from launch import children\n'
      'children.end_with_parent(); print(os.getpid(), flush=True)\n'
      'time.sleep(60)'
  )
  parent = (
      'import sys, time; from launch import children\n'
      f'with open({str(tmp_path / "pid")!r}, "w") as file:\n'
      f'  children.start([sys.executable, "-c", {child!r}], file, None)\n'
      '  time.sleep(60)'
  )
  process = subprocess.Popen([sys.executable, '-c', parent], cwd=ROOT)
  pid = int(wait_for(tmp_path / 'pid'))
  process.kill()
  process.wait()
  deadline = time.monotonic() + 20
  with pytest.raises(ProcessLookupError):
    while time.monotonic() < deadline:
      os.kill(pid, 0)
      time.sleep(0.05)


def test_missing_packages_are_named(picture):
  program = f'import sys; sys.modules["optuna"] = None\n{WITH_STUB}'
  line = [sys.executable, '-c', program]
  line += arguments(picture, '--space=fit.num_births=1,2', '--sampler=grid')
  result = subprocess.run(
      line, cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert result.returncode == 1
  assert (
      result.stderr == "sweep: needs optuna: pip install 'pgsvc_jax[sweep]'\n"
  )


@pytest.mark.slow
def test_jobs_of_a_cluster_are_workers(picture):
  study = picture.parent / 'study'
  flags = arguments(
      picture, '--space=fit.num_births=int:1..40', '--trials=2', '--sampler=tpe'
  )
  jobs = ['--slurm=2', '--slurm_cluster=local']
  _, error = finish(start(*flags, *jobs, '--slurm_options=timeout_min=5'))
  assert 'submitted 2 workers' in error
  # Any worker ends when all trials have: this one, whoever does them.
  finish(start(*flags))
  assert [row['state'] for row in results(study)['trials']] == ['finished'] * 2
  job, _ = sorted(study.glob('slurm/*_0_log.out'))
  deadline = time.monotonic() + 60
  while 'bytes' not in job.read_text():  # The table that a worker ends with.
    assert time.monotonic() < deadline
    time.sleep(0.2)
  _, error = finish(start(*flags, *jobs, '--slurm_options=beauty=5'), 1)
  assert 'beauty' in error and len(error.splitlines()) == 1


def test_jobs_get_the_flags_of_a_worker():
  words = [
      '--slurm=2',
      '--study=a',
      '--slurm_cluster',
      'local',
      '--trials',
      '9',
  ]
  assert slurm._worker_flags(words) == ['--study=a', '--trials', '9']
