"""The coding rules of GSVC, to compare ours with.

GSVC (arXiv:2501.12060) codes the splats of a frame by the quantizers of
GaussianImage (arXiv:2403.08551), those of a predicted frame as differences from
the frame before, each number for itself:

  positions   IEEE half floats, 16 bits each (GSVC: of their atanh; but centers
              may lie outside the picture here)
  covariance  Cholesky factors, 6 bits each, uniform; a range a column
  colors      residual vector quantization, two stages of eight codewords

The fit is ours, with as many splats and steps, in one layer: without a motion
field and without a cost of changes, which GSVC does not have. Where it was left
open, or would not decode, this takes what is best for GSVC: differences are
from the frame before as decoded; splats keep their places, and which ones are
new costs nothing; ranges leave out what shows little; codes are counted at
their entropy in the frame, tables for nothing. Rounding is staged and refitted,
as ours is: a first frame of blackswan (214x120, 300 splats, 25.9 dB) came out
at 23.6 dB after 160 steps and at 24.1 after 480, by straight-through gradients
as in GSVC at 23.0 and 22.4. What GSVC counts besides are 1728 bits a frame, of
ranges and codewords.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
from jaxtyping import Float, Int
import numpy as np

import pallas_kernels
from pgsvc_jax import config as config_lib
from pgsvc_jax import types
from pgsvc_jax.training import fit
from pgsvc_jax.training import initialize
from pgsvc_jax.training import loop
from pgsvc_jax.training import losses
from pgsvc_jax.training import schedule as schedule_lib
from pgsvc_jax.training import train
from pgsvc_jax.video import gop_fit

_LEVELS = 63  # 6 bits.
_STAGES = 2
_CODEWORDS = 8
_MEANS_BITS = 32
# Scales and offsets of the Cholesky factors, and codewords: floats of 32 bits.
_SIDE_BITS = 32 * (3 + 3 + _STAGES * _CODEWORDS * 3)

# Tails of the Cholesky factors that a range may leave out, to be learned.
_TAILS = (0, 0.001, 0.003, 0.01, 0.03, 0.06, 0.1)
_ROUNDS = 20

# Share of the steps before the rounding after which splats are replaced.
_BIRTH = 0.25


class Codes:
  """What is coded of a frame, gathered as it is rounded.

  Raw numbers are `types.Splats`: means from -1 to 1 between the borders;
  Cholesky factors and colors as they are.
  """

  def __init__(
      self, reference: types.Splats, height: int, width: int, seed: int
  ):
    """Of a frame predicted as `reference`, raw; zeros: of a first frame."""
    self.reference = reference
    self._half = np.float32([width, height]) / 2
    self._rng = np.random.default_rng(seed)
    count = len(reference.means)
    self._cholesky = np.zeros((count, 3), np.int64)
    self._colors = np.zeros((count, _STAGES), np.int64)
    self._range = self._codewords = None

  def raw(self, splats: types.Splats) -> types.Splats:
    """Splats as raw numbers."""
    return splats._replace(means=splats.means / self._half - 1)

  def round(
      self,
      splats: types.Splats,
      attribute: str,
      mine: Int[np.ndarray, ' m'],
      floor: float,
  ) -> types.Splats:
    """Rounds an attribute of some splats; the first call sets its quantizer.

    Args:
      splats: of the frame.
      attribute: name of a field.
      mine: which splats.
      floor: least l11 and l22, pixels.

    Returns:
      All splats.
    """
    reference = getattr(self.reference, attribute)
    changes = getattr(self.raw(splats), attribute) - reference
    values = reference[mine] + getattr(self, '_round_' + attribute)(
        changes, splats, mine
    )
    if attribute == 'means':
      values = (values + 1) * self._half
    if attribute == 'cholesky':
      values[:, [0, 2]] = np.maximum(values[:, [0, 2]], floor)
    rounded = _put(getattr(splats, attribute), mine, values)
    return splats._replace(**{attribute: rounded})

  def _round_means(self, changes, splats, mine):
    del splats
    return np.float32(np.float16(changes[mine]))

  def _round_cholesky(self, changes, splats, mine):
    if self._range is None:
      # What shows is the change relative to the splat.
      energy = types.contributions(splats)[:, None] ** 2
      l11, _, l22 = splats.cholesky.T
      sizes = np.stack([l11, l22, l22], -1)
      weights = energy / (l11 * l22)[:, None] / sizes**2
      self._range = fit_range(changes, weights)
    offset, scale = self._range
    codes = np.rint((changes[mine] - offset) / scale).clip(0, _LEVELS)
    self._cholesky[mine] = codes
    return offset + scale * codes

  def _round_colors(self, changes, splats, mine):
    if self._codewords is None:
      weights = splats.cholesky[:, 0] * splats.cholesky[:, 2]
      self._codewords = fit_codewords(changes, weights, self._rng)
    values, self._colors[mine] = nearest(changes[mine], self._codewords)
    return values

  def bits(self) -> float:
    """Of the frame, once all is rounded."""
    columns = np.concatenate([self._cholesky, self._colors], axis=1).T
    codes = sum(map(entropy_bits, columns))
    return _MEANS_BITS * len(self._cholesky) + codes + _SIDE_BITS


def entropy_bits(codes: Int[np.ndarray, ' n']) -> float:
  """Bits that codes take if each costs what is best for their histogram.

  Example:
    >>> entropy_bits(np.array([3, 3, 3, 3, 7, 7, 1, 2]))
    14.0
  """
  counts = np.unique(codes, return_counts=True)[1]
  return float(np.sum(counts * np.log2(len(codes) / counts)))


def fit_range(
    values: Float[np.ndarray, 'n 3'], weights: Float[np.ndarray, 'n 3']
) -> Float[np.ndarray, '2 3']:
  """Offset and scale of 6-bit codes, of least squared error in each column.

  Args:
    values: to be coded.
    weights: of their squared errors.

  Returns:
    The offsets and the scales.
  """
  best = np.zeros((2, 3))
  for column, (x, weight) in enumerate(zip(values.T, weights.T)):
    least = np.inf
    lows, highs = np.quantile(x, _TAILS), np.quantile(x, 1 - np.array(_TAILS))
    for low, high in itertools.product(lows, highs):
      scale = max(high - low, 1e-9) / _LEVELS
      codes = np.rint((x - low) / scale).clip(0, _LEVELS)
      error = np.sum(weight * (low + scale * codes - x) ** 2)
      if error < least:
        least, best[:, column] = error, (low, scale)
  return best


def fit_codewords(
    values: Float[np.ndarray, 'n c'],
    weights: Float[np.ndarray, ' n'],
    rng: np.random.Generator,
) -> Float[np.ndarray, 's k c']:
  """Codewords of all stages, by k-means and then fitted to each other.

  Args:
    values: to be coded.
    weights: of their squared errors.
    rng: the source of randomness.

  Returns:
    The codewords of each stage.
  """
  share = weights / weights.sum()
  stages = []
  rest = values
  for _ in range(_STAGES):
    stages.append(rest[rng.choice(len(rest), _CODEWORDS, p=share)])
    for _ in range(_ROUNDS):
      coded, codes = nearest(rest, stages[-1:])
      stages[-1] = _means(rest, weights, codes[:, 0], stages[-1])
    rest = rest - nearest(rest, stages[-1:])[0]
  for _ in range(_ROUNDS):
    for stage in range(_STAGES):
      coded, codes = nearest(values, stages)
      own = stages[stage][codes[:, stage]]
      stages[stage] = _means(
          values - coded + own, weights, codes[:, stage], stages[stage]
      )
  return np.stack(stages)


def _means(values, weights, codes, before):
  """The weighted mean of what each codeword stands for; unused ones stay."""
  totals = np.bincount(codes, weights, _CODEWORDS)
  sums = [np.bincount(codes, weights * x, _CODEWORDS) for x in values.T]
  used = totals > 0
  result = np.array(before)
  result[used] = (np.stack(sums, -1)[used] / totals[used, None]).astype(
      np.float32
  )
  return result


def nearest(
    values: Float[np.ndarray, 'n c'], stages: Iterable[np.ndarray]
) -> tuple[Float[np.ndarray, 'n c'], Int[np.ndarray, 'n s']]:
  """Codes values stage by stage; returns what they become, and the codes."""
  coded, codes = np.zeros_like(values), []
  for codewords in stages:
    distances = ((values - coded)[:, None] - codewords) ** 2
    codes.append(distances.sum(-1).argmin(1))
    coded = coded + codewords[codes[-1]]
  return coded, np.stack(codes, -1)


class Coded(NamedTuple):
  """A frame.

  Attributes:
    original: RGB in [0, 1].
    bits: that it takes.
    layered: its splats as decoded.
  """

  original: Float[np.ndarray, 'h w c']
  bits: float
  layered: types.LayeredSplats


class Coder:
  """Codes the frames of one clip; the first one is the only key frame."""

  def __init__(
      self,
      config: config_lib.VideoConfig,
      height: int,
      width: int,
      *,
      device: jax.Device,
      implementation: pallas_kernels.Implementation | None = None,
  ):
    if not (config.image.fit.rounding_steps and config.update_rounding_steps):
      raise ValueError('rounding takes steps: rounding_steps must not be 0')
    image = dataclasses.replace(
        config.image,
        fit=dataclasses.replace(config.image.fit, strategy='single'),
    )
    self._config = dataclasses.replace(config, image=image)
    self._shape = height, width
    self._device = device
    self._implementation = implementation
    self._plan = functools.cache(self._make_plan)

  def encode(
      self, frames: Iterable[Float[np.ndarray, 'h w c']]
  ) -> Iterator[Coded]:
    """Codes frame by frame."""
    config = self._config
    splats = None
    for index, frame in enumerate(frames):
      if splats is None:
        fitted = fit.fit_picture(
            frame,
            config.image.fit,
            devices=[self._device],
            implementation=self._implementation,
        )
        splats, settings = fitted.splats, config.image.fit
        zeros = types.Splats(*map(np.zeros_like, splats))
        codes = Codes(zeros, *self._shape, index)
      else:
        settings = gop_fit.update_config(config)
        codes = Codes(codes.raw(splats), *self._shape, index)
      splats = self._fit(splats, frame, settings, codes, is_first=not index)
      layered = types.LayeredSplats(
          splats=splats,
          layer_sizes=(len(splats.means),),
          height=self._shape[0],
          width=self._shape[1],
      )
      yield Coded(frame, codes.bits(), layered)

  def _make_plan(
      self, settings: config_lib.FitConfig
  ) -> tuple[schedule_lib.Schedule, loop.Program]:
    """The schedule of fits with these settings, and what is compiled."""
    schedule = schedule_lib.make_schedule(settings, *self._shape, rounding=True)
    program = loop.Program(
        settings,
        schedule.layout,
        [self._device],
        loss=losses.get(settings.loss),
        implementation=self._implementation,
    )
    return schedule, program

  def _fit(
      self,
      splats: types.Splats,
      frame: Float[np.ndarray, 'h w c'],
      settings: config_lib.FitConfig,
      codes: Codes,
      *,
      is_first: bool,
  ) -> types.Splats:
    """Fits splats to a frame (a first frame: was fitted) and rounds them."""
    count = len(splats.means)
    schedule, program = self._plan(settings)
    begin = schedule.roundings[0].step
    order = np.random.default_rng(settings.seed).permutation(count)
    picture = loop.PictureFit(frame, schedule)
    picture.lowest_loss = 1.0  # It may begin as far off as frames can be.
    picture.state = picture.state.replace(
        step=np.int32(begin if is_first else 0),
        params=splats,
        active=np.ones(count, bool),
    )

    def replace_weak(picture, shown):
      residual = frame - shown[0]
      picture.state = self._replace_weak(picture.state, residual, codes)

    def round_one(event, picture, shown):
      del shown
      mine = order[event.group :: settings.rounding_groups]
      picture.state = _round(
          picture.state, event.attribute, mine, codes, settings
      )

    chunk_steps = settings.chunk_steps
    changes = [
        loop.Change(
            step=round(_BIRTH * begin / chunk_steps) * chunk_steps,
            apply=replace_weak,
            views=(loop.View(0, count),),
            kind='birth',
        )
    ]
    changes += (
        loop.Change(step=x.step, apply=functools.partial(round_one, x))
        for x in schedule.roundings
    )
    for _ in loop.Loop(program, schedule, [picture], changes).run():
      pass
    return picture.state.params

  def _replace_weak(
      self,
      state: train.TrainState,
      residual: Float[np.ndarray, 'h w c'],
      codes: Codes,
  ) -> train.TrainState:
    """Gives the weakest splats a new life where the residual is largest.

    What is new is predicted as a splat of mean shape without color.
    """
    turnover = round(self._config.turnover * len(state.active))
    if not turnover:
      return state
    weak = np.argsort(types.contributions(state.params))[:turnover]
    rng = np.random.default_rng(int(state.step))
    density = initialize.residual_density(residual)
    centres = initialize.sample_centres(density, turnover, rng)
    alive = np.delete(state.params.means, weak, axis=0)
    born = initialize.born_splats(
        centres,
        np.concatenate([alive, centres]),
        residual,
        size_factor=0.5,
        color_factor=0.3,
    )
    put = lambda x, new: _put(x, weak, new)
    cholesky = codes.reference.cholesky
    codes.reference = codes.reference._replace(
        cholesky=put(cholesky, cholesky.mean(0)),
        colors=put(codes.reference.colors, 0),
    )
    return state.replace(
        params=jax.tree.map(put, state.params, born),
        opt_state=jax.tree.map(lambda x: put(x, 0), state.opt_state),
    )


def _round(
    state: train.TrainState,
    attribute: str,
    mine: Int[np.ndarray, ' m'],
    codes: Codes,
    settings: config_lib.FitConfig,
) -> train.TrainState:
  """Rounds and freezes an attribute of some splats (state in NumPy)."""
  rounded = codes.round(state.params, attribute, mine, settings.min_cholesky)
  frozen = _put(getattr(state.frozen, attribute), mine, True)
  return state.replace(
      params=rounded,
      frozen=state.frozen._replace(**{attribute: frozen}),
  )


def _put(array, members, new):
  array = np.array(array)
  array[members] = new
  return array
