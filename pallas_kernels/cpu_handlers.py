"""The CPU kernels as handlers that XLA calls through its typed FFI.

A handler reads an `XLA_FFI_CallFrame` (the C API that jaxlib ships in
`jaxlib/include/xla/ffi/api/c_api.h`), checks every buffer and calls a kernel.
It holds no GIL, so the devices of a `pmap` run theirs side by side. A handler
is made for one number of channels, and compiled when it is first asked for.
"""

from collections.abc import Callable
import functools

import llvmlite.ir as ir
import numba
from numba.extending import intrinsic
import numpy as np

from pallas_kernels import cpu_kernels
from pallas_kernels import jit

# Byte offsets into the structs of c_api.h; the same in API versions 0.3 to 0.5.
_FRAME_EXTENSION, _FRAME_API, _FRAME_ARGS, _FRAME_RETS = 8, 16, 40, 80
_EXTENSION_TYPE, _EXTENSION_METADATA = 8, 24
_METADATA_VERSION_MAJOR = 8 + 16
_LIST_SIZE, _LIST_ITEMS = 16, 32
_BUFFER_DTYPE, _BUFFER_DATA, _BUFFER_RANK, _BUFFER_DIMS = 16, 24, 32, 40
_API_ERROR_CREATE = 48
_ERROR_CREATE_ARGS_SIZE = 28
_INVALID_ARGUMENT, _RESOURCE_EXHAUSTED = 3, 8
_DTYPE_S32, _DTYPE_F32 = 4, 11
_API_MAJOR, _API_MINOR = 0, 3

# A global array is embedded in the compiled code, so it survives caching.
_WRONG_BUFFERS = np.frombuffer(
    b'pallas_kernels cpu handler: wrong number, type or shape of buffers\0',
    np.uint8,
)
_TOO_MANY_PAIRS = np.frombuffer(
    b'pallas_kernels cpu handler: more than 2^31 (tile, splat) pairs\0',
    np.uint8,
)

# Letters of shapes: sizes that a call determines; C is the handler's own.
_SIZES = 'NLHW'


def _table(channels: int, *shapes: str) -> np.ndarray:
  """Buffers of a handler, a row each: data type, rank, and its sizes.

  A size is an index into _SIZES, or -1 minus the number that it must be. All
  are float32 but 'L of integers'.
  """
  rows = []
  for shape in shapes:
    letters = shape.removesuffix('i')
    dtype = _DTYPE_S32 if letters != shape else _DTYPE_F32
    sizes = [
        _SIZES.index(x)
        if x in _SIZES
        else -1 - (channels if x == 'C' else int(x))
        for x in letters
    ]
    rows.append([dtype, len(sizes), *sizes, *[0] * (4 - len(sizes))])
  return np.array(rows)


def _make_pointer_cast(numba_type, llvm_type):
  @intrinsic
  def cast(typingctx, address):
    def codegen(context, builder, signature, args):
      return builder.inttoptr(args[0], llvm_type.as_pointer())

    return numba.types.CPointer(numba_type)(numba.types.intp), codegen

  return cast


_as_f32 = _make_pointer_cast(numba.types.float32, ir.FloatType())
_as_i32 = _make_pointer_cast(numba.types.int32, ir.IntType(32))
_as_i64 = _make_pointer_cast(numba.types.int64, ir.IntType(64))


@intrinsic
def _call(typingctx, function, argument):
  def codegen(context, builder, signature, args):
    word = ir.IntType(64)
    pointer = ir.FunctionType(word, [word]).as_pointer()
    return builder.call(builder.inttoptr(args[0], pointer), [args[1]])

  return numba.types.intp(numba.types.intp, numba.types.intp), codegen


@jit.part
def _word(address):
  return _as_i64(address)[0]


@jit.part
def _f32(address, shape):
  return numba.carray(_as_f32(address), shape)


@jit.part
def _answers_metadata(frame):
  """Answers XLA's query for the API version, made once at registration."""
  extension = _word(frame + _FRAME_EXTENSION)
  if extension == 0 or _as_i32(extension + _EXTENSION_TYPE)[0] != 1:
    return False
  version = _as_i32(
      _word(extension + _EXTENSION_METADATA) + _METADATA_VERSION_MAJOR
  )
  version[0] = _API_MAJOR
  version[1] = _API_MINOR
  return True


@jit.part
def _error(frame, message, code):
  """Makes the XLA_FFI_Error that a handler returns."""
  args = np.empty(4, np.int64)
  args[0] = _ERROR_CREATE_ARGS_SIZE
  args[1] = 0
  args[2] = message.ctypes.data
  args[3] = code
  create = _word(_word(frame + _FRAME_API) + _API_ERROR_CREATE)
  return _call(create, args.ctypes.data)


