"""How many splats, and how coarsely rounded: from a rate, or from an error."""

from collections.abc import Sequence
import dataclasses
import math

from pgsvc_jax import bitstream
from pgsvc_jax import config as config_lib
from pgsvc_jax import quantize
from pgsvc_jax import types

# Bits a splat: of 18, 24, 30 and 38, best on four Kodak pictures at 0.3 and 0.6
# bits a pixel. Those that are weak at the steps found are then left out.
_BITS_PER_SPLAT = 24


def layer_splats(
    config: config_lib.EncodeConfig, height: int, width: int
) -> tuple[int, ...]:
  """Splats per layer for the rate asked for; empty where none is.

  Example:
    >>> layer_splats(config_lib.EncodeConfig(target_bpp=0.6), 512, 768)
    (5452, 2189, 2189)
  """
  if not config.target_bpp or config.fit.layer_splats:
    return config.fit.layer_splats
  total = config.target_bpp * height * width / _BITS_PER_SPLAT
  density = config.fit.layer_density
  return tuple(max(1, round(total * x / sum(density))) for x in density)


def choose_step_sizes(
    config: config_lib.EncodeConfig, layered: types.LayeredSplats, error: float
) -> quantize.StepSizes:
  """Step sizes for a fit that is about to be rounded.

  Args:
    config: the settings.
    layered: the fit.
    error: its squared error, summed over pixels and channels.

  Returns:
    `config.step_sizes`, its color step as the settings ask for.
  """
  if config.target_bpp:
    pixels = layered.height * layered.width
    return _reach_bytes(config, layered, config.target_bpp * pixels / 8)
  if config.rounding_noise:
    return _reach_noise(config, layered, config.rounding_noise * error)
  return config.step_sizes


def _reach_noise(
    config: config_lib.EncodeConfig,
    layered: types.LayeredSplats,
    noise: float,
) -> quantize.StepSizes:
  """Rounding every number of a splat adds pi / 12 of its squared color step.

  That is the integral of the squared weight, pi sigma^2, times the variance of
  rounding, and the other steps are such that they add as much
  (`quantize.py`). Overlaps are left out, and so is what the refit absorbs.
  """
  numbers = (5 + layered.channels) * max(1, sum(layered.layer_sizes))
  step = math.sqrt(noise / (numbers * math.pi / 12))
  return _with_color(config, round(step / quantize.STEP_UNIT))


def _reach_bytes(
    config: config_lib.EncodeConfig,
    layered: types.LayeredSplats,
    num_bytes: float,
) -> quantize.StepSizes:
  """The finest steps with which the file is not larger, by bisection."""
  low, high = 0.0, math.log2(quantize.MAX_STEP)
  for _ in range(9):  # To 1/32 octave, about 1 % of the bytes.
    middle = (low + high) / 2
    step_sizes = _with_color(config, round(2**middle))
    strong = keep(layered, ~quantize.weak(layered.splats, step_sizes))
    if len(bitstream.write(strong, step_sizes)) > num_bytes:
      low = middle
    else:
      high = middle
  return _with_color(config, round(2**high))


def _with_color(
    config: config_lib.EncodeConfig, color: int
) -> quantize.StepSizes:
  color = min(max(color, 1), quantize.MAX_STEP)
  return dataclasses.replace(config.step_sizes, color=color)


def keep(
    layered: types.LayeredSplats, mask: Sequence[bool]
) -> types.LayeredSplats:
  """The same picture with only those splats."""
  sizes, end = [], 0
  for size in layered.layer_sizes:
    start, end = end, end + size
    sizes.append(int(sum(mask[start:end])))
  return dataclasses.replace(
      layered,
      splats=types.Splats(*(x[mask] for x in layered.splats)),
      layer_sizes=tuple(sizes),
  )
