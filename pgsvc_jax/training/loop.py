"""The loop of a fit: several pictures of one size in step, on their devices.

A `Picture` is one of them on the host, where splats are born and rounded; the
`Loop` has the states of all on the devices, and runs the compiled steps.
"""

from collections.abc import Callable, Sequence
import concurrent.futures
import dataclasses
import functools
from typing import Any, NoReturn

import jax
from jaxtyping import Float
import numpy as np

import pallas_kernels
from pgsvc_jax import config as config_lib
from pgsvc_jax import processes
from pgsvc_jax import types
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import quantized
from pgsvc_jax.training import bands
from pgsvc_jax.training import checkpoint
from pgsvc_jax.training import initialize
from pgsvc_jax.training import relocation
from pgsvc_jax.training import rounding
from pgsvc_jax.training import schedule as schedule_lib
from pgsvc_jax.training import train

# A fit has diverged when its loss is so many times the lowest so far (of no
# splats at first), and above a limit: what is nearly exact may lose 20 dB in a
# chunk, and rounding for a very low rate may leave no splat.
_WORST_GROWTH = 100.0
_WORST_LOSS = 0.1
_WORST_ROUNDED_LOSS = 1.0

# Of all layers, or one of each.
StepSizes = quantize.StepSizes | Sequence[quantize.StepSizes]

# (picture, its fit before rounding, squared error) -> step sizes.
ChooseStepSizes = Callable[[int, types.LayeredSplats, float], StepSizes]


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


