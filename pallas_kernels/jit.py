"""How the CPU kernels are compiled, and what their cache goes by.

Only what is called from outside is cached: a `kernel`, which Python calls, and
a `handler`, which XLA calls. Each is compiled whole, with copies of the parts
and units that it is made of, so its rounding does not depend on what else was
compiled or cached before.

Numba's cache goes by the file, the code and the closure of a function, and so
does not notice changes in other files: every cached function has `SOURCES` in
its closure.
"""

import functools
import hashlib
import pathlib

import numba

_OPTIONS = {
    # No 'nnan' and 'ninf': a splat with NaN or infinite parameters must not be
    # undefined behaviour. 'arcp' stays out so that 1 / x is exact.
    'fastmath': {'nsz', 'contract', 'reassoc', 'afn'},
    'error_model': 'numpy',
}

# Put into its callers as it is, which is the quickest way to compile what is
# short or called once.
part = functools.partial(numba.njit, inline='always', **_OPTIONS)
# Types and code are found once a process, for all kernels; LLVM puts it into
# its callers.
unit = functools.partial(
    numba.njit,
    forceinline=True,
    no_cpython_wrapper=True,
    no_cfunc_wrapper=True,
    **_OPTIONS,
)
kernel = functools.partial(numba.njit, nogil=True, cache=True, **_OPTIONS)
handler = functools.partial(
    numba.cfunc, numba.types.intp(numba.types.intp), cache=True, **_OPTIONS
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
