"""Settings of the encoder: every default, with what it means.

Files in configs/ list only departures from these. No JAX here, so flags and
`--help` start at once.
"""

from collections.abc import Mapping
import dataclasses
import itertools
from typing import Any, Literal, TypeVar

from pgsvc_jax import fields
from pgsvc_jax.codec import quantize
from pgsvc_jax.training import losses
from pgsvc_jax.training import strategies

_T = TypeVar('_T')

Cycle = Literal['step', 'epoch', 'random', 'none']


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
  """How splats are fitted to a picture.

  Example:
    >>> FitConfig(layer_splats=(2000, 1000), num_steps=3000).strategy
    'joint'
    >>> FitConfig(num_steps=0)
    Traceback (most recent call last):
    ValueError: num_steps must be an integer, at least 1, not 0
  """

  layer_splats: tuple[int, ...] = fields.field(
      (),
      'Splats per layer, base first. Empty: from `layer_density`.',
      '[0, inf)',
  )
  layer_density: tuple[float, ...] = fields.field(
      (0.0127, 0.0051, 0.0051),
      'Splats per pixel and layer, used where `layer_splats` is empty; at '
      '768x512 the default is about 5000 + 2000 + 2000.',
      '[0, inf)',
  )
  layer_scales: tuple[float, ...] = fields.field(
      (),
      "Size of each layer's own grid / that of the picture, never "
      'falling, the last one 1: prefix k is fitted to the picture at the '
      'size of layer k. Empty: all layers are of the size of the picture.',
      '(0, 1]',
  )
  strategy: str = fields.field(
      'joint',
      '\n'.join(
          (
              'What the steps lower, and which splats they move.',
              *(f'{k}: {x.meaning}' for k, x in strategies.STRATEGIES.items()),
          )
      ),
      choices=tuple(strategies.STRATEGIES),
  )
  loss: str = fields.field(
      'squared',
      'What every step lowers: a module of `training/losses`; squared is the '
      'squared error, as PSNR has it.',
      choices=losses.names(),
  )
  cycle: Cycle = fields.field(
      'step',
      'Which lower prefix a step of `joint` weighs, and of the rounding '
      'whatever the strategy.\n'
      'step: the next one at every step (P-GSVC).\n'
      'epoch: the same one for 50 steps, then the next one.\n'
      'random: any of them.\n'
      'none: the full picture alone; layers still move together.',
  )
  incremental: bool = fields.field(
      True,
      'Whether layers are born one after the other. If not, all are there '
      'from the first step, and grow at the same time.',
  )
  num_steps: int = fields.field(
      400,
      'Optimisation steps, each over the whole picture.',
      '[1, inf)',
  )
  coarse_steps: float = fields.field(
      0.5,
      'Steps more for each coarser size of `layer_scales`, as a share of '
      'num_steps, before the splats of the next size are born: they cost '
      'little. Not with `sequential`, and only if `incremental`.',
      '[0, inf)',
  )
  chunk_steps: int = fields.field(
      10,
      'Steps per compiled scan: births, progress and checks happen in '
      'between.',
      '[1, inf)',
  )
  growth_fraction: float = fields.field(
      0.45,
      'Share of the steps after which all splats are born.',
      '[0, 1]',
  )
  num_births: int = fields.field(
      18,
      'Births (splats added at one time) until all are there, over all '
      'layers.',
      '[1, inf)',
  )
  num_relocations: int = fields.field(
      6,
      'How often splats that show next to nothing move to where one would '
      'take more off the error, evenly over the middle of the fit. 0: '
      'they stay.',
      '[0, inf)',
  )
  relocated_share: float = fields.field(
      0.3,
      'Share of the splats of each layer that may move at a time.',
      '[0, 1]',
  )
  lower_weight: float = fields.field(
      0.5,
      'Weight of the lower prefixes in the loss; the full picture has '
      'weight 1.',
      '[0, 1]',
  )
  means_rate: float = fields.field(
      0.2,
      'Step size of Adam for the means, in standard deviations of each '
      'splat.',
      '(0, inf)',
  )
  cholesky_rate: float = fields.field(
      0.14,
      'Step size of Adam for the Cholesky factors, relative.',
      '(0, inf)',
  )
  colors_rate: float = fields.field(
      0.03,
      'Step size of Adam for the colors, in units of the picture.',
      '(0, inf)',
  )
  # 0.08 dB at equal bytes, and 0.08 dB lost before the rounding (kodim05 and
  # 23, 0.3 and 0.6 bits a pixel).
  colors_decay: float = fields.field(
      0.005,
      'Share of the colors that a step of full size takes off: splats that '
      'cancel one another are costly to round.',
      '[0, 1]',
  )
  final_rate: float = fields.field(
      0.01,
      'The step sizes fall along a line to this share of their start.',
      '[0, 1]',
  )
  adam_b1: float = fields.field(
      0.9,
      "Adam's decay of the mean gradient.",
      '[0, 1)',
  )
  adam_b2: float = fields.field(
      0.97,
      "Adam's decay of the mean of the squared gradient.",
      '[0, 1)',
  )
  rounding_steps: int = fields.field(
      110,
      'Steps after those, in which attributes are rounded group by group '
      'and what is not yet rounded makes up for it. 0: round at the end, '
      'all at once.',
      '[0, inf)',
  )
  rounding_groups: int = fields.field(
      4,
      'Parts that the splats are rounded in, of each attribute.',
      '[1, inf)',
  )
  rounding_rates: tuple[float, float] = fields.field(
      (0.15, 0.05),
      'Factor of the step sizes of Adam while rounding, first and last.',
      '(0, inf)',
  )
  rounding_bit_weight: float = fields.field(
      1.0,
      'What a bit weighs against the squared error when symbols are '
      'chosen (`code_lengths.py`): 0 takes the nearest ones.',
      '[0, inf)',
  )
  min_cholesky: float = fields.field(
      0.3,
      'Smallest l11 and l22, pixels: thinner splats fall between pixel '
      'centres.',
      '(0, inf)',
  )
  seed: int = fields.field(
      0,
      'The one source of randomness.',
  )

  def __post_init__(self):
    fields.check(self)
    scales = self.layer_scales
    if scales and not (sorted(scales) == list(scales) and scales[-1] == 1):
      raise ValueError(f'layer_scales must rise from above 0 to 1: {scales}')
    num_layers = len(self.layer_splats or self.layer_density)
    if scales and len(scales) != num_layers:
      raise ValueError(f'{len(scales)} layer_scales for {num_layers} layers')
    one_by_one = strategies.STRATEGIES[self.strategy].one_by_one
    if one_by_one and not self.incremental:
      raise ValueError(f'strategy {self.strategy!r} is incremental')
    if len(self.rounding_rates) != 2:
      raise ValueError('rounding_rates must be two factors')


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

  fit: FitConfig = fields.field(FitConfig(), 'How the splats are fitted.')
  target_bpp: float = fields.field(
      0.0,
      'Bits per pixel of the file, within some percent: decides the color '
      'step, and the splats where `fit.layer_splats` is empty. 0: no '
      'target.',
      '[0, inf)',
  )
  layer_bpp: tuple[float, ...] = fields.field(
      (),
      'Or, bits per pixel of the file up to the end of each layer: '
      'decides the color step and the splats of each layer.',
      '(0, inf)',
  )
  target_psnr: float = fields.field(
      0.0,
      'Or, dB of the whole file, as decoded to 8 bits: decides the same '
      'as `target_bpp`. 0: no target.',
      '[0, inf)',
  )
  rounding_noise: float = fields.field(
      0.15,
      'Otherwise, the squared error that rounding may add, as a share of '
      'that of the fit: decides the color step. The refit takes back '
      'about half. 0: the color step is the one below.',
      '[0, inf)',
  )
  step_sizes: quantize.StepSizes = fields.field(
      quantize.StepSizes(), 'Steps of the quantiser, the same in all layers.'
  )
  max_seconds: float = fields.field(
      0.0,
      'Seconds that the encoding of a picture may take here, from the '
      'start of the command: steps are left out, evenly, as measured; '
      'rounding is completed. The bytes then depend on how fast the '
      'machine was. 0: no limit.',
      '[0, inf)',
  )

  def __post_init__(self):
    fields.check(self)
    targets = ('target_bpp', 'layer_bpp', 'target_psnr')
    given = [name for name in targets if getattr(self, name)]
    if len(given) > 1:
      raise ValueError(f'{" and ".join(given)}: only one of them')
    if self.layer_bpp:
      self._check_layer_bpp()

  def _check_layer_bpp(self):
    if any(low >= high for low, high in itertools.pairwise(self.layer_bpp)):
      raise ValueError(f'layer_bpp must be increasing: {self.layer_bpp}')
    merges = strategies.STRATEGIES[self.fit.strategy].merges
    if merges and len(self.layer_bpp) > 1:
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

  image: EncodeConfig = fields.field(
      EncodeConfig(
          fit=FitConfig(num_steps=500, layer_density=(0.0064, 0.0026, 0.0026))
      ),
      'How the first frame of each group is encoded; all frames have its '
      'splats and steps.',
  )
  target_kbps: float = fields.field(
      0.0,
      'Thousand bits a second of the file, within some percent: decides '
      'the splats where `image.fit.layer_splats` is empty, and instead of '
      '`image.rounding_noise` how they are rounded. 0: no target.',
      '[0, inf)',
  )
  gop: int = fields.field(
      32,
      'Frames from one I-frame to the next, at most.',
      '[1, inf)',
  )
  cut_ratio: float = fields.field(
      5.0,
      'A frame starts a new group where the previous one, moved to fit it, is '
      'this many times as far from it as new splats of that density would be. '
      '0: only `gop` starts groups.',
      '[0, inf)',
  )
  update_steps: int = fields.field(
      120,
      'Steps of a predicted frame.',
      '[1, inf)',
  )
  update_rounding_steps: int = fields.field(
      160,
      'Steps of a predicted frame in which its changes are rounded.',
      '[0, inf)',
  )
  update_groups: int = fields.field(
      3,
      'Parts that the splats are rounded in, of each attribute.',
      '[1, inf)',
  )
  update_rate: float = fields.field(
      0.15,
      'Factor of the step sizes of Adam, before the rounding.',
      '(0, inf)',
  )
  turnover: float = fields.field(
      0.03,
      'Share of the splats of a layer that die and are born anew in each '
      'frame.',
      '[0, 1]',
  )
  bit_weight: float = fields.field(
      1.0,
      'Squared error that a bit of a change is worth, in units of that '
      'which the change of one number of a splat by one step adds.',
      '[0, inf)',
  )
  quality_hold: float = fields.field(
      1.0,
      'Octaves by which bits weigh less (or more) for every dB that the '
      'frame before is below (or above) the first predicted one of its '
      'group, so that quality sinks less along it; 0: the same weight in '
      'all frames.',
      '[0, inf)',
  )
  dead_zone: float = fields.field(
      0.6,
      'Changes below so many steps round to none.',
      '[0.5, 1]',
  )
  log2_block: int = fields.field(
      5,
      'log2 of the pixels across a block of the motion field; 0: no ' 'motion.',
      '[0, 6]',
  )
  motion_steps: int = fields.field(
      40,
      'Steps in which the motion field is fitted to the frame; 0: as the '
      'flow is.',
      '[0, inf)',
  )

  def __post_init__(self):
    fields.check(self)
    if self.log2_block == 1:
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
  return fields.from_mapping(cls, values)
