"""Vectors of floats for Numba: a tile of pixels as one value.

Numba leaves it to LLVM to find vectors in loops, which keeps the sums of a tile
in memory. Here a tile is a value of the vector type `<64 x float>`, so kernels
are formulas over tiles, and LLVM splits each into as many registers as the CPU
takes: four with AVX-512, eight with AVX2, sixteen with NEON and SSE.

A *tile* has TILE x TILE pixels, row by row, and *planes* are a tile a channel.
A *strip* has as many whole rows as fit a register, at least one: a tile is
TILE / ROWS strips, one below the other. `+`, `-` and `*` take two of a kind,
planes and a tile, or either and a float32; a product with a sum behind it is
one instruction where the CPU has that. Nothing else is reordered, so the same
CPU gives the same bits.

Whoever uses these functions in cached code must have `cpu_kernels.SOURCES` in
the key of the cache: Numba does not notice changes in this file.
"""

import functools
import operator

from llvmlite import binding
import llvmlite.ir as ir
import numba
from numba.core import cgutils
from numba.core import types
from numba.core.typing import signature
from numba.core.typing import templates
from numba.extending import intrinsic
from numba.extending import lower_builtin
from numba.extending import models
from numba.extending import register_model

# 8 x 8 tiles: larger ones evaluate more pixels outside the splats, smaller ones
# keep longer lists; measured best for Kodak pictures (docs/benchmarks.md).
TILE = 8
PIXELS = TILE * TILE


def _has_avx512() -> bool:
  """Whether Numba compiles for a CPU whose registers hold 16 floats."""
  if numba.config.CPU_FEATURES is not None:  # Named by the user.
    return '+avx512f' in numba.config.CPU_FEATURES
  if numba.config.CPU_NAME is not None:
    return False
  return bool(binding.get_host_cpu_features().get('avx512f'))


# Rows of a strip.
ROWS = 2 if _has_avx512() else 1

_LANES = ROWS * TILE
_STRIPS = TILE // ROWS
# Sums that `add_totals` finds at a time, and writes.
GROUP = 8

_FLOAT = ir.FloatType()
_INT = ir.IntType(32)
_FLAGS = ('contract',)


class Vector(types.Type):
  """The Numba type of `lanes` floats."""

  def __init__(self, lanes: int):
    self.lanes = lanes
    super().__init__(name=f'Vector({lanes})')


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):

  def __init__(self, manager, vector):
    super().__init__(manager, vector, ir.VectorType(_FLOAT, vector.lanes))


class Planes(types.Type):
  """The Numba type of a tile a channel."""

  def __init__(self, count: int):
    self.count = count
    super().__init__(name=f'Planes({count})')


@register_model(Planes)
class _PlanesModel(models.PrimitiveModel):

  def __init__(self, manager, planes):
    element = ir.VectorType(_FLOAT, PIXELS)
    super().__init__(manager, planes, ir.ArrayType(element, planes.count))


tile_type = Vector(PIXELS)
strip_type = Vector(_LANES)


# ---- Pieces of LLVM IR -------------------------------------------------------
def _constant(values):
  return ir.Constant(
      ir.VectorType(_FLOAT, len(values)), [float(x) for x in values]
  )


def _shuffle(builder, a, b, lanes):
  """The named lanes of a followed by b."""
  mask = ir.Constant(ir.VectorType(_INT, len(lanes)), list(lanes))
  return builder.shuffle_vector(a, b, mask)


def _part(builder, vector, start, size):
  return _shuffle(builder, vector, vector, range(start, start + size))


def _join(builder, vectors):
  """Vectors of one size behind each other; a power of two of them."""
  while len(vectors) > 1:
    size = vectors[0].type.count
    vectors = [
        _shuffle(builder, a, b, range(2 * size))
        for a, b in zip(vectors[::2], vectors[1::2])
    ]
  return vectors[0]


def _broadcast(builder, x, lanes):
  undefined = ir.Constant(ir.VectorType(_FLOAT, lanes), ir.Undefined)
  first = builder.insert_element(undefined, x, ir.Constant(_INT, 0))
  return _shuffle(builder, first, undefined, [0] * lanes)


def _add(builder, a, b):
  return builder.fadd(a, b, flags=_FLAGS)


def _sub(builder, a, b):
  return builder.fsub(a, b, flags=_FLAGS)


def _mul(builder, a, b):
  return builder.fmul(a, b, flags=_FLAGS)


def _total(builder, vectors):
  return functools.reduce(functools.partial(_add, builder), vectors)


def _sum_lanes(builder, vector):
  """The sum of all lanes, by halves."""
  size = vector.type.count
  while size > 1:
    size //= 2
    vector = _add(
        builder,
        _part(builder, vector, 0, size),
        _part(builder, vector, size, size),
    )
  return builder.extract_element(vector, ir.Constant(_INT, 0))


