"""The trials of a sweep, shared by its workers through one storage of Optuna.

A sweep is a fixed number of *slots*, each a point of the space that is tried
until it is finished or has failed. A try is a trial of Optuna; its user
attribute `slot` says of what. A try that is cut short (its worker died, or was
interrupted) is marked FAIL, and its slot is queued again with the same
parameters.

Workers need no clock in common and no connection but the storage: a running
trial counts its seconds there, and where the count stands still for as long as
the *lease*, whoever looks on takes its worker for dead. Optuna's own heartbeat
does this only inside `Study.optimize`, and not in a journal; and its
GridSampler takes a point whose worker died for done, unless
RetryFailedTrialCallback queues it again (5.0.0). Best trials and plots are made
of the rows of results.json, in summary.py and plots.py, since `report` needs
neither Optuna nor the storage.

Every worker queues what is open, without asking the others. What two queue at
the same time is settled when it is claimed: of the trials of a slot that are
alive, the one with the lowest number counts.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import json
import os
import time
from typing import Any

import optuna
import sqlalchemy

from . import space
from . import summary

# Tries that end with their worker, after which the trial is the likely reason.
_MAX_DEATHS = 3
# Two workers that start at the same time both create the tables.
_NUM_OPENINGS = 10
_SECONDS_TO_WAIT = 60
_POPULATION = 20

_State = optuna.trial.TrialState
_OUT_OF_REACH = (
    sqlalchemy.exc.SQLAlchemyError,
    optuna.exceptions.StorageInternalError,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Definition:
  """What makes two commands workers of one sweep.

  Attributes:
    config: fields, flat.
    inputs: SHA-256 of every picture, by name.
    space: values of every field that varies, as text.
    sampler: grid, random, tpe or nsga2.
    objectives: names of figures.
    seed: of the sampler.
    lease: seconds after which a silent worker is taken for dead.
  """

  config: dict[str, Any]
  inputs: dict[str, str]
  space: dict[str, str]
  sampler: str
  objectives: tuple[str, ...]
  seed: int
  lease: float


def open_study(storage: str, name: str, definition: Definition) -> optuna.Study:
  """Opens a study, or creates it.

  Args:
    storage: file of a journal, or URL of a database.
    name: of the study in it.
    definition: of the sweep.

  Returns:
    The study.

  Raises:
    ValueError: the study is of another sweep, or the storage cannot be used.
    ConnectionError: it has just gone out of reach.
  """
  optuna.logging.set_verbosity(optuna.logging.ERROR)
  directions = [
      'maximize' if is_maximized else 'minimize'
      for is_maximized in summary.directions(definition.objectives).values()
  ]
  for i in range(_NUM_OPENINGS):
    try:
      study = optuna.create_study(
          storage=_open_storage(storage),
          study_name=name,
          directions=directions,
          load_if_exists=True,
          sampler=_make_sampler(definition),
      )
      break
    except (
        *_OUT_OF_REACH,
        optuna.exceptions.OptunaError,
        ImportError,  # Of the driver of a database.
        ValueError,  # Of a port that is no number.
    ) as error:
      if i == _NUM_OPENINGS - 1 or not _may_pass(error, storage):
        why = _why(error)
        if isinstance(error, ImportError) and storage.startswith('postgres'):
          why += "; pip install 'pgsvc_jax[postgresql]' is postgresql+psycopg"
        raise ValueError(f'cannot open {_public(storage)}: {why}') from error
      time.sleep(0.2 * (i + 1))  # Another worker makes the tables.
  with reaching(storage):
    check_definition(study, definition)
  return study


@contextlib.contextmanager
def reaching(storage: str) -> Iterator[None]:
  """In the block, a storage that is out of reach is one line to the user.

  Args:
    storage: as in `open_study`.

  Raises:
    ConnectionError: it is; the study stays as it was.
  """
  try:
    yield
  except _OUT_OF_REACH as error:
    raise ConnectionError(
        f'{_public(storage)} is out of reach, the same command goes on:'
        f' {_why(error)}'
    ) from error


def _why(error: BaseException) -> str:
  """The first line of what was the matter at bottom."""
  while error.__cause__:
    error = error.__cause__
  return str(error).partition('\n')[0]


def _may_pass(error: Exception, storage: str) -> bool:
  """Whether it can be that two workers make the tables at the same time."""
  while isinstance(error.__cause__, sqlalchemy.exc.SQLAlchemyError):
    error = error.__cause__
  lost = (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError)
  if storage.startswith('sqlite'):
    lost = sqlalchemy.exc.SQLAlchemyError  # Locked, and what not.
  return isinstance(error, lost)


def _public(storage: str) -> str:
  """Without the password that a URL may have."""
  scheme, slashes, rest = storage.partition('://')
  return f'{scheme}{slashes}{rest.rpartition("@")[2]}' if slashes else storage


class _MendingLock(optuna.storages.journal.JournalFileSymlinkLock):
  """Drops what a writer that was cut short left of a record.

  Optuna does not read it, but appends the next record to it, and can then read
  neither of them nor anything behind (5.0.0).
  """

  def __init__(self, path: str):
    super().__init__(path)
    self._path = path

  def acquire(self) -> bool:
    """Takes the lock, as every writer does before it appends."""
    acquired = super().acquire()
    with open(self._path, 'rb+') as file:
      size = file.seek(0, os.SEEK_END)
      file.seek(max(0, size - 1))
      if file.read() not in (b'', b'\n'):
        file.seek(0)
        file.truncate(file.read().rfind(b'\n') + 1)
    return acquired


def _open_storage(storage: str) -> optuna.storages.BaseStorage:
  if '://' not in storage:
    backend = optuna.storages.journal.JournalFileBackend(
        storage, _MendingLock(storage)
    )
    return optuna.storages.JournalStorage(backend)
  if not storage.startswith('sqlite'):
    # No connection is held through a trial: a server has few, and closes those
    # from before when it is started anew.
    return optuna.storages.RDBStorage(
        storage, engine_kwargs={'poolclass': sqlalchemy.NullPool}
    )
  rdb = optuna.storages.RDBStorage(
      storage, engine_kwargs={'connect_args': {'timeout': _SECONDS_TO_WAIT}}
  )
  # Optuna claims a trial by SELECT ... FOR UPDATE, which SQLite takes for a
  # plain SELECT: of 100 trials, four workers claimed 13 twice. Transactions
  # that lock at their beginning make it what it is elsewhere.
  sqlalchemy.event.listen(
      rdb.engine,
      'connect',
      lambda connection, _: setattr(connection, 'isolation_level', None),
  )
  sqlalchemy.event.listen(
      rdb.engine,
      'begin',
      lambda connection: connection.exec_driver_sql('BEGIN IMMEDIATE'),
  )
  rdb.engine.dispose()  # Connections from before know nothing of it.
  return rdb


def _make_sampler(definition: Definition) -> optuna.samplers.BaseSampler:
  """Of grid and random, every trial is queued with its parameters.

  The others have no seed: workers that share one would all try the same.
  """
  if definition.sampler == 'tpe':
    return optuna.samplers.TPESampler()
  if definition.sampler == 'nsga2':
    return optuna.samplers.NSGAIISampler(population_size=_POPULATION)
  return optuna.samplers.RandomSampler(seed=definition.seed)


def check_definition(study: optuna.Study, definition: Definition) -> None:
  """Writes the definition into a new study, compares it with that of another.

  Raises:
    ValueError: they differ; the message says where.
  """
  ours = json.loads(json.dumps(dataclasses.asdict(definition)))
  theirs = study.user_attrs.get('definition')
  if theirs is None:
    study.set_user_attr('definition', ours)
    return
  for part, value in ours.items():
    there = theirs.get(part)
    if there == value:
      continue
    what = part
    if isinstance(value, dict) and isinstance(there, dict):
      names = [*value, *(name for name in there if name not in value)]
      name = next(x for x in names if value.get(x) != there.get(x))
      what, value, there = f'{part} {name}', value.get(name), there.get(name)
    raise ValueError(
        f'the study {study.study_name} is of another sweep: {what} is'
        f' {_say(there)} there, {_say(value)} here'
    )


def _say(value: Any) -> str:
  if isinstance(value, list):
    return ','.join(map(str, value))
  return 'not' if value is None else str(value)


def distributions(
    parameters: dict[str, space.Parameter],
) -> dict[str, optuna.distributions.BaseDistribution]:
  """The space in Optuna's terms."""
  result: dict[str, optuna.distributions.BaseDistribution] = {}
  for name, parameter in parameters.items():
    if isinstance(parameter, space.Choices):
      result[name] = optuna.distributions.CategoricalDistribution(
          parameter.values
      )
    elif parameter.is_integer:
      result[name] = optuna.distributions.IntDistribution(
          int(parameter.low),
          int(parameter.high),
          log=parameter.is_log,
          step=int(parameter.step or 1),
      )
    else:
      result[name] = optuna.distributions.FloatDistribution(
          parameter.low,
          parameter.high,
          log=parameter.is_log,
          step=parameter.step,
      )
  return result


