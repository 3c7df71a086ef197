"""Tries settings over any field of the config, on one machine or many.

python -m launch.sweep --input=PICTURE --config=configs/image.py:fast \
    --study=FOLDER --sampler=random --trials=12 \
    --space='fit.means_rate=log:0.05..0.5 fit.strategy=joint,sequential'

Every trial is an ordinary `encode`, in FOLDER/trials/NNNNN with its file, its
records and log.txt; figures are of the written file, decoded by `evaluate`.
More workers are more copies of the same command, at any time. The command ends
when every trial is finished or has failed, and goes on where it, or any worker,
was stopped. Writes results.json, trials.csv, pareto.png and parameters.png, and
prints a table.
"""

import hashlib
import pathlib
import sys
import time
from typing import Any

from absl import flags
from ml_collections import config_flags

from pgsvc_jax import config as config_lib
from pgsvc_jax import media

from . import command
from . import progress
from .lab.sweeps import space
from .lab.sweeps import summary

_INPUT = flags.DEFINE_multi_string(
    'input',
    None,
    'picture, or folder of pictures; figures are means over all of them',
    required=True,
)
_STUDY = flags.DEFINE_string(
    'study',
    None,
    'folder of the study; in a database, its last part names the study',
    required=True,
)
_CONFIG = command.define_config()
flags.declare_key_flag('config')
_SPACE = flags.DEFINE_multi_string(
    'space',
    None,
    'FIELD=a,b,c, FIELD=LOW..HIGH[/STEP], log:LOW..HIGH, int:LOW..HIGH[/STEP]'
    ' or logint:LOW..HIGH, several in one string or by several flags; or a'
    ' .json or .py file',
    required=True,
)
_SAMPLER = flags.DEFINE_enum(
    'sampler', 'random', ['grid', 'random', 'tpe', 'nsga2'], 'who chooses'
)
_TRIALS = flags.DEFINE_integer(
    'trials',
    None,
    'in all; a larger number prolongs a study. A grid has as many as it has'
    ' points',
    lower_bound=1,
)
_OBJECTIVES = flags.DEFINE_list(
    'objectives',
    ['bytes', 'psnr'],
    f'of {", ".join(summary.FIGURES)}: of whole files, base_psnr of the base'
    ' layer; seconds are those of encode',
)
_SEED = flags.DEFINE_integer('seed', 0, 'of --sampler=random')
_STORAGE = flags.DEFINE_string(
    'storage',
    'sqlite',
    'what workers share: sqlite, a file in the folder, for one machine;'
    ' journal, a file in the folder, for several on a shared file system; or'
    ' the URL of a database, such as postgresql+psycopg://USER@HOST/NAME',
)
_LEASE = flags.DEFINE_float(
    'lease',
    60,
    'seconds after which the trial of a silent worker is given to another',
    lower_bound=1,
)
_NUM_DEVICES = flags.DEFINE_integer(
    'num_devices', 0, 'devices of every encode; 0: all', lower_bound=0
)
_SLURM = flags.DEFINE_integer(
    'slurm', None, 'submit so many workers as jobs, and leave', lower_bound=1
)
_SLURM_OPTIONS = flags.DEFINE_list(
    'slurm_options',
    [],
    "of submitit's update_parameters: timeout_min=240,slurm_partition=gpu,...",
)
_SLURM_CLUSTER = flags.DEFINE_enum(
    'slurm_cluster',
    'slurm',
    ['slurm', 'local'],
    'local: processes on this machine, to try things out',
)
flags.declare_key_flag('cache')

_SECONDS_BETWEEN_LOOKS = 2.0


def _list_pictures() -> list[pathlib.Path]:
  """Files, and those in folders, without hidden."""
  pictures = []
  for name in _INPUT.value:
    path = pathlib.Path(name)
    if path.is_dir():
      pictures += sorted(
          file
          for file in path.iterdir()
          if file.is_file() and not file.name.startswith('.')
      )
    else:
      pictures.append(path)
  if not pictures:
    raise ValueError(f'no pictures in {", ".join(_INPUT.value)}')
  stems = [picture.stem for picture in pictures]
  for stem in stems:
    if stems.count(stem) > 1:
      raise ValueError(f'several pictures would become {stem}.pgsvc')
  for picture in pictures:
    with command.about(str(picture)):
      media.read_picture(picture)
  return pictures


def _list_objectives() -> dict[str, bool]:
  """Whether each is to be maximized."""
  names = _OBJECTIVES.value
  for name in names:
    if name not in summary.FIGURES:
      raise ValueError(
          f'--objectives: no {name!r}, there are {", ".join(summary.FIGURES)}'
      )
  if not names or len(set(names)) < len(names):
    raise ValueError('--objectives: none, or one twice')
  return summary.directions(names)


def _encode_flags() -> list[str]:
  """What every trial has in common."""
  flag = flags.FLAGS['config']
  result = [f'--config={config_flags.get_config_filename(flag)}']
  for name, value in config_flags.get_override_values(flag).items():
    result.append(f'--config.{name}={value}')
  if _NUM_DEVICES.value:
    result.append(f'--num_devices={_NUM_DEVICES.value}')
  return result


