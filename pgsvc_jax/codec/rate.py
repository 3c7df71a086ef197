"""How many splats, and how coarsely rounded: from a rate, or from an error."""

from collections.abc import Callable, Sequence
import dataclasses
import itertools
import math

from jaxtyping import Float
import numpy as np
from scipy import fft

from pgsvc_jax import config as config_lib
from pgsvc_jax import metrics
from pgsvc_jax import render
from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import code_lengths
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import quantized

# Bits a splat: of 18, 24, 30 and 38, best on four Kodak pictures at 0.3 and 0.6
# bits a pixel. Those that are weak at the steps found are then left out.
_BITS_PER_SPLAT = 24

# Side of the blocks that tell how much there is to code in a picture.
_BLOCK = 16
_MAX_BLOCKS = 4096
# log2(bits per pixel) = slope * log2(coefficients per pixel) + offset, fitted
# to 16 Kodak pictures at 0.15 to 0.9 bits a pixel: 0.2 octaves off (root of the
# mean square), 0.5 at most.
_RATE_SLOPE = 1.165
_RATE_OFFSET = 2.766
# Octaves: with too many splats coarser steps meet the quality, with too few
# nothing does.
_RATE_MARGIN = 0.25

# The share of what rounding adds to the squared error that the refit leaves:
# 0.53 to 0.65 on three Kodak pictures at 0.3 and 0.6 bits a pixel. Rather too
# much: what is too good can be trimmed.
_NOISE_LEFT = 0.65
# Finer steps than those that add this share to the squared error show nothing.
_LEAST_NOISE = 0.01


def layer_splats(
    config: config_lib.EncodeConfig, image: Float[np.ndarray, 'h w c']
) -> tuple[int, ...]:
  """Splats per layer for the rate or quality asked for; empty where none is.

  Example:
    >>> gray = np.full((512, 768, 1), 0.5, np.float32)
    >>> layer_splats(config_lib.EncodeConfig(target_bpp=0.6), gray)
    (5452, 2189, 2189)
  """
  if config.fit.layer_splats:
    return config.fit.layer_splats
  if config.layer_bpp:
    steps = [b - a for a, b in itertools.pairwise((0.0, *config.layer_bpp))]
    return _counts(image, config.layer_bpp[-1], steps)
  if config.target_bpp:
    return _counts(image, config.target_bpp, config.fit.layer_density)
  if config.target_psnr:
    bpp = estimate_bpp(image, config.target_psnr) * 2**_RATE_MARGIN
    return _counts(image, bpp, config.fit.layer_density)
  return ()


def _counts(
    image: Float[np.ndarray, 'h w c'], bpp: float, shares: Sequence[float]
) -> tuple[int, ...]:
  height, width, _ = image.shape
  total = bpp * height * width / _BITS_PER_SPLAT
  return tuple(max(1, round(total * x / sum(shares))) for x in shares)


