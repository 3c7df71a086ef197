"""How Numba compiles the coders; without it, they run as plain Python.

  compiled  may be called from Python, and is kept in Numba's cache
  inner     is called by compiled code only: calling it from Python would crash
  inlined   is put into its callers, and is compiled anew by every process that
            calls it from Python: call `plain` of it there

Functions are unwrapped first, because jaxtyping's import hook, which tests use,
comes before these decorators.
"""

from collections.abc import Callable
import inspect

try:
  import numba

  from pallas_kernels import jit
except ImportError:  # Correct but slow.

  def compiled(function: Callable) -> Callable:
    """The function itself."""
    return function

  inner = inlined = compiled
else:
  _compile = jit.njit(nogil=True)
  # Neither wrappers nor a cache entry, which halves the time to compile.
  _compile_inner = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
  _inline = numba.njit(forceinline=True, nogil=True)

  def compiled(function: Callable) -> Callable:
    """Compiles a function that Python calls."""
    return _compile(inspect.unwrap(function))

  def inner(function: Callable) -> Callable:
    """Compiles a function that only compiled code calls."""
    return _compile_inner(inspect.unwrap(function))

  def inlined(function: Callable) -> Callable:
    """Compiles a function into its callers."""
    return _inline(inspect.unwrap(function))


def plain(function: Callable) -> Callable:
  """The function as Python, for calls from Python.

  Example:
    >>> @inlined
    ... def twice(x):
    ...   return 2 * x
    >>> plain(twice)(3)
    6
  """
  return getattr(function, 'py_func', function)
