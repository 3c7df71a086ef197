"""Fits and codes groups of pictures, frame by frame, in a closed loop.

The first frame of a group is fitted as any picture is. Every later one starts
from the splats of the frame before *as decoded*, moved by a motion field that
was fitted to that:

  1. some splats die: those that show least; as many are born at the peaks of
     what is missing;
  2. all layers are fitted together, with a cost for changes that is about what
     their bits are worth, so that most numbers stay as they are;
  3. changes are rounded to whole steps group by group, small ones to none, and
     what is not yet rounded makes up for it.

Groups need nothing from one another, and a group needs one device: so files do
not depend on how many there are.
"""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import functools
import math

import jax
from jaxtyping import Bool, Float, Int
import numpy as np

import pallas_kernels
from pgsvc_jax import config as config_lib
from pgsvc_jax import render
from pgsvc_jax import resolution
from pgsvc_jax import types
from pgsvc_jax.codec import lattice as lattice_lib
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import rate
from pgsvc_jax.training import fit
from pgsvc_jax.training import initialize
from pgsvc_jax.training import loop
from pgsvc_jax.training import losses
from pgsvc_jax.training import schedule as schedule_lib
from pgsvc_jax.training import strategies
from pgsvc_jax.training import train
from pgsvc_jax.video import flow
from pgsvc_jax.video import frame_coding
from pgsvc_jax.video import motion_fit
from pgsvc_jax.video import rate_control

# Share of the steps before the rounding after which splats are born.
_BIRTH = 0.25

# Octaves that the weight of bits may depart from what is asked for.
_MOST_HELD = 3.0

