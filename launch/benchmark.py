"""Times the operator and the train step.

python -m launch.benchmark [--shapes=kodak-9k] [--implementations=cpu,xla]
    [--json]

Every figure is the median of `--repeats` runs in one process, after one run
that compiles; the spread is the middle half. Compare figures of one run only.
"""

from collections.abc import Callable
import dataclasses
import functools
import shutil
import statistics
import subprocess
import time

from absl import flags
import numpy as np

from . import command
from . import table

_SHAPES = flags.DEFINE_list('shapes', ['thumbnail', 'kodak-9k'], 'named shapes')
_IMPLEMENTATIONS = flags.DEFINE_list(
    'implementations', ['cpu', 'xla'], 'of the operator'
)
_REPEATS = flags.DEFINE_integer('repeats', 20, 'timed runs of each case')
_NUM_DEVICES = flags.DEFINE_integer(
    'num_devices',
    0,
    'for the train step; 0: all, on CPU one a core',
    lower_bound=0,
)
_JSON = flags.DEFINE_bool('json', False, 'print one JSON document')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
  """A named size: a picture and its layers."""

  height: int
  width: int
  layer_sizes: tuple[int, ...]


SHAPES = {
    'thumbnail': Shape(height=128, width=192, layer_sizes=(300, 100, 100)),
    'kodak-9k': Shape(height=512, width=768, layer_sizes=(5000, 2000, 2000)),
    'hd-50k': Shape(height=1080, width=1920, layer_sizes=(30000, 10000, 10000)),
}


def _case(shape: Shape) -> tuple[list[np.ndarray], np.ndarray]:
  """Random splats of the size that a fit ends with, and a target."""
  rng = np.random.default_rng(0)
  n = sum(shape.layer_sizes)
  spread = 0.6 * np.sqrt(shape.height * shape.width / n)
  splats = [
      rng.uniform(0, [shape.width, shape.height], (n, 2)),
      np.stack(
          [
              spread * rng.lognormal(0, 0.4, n),
              spread * rng.normal(0, 0.4, n),
              spread * rng.lognormal(0, 0.4, n),
          ],
          1,
      ),
      rng.normal(0.1, 0.2, (n, 3)),
  ]
  target = rng.uniform(size=(shape.height, shape.width, 3))
  return [x.astype(np.float32) for x in splats], target.astype(np.float32)


def _time(function: Callable[..., object], *args) -> dict[str, float]:
  """Milliseconds: the first call (with compilation), median and quartiles."""
  import jax

  samples = []
  for _ in range(_REPEATS.value + 1):
    begin = time.perf_counter()
    jax.block_until_ready(function(*args))
    samples.append((time.perf_counter() - begin) * 1e3)
  first, *rest = samples
  low, median, high = statistics.quantiles(rest, n=4)
  return {
      'first_ms': first,
      'median_ms': median,
      'low_ms': low,
      'high_ms': high,
  }


def _operator_times(shape: Shape, implementation: str) -> dict[str, dict]:
  import jax

  import pallas_kernels

  splats, target = _case(shape)
  weights = np.ones(target.shape[:2], np.float32)
  levels = np.ones(len(shape.layer_sizes), np.float32)

  def images(means, cholesky, colors):
    return pallas_kernels.composite(
        means,
        cholesky,
        colors,
        layer_sizes=shape.layer_sizes,
        height=shape.height,
        width=shape.width,
        implementation=implementation,
    )

  def top(*splats):
    """One prefix: what a renderer without layers does."""
    return pallas_kernels.composite(
        *splats,
        layer_sizes=(sum(shape.layer_sizes),),
        height=shape.height,
        width=shape.width,
        implementation=implementation,
    )

  def error(*splats):
    return pallas_kernels.composite_error(
        *splats,
        target,
        weights,
        levels,
        layer_sizes=shape.layer_sizes,
        implementation=implementation,
    )[0]

  def backward(function):
    def both(cotangents, *splats):
      primal, vjp = jax.vjp(function, *splats)
      # The images too: XLA drops a forward pass that nobody reads.
      return primal, vjp(cotangents)

    return both

  arrays = [jax.device_put(x) for x in splats]
  # Arguments, not constants: those XLA would write anew in every call.
  one = jax.device_put(np.ones((1, *target.shape), np.float32))
  full = jax.device_put(np.ones((len(levels), *target.shape), np.float32))
  cases = {
      'forward, one prefix': (top, *arrays),
      'forward, all prefixes': (images, *arrays),
      'forward + backward, one prefix': (backward(top), one, *arrays),
      'forward + backward, all prefixes': (backward(images), full, *arrays),
      'error + gradient, all prefixes': (
          jax.value_and_grad(error, argnums=(0, 1, 2)),
          *arrays,
      ),
  }
  return {
      name: _time(jax.jit(function), *args)
      for name, (function, *args) in cases.items()
  }


