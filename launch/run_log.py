"""What a run leaves in its folder, and whether the same run may go on there.

config.json    every setting, as resolved
run.json       what the run was started with: command, overrides, versions,
               devices, commit, seed, digest of the input; every resumption,
               and what came out
metrics.jsonl  a line a chunk: step, splats, loss, PSNR of each prefix, seconds
checkpoints/   see `checkpoint.Checkpoints`
events.*       of TensorBoard, with --tensorboard
lock           held while a process works here
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import datetime
import hashlib
import json
import math
import os
import pathlib
import shutil
import sys
import time
from typing import Any

from jaxtyping import Float
import numpy as np

from pgsvc_jax import fit
from pgsvc_jax import types

from . import command
from . import machine
from . import runtime

CHECKPOINTS = 'checkpoints'
_RUN = 'run.json'
_CONFIG = 'config.json'
_METRICS = 'metrics.jsonl'

# Differences that change the bytes a little; said, but no reason to refuse.
_TOLD = ('devices', 'implementation', 'commit', 'python', 'processor')


def digest(
    pixels: Float[np.ndarray, 'h w c'],
    initial: types.LayeredSplats | None = None,
) -> str:
  """A hash of what is fitted, and of what the fit begins with."""
  arrays = [pixels]
  if initial is not None:
    arrays += [np.int64(initial.layer_sizes), *initial.splats]
  result = hashlib.sha256()
  for array in arrays:
    result.update(f'{array.dtype}{array.shape}'.encode())
    result.update(np.ascontiguousarray(array).tobytes())
  return result.hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
  """What a run is started with.

  Attributes:
    picture: path.
    digest: of the pixels and of the splats to begin with.
    init_from: path of those, if any.
    config: every setting, nested (JSON).
    config_file: with its preset.
    overrides: of single fields, on the command line.
    implementation: of the operator, if one was asked for.
    devices: of all processes.
  """

  picture: str
  digest: str
  init_from: str | None
  config: Mapping[str, Any]
  config_file: str
  overrides: Mapping[str, Any]
  implementation: str | None
  devices: Sequence[Any]


def clear(folder: pathlib.Path) -> None:
  """Removes what a run left in its folder, run.json last.

  Raises:
    OSError: another process works there.
  """
  if not folder.is_dir():
    return
  with _locked(folder):
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    events = folder.glob('events.*')
    for path in (*events, folder / _METRICS, folder / _CONFIG, folder / _RUN):
      path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
  """Two processes in one folder would write each other's files.

  The system lifts the lock when the process ends, however it ends.
  """
  with open(folder / 'lock', 'w') as file:
    try:
      import fcntl
    except ImportError:  # Not on Windows.
      pass
    else:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except OSError as error:
        raise OSError(f'{folder}: another process works there') from error
    yield


@contextlib.contextmanager
def open_log(
    folder: pathlib.Path | None, origin: Origin, tensorboard: bool
) -> Iterator['RunLog']:
  """The log of a run in a folder, made if it is not there; None: nowhere.

  Args:
    folder: of the run.
    origin: what it is started with.
    tensorboard: write event files too.

  Yields:
    The log.

  Raises:
    ValueError: a run of another origin stands there; the message has what
      differs.
    OSError: the folder cannot be written, or another process works there.
  """
  if folder is None:
    yield RunLog(None)
    return
  folder.mkdir(parents=True, exist_ok=True)
  with _locked(folder), contextlib.closing(RunLog(folder)) as log:
    log.start(origin, tensorboard)
    yield log


class RunLog:
  """Writes the files of one run; see the module. From `open_log`."""

  def __init__(self, folder: pathlib.Path | None):
    self.folder = folder
    self._run = {}
    self._resumption = None
    self._tensorboard = False
    self._events = None
    self._begin = time.monotonic()

  def close(self) -> None:
    """Closes the event file."""
    if self._events:
      self._events.close()

  def start(self, origin: Origin, tensorboard: bool) -> None:
    """Writes config.json and run.json, or compares with those there are."""
    if tensorboard:
      import tensorboardX  # noqa: F401  Before the work, if it is missing.
    self._tensorboard = tensorboard
    now = _describe(origin)
    path = self.folder / _RUN
    try:
      old = json.loads(path.read_text())
    except FileNotFoundError:
      if (self.folder / CHECKPOINTS).exists():
        raise ValueError(
            f'{self.folder} has checkpoints and no {_RUN}; --restart removes'
            ' them'
        ) from None
      self._run = now | {'resumed': [], 'finished': None}
      _write(self.folder / _CONFIG, origin.config)
      _write(self.folder / _RUN, self._run)
      (self.folder / _METRICS).write_text('')
      return
    except ValueError as error:
      raise ValueError(f'{path}: {error}; --restart starts anew') from error
    self._compare(old, now)
    self._run = old
    self._resumption = {
        name: now[name] for name in ('started', 'command', 'devices', 'commit')
    }

  def _compare(self, old: dict, now: dict) -> None:
    if not {'digest', 'config', 'versions', 'resumed'} <= set(old):
      raise ValueError(
          f'{self.folder} has a run of another kind; --restart removes it'
      )
    was, here = command.flatten(old), command.flatten(now)
    names = [
        name for name in {**was, **here} if was.get(name) != here.get(name)
    ]
    told = [name for name in names if name in _TOLD]
    refused = [
        name
        for name in names
        if name == 'digest' or name.startswith(('config.', 'versions.'))
    ]
    if refused:
      texts = [_tell(name, was, here) for name in refused[:3]]
      more = f' and {len(refused) - 3} more' if len(refused) > 3 else ''
      raise ValueError(
          f'{self.folder} has another run: {", ".join(texts)}{more};'
          ' --restart starts anew'
      )
    for name in told:
      print(
          f'{self.folder}: {_tell(name, was, here)}: the bytes may differ',
          file=sys.stderr,
      )

  def resume(self, step: int) -> None:
    """The run begins (0), or goes on after this step; cuts what is later."""
    if self.folder is None:
      return
    rows = []
    text = (self.folder / _METRICS).read_text()
    for line in text.splitlines():
      try:
        row = json.loads(line)
      except ValueError:  # The process was killed while it wrote.
        continue
      if row['step'] <= step:
        rows.append(line)
        self._begin = time.monotonic() - row['seconds']
    kept = ''.join(f'{line}\n' for line in rows)
    if kept != text:
      command.write_bytes(str(self.folder / _METRICS), kept.encode())
    if self._resumption:
      self._run['resumed'].append(self._resumption | {'step': step})
      _write(self.folder / _RUN, self._run)
    if self._tensorboard:
      import tensorboardX

      self._events = tensorboardX.SummaryWriter(
          str(self.folder), purge_step=step + 1
      )

  def append(self, state: fit.Progress) -> None:
    """Writes the figures after a chunk."""
    if self.folder is None:
      return
    row = dataclasses.asdict(state)
    if self._events:
      self._events.add_scalar('loss', state.loss, state.step)
      self._events.add_scalar('splats', state.num_splats, state.step)
      for layer, psnr_db in enumerate(state.psnr_db):
        self._events.add_scalar(f'psnr_db/layer_{layer}', psnr_db, state.step)
    row['psnr_db'] = [_finite(x) for x in state.psnr_db]
    row['seconds'] = round(time.monotonic() - self._begin, 3)
    with open(self.folder / _METRICS, 'a') as file:
      file.write(json.dumps(row) + '\n')


def note_finished(
    folder: pathlib.Path, file: str, data: bytes, psnr_db: Sequence[float]
) -> None:
  """Writes into run.json what came out."""
  run = json.loads((folder / _RUN).read_text())
  run['finished'] = {
      'time': _now(),
      'file': os.path.abspath(file),
      'bytes': len(data),
      'sha256': hashlib.sha256(data).hexdigest(),
      'psnr_db': [_finite(x) for x in psnr_db],
  }
  _write(folder / _RUN, run)


def _finite(value: float) -> float | None:
  """JSON has no infinity: null where a prefix is exact."""
  return float(value) if math.isfinite(value) else None


def _write(path: pathlib.Path, value: Mapping) -> None:
  text = json.dumps(value, indent=2, allow_nan=False) + '\n'
  command.write_bytes(str(path), text.encode())


def _describe(origin: Origin) -> dict:
  versions = runtime.versions()
  here = {name: versions.pop(name) for name in ('python', 'processor')}
  return {
      'command': machine.command_line(),
      'started': _now(),
      'picture': os.path.abspath(origin.picture),
      'digest': origin.digest,
      'init_from': origin.init_from,
      'config': json.loads(json.dumps(origin.config)),
      'config_file': origin.config_file,
      'overrides': json.loads(json.dumps(origin.overrides)),
      'seed': origin.config['fit']['seed'],
      'implementation': origin.implementation,
      'devices': [str(device) for device in origin.devices],
      'platform': versions.pop('platform'),
      **here,
      'versions': versions,
      'commit': machine.commit(),
  }


def _tell(name: str, was: dict, here: dict) -> str:
  if name == 'digest':
    return 'the picture, or the splats to begin with, are others'
  if name == 'devices':
    return f'{len(was[name])} devices there, {len(here[name])} here'
  name_here = name.removeprefix('versions.')
  return f'{name_here} is {was.get(name)} there, {here.get(name)} here'


def _now() -> str:
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
