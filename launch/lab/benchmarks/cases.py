"""The cases of a benchmark: the operator, the train step, a whole fit."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

import pallas_kernels
from pgsvc_jax import config as config_lib
from pgsvc_jax import render
from pgsvc_jax import types
from pgsvc_jax.training import bands as bands_lib
from pgsvc_jax.training import fit
from pgsvc_jax.training import schedule as schedule_lib
from pgsvc_jax.training import train

from . import timing
from . import workloads

# These share the picture's rows among all devices; the others use one.
SHARDED = ('train_step', 'step_rest', 'fit')

_FORWARD = ('weigh', 'accumulate')
# A weight of which the image and the gradient are wanted is needed once.
_BOTH = ('weigh', 'accumulate', 'gradient')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """What is compiled and timed.

  Attributes:
    function: jitted or pmapped.
    args: its arguments, on the device.
    shape: what is worked on, in one layer where only one prefix is made.
    passes: over the weights (`roofline.operations`), as few as will do.
    num_bytes: each input read once and each output written once, a unit.
    units: of work in a call.
  """

  function: Callable
  args: tuple
  shape: workloads.Shape
  passes: tuple[str, ...]
  num_bytes: int
  units: int = 1


def _num_bytes(*trees: Any) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(trees))


def make_program(
    case: str,
    shape: workloads.Shape,
    implementation: pallas_kernels.Implementation,
    devices: Sequence[jax.Device],
) -> Program:
  """Makes the program of a case other than `fit`."""
  if case in SHARDED:
    return _step_program(case, shape, implementation, devices)
  return _operator_program(case, shape, implementation, devices[0])


def _operator_program(
    case: str,
    shape: workloads.Shape,
    implementation: pallas_kernels.Implementation,
    device: jax.Device,
) -> Program:
  if case in ('render', 'render_backward'):
    shape = dataclasses.replace(shape, layer_sizes=(shape.num_splats,))
  layer_sizes = shape.layer_sizes
  # All arrays are arguments: XLA would fold what it knows while compiling.
  splats = workloads.make_splats(shape)
  target = workloads.make_target(shape)
  images = functools.partial(
      pallas_kernels.composite,
      layer_sizes=layer_sizes,
      height=shape.height,
      width=shape.width,
      implementation=implementation,
  )

  def backward(means, cholesky, colors, cotangents):
    return jax.vjp(images, means, cholesky, colors)[1](cotangents)

  def both(means, cholesky, colors, cotangents):
    primal, vjp = jax.vjp(images, means, cholesky, colors)
    # The images too: XLA drops a forward pass that nobody reads.
    return primal, vjp(cotangents)

  def error(means, cholesky, colors, target, pixel_weights, level_weights):
    return pallas_kernels.composite_error(
        means,
        cholesky,
        colors,
        target,
        pixel_weights,
        level_weights,
        layer_sizes=layer_sizes,
        implementation=implementation,
    )

  match case:
    case 'render' | 'forward':
      function, passes, rest = images, _FORWARD, ()
    case 'backward':
      function, passes = backward, ('weigh', 'gradient')
      rest = (np.stack([target] * len(layer_sizes)),)
    case 'render_backward' | 'forward_backward':
      function, passes = both, _BOTH
      rest = (np.stack([target] * len(layer_sizes)),)
    case 'error_gradient':
      function = jax.value_and_grad(error, argnums=(0, 1, 2), has_aux=True)
      passes = _BOTH
      pixel_weights = np.ones(target.shape[:2], np.float32)
      level_weights = np.ones(len(layer_sizes), np.float32)
      rest = (target, pixel_weights, level_weights)
    case _:
      raise AssertionError(case)
  args = tuple(jax.device_put(x, device) for x in (*splats, *rest))
  outputs = jax.eval_shape(function, *args)
  return Program(
      function=jax.jit(function),
      args=args,
      shape=shape,
      passes=passes,
      num_bytes=_num_bytes(args, outputs),
  )


def _step_program(
    case: str,
    shape: workloads.Shape,
    implementation: pallas_kernels.Implementation,
    devices: Sequence[jax.Device],
) -> Program:
  """A chunk of train steps, or what they cost without the operator."""
  config = config_lib.FitConfig(
      layer_splats=shape.layer_sizes, num_births=1, num_steps=10
  )
  schedule = schedule_lib.make_schedule(config, shape.height, shape.width)
  splats = types.Splats(*workloads.make_splats(shape))
  work = bands_lib.row_work(splats, shape.height, shape.width)
  edges = bands_lib.cut_rows(work, len(devices))
  target = workloads.make_target(shape)
  bands = train.place(train.make_bands(target, edges), devices)
  state = train.create_train_state(shape.num_splats, workloads.CHANNELS)
  state = train.add_splats(state, 0, splats)
  state = train.place([state] * len(devices), devices)
  error_fn, passes = _free_error, ()
  if case == 'train_step':
    error_fn = functools.partial(
        pallas_kernels.composite_error, implementation=implementation
    )
    passes = _BOTH
  return Program(
      function=train.make_train_chunk(config, schedule, devices, error_fn),
      args=(
          state,
          train.place([schedule.inputs] * len(devices), devices),
          bands,
      ),
      shape=shape,
      passes=passes,
      num_bytes=_num_bytes(state, state, bands),
      units=config.chunk_steps,
  )


def _free_error(means, cholesky, colors, *unused, layer_sizes):
  """Stands in for an operator that costs nothing."""
  del unused
  loss = jnp.sum(means) + jnp.sum(cholesky) + jnp.sum(colors)
  return loss, jnp.zeros(len(layer_sizes))


def time_fit(
    shape: workloads.Shape,
    implementation: pallas_kernels.Implementation,
    devices: Sequence[jax.Device],
    num_steps: int,
) -> timing.Timing:
  """Times one `fit_picture`, births included, of a picture made of splats."""
  splats = types.Splats(*workloads.make_splats(shape))
  picture = render.render_picture(
      types.LayeredSplats(
          splats=splats,
          layer_sizes=shape.layer_sizes,
          height=shape.height,
          width=shape.width,
      )
  )
  config = config_lib.FitConfig(
      layer_splats=shape.layer_sizes, num_steps=num_steps
  )
  return timing.time_once(
      lambda: fit.fit_picture(
          picture / np.float32(255),
          config,
          devices=devices,
          implementation=implementation,
      )
  )