def plan(
    sampler: str,
    parameters: dict[str, space.Parameter],
    num_trials: int | None,
    seed: int,
) -> list[dict[str, space.Value]]:
  """The parameters of every slot, as far as they do not wait for results.

  Random ones are drawn in one sequence: the same for any number of workers,
  and longer ones begin with the shorter.

  Args:
    sampler: grid, random, tpe or nsga2.
    parameters: by field.
    num_trials: None: all of a grid.
    seed: of random parameters.

  Returns:
    A dictionary for each slot, empty where the sampler decides later.

  Raises:
    ValueError: the number of trials is not known.
  """
  if sampler == 'grid':
    return space.grid(parameters)[:num_trials]
  if num_trials is None:
    raise ValueError(f'--trials is needed with --sampler={sampler}')
  if sampler != 'random':
    return [{}] * num_trials
  optuna.logging.set_verbosity(optuna.logging.ERROR)
  study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
  fixed = distributions(parameters)
  return [study.ask(fixed).params for _ in range(num_trials)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slot:
  """What is known of one point of the space.

  Attributes:
    index: of the slot, and of its folder.
    state: open, waiting, running, finished or failed.
    params: by field, as far as chosen.
    measured: figures by name, once finished.
    seconds: spent on it, in all tries.
    num_tries: begun so far.
    reason: why it failed.
  """

  index: int
  state: str
  params: dict[str, space.Value]
  measured: dict[str, float | None]
  seconds: float
  num_tries: int
  reason: str


def _slot(index: int, tries: Sequence[optuna.trial.FrozenTrial]) -> Slot:
  """Sums up the tries of a slot, oldest first."""
  tries = [x for x in tries if 'dropped' not in x.user_attrs]
  states = [trial.state for trial in tries]
  reasons = [x.user_attrs['reason'] for x in tries if 'reason' in x.user_attrs]
  measured = {}
  for trial in tries:
    if trial.state == _State.COMPLETE:
      measured = trial.user_attrs['measured']
  num_deaths = sum(
      trial.state == _State.FAIL
      and not {'reason', 'interrupted'} & trial.user_attrs.keys()
      for trial in tries
  )
  if _State.COMPLETE in states:
    state, reasons = 'finished', []
  elif reasons and _State.FAIL in states:
    state = 'failed'
  elif num_deaths >= _MAX_DEATHS:
    state = 'failed'
    reasons = [f'its worker died, {num_deaths} times']
  elif _State.RUNNING in states:
    state = 'running'
  elif _State.WAITING in states:
    state = 'waiting'
  else:
    state = 'open'
  known = [_params(trial) for trial in tries]
  return Slot(
      index=index,
      state=state,
      params=next((x for x in reversed(known) if x), {}),
      measured=measured,
      seconds=max((x.user_attrs.get('seconds', 0.0) for x in tries), default=0),
      num_tries=sum(state != _State.WAITING for state in states),
      reason=reasons[-1] if reasons else '',
  )


def _params(trial: optuna.trial.FrozenTrial) -> dict[str, space.Value]:
  """What a trial has taken, or will."""
  return trial.params or trial.system_attrs.get('fixed_params', {})


class Queue:
  """What a worker sees of the study.

  Args:
    study: as opened.
    definition: of the sweep.
    planned: the parameters of its slots; where the study has more slots, it
      keeps them.
  """

  def __init__(
      self,
      study: optuna.Study,
      definition: Definition,
      planned: Sequence[dict[str, space.Value]],
  ):
    self._study = study
    self._definition = definition
    self._planned = planned
    self._distributions = distributions(
        {
            name: space.parse_parameter(text)
            for name, text in definition.space.items()
        }
    )
    # By trial: the seconds it counted, and when they were new to this worker.
    self._seen: dict[int, tuple[float, float]] = {}

  def slots(self) -> list[Slot]:
    """All slots, in their order."""
    tries = {index: [] for index in range(len(self._planned))}
    for trial in self._study.get_trials(deepcopy=False):
      if 'slot' in trial.user_attrs:
        tries.setdefault(trial.user_attrs['slot'], []).append(trial)
    return [_slot(index, tries[index]) for index in sorted(tries)]

  def claim(self) -> optuna.Trial | None:
    """Takes the next trial, which is then running; None: none waits.

    Raises:
      ValueError: the study is of another sweep.
    """
    self._bury()
    self.requeue()
    # Whoever created the study at the same time may have meant another.
    check_definition(self._study, self._definition)
    while self._study.get_trials(deepcopy=False, states=(_State.WAITING,)):
      # Of what waits; a new one where others were faster, which has no slot.
      trial = self._study.ask(self._distributions)
      if self._counts(trial):
        return trial
      trial.set_user_attr('dropped', True)
      self._study.tell(trial, state=_State.FAIL)
    return None

  def requeue(self) -> None:
    """Queues every open slot."""
    for slot in self.slots():
      if slot.state != 'open':
        continue
      params = slot.params
      if not params and slot.index < len(self._planned):
        params = self._planned[slot.index]
      self._study.enqueue_trial(
          params, user_attrs={'slot': slot.index, 'seconds': slot.seconds}
      )

  def _counts(self, claimed: optuna.Trial) -> bool:
    """Whether no other trial of the slot comes first."""
    index = claimed.user_attrs.get('slot')
    if index is None:
      return False
    return not any(
        trial.user_attrs.get('slot') == index
        and (
            trial.state == _State.COMPLETE
            or 'reason' in trial.user_attrs
            or (trial.number < claimed.number and not trial.state.is_finished())
        )
        for trial in self._study.get_trials(deepcopy=False)
    )

  def _bury(self) -> None:
    """Marks the running trials that have not counted for as long as a lease."""
    now = time.monotonic()
    running = self._study.get_trials(deepcopy=False, states=(_State.RUNNING,))
    for trial in running:
      count = trial.user_attrs.get('seconds', 0.0)
      seen, since = self._seen.get(trial.number, (None, now))
      if count != seen:
        self._seen[trial.number] = (count, now)
      elif now - since > self._definition.lease:
        try:
          self._study.tell(trial.number, state=_State.FAIL)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
          pass  # It, or another worker, was faster.
