"""Runs trials: an `encode`, and an `evaluate` of every file it wrote."""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import json
import pathlib
import shlex
import time

import optuna

from ... import children
from ... import command
from ...evaluation import results
from . import space
from . import summary

# Every lease, so often: the count of one that lives is never taken for still.
_BEATS_PER_LEASE = 6


class Lost(Exception):
  """Others took this worker for dead and its trial for theirs."""


class _Failed(Exception):
  """The trial cannot be done; the message says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """What all trials of a sweep share.

  Attributes:
    study: folder of the study.
    pictures: what is encoded.
    encode_flags: of every `encode`, the config among them.
    objectives: names of figures that `measure` gives.
    lease: seconds after which a silent worker is taken for dead.
  """

  study: pathlib.Path
  pictures: Sequence[pathlib.Path]
  encode_flags: Sequence[str]
  objectives: Sequence[str]
  lease: float


def trial_folder(study: pathlib.Path, slot: int) -> pathlib.Path:
  """Where a trial has its files, whichever worker runs it."""
  return study / 'trials' / f'{slot:05}'


def encode_arguments(
    job: Task, folder: pathlib.Path, params: dict[str, space.Value]
) -> list[str]:
  """The flags of the `encode` of a trial."""
  output = folder
  if len(job.pictures) == 1:
    output = _file(folder, job.pictures[0])
  return [
      *(f'--input={picture}' for picture in job.pictures),
      f'--output={output}',
      f'--workdir={folder}',
      *job.encode_flags,
      *space.overrides(params),
  ]


def run_trial(job: Task, trial: optuna.Trial) -> None:
  """Runs a trial and tells the study what came of it.

  Args:
    job: what to run.
    trial: as claimed.

  Raises:
    Lost: the trial is not ours any more.
    KeyboardInterrupt: the trial was given back.
  """
  folder = trial_folder(job.study, trial.user_attrs['slot'])
  folder.mkdir(parents=True, exist_ok=True)
  spent = trial.user_attrs['seconds']
  begin = time.monotonic()

  def beat() -> None:
    # A storage that is out of reach for a moment is no reason to stop.
    with contextlib.suppress(optuna.exceptions.StorageInternalError):
      trial.set_user_attr('seconds', spent + time.monotonic() - begin)

  try:
    with open(folder / 'log.txt', 'a') as log:
      arguments = encode_arguments(job, folder, trial.params)
      _run(command.verb_line('encode', *arguments), log, log, beat, job.lease)
      seconds = spent + time.monotonic() - begin
      for picture in job.pictures:
        arguments = [
            f'--input={_file(folder, picture)}',
            f'--reference={picture}',
            '--json',
        ]
        with open(_evaluation(folder, picture), 'w') as output:
          line = command.verb_line('evaluate', *arguments)
          _run(line, output, log, beat, job.lease)
    documents = [
        json.loads(_evaluation(folder, picture).read_text())
        for picture in job.pictures
    ]
    measured = measure(documents) | {'seconds': seconds}
    for name in job.objectives:
      if measured[name] is None:
        raise _Failed(f'{name} has no value for these pictures')
    trial.set_user_attr('measured', measured)
    trial.study.tell(trial, [measured[name] for name in job.objectives])
  except _Failed as error:
    trial.set_user_attr('reason', str(error))
    trial.study.tell(trial, state=optuna.trial.TrialState.FAIL)
  except optuna.exceptions.UpdateFinishedTrialError as error:
    raise Lost from error
  except KeyboardInterrupt:
    with contextlib.suppress(optuna.exceptions.OptunaError):
      trial.set_user_attr('interrupted', True)
      trial.study.tell(trial, state=optuna.trial.TrialState.FAIL)
    raise


def _file(folder: pathlib.Path, picture: pathlib.Path) -> pathlib.Path:
  return folder / f'{picture.stem}.pgsvc'


def _evaluation(folder: pathlib.Path, picture: pathlib.Path) -> pathlib.Path:
  return folder / f'{picture.stem}.json'


def _run(
    line: Sequence[str], output, log, beat: Callable[[], None], lease: float
) -> None:
  """Runs a command to its end; it ends too when this function is left."""
  log.write(f'$ {shlex.join(line)}\n')
  log.flush()
  status = children.run(line, output, log, beat, lease / _BEATS_PER_LEASE)
  if status < 0:
    raise _Failed(f'ended by signal {-status}')
  if status:
    *_, last = [''] + pathlib.Path(log.name).read_text().splitlines()
    raise _Failed(last.partition(': ')[2] or last)


def measure(documents: Sequence[dict]) -> dict[str, float | None]:
  """The figures of a trial: means over its pictures.

  Args:
    documents: what `evaluate --json` says of each.

  Returns:
    Those of `summary.FIGURES` but seconds; None where a picture has none.

  Example:
    >>> layer = {'bytes': 9, 'bpp': 0.1, 'psnr_db': 30.0, 'ms_ssim': None}
    >>> measure([{'layers': [layer]}])['psnr']
    30.0
  """
  measured = {}
  for name, figure in summary.FIGURES.items():
    if figure.key:
      rows = [document['layers'][figure.layer] for document in documents]
      measured[name] = results.mean_row(rows)[figure.key]
  return measured
