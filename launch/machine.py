"""What a command ran on: what its figures must be read with."""

from collections.abc import Sequence
import importlib.metadata
import pathlib
import shlex
import shutil
import subprocess
import sys

import jax

from . import command
from . import host
from . import runtime


def describe(devices: Sequence[jax.Device]) -> dict:
  """Device, driver, versions, commit and command line."""
  device = devices[0]
  on_cpu = device.platform == 'cpu'
  return {
      'command': command_line(),
      'platform': device.platform,
      'device': host.processor() if on_cpu else device.device_kind,
      'num_devices': len(devices),
      'cores': host.num_cores(),
      'driver': None if on_cpu else _driver(),
      'runtime': device.client.platform_version,
      'versions': runtime.versions()
      | {name: importlib.metadata.version(name) for name in ('numpy', 'numba')},
      'commit': commit(),
  }


def command_line() -> str:
  """The command of this process, as one would type it."""
  verb = pathlib.Path(sys.argv[0]).stem
  return shlex.join(['python', '-m', f'launch.{verb}', *sys.argv[1:]])


def _output(arguments: list[str], **kwargs) -> str | None:
  """What a program prints; None where there is none, or it fails."""
  if not shutil.which(arguments[0]):
    return None
  result = subprocess.run(
      arguments, capture_output=True, text=True, check=False, **kwargs
  )
  return result.stdout.strip() or None if result.returncode == 0 else None


def _driver() -> str | None:
  """The version of the GPU driver, where nvidia-smi tells it."""
  text = _output(
      ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
  )
  return text.splitlines()[0] if text else None


def commit() -> str | None:
  """The commit of the source tree, if it is one."""
  root = command.CONFIGS.parent
  if not (root / '.git').exists():
    return None
  return _output(['git', 'describe', '--always', '--dirty'], cwd=root)