def _step_times(shape: Shape, implementation: str, devices: list) -> dict:
  """A whole train step, and what it costs without the operator."""
  import jax

  import pallas_kernels
  from pgsvc_jax import config as config_lib
  from pgsvc_jax import schedule as schedule_lib
  from pgsvc_jax import train
  from pgsvc_jax import types

  splats, target = _case(shape)
  config = config_lib.FitConfig(
      layer_splats=shape.layer_sizes, num_births=1, num_steps=10
  )
  schedule = schedule_lib.make_schedule(config, shape.height, shape.width)
  sharding = train.band_sharding(devices)
  bands = jax.device_put(train.make_bands(target, len(devices)), sharding)
  inputs = train.replicate(schedule.inputs, sharding)
  state = train.create_train_state(sum(shape.layer_sizes), 3)
  state = train.add_splats(state, 0, types.Splats(*splats))
  state = train.replicate(state, sharding)
  error_fns = {
      'train step': functools.partial(
          pallas_kernels.composite_error, implementation=implementation
      ),
      'rest of the step': _free_error,
  }
  times = {}
  for name, error_fn in error_fns.items():
    chunk = train.make_train_chunk(config, schedule, devices, error_fn)
    chunk_times = _time(chunk, state, inputs, bands)
    times[name] = {
        key: value / config.chunk_steps for key, value in chunk_times.items()
    }
  return times


def _free_error(means, cholesky, colors, *unused, layer_sizes):
  """Stands in for an operator that costs nothing."""
  del unused
  from jax import numpy as jnp

  loss = jnp.sum(means) + jnp.sum(cholesky) + jnp.sum(colors)
  return loss, jnp.zeros(len(layer_sizes))


def _commit() -> str | None:
  """The commit of the source tree, if it is one."""
  root = command.CONFIGS.parent
  if not (root / '.git').exists() or not shutil.which('git'):
    return None
  result = subprocess.run(
      ['git', 'describe', '--always', '--dirty'],
      cwd=root,
      capture_output=True,
      text=True,
      check=False,
  )
  return result.stdout.strip() or None


def main() -> None:
  """Times every shape with every implementation."""
  from . import runtime

  unknown = [name for name in _SHAPES.value if name not in SHAPES]
  if unknown:
    raise ValueError(f'unknown shape {unknown[0]!r}, there are {list(SHAPES)}')
  if _REPEATS.value < 2:
    raise ValueError('--repeats must be at least 2')
  devices = runtime.set_up(_NUM_DEVICES.value, use_cache=False)
  rows = []
  for name in _SHAPES.value:
    for implementation in _IMPLEMENTATIONS.value:
      times = _operator_times(SHAPES[name], implementation)
      times |= _step_times(SHAPES[name], implementation, devices)
      rows += [
          {'shape': name, 'implementation': implementation, 'case': case} | row
          for case, row in times.items()
      ]
  document = {
      'devices': [str(device) for device in devices],
      'cores': runtime.num_cores(),
      'versions': runtime.versions(),
      'commit': _commit(),
      'times': rows,
  }
  if _JSON.value:
    table.print_json(document)
    return
  print(
      f'{len(devices)} x {devices[0].device_kind} for the train step, one for'
      f' the operator; jax {document["versions"]["jax"]},'
      f' commit {document["commit"]}'
  )
  table.print_table(
      ['shape', 'implementation', 'case', 'median ms', 'middle half', 'first'],
      [
          [
              row['shape'],
              row['implementation'],
              row['case'],
              f'{row["median_ms"]:.2f}',
              f'{row["low_ms"]:.2f}-{row["high_ms"]:.2f}',
              f'{row["first_ms"]:.0f}',
          ]
          for row in rows
      ],
  )


if __name__ == '__main__':
  command.run(main)
