"""Straight-through rounding, which staged rounding is compared with.

python -m tests.straight_through --bpp=0.6 PICTURE...

Every step renders the rounded splats and moves those that are not rounded by
the gradient, as if rounding were not there; at the end all are rounded. The
splats are those of a fit with `target_bpp`, its step sizes too, so that files
are as large as those of `launch.encode --config=configs/image.py:fast`. Not
part of the library: it loses (docs/results.md).
"""

import argparse
import dataclasses

import jax
import numpy as np
import optax

import pallas_kernels
from pgsvc_jax import config as config_lib
from pgsvc_jax import media
from pgsvc_jax import metrics
from pgsvc_jax import render
from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import quantized
from pgsvc_jax.codec import rate
from pgsvc_jax.training import fit
from pgsvc_jax.training import schedule as schedule_lib
from pgsvc_jax.training import train


def refit(
    layered: types.LayeredSplats,
    image: np.ndarray,
    steps: quantize.StepSizes,
    config: config_lib.FitConfig,
) -> types.LayeredSplats:
  """As many steps as staged rounding takes, at the same rates.

  Args:
    layered: a fit without its weak splats.
    image: what it is a fit of, [h, w, c].
    steps: that the result is to be rounded with.
    config: the settings of the fit.

  Returns:
    Splats that are not rounded yet.
  """
  height, width, channels = image.shape
  config = dataclasses.replace(config, layer_splats=layered.layer_sizes)
  schedule = schedule_lib.make_schedule(config, height, width, rounding=True)
  tx = train.make_optimizer(config, height, width)
  layer_of_splat = np.repeat(
      np.arange(len(layered.layer_sizes)), layered.layer_sizes
  )
  pixel_weights = np.ones((height, width), np.float32)

  @jax.jit
  def step(params, rounded, opt_state, level_weights, rates):
    def loss(splats):
      return pallas_kernels.composite_error(
          *splats,
          image,
          pixel_weights,
          level_weights,
          layer_sizes=layered.layer_sizes,
      )[0]

    gradients = jax.grad(loss)(rounded)
    updates, opt_state = tx.update(
        gradients, opt_state, params, rates=rates[layer_of_splat]
    )
    return optax.apply_updates(params, updates), opt_state

  params = layered.splats
  state = train.create_train_state(len(params.means), channels)
  opt_state = state.opt_state
  first = schedule.roundings[0].step
  for weights, rates in zip(
      schedule.inputs.level_weights[first:], schedule.inputs.layer_rates[first:]
  ):
    rounded = quantize.dequantize(quantize.quantize(params, steps), steps)
    params, opt_state = step(params, rounded, opt_state, weights, rates)
    params = types.Splats(*map(np.asarray, params))
  return dataclasses.replace(layered, splats=params)


def encode(
    layered: types.LayeredSplats,
    error: float,
    image: np.ndarray,
    config: config_lib.EncodeConfig,
) -> bytes:
  """The file of a float fit after straight-through rounding."""
  steps, *_ = rate.choose_step_sizes(config, layered, error, image)
  nearest = quantized.quantize_layers(layered, steps)
  weak = np.concatenate([quantize.weak(x) for x in nearest.symbols])
  strong = layered.keep(~weak)
  return bitstream.write(refit(strong, image, steps, config.fit), steps)


def main() -> None:
  """Prints the size and the quality of the file of each picture."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('pictures', nargs='+')
  parser.add_argument('--bpp', type=float, default=0.6)
  flags = parser.parse_args()
  for name in flags.pictures:
    image = media.read_picture(name).pixels
    config = config_lib.EncodeConfig(
        fit=config_lib.FitConfig(num_steps=500, num_births=18),
        target_bpp=flags.bpp,
    )
    sizes = rate.layer_splats(config, image)
    config = dataclasses.replace(
        config, fit=dataclasses.replace(config.fit, layer_splats=sizes)
    )
    (layered,) = fit.fit_pictures([image], config.fit)
    data = encode(layered, 0.0, image, config)
    decoded = render.render_picture(bitstream.read_layers(data))
    psnr_db = metrics.psnr_db(decoded, image)
    print(
        f'{name}: {8 * len(data) / decoded[..., 0].size:.3f} bpp,'
        f' {psnr_db:.2f} dB'
    )


if __name__ == '__main__':
  main()
