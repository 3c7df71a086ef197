"""Settings of the encoder: every default, with what it means.

Files in configs/ list only departures from these. No JAX here, so flags and
`--help` start at once.
"""

from collections.abc import Mapping
import dataclasses
import itertools
from typing import Any, Literal, TypeVar, get_args

from pgsvc_jax.codec import quantize
from pgsvc_jax.training import losses

_T = TypeVar('_T')

Strategy = Literal['joint', 'all_levels', 'sequential', 'single', 'prune']
Cycle = Literal['step', 'epoch', 'random', 'none']


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
  """How splats are fitted to a picture.

  Example:
    >>> FitConfig(layer_splats=(2000, 1000), num_steps=3000).strategy
    'joint'
    >>> FitConfig(num_steps=0)
    Traceback (most recent call last):
    ValueError: num_steps must be at least 1
  """

  # Splats per layer, base first. Empty: from `layer_density`.
  layer_splats: tuple[int, ...] = ()
  # Splats per pixel and layer, used where `layer_splats` is empty; at 768x512
  # the default is about 5000 + 2000 + 2000.
  layer_density: tuple[float, ...] = (0.0127, 0.0051, 0.0051)
  # Size of each layer's own grid / that of the picture, never falling, the
  # last one 1: prefix k is fitted to the picture at the size of layer k. Empty:
  # all layers are of the size of the picture.
  layer_scales: tuple[float, ...] = ()
  # joint: each step lowers the error of the full picture and of one lower
  #   prefix, cycling through them (P-GSVC).
  # all_levels: every prefix at every step.
  # sequential: layer by layer, the layers below frozen (LIG).
  # single: all splats in one layer; not scalable, the upper bound.
  # prune: a single-layer fit, ranked by contribution and cut into layers.
  strategy: Strategy = 'joint'
  # What every step lowers: the name of a module of `training/losses`.
  # squared: the squared error, as PSNR has it.
  # charbonnier: the absolute error, smooth at 0: less for outliers.
  loss: str = 'squared'
  # Which lower prefix a step of `joint` weighs, and of the rounding whatever
  # the strategy.
  # step: the next one at every step (P-GSVC).
  # epoch: the same one for 50 steps, then the next one.
  # random: any of them.
  # none: the full picture alone; layers still move together.
  cycle: Cycle = 'step'
  # Whether layers are born one after the other. If not, all are there from the
  # first step, and grow at the same time.
  incremental: bool = True
  # Optimisation steps, each over the whole picture.
  num_steps: int = 2000
  # Steps more for each coarser size of `layer_scales`, as a share of num_steps,
  # before the splats of the next size are born: they cost little. Not with
  # `sequential`, and only if `incremental`.
  coarse_steps: float = 0.5
  # Steps per compiled scan: births, progress and checks happen in between.
  chunk_steps: int = 10
  # Share of the steps after which all splats are born.
  growth_fraction: float = 0.45
  # Births (splats added at one time) until all are there, over all layers.
  num_births: int = 18
  # How often splats that show next to nothing move to where one would take
  # more off the error, evenly over the middle of the fit. 0: they stay.
  num_relocations: int = 6
  # Share of the splats of each layer that may move at a time.
  relocated_share: float = 0.3
  # Weight of the lower prefixes in the loss; the full picture has weight 1.
  lower_weight: float = 0.5
  # Step sizes of Adam in the frame of each splat: means in standard
  # deviations, Cholesky factors relative, colors in units of the picture.
  means_rate: float = 0.2
  cholesky_rate: float = 0.14
  colors_rate: float = 0.03
  # The step sizes fall along a line to this share of their start.
  final_rate: float = 0.01
  # Adam's decay of the mean gradient and of its square.
  adam_b1: float = 0.9
  adam_b2: float = 0.97
  # Steps after those, in which attributes are rounded group by group and what
  # is not yet rounded makes up for it. 0: round at the end, all at once.
  rounding_steps: int = 360
  # Parts that the splats are rounded in, of each attribute.
  rounding_groups: int = 4
  # Factor of the step sizes of Adam while rounding, first and last.
  rounding_rates: tuple[float, float] = (0.15, 0.05)
  # What a bit weighs against the squared error when symbols are chosen
  # (`code_lengths.py`): 0 takes the nearest ones.
  rounding_bit_weight: float = 1.0
  # Smallest l11 and l22, pixels: thinner splats fall between pixel centres.
  min_cholesky: float = 0.3
  # The one source of randomness.
  seed: int = 0

  def __post_init__(self):
    if not all(isinstance(size, int) for size in self.layer_splats):
      raise ValueError(f'layer_splats must be integers: {self.layer_splats}')
    scales = self.layer_scales
    if scales and not (
        0 < scales[0] and sorted(scales) == list(scales) and scales[-1] == 1
    ):
      raise ValueError(f'layer_scales must rise from above 0 to 1: {scales}')
    num_layers = len(self.layer_splats or self.layer_density)
    if scales and len(scales) != num_layers:
      raise ValueError(f'{len(scales)} layer_scales for {num_layers} layers')
    if self.strategy not in get_args(Strategy):
      raise ValueError(
          f'strategy {self.strategy!r} is not one of {get_args(Strategy)}'
      )
    if self.loss not in losses.names():
      raise ValueError(f'loss {self.loss!r} is not one of {losses.names()}')
    if self.cycle not in get_args(Cycle):
      raise ValueError(f'cycle {self.cycle!r} is not one of {get_args(Cycle)}')
    if self.strategy == 'sequential' and not self.incremental:
      raise ValueError("strategy 'sequential' is incremental")
    if not 0 <= self.rounding_bit_weight < float('inf'):
      raise ValueError('rounding_bit_weight must be at least 0 and finite')
    for name in ('rounding_steps', 'num_relocations'):
      if getattr(self, name) < 0:
        raise ValueError(f'{name} must not be negative')
    if len(self.rounding_rates) != 2 or not min(self.rounding_rates) > 0:
      raise ValueError('rounding_rates must be two positive factors')
    for name in ('num_steps', 'chunk_steps', 'num_births', 'rounding_groups'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} must be at least 1')
    if not 0 <= self.coarse_steps < float('inf'):
      raise ValueError('coarse_steps must be at least 0 and finite')
    for name in (
        'growth_fraction',
        'lower_weight',
        'final_rate',
        'relocated_share',
    ):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f'{name} must be in [0, 1]')
    for name in ('means_rate', 'cholesky_rate', 'colors_rate', 'min_cholesky'):
      if not 0 < getattr(self, name) < float('inf'):
        raise ValueError(f'{name} must be positive')
    for name in ('adam_b1', 'adam_b2'):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(f'{name} must be in [0, 1)')


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeConfig:
  """What decides the bytes of a file, with the picture.

  The number of devices and the implementation of the operator decide float
  rounding, so the same bytes come from the same settings on the same machine.

  Example:
    >>> config = EncodeConfig(fit=FitConfig(num_steps=500), target_bpp=0.5)
    >>> config.fit.num_births
    18
  """

  fit: FitConfig = FitConfig()
  # Bits per pixel of the file, within some percent: decides the color step, and
  # the splats where `fit.layer_splats` is empty. 0: no target.
  target_bpp: float = 0.0
  # Or, bits per pixel of the file up to the end of each layer: decides the
  # color step and the splats of each layer.
  layer_bpp: tuple[float, ...] = ()
  # Or, dB of the whole file, as decoded to 8 bits: decides the same as
  # `target_bpp`. 0: no target.
  target_psnr: float = 0.0
  # Otherwise, the squared error that rounding may add, as a share of that of
  # the fit: decides the color step. The refit takes back about half. 0: the
  # color step is the one below.
  rounding_noise: float = 0.15
  # Of the quantiser, the same in all layers.
  step_sizes: quantize.StepSizes = quantize.StepSizes()
  # Seconds that the encoding of a picture may take here, from the start of the
  # command: steps are left out, evenly, as measured; rounding is completed.
  # The bytes then depend on how fast the machine was. 0: no limit.
  max_seconds: float = 0.0

  def __post_init__(self):
    for name in ('target_bpp', 'target_psnr', 'rounding_noise', 'max_seconds'):
      if not 0 <= getattr(self, name) < float('inf'):
        raise ValueError(f'{name} must be at least 0 and finite')
    targets = ('target_bpp', 'layer_bpp', 'target_psnr')
    given = [name for name in targets if getattr(self, name)]
    if len(given) > 1:
      raise ValueError(f'{" and ".join(given)}: only one of them')
    if self.layer_bpp:
      self._check_layer_bpp()

  def _check_layer_bpp(self):
    increasing = all(
        low < high for low, high in itertools.pairwise((0, *self.layer_bpp))
    )
    if not (increasing and self.layer_bpp[-1] < float('inf')):
      raise ValueError(
          f'layer_bpp must be positive and increasing: {self.layer_bpp}'
      )
    if self.fit.strategy in ('single', 'prune') and len(self.layer_bpp) > 1:
      raise ValueError(
          f'layer_bpp: strategy {self.fit.strategy!r} fits one layer'
      )
    sizes = self.fit.layer_splats
    if sizes and len(sizes) != len(self.layer_bpp):
      raise ValueError(
          f'{len(self.layer_bpp)} rates in layer_bpp, {len(sizes)} layers in'
          ' fit.layer_splats'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoConfig:
  """What decides the bytes of a video, with its frames.

  Example:
    >>> VideoConfig(gop=24, target_kbps=300).image.fit.num_steps
    500
  """

  # Of the first frame of each group; all frames have its splats and steps.
  image: EncodeConfig = EncodeConfig(
      fit=FitConfig(num_steps=500, layer_density=(0.0064, 0.0026, 0.0026))
  )
  # Thousand bits a second of the file, within some percent: decides the splats
  # where `image.fit.layer_splats` is empty, and instead of
  # `image.rounding_noise` how they are rounded. 0: no target.
  target_kbps: float = 0.0
  # Frames from one I-frame to the next, at most.
  gop: int = 32
  # A frame begins a group where what the frame before shows of it, moved, is
  # that many times as far from it as splats of that density born afresh are.
  # 0: only `gop` decides.
  cut_ratio: float = 5.0
  # Steps of a predicted frame, and those in which its changes are rounded.
  update_steps: int = 120
  update_rounding_steps: int = 160
  # Parts that the splats are rounded in, of each attribute.
  update_groups: int = 3
  # Factor of the step sizes of Adam, before the rounding.
  update_rate: float = 0.15
  # Share of the splats of a layer that die and are born anew in each frame.
  turnover: float = 0.03
  # Squared error that a bit of a change is worth, in units of that which the
  # change of one number of a splat by one step adds.
  bit_weight: float = 1.0
  # Octaves by which bits weigh less (or more) for every dB that the frame
  # before is below (or above) the first predicted one of its group, so that
  # quality sinks less along it; 0: the same weight in all frames.
  quality_hold: float = 1.0
  # Changes below so many steps round to none.
  dead_zone: float = 0.6
  # log2 of the pixels across a block of the motion field; 0: no motion.
  log2_block: int = 5
  # Steps in which the motion field is fitted to the frame; 0: as the flow is.
  motion_steps: int = 40

  def __post_init__(self):
    for name in ('gop', 'update_steps', 'update_groups'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} must be at least 1')
    for name in (
        'target_kbps',
        'cut_ratio',
        'update_rounding_steps',
        'bit_weight',
        'quality_hold',
        'motion_steps',
    ):
      if not 0 <= getattr(self, name) < float('inf'):
        raise ValueError(f'{name} must be at least 0 and finite')
    if not 0 < self.update_rate < float('inf'):
      raise ValueError('update_rate must be positive')
    if not 0 <= self.turnover <= 1:
      raise ValueError('turnover must be in [0, 1]')
    if not 0.5 <= self.dead_zone <= 1:
      raise ValueError('dead_zone must be in [0.5, 1]')
    if self.log2_block and not 2 <= self.log2_block <= 6:
      raise ValueError('log2_block must be 0, or 2 to 6')
    if self.target_kbps and not self.bit_weight:
      raise ValueError('target_kbps needs a bit_weight to vary')
    for name in ('target_bpp', 'target_psnr', 'layer_bpp', 'max_seconds'):
      if getattr(self.image, name):
        raise ValueError(f'{name} is for pictures')


def from_mapping(cls: type[_T], values: Mapping[str, Any]) -> _T:
  """Makes a settings dataclass from a (nested) mapping, such as a ConfigDict.

  Args:
    cls: the dataclass.
    values: one entry a field; a missing one keeps its default.

  Returns:
    The dataclass.

  Raises:
    ValueError: a value is out of range, or a name is unknown.

  Example:
    >>> from_mapping(FitConfig, {'num_steps': 10}).num_steps
    10
  """
  fields = {field.name: field for field in dataclasses.fields(cls)}
  unknown = sorted(set(values) - set(fields))
  if unknown:
    raise ValueError(f'{cls.__name__} has no field {unknown[0]!r}')
  arguments = {}
  for name, value in values.items():
    default = fields[name].default
    if dataclasses.is_dataclass(default):
      value = from_mapping(type(default), value)
    elif isinstance(default, tuple):
      value = tuple(value)
    arguments[name] = value
  return cls(**arguments)
