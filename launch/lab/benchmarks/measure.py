"""Which cases a benchmark times on a device, and what it finds."""

from collections.abc import Sequence
import dataclasses

import jax

import pallas_kernels

from ... import machine
from . import cases
from . import roofline
from . import timing
from . import workloads

# The reference holds all weights at once: only where they take this at most.
_MAX_DENSE_BYTES = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
  """A row to be.

  Attributes:
    labels: what the row is called by.
    shape: what is worked on.
    implementation: of the operator.
    case: what is timed.
    num_devices: that share the work.
  """

  labels: dict
  shape: workloads.Shape
  implementation: str
  case: str
  num_devices: int


def _is_too_dense(shape: workloads.Shape, implementation: str) -> bool:
  num_weights = shape.num_splats * shape.height * shape.width
  return implementation == 'reference' and 4 * num_weights > _MAX_DENSE_BYTES


def _check_implementations(
    names: Sequence[str], shapes: Sequence[workloads.Shape]
) -> None:
  for name in names:
    if name not in pallas_kernels.IMPLEMENTATIONS:
      raise ValueError(
          f'unknown implementation {name!r}, there are'
          f' {list(pallas_kernels.IMPLEMENTATIONS)}'
      )
    if any(_is_too_dense(shape, name) for shape in shapes):
      raise ValueError(f'{name} is dense: for shapes like thumbnail only')


def table_jobs(
    shapes: Sequence[str],
    implementations: Sequence[str] | None,
    case_names: Sequence[str],
    devices: Sequence[jax.Device],
) -> list[Measurement]:
  """Jobs of every case of every shape with every implementation.

  Args:
    shapes: names.
    implementations: names; None takes all that suit the device and the shape.
    case_names: of `workloads.CASES`.
    devices: for the cases that share them.

  Returns:
    The jobs.

  Raises:
    ValueError: an implementation is unknown, or dense and the shape large.
  """
  sizes = {name: workloads.SHAPES[name] for name in shapes}
  _check_implementations(implementations or (), list(sizes.values()))

  def chosen(shape):
    if implementations:
      return implementations
    names = [
        *pallas_kernels.default_implementations(devices[0].platform),
        'reference',
    ]
    return [name for name in names if not _is_too_dense(shape, name)]

  return [
      Measurement(
          labels={
              'shape': name,
              'implementation': implementation,
              'case': case,
          },
          shape=shape,
          implementation=implementation,
          case=case,
          num_devices=len(devices) if case in cases.SHARDED else 1,
      )
      for name, shape in sizes.items()
      for implementation in chosen(shape)
      for case in case_names
  ]


def plot_jobs(
    shape: str,
    implementations: Sequence[str] | None,
    devices: Sequence[jax.Device],
) -> list[Measurement]:
  """Jobs of the sweeps around a shape; else as `table_jobs`."""
  centre = workloads.SHAPES[shape]
  points = workloads.make_sweeps(centre, len(devices))
  names = implementations or pallas_kernels.default_implementations(
      devices[0].platform
  )
  _check_implementations(names, [point.shape for point in points])
  return [
      Measurement(
          labels={
              'sweep': point.sweep,
              'value': point.value,
              'implementation': name,
              'case': point.case,
          },
          shape=point.shape,
          implementation=name,
          case=point.case,
          num_devices=point.num_devices,
      )
      for name in names
      for point in points
  ]


def _run(
    job: Measurement,
    devices: Sequence[jax.Device],
    samples: int,
    fit_steps: int,
) -> dict:
  """Times one case and holds it against the ceilings."""
  devices = tuple(devices[: job.num_devices])
  head = job.labels | {'num_devices': job.num_devices}
  if job.case == 'fit':
    time = cases.time_fit(job.shape, job.implementation, devices, fit_steps)
    return head | dataclasses.asdict(time)
  program = cases.make_program(job.case, job.shape, job.implementation, devices)
  time = timing.time_program(
      program.function, program.args, samples=samples, units=program.units
  )
  row = head | dataclasses.asdict(time) | {'bytes': program.num_bytes}
  work = roofline.count_operations(program.passes, workloads.CHANNELS)
  num_weights = 0
  if program.passes:
    num_weights = roofline.count_weights(program.shape)
    row |= {
        'weights': num_weights,
        'evaluations': roofline.count_evaluations(
            program.shape, job.implementation, program.passes
        ),
        'flops': num_weights * work.flops,
    }
  return row | roofline.shares(
      roofline.measure_ceilings(devices),
      work,
      num_weights,
      program.num_bytes,
      time.median_ms,
  )


def measure(
    jobs: Sequence[Measurement],
    devices: Sequence[jax.Device],
    *,
    samples: int,
    fit_steps: int,
) -> dict:
  """Measures the ceilings, then runs the jobs.

  Args:
    jobs: what to time.
    devices: there are.
    samples: of each job.
    fit_steps: of the case `fit`.

  Returns:
    The document that `--json` prints.
  """
  ceilings = {
      str(n): dataclasses.asdict(roofline.measure_ceilings(tuple(devices[:n])))
      for n in sorted({job.num_devices for job in jobs})
  }
  operations = {
      name: dataclasses.asdict(x) | {'flops': x.flops}
      for name, x in roofline.operations(workloads.CHANNELS).items()
  }
  return machine.describe(devices) | {
      'ceilings_per_second': ceilings,
      'operations_per_weight': operations,
      'fit_steps': fit_steps,
      'times': [_run(job, devices, samples, fit_steps) for job in jobs],
  }
