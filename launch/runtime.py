"""Sets JAX up: CPU devices, caches, guards. Import before anything uses JAX."""

import logging
import platform
import warnings

import jax
import jaxlib
import platformdirs

from . import host


def set_up(num_devices: int, use_cache: bool) -> list[jax.Device]:
  """Configures JAX and returns the devices of a fit.

  Args:
    num_devices: devices to use; 0 takes all. On CPU every core is a device.
    use_cache: keep compiled programs in the user's cache folder.

  Returns:
    The devices.

  Raises:
    ValueError: there are not that many devices.
  """
  # At INFO, JAX tells of every backend that this machine does not have.
  logging.getLogger('jax').setLevel(logging.WARNING)
  cores = host.num_cores()
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
  devices = jax.local_devices()
  if num_devices > len(devices):
    raise ValueError(
        f'--num_devices={num_devices}, but there are {len(devices)}'
    )
  return devices[: num_devices or None]


def versions() -> dict[str, str]:
  """What a run should be repeated with."""
  return {
      'python': platform.python_version(),
      'jax': jax.__version__,
      'jaxlib': jaxlib.__version__,
      'platform': platform.platform(),
      'processor': platform.processor() or platform.machine(),
  }
