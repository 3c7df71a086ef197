"""Where compiled code is kept between runs, and --nocache.

XLA and Numba compile for seconds what they can load in milliseconds. Both keep
it in this program's folder of the user's cache; JAX_COMPILATION_CACHE_DIR and
NUMBA_CACHE_DIR, set by the user, name other folders. Numba reads its place when
it is imported, hence nothing imports Numba before the flags are known.
"""

import atexit
import importlib.util
import os
import pathlib
import shutil
import sys
import tempfile

from absl import flags
import platformdirs

KEEP = flags.DEFINE_bool(
    'cache', True, 'keep compiled code between runs, in the user cache folder'
)

_VARIABLES = {'xla': 'JAX_COMPILATION_CACHE_DIR', 'numba': 'NUMBA_CACHE_DIR'}


def folder(compiler: str) -> pathlib.Path:
  """Where the code of 'xla' or of 'numba' is kept."""
  named = os.environ.get(_VARIABLES[compiler])
  if named:
    return pathlib.Path(named)
  return platformdirs.user_cache_path('pgsvc_jax') / compiler


def set_up() -> None:
  """Tells Numba where to keep code; before anything imports it.

  Numba cannot be told to keep nothing (its only other places are beside the
  sources and a folder of its own), so without a cache, or where its folder
  cannot be written, it gets one that is removed at the end of the process.
  """
  path = folder('numba')
  if not KEEP.value or not _is_writable(path):
    path = tempfile.mkdtemp(prefix='pgsvc-')
    atexit.register(shutil.rmtree, path, ignore_errors=True)
  os.environ[_VARIABLES['numba']] = str(path)


def is_empty() -> bool:
  """Whether Numba has everything to compile."""
  return not any(folder('numba').rglob('*.nbi'))


def announce() -> None:
  """Says on a terminal that compilation is ahead, if it is."""
  # Without Numba, nothing is compiled; it must not be imported to find out.
  has_numba = importlib.util.find_spec('numba') is not None
  if sys.stderr.isatty() and has_numba and is_empty():
    later = '; later runs start at once' if KEEP.value else ''
    print(f'compiling, about 10 s{later}', file=sys.stderr)


def _is_writable(path: pathlib.Path) -> bool:
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError:
    return False
  return os.access(path, os.W_OK)
