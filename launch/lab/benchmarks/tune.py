"""Times variants of the triton implementation's `Tuning`."""

from collections.abc import Iterator, Sequence
import dataclasses
import functools

import jax
import numpy as np

from pallas_kernels import dispatch
from pallas_kernels import triton

from ... import machine
from ... import table
from . import timing
from . import workloads

_VALUES = {
    'unroll': (1, 2, 8),
    'forward_warps': (1, 4, 8),
    'backward_warps': (2, 4),
    'pieces': (2, 4, 16, 32),
    'programs': (2048, 4096, 16384, 65536),
    'pairs_per_splat': (8, 28),
    'jobs_per_splat': (2, 8),
}


def variants() -> Iterator[tuple[str, triton.Tuning]]:
  """The default, and those that differ from it in one field."""
  yield 'default', triton.Tuning()
  for field, values in _VALUES.items():
    for value in values:
      tuning = dataclasses.replace(triton.Tuning(), **{field: value})
      yield f'{field}={value}', tuning


def measure(
    shape: workloads.Shape,
    tuning: triton.Tuning,
    platform: str,
    samples: int,
) -> dict[str, timing.Timing]:
  """Times a render of one prefix, and errors with gradients of all.

  Args:
    shape: what is worked on.
    tuning: the variant.
    platform: 'cuda', or anything else for the interpreter.
    samples: of each.

  Returns:
    The times by case.
  """
  splats = tuple(jax.device_put(x) for x in workloads.make_splats(shape))
  target = jax.device_put(workloads.make_target(shape))
  weights = jax.device_put(np.ones(target.shape[:2], np.float32))
  levels = jax.device_put(np.ones(len(shape.layer_sizes), np.float32))
  size = shape.height, shape.width
  keywords = {'platform': platform, 'tuning': tuning}
  render = functools.partial(
      triton.composite,
      static=dispatch.Static((shape.num_splats,), *size),
      **keywords,
  )
  error = functools.partial(
      triton.composite_error,
      static=dispatch.Static(shape.layer_sizes, *size),
      **keywords,
  )
  return {
      'render': timing.time_program(
          jax.jit(render), splats, samples=samples, units=1
      ),
      'error_gradient': timing.time_program(
          jax.jit(error),
          (*splats, target, weights, levels),
          samples=samples,
          units=1,
      ),
  }


def run(
    shapes: Sequence[str], device: jax.Device, samples: int, as_json: bool
) -> None:
  """Times all variants and prints them.

  Raises:
    ValueError: there is no CUDA device; in the interpreter, times tell nothing.
  """
  if device.platform != 'gpu':
    raise ValueError(f'--tune needs a CUDA device, not {device.platform}')
  rows = [
      {'shape': name, 'variant': variant, 'case': case}
      | dataclasses.asdict(time)
      for name in shapes
      for variant, tuning in variants()
      for case, time in measure(
          workloads.SHAPES[name], tuning, 'cuda', samples
      ).items()
  ]
  if as_json:
    table.print_json(machine.describe([device]) | {'times': rows})
    return
  table.print_table(
      ['shape', 'variant', 'case', 'median ms', 'middle half'],
      [
          [
              row['shape'],
              row['variant'],
              row['case'],
              f'{row["median_ms"]:.3f}',
              f'{row["low_ms"]:.3f}-{row["high_ms"]:.3f}',
          ]
          for row in rows
      ],
  )
