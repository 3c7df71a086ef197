"""The loop of every fit: of pictures, and of the frames of a video.

A `PictureFit` is what is fitted, on the host; a `Program` holds the compiled
steps; the `Loop` runs them, and between them what a list of `Change`s says:
splats are born, move or are rounded. A fit differs from another by that list
alone. `Loop.run` yields what happens, so that progress, checkpoints and
whatever else listens are the business of the caller.
"""

from collections.abc import Iterator, Sequence
import concurrent.futures
import dataclasses
import functools
from typing import Any, Literal, NamedTuple, NoReturn, Protocol

import jax
from jaxtyping import Float
import numpy as np

import pallas_kernels
from pgsvc_jax import config as config_lib
from pgsvc_jax import pace as pace_lib
from pgsvc_jax import processes
from pgsvc_jax import types
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import quantized
from pgsvc_jax.training import bands
from pgsvc_jax.training import checkpoint
from pgsvc_jax.training import losses
from pgsvc_jax.training import rounding
from pgsvc_jax.training import schedule as schedule_lib
from pgsvc_jax.training import train

# A fit has diverged when its loss is so many times the lowest so far (of no
# splats at first), and above a limit: what is nearly exact may lose 20 dB in a
# chunk, and rounding for a very low rate may leave no splat.
_WORST_GROWTH = 100.0
_WORST_LOSS = 0.1
_WORST_ROUNDED_LOSS = 1.0