def _storage(folder: pathlib.Path) -> str:
  """The file of a journal, or the URL of a database."""
  if _STORAGE.value == 'journal':
    return str(folder / 'journal.log')
  if _STORAGE.value == 'sqlite':
    return f'sqlite:///{folder.resolve() / "study.db"}'
  if '://' not in _STORAGE.value:
    raise ValueError(
        f'--storage={_STORAGE.value}: sqlite, journal, or the URL of a database'
    )
  return _STORAGE.value


def _import_trials() -> Any:
  # The plots too, which are drawn when all is done: now is the time to say so.
  try:
    from .lab.sweeps import plots  # noqa: F401
    from .lab.sweeps import trials
  except ModuleNotFoundError as error:
    if error.name not in ('matplotlib', 'optuna', 'sqlalchemy'):
      raise
    raise ValueError(
        f"needs {error.name}: pip install 'pgsvc_jax[sweep]'"
    ) from error
  return trials


def _work(queue, job, objectives: dict[str, bool], definition: dict) -> None:
  """Runs trials until there are no more."""
  from .lab.sweeps import worker

  with progress.Display('sweep', unit='trials') as display:

    def look() -> list:
      slots = queue.slots()
      states = [slot.state for slot in slots]
      running = f'{states.count("running")} running'
      display.update(sum(map(_is_over, slots)), len(slots), running)
      return slots

    while True:
      trial = queue.claim()
      slots = look()
      if trial is None:
        if all(map(_is_over, slots)):
          return
        time.sleep(min(_SECONDS_BETWEEN_LOOKS, job.lease / 6))
        continue
      index = trial.user_attrs['slot']
      try:
        worker.run_trial(job, trial)
      except worker.Lost:
        command.complain(f'trial {index:05} was given to another worker')
        continue
      rows = summary.make_rows(look(), objectives)
      summary.write(job.study, definition, rows)
      display.say(_line(rows, index, objectives))


def _is_over(slot) -> bool:
  return slot.state in ('finished', 'failed')


def _line(rows: list[dict], index: int, objectives: dict[str, bool]) -> str:
  """What is said of a trial when it is over."""
  row = rows[index]
  done = sum(row['state'] in ('finished', 'failed') for row in rows)
  head = f'{done} of {len(rows)}: trial {index:05}'
  params = ', '.join(
      f'{name} {summary.say_param(value)}'
      for name, value in row['params'].items()
  )
  if row['state'] == 'failed':
    return f'{head} failed: {row["reason"]}; {params}'
  names = list(objectives)
  names += [x for x in ('psnr', 'base_psnr', 'seconds') if x not in names]
  figures = ', '.join(summary.say(name, row[name]) for name in names)
  mark = ', on the front' if row['front'] and len(objectives) > 1 else ''
  best = summary.say_best(rows, objectives)
  return f'{head}: {figures}{mark}; {params}; so far: {best}'


def main() -> None:
  """Works on the study until it is done, or has others work."""
  texts = space.read(_SPACE.value)
  parameters = {
      name: space.parse_parameter(text) for name, text in texts.items()
  }
  config = _CONFIG.value.to_dict()
  config_lib.from_mapping(config_lib.EncodeConfig, config)
  space.check(parameters, command.flatten(config))
  objectives = _list_objectives()
  pictures = _list_pictures()
  trials = _import_trials()
  definition = trials.Definition(
      config=command.flatten(config),
      inputs={
          picture.name: hashlib.sha256(picture.read_bytes()).hexdigest()
          for picture in pictures
      },
      space=texts,
      sampler=_SAMPLER.value,
      objectives=tuple(objectives),
      seed=_SEED.value,
      lease=_LEASE.value,
  )
  planned = trials.plan(_SAMPLER.value, parameters, _TRIALS.value, _SEED.value)
  folder = pathlib.Path(_STUDY.value)
  folder.mkdir(parents=True, exist_ok=True)
  storage = _storage(folder)
  study = trials.open_study(storage, folder.resolve().name, definition)
  queue = trials.Queue(study, definition, planned)
  if _SLURM.value:
    from .lab.sweeps import slurm

    with trials.reaching(storage):
      queue.requeue()
    slurm.submit(
        folder / 'slurm',
        _SLURM_CLUSTER.value,
        _SLURM.value,
        _SLURM_OPTIONS.value,
    )
    return
  from .lab.sweeps import worker

  job = worker.Task(
      study=folder,
      pictures=pictures,
      encode_flags=_encode_flags(),
      objectives=list(objectives),
      lease=_LEASE.value,
  )
  with trials.reaching(storage):
    document = study.user_attrs['definition']
    try:
      _work(queue, job, objectives, document)
    except KeyboardInterrupt:
      queue.requeue()
      command.complain('interrupted; the same command goes on')
      sys.exit(130)
    rows = summary.make_rows(queue.slots(), objectives)
  summary.write(folder, document, rows)
  from .lab import plotting
  from .lab.sweeps import plots

  for name, figure in plots.draw(rows, parameters, objectives).items():
    command.write_bytes(str(folder / f'{name}.png'), plotting.png(figure))
  summary.print_table(rows, list(texts), objectives)
  if not any(row['state'] == 'finished' for row in rows):
    raise ValueError('every trial failed')


if __name__ == '__main__':
  command.run(main, config='image.py')
