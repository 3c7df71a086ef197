"""Says what this machine has, and whether everything works on it.

python -m launch.doctor [--json]

Lists devices, memory, versions, caches and what each implementation of the
operator can do here; then checks every implementation that there is against
`reference`, and a small file on its way to disk and back. The status is 0 only
if all of that passes.
"""

from collections.abc import Callable, Iterator
import functools
import importlib.metadata
import os
import pathlib
import sys
import tempfile
import time

from absl import flags
import numpy as np

import pallas_kernels
from pallas_kernels import constants
import pgsvc_jax
from pgsvc_jax import types

from . import caches
from . import command
from . import host
from . import table

_JSON = flags.DEFINE_bool('json', False, 'print one JSON document')
flags.declare_key_flag('cache')

# (layer sizes, height, width, channels) of what the implementations are
# compared on: partial tiles, a single row, an empty layer, gray.
_SCENES = (
    ((60, 40, 40), 37, 53, 3),
    ((20, 0, 10), 1, 45, 1),
    ((40, 10), 16, 32, 4),
)

# Differences from `reference`, relative to the largest value. Rounding gives
# 1e-6 (tests/operator_test.py bounds it); a defect shows in the first digits.
_BOUND = 1e-4

_PLUGINS = ('jax-cuda12-plugin', 'jax-cuda13-plugin')


def main() -> None:
  """Prints the report; ends with status 1 if a check failed."""
  caches.prepare()
  report = {
      'package': _package(),
      'devices': [],
      'memory': {},
      'caches': _caches(),
      'implementations': [],
      'checks': [],
  }
  try:
    devices = _describe_machine(report)
  except Exception as error:  # Of a plugin or a driver, of any type.
    report['checks'].append(_failure('devices', error))
  else:
    for platform in sorted({device.platform for device in devices}):
      _check_operator(report, platform)
  report['checks'].append(_check('file round trip', _round_trip))
  report['passed'] = all(check['passed'] for check in report['checks'])
  if _JSON.value:
    table.print_json(report)
  else:
    _print(report)
  if not report['passed']:
    sys.exit(1)


def _describe_machine(report: dict) -> list:
  """Fills in what JAX knows; returns its devices."""
  from . import runtime

  report['versions'] = runtime.versions() | _gpu_versions()
  report['cores'] = host.num_cores()
  report['memory'] = runtime.host_memory()
  devices = runtime.set_up(0, caches.KEEP.value)
  report['devices'] = [
      {
          'name': str(device),
          'platform': device.platform,
          'kind': device.device_kind,
          'memory_bytes': runtime.device_memory(device),
      }
      for device in devices
  ]
  return devices


def _package() -> dict:
  folder = pathlib.Path(pgsvc_jax.__file__).parent
  try:
    version = importlib.metadata.version('pgsvc_jax')
  except importlib.metadata.PackageNotFoundError:
    version = None
  return {'version': version, 'folder': str(folder)}


def _gpu_versions() -> dict[str, str]:
  """The NVIDIA driver and JAX's plugins for it, those that there are."""
  versions = {}
  driver = pathlib.Path('/sys/module/nvidia/version')
  if driver.exists():
    versions['nvidia driver'] = driver.read_text().strip()
  for name in _PLUGINS:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      pass
  return versions