class Picture:
  """A picture and, on the host, where its fit stands.

  Attributes:
    image: the picture.
    pixel_weights: of its pixels in the loss.
    state: of the fit (NumPy); while it is on the devices, an older one.
    edges: of its bands.
    coarser: picture and weights on coarser grids.
    rounder: what is rounded already; None: nothing will be.
    errors: of the prefixes, at the last step.
  """

  def __init__(
      self,
      image: Float[np.ndarray, 'h w c'],
      pixel_weights: Float[np.ndarray, 'h w'],
      config: config_lib.FitConfig,
      schedule: schedule_lib.Schedule,
      num_bands: int,
  ):
    height, _, channels = image.shape
    num_splats = sum(schedule.layer_sizes)
    self.image = image
    self.pixel_weights = pixel_weights
    self.state = train.create_train_state(num_splats, channels)
    self.edges = bands.cut_evenly(height, num_bands)
    self.coarser = train.on_coarser_grids(
        image, pixel_weights, schedule.grids[:-1]
    )
    self.rounder: rounding.Rounder | None = None
    self.errors: np.ndarray | None = None
    self._config = config
    self._schedule = schedule
    self._lowest_loss = float(np.mean(image**2))

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
      self._cut()

  def snapshot(self) -> checkpoint.Snapshot:
    """Where the fit stands."""
    schedule = self._schedule
    return checkpoint.Snapshot(
        state=self.state,
        layer_sizes=schedule.layer_sizes,
        height=schedule.height,
        width=schedule.width,
        errors=self.errors,
        lowest_loss=self._lowest_loss,
        edges=np.int32(self.edges),
        step_sizes=self.rounder and self.rounder.step_sizes,
        decided=self.rounder and self.rounder.decided,
    )

  def restore(self, snapshot: checkpoint.Snapshot) -> None:
    """Goes back to where a fit stood.

    Raises:
      ValueError: it was one of other layers.
    """
    if snapshot.layer_sizes != self._schedule.layer_sizes:
      raise ValueError('the checkpoint is of a fit with other layers')
    self.state = snapshot.state
    self.errors, self._lowest_loss = snapshot.errors, snapshot.lowest_loss
    if snapshot.step_sizes is not None:
      self._set_steps(snapshot.step_sizes, snapshot.decided)
    if len(self.edges) == len(snapshot.edges):
      self.edges = snapshot.edges.tolist()
    else:  # Of another number of devices.
      self._cut()

  def cut(self) -> list[train.Band]:
    """Its bands."""
    return train.make_bands(
        self.image, self.edges, self.pixel_weights, self.coarser
    )

  def _cut(self) -> None:
    """Moves the edges so that all bands have the same work."""
    height, width, _ = self.image.shape
    alive = jax.tree.map(lambda x: x[self.state.active], self.state.params)
    work = bands.row_work(alive, height, width)
    self.edges = bands.cut_rows(work, len(self.edges) - 1)

  def give_birth(
      self,
      birth: schedule_lib.Birth,
      initializer: initialize.Initializer,
      shown: Float[np.ndarray, 'h w c'] | None,
  ) -> None:
    """Adds splats where they are needed most on their grid.

    Args:
      birth: which splats.
      initializer: makes them.
      shown: what the grid shows so far; None: nothing.
    """
    index = self._schedule.grid_of(birth.first)
    grid = self._schedule.grids[index]
    factors = np.float32(grid.factors)
    image, weights = self._grid(index)
    rng = np.random.default_rng((self._config.seed, birth.first))
    # Splats for finer grids may be alive, but this one does not show them.
    prefix = slice(0, grid.num_splats)
    alive = self.state.active[prefix]
    means = self.state.params.means[prefix][alive] * factors
    count = birth.last - birth.first
    splats = initializer(image, shown, weights, means, count, rng)
    initialize.check_splats(splats, count, image.shape[2])
    splats = initialize.from_grid(splats, factors)
    self.state = train.add_splats(self.state, birth.first, splats)
    self._cut()

  def find_moves(
      self, step: int, layer: int, shown: Float[np.ndarray, 'h w c']
  ) -> relocation.Moves:
    """What splats of a layer move, and where to.

    Args:
      step: of the fit; with the layer, it decides what is random.
      layer: whose.
      shown: the prefix up to this layer, on its grid.

    Returns:
      The moves, in slots of the state and pixels of the picture.
    """
    ends = np.cumsum((0, *self._schedule.layer_sizes))
    slots = np.arange(*ends[layer : layer + 2])
    slots = slots[self.state.active[slots]]
    index = self._schedule.grid_of(ends[layer])
    factors = np.float32(self._schedule.grids[index].factors)
    image, weights = self._grid(index)
    rng = np.random.default_rng((self._config.seed, step, layer))
    moves = relocation.choose_moves(
        initialize.to_grid(
            types.Splats(*(x[slots] for x in self.state.params)), factors
        ),
        image - shown,
        weights,
        round(self._config.relocated_share * len(slots)),
        rng,
    )
    return relocation.Moves(
        slots[moves.chosen], initialize.from_grid(moves.splats, factors)
    )

  def move(self, moves: Sequence[relocation.Moves]) -> None:
    """Puts the new splats in the slots of the old ones."""
    for chosen, splats in moves:
      self.state = train.put_splats(self.state, chosen, splats)
    self._cut()

  def _grid(self, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture and weights on a grid."""
    return (*self.coarser, (self.image, self.pixel_weights))[index]

  def join(
      self, images: Float[np.ndarray, 'bands h w c'], grid: int
  ) -> Float[np.ndarray, 'h w c']:
    """A picture on a grid, of its bands."""
    height = len(self._grid(grid)[0])
    edges = bands.scale_edges(self.edges, height / len(self.image))
    return bands.join_rows(images, edges, height)

  def begin_rounding(self, step_sizes: StepSizes) -> None:
    """Takes out the splats that would round to next to nothing."""
    self._set_steps(step_sizes)
    self.state = self.rounder.drop_weak(self.state)

  def _set_steps(
      self, step_sizes: StepSizes, decided: rounding.Decided | None = None
  ) -> None:
    """Rounding with these steps begins, or goes on."""
    schedule = self._schedule
    sizes = schedule.layer_sizes
    steps = quantize.per_layer(
        step_sizes, len(sizes), schedule.height, schedule.width
    )
    self.rounder = rounding.Rounder(
        self._config, steps, sizes, self.image.shape[2]
    )
    if decided is not None:
      self.rounder.decided = decided

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

  def note_loss(self, progress: Progress) -> None:
    """Keeps the lowest."""
    self._lowest_loss = min(self._lowest_loss, progress.loss)

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
    return max(limit, _WORST_GROWTH * self._lowest_loss)


class Loop:
  """Pictures of one size on devices, as many of them for each.

  States go to the devices by `place`, steps change them there, and `fetch`
  brings them back.
  """

  def __init__(
      self,
      pictures: Sequence[Picture],
      config: config_lib.FitConfig,
      schedule: schedule_lib.Schedule,
      devices: Sequence[jax.Device],
      implementation: pallas_kernels.Implementation | None,
      error_fn: train.ErrorFn | None,
  ):
    self._pictures = pictures
    self._config = config
    self._schedule = schedule
    self._devices = devices
    self._several = processes.are_several(devices)
    self._error_fn = error_fn or functools.partial(
        pallas_kernels.composite_error, implementation=implementation
    )
    self._chunk = self._make_chunk(config)
    self._renders = [
        train.make_render(devices, implementation, len(pictures), grid)
        for grid in schedule.grids
    ]
    self._inputs = train.place([schedule.inputs] * len(devices), devices)
    self._state: train.TrainState | None = None
    self._bands: train.Band | None = None
    self._edges: list[list[int]] = []

  def _make_chunk(self, config: config_lib.FitConfig):
    return train.make_train_chunk(
        config,
        self._schedule,
        self._devices,
        self._error_fn,
        len(self._pictures),
    )

  def place(self) -> None:
    """Puts the states on the devices, and the bands where edges have moved."""
    num_bands = len(self._devices) // len(self._pictures)
    states = [x.state for x in self._pictures for _ in range(num_bands)]
    self._state = train.place(states, self._devices)
    edges = [x.edges for x in self._pictures]
    if edges != self._edges:
      cut = [band for x in self._pictures for band in x.cut()]
      self._bands = train.place(cut, self._devices)
      self._edges = edges

  def fetch(self, arrays: Any = None) -> list[Any]:
    """Brings the states to the host, and other arrays in the same transfer."""
    fetched = train.fetch((self._state, arrays), len(self._pictures))
    for x, (state, _) in zip(self._pictures, fetched):
      x.state = state
    return [others for _, others in fetched]

  def give_births(
      self, birth: schedule_lib.Birth, initializer: initialize.Initializer
  ) -> None:
    """Gives birth in every picture, and cuts the bands anew."""
    shown = [None] * len(self._pictures)
    if self._state is not None:
      shown = self._show(self._schedule.grid_of(birth.first))
    # NumPy and SciPy release the lock in what takes long.
    with concurrent.futures.ThreadPoolExecutor(len(self._pictures)) as pool:
      give = lambda x, image: x.give_birth(birth, initializer, image)
      list(pool.map(give, self._pictures, shown))
    self._take_from_first()
    self.place()

  def _show(
      self, grid: int, end: int | None = None
  ) -> list[Float[np.ndarray, 'h w c']]:
    """What every picture shows on a grid; of the slots before `end`."""
    if end is None:
      end = self._schedule.grids[grid].num_splats
    band = (*self._bands.coarser, self._bands)[grid]
    ends = train.place([np.int32(end)] * len(self._devices), self._devices)
    images = self.fetch(self._renders[grid](self._state, band, ends))
    return [x.join(y, grid) for x, y in zip(self._pictures, images)]

  def _take_from_first(self) -> None:
    """Other machines may round differently: all take what the first one has."""
    if self._several:
      (x,) = self._pictures
      mine = x.state, np.int32(x.edges)
      x.state, edges = processes.arrays_of_first(mine)
      x.edges = [int(edge) for edge in edges]

  def relocate(self, step: int) -> None:
    """Moves splats that show next to nothing, and cuts the bands anew."""
    schedule = self._schedule
    ends = np.cumsum((0, *schedule.layer_sizes))
    moves = [[] for _ in self._pictures]
    for layer in np.flatnonzero(schedule.inputs.layer_rates[step]):
      first, last = ends[layer : layer + 2]
      if not any(x.state.active[first:last].any() for x in self._pictures):
        continue
      shown = self._show(schedule.grid_of(first), last)
      find = lambda x, image, layer=layer: x.find_moves(step, layer, image)
      with concurrent.futures.ThreadPoolExecutor(len(self._pictures)) as pool:
        found = pool.map(find, self._pictures, shown)
        for mine, one in zip(moves, found):
          mine.append(one)
    for x, mine in zip(self._pictures, moves):
      x.move(mine)
    self._take_from_first()
    self.place()

  def begin_rounding(self, step_sizes: StepSizes | ChooseStepSizes) -> None:
    """Decides the steps of every picture, unless that is done."""
    self.fetch()
    for i, x in enumerate(self._pictures):
      if x.rounder is not None:
        continue
      steps = step_sizes
      if callable(steps):
        steps = steps(i, x.snapshot().layered, float(x.errors[-1]))
      x.begin_rounding(steps)

  def round(self, event: schedule_lib.Rounding) -> None:
    """Rounds one attribute of one group of splats in every picture."""
    for x in self._pictures:
      x.state = x.rounder.round(x.state, event)
    if self._several:
      # As with births.
      (x,) = self._pictures
      x.state = processes.arrays_of_first(x.state)
    self.place()

  def run_chunk(self, step: int) -> list[Progress]:
    """Runs the steps of a chunk.

    Args:
      step: the first of them.

    Returns:
      How good each picture is after the last.

    Raises:
      DivergenceError: the fit of one has diverged.
    """
    before = self._state
    self._state, errors = self._chunk(before, self._inputs, self._bands)
    done = step + self._config.chunk_steps
    states = self._progress(errors, done)
    pairs = list(zip(self._pictures, states))
    if any(x.has_diverged(progress) for x, progress in pairs):
      self._find_divergence(before, range(step + 1, done + 1))
    for x, progress in pairs:
      x.note_loss(progress)
    return states

  def _progress(self, errors: jax.Array, step: int) -> list[Progress]:
    """Fetches the errors of the last step of a chunk."""
    fetched = train.fetch(errors, len(self._pictures))
    for x, host_errors in zip(self._pictures, fetched):
      x.errors = host_errors
    return [x.progress(step) for x in self._pictures]

  def _find_divergence(self, state: train.TrainState, steps: range) -> NoReturn:
    """Raises the error; by the end of a chunk, all layers may be lost."""
    one = self._make_chunk(dataclasses.replace(self._config, chunk_steps=1))
    for step in steps:
      state, errors = one(state, self._inputs, self._bands)
      for x, progress in zip(self._pictures, self._progress(errors, step)):
        x.require_sound(progress)
    raise DivergenceError(f'the fit diverged before step {steps[-1]}')

  def skip_to(self, step: int) -> None:
    """Leaves out the steps before this one."""
    steps = [np.int32(step)] * len(self._devices)
    self._state = self._state.replace(step=train.place(steps, self._devices))
