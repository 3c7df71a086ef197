"""Splats <-> integer symbols, with steps that follow what the eye would lose.

A splat of color c and size sigma = sqrt(l11 l22) that is a little wrong adds,
to the squared error of the picture (|c| over the channels),

  pi sigma^2 dc^2                            for a color error dc
  pi sigma^2 |c|^2 / 2 da^2                  for da in log(l11 l22)
  pi sigma^2 |c|^2 / 4 db^2                  for db in log(l11 / l22)
  pi sigma^2 |c|^2 / 4 dh^2                  for dh in l21 / l22
  pi sigma^2 |c|^2 / 2 |L^-1 d|^2            for d in the mean

so equal error for every bit asks for a color step ~ 1 / sigma, shape steps ~ 1
/ (sigma |c|) and position steps, in standard deviations, ~ 1 / (sigma |c|). The
decoder knows sigma from the size class K (half octaves), and sigma |c| is the
norm of the integer color: its square S needs T bits, and all other steps follow
from K and T. Uniform steps lose 3 to 8 dB against these at 30 bits a splat.

Everything that decides what is decoded is an integer rule on integers.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int
import numpy as np

from pgsvc_jax import fields
from pgsvc_jax import types

STEP_UNIT = 2.0**-12
MAX_STEP = 2**16 - 1
MAX_CELL = 15
_STEP = f'[1, {MAX_STEP}]'

# Colors and shears: float32 has 24 bits, so that the nearest float32 of any
# value is still within a quarter of a step.
COLOR_LIMIT = 2**22 - 1
SHEAR_LIMIT = 2**20 - 1
# Size classes: sigma between 1.2e-7 and 8.4e6 pixels.
CLASS_LIMIT = 46
# Cells that means may lie in, to either side of 0.
CELL_LIMIT = 2**14 - 1
# Bits that x or y have below the cell, at most.
MAX_CELL_BITS = 8

# Steps of the shape are integers in units of 2**-28.
SHAPE_BITS = 28
_MIN_SHAPE_STEP = 2 ** (SHAPE_BITS - 16)
_MAX_PRECISION = 32
# 2**16 and that over sqrt(2).
_HALF_OCTAVES = np.array([65536, 46341])

# Of log(l11 / l22), in the same units.
ASPECT_LIMIT = 12 << SHAPE_BITS
# A class of sizes, log 2 in log(l11 l22), times sqrt(2): the step of the size
# is 1 / sqrt(2) of that of the shape.
_SIZE_RANGE = 263136042
# Half of an octave of l11 / l22, in 1/256 octaves a unit of the aspect:
# 256 / (2 log 2).
_ASPECT_OCTAVES = 185


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSizes:
  """Step sizes of one layer, in units of 2**-12 (each 1 to 65535).

  The defaults of shape and position give each attribute the same error for its
  last bit; half an octave off in either costs 0.02 to 0.1 dB. `color` trades
  bytes for quality.

  Example:
    >>> coarse = StepSizes(color=1024)  # Four times the default.
    >>> coarse.color * STEP_UNIT
    0.25
  """

  color: int = fields.field(
      256, 'Step of the colors of a splat of sigma = 1 pixel.', _STEP
  )
  shape: int = fields.field(
      6889,
      'Step of log(l11 / l22) and l21 / l22 of a splat of S = 1.',
      _STEP,
  )
  position: int = fields.field(
      4871,
      'Step of the means of a splat of S = 1, in standard deviations; in '
      'pixels, the nearest power of two.',
      _STEP,
  )
  cell: int = fields.field(
      2,
      'log2 of the pixels across a cell of the Morton curve: no position step '
      'is larger, none is smaller than 1/256 of it.',
      f'[0, {MAX_CELL}]',
  )

  def __post_init__(self):
    fields.check(self, 'step size ')


class Symbols(NamedTuple):
  """The integers of n splats.

  Attributes:
    positions: of x and y, in steps of each splat's own.
    classes: sigma in half octaves (K).
    colors: rotated if there are three or more; see `color_symbols`.
    sizes: where in the class the size is, from 0.
    aspects: log(l11 / l22).
    shears: l21 / l22.
  """

  positions: Int[np.ndarray, 'n 2']
  classes: Int[np.ndarray, ' n']
  colors: Int[np.ndarray, 'n c']
  sizes: Int[np.ndarray, ' n']
  aspects: Int[np.ndarray, ' n']
  shears: Int[np.ndarray, ' n']


# Attributes of splats in the order of rounding. Colors come first, because they
# decide the steps of the others; positions last, because the shape decides
# theirs.
ATTRIBUTES = ('colors', 'cholesky', 'means')


def zeros(num_splats: int, channels: int) -> Symbols:
  """Symbols that are all 0, for so many splats.

  Example:
    >>> zeros(5, channels=3).colors.shape
    (5, 3)
  """
  n = num_splats
  shapes = Symbols((n, 2), (n,), (n, channels), (n,), (n,), (n,))
  return Symbols(*(np.zeros(shape, np.int64) for shape in shapes))


class Nearest:
  """Chooses the symbols nearest to the values."""

  def colors(
      self, values: Float[np.ndarray, 'n c'], classes: Int[np.ndarray, ' n']
  ) -> Float[np.ndarray, 'n c']:
    """Integers for colors in steps."""
    del classes
    return np.rint(values)

  def shape(
      self,
      name: str,
      values: Float[np.ndarray, ' n'],
      precision: Int[np.ndarray, ' n'],
  ) -> Float[np.ndarray, ' n']:
    """Integers for aspects or shears in steps."""
    del name, precision
    return np.rint(values)


NEAREST = Nearest()


def reaching(step_sizes: StepSizes, height: int, width: int) -> StepSizes:
  """Step sizes whose cells reach one picture beyond a picture.

  Example:
    >>> reaching(StepSizes(), 512, 768) == StepSizes()
    True
    >>> reaching(StepSizes(), 8, 150_000).cell
    5
  """
  cells = -(-2 * max(height, width) // CELL_LIMIT)
  smallest = (cells - 1).bit_length()
  return dataclasses.replace(
      step_sizes, cell=min(MAX_CELL, max(step_sizes.cell, smallest))
  )


def per_layer(
    step_sizes: StepSizes | Sequence[StepSizes],
    num_layers: int,
    height: int,
    width: int,
) -> tuple[StepSizes, ...]:
  """Step sizes of every layer, each `reaching`.

  Args:
    step_sizes: one for all layers, or one a layer.
    num_layers: layers.
    height: of the picture, pixels.
    width: of the picture, pixels.

  Returns:
    One a layer.

  Raises:
    ValueError: there are not as many as layers.

  Example:
    >>> per_layer(StepSizes(), 2, 512, 768) == (StepSizes(), StepSizes())
    True
  """
  if isinstance(step_sizes, StepSizes):
    step_sizes = [step_sizes] * num_layers
  if len(step_sizes) != num_layers:
    raise ValueError(f'{len(step_sizes)} step sizes for {num_layers} layers')
  return tuple(reaching(x, height, width) for x in step_sizes)


def bit_lengths(values: Int[np.ndarray, '...']) -> Int[np.ndarray, '...']:
  """Bits of integers in 0..2**53 - 1; 0 has none.

  Example:
    >>> bit_lengths(np.array([0, 1, 7, 8]))
    array([0, 1, 3, 4])
  """
  return np.frexp(np.asarray(values, np.float64))[1].astype(np.int64)


def size_classes(cholesky: Float[np.ndarray, 'n 3']) -> Int[np.ndarray, ' n']:
  """K: sigma in half octaves, that is log(l11 l22) in log 2.

  Example:
    >>> size_classes(np.float32([[2, 0, 2], [8, 1, 1]]))
    array([2, 3])
  """
  l11, _, l22 = np.asarray(cholesky, np.float64).T
  classes = np.floor((np.log(l11) + np.log(l22)) / math.log(2) + 0.5)
  return np.clip(classes, -CLASS_LIMIT, CLASS_LIMIT).astype(np.int64)


def color_steps(
    classes: Int[np.ndarray, ' n'], step_sizes: StepSizes
) -> Float[np.ndarray, 'n 1']:
  """The step of the colors, in units of the picture."""
  return (step_sizes.color * STEP_UNIT * np.exp2(-classes / 2))[:, np.newaxis]


def rotate_colors(colors: Float[Any, 'n c'], xp=np) -> Float[Any, 'n c']:
  """The first three of three or more channels as a luma and two chromas.

  The rotation is orthonormal, so that errors count the same on both sides.

  Args:
    colors: coefficients of splats.
    xp: `numpy` or `jax.numpy`, whichever the array belongs to.

  Returns:
    The rotated colors.

  Example:
    >>> rotate_colors(np.array([[1.0, 1.0, 1.0]])).round(3) + 0.0
    array([[1.732, 0.   , 0.   ]])
  """
  if colors.shape[1] < 3:
    return colors
  red, green, blue = colors[:, 0], colors[:, 1], colors[:, 2]
  luma = (red + green + blue) / math.sqrt(3)
  orange = (red - blue) / math.sqrt(2)
  leaf = (2 * green - red - blue) / math.sqrt(6)
  rotated = xp.stack([luma, orange, leaf], -1)
  return xp.concatenate([rotated, colors[:, 3:]], 1)


def unrotate_colors(
    rotated: Float[np.ndarray, 'n c'],
) -> Float[np.ndarray, 'n c']:
  """The inverse of `rotate_colors`."""
  if rotated.shape[1] < 3:
    return rotated
  luma, orange, leaf = (rotated[:, :3] / np.sqrt([3, 2, 6])).T
  rgb = [luma - leaf + orange, luma + 2 * leaf, luma - leaf - orange]
  return np.concatenate([np.stack(rgb, -1), rotated[:, 3:]], 1)


def color_symbols(
    colors: Float[np.ndarray, 'n c'],
    classes: Int[np.ndarray, ' n'],
    step_sizes: StepSizes,
    chooser: Nearest = NEAREST,
) -> Int[np.ndarray, 'n c']:
  """Rounds colors, rotated, to steps that follow the size."""
  rotated = rotate_colors(np.asarray(colors, np.float64))
  values = rotated / color_steps(classes, step_sizes)
  rounded = chooser.colors(values, classes)
  return np.clip(rounded, -COLOR_LIMIT, COLOR_LIMIT).astype(np.int64)


def color_values(
    symbols: Int[np.ndarray, 'n c'],
    classes: Int[np.ndarray, ' n'],
    step_sizes: StepSizes,
) -> Float[np.ndarray, 'n c']:
  """The colors that symbols stand for."""
  rotated = symbols * color_steps(classes, step_sizes)
  return unrotate_colors(rotated).astype(np.float32)


def precisions(colors: Int[np.ndarray, 'n c']) -> Int[np.ndarray, ' n']:
  """T: bits of the squared norm of color symbols, 1 to 32.

  Example:
    >>> precisions(np.array([[0, 0, 0], [1, 1, 0], [-3, 0, 1]]))
    array([1, 2, 4])
  """
  return np.clip(bit_lengths((colors * colors).sum(axis=1)), 1, _MAX_PRECISION)


def weak(symbols: Symbols) -> Bool[np.ndarray, ' n']:
  """Which splats have no color, or one step of one channel.

  They cost 25 bits and hardly show: leaving them out, with a refit of the
  others, was worth 0.1 to 0.5 dB at equal bytes.
  """
  return precisions(symbols.colors) <= 1


def shape_steps(
    precision: Int[np.ndarray, ' n'], step_sizes: StepSizes
) -> Int[np.ndarray, ' n']:
  """The step of aspect and shear, in units of 2**-28: half an octave a T."""
  halvings = precision - 1
  steps = step_sizes.shape * _HALF_OCTAVES[halvings & 1] >> (halvings >> 1)
  return np.maximum(steps, _MIN_SHAPE_STEP)


def size_levels(
    precision: Int[np.ndarray, ' n'], step_sizes: StepSizes
) -> Int[np.ndarray, ' n']:
  """Sizes that a class is divided into."""
  steps = shape_steps(precision, step_sizes)
  return np.maximum(1, (_SIZE_RANGE + (steps >> 1)) // steps)


def shape_symbols(
    cholesky: Float[np.ndarray, 'n 3'],
    classes: Int[np.ndarray, ' n'],
    precision: Int[np.ndarray, ' n'],
    step_sizes: StepSizes,
    chooser: Nearest = NEAREST,
) -> tuple[Int[np.ndarray, ' n'], Int[np.ndarray, ' n'], Int[np.ndarray, ' n']]:
  """Rounds shapes to (sizes, aspects, shears), sizes within the given classes.

  The shear is rounded last, against the aspect as the decoder will see it and
  keeping the slope l21 / l11, so that rounding the aspect does not turn the
  splat.
  """
  l11, l21, l22 = np.asarray(cholesky, np.float64).T
  levels = size_levels(precision, step_sizes)
  place = (np.log(l11) + np.log(l22)) / math.log(2) - classes + 0.5
  sizes = np.clip(np.floor(place * levels), 0, levels - 1).astype(np.int64)
  integer_steps = shape_steps(precision, step_sizes)
  steps = integer_steps * 2.0**-SHAPE_BITS
  limits = ASPECT_LIMIT // integer_steps
  aspect = np.log(l11) - np.log(l22)
  aspects = chooser.shape('aspects', aspect / steps, precision)
  aspects = np.clip(aspects, -limits, limits).astype(np.int64)
  shear = l21 / l11 * np.exp(aspects * steps)
  shears = chooser.shape('shears', shear / steps, precision)
  shears = np.clip(shears, -SHEAR_LIMIT, SHEAR_LIMIT)
  return sizes, aspects, shears.astype(np.int64)


def shape_values(
    sizes: Int[np.ndarray, ' n'],
    aspects: Int[np.ndarray, ' n'],
    shears: Int[np.ndarray, ' n'],
    classes: Int[np.ndarray, ' n'],
    precision: Int[np.ndarray, ' n'],
    step_sizes: StepSizes,
) -> Float[np.ndarray, 'n 3']:
  """The Cholesky factors that symbols stand for."""
  levels = size_levels(precision, step_sizes)
  steps = shape_steps(precision, step_sizes) * 2.0**-SHAPE_BITS
  area = math.log(2) * (classes - 0.5 + (sizes + 0.5) / levels)
  return make_cholesky(area, aspects * steps, shears * steps)


def make_cholesky(
    area: Float[np.ndarray, ' n'],
    aspect: Float[np.ndarray, ' n'],
    shear: Float[np.ndarray, ' n'],
) -> Float[np.ndarray, 'n 3']:
  """Cholesky factors of log(l11 l22), log(l11 / l22) and l21 / l22.

  Example:
    >>> make_cholesky(np.log([4.0]), np.zeros(1), np.array([0.5]))
    array([[2., 1., 2.]], dtype=float32)
  """
  l11, l22 = np.exp((area + aspect) / 2), np.exp((area - aspect) / 2)
  return np.stack([l11, shear * l22, l22], -1).astype(np.float32)


def cell_bits(
    symbols: Symbols, step_sizes: StepSizes
) -> Int[np.ndarray, 'n 2']:
  """Bits of x and of y below the cell: the step is 2**(cell - bits) pixels.

  In 1/256 octaves: log2 of the step size (straight lines between powers of
  two), plus sigma, minus half an octave a T, plus or minus half of log2(l11 /
  l22): position errors count in standard deviations along x and y.
  """
  precision = precisions(symbols.colors)
  octave = step_sizes.position.bit_length() - 1
  base = (octave - 12) * 256 + (step_sizes.position * 256 >> octave) - 256
  steps = shape_steps(precision, step_sizes)
  aspect = symbols.aspects * steps * _ASPECT_OCTAVES
  lean = aspect >> SHAPE_BITS
  level = base + 128 * (symbols.classes - precision + 1)
  exponents = np.stack([level + lean, level - lean], -1) + 128 >> 8
  return np.clip(step_sizes.cell - exponents, 0, MAX_CELL_BITS)


def position_symbols(
    means: Float[np.ndarray, 'n 2'],
    cholesky: Float[np.ndarray, 'n 3'],
    bits: Int[np.ndarray, 'n 2'],
    step_sizes: StepSizes,
) -> Int[np.ndarray, 'n 2']:
  """Rounds means, y so as to make up for the rounding of x.

  A splat that leans loses least where an error in x comes with l21 / l11 times
  that error in y: 0.9 dB at 30 bits a splat.
  """
  x, y = np.asarray(means, np.float64).T
  l11, l21, _ = np.asarray(cholesky, np.float64).T
  steps = np.exp2(step_sizes.cell - bits)
  limits = CELL_LIMIT << bits

  def to_symbols(values, axis):
    indices = np.floor(values / steps[:, axis])
    limit = limits[:, axis]
    return np.clip(indices, -limit, limit - 1).astype(np.int64)

  first = to_symbols(x, 0)
  error = (first + 0.5) * steps[:, 0] - x
  return np.stack([first, to_symbols(y + l21 / l11 * error, 1)], -1)


def position_values(
    positions: Int[np.ndarray, 'n 2'],
    bits: Int[np.ndarray, 'n 2'],
    step_sizes: StepSizes,
) -> Float[np.ndarray, 'n 2']:
  """The means that symbols stand for: the middle of each step, exactly."""
  steps = np.exp2(step_sizes.cell - bits)
  return ((positions + 0.5) * steps).astype(np.float32)


def quantize_attribute(
    name: str,
    splats: types.Splats,
    symbols: Symbols,
    step_sizes: StepSizes,
    chooser: Nearest = NEAREST,
) -> Symbols:
  """Rounds one attribute, those before it in `ATTRIBUTES` being rounded.

  Args:
    name: of the attribute.
    splats: NumPy splats of one layer.
    symbols: theirs, as far as they are known.
    step_sizes: what the steps are made from.
    chooser: of colors, aspects and shears among the integers.

  Returns:
    The symbols, with those of the attribute filled in.
  """
  if name == 'colors':
    classes = size_classes(splats.cholesky)
    colors = color_symbols(splats.colors, classes, step_sizes, chooser)
    return symbols._replace(classes=classes, colors=colors)
  if name == 'cholesky':
    precision = precisions(symbols.colors)
    sizes, aspects, shears = shape_symbols(
        splats.cholesky, symbols.classes, precision, step_sizes, chooser
    )
    return symbols._replace(sizes=sizes, aspects=aspects, shears=shears)
  # Positions have no symbols that are cheaper than others.
  bits = cell_bits(symbols, step_sizes)
  positions = position_symbols(splats.means, splats.cholesky, bits, step_sizes)
  return symbols._replace(positions=positions)


def attribute_values(
    name: str, symbols: Symbols, step_sizes: StepSizes
) -> Float[np.ndarray, 'n k']:
  """What the symbols of one attribute stand for, as in `types.Splats`."""
  if name == 'colors':
    return color_values(symbols.colors, symbols.classes, step_sizes)
  if name == 'cholesky':
    shape = symbols.sizes, symbols.aspects, symbols.shears
    precision = precisions(symbols.colors)
    return shape_values(*shape, symbols.classes, precision, step_sizes)
  bits = cell_bits(symbols, step_sizes)
  return position_values(symbols.positions, bits, step_sizes)


def quantize(
    splats: types.Splats, step_sizes: StepSizes, chooser: Nearest = NEAREST
) -> Symbols:
  """Rounds splats to symbols.

  Args:
    splats: NumPy splats of one layer.
    step_sizes: what the steps are made from.
    chooser: of colors, aspects and shears among the integers.

  Returns:
    int64 symbols. Values beyond the limits of this module are clamped.

  Raises:
    ValueError: a value is not finite or a diagonal is not positive.

  Example:
    >>> splats = types.Splats(
    ...   means=np.float32([[1.5, 2.0]]),
    ...   cholesky=np.float32([[1.0, 0.5, 2.0]]),
    ...   colors=np.float32([[0.25]]),
    ... )
    >>> symbols = quantize(splats, StepSizes())
    >>> symbols.classes.tolist(), symbols.colors.tolist()
    ([1], [[6]])
  """
  splats = types.Splats(*(np.asarray(a, np.float64) for a in splats))
  for name, value in zip(splats._fields, splats, strict=True):
    if not np.isfinite(value).all():
      raise ValueError(f'{name} are not all finite')
  if not (splats.cholesky[:, [0, 2]] > 0).all():
    raise ValueError('cholesky diagonals are not all positive')
  symbols = zeros(*splats.colors.shape)
  for name in ATTRIBUTES:
    symbols = quantize_attribute(name, splats, symbols, step_sizes, chooser)
    # What follows makes up for it.
    values = attribute_values(name, symbols, step_sizes)
    splats = splats._replace(**{name: values})
  return symbols


def dequantize(symbols: Symbols, step_sizes: StepSizes) -> types.Splats:
  """The splats that symbols stand for; quantize takes them back exactly.

  Args:
    symbols: symbols of one layer.
    step_sizes: those that the symbols were made with.

  Returns:
    float32 splats, all finite, l11 > 0 and l22 > 0.

  Raises:
    ValueError: a symbol is beyond what quantize gives.

  Example:
    >>> splats = types.Splats(
    ...   means=np.float32([[1.5, 2.0]]),
    ...   cholesky=np.float32([[1.0, 0.5, 2.0]]),
    ...   colors=np.float32([[0.25]]),
    ... )
    >>> dequantize(quantize(splats, StepSizes()), StepSizes()).means
    array([[1.625, 2.25 ]], dtype=float32)
  """
  symbols = Symbols(*(np.asarray(x, np.int64) for x in symbols))
  check(symbols, step_sizes)
  return types.Splats(
      *(
          attribute_values(name, symbols, step_sizes)
          for name in types.Splats._fields
      )
  )


def check(symbols: Symbols, step_sizes: StepSizes) -> None:
  """Raises ValueError where a symbol is beyond what quantize gives."""
  # In this order: each check makes the next rule safe from wrapping around.
  _check(symbols.classes, -CLASS_LIMIT, CLASS_LIMIT)
  _check(symbols.colors, -COLOR_LIMIT, COLOR_LIMIT)
  precision = precisions(symbols.colors)
  _check(symbols.sizes, 0, size_levels(precision, step_sizes) - 1)
  aspect_limits = ASPECT_LIMIT // shape_steps(precision, step_sizes)
  _check(symbols.aspects, -aspect_limits, aspect_limits)
  _check(symbols.shears, -SHEAR_LIMIT, SHEAR_LIMIT)
  limits = CELL_LIMIT << cell_bits(symbols, step_sizes)
  _check(symbols.positions, -limits, limits - 1)


def _check(values, least, most) -> None:
  if ((values < least) | (values > most)).any():
    raise ValueError('symbols out of range')
