"""The machine's processor, for figures that depend on it; needs no JAX."""

import os
import pathlib
import platform


def num_cores() -> int:
  """Cores this process may use."""
  return (
      len(os.sched_getaffinity(0))
      if hasattr(os, 'sched_getaffinity')
      else (os.cpu_count() or 1)
  )


def processor() -> str:
  """The processor's name where Linux tells it, else its architecture."""
  path = pathlib.Path('/proc/cpuinfo')
  lines = path.read_text().splitlines() if path.exists() else []
  names = [x.partition(':')[2].strip() for x in lines if 'model name' in x]
  return names[0] if names else platform.processor() or platform.machine()
