"""Where compiled code is kept between runs, and --nocache.

XLA and Numba compile for seconds what they can load in milliseconds. Both keep
it in this program's folder of the user's cache; JAX_COMPILATION_CACHE_DIR and
NUMBA_CACHE_DIR, set by the user, name other folders. Numba reads its place when
it is imported, hence nothing imports Numba before the flags are known.

Without a place to keep it, code is compiled again: that stops no command.
"""

import atexit
from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil
import sys
import tempfile
import time

from absl import flags
import numpy as np
import platformdirs

KEEP = flags.DEFINE_bool(
    'cache', True, 'keep compiled code between runs, in the user cache folder'
)

_VARIABLES = {'xla': 'JAX_COMPILATION_CACHE_DIR', 'numba': 'NUMBA_CACHE_DIR'}

# Compiled code is smaller; Numba fails where it cannot write all of it.
_FREE_BYTES = 2**25


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
  cannot be written, it gets one that is removed at the end of the process. Has
  that no place either, it is the null device, which is what `jit.njit` takes
  for no cache.
  """
  path = folder('numba')
  if path == pathlib.Path(os.devnull):  # The process that started this one.
    return
  if not KEEP.value or not _is_usable(path):
    if KEEP.value:
      print(
          f'compiled code is not kept: {path} cannot be written',
          file=sys.stderr,
      )
    path = _temporary_folder()
  os.environ[_VARIABLES['numba']] = str(path)


def prepare(channels: int = 3, fits: bool = False, mixes: bool = False) -> None:
  """Has kernels compiled, or loaded, so that no other time contains it.

  Args:
    channels: of the pictures.
    fits: compile what a fit on CPU needs before its first step; else what
      decodes and renders.
    mixes: compile what reads version 6, too.
  """
  with compiling():
    if fits:
      from pallas_kernels import cpu

      cpu.prepare(channels)
    else:
      from pgsvc_jax import render
      from pgsvc_jax.codec import range_coder

      nothing = np.zeros(0, np.int64)
      range_coder.Decoder(b'').column(nothing)
      range_coder.Decoder(b'').bits(nothing)
      render.prepare(channels)
      if mixes:
        _read_one_splat(channels)


def _read_one_splat(channels: int) -> None:
  """Runs the coder of version 6, which reads and writes by the same code."""
  from pgsvc_jax import types
  from pgsvc_jax.codec import bitstream
  from pgsvc_jax.codec import quantize

  splats = types.Splats(
      means=np.ones((1, 2), np.float32),
      cholesky=np.float32([[1, 0, 1]]),
      colors=np.ones((1, channels), np.float32),
  )
  layered = types.LayeredSplats(
      splats=splats, layer_sizes=(1,), height=2, width=2
  )
  bitstream.write(layered, quantize.StepSizes())


@contextlib.contextmanager
def compiling() -> Iterator[None]:
  """Says on standard error if the block compiles, and for how long it does."""
  try:
    from numba.core import event
  except ImportError:  # Nothing is compiled.
    yield
    return
  begin = time.perf_counter()
  message = 'compiling kernels' + (', once' if KEEP.value else '')
  is_terminal = sys.stderr.isatty()

  class Listener(event.Listener):
    """Notes the first function that is not found in the cache."""

    compiles = False

    def on_start(self, event):
      if not self.compiles and is_terminal:
        print(f'{message} ...', end='', file=sys.stderr, flush=True)
      self.compiles = True

    def on_end(self, event):
      pass

  listener = Listener()
  with event.install_listener('numba:compile', listener):
    yield
  if listener.compiles:
    seconds = time.perf_counter() - begin
    start = '\r' if is_terminal else ''
    print(f'{start}{message}: {seconds:.0f} s', file=sys.stderr)


def is_empty() -> bool:
  """Whether Numba has everything to compile."""
  return not any(folder('numba').rglob('*.nbi'))


def _is_usable(path: pathlib.Path) -> bool:
  """Whether a folder is there, or can be made, and takes compiled code."""
  if not path.is_absolute():  # Of a user without a home.
    return False
  try:
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
      pass
    return shutil.disk_usage(path).free >= _FREE_BYTES
  except OSError:
    return False


def _temporary_folder() -> pathlib.Path:
  """A folder until the process ends, or the null device."""
  try:
    path = pathlib.Path(tempfile.mkdtemp(prefix='pgsvc-'))
  except OSError:
    return pathlib.Path(os.devnull)
  atexit.register(shutil.rmtree, path, ignore_errors=True)
  return path if _is_usable(path) else pathlib.Path(os.devnull)
