"""Checkpoints: where a fit stands, and how that is kept on disk (Orbax).

A fit that goes on from a snapshot ends as one that was never stopped: nothing
else is carried from chunk to chunk. Randomness is no part of it, because every
birth and the order of rounding draw from generators of their own, seeded by
`FitConfig.seed` and the slot.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import pathlib
import shutil
import sys
import time
from typing import Any, Protocol
import zlib

import flax.serialization
import jax
from jaxtyping import Float, Int
import numpy as np

from pgsvc_jax import types
from pgsvc_jax.codec import quantize
from pgsvc_jax.training import rounding
from pgsvc_jax.training import train

# The latest two are kept, in case that the last one is damaged.
_NUM_LATEST = 2

# Seconds until all reads have ended, after one has failed.
_END_OF_READS = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
  """Where the fit of one picture stands between two chunks (NumPy).

  Attributes:
    state: of the fit.
    layer_sizes: slots per layer, in the order of the state.
    height: of the picture, pixels.
    width: of the picture, pixels.
    errors: squared error of each prefix at the last step, summed over pixels
      and channels.
    lowest_loss: of all chunks so far.
    edges: of the bands of rows; they differ with the number of devices.
    step_sizes: chosen for the file, of each layer; None before the rounding.
    decided: what rounding has decided; None before it.
  """

  state: train.TrainState
  layer_sizes: tuple[int, ...]
  height: int
  width: int
  errors: Float[np.ndarray, ' l']
  lowest_loss: float
  edges: Int[np.ndarray, ' edges']
  step_sizes: tuple[quantize.StepSizes, ...] | None = None
  decided: rounding.Decided | None = None

  @property
  def step(self) -> int:
    """Steps done."""
    return int(self.state.step)

  @property
  def layered(self) -> types.LayeredSplats:
    """The splats alive, in their layers."""
    active = self.state.active
    ends = np.cumsum(self.layer_sizes)
    alive = np.concatenate([[0], np.cumsum(active)])[[0, *ends]]
    return types.LayeredSplats(
        splats=types.Splats(*(x[active] for x in self.state.params)),
        layer_sizes=tuple(np.diff(alive).tolist()),
        height=self.height,
        width=self.width,
    )


class Checkpointer(Protocol):
  """What keeps a fit of one or more pictures at a time.

  Attributes:
    restored: what `restore` returned.
  """

  restored: list[Snapshot] | None

  def restore(self) -> list[Snapshot] | None:
    """Where to go on, one snapshot a picture, all at one step."""

  def is_due(self, is_milestone: bool) -> bool:
    """Whether to save now; before rounding and at the end is a milestone."""

  def save(self, snapshots: Sequence[Snapshot]) -> None:
    """Keeps them; the arrays are not changed later."""


def _to_trees(snapshot: Snapshot) -> tuple[dict, dict]:
  """Arrays, and what JSON holds."""
  arrays = {
      'state': flax.serialization.to_state_dict(snapshot.state),
      'errors': snapshot.errors,
      'edges': snapshot.edges,
  }
  if snapshot.decided is not None:
    symbols = snapshot.decided.symbols._asdict()
    arrays['decided'] = {'tables': snapshot.decided.tables, **symbols}
  values = {
      'layer_sizes': list(snapshot.layer_sizes),
      'height': snapshot.height,
      'width': snapshot.width,
      'lowest_loss': snapshot.lowest_loss,
      'step_sizes': snapshot.step_sizes
      and [dataclasses.asdict(x) for x in snapshot.step_sizes],
      'checksum': _checksum(arrays),
  }
  return jax.tree.map(np.asarray, arrays), values


def _from_trees(arrays: dict, values: dict) -> Snapshot:
  """Raises ValueError where they are not what was saved."""
  if _checksum(arrays) != values['checksum']:
    raise ValueError('its checksum is wrong')
  num_splats, channels = arrays['state']['params']['colors'].shape
  state = flax.serialization.from_state_dict(
      train.create_train_state(num_splats, channels), arrays['state']
  )
  steps = tuple(quantize.StepSizes(**x) for x in values['step_sizes'] or ())
  decided = arrays.get('decided')
  return Snapshot(
      state=state,
      layer_sizes=tuple(values['layer_sizes']),
      height=values['height'],
      width=values['width'],
      errors=arrays['errors'],
      lowest_loss=values['lowest_loss'],
      edges=arrays['edges'],
      step_sizes=steps or None,
      decided=decided
      and _read_decided(decided, state.params, steps, values['layer_sizes']),
  )


def _read_decided(
    decided: dict[str, np.ndarray],
    params: types.Splats,
    step_sizes: Sequence[quantize.StepSizes],
    layer_sizes: Sequence[int],
) -> rounding.Decided:
  """What rounding had decided, also as the first releases kept it.

  They kept the classes alone. The symbols of all that is rounded follow from
  its values; those of the rest will be replaced.
  """
  tables = decided['tables']
  if 'positions' in decided:
    names = quantize.Symbols._fields
    symbols = quantize.Symbols(*(decided[name] for name in names))
    return rounding.Decided(symbols, tables)
  layers = []
  ends = np.cumsum(layer_sizes)
  for end, size, steps in zip(ends, layer_sizes, step_sizes):
    own = slice(end - size, end)
    splats = types.Splats(*(x[own] for x in params))
    classes = decided['classes'][own]
    symbols = quantize.zeros(*splats.colors.shape)._replace(
        classes=classes,
        colors=quantize.color_symbols(splats.colors, classes, steps),
    )
    for name in quantize.ATTRIBUTES[1:]:
      symbols = quantize.quantize_attribute(name, splats, symbols, steps)
    layers.append(symbols)
  columns = map(np.concatenate, zip(*layers))
  return rounding.Decided(quantize.Symbols(*columns), tables)


def _checksum(arrays: dict) -> int:
  """Orbax has none of its own for what a disk may do to large arrays."""
  checksum = 0
  for path, array in jax.tree.leaves_with_path(arrays):
    array = np.asarray(array)
    name = f'{jax.tree_util.keystr(path)} {array.dtype} {array.shape}'
    checksum = zlib.crc32(array.tobytes(), zlib.crc32(name.encode(), checksum))
  return checksum


class Checkpoints:
  """The checkpoints of the fit of one picture in a folder: a context manager.

  Kept are the latest two and the best, that of the highest `psnr_db` of the
  full picture: as a fit mostly gains, the last one before rounding takes some
  of it back, or before the fit diverged. Saving goes on in the background
  (block 10 to 30 ms of 100, 40 ms of processor time, at 9,000 splats); a
  checkpoint appears whole or not at all, whenever the process is killed.

  Of several processes (`jax.distributed`), one has it; the others take no part.

  Args:
    folder: made if it is not there.
    read_only: for a look at the checkpoints of a fit that may be going on.

  Raises:
    ValueError: with `read_only`, a checkpoint cannot be read.

  Example:
    >>> import tempfile
    >>> state = train.create_train_state(3, channels=1)
    >>> snapshot = Snapshot(
    ...     state=state.replace(step=np.int32(10)), layer_sizes=(2, 1),
    ...     height=8, width=8, errors=np.float32([4, 2]), lowest_loss=0.1,
    ...     edges=np.int32([0, 8]))
    >>> with (tempfile.TemporaryDirectory() as folder,
    ...       Checkpoints(folder) as kept):
    ...   kept.save(snapshot, {'seed': 0}, psnr_db=10.0)
    ...   kept.wait()
    ...   kept.restore(10).errors
    array([4., 2.], dtype=float32)
  """

  def __init__(self, folder: str | pathlib.Path, *, read_only: bool = False):
    # Slow to import, and only for those who use it.
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers

    self._args = ocp.args
    # Orbax wants an absolute path.
    path = pathlib.Path(folder).resolve()
    if not read_only:
      path.mkdir(parents=True, exist_ok=True)
      _tidy(path)
    best = checkpoint_managers.BestN(
        get_metric_fn=lambda metrics: metrics['psnr_db'], reverse=False, n=1
    )
    self._manager = ocp.CheckpointManager(
        path,
        options=ocp.CheckpointManagerOptions(
            read_only=read_only,
            create=False,  # Not possible with `active_processes`.
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                [checkpoint_managers.LatestN(_NUM_LATEST), best]
            ),
            # Or else `best_step` would be the latest.
            best_fn=lambda metrics: metrics['psnr_db'],
            best_mode='max',
            # Or else it would wait for the other processes.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=jax.process_index(),
                active_processes={jax.process_index()},
                barrier_sync_key_prefix=f'process_{jax.process_index()}',
            ),
        ),
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *_: object) -> None:
    self._manager.close()

  @property
  def steps(self) -> list[int]:
    """Of the checkpoints, ascending."""
    return sorted(self._manager.all_steps())

  @property
  def best_step(self) -> int | None:
    """Of the checkpoint with the best full picture."""
    return self._manager.best_step()

  def save(
      self, snapshot: Snapshot, config: Mapping[str, Any], psnr_db: float
  ) -> None:
    """Saves in the background.

    Args:
      snapshot: where the fit stands; its step is higher than any before.
      config: the settings, for readers (JSON).
      psnr_db: of the full picture; what `best_step` goes by.

    Raises:
      OSError: it, or the one before, was not written.
    """
    arrays, values = _to_trees(snapshot)
    saved = self._manager.save(
        snapshot.step,
        args=self._args.Composite(
            arrays=self._args.StandardSave(arrays),
            values=self._args.JsonSave(values | {'config': dict(config)}),
        ),
        metrics={'psnr_db': psnr_db},
    )
    if not saved:
      raise OSError(f'step {snapshot.step} is not higher than {self.steps}')

  def wait(self) -> None:
    """Returns when all is written."""
    self._manager.wait_until_finished()

  def restore(self, step: int) -> Snapshot:
    """Reads a checkpoint.

    Raises:
      ValueError: it is damaged.
    """
    with _damage_is_an_error(step):
      arrays = self._args.StandardRestore()
      values = self._args.JsonRestore()
      read = self._manager.restore(
          step, args=self._args.Composite(arrays=arrays, values=values)
      )
      return _from_trees(read['arrays'], read['values'])

  def config(self, step: int) -> dict[str, Any]:
    """The settings that were saved with a checkpoint.

    Raises:
      ValueError: it is damaged.
    """
    with _damage_is_an_error(step):
      values = self._args.JsonRestore()
      read = self._manager.restore(
          step, args=self._args.Composite(values=values)
      )
      return read['values']['config']

  def forget_after(self, step: int) -> None:
    """Deletes the checkpoints of higher steps."""
    for later in self.steps:
      if later > step:
        self._manager.delete(later)


@contextlib.contextmanager
def _damage_is_an_error(step: int) -> Iterator[None]:
  # When one array cannot be read, the reads of the others end in an event loop
  # that is closed, and each would print a traceback.
  hook = sys.unraisablehook
  sys.unraisablehook = lambda what: (
      None if isinstance(what.exc_value, RuntimeError) else hook(what)
  )
  try:
    yield
  # Whatever Orbax and what it stands on say of files they cannot read.
  except (ValueError, KeyError, TypeError, OSError) as error:
    time.sleep(_END_OF_READS)
    reason = str(error).strip("'").split('\n')[0]
    raise ValueError(
        f'the checkpoint of step {step} is damaged: {reason[:200]}'
    ) from error
  finally:
    sys.unraisablehook = hook


def _tidy(folder: pathlib.Path) -> None:
  """Removes what a killed process had begun.

  Renames checkpoints without figures: Orbax would refuse all of them.
  """
  for step in folder.iterdir():
    if '.orbax-checkpoint-tmp' in step.name:
      shutil.rmtree(step)
    elif step.name.isdecimal():
      try:
        json.loads((step / 'metrics' / 'metrics').read_text())
      except (OSError, ValueError):
        step.rename(step.with_name(f'damaged-{step.name}'))