def _merge(builder, a, b):
  """Sums of neighbours: in each four lanes, two of a, then two of b."""
  size = a.type.count
  even = [
      lane
      for start in range(0, size, 4)
      for lane in (start, start + 2, size + start, size + start + 2)
  ]
  odd = [lane + 1 for lane in even]
  return _add(
      builder, _shuffle(builder, a, b, even), _shuffle(builder, a, b, odd)
  )


def _sum_each(builder, vectors):
  """The sums of the lanes of GROUP strips, as one vector of GROUP lanes."""
  for _ in range(2):
    vectors = [
        _merge(builder, a, b) for a, b in zip(vectors[::2], vectors[1::2])
    ]
  # Now every four lanes have sums of the first, or of the last four vectors.
  halves = []
  for vector in vectors:
    while vector.type.count > GROUP:
      size = vector.type.count // 2
      vector = _add(
          builder,
          _part(builder, vector, 0, size),
          _part(builder, vector, size, size),
      )
    halves.append(vector)
  low, high = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]
  return _add(
      builder, _shuffle(builder, *halves, low), _shuffle(builder, *halves, high)
  )


def _pointer(context, builder, array_type, array, indices, lanes):
  """To `lanes` floats of an array from an element on."""
  array = context.make_array(array_type)(context, builder, array)
  address = cgutils.get_item_pointer(
      context, builder, array_type, array, indices, wraparound=False
  )
  return builder.bitcast(address, ir.VectorType(_FLOAT, lanes).as_pointer())


def _load(builder, pointer):
  return builder.load(pointer, align=4)


def _store(builder, vector, pointer):
  builder.store(vector, pointer, align=4)


# ---- Arithmetic --------------------------------------------------------------
class _Arithmetic(templates.AbstractTemplate):
  """Types `+`, `-` and `*`; the result is the largest of the operands."""

  def generic(self, args, kws):
    planes = [x for x in args if isinstance(x, Planes)]
    vectors = [x for x in args if isinstance(x, Vector)]
    result = (planes or vectors or [None])[0]
    allowed = (result, types.float32, *([tile_type] if planes else []))
    if result is not None and all(x in allowed for x in args):
      return signature(result, *args)
    return None


def _channels(builder, value, kind, result):
  """A list of the vectors of an operand, repeated as the result needs it."""
  count = result.count if isinstance(result, Planes) else 1
  if isinstance(kind, Planes):
    return [builder.extract_value(value, c) for c in range(count)]
  if not isinstance(kind, Vector):
    lanes = PIXELS if isinstance(result, Planes) else result.lanes
    value = _broadcast(builder, value, lanes)
  return [value] * count


def _define(op, function):
  templates.infer_global(op)(_Arithmetic)

  def lower(context, builder, sig, args):
    operands = [
        _channels(builder, x, kind, sig.return_type)
        for x, kind in zip(args, sig.args, strict=True)
    ]
    results = [function(builder, a, b) for a, b in zip(*operands)]
    if isinstance(sig.return_type, Planes):
      return cgutils.pack_array(builder, results)
    return results[0]

  kinds = (Planes, Vector, types.Float)
  for a in kinds:
    for b in kinds:
      if (a, b) != (types.Float, types.Float):
        lower_builtin(op, a, b)(lower)


_define(operator.add, _add)
_define(operator.iadd, _add)
_define(operator.sub, _sub)
_define(operator.mul, _mul)


# ---- Constants ---------------------------------------------------------------
@intrinsic
def zeros(typingctx, count):
  """Planes of zeros; `count`, a literal, says how many."""
  if not isinstance(count, types.IntegerLiteral):
    return None
  planes = Planes(count.literal_value)

  def codegen(context, builder, sig, args):
    return context.get_constant_null(planes)

  return planes(count), codegen


@intrinsic
def columns(typingctx):
  """The strip of the x of pixel centres."""

  def codegen(context, builder, sig, args):
    return _constant([i % TILE + 0.5 for i in range(_LANES)])

  return strip_type(), codegen


# ---- Tiles and strips --------------------------------------------------------
@intrinsic
def repeat(typingctx, strip):
  """The tile whose strips are all the same."""

  def codegen(context, builder, sig, args):
    return _join(builder, [args[0]] * _STRIPS)

  return tile_type(strip_type), codegen


# Of 2^-f on 0 <= f < 1, the highest power first: minimax, relative error below
# 3e-7.
_EXP2 = (
    -0.00093878835,
    0.009188612,
    -0.055279724,
    0.24017219,
    -0.69314224,
    0.99999994,
)


