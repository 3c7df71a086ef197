"""What a run leaves in its folder, and whether the same run may go on there.

config.json    every setting, as resolved
run.json       what the run was started with: command, overrides, versions,
               devices, commit, seed, digest of the input; every resumption,
               and what came out
metrics.jsonl  a line a chunk: step, splats, loss, PSNR of each prefix, seconds;
               of a video a line a frame
checkpoints/   see `checkpoint.Checkpoints`; not of videos
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

from pgsvc_jax import types
from pgsvc_jax.training import loop

from . import command
from . import locks
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
    source: path of the picture or video.
    digest: of the pixels and of the splats to begin with, or of what else says
      that it is the same source.
    init_from: path of those, if any.
    config: every setting, nested (JSON).
    config_file: with its preset.
    overrides: of single fields, on the command line.
    implementation: of the operator, if one was asked for.
    devices: of all processes.
    packages: versions of those that only this source needs.
    any_devices: whether the bytes are the same on any number of devices.
  """

  source: str
  digest: str
  init_from: str | None
  config: Mapping[str, Any]
  config_file: str
  overrides: Mapping[str, Any]
  implementation: str | None
  devices: Sequence[Any]
  packages: Mapping[str, str] = dataclasses.field(default_factory=dict)
  any_devices: bool = False


def clear(folder: pathlib.Path | None) -> None:
  """Removes what a run left in its folder, run.json last.

  Raises:
    OSError: another process works there.
  """
  if folder is None or not folder.is_dir():
    return
  with _locked(folder):
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    events = folder.glob('events.*')
    for path in (*events, folder / _METRICS, folder / _CONFIG, folder / _RUN):
      path.unlink(missing_ok=True)


def _locked(folder: pathlib.Path) -> contextlib.AbstractContextManager[None]:
  """Two processes in one folder would write each other's files."""
  busy = f'{folder}: another process works there'
  return locks.hold(folder / 'lock', busy)


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
    self._compare(old, now, origin)
    self._run = old
    self._resumption = {
        name: now[name] for name in ('started', 'command', 'devices', 'commit')
    }

  def _compare(self, old: dict, now: dict, origin: Origin) -> None:
    if not {'digest', 'config', 'versions', 'resumed'} <= set(old):
      raise ValueError(
          f'{self.folder} has a run of another kind; --restart removes it'
      )
    was, here = command.flatten(old), command.flatten(now)
    names = [
        name for name in {**was, **here} if was.get(name) != here.get(name)
    ]
    told = [name for name in names if name in _TOLD]
    if origin.any_devices and 'devices' in told:
      told.remove('devices')
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

  def resume(self, last: int, unit: str = 'step') -> list[dict[str, Any]]:
    """The run begins, or goes on after a step or frame; cuts what is later.

    Args:
      last: the step, 0 where it begins; or the frame, then -1.
      unit: 'step' or 'frame', which rows of metrics.jsonl are of.

    Returns:
      The rows that are kept.
    """
    if self.folder is None:
      return []
    rows, lines = [], []
    text = (self.folder / _METRICS).read_text()
    for line in text.splitlines():
      try:
        row = json.loads(line)
      except ValueError:  # The process was killed while it wrote.
        continue
      if row[unit] <= last:
        rows.append(row)
        lines.append(line)
        self._begin = time.monotonic() - row['seconds']
    kept = ''.join(f'{line}\n' for line in lines)
    if kept != text:
      command.write_bytes(str(self.folder / _METRICS), kept.encode())
    if self._resumption:
      self._run['resumed'].append(self._resumption | {unit: last})
      _write(self.folder / _RUN, self._run)
    if self._tensorboard:
      import tensorboardX

      self._events = tensorboardX.SummaryWriter(
          str(self.folder), purge_step=last + 1
      )
    return rows

  def append(self, state: loop.Progress) -> None:
    """Writes the figures after a chunk."""
    if self.folder is None:
      return
    if self._events:
      self._events.add_scalar('loss', state.loss, state.step)
      self._events.add_scalar('splats', state.num_splats, state.step)
      for layer, psnr_db in enumerate(state.psnr_db):
        self._events.add_scalar(f'psnr_db/layer_{layer}', psnr_db, state.step)
    self.append_rows([dataclasses.asdict(state)])

  def append_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with their `psnr_db`, and the seconds so far."""
    if self.folder is None:
      return
    seconds = round(time.monotonic() - self._begin, 3)
    with open(self.folder / _METRICS, 'a') as file:
      for row in rows:
        psnr_db = [_finite(x) for x in row['psnr_db']]
        row = {**row, 'psnr_db': psnr_db, 'seconds': seconds}
        file.write(json.dumps(row) + '\n')


def note_finished(
    folder: pathlib.Path, name: str, psnr_db: Sequence[float]
) -> None:
  """Writes into run.json which file came out."""
  run = json.loads((folder / _RUN).read_text())
  with open(name, 'rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
  run['finished'] = {
      'time': _now(),
      'file': os.path.abspath(name),
      'bytes': os.path.getsize(name),
      'sha256': digest,
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
  fit = origin.config.get('image', origin.config)['fit']
  return {
      'command': machine.command_line(),
      'started': _now(),
      'source': os.path.abspath(origin.source),
      'digest': origin.digest,
      'init_from': origin.init_from,
      'config': json.loads(json.dumps(origin.config)),
      'config_file': origin.config_file,
      'overrides': json.loads(json.dumps(origin.overrides)),
      'seed': fit['seed'],
      'implementation': origin.implementation,
      'devices': [str(device) for device in origin.devices],
      'platform': versions.pop('platform'),
      **here,
      'versions': versions | dict(origin.packages),
      'commit': machine.commit(),
  }


def _tell(name: str, was: dict, here: dict) -> str:
  if name == 'digest':
    return 'the source, or the splats to begin with, are others'
  if name == 'devices':
    return f'{len(was[name])} devices there, {len(here[name])} here'
  name_here = name.removeprefix('versions.')
  return f'{name_here} is {was.get(name)} there, {here.get(name)} here'


def _now() -> str:
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