class DivergenceError(ArithmeticError):
  """The fit went to numbers that are not finite, or off any picture."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
  """Where a fit stands, after a chunk of steps.

  Attributes:
    step: steps done.
    num_steps: steps in all.
    num_splats: splats alive.
    loss: mean squared error of the highest prefix alive.
    psnr_db: of each prefix alive, float pictures, on its own grid.
  """

  step: int
  num_steps: int
  num_splats: int
  loss: float
  psnr_db: tuple[float, ...]


class PictureFit:
  """A picture and, on the host, where its fit stands.

  Attributes:
    image: the picture.
    pixel_weights: of its pixels in the loss.
    state: of the fit (NumPy); while it is on the devices, an older one.
    edges: of its bands.
    coarser: picture and weights on coarser grids.
    rounder: what is rounded already; None: nothing is.
    errors: of the prefixes, at the last step.
    lowest_loss: of all chunks so far; what is far above it has diverged.
  """

  def __init__(
      self,
      image: Float[np.ndarray, 'h w c'],
      schedule: schedule_lib.Schedule,
      *,
      pixel_weights: Float[np.ndarray, 'h w'] | None = None,
      num_bands: int = 1,
  ):
    height, width, channels = image.shape
    if pixel_weights is None:
      pixel_weights = np.ones((height, width), np.float32)
    self.image = image
    self.pixel_weights = pixel_weights
    self.state = train.create_train_state(sum(schedule.layer_sizes), channels)
    self.edges = bands.cut_evenly(height, num_bands)
    self.coarser = train.on_coarser_grids(
        image, pixel_weights, schedule.grids[:-1]
    )
    self.rounder: rounding.Rounder | None = None
    self.errors: np.ndarray | None = None
    self.lowest_loss = float(np.mean(image**2))
    self._schedule = schedule

  def begin_with(self, layers: Sequence[types.Splats]) -> None:
    """Puts the strongest splats into the first slots of each layer."""
    first = 0
    schedule = self._schedule
    for splats, size, count in zip(
        layers, schedule.layer_sizes, schedule.filled
    ):
      strongest = np.argsort(-types.contributions(splats), kind='stable')
      kept = np.sort(strongest[:count])
      splats = types.Splats(*(x[kept] for x in splats))
      self.state = train.add_splats(self.state, first, splats)
      first += size
    if first:
      self.balance()

  def snapshot(self) -> checkpoint.Snapshot:
    """Where the fit stands."""
    schedule = self._schedule
    return checkpoint.Snapshot(
        state=self.state,
        layer_sizes=schedule.layer_sizes,
        height=schedule.height,
        width=schedule.width,
        errors=self.errors,
        lowest_loss=self.lowest_loss,
        edges=np.int32(self.edges),
        step_sizes=self.rounder and self.rounder.step_sizes,
        decided=self.rounder and self.rounder.decided,
    )

  def restore(
      self, snapshot: checkpoint.Snapshot, config: config_lib.FitConfig
  ) -> None:
    """Goes back to where a fit stood.

    Raises:
      ValueError: it was one of other layers.
    """
    if snapshot.layer_sizes != self._schedule.layer_sizes:
      raise ValueError('the checkpoint is of a fit with other layers')
    self.state = snapshot.state
    self.errors, self.lowest_loss = snapshot.errors, snapshot.lowest_loss
    if snapshot.step_sizes is not None:
      self.round_with(snapshot.step_sizes, config)
      self.rounder.decided = snapshot.decided
    if len(self.edges) == len(snapshot.edges):
      self.edges = snapshot.edges.tolist()
    else:  # Of another number of devices.
      self.balance()

  def make_bands(self) -> list[train.Band]:
    """Its bands."""
    return train.make_bands(
        self.image, self.edges, self.pixel_weights, self.coarser
    )

  def balance(self) -> None:
    """Moves the edges so that all bands have the same work."""
    height, width, _ = self.image.shape
    alive = jax.tree.map(lambda x: x[self.state.active], self.state.params)
    work = bands.row_work(alive, height, width)
    self.edges = bands.cut_rows(work, len(self.edges) - 1)

  def on_grid(self, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture and weights on a grid."""
    return (*self.coarser, (self.image, self.pixel_weights))[index]

  def join(
      self, images: Float[np.ndarray, 'bands h w c'], grid: int
  ) -> Float[np.ndarray, 'h w c']:
    """A picture on a grid, of its bands."""
    height = len(self.on_grid(grid)[0])
    edges = bands.scale_edges(self.edges, height / len(self.image))
    return bands.join_rows(images, edges, height)

  def round_with(
      self,
      step_sizes: Sequence[quantize.StepSizes],
      config: config_lib.FitConfig,
  ) -> None:
    """Rounding with these steps, of all layers or one a layer, is to begin."""
    sizes, channels = self._schedule.layer_sizes, self.image.shape[2]
    steps = quantize.per_layer(
        step_sizes, len(sizes), self._schedule.height, self._schedule.width
    )
    self.rounder = rounding.Rounder(config, steps, sizes, channels)

  def quantized(self) -> quantized.QuantizedLayers:
    """The symbols of a fit that is rounded."""
    return quantized.QuantizedLayers(
        symbols=self.rounder.symbols(self.state),
        step_sizes=self.rounder.step_sizes,
        height=self._schedule.height,
        width=self._schedule.width,
    )

  def progress(self, step: int) -> Progress:
    """How good it was at a step, by the errors."""
    num_splats, alive = self._schedule.alive(step)
    # Of the weights: of all pixels, where each has the same.
    num_values = self.pixel_weights.sum(dtype=np.float64) * self.image.shape[2]
    mse = np.asarray(self.errors[:alive], np.float64) / num_values
    with np.errstate(divide='ignore'):
      psnr_db = -10 * np.log10(mse)
    return Progress(
        step=step,
        num_steps=self._schedule.num_steps,
        num_splats=num_splats,
        loss=float(mse[-1]),
        psnr_db=tuple(psnr_db.tolist()),
    )

  def has_diverged(self, progress: Progress) -> bool:
    """Whether there is nothing left of the fit."""
    return not progress.loss <= self._worst_loss()  # It may be no number.

  def require_sound(self, progress: Progress) -> None:
    """Raises `DivergenceError`, with step and layer, where it has diverged."""
    if not self.has_diverged(progress):
      return
    # The lowest prefix of which nothing is left.
    losses = 10 ** np.divide(progress.psnr_db, -10)
    layer = int(np.argmax(~(losses <= self._worst_loss())))
    finite = np.isfinite(progress.loss)
    loss = f'{progress.loss:.3g}' if finite else 'not finite'
    raise DivergenceError(
        f'the fit diverged in layer {layer}: the loss is {loss} after step'
        f' {progress.step} of {progress.num_steps}; lower the rates'
    )

  def _worst_loss(self) -> float:
    """Above it, the fit has diverged."""
    limit = _WORST_LOSS if self.rounder is None else _WORST_ROUNDED_LOSS
    return max(limit, _WORST_GROWTH * self.lowest_loss)


class View(NamedTuple):
  """What a change wants to see: the splats alive before slot `end`.

  Attributes:
    grid: index of the grid that shows them.
    end: of the slots.
  """

  grid: int
  end: int