def _caches() -> list[dict]:
  rows = []
  for compiler in ('xla', 'numba'):
    folder = caches.folder(compiler)
    files = [path for path in folder.rglob('*') if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    rows.append(
        {
            'compiler': compiler,
            'folder': str(folder),
            'files': len(files),
            'bytes': size,
        }
    )
  return rows


def _check(name: str, function: Callable[[], str]) -> dict:
  """Runs a check: it returns what to say of it, and raises if it fails."""
  begin = time.perf_counter()
  try:
    detail = function()
  except NotImplementedError:
    raise
  except Exception as error:  # Of any type: to find out is the purpose.
    return _failure(name, error, time.perf_counter() - begin)
  return {
      'name': name,
      'passed': True,
      'seconds': time.perf_counter() - begin,
      'detail': detail,
  }


def _failure(name: str, error: Exception, seconds: float = 0.0) -> dict:
  reason = ' '.join(f'{type(error).__name__} {error}'.split())
  return {
      'name': name,
      'passed': False,
      'seconds': seconds,
      'detail': reason if len(reason) < 500 else f'{reason[:500]} ...',
  }


def _check_operator(report: dict, platform: str) -> None:
  """Checks what there is for a platform, and says why the rest is not."""
  defaults = pallas_kernels.default_implementations(platform)
  chosen = False
  for name in dict.fromkeys((*defaults, *pallas_kernels.IMPLEMENTATIONS)):
    row = {'platform': platform, 'name': name, 'default': False, 'reason': None}
    report['implementations'].append(row)
    try:
      check = _check(
          f'{name} on {platform}', functools.partial(_compare_all, name)
      )
    except NotImplementedError as error:
      row['reason'] = ' '.join(str(error).split())
      continue
    row['default'] = name in defaults and not chosen
    chosen = chosen or row['default']
    if name != 'reference':
      report['checks'].append(check)


def _compare_all(implementation: str) -> str:
  """Largest differences from `reference` over the scenes."""
  largest = {}
  for scene in _SCENES:
    for name, difference in _compare(implementation, *scene):
      # Not max(): it passes over NaN.
      largest[name] = float(np.maximum(largest.get(name, 0.0), difference))
  text = ', '.join(f'{name} {x:.0e}' for name, x in largest.items())
  if not all(x <= _BOUND for x in largest.values()):
    raise ArithmeticError(f'differs from reference by {text}')
  return f'largest relative differences: {text}'


def _compare(
    implementation: str,
    layer_sizes: tuple[int, ...],
    height: int,
    width: int,
    channels: int,
) -> Iterator[tuple[str, float]]:
  """Compares images, errors and the gradients of both functions."""
  import jax

  rng = np.random.default_rng(0)
  n = sum(layer_sizes)
  cholesky = rng.uniform(1, 6, (n, 3))
  cholesky[:, 1] = rng.normal(size=n)
  splats = [
      x.astype(np.float32)
      for x in (
          rng.uniform(-3, [width + 3, height + 3], (n, 2)),
          cholesky,
          rng.normal(size=(n, channels)),
      )
  ]
  inside = _inside(splats[0], splats[1], height, width)
  cotangent = rng.normal(size=(len(layer_sizes), height, width, channels))
  cotangent = (cotangent * inside[..., None]).astype(np.float32)
  target = rng.uniform(size=(height, width, channels)).astype(np.float32)
  levels = rng.uniform(1, 2, len(layer_sizes)).astype(np.float32)

  def results(implementation):
    def images(*splats):
      return pallas_kernels.composite(
          *splats,
          layer_sizes=layer_sizes,
          height=height,
          width=width,
          implementation=implementation,
      )

    def error(*splats):
      return pallas_kernels.composite_error(
          *splats,
          target,
          inside,
          levels,
          layer_sizes=layer_sizes,
          implementation=implementation,
      )

    @jax.jit
    def both(*splats):
      prefixes, vjp = jax.vjp(images, *splats)
      (_, errors), gradients = jax.value_and_grad(
          error, argnums=(0, 1, 2), has_aux=True
      )(*splats)
      return {
          'images': prefixes * inside[..., None],
          'gradients': vjp(cotangent),
          'errors': errors,
          'gradients of the error': gradients,
      }

    return jax.device_get(both(*map(jax.device_put, splats)))

  expected = results('reference')
  for name, actual in results(implementation).items():
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected[name]))
    yield name, np.max([_difference(*pair) for pair in pairs])