# Which columns of points an attribute is made of; colors last.
_COLUMNS = {
    'means': slice(0, 2),
    'cholesky': slice(2, lattice_lib.COLORS),
    'colors': slice(lattice_lib.COLORS, None),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameStats:
  """What became of a frame.

  Attributes:
    index: in the group; 0 is the I-frame.
    sizes: bytes of each layer.
    psnr_db: of each prefix as decoded to 8 bits, on its own grid.
    born: splats born.
    still: share of the other splats that did not change.
  """

  index: int
  sizes: tuple[int, ...]
  psnr_db: tuple[float, ...]
  born: int
  still: float


def update_config(config: config_lib.VideoConfig) -> config_lib.FitConfig:
  """The settings of the fit of a predicted frame."""
  fit_config = config.image.fit
  if strategies.STRATEGIES[fit_config.strategy].ranks:
    # Ranked once; then each layer follows its splats, and the top alone counts.
    fit_config = dataclasses.replace(
        fit_config, strategy='joint', lower_weight=0.0
    )
  return dataclasses.replace(
      fit_config,
      num_steps=config.update_steps,
      growth_fraction=0.0,
      num_births=1,
      coarse_steps=0.0,
      rounding_steps=config.update_rounding_steps,
      rounding_groups=config.update_groups,
      means_rate=config.update_rate * fit_config.means_rate,
      cholesky_rate=config.update_rate * fit_config.cholesky_rate,
      colors_rate=config.update_rate * fit_config.colors_rate,
      # What is predicted should stay as it is.
      colors_decay=0.0,
      # Rounding has rates of its own.
      rounding_rates=tuple(
          x / config.update_rate for x in fit_config.rounding_rates
      ),
  )


class GopFitter:
  """Fits groups of one video on one device, one after the other.

  Compiled once. The splats of a group have the slots of the schedule; those
  that rounding found too weak to keep are empty.
  """

  def __init__(
      self,
      config: config_lib.VideoConfig,
      height: int,
      width: int,
      *,
      device: jax.Device,
      implementation: pallas_kernels.Implementation | None = None,
  ):
    self._config = config
    self._device = device
    self._implementation = implementation
    self._shape = height, width
    self._fit_config = update_config(config)
    self._schedule = schedule_lib.make_schedule(
        self._fit_config, height, width, rounding=True
    )
    self._loss = losses.get(self._fit_config.loss)
    self._program = loop.Program(
        self._fit_config,
        self._schedule.layout,
        [device],
        loss=self._loss,
        implementation=implementation,
    )
    self._field_fitter = motion_fit.FieldFitter(
        sum(self._schedule.layer_sizes),
        config.motion_steps,
        device=device,
        implementation=implementation,
    )

  def encode(
      self,
      frames: Iterable[Float[np.ndarray, 'h w c']],
      seed: int = 0,
      budget: rate_control.Budget | None = None,
  ) -> Iterator[FrameStats]:
    """Encodes a group; `packets` has the result when all frames are through.

    Args:
      frames: in [0, 1], of the size of this fitter.
      seed: of what is random in this group.
      budget: of the bytes of this group; None: as the settings have it.

    Yields:
      What became of each frame.
    """
    self._budget = budget
    before, waiting = None, []
    for index, frame in enumerate(frames):
      frame = np.asarray(frame, np.float32)
      waiting.append(self._encode_frame(index, before, frame, seed))
      if budget and index == 1:
        while budget.is_off(*(sum(x.sizes) for x in waiting)):
          waiting = [
              self._encode_frame(0, None, before, seed),
              self._encode_frame(1, before, frame, seed),
          ]
      before = frame
      if budget and index == 0:
        continue  # The second may show that it was a wrong one.
      if budget:
        used = sum(map(len, self.packets()))
        budget.spend(index, used, sum(waiting[-1].sizes))
      yield from waiting
      waiting = []
    yield from waiting

  def _encode_frame(
      self,
      index: int,
      before: Float[np.ndarray, 'h w c'] | None,
      frame: Float[np.ndarray, 'h w c'],
      seed: int,
  ) -> FrameStats:
    """Codes a frame after the one before it; None: it is the first."""
    if before is None:
      self._predicted_db, self._last_db = [], None
      self._begin(frame, seed)
      born, still = sum(len(x.points) for x in self._encoder.layers), 0.0
    else:
      born, still = self._predict(before, frame, (seed, index))
    psnr_db = self._psnr_db(frame)
    self._last_db = psnr_db[-1]
    if index:
      self._predicted_db.append(psnr_db[-1])
    return FrameStats(
        index=index,
        sizes=tuple(sizes[-1] for sizes in self._encoder.sizes),
        psnr_db=psnr_db,
        born=born,
        still=still,
    )

  def packets(self) -> list[bytes]:
    """The packets of the group just encoded, one a layer."""
    return self._encoder.packets()

  def _begin(self, frame: Float[np.ndarray, 'h w c'], seed: int) -> None:
    """Fits and codes the first frame."""
    height, width, channels = frame.shape
    image_config = self._config.image
    if self._budget:
      bpp = self._budget.first_bytes * 8 / (height * width)
      image_config = dataclasses.replace(image_config, target_bpp=bpp)
    (layers,) = fit.fit_quantized(
        [frame],
        dataclasses.replace(
            image_config.fit, seed=image_config.fit.seed + seed
        ),
        rates=[functools.partial(rate.choose_step_sizes, image_config)],
        devices=[self._device],
        implementation=self._implementation,
    )
    self._encoder = frame_coding.GopEncoder(
        layers.step_sizes,
        height=height,
        width=width,
        channels=channels,
        log2_block=self._config.log2_block or 4,
    )
    self._encoder.add(
        list(map(frame_coding.births, layers.symbols, layers.step_sizes))
    )

  def _predict(
      self,
      before: Float[np.ndarray, 'h w c'],
      frame: Float[np.ndarray, 'h w c'],
      seed: tuple[int, int],
  ) -> tuple[int, float]:
    """Fits and codes a later frame; returns splats born and the share still."""
    config, encoder = self._config, self._encoder
    channels = frame.shape[2]
    # A budget steers the weight by itself.
    weight = (
        config.bit_weight * self._budget.cost
        if self._budget
        else held_weight(config, self._predicted_db)
    )
    bit_error = weight * _step_error(encoder.step_sizes)
    if config.log2_block:
      encoder.move(self._motion_field(before, frame, bit_error))
    if self._last_db is not None:
      bit_error *= self._loss.per_squared_error(10 ** (-self._last_db / 10))
    rng = np.random.default_rng((config.image.fit.seed, *seed))
    dead = [
        _choose_dead(layer, steps, config.turnover, *self._shape)
        for layer, steps in zip(encoder.layers, encoder.step_sizes)
    ]
    prediction = _Prediction(
        self._schedule.layer_sizes, encoder, dead, channels
    )
    rounder = _Rounder(prediction, config, rng)
    picture = loop.PictureFit(frame, self._schedule)
    picture.state = prediction.state(bit_error)
    picture.lowest_loss = 1.0  # It may begin as far off as frames can be.
    changes = self._changes(prediction, rounder, rng)
    try:
      for _ in loop.Loop(
          self._program, self._schedule, [picture], changes
      ).run():
        pass
    except loop.DivergenceError as error:
      raise loop.DivergenceError(
          f'the fit of frame {seed[1]} of a group diverged: lower update_rate'
      ) from error
    updates = rounder.updates(picture.state)
    encoder.add(updates)
    changed = np.concatenate([x.changes for x in updates])
    return (
        sum(len(x.born.classes) for x in updates),
        float((changed == 0).all(axis=1).mean()) if len(changed) else 0.0,
    )

  def _changes(
      self,
      prediction: '_Prediction',
      rounder: '_Rounder',
      rng: np.random.Generator,
  ) -> list[loop.Change]:
    """Births on every grid at a time, and the rounding of all changes."""
    grids = self._schedule.grids

    def give_birth(picture, shown):
      residuals = [
          picture.on_grid(k)[0] - image for k, image in enumerate(shown)
      ]
      picture.state = prediction.give_birth(
          picture.state, grids, residuals, rng
      )

    def round_one(event, picture, shown):
      del shown
      picture.state = rounder.round(picture.state, event)

    chunk_steps = self._fit_config.chunk_steps
    birth = round(_BIRTH * self._config.update_steps / chunk_steps)
    changes = [
        loop.Change(
            step=birth * chunk_steps,
            apply=give_birth,
            views=tuple(
                loop.View(k, grid.num_splats) for k, grid in enumerate(grids)
            ),
            kind='birth',
        )
    ]
    changes += (
        loop.Change(step=x.step, apply=functools.partial(round_one, x))
        for x in self._schedule.roundings
    )
    return sorted(changes, key=lambda x: x.step)

  def _motion_field(
      self,
      before: Float[np.ndarray, 'h w c'],
      frame: Float[np.ndarray, 'h w c'],
      bit_error: float,
  ) -> Int[np.ndarray, 'rows cols 2']:
    """The field that moves the splats to a frame."""
    log2_block, encoder = self._config.log2_block, self._encoder
    vectors = flow.motion_field(before, frame, log2_block)
    if not self._config.motion_steps:
      return vectors
    layered = frame_coding.layered(
        encoder.layers, encoder.step_sizes, *self._shape
    )
    return self._field_fitter.refine(
        vectors, log2_block, layered.splats, frame, bit_error
    )

  def _psnr_db(self, frame: Float[np.ndarray, 'h w c']) -> tuple[float, ...]:
    """Of each prefix as a decoder shows it, on its own grid."""
    height, width, _ = frame.shape
    encoder = self._encoder
    layered = frame_coding.layered(
        encoder.layers, encoder.step_sizes, height, width
    )
    _, shapes = schedule_lib.finished_layers(
        self._config.image.fit, height, width
    )
    layered = dataclasses.replace(layered, layer_shapes=shapes)
    errors = []
    for level in render.render_levels(layered):
      target = resolution.downsample(frame, *level.shape[:2])
      error = (level / np.float32(255) - target) ** 2
      errors.append(np.mean(error, dtype=np.float64))
    return tuple(-10 * math.log10(max(error, 1e-12)) for error in errors)


def held_weight(
    config: config_lib.VideoConfig, predicted_db: Sequence[float]
) -> float:
  """What bits weigh in the next frame, given the PSNR of those before."""
  if not predicted_db:
    return config.bit_weight
  above = predicted_db[-1] - predicted_db[0]
  octaves = config.quality_hold * above
  return config.bit_weight * 2 ** min(max(octaves, -_MOST_HELD), _MOST_HELD)


def _step_error(step_sizes: Sequence[quantize.StepSizes]) -> float:
  """Squared error that one step of any number of a splat adds.

  See `quantize.py`.
  """
  step = min(x.color for x in step_sizes) * quantize.STEP_UNIT
  return math.pi * step**2


def _choose_dead(
    layer: frame_coding.Layer,
    step_sizes: quantize.StepSizes,
    turnover: float,
    height: int,
    width: int,
) -> Bool[np.ndarray, ' n']:
  """The splats that show least: all outside, and weak ones to the share."""
  dead = np.zeros(len(layer.points), bool)
  count = round(turnover * len(dead))
  if not count:
    return dead
  splats = lattice_lib.splats(layer.points, layer.lattice, step_sizes)
  means, (l11, l21, l22) = splats.means, splats.cholesky.T
  energy = types.energies(splats)
  reach = 3 * np.stack([l11, np.hypot(l21, l22)], -1)
  outside = (means + reach < 0) | (means - reach > [width, height])
  energy[outside.any(axis=1)] = 0
  dead[np.argsort(energy, kind='stable')[:count]] = True
  return dead


class _Prediction:
  """The splats of a frame in the slots of the fit.

  The survivors of each layer have its first slots, in their order; slots of
  dead ones follow, for births.

  Attributes:
    survivors: which slots are theirs.
    reserved: which slots are for births.
    points: of the survivors, as predicted; zeros elsewhere.
    unit: their steps; ones elsewhere.
    origin: coordinates of the point 0.
    layers: of each slot.
  """

  def __init__(
      self,
      capacities: Sequence[int],
      encoder: frame_coding.GopEncoder,
      dead: Sequence[Bool[np.ndarray, ' n']],
      channels: int,
  ):
    num_slots, width = sum(capacities), lattice_lib.COLORS + channels
    self.dead = dead
    self.step_sizes = encoder.step_sizes
    self.layers = np.repeat(np.arange(len(capacities)), capacities)
    self.survivors = np.zeros(num_slots, bool)
    self.reserved = np.zeros(num_slots, bool)
    self.points = np.zeros((num_slots, width), np.int64)
    self.unit = np.ones((num_slots, width))
    self.origin = np.zeros((num_slots, width))
    first = 0
    for capacity, layer, gone, steps in zip(
        capacities, encoder.layers, dead, encoder.step_sizes, strict=True
    ):
      alive = ~gone
      count, births = int(alive.sum()), int(gone.sum())
      slots = slice(first, first + count)
      self.survivors[slots] = True
      self.reserved[first + count : first + count + births] = True
      lattice = lattice_lib.Lattice(*(x[alive] for x in layer.lattice))
      self.points[slots] = layer.points[alive]
      self.unit[slots] = lattice_lib.steps(lattice, steps, channels)
      self.origin[slots] = lattice_lib.offsets(lattice, steps, channels)
      first += capacity

  @property
  def coordinates(self) -> Float[np.ndarray, 'n k']:
    """What is predicted."""
    return self.origin + self.points * self.unit

  def state(self, bit_error: float) -> train.TrainState:
    """Where the fit of the frame starts (NumPy); what a bit is worth."""
    channels = self.points.shape[1] - lattice_lib.COLORS
    state = train.create_train_state(len(self.points), channels)
    predicted = lattice_lib.values(self.coordinates)
    alive = self.survivors[:, np.newaxis]
    return state.replace(
        params=types.Splats(
            *(np.where(alive, *x) for x in zip(predicted, state.params))
        ),
        active=self.survivors.copy(),
        prior=train.Prior(
            np.float32(self.coordinates),
            np.where(alive, 1 / self.unit, 0).astype(np.float32),
            np.float32(bit_error),
        ),
    )

  def give_birth(
      self,
      state: train.TrainState,
      grids: Sequence[schedule_lib.Grid],
      residuals: Sequence[Float[np.ndarray, 'h w c']],
      rng: np.random.Generator,
  ) -> train.TrainState:
    """Fills the reserved slots where the residual of their grid is largest."""
    params = types.Splats(*map(np.array, state.params))
    first = 0
    for grid, residual in zip(grids, residuals):
      last = grid.num_splats
      slots = first + np.flatnonzero(self.reserved[first:last])
      first = last
      if not len(slots):
        continue
      factors = np.float32(grid.factors)
      means = state.params.means[:last][state.active[:last]] * factors
      weights = np.ones(residual.shape[:2], np.float32)
      born = initialize.on_residual(residual, weights, means, len(slots), rng)
      # No layer gets the best of them only.
      order = rng.permutation(len(slots))
      for array, new in zip(params, initialize.from_grid(born, factors)):
        array[slots] = new[order]
    return state.replace(params=params, active=state.active | self.reserved)


class _Rounder:
  """Rounds changes to whole steps, and the newborn as in any picture."""

  def __init__(
      self,
      prediction: _Prediction,
      config: config_lib.VideoConfig,
      rng: np.random.Generator,
  ):
    self._prediction = prediction
    self._groups = config.update_groups
    self._dead_zone = config.dead_zone
    self._order = rng.permutation(len(prediction.points))
    self._changes = np.zeros_like(prediction.points)
    num_slots, width = prediction.points.shape
    self._born = quantize.zeros(num_slots, width - lattice_lib.COLORS)

  def round(
      self, state: train.TrainState, rounding: schedule_lib.Rounding
  ) -> train.TrainState:
    """Rounds and freezes one attribute of one group (state in NumPy).

    The newborn have no steps before their color is rounded, so they are rounded
    all at once, with the colors.
    """
    mine = np.zeros(len(self._order), bool)
    mine[self._order[rounding.group :: self._groups]] = True
    params = types.Splats(*map(np.array, state.params))
    frozen = types.Splats(*map(np.array, state.frozen))
    self._round_changes(params, mine & self._prediction.survivors, rounding)
    getattr(frozen, rounding.attribute)[mine] = True
    active = state.active
    if rounding.attribute == 'colors':
      born = mine & self._prediction.reserved & active
      active = active & ~self._round_born(params, born)
      for array in frozen:
        array[born] = True
    return state.replace(params=params, frozen=frozen, active=active)

  def _round_changes(self, params, members, rounding) -> None:
    prediction = self._prediction
    columns = _COLUMNS[rounding.attribute]
    splats = types.Splats(*(x[members] for x in params))
    steps = lattice_lib.coordinates(splats) - prediction.coordinates[members]
    steps = (steps / prediction.unit[members])[:, columns]
    changes = np.floor(np.abs(steps) + 1 - self._dead_zone) * np.sign(steps)
    self._changes[members, columns] = changes.astype(np.int64)
    points = prediction.points[members] + self._changes[members]
    rounded = lattice_lib.values(
        prediction.origin[members] + points * prediction.unit[members]
    )
    array = getattr(params, rounding.attribute)
    array[members] = getattr(rounded, rounding.attribute)

  def _round_born(self, params, born) -> Bool[np.ndarray, ' n']:
    """Rounds newborn splats; returns which are too weak to be kept."""
    weak = np.zeros(len(born), bool)
    for k, steps in enumerate(self._prediction.step_sizes):
      (slots,) = np.nonzero(born & (self._prediction.layers == k))
      splats = types.Splats(*(x[slots] for x in params))
      symbols = quantize.quantize(splats, steps)
      weak[slots] = quantize.weak(symbols)
      rounded = quantize.dequantize(symbols, steps)
      for array, new in zip((*self._born, *params), (*symbols, *rounded)):
        array[slots] = new
    return weak

  def updates(self, state: train.TrainState) -> list[frame_coding.Update]:
    """What has become of each layer."""
    prediction = self._prediction
    updates = []
    for k, steps in enumerate(prediction.step_sizes):
      mine = prediction.layers == k
      born = mine & prediction.reserved & state.active
      if state.frozen.colors[born].all():
        symbols = quantize.Symbols(*(x[born] for x in self._born))
      else:  # There is no stage of rounding.
        splats = types.Splats(*(x[born] for x in state.params))
        symbols = quantize.quantize(splats, steps)
      update = frame_coding.births(symbols, steps)
      updates.append(
          update._replace(
              dead=prediction.dead[k],
              changes=self._changes[mine & prediction.survivors],
          )
      )
    return updates