class Apply(Protocol):
  """What a change does."""

  def __call__(
      self,
      picture: PictureFit,
      shown: list[Float[np.ndarray, 'h w c'] | None],
      /,
  ) -> None:
    """Changes the state of a picture; called by a thread for each picture.

    Args:
      picture: whose state it is, in NumPy.
      shown: what its views show; None where no splat is alive.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
  """What happens to the splats of every picture, on the host.

  Attributes:
    step: before which step.
    apply: what happens.
    views: what it takes to decide it.
    kind: what it is called among the events.
  """

  step: int
  apply: Apply
  views: tuple[View, ...] = ()
  kind: Literal['birth', 'relocation', 'rounding'] = 'rounding'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
  """What has just happened in a fit.

  Attributes:
    kind: `steps`: a chunk of them; `birth`, `relocation` or `rounding`: a
      change was applied; `checkpoint`: this is where one may be made; `done`.
    step: steps done.
    progress: after steps, of each picture.
    is_milestone: whether this checkpoint is one that counts: the last before
      rounding begins, or before the end.
  """

  kind: Literal[
      'steps', 'birth', 'relocation', 'rounding', 'checkpoint', 'done'
  ]
  step: int
  progress: tuple[Progress, ...] = ()
  is_milestone: bool = False


class Program:
  """The compiled part of fits: of pictures of one size, with equal settings.

  Attributes:
    config: the settings.
    devices: in equal runs for each picture.
    num_pictures: at a time.
    num_bands: of each picture.
  """

  def __init__(
      self,
      config: config_lib.FitConfig,
      layout: schedule_lib.Layout,
      devices: Sequence[jax.Device],
      *,
      loss: losses.Loss,
      implementation: pallas_kernels.Implementation | None = None,
      num_pictures: int = 1,
  ):
    self.config = config
    self.devices = tuple(devices)
    self.num_pictures = num_pictures
    self.num_bands = len(devices) // num_pictures
    self._layout = layout
    self._error_fn = functools.partial(
        loss.error_fn, implementation=implementation
    )
    self._is_whole = loss.needs == 'whole'
    self.chunk = self._make_chunk(config)
    self.renders = [
        train.make_render(self.devices, implementation, num_pictures, grid)
        for grid in layout.grids
    ]

  def _make_chunk(self, config: config_lib.FitConfig):
    return train.make_train_chunk(
        config,
        self._layout,
        self.devices,
        self._error_fn,
        self.num_pictures,
        crop=self._is_whole,
    )

  @functools.cached_property
  def one_step(self):
    """As `chunk`, a single step."""
    return self._make_chunk(dataclasses.replace(self.config, chunk_steps=1))


class Loop:
  """Fits pictures, from where their states stand to the end of the schedule.

  Args:
    program: the compiled part.
    schedule: of all steps.
    pictures: as many as the program is for.
    changes: that happen on the way; those due before the step where the states
      stand are left out.
    pace: what leaves out steps so that the fit ends in time, if anything.
  """

  def __init__(
      self,
      program: Program,
      schedule: schedule_lib.Schedule,
      pictures: Sequence[PictureFit],
      changes: Sequence[Change],
      pace: pace_lib.Pace | None = None,
  ):
    self._program = program
    self._schedule = schedule
    self._pictures = pictures
    self._step = int(pictures[0].state.step)
    self._changes = [x for x in changes if x.step >= self._step]
    rounds = [x.step for x in changes if x.kind == 'rounding']
    self._milestones = (*rounds[:1], schedule.num_steps)
    self._pace = pace
    self._several = processes.are_several(program.devices)
    self._inputs = self._place([schedule.inputs] * len(program.devices))
    # None: the states of the pictures are newer.
    self._state: train.TrainState | None = None
    self._bands: train.Band | None = None
    self._edges: list[list[int]] = []

  def run(self) -> Iterator[Event]:
    """Yields what happens; the states of the pictures are the result.

    Raises:
      DivergenceError: the fit of one picture has diverged.
    """
    yield from self._apply_due()
    while self._step < self._schedule.num_steps:
      progress = self._run_chunk()
      self._step += self._program.config.chunk_steps
      yield Event(kind='steps', step=self._step, progress=progress)
      yield Event(
          kind='checkpoint',
          step=self._step,
          is_milestone=self._step in self._milestones,
      )
      if self._pace:
        self._skip()
      yield from self._apply_due()
    self._to_host()
    yield Event(kind='done', step=self._step)

  def snapshots(self) -> list[checkpoint.Snapshot]:
    """Where the fits stand."""
    self._to_host()
    return [x.snapshot() for x in self._pictures]

  def _apply_due(self) -> Iterator[Event]:
    """Applies the changes that are due."""
    while self._changes and self._changes[0].step <= self._step:
      change = self._changes.pop(0)
      if change.kind == 'relocation' and any(
          x.kind == 'relocation' and x.step <= self._step for x in self._changes
      ):
        continue  # Steps were left out; one of several does.
      shown = self._show(change.views)
      # NumPy and SciPy release the lock in what takes long.
      with concurrent.futures.ThreadPoolExecutor(len(self._pictures)) as pool:
        list(pool.map(change.apply, self._pictures, shown))
      self._state = None
      if self._several:
        # Other machines may round differently: all take what the first has.
        (x,) = self._pictures
        mine = x.state, np.int32(x.edges)
        x.state, edges = processes.arrays_of_first(mine)
        x.edges = [int(edge) for edge in edges]
        if x.rounder is not None:
          x.rounder = processes.object_of_first(x.rounder)
      yield Event(kind=change.kind, step=self._step)

  def _show(
      self, views: Sequence[View]
  ) -> list[list[Float[np.ndarray, 'h w c'] | None]]:
    """What the views show of every picture, whose states come to the host."""
    if not views or not any(x.state.active.any() for x in self._pictures):
      self._to_host()
      return [[None] * len(views) for _ in self._pictures]
    self._to_devices()
    rendered = []
    for view in views:
      band = (*self._bands.coarser, self._bands)[view.grid]
      ends = self._place([np.int32(view.end)] * len(self._program.devices))
      render = self._program.renders[view.grid]
      rendered.append(render(self._state, band, ends))
    return [
        [x.join(image, view.grid) for image, view in zip(images, views)]
        for x, images in zip(self._pictures, self._to_host(rendered))
    ]

  def _place(self, trees: Sequence[Any]) -> Any:
    return train.place(trees, self._program.devices)

  def _to_devices(self) -> None:
    """Puts the states on the devices, and the bands where edges have moved."""
    if self._state is not None:
      return
    num_bands = self._program.num_bands
    states = [x.state for x in self._pictures for _ in range(num_bands)]
    self._state = self._place(states)
    edges = [x.edges for x in self._pictures]
    if edges != self._edges:
      self._bands = self._place(
          [y for x in self._pictures for y in x.make_bands()]
      )
      self._edges = edges

  def _to_host(self, arrays: Any = None) -> list[Any]:
    """Brings the states to the host, and other arrays in the same transfer."""
    if self._state is None:
      return []
    fetched = train.fetch((self._state, arrays), len(self._pictures))
    for x, (state, _) in zip(self._pictures, fetched):
      x.state = state
    return [others for _, others in fetched]

  def _run_chunk(self) -> tuple[Progress, ...]:
    """Runs the steps of a chunk; returns how good each picture is then."""
    self._to_devices()
    before = self._state
    self._state, errors = self._program.chunk(before, self._inputs, self._bands)
    done = self._step + self._program.config.chunk_steps
    progress = self._progress(errors, done)
    pairs = list(zip(self._pictures, progress))
    if any(x.has_diverged(now) for x, now in pairs):
      self._find_divergence(before, range(self._step + 1, done + 1))
    for x, now in pairs:
      x.lowest_loss = min(x.lowest_loss, now.loss)
    return progress

  def _progress(self, errors: jax.Array, step: int) -> tuple[Progress, ...]:
    """Fetches the errors of the last step of a chunk."""
    fetched = train.fetch(errors, len(self._pictures))
    for x, host_errors in zip(self._pictures, fetched):
      x.errors = host_errors
    return tuple(x.progress(step) for x in self._pictures)

  def _find_divergence(self, state: train.TrainState, steps: range) -> NoReturn:
    """Raises the error; by the end of a chunk, all layers may be lost."""
    for step in steps:
      state, errors = self._program.one_step(state, self._inputs, self._bands)
      for x, progress in zip(self._pictures, self._progress(errors, step)):
        x.require_sound(progress)
    raise DivergenceError(f'the fit diverged before step {steps[-1]}')

  def _skip(self) -> None:
    """Leaves out the steps that there is no time for."""
    done = self._step
    step = self._pace.next_step(done, self._program.config.chunk_steps)
    births = [x.step for x in self._changes if x.kind == 'birth']
    if births:  # None is left out: the file would lack layers.
      step = max(done, min(step, births[-1]))
    if step > done:
      steps = [np.int32(step)] * len(self._program.devices)
      self._state = self._state.replace(step=self._place(steps))
      self._step = step