def _difference(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
  """Largest difference, relative to the largest value; NaN stays NaN."""
  return np.abs(actual - expected).max() / np.abs(expected).max()


def _inside(
    means: np.ndarray, cholesky: np.ndarray, height: int, width: int
) -> np.ndarray:
  """1 where no splat is within rounding of its cut-off, else 0.

  There the implementations may differ by a step of exp(-S_MAX).
  """
  y, x = np.indices((height, width)) + 0.5
  dx = x - means[:, 0, None, None].astype(float)
  dy = y - means[:, 1, None, None].astype(float)
  l11, l21, l22 = cholesky.T[..., None, None].astype(float)
  z1 = dx / l11
  z2 = (dy - l21 * z1) / l22
  margin = np.abs((z1**2 + z2**2) / 2 - constants.S_MAX).min(axis=0)
  return (margin > 1e-3).astype(np.float32)


def _round_trip() -> str:
  """Writes a file, reads it whole and cut, and renders it."""
  rng = np.random.default_rng(0)
  sizes = (30, 20)
  n = sum(sizes)
  splats = types.Splats(
      rng.uniform(0, 48, (n, 2)).astype(np.float32),
      np.tile(np.float32([2, 0.5, 3]), (n, 1)),
      rng.uniform(size=(n, 3)).astype(np.float32),
  )
  layered = types.LayeredSplats(
      splats=splats, layer_sizes=sizes, height=48, width=64
  )
  data = pgsvc_jax.write(layered, pgsvc_jax.StepSizes())
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'small.pgsvc'
    command.write_bytes(str(path), data)
    read = path.read_bytes()
  decoded = pgsvc_jax.read_layers(read)
  again = pgsvc_jax.write(decoded, pgsvc_jax.StepSizes())
  if read != data or again != data:
    raise ArithmeticError('the file does not come back as it was written')
  base = pgsvc_jax.read_layers(read[:-1])
  whole, cut = (pgsvc_jax.render_prefixes(x) for x in (decoded, base))
  if not (len(whole), len(cut)) == (2, 1) or (whole[0] != cut[0]).any():
    raise ArithmeticError('a cut file does not show its base layer')
  return f'{len(data)} bytes, 2 layers, written, read, cut and rendered'


def _print(report: dict) -> None:
  """The report for people."""
  package = report['package']
  version = package['version'] or '(not installed)'
  print(f'pgsvc_jax {version} in {package["folder"]}')
  versions = ', '.join(
      f'{k} {v}' for k, v in report.get('versions', {}).items()
  )
  print(f'versions: {versions}')
  kinds = [
      (x['platform'], x['kind'], x['memory_bytes']) for x in report['devices']
  ]
  for platform, kind, memory in dict.fromkeys(kinds):
    count = kinds.count((platform, kind, memory))
    cores = f', one a core of {report["cores"]}' if platform == 'cpu' else ''
    size = f', {_gib(memory)} each' if memory else ''
    print(f'devices: {count} x {kind} ({platform}{cores}{size})')
  if any('driver' in x for x in report.get('versions', {})) and not any(
      x['platform'] == 'gpu' for x in report['devices']
  ):
    print(
        'note: this machine has a GPU driver that JAX does not use; pip install'
        ' pgsvc_jax[cuda12] or [cuda13]'
    )
  if memory := report['memory']:
    print(
        f'memory: {_gib(memory["available_bytes"])} available of'
        f' {_gib(memory["total_bytes"])}'
    )
  for row in report['caches']:
    print(
        f'cache: {row["bytes"] / 2**20:.1f} MiB in {row["files"]} files,'
        f' {row["folder"]}'
    )
  settings = [f'{k}={v}' for k, v in sorted(os.environ.items()) if _matters(k)]
  if settings:
    print(f'environment: {" ".join(settings)}')
  for row in report['implementations']:
    state = 'default' if row['default'] else 'available'
    if row['name'] == 'reference':
      state += ', what the others are checked against'
    if row['reason']:
      state = f'not available: {row["reason"]}'
    print(f'operator on {row["platform"]}: {row["name"]}, {state}')
  for check in report['checks']:
    verdict = 'PASS' if check['passed'] else 'FAIL'
    print(
        f'{verdict} {check["name"]} ({check["seconds"]:.1f} s):'
        f' {check["detail"]}'
    )
  failed = sum(not check['passed'] for check in report['checks'])
  print('all checks passed' if not failed else f'{failed} FAILED')


def _matters(variable: str) -> bool:
  """Whether an environment variable changes how this program runs."""
  return (
      variable.startswith(('JAX_', 'XLA_', 'CUDA_VISIBLE', 'NUMBA_'))
      and variable != 'NUMBA_CACHE_DIR'
  )


def _gib(size: int) -> str:
  return f'{size / 2**30:.1f} GiB'


if __name__ == '__main__':
  command.run(main)