def _exp2_minus(builder, t, limit):
  """2^-t of some lanes, see `exp2_minus`."""
  size = t.type.count
  integers = ir.VectorType(_INT, size)
  # Undefined for large t and NaN, where it is not chosen.
  whole = builder.fptosi(t, integers)
  f = builder.fsub(t, builder.sitofp(whole, t.type))
  p = _constant([_EXP2[0]] * size)
  for coefficient in _EXP2[1:]:
    p = _add(builder, _mul(builder, p, f), _constant([coefficient] * size))
  # Divided by 2^whole on the exponent bits: nothing denormal, in or out.
  shift = builder.shl(whole, ir.Constant(integers, [23] * size))
  bits = builder.sub(builder.bitcast(p, integers), shift)
  near = builder.fcmp_ordered('<=', t, _broadcast(builder, limit, size))
  zero = ir.Constant(t.type, None)
  return builder.select(near, builder.bitcast(bits, t.type), zero)


@intrinsic
def exp2_minus(typingctx, t, limit):
  """2^-t where 0 <= t <= limit <= 126, and 0 where t is larger or NaN."""

  def codegen(context, builder, sig, args):
    # Four strips at a time, which is what fits the registers.
    size = 4 * _LANES
    results = [
        _exp2_minus(builder, _part(builder, args[0], start, size), args[1])
        for start in range(0, PIXELS, size)
    ]
    return _join(builder, results)

  return tile_type(tile_type, types.float32), codegen


@intrinsic
def sum_channels(typingctx, planes):
  """The tile of the sums over all channels."""

  def codegen(context, builder, sig, args):
    tiles = _channels(builder, args[0], planes, planes)
    return _total(builder, tiles)

  return tile_type(planes), codegen


@intrinsic
def sum_pixels(typingctx, tile):
  """The float32 sum of all pixels."""

  def codegen(context, builder, sig, args):
    return _sum_lanes(builder, args[0])

  return types.float32(tile_type), codegen


def _strips(builder, tile):
  return [_part(builder, tile, k * _LANES, _LANES) for k in range(_STRIPS)]


@intrinsic
def sum_strips(typingctx, tile):
  """The strip of the sums over all strips."""

  def codegen(context, builder, sig, args):
    strips = _strips(builder, args[0])
    return _total(builder, strips)

  return strip_type(tile_type), codegen


@intrinsic
def sum_channel_strips(typingctx, planes):
  """A tuple of the sum of the strips of each channel."""

  def codegen(context, builder, sig, args):
    sums = []
    for tile in _channels(builder, args[0], planes, planes):
      strips = _strips(builder, tile)
      sums.append(_total(builder, strips))
    return cgutils.pack_array(builder, sums)

  return types.UniTuple(strip_type, planes.count)(planes), codegen


# ---- Memory ------------------------------------------------------------------
@intrinsic
def load_row(typingctx, array, n, first, count):
  """Planes that are constant: `count` elements of row n, from `first` on."""
  if not isinstance(count, types.IntegerLiteral):
    return None
  planes = Planes(count.literal_value)

  def codegen(context, builder, sig, args):
    tiles = []
    for c in range(planes.count):
      column = builder.add(args[2], ir.Constant(args[2].type, c))
      pointer = _pointer(context, builder, array, args[0], (args[1], column), 1)
      x = builder.extract_element(_load(builder, pointer), ir.Constant(_INT, 0))
      tiles.append(_broadcast(builder, x, PIXELS))
    return cgutils.pack_array(builder, tiles)

  return planes(array, types.intp, types.intp, count), codegen


@intrinsic
def load_tile(typingctx, array, n):
  """The tile in row n of [_, PIXELS]."""

  def codegen(context, builder, sig, args):
    zero = context.get_constant(types.intp, 0)
    indices = (args[1], zero)
    return _load(
        builder, _pointer(context, builder, array, args[0], indices, PIXELS)
    )

  return tile_type(array, types.intp), codegen


@intrinsic
def store_tile(typingctx, array, n, tile):
  """Writes the tile to row n of [_, PIXELS]."""

  def codegen(context, builder, sig, args):
    zero = context.get_constant(types.intp, 0)
    indices = (args[1], zero)
    pointer = _pointer(context, builder, array, args[0], indices, PIXELS)
    _store(builder, args[2], pointer)
    return context.get_dummy_value()

  return types.void(array, types.intp, tile_type), codegen


@intrinsic
def load_planes(typingctx, array, n, count):
  """Planes from row n of [_, count, PIXELS]; the count is a literal."""
  if not isinstance(count, types.IntegerLiteral):
    return None
  planes = Planes(count.literal_value)

  def codegen(context, builder, sig, args):
    zero = context.get_constant(types.intp, 0)
    tiles = []
    for c in range(planes.count):
      indices = (args[1], context.get_constant(types.intp, c), zero)
      tiles.append(
          _load(
              builder,
              _pointer(context, builder, array, args[0], indices, PIXELS),
          )
      )
    return cgutils.pack_array(builder, tiles)

  return planes(array, types.intp, count), codegen


