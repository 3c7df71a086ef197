"""Sets JAX up: CPU devices, caches, guards. Import before anything uses JAX."""

from collections.abc import Iterator, Sequence
import ctypes
import importlib.metadata
import logging
import pathlib
import platform
import sys
import warnings

import psutil

from pgsvc_jax import memory

from . import caches
from . import host
from . import interrupts

with interrupts.ending_at_once():
  import jax

# Of mallopt(3), and what counts as large: bytes.
_M_MMAP_THRESHOLD = -3
_LARGE = 2**20

# Their releases may change the bytes of a file.
_PACKAGES = ('jax', 'jaxlib', 'numba', 'numpy', 'optax')


def return_freed_memory() -> None:
  """Has glibc give large arrays back to the system when they are freed.

  It raises this limit by itself with every large array that is freed, and then
  keeps memory in pieces that fit nothing: at the end of a fit of 2040x1530 on
  two devices, 1190 MiB with no array alive; 640 MiB with the limit. For a fit,
  which makes few large arrays: memory that is new costs a page fault every
  4 KiB, half of the time of a render that writes 14 MB.
  """
  if sys.platform == 'linux':
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt:  # Not of every C library.
      mallopt(_M_MMAP_THRESHOLD, _LARGE)


def _quiet() -> None:
  # At INFO, JAX tells of every backend that this machine does not have.
  logging.getLogger('jax').setLevel(logging.WARNING)


def join_processes(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
  """Makes this process one of several; before anything else of JAX.

  Args:
    coordinator: HOST:PORT of process 0; None: the cluster's environment says
      it, and the rest too.
    num_processes: how many there are.
    process_id: which one this is.

  Raises:
    ValueError: no cluster was found.
    RuntimeError: the others were not reached.
  """
  _quiet()
  # It would take SIGTERM over, and a terminated run would not end.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(coordinator, num_processes, process_id)
  except ValueError as error:
    raise ValueError(
        f'no cluster found ({error}): give --coordinator, --num_processes and'
        ' --process_id'
    ) from error


def is_leader() -> bool:
  """Whether this is the process that writes; of one process, it is."""
  return jax.process_index() == 0


def set_up(num_devices: int, use_cache: bool) -> list[jax.Device]:
  """Configures JAX and returns the devices of a fit.

  Args:
    num_devices: devices to use of every process; 0 takes all. On CPU every
      core is a device.
    use_cache: keep compiled programs in XLA's folder of `caches`.

  Returns:
    The devices; of several processes, equally many of each.

  Raises:
    ValueError: there are not that many devices.
  """
  _quiet()
  cores = host.num_cores()
  # More CPU devices than cores are for trying out: up to eight.
  most = max(cores, 8)
  jax.config.update('jax_num_cpu_devices', min(num_devices or cores, most))
  # Off whatever the user's environment says.
  jax.config.update('jax_enable_compilation_cache', use_cache)
  if use_cache:
    folder = caches.folder('xla')
    jax.config.update('jax_compilation_cache_dir', str(folder))
    # The programs are small; the default keeps only those of over a second.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    # Two runs may write one entry at a time: the loser warns, nothing is lost.
    warnings.filterwarnings('ignore', message='.*persistent compilation cache')
  processes = [jax.local_devices(i) for i in range(jax.process_count())]
  counts = [len(devices) for devices in processes]
  if min(counts) < max(counts):
    # JAX's own exchange between processes asks for this.
    raise ValueError(
        f'the processes have {counts} devices, not equally many; on CPU,'
        ' --num_devices sets it'
    )
  if num_devices > counts[0]:
    raise ValueError(f'--num_devices={num_devices}, but there are {counts[0]}')
  return [
      device
      for devices in processes
      for device in devices[: num_devices or None]
  ]


def prepare_kernels(
    devices: list[jax.Device], channels: int, implementation: str | None
) -> None:
  """Has what a fit runs compiled, and says so, before its progress is shown."""
  if devices[0].platform == 'cpu' and implementation in (None, 'cpu'):
    caches.prepare(channels, fits=True)


def versions() -> dict[str, str]:
  """What a run should be repeated with."""
  return {
      'python': platform.python_version(),
      **{name: importlib.metadata.version(name) for name in _PACKAGES},
      'platform': platform.platform(),
      'processor': host.processor(),
  }


def host_memory() -> dict[str, int]:
  """Bytes of memory: what there is, and what this process may have in all.

  The latter counts what it holds already, and the limits of the control groups
  that containers and batch systems put it in.
  """
  host = psutil.virtual_memory()
  free = min([host.available, *_cgroup_room()])
  return {
      'total_bytes': host.total,
      'available_bytes': free + psutil.Process().memory_info().rss,
  }


def require_memory(
    needed: memory.Estimate, devices: Sequence[jax.Device]
) -> str:
  """Compares an estimate with what there is, on the host and each device.

  Args:
    needed: the estimate.
    devices: of the fit.

  Returns:
    The figures, a line for the user.

  Raises:
    ValueError: there is less; the message has the figures.
  """
  places = {
      'host': (needed.host_bytes, host_memory()['available_bytes']),
      str(devices[0]): (needed.device_bytes, device_memory(devices[0])),
  }
  lines = []
  for place, (size, available) in places.items():
    # No limit: a device on the CPU, or one that does not tell.
    if available is None:
      continue
    line = f'{_gib(size)} of {place} memory, {_gib(available)} available'
    if size > available:
      raise ValueError(
          f'the fit needs about {line}; take fewer splats or a smaller picture'
      )
    lines.append(line)
  return f'needs about {", ".join(lines)}'


def _gib(size: int) -> str:
  return f'{size / 2**30:.1f} GiB'


def device_memory(device: jax.Device) -> int | None:
  """Bytes that JAX may allocate on a device; None where it does not say."""
  return (device.memory_stats() or {}).get('bytes_limit')


def _cgroup_room() -> Iterator[int]:
  """Bytes left in every control group of this process (Linux) with a limit."""
  try:
    groups = pathlib.Path('/proc/self/cgroup').read_text().splitlines()
  except OSError:
    return
  for group in groups:
    _, controllers, path = group.split(':', 2)
    if controllers not in ('', 'memory'):
      continue
    # Version 2 has no controllers in this list; the file names differ.
    root = pathlib.Path('/sys/fs/cgroup', controllers)
    names = ('memory.max', 'memory.current', 'inactive_file')
    if controllers:
      names = (
          'memory.limit_in_bytes',
          'memory.usage_in_bytes',
          'total_inactive_file',
      )
    folder = root / path.lstrip('/')
    for place in (folder, *folder.parents):
      if place.is_relative_to(root):
        yield from _room(place, *names)


def _room(
    folder: pathlib.Path, limit: str, used: str, reclaimable: str
) -> Iterator[int]:
  try:
    room = int((folder / limit).read_text()) - int((folder / used).read_text())
    statistics = (folder / 'memory.stat').read_text().split()
  except (OSError, ValueError):  # ValueError: the limit is 'max', none.
    return
  values = dict(zip(statistics[::2], statistics[1::2]))
  # Pages of files that are only cached count as used.
  yield room + int(values.get(reclaimable, 0))
