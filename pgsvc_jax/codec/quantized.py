"""A layered picture as integers: what a fit ends with, and a file holds.

Here floats become symbols, and symbols floats. Between the end of a fit and
the screen of a decoder nothing else is rounded.
"""

from collections.abc import Sequence
import dataclasses

from jaxtyping import Bool
import numpy as np

from pgsvc_jax import types
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import splat_coding


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizedLayers:
  """The symbols of every layer, with the step sizes that give them a meaning.

  Attributes:
    symbols: of the splats of each layer, base layer first, in any order.
    step_sizes: of each layer.
    height: of the picture, pixels.
    width: of the picture, pixels.
    layer_shapes: as in `types.LayeredSplats`.

  Example:
    >>> one = QuantizedLayers(
    ...     symbols=(quantize.zeros(2, channels=3), quantize.zeros(0, 3)),
    ...     step_sizes=(quantize.StepSizes(),) * 2, height=8, width=8)
    >>> one.layer_sizes, one.channels
    ((2, 0), 3)
    >>> one.dequantize().splats.means
    array([[0.5, 0.5],
           [0.5, 0.5]], dtype=float32)
  """

  symbols: tuple[quantize.Symbols, ...]
  step_sizes: tuple[quantize.StepSizes, ...]
  height: int
  width: int
  layer_shapes: tuple[tuple[int, int], ...] = ()

  def __post_init__(self):
    num_layers = len(self.symbols)
    if len(self.step_sizes) != num_layers:
      raise ValueError(
          f'{len(self.step_sizes)} step sizes for {num_layers} layers'
      )
    if len(self.layer_shapes) not in (0, num_layers):
      raise ValueError(
          f'{len(self.layer_shapes)} shapes for {num_layers} layers'
      )

  @property
  def layer_sizes(self) -> tuple[int, ...]:
    """Splats per layer."""
    return tuple(len(x.classes) for x in self.symbols)

  @property
  def channels(self) -> int:
    """Channels of the picture."""
    return self.symbols[0].colors.shape[1]

  @property
  def native_shapes(self) -> tuple[tuple[int, int], ...]:
    """Height and width of the grid of every operating point."""
    whole = ((self.height, self.width),) * len(self.symbols)
    return self.layer_shapes or whole

  def dequantize(self) -> types.LayeredSplats:
    """The splats that the symbols stand for, as every decoder has them.

    Raises:
      ValueError: a symbol is beyond what `quantize.quantize` gives.
    """
    layers = map(quantize.dequantize, self.symbols, self.step_sizes)
    return types.LayeredSplats(
        splats=types.Splats(*map(np.concatenate, zip(*layers, strict=True))),
        layer_sizes=self.layer_sizes,
        height=self.height,
        width=self.width,
        layer_shapes=self.layer_shapes,
    )

  def keep(self, mask: Bool[np.ndarray, ' n']) -> 'QuantizedLayers':
    """The same picture with only those splats, counted over all layers."""
    parts = np.split(mask, np.cumsum(self.layer_sizes)[:-1])
    symbols = (
        quantize.Symbols(*(x[part] for x in layer))
        for layer, part in zip(self.symbols, parts, strict=True)
    )
    return dataclasses.replace(self, symbols=tuple(symbols))

  def sort(self) -> 'QuantizedLayers':
    """The same picture, each layer in the order in which it is coded."""
    pairs = zip(self.symbols, self.step_sizes, strict=True)
    ordered = (splat_coding.sort(*pair)[0] for pair in pairs)
    return dataclasses.replace(self, symbols=tuple(ordered))


def quantize_layers(
    layered: types.LayeredSplats,
    step_sizes: quantize.StepSizes | Sequence[quantize.StepSizes],
) -> QuantizedLayers:
  """Rounds all numbers of all splats at once, each to the nearest symbol.

  Args:
    layered: NumPy splats in layer order.
    step_sizes: one for all layers, or one a layer (`quantize.per_layer`).

  Returns:
    The symbols and the step sizes of every layer.

  Raises:
    ValueError: there are not as many splats or step sizes as the layers say,
      or a value is not finite.

  Example:
    >>> one = types.Splats(
    ...     means=np.float32([[1.5, 2.0]]),
    ...     cholesky=np.float32([[1.0, 0.5, 2.0]]),
    ...     colors=np.float32([[0.25]]))
    >>> picture = types.LayeredSplats(
    ...     splats=one, layer_sizes=(1,), height=4, width=4)
    >>> quantize_layers(picture, quantize.StepSizes()).symbols[0].classes
    array([1])
  """
  sizes = layered.layer_sizes
  if min(sizes, default=0) < 0 or sum(sizes) != len(layered.splats.means):
    raise ValueError(f'{sizes=} do not sum to {len(layered.splats.means)}')
  steps = quantize.per_layer(
      step_sizes, len(sizes), layered.height, layered.width
  )
  return QuantizedLayers(
      symbols=tuple(map(quantize.quantize, layered.layers, steps)),
      step_sizes=steps,
      height=layered.height,
      width=layered.width,
      layer_shapes=layered.layer_shapes,
  )
