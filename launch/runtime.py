"""Sets JAX up: CPU devices, caches, guards. Import before anything uses JAX."""

import logging
import os
import platform
import warnings

import jax
import jaxlib
import platformdirs


def num_cores() -> int:
  """Cores this process may use."""
  return (
      len(os.sched_getaffinity(0))
      if hasattr(os, 'sched_getaffinity')
      else (os.cpu_count() or 1)
  )


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
    use_cache: keep compiled programs in the user's cache folder.

  Returns:
    The devices; of several processes, equally many of each.

  Raises:
    ValueError: there are not that many devices.
  """
  _quiet()
  cores = num_cores()
  # More CPU devices than cores are for trying out: up to eight.
  most = max(cores, 8)
  jax.config.update('jax_num_cpu_devices', min(num_devices or cores, most))
  if use_cache:
    folder = platformdirs.user_cache_path('pgsvc_jax') / 'xla'
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


def versions() -> dict[str, str]:
  """What a run should be repeated with."""
  return {
      'python': platform.python_version(),
      'jax': jax.__version__,
      'jaxlib': jaxlib.__version__,
      'platform': platform.platform(),
      'processor': platform.processor() or platform.machine(),
  }
