"""How the CPU kernels are compiled, and what their cache goes by.

Only what is called from outside is cached: a `kernel`, which Python calls, and
a `handler`, which XLA calls. Each is compiled whole, with copies of the parts
and units that it is made of, so its rounding does not depend on what else was
compiled or cached before.

Numba's cache goes by the file, the code and the closure of a function, and so
does not notice changes in other files: every cached function has `SOURCES` in
its closure.
"""

from collections.abc import Callable
import functools
import hashlib
import os
import pathlib
from typing import Any

import numba

_OPTIONS = {
    # No 'nnan' and 'ninf': a splat with NaN or infinite parameters must not be
    # undefined behaviour. 'arcp' stays out so that 1 / x is exact.
    'fastmath': {'nsz', 'contract', 'reassoc', 'afn'},
    'error_model': 'numpy',
}


def _cached(
    compiler: Callable[..., Callable], *args: Any, **options: Any
) -> Callable[[Callable], Any]:
  """A decorator of Numba with its cache, if that has a place."""

  def decorate(function):
    if numba.config.CACHE_DIR != os.devnull:
      try:
        return compiler(*args, cache=True, **options)(function)
      except RuntimeError:  # Numba found no folder that it may write.
        pass
    return compiler(*args, **options)(function)

  return decorate


def njit(**options: Any) -> Callable[[Callable], Any]:
  """`numba.njit` with its cache, if that has a place.

  Numba itself fails where no folder can be written. NUMBA_CACHE_DIR=/dev/null
  has nothing cached.

  Args:
    **options: of `numba.njit`.

  Returns:
    A decorator.

  Example:
    >>> @njit(nogil=True)
    ... def twice(x):
    ...   return 2 * x
    >>> twice(3)
    6
  """
  return _cached(numba.njit, **options)


# Put into its callers as it is, which is the quickest way to compile what is
# short or called once.
part = functools.partial(numba.njit, inline='always', **_OPTIONS)
# Types and code are found once a process, for all kernels; LLVM puts it into
# its callers. Python must not call it: it has no wrapper for that.
unit = functools.partial(
    numba.njit,
    forceinline=True,
    no_cpython_wrapper=True,
    no_cfunc_wrapper=True,
    **_OPTIONS,
)
kernel = functools.partial(njit, nogil=True, **_OPTIONS)
handler = functools.partial(
    _cached, numba.cfunc, numba.types.intp(numba.types.intp), **_OPTIONS
)

# What a kernel is compiled from.
_MODULES = (
    'constants',
    'cpu_handlers',
    'cpu_kernels',
    'jit',
    'tile_lists',
    'vectors',
)


def _hash_sources() -> str:
  digest = hashlib.sha256()
  for module in _MODULES:
    path = pathlib.Path(__file__).with_name(f'{module}.py')
    digest.update(path.read_bytes())
  return digest.hexdigest()


SOURCES = _hash_sources()