@jit.part
def _fits(frame, num_args, table, sizes, data):
  """Whether the buffers of a call are those of the table.

  Args:
    frame: of the call.
    num_args: how many of the rows are arguments; the others are results.
    table: of `_table`.
    sizes: written: the numbers of _SIZES.
    data: written: the addresses of the buffers' elements.
  """
  args, rets = frame + _FRAME_ARGS, frame + _FRAME_RETS
  num_rets = table.shape[0] - num_args
  fits = _word(args + _LIST_SIZE) == num_args
  fits = fits and _word(rets + _LIST_SIZE) == num_rets
  sizes[:] = -1
  if fits:
    for i in range(table.shape[0]):
      item = _word(args + _LIST_ITEMS) + 8 * i
      if i >= num_args:
        item = _word(rets + _LIST_ITEMS) + 8 * (i - num_args)
      buffer = _word(item)
      data[i] = _word(buffer + _BUFFER_DATA)
      if (
          _as_i32(buffer + _BUFFER_DTYPE)[0] != table[i, 0]
          or _word(buffer + _BUFFER_RANK) != table[i, 1]
      ):
        fits = False
        break
      for axis in range(table[i, 1]):
        size = _word(_word(buffer + _BUFFER_DIMS) + 8 * axis)
        which = table[i, 2 + axis]
        if which < 0:
          fits = fits and size == -1 - which
        elif sizes[which] == -1:
          sizes[which] = size
        else:
          fits = fits and size == sizes[which]
  return fits


@jit.part
def _are_layer_ends(ends, num_splats):
  """Whether they do not decrease, and the last is the number of splats."""
  last = 0
  valid = ends.shape[0] > 0
  for layer in range(ends.shape[0]):
    valid = valid and ends[layer] >= last
    last = ends[layer]
  return valid and last == num_splats


@jit.unit
def _prepare(frame, num_args, table, sizes, data):
  """Does all that a handler does before its kernel.

  Row 3 of the table is that of the layer ends. `sizes` and `data` are written,
  see `_fits`.

  Returns:
    (ready, answer): the kernel is called, or the handler returns the answer.
  """
  if _answers_metadata(frame):
    return False, 0
  if _fits(frame, num_args, table, sizes, data):
    ends = numba.carray(_as_i32(data[3]), (sizes[1],))
    if _are_layer_ends(ends, sizes[0]):
      return True, 0
  return False, _error(frame, _WRONG_BUFFERS, _INVALID_ARGUMENT)


@jit.part
def _finish(frame, done):
  if done:
    return 0
  return _error(frame, _TOO_MANY_PAIRS, _RESOURCE_EXHAUSTED)


@functools.cache
def make_composite(channels: int, sources: str = jit.SOURCES) -> Callable:
  """(means, cholesky, colors, layer_ends) -> images."""
  table = _table(channels, 'N2', 'N3', 'NC', 'Li', 'LHWC')

  @jit.handler()
  def handler(frame):
    _ = sources
    sizes, data = np.empty(4, np.int64), np.empty(5, np.int64)
    ready, answer = _prepare(frame, 4, table, sizes, data)
    if not ready:
      return answer
    n, layers, height, width = sizes[0], sizes[1], sizes[2], sizes[3]
    done = cpu_kernels.composite_tiles(
        _f32(data[0], (n, 2)),
        _f32(data[1], (n, 3)),
        _f32(data[2], (n, channels)),
        numba.carray(_as_i32(data[3]), (layers,)),
        _f32(data[4], (layers, height, width, channels)),
        channels,
    )
    return _finish(frame, done)

  return handler


@functools.cache
def make_composite_vjp(channels: int, sources: str = jit.SOURCES) -> Callable:
  """(means, cholesky, colors, layer_ends, cotangents) -> gradients."""
  table = _table(channels, 'N2', 'N3', 'NC', 'Li', 'LHWC', 'N2', 'N3', 'NC')

  @jit.handler()
  def handler(frame):
    _ = sources
    sizes, data = np.empty(4, np.int64), np.empty(8, np.int64)
    ready, answer = _prepare(frame, 5, table, sizes, data)
    if not ready:
      return answer
    n, layers, height, width = sizes[0], sizes[1], sizes[2], sizes[3]
    done = cpu_kernels.composite_tiles_vjp(
        _f32(data[0], (n, 2)),
        _f32(data[1], (n, 3)),
        _f32(data[2], (n, channels)),
        numba.carray(_as_i32(data[3]), (layers,)),
        _f32(data[4], (layers, height, width, channels)),
        _f32(data[5], (n, 2)),
        _f32(data[6], (n, 3)),
        _f32(data[7], (n, channels)),
        channels,
    )
    return _finish(frame, done)

  return handler


@functools.cache
def make_composite_error(channels: int, sources: str = jit.SOURCES) -> Callable:
  """(splats..., layer_ends, target, weights x 2) -> errors, gradients."""
  table = _table(
      channels,
      *('N2', 'N3', 'NC', 'Li', 'HWC', 'HW', 'L'),
      *('L', 'N2', 'N3', 'NC'),
  )

  @jit.handler()
  def handler(frame):
    _ = sources
    sizes, data = np.empty(4, np.int64), np.empty(11, np.int64)
    ready, answer = _prepare(frame, 7, table, sizes, data)
    if not ready:
      return answer
    n, layers, height, width = sizes[0], sizes[1], sizes[2], sizes[3]
    done = cpu_kernels.composite_tiles_error(
        _f32(data[0], (n, 2)),
        _f32(data[1], (n, 3)),
        _f32(data[2], (n, channels)),
        numba.carray(_as_i32(data[3]), (layers,)),
        _f32(data[4], (height, width, channels)),
        _f32(data[5], (height, width)),
        _f32(data[6], (layers,)),
        _f32(data[7], (layers,)),
        _f32(data[8], (n, 2)),
        _f32(data[9], (n, 3)),
        _f32(data[10], (n, channels)),
        channels,
    )
    return _finish(frame, done)

  return handler
