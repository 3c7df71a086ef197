"""Checkpoints of runs: when they are made, and which of them is read."""

from collections.abc import Mapping, Sequence
import contextlib
import importlib.util
import pathlib
import sys
import time
from typing import Any

from absl import logging
import numpy as np

from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.training import checkpoint

from . import command
from . import run_log

# Orbax tells of every file that it touches, and warns of what is asked for.
logging.get_absl_logger().addFilter(
    lambda record: record.levelno > logging.converter.STANDARD_WARNING
    or 'orbax' not in record.pathname
    or logging.get_verbosity() >= logging.DEBUG
)


class Saver:
  """Keeps the fits of pictures that are fitted at one time, each in its folder.

  A `checkpoint.Checkpointer` and a context manager. Orbax is loaded at the
  first checkpoint, or when there are some.

  Args:
    logs: of the runs; none for a process that does not write.
    config: the settings, kept beside the arrays.
    interval: seconds between checkpoints; there is one before rounding and at
      the end in any case.
  """

  def __init__(
      self,
      logs: Sequence[run_log.RunLog],
      config: Mapping[str, Any],
      interval: float,
  ):
    if logs:  # If it is missing, not after the first ten seconds.
      importlib.util.find_spec('orbax.checkpoint')
    self._logs = logs
    self._folders = [log.folder / run_log.CHECKPOINTS for log in logs]
    self._config = config
    self._interval = interval
    self._last_time = time.monotonic()
    self._stack = contextlib.ExitStack()
    self._opened: list[checkpoint.Checkpoints] = []
    self.restored: list[checkpoint.Snapshot] | None = None

  def __enter__(self) -> 'Saver':
    return self

  def __exit__(self, *_: object) -> None:
    self._stack.close()

  def _open(self) -> list[checkpoint.Checkpoints]:
    if not self._opened:
      self._opened = [
          self._stack.enter_context(checkpoint.Checkpoints(folder))
          for folder in self._folders
      ]
    return self._opened

  def restore(self) -> list[checkpoint.Snapshot] | None:
    """The latest snapshots that can be read, all of one step.

    Raises:
      ValueError: pictures fitted at one time have no step in common.
    """
    if any(folder.exists() for folder in self._folders):
      self.restored = self._restore()
    step = self.restored[0].step if self.restored else 0
    for log in self._logs:
      log.resume(step)
      if step:
        print(f'{log.folder}: goes on after step {step}', file=sys.stderr)
    return self.restored

  def _restore(self) -> list[checkpoint.Snapshot] | None:
    opened = self._open()
    steps = [set(x.steps) for x in opened]
    common = set.intersection(*steps)
    if any(steps) and not common:
      raise ValueError('the pictures have no checkpoint of the same step')
    for step in sorted(common, reverse=True):
      try:
        snapshots = [x.restore(step) for x in opened]
      except ValueError as error:
        print(f'{self._folders[0]}: {error}', file=sys.stderr)
        continue
      for x in opened:
        x.forget_after(step)
      return snapshots
    for x in opened:
      x.forget_after(-1)
    return None

  def is_due(self, is_milestone: bool) -> bool:
    """By the clock, no more often than the interval says; and at milestones."""
    if not self._folders:
      return False
    return is_milestone or time.monotonic() - self._last_time >= self._interval

  def save(self, snapshots: Sequence[checkpoint.Snapshot]) -> None:
    """Starts saving; returns when the ones before are written."""
    opened = self._open()
    for x in opened:
      x.wait()  # No picture is ahead of another by more than one checkpoint.
    for x, snapshot in zip(opened, snapshots):
      x.save(snapshot, self._config, psnr_db(snapshot))
    self._last_time = time.monotonic()

  def last_good(self) -> str:
    """Where one can go back to, for a message; '' without checkpoints."""
    if not self._opened:
      return ''
    for x in self._opened:
      x.wait()
    steps, best = self._opened[0].steps, self._opened[0].best_step
    if not steps:
      return ''
    text = f'the last good checkpoint is step {steps[-1]}'
    if best != steps[-1]:
      text += f', the best step {best}'
    return f'{text}, in {self._logs[0].folder}'


def psnr_db(snapshot: checkpoint.Snapshot) -> float:
  """Of the full picture, dB; 200 where it is exact."""
  size = snapshot.height * snapshot.width * snapshot.layered.channels
  return float(-10 * np.log10(max(snapshot.errors[-1] / size, 1e-20)))


def is_workdir(path: pathlib.Path) -> bool:
  """Whether a run has left checkpoints there."""
  return (path / run_log.CHECKPOINTS).is_dir()


def read(
    folder: pathlib.Path, which: str
) -> tuple[dict[str, Any], checkpoint.Snapshot]:
  """Reads the checkpoint of a run, which may be going on.

  Args:
    folder: of the run.
    which: 'latest' or 'best'.

  Returns:
    The settings of the run, and the snapshot.

  Raises:
    ValueError: there is none, or it is damaged.
  """
  if not is_workdir(folder):
    raise ValueError(f'{folder} has no checkpoints')
  path = folder / run_log.CHECKPOINTS
  with (
      command.about(str(folder)),
      checkpoint.Checkpoints(path, read_only=True) as kept,
  ):
    if not kept.steps:
      raise ValueError('no checkpoint yet')
    step = kept.best_step if which == 'best' else kept.steps[-1]
    return kept.config(step), kept.restore(step)


def read_initial(init_from: str, stem: str) -> types.LayeredSplats:
  """The splats of a file, or the best ones of a run.

  Args:
    init_from: a file, a run's folder, or a folder of files or runs that have
      the names of the pictures.
    stem: name of the picture without its suffix.

  Returns:
    The splats.

  Raises:
    ValueError: there is none, or it is damaged.
    OSError: it cannot be read.
  """
  path = pathlib.Path(init_from)
  if path.is_dir() and not is_workdir(path):
    path = path / stem if is_workdir(path / stem) else path / f'{stem}.pgsvc'
  if path.is_dir():
    _, snapshot = read(path, 'best')
    return snapshot.layered
  with command.about(str(path)):
    return bitstream.read_layers(path.read_bytes())