@intrinsic
def store_planes(typingctx, array, n, planes):
  """Writes planes to row n of [_, channels, PIXELS]."""

  def codegen(context, builder, sig, args):
    zero = context.get_constant(types.intp, 0)
    for c, tile in enumerate(_channels(builder, args[2], planes, planes)):
      indices = (args[1], context.get_constant(types.intp, c), zero)
      _store(
          builder,
          tile,
          _pointer(context, builder, array, args[0], indices, PIXELS),
      )
    return context.get_dummy_value()

  return types.void(array, types.intp, planes), codegen


def _row_pointers(context, builder, array_type, array, corner, lanes):
  """To `lanes` floats of each row of a tile of [..., H, W, C].

  The last numbers of `corner`, a tuple, are the top row and the left column.
  """
  *leading, top, left = cgutils.unpack_tuple(builder, corner)
  zero = context.get_constant(types.intp, 0)
  pointers = []
  for row in range(TILE):
    y = builder.add(top, context.get_constant(types.intp, row))
    indices = (*leading, y, left, zero)
    pointers.append(
        _pointer(context, builder, array_type, array, indices, lanes)
    )
  return pointers


@intrinsic
def load_pixels(typingctx, image, corner, count):
  """Planes of the tile with a corner (..., y, x) inside [..., H, W, count]."""
  if not isinstance(count, types.IntegerLiteral):
    return None
  channels = count.literal_value

  def codegen(context, builder, sig, args):
    lanes = channels * TILE
    pixels = [
        _load(builder, pointer)
        for pointer in _row_pointers(context, builder, image, *args[:2], lanes)
    ]
    tiles = []
    for c in range(channels):
      own = range(c, lanes, channels)
      tiles.append(
          _join(builder, [_shuffle(builder, p, p, own) for p in pixels])
      )
    return cgutils.pack_array(builder, tiles)

  return Planes(channels)(image, corner, count), codegen


@intrinsic
def store_pixels(typingctx, image, corner, planes):
  """Writes planes to the tile with that corner inside [..., H, W, channels]."""

  def codegen(context, builder, sig, args):
    tiles = _channels(builder, args[2], planes, planes)
    lanes = len(tiles) * TILE
    pointers = _row_pointers(context, builder, image, *args[:2], lanes)
    # `_join` takes a power of two.
    padding = tiles[:1] if len(tiles) == 3 else []
    for row, pointer in enumerate(pointers):
      rows = [_part(builder, x, row * TILE, TILE) for x in tiles + padding]
      planar = _join(builder, rows)
      order = [TILE * c + x for x in range(TILE) for c in range(len(tiles))]
      _store(builder, _shuffle(builder, planar, planar, order), pointer)
    return context.get_dummy_value()

  return types.void(image, corner, planes), codegen


@intrinsic
def prefetch_pixels(typingctx, image, corner, count):
  """Has the memory that `store_pixels` will write brought into the cache."""
  if not isinstance(count, types.IntegerLiteral):
    return None
  lanes = count.literal_value * TILE

  def codegen(context, builder, sig, args):
    byte = ir.IntType(8).as_pointer()
    function = builder.module.declare_intrinsic(
        'llvm.prefetch',
        [byte],
        ir.FunctionType(ir.VoidType(), [byte, *3 * [_INT]]),
    )
    # For writing, to the nearest cache, of data.
    how = [ir.Constant(_INT, x) for x in (1, 3, 1)]
    for pointer in _row_pointers(context, builder, image, *args[:2], lanes):
      row = builder.bitcast(pointer, byte)
      for start in range(0, 4 * lanes, 64):
        address = builder.gep(row, [ir.Constant(_INT, start)])
        builder.call(function, [address, *how])
    return context.get_dummy_value()

  return types.void(image, corner, count), codegen


@intrinsic
def add_totals(typingctx, array, n, strips):
  """array[n, i] += the sum of the lanes of strips[i].

  Rows of the array are whole groups: it has columns for GROUP strips, or for
  2 GROUP where there are more strips, and so on.
  """

  def codegen(context, builder, sig, args):
    vectors = cgutils.unpack_tuple(builder, args[2])
    for start in range(0, len(vectors), GROUP):
      group = vectors[start : start + GROUP]
      zero = ir.Constant(group[0].type, None)
      if len(group) == 1:
        sums = _broadcast(builder, _sum_lanes(builder, group[0]), GROUP)
      else:
        sums = _sum_each(builder, group + [zero] * (GROUP - len(group)))
      indices = (args[1], context.get_constant(types.intp, start))
      pointer = _pointer(context, builder, array, args[0], indices, GROUP)
      _store(builder, _add(builder, _load(builder, pointer), sums), pointer)
    return context.get_dummy_value()

  return types.void(array, types.intp, strips), codegen