def estimate_bpp(image: Float[np.ndarray, 'h w c'], psnr_db: float) -> float:
  """About the bits per pixel that a quality takes.

  From how many coefficients of a block cosine transform reach it: splats need
  many where those do.

  Args:
    image: the picture, in [0, 1].
    psnr_db: of the decoded picture.

  Returns:
    The rate, at most 24.

  Example:
    >>> noise = np.random.default_rng(0).random((64, 64, 3), np.float32)
    >>> estimate_bpp(noise, 20) < estimate_bpp(noise, 30)
    True
  """
  height, width, channels = image.shape
  pad = [(0, -height % _BLOCK), (0, -width % _BLOCK), (0, 0)]
  padded = np.pad(image, pad, mode='edge')
  blocks = padded.reshape(
      padded.shape[0] // _BLOCK, _BLOCK, -1, _BLOCK, channels
  )
  blocks = np.moveaxis(blocks, 2, 1).reshape(-1, _BLOCK, _BLOCK, channels)
  blocks = blocks[:: -(-len(blocks) // _MAX_BLOCKS)]
  # Of three channels, the transform's third axis is a luma and two chromas.
  energies = fft.dctn(blocks, axes=(1, 2, 3), norm='ortho') ** 2
  energies = np.sort(energies, axis=None)
  dropped = np.searchsorted(
      np.cumsum(energies, dtype=np.float64),
      10 ** (-psnr_db / 10) * energies.size,
  )
  kept = max(1, energies.size - int(dropped))
  per_pixel = kept * channels / energies.size
  return min(24.0, 2 ** (_RATE_SLOPE * math.log2(per_pixel) + _RATE_OFFSET))


def choose_step_sizes(
    config: config_lib.EncodeConfig,
    layered: types.LayeredSplats,
    error: float,
    image: Float[np.ndarray, 'h w c'],
) -> tuple[quantize.StepSizes, ...]:
  """Step sizes of every layer, for a fit that is about to be rounded.

  Args:
    config: the settings.
    layered: the fit.
    error: its squared error, summed over pixels and channels.
    image: what it is a fit of.

  Returns:
    `config.step_sizes`, with a color step as the settings ask for: one for all
    layers or, with `layer_bpp`, one for each.
  """
  if config.layer_bpp:
    return _reach_layer_bytes(config, layered)
  if config.target_bpp:
    num_bytes = config.target_bpp * layered.height * layered.width / 8
    _, color = _bisect(
        lambda color: _file_size(
            round_layers(config, layered, _with_color(config, color, layered))
        )
        <= num_bytes
    )
  elif config.target_psnr:
    color = _reach_psnr(config, layered, error, image)
  elif config.rounding_noise:
    color = _noise_step(layered, config.rounding_noise * error)
  else:
    color = config.step_sizes.color
  return _with_color(config, color, layered)


def _noise_step(layered: types.LayeredSplats, noise: float) -> float:
  """The color step that adds this to the squared error.

  Rounding every number of a splat adds pi / 12 of its squared color step. That
  is the integral of the squared weight, pi sigma^2, times the variance of
  rounding, and the other steps are such that they add as much
  (`quantize.py`). Overlaps are left out, and so is what the refit absorbs.
  """
  numbers = (5 + layered.channels) * max(1, sum(layered.layer_sizes))
  return math.sqrt(noise / (numbers * math.pi / 12)) / quantize.STEP_UNIT


def _bisect(
    coarse: Callable[[float], bool], least: float = 1.0
) -> tuple[float, float]:
  """The color steps, 1/32 octave apart, between which `coarse` becomes true.

  That is about 1 % of the bytes, and 0.03 dB.
  """
  low, high = math.log2(least), math.log2(quantize.MAX_STEP)
  while high - low > 1 / 32:
    middle = (low + high) / 2
    if coarse(2**middle):
      high = middle
    else:
      low = middle
  return 2**low, 2**high


def _reach_layer_bytes(
    config: config_lib.EncodeConfig, layered: types.LayeredSplats
) -> tuple[quantize.StepSizes, ...]:
  """Layer by layer the finest steps with which the file is not larger."""
  pixels = layered.height * layered.width
  none = layered.keep(np.zeros(len(layered.splats.means), bool))
  num_bytes = _file_size(quantized.quantize_layers(none, config.step_sizes))
  steps = []
  for bpp, splats in zip(config.layer_bpp, layered.layers):
    layer = dataclasses.replace(
        layered, splats=splats, layer_sizes=(len(splats.means),)
    )

    def packet_size(color, layer=layer):
      chosen = _with_color(config, color, layer)
      _, (packet,) = bitstream.encode(round_layers(config, layer, chosen))
      return len(packet)

    left = bpp * pixels / 8 - num_bytes
    _, color = _bisect(lambda x, left=left: packet_size(x) <= left)
    num_bytes += packet_size(color)
    steps += _with_color(config, color, layer)
  return tuple(steps)


def _file_size(layers: quantized.QuantizedLayers) -> int:
  """Bytes of the file."""
  header, _ = bitstream.encode(layers)
  return header.file_size


def _reach_psnr(
    config: config_lib.EncodeConfig,
    layered: types.LayeredSplats,
    error: float,
    image: Float[np.ndarray, 'h w c'],
) -> float:
  """The coarsest color step with which the file is expected to be as good.

  Where none is, the finest that shows.
  """
  goal = 10 ** (-config.target_psnr / 10)
  exact = _decoded_error(layered, image)
  left = _NOISE_LEFT if config.fit.rounding_steps else 1.0

  def is_too_coarse(color):
    steps = _with_color(config, color, layered)
    rounded = round_layers(config, layered, steps).sort().dequantize()
    added = _decoded_error(rounded, image) - exact
    return exact + left * added > goal

  least = _noise_step(layered, _LEAST_NOISE * error)
  color, _ = _bisect(is_too_coarse, min(max(least, 1.0), quantize.MAX_STEP))
  return color


def trim(
    config: config_lib.EncodeConfig,
    layers: quantized.QuantizedLayers,
    image: Float[np.ndarray, 'h w c'],
) -> quantized.QuantizedLayers:
  """Leaves out the weakest splats while `target_psnr` is still reached.

  What the refit takes back is only known about, and the steps are chosen so
  that it rather is too much than too little.

  Args:
    config: the settings.
    layers: the rounded fit.
    image: what it is a fit of.

  Returns:
    The splats to be written; all of them without a `target_psnr`.
  """
  if not config.target_psnr:
    return layers
  goal = 10 ** (-config.target_psnr / 10)
  energy = types.energies(layers.dequantize().splats)
  rank = np.argsort(np.argsort(energy, kind='stable'), kind='stable')

  # Half of the splats is more than any excess.
  low, high = 0, len(rank) // 2
  while high - low > max(1, len(rank) // 500):
    middle = (low + high) // 2
    # In the order of the file, so that sums come out as in a decoder.
    decoded = layers.keep(rank >= middle).sort().dequantize()
    if _decoded_error(decoded, image) <= goal:
      low = middle
    else:
      high = middle
  return layers.keep(rank >= low)


def _decoded_error(
    layered: types.LayeredSplats, image: Float[np.ndarray, 'h w c']
) -> float:
  """The mean squared error of the picture in 8 bits."""
  return 10 ** (-metrics.psnr_db(render.render_picture(layered), image) / 10)


def round_layers(
    config: config_lib.EncodeConfig,
    layered: types.LayeredSplats,
    step_sizes: Sequence[quantize.StepSizes],
) -> quantized.QuantizedLayers:
  """All splats but the weak ones, rounded at once, as a refit begins to."""
  # Without steps of rounding, nearest symbols are what is written.
  weight = config.fit.rounding_bit_weight if config.fit.rounding_steps else 0.0
  steps = quantize.per_layer(
      step_sizes, len(layered.layer_sizes), layered.height, layered.width
  )
  pairs = zip(layered.layers, steps)
  return quantized.QuantizedLayers(
      symbols=tuple(code_lengths.round_strong(*x, weight)[0] for x in pairs),
      step_sizes=steps,
      height=layered.height,
      width=layered.width,
  )


def _with_color(
    config: config_lib.EncodeConfig,
    color: float,
    layered: types.LayeredSplats,
) -> tuple[quantize.StepSizes, ...]:
  """The step sizes of the settings with this color step, in every layer."""
  rounded = min(max(round(color), 1), quantize.MAX_STEP)
  steps = dataclasses.replace(config.step_sizes, color=rounded)
  return (steps,) * len(layered.layer_sizes)
