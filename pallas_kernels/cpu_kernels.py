"""Splat compositing on CPU: Numba kernels and their XLA FFI handlers.

The picture is cut into tiles. Every tile has the list of the splats that touch
it, in layer order, so the running sum after the last splat of layer k is the
tile of prefix image R_k. Per-pixel values are planar ([channels, pixels of the
tile]) so that LLVM turns the loops over pixels into vector code. All arrays are
C-contiguous.

In these kernels `weight` is exp(-s), s = |z|^2 / 2, z = L^-1 (p - mean).
With z scaled by sqrt(log2(e) / 2), weight = 2^-(z1^2 + z2^2).

The handlers at the end read an `XLA_FFI_CallFrame` (the C API that jaxlib ships
in `jaxlib/include/xla/ffi/api/c_api.h`), check every buffer and call a kernel.
They hold no GIL, so the devices of a `pmap` run them side by side.

Everything that is compiled stands in this one file: Numba's on-disk cache does
not notice changes in functions imported from another file.
"""

import functools
import math

import llvmlite.ir as ir
import numba
from numba.extending import intrinsic
import numpy as np

from pallas_kernels import constants

F32 = np.float32
I32 = np.int32

# 8 x 8 tiles: larger ones evaluate more pixels outside the splats, smaller ones
# keep longer lists; measured best for Kodak pictures (docs/benchmarks.md).
TILE = 8
PIXELS = TILE * TILE

# (Tile, splat) pairs that are listed at most: 8 GiB. A failed allocation in
# native code could not be told from success.
MAX_PAIRS = 2**31

_COLUMN = np.array([i % TILE + 0.5 for i in range(PIXELS)], F32)
_ROW = np.array([i // TILE + 0.5 for i in range(PIXELS)], F32)

_Z_SCALE = F32(math.sqrt(0.5 * math.log2(math.e)))
_EXPONENT_MAX = F32(constants.S_MAX * math.log2(math.e))
_K = F32(constants.CUTOFF_SIGMAS)
# Tile lists may hold a splat too many but never one too few: the span of a
# splat is widened by more than float32 rounding, relative and in pixels.
_SLACK_RELATIVE = F32(1 + 1e-5)
_SLACK_PIXELS = F32(0.01)

_njit = functools.partial(
    numba.njit,
    cache=True,
    nogil=True,
    # Else every compiled function brings copies of those that it calls, each
    # optimized by itself, and which copy is called depends on what was loaded
    # before: the process that compiles would round otherwise than the next one,
    # which finds the handlers in the cache.
    forceinline=True,
    # No 'nnan' and 'ninf': a splat with NaN or infinite parameters must not be
    # undefined behaviour. 'arcp' stays out so that 1 / x is exact.
    fastmath={'nsz', 'contract', 'reassoc', 'afn'},
    error_model='numpy',
)


@intrinsic
def _halve(typingctx, x, times):
  """Divides x by 2^times on its exponent bits: nothing denormal, in or out."""

  def codegen(context, builder, signature, args):
    bits = builder.bitcast(args[0], ir.IntType(32))
    shift = builder.shl(args[1], ir.Constant(ir.IntType(32), 23))
    return builder.bitcast(builder.sub(bits, shift), ir.FloatType())

  return numba.types.float32(numba.types.float32, numba.types.int32), codegen


@_njit(inline='always')
def _exp2_minus(t):
  """2^-t for 0 <= t <= 126; degree-5 minimax, relative error below 3e-7."""
  whole = I32(t)
  f = t - F32(whole)
  p = F32(0.009188612) - f * F32(0.00093878835)
  p = F32(0.24017219) + f * (F32(-0.055279724) + f * p)
  p = F32(0.99999994) + f * (F32(-0.69314224) + f * p)
  return _halve(p, whole)


@_njit
def _tiles(low, high, size):
  """First and last tile with pixel centres in low..high (last < first: none).

  Compared and clipped as floats, in a form that is false for NaN: the int of a
  huge float or of NaN is undefined. Above 2^24 a float32 rounds size - 1 up,
  hence the clip of the ints.
  """
  first = np.ceil(low - _SLACK_PIXELS - F32(0.5))
  last = np.floor(high + _SLACK_PIXELS - F32(0.5))
  end = F32(size - 1)
  if not (first <= last and first <= end and last >= F32(0)):
    return 0, -1
  first_pixel = min(int(max(first, F32(0))), size - 1)
  last_pixel = min(int(min(last, end)), size - 1)
  return first_pixel // TILE, last_pixel // TILE


@_njit
def _tile_span(row, mean_x, mean_y, l11, l21, l22, width):
  """First and last tile column that the splat touches in a row of tiles.

  Within rows va..vb (relative to the mean) the ellipse of the cut-off is widest
  to the right at v = k l21 or at the nearest bound, since its edge is concave
  there; to the left at v = -k l21.

  Returns:
    (first, last) tile column, last < first where the splat does not touch.
  """
  k = _K * _SLACK_RELATIVE
  sigma_y = math.sqrt(l21 * l21 + l22 * l22)
  extent = k * sigma_y
  low = max(F32(row * TILE) + F32(0.5) - mean_y - _SLACK_PIXELS, -extent)
  high = min(F32(row * TILE + TILE) - F32(0.5) - mean_y + _SLACK_PIXELS, extent)
  if not low <= high:
    return 0, -1
  inverse = F32(1) / sigma_y
  slope = (l11 * inverse) * (l21 * inverse)
  half = k * l11 * (l22 * inverse)
  v = min(max(k * l21, low), high)
  u = v / extent
  right = slope * v + half * math.sqrt(max(F32(1) - u * u, F32(0)))
  v = min(max(-k * l21, low), high)
  u = v / extent
  left = slope * v - half * math.sqrt(max(F32(1) - u * u, F32(0)))
  return _tiles(mean_x + left, mean_x + right, width)


@_njit
def _tile_rows(mean_y, l21, l22, height):
  """First and last row of tiles that the splat touches (last < first: none)."""
  extent = _K * _SLACK_RELATIVE * math.sqrt(l21 * l21 + l22 * l22)
  return _tiles(mean_y - extent, mean_y + extent, height)


@_njit
def _bin_splats(means, cholesky, height, width):
  """Lists the splats of every tile, in the order of the splats.

  Returns:
    (starts, ids, fits): tile t (row-major) holds ids[starts[t]:starts[t + 1]];
    `fits` is False, and nothing listed, above MAX_PAIRS.
  """
  num_tiles_x = (width + TILE - 1) // TILE
  num_tiles_y = (height + TILE - 1) // TILE
  num_tiles = num_tiles_x * num_tiles_y
  num_splats = means.shape[0]

  rows = np.empty((num_splats, 2), I32)
  num_spans = 0
  for n in range(num_splats):
    l21, l22 = cholesky[n, 1], cholesky[n, 2]
    rows[n] = _tile_rows(means[n, 1], l21, l22, height)
    num_spans += max(rows[n, 1] - rows[n, 0] + 1, 0)
  spans = np.empty((num_spans, 2), np.int64)

  # How much longer the list of a tile is than that of the tile before.
  steps = np.zeros(num_tiles + 1, np.int64)
  i = 0
  for n in range(num_splats):
    x, y = means[n, 0], means[n, 1]
    l11, l21, l22 = cholesky[n, 0], cholesky[n, 1], cholesky[n, 2]
    for row in range(rows[n, 0], rows[n, 1] + 1):
      first, last = _tile_span(row, x, y, l11, l21, l22, width)
      spans[i, 0] = row * num_tiles_x + first
      spans[i, 1] = row * num_tiles_x + last
      steps[spans[i, 0]] += 1
      steps[spans[i, 1] + 1] -= 1
      i += 1

  starts = np.zeros(num_tiles + 1, np.int64)
  length = 0
  for tile in range(num_tiles):
    length += steps[tile]
    starts[tile + 1] = starts[tile] + length
  if starts[-1] > MAX_PAIRS:
    return starts, np.empty(0, I32), False
  ids = np.empty(starts[-1], I32)
  cursor = starts[:-1].copy()
  i = 0
  for n in range(num_splats):
    for _ in range(rows[n, 0], rows[n, 1] + 1):
      for tile in range(spans[i, 0], spans[i, 1] + 1):
        ids[cursor[tile]] = n
        cursor[tile] += 1
      i += 1
  return starts, ids, True


@_njit
def _invert(cholesky):
  """_Z_SCALE times the lower triangle of L^-1, [N, 3]."""
  inverse = np.empty(cholesky.shape, F32)
  for n in range(cholesky.shape[0]):
    inverse[n, 0] = _Z_SCALE / cholesky[n, 0]
    inverse[n, 2] = _Z_SCALE / cholesky[n, 2]
    inverse[n, 1] = -(cholesky[n, 1] / cholesky[n, 0]) * inverse[n, 2]
  return inverse


@_njit(inline='always')
def _weigh(n, means, inverse, left, top, weight):
  """Weights of splat n at the pixels of the tile with corner (left, top)."""
  # Relative to the tile first: keeps sub-pixel accuracy far from the origin.
  x = means[n, 0] - F32(left)
  y = means[n, 1] - F32(top)
  m11, m21, m22 = inverse[n, 0], inverse[n, 1], inverse[n, 2]
  for i in range(PIXELS):
    dx = _COLUMN[i] - x
    z1 = m11 * dx
    z2 = m21 * dx + m22 * (_ROW[i] - y)
    t = z1 * z1 + z2 * z2
    # Undefined at a far pixel, where it is not chosen.
    w = _exp2_minus(t)
    weight[i] = w if t <= _EXPONENT_MAX else F32(0)


@_njit(inline='always')
def _accumulate(n, colors, weight, sums):
  for c in range(colors.shape[1]):
    color = colors[n, c]
    for i in range(PIXELS):
      sums[c, i] += color * weight[i]


@_njit(inline='always')
def _add_moments(
    n, means, inverse, colors, left, top, weight, cotangent, scratch, moments
):
  """Adds one (tile, splat) pair to the moments of the splat.

  With h = -dloss/ds at each pixel these are v = sum h z (v1, v2) and
  V = sum h z z^T (v11, v12, v22), z scaled as in `weight`, then dloss/dcolor.
  Moments of z, not of p - mean: those cancel for elongated splats.
  """
  for i in range(PIXELS):
    scratch[i] = F32(0)
  for c in range(colors.shape[1]):
    color = colors[n, c]
    total = F32(0)
    for i in range(PIXELS):
      total += weight[i] * cotangent[c, i]
      scratch[i] += color * cotangent[c, i]
    moments[n, 5 + c] += total

  x = means[n, 0] - F32(left)
  y = means[n, 1] - F32(top)
  m11, m21, m22 = inverse[n, 0], inverse[n, 1], inverse[n, 2]
  v1 = F32(0)
  v2 = F32(0)
  v11 = F32(0)
  v12 = F32(0)
  v22 = F32(0)
  # Columns outside, so that z1 is multiplied once a column: LLVM turns the
  # columns into lanes and unrolls the rows.
  for column in range(TILE):
    dx = F32(column) + F32(0.5) - x
    z1 = m11 * dx
    h_sum = F32(0)
    h_z2_sum = F32(0)
    for row in range(TILE):
      i = row * TILE + column
      z2 = m21 * dx + m22 * (F32(row) + F32(0.5) - y)
      h = weight[i] * scratch[i]
      h_sum += h
      h_z2_sum += h * z2
      v22 += h * z2 * z2
    v1 += h_sum * z1
    v2 += h_z2_sum
    v11 += h_sum * z1 * z1
    v12 += h_z2_sum * z1
  moments[n, 0] += v1
  moments[n, 1] += v2
  moments[n, 2] += v11
  moments[n, 3] += v12
  moments[n, 4] += v22


@_njit
def _gradients(inverse, moments, grad_means, grad_cholesky, grad_colors):
  """Writes the gradients of the splats from their moments.

  dloss/dmean = L^-T v, and dloss/dL = the lower triangle of L^-T V.
  """
  # L^-1 and z are both scaled.
  mean_scale = F32(1) / (_Z_SCALE * _Z_SCALE)
  scale = mean_scale / _Z_SCALE
  for n in range(inverse.shape[0]):
    if not moments[n].any():  # A splat in no tile may have any parameters.
      grad_means[n] = F32(0)
      grad_cholesky[n] = F32(0)
      grad_colors[n] = F32(0)
      continue
    m11, m21, m22 = inverse[n, 0], inverse[n, 1], inverse[n, 2]
    v1, v2 = moments[n, 0], moments[n, 1]
    v11, v12, v22 = moments[n, 2], moments[n, 3], moments[n, 4]
    grad_means[n, 0] = mean_scale * (m11 * v1 + m21 * v2)
    grad_means[n, 1] = mean_scale * (m22 * v2)
    grad_cholesky[n, 0] = scale * (m11 * v11 + m21 * v12)
    grad_cholesky[n, 1] = scale * (m22 * v12)
    grad_cholesky[n, 2] = scale * (m22 * v22)
    grad_colors[n] = moments[n, 5:]


@_njit(inline='always')
def _add(tile, total):
  for c in range(tile.shape[0]):
    for i in range(PIXELS):
      total[c, i] += tile[c, i]


# ---- Tiles of interleaved images --------------------------------------------
# Whole tiles of one or three channels move as vectors with explicit shuffles.
# Of plain loops LLVM makes 192 scalar moves a tile, since it cannot know that
# tile and image do not overlap; that was a fifth of three prefix images.
def _shuffle(builder, a, b, lanes):
  mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
  return builder.shuffle_vector(a, b, mask)


def _row_pointers(builder, planes, pixels, channels):
  """Pointers to a row of each plane and to the row of TILE pixels."""
  row = ir.VectorType(ir.FloatType(), TILE).as_pointer()
  rows = [
      builder.inttoptr(
          builder.add(planes, ir.Constant(planes.type, 4 * PIXELS * c)), row
      )
      for c in range(channels)
  ]
  wide = ir.VectorType(ir.FloatType(), channels * TILE).as_pointer()
  return rows, builder.inttoptr(pixels, wide)


def _make_split_row(channels):
  """An intrinsic that copies TILE pixels to planes that are PIXELS apart."""

  @intrinsic
  def split_row(typingctx, planes, pixels):
    def codegen(context, builder, signature, args):
      rows, pixels = _row_pointers(builder, *args, channels)
      value = builder.load(pixels, align=4)
      for c, row in enumerate(rows):
        lanes = list(range(c, channels * TILE, channels))
        builder.store(_shuffle(builder, value, value, lanes), row, align=4)
      return context.get_dummy_value()

    return numba.types.void(numba.types.intp, numba.types.intp), codegen

  return split_row


_split_row_1 = _make_split_row(1)
_split_row_3 = _make_split_row(3)


@intrinsic
def _interleave_row_3(typingctx, planes, pixels):
  """The way back, for three channels."""

  def codegen(context, builder, signature, args):
    rows, pixels = _row_pointers(builder, *args, 3)
    r, g, b = (builder.load(row, align=4) for row in rows)
    rg = _shuffle(builder, r, g, list(range(2 * TILE)))
    bb = _shuffle(builder, b, b, list(range(2 * TILE)))
    lanes = [TILE * c + x for x in range(TILE) for c in range(3)]
    builder.store(_shuffle(builder, rg, bb, lanes), pixels, align=4)
    return context.get_dummy_value()

  return numba.types.void(numba.types.intp, numba.types.intp), codegen


@intrinsic
def _prefetch(typingctx, address):
  """Has the cache line of any address fetched for writing."""

  def codegen(context, builder, signature, args):
    one, three = (ir.Constant(ir.IntType(32), i) for i in (1, 3))
    pointer = ir.IntType(8).as_pointer()
    function = builder.module.declare_intrinsic(
        'llvm.prefetch',
        [pointer],
        ir.FunctionType(ir.VoidType(), [pointer, *3 * [one.type]]),
    )
    # For writing, to the nearest cache, of data.
    address = builder.inttoptr(args[0], pointer)
    builder.call(function, [address, one, three, one])
    return context.get_dummy_value()

  return numba.types.void(numba.types.intp), codegen


@_njit(inline='always')
def _address(image, y, x):
  """The address of a pixel of a contiguous [H, W, C] image."""
  _, width, channels = image.shape
  return image.ctypes.data + 4 * channels * (y * width + x)


@_njit(inline='always')
def _prefetch_tile(image, left, top):
  """Has what `_store` will write fetched while the splats are summed."""
  for y in range(min(TILE, image.shape[0] - top)):
    address = _address(image, top + y, left)
    _prefetch(address)
    _prefetch(address + 64)


@_njit(inline='always')
def _load(image, left, top, tile):
  """Copies a tile of an [H, W, C] image to [C, PIXELS]; 0 outside of it."""
  height, width, channels = image.shape
  inside = top + TILE <= height and left + TILE <= width
  if inside and (channels == 1 or channels == 3):
    for y in range(TILE):
      row = tile.ctypes.data + 4 * TILE * y
      if channels == 1:
        _split_row_1(row, _address(image, top + y, left))
      else:
        _split_row_3(row, _address(image, top + y, left))
    return
  tile[:] = F32(0)
  for y in range(min(TILE, height - top)):
    for x in range(min(TILE, width - left)):
      for c in range(channels):
        tile[c, y * TILE + x] = image[top + y, left + x, c]


@_njit(inline='always')
def _store(tile, left, top, image):
  """Copies [C, PIXELS] to a tile of an [H, W, C] image."""
  height, width, channels = image.shape
  if channels == 3 and top + TILE <= height and left + TILE <= width:
    for y in range(TILE):
      row = tile.ctypes.data + 4 * TILE * y
      _interleave_row_3(row, _address(image, top + y, left))
    return
  for y in range(min(TILE, height - top)):
    for x in range(min(TILE, width - left)):
      for c in range(channels):
        image[top + y, left + x, c] = tile[c, y * TILE + x]


@_njit
def composite(means, cholesky, colors, layer_ends, images):
  """Writes the prefix images [L, H, W, C] of the splats into `images`.

  Returns:
    Whether it was done; no kernel starts on more than MAX_PAIRS pairs.
  """
  num_layers, height, width, channels = images.shape
  starts, ids, fits = _bin_splats(means, cholesky, height, width)
  if not fits:
    return False
  inverse = _invert(cholesky)
  weight = np.empty(PIXELS, F32)
  sums = np.empty((channels, PIXELS), F32)
  num_tiles_x = (width + TILE - 1) // TILE
  for tile in range(starts.shape[0] - 1):
    left = tile % num_tiles_x * TILE
    top = tile // num_tiles_x * TILE
    sums[:] = F32(0)
    for layer in range(num_layers):
      _prefetch_tile(images[layer], left, top)
    i = starts[tile]
    for layer in range(num_layers):
      while i < starts[tile + 1] and ids[i] < layer_ends[layer]:
        _weigh(ids[i], means, inverse, left, top, weight)
        _accumulate(ids[i], colors, weight, sums)
        i += 1
      _store(sums, left, top, images[layer])
  return True


@_njit
def composite_vjp(
    means,
    cholesky,
    colors,
    layer_ends,
    cotangents,
    grad_means,
    grad_cholesky,
    grad_colors,
):
  """Writes the gradients of sum(images * cotangents) ([L, H, W, C]).

  Returns:
    As `composite`.
  """
  num_layers, height, width, channels = cotangents.shape
  starts, ids, fits = _bin_splats(means, cholesky, height, width)
  if not fits:
    return False
  weight = np.empty(PIXELS, F32)
  scratch = np.empty(PIXELS, F32)
  suffix = np.empty((num_layers, channels, PIXELS), F32)
  num_tiles_x = (width + TILE - 1) // TILE
  inverse = _invert(cholesky)
  moments = np.zeros((means.shape[0], 5 + channels), F32)
  for tile in range(starts.shape[0] - 1):
    left = tile % num_tiles_x * TILE
    top = tile // num_tiles_x * TILE
    # A splat of layer j shows in every prefix k >= j: its cotangent is the
    # suffix sum. Pixels outside the picture keep 0.
    for layer in range(num_layers - 1, -1, -1):
      _load(cotangents[layer], left, top, suffix[layer])
      if layer + 1 < num_layers:
        _add(suffix[layer + 1], suffix[layer])
    layer = 0
    for i in range(starts[tile], starts[tile + 1]):
      n = ids[i]
      while n >= layer_ends[layer]:
        layer += 1
      _weigh(n, means, inverse, left, top, weight)
      _add_moments(
          n,
          means,
          inverse,
          colors,
          left,
          top,
          weight,
          suffix[layer],
          scratch,
          moments,
      )
  _gradients(inverse, moments, grad_means, grad_cholesky, grad_colors)
  return True


@_njit
def composite_error(
    means,
    cholesky,
    colors,
    layer_ends,
    target,
    pixel_weights,
    level_weights,
    errors,
    grad_means,
    grad_cholesky,
    grad_colors,
):
  """Squared errors of all prefixes and the gradient of their weighted sum.

  errors[k] = sum_p pixel_weights[p] |R_k[p] - target[p]|^2; the gradients are
  those of sum_k level_weights[k] errors[k]. One pass: within a tile the weights
  of the forward pass are still in cache when the backward pass needs them, and
  no prefix image ever goes to memory.

  Returns:
    As `composite`.
  """
  num_layers = layer_ends.shape[0]
  height, width, channels = target.shape
  # A band of rows may end in rows of weight 0: they cost nothing. One row
  # stays: the tile lists of an empty picture would be out of bounds.
  while height > 1 and not pixel_weights[height - 1].any():
    height -= 1
  starts, ids, fits = _bin_splats(means, cholesky, height, width)
  if not fits:
    return False
  longest = 0
  for tile in range(starts.shape[0] - 1):
    longest = max(longest, starts[tile + 1] - starts[tile])
  weights = np.empty((longest, PIXELS), F32)
  scratch = np.empty(PIXELS, F32)
  sums = np.empty((channels, PIXELS), F32)
  cotangents = np.empty((num_layers, channels, PIXELS), F32)
  goal = np.empty((channels, PIXELS), F32)
  mask = np.empty((1, PIXELS), F32)
  mask_image = pixel_weights.reshape((*pixel_weights.shape, 1))
  totals = np.zeros(num_layers, np.float64)
  num_tiles_x = (width + TILE - 1) // TILE
  inverse = _invert(cholesky)
  moments = np.zeros((means.shape[0], 5 + channels), F32)
  for tile in range(starts.shape[0] - 1):
    left = tile % num_tiles_x * TILE
    top = tile // num_tiles_x * TILE
    _load(target, left, top, goal)
    _load(mask_image, left, top, mask)
    sums[:] = F32(0)
    first = starts[tile]
    i = first
    for layer in range(num_layers):
      while i < starts[tile + 1] and ids[i] < layer_ends[layer]:
        _weigh(ids[i], means, inverse, left, top, weights[i - first])
        _accumulate(ids[i], colors, weights[i - first], sums)
        i += 1
      error = F32(0)
      scale = F32(2) * level_weights[layer]
      for c in range(channels):
        for p in range(PIXELS):
          difference = sums[c, p] - goal[c, p]
          weighted = mask[0, p] * difference
          error += weighted * difference
          cotangents[layer, c, p] = scale * weighted
      totals[layer] += error
    for layer in range(num_layers - 2, -1, -1):
      _add(cotangents[layer + 1], cotangents[layer])

    layer = 0
    for i in range(first, starts[tile + 1]):
      n = ids[i]
      while n >= layer_ends[layer]:
        layer += 1
      _add_moments(
          n,
          means,
          inverse,
          colors,
          left,
          top,
          weights[i - first],
          cotangents[layer],
          scratch,
          moments,
      )
  _gradients(inverse, moments, grad_means, grad_cholesky, grad_colors)
  for layer in range(num_layers):
    errors[layer] = F32(totals[layer])
  return True


# ---- XLA FFI handlers -------------------------------------------------------
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


@_njit
def _word(address):
  return _as_i64(address)[0]


@_njit
def _dim(buffer, axis):
  return _word(_word(buffer + _BUFFER_DIMS) + 8 * axis)


@_njit
def _buffer(buffers, i):
  return _word(_word(buffers + _LIST_ITEMS) + 8 * i)


@_njit
def _is_array(buffer, dtype, rank):
  return (
      _as_i32(buffer + _BUFFER_DTYPE)[0] == dtype
      and _word(buffer + _BUFFER_RANK) == rank
  )


@_njit
def _is_matrix(buffer, rows, columns):
  return (
      _is_array(buffer, _DTYPE_F32, 2)
      and _dim(buffer, 0) == rows
      and _dim(buffer, 1) == columns
  )


@_njit
def _f32(buffer, shape):
  return numba.carray(_as_f32(_word(buffer + _BUFFER_DATA)), shape)


@_njit
def _error(frame, message, code):
  """Makes the XLA_FFI_Error that a handler returns."""
  args = np.zeros(4, np.int64)
  args[0] = _ERROR_CREATE_ARGS_SIZE
  args[2] = message.ctypes.data
  args[3] = code
  create = _word(_word(frame + _FRAME_API) + _API_ERROR_CREATE)
  return _call(create, args.ctypes.data)


@_njit
def _invalid(frame):
  return _error(frame, _WRONG_BUFFERS, _INVALID_ARGUMENT)


@_njit
def _status(frame, done):
  if done:
    return 0
  return _error(frame, _TOO_MANY_PAIRS, _RESOURCE_EXHAUSTED)


@_njit
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


@_njit
def _has_splats(frame, num_args, num_rets):
  """Whether the frame starts with means, cholesky, colors and layer_ends."""
  args = frame + _FRAME_ARGS
  if (
      _word(args + _LIST_SIZE) != num_args
      or _word(frame + _FRAME_RETS + _LIST_SIZE) != num_rets
      or not _is_array(_buffer(args, 0), _DTYPE_F32, 2)
      or not _is_array(_buffer(args, 2), _DTYPE_F32, 2)
  ):
    return False
  num_splats = _dim(_buffer(args, 0), 0)
  return (
      _is_matrix(_buffer(args, 0), num_splats, 2)
      and _is_matrix(_buffer(args, 1), num_splats, 3)
      and _is_matrix(_buffer(args, 2), num_splats, _dim(_buffer(args, 2), 1))
      and _is_array(_buffer(args, 3), _DTYPE_S32, 1)
  )


@_njit
def _splats(buffers, first, num_splats, channels):
  """(means, cholesky, colors) or their gradients, from three buffers."""
  return (
      _f32(_buffer(buffers, first), (num_splats, 2)),
      _f32(_buffer(buffers, first + 1), (num_splats, 3)),
      _f32(_buffer(buffers, first + 2), (num_splats, channels)),
  )


@_njit
def _layer_ends(args, num_splats):
  """Layer ends, checked: not decreasing, the last is the number of splats."""
  buffer = _buffer(args, 3)
  ends = numba.carray(_as_i32(_word(buffer + _BUFFER_DATA)), (_dim(buffer, 0),))
  valid = ends.shape[0] > 0 and ends[-1] == num_splats and ends[0] >= 0
  for layer in range(1, ends.shape[0]):
    valid = valid and ends[layer] >= ends[layer - 1]
  return ends, valid


@_njit
def _is_images(buffer, num_layers, channels):
  return (
      _is_array(buffer, _DTYPE_F32, 4)
      and _dim(buffer, 0) == num_layers
      and _dim(buffer, 3) == channels
  )


@_njit
def _are_gradients(rets, first, num_splats, channels):
  return (
      _is_matrix(_buffer(rets, first), num_splats, 2)
      and _is_matrix(_buffer(rets, first + 1), num_splats, 3)
      and _is_matrix(_buffer(rets, first + 2), num_splats, channels)
  )


@_njit
def _image_shape(buffer):
  return _dim(buffer, 0), _dim(buffer, 1), _dim(buffer, 2), _dim(buffer, 3)


_handler = functools.partial(
    numba.cfunc, numba.types.intp(numba.types.intp), cache=True
)


@_handler()
def composite_handler(frame):
  """(means, cholesky, colors, layer_ends) -> images."""
  if _answers_metadata(frame):
    return 0
  if not _has_splats(frame, 4, 1):
    return _invalid(frame)
  args = frame + _FRAME_ARGS
  num_splats = _dim(_buffer(args, 0), 0)
  channels = _dim(_buffer(args, 2), 1)
  ends, valid = _layer_ends(args, num_splats)
  out = _buffer(frame + _FRAME_RETS, 0)
  if not valid or not _is_images(out, ends.shape[0], channels):
    return _invalid(frame)
  means, cholesky, colors = _splats(args, 0, num_splats, channels)
  images = _f32(out, _image_shape(out))
  return _status(frame, composite(means, cholesky, colors, ends, images))


@_handler()
def composite_vjp_handler(frame):
  """(means, cholesky, colors, layer_ends, cotangents) -> gradients."""
  if _answers_metadata(frame):
    return 0
  if not _has_splats(frame, 5, 3):
    return _invalid(frame)
  args, rets = frame + _FRAME_ARGS, frame + _FRAME_RETS
  num_splats = _dim(_buffer(args, 0), 0)
  channels = _dim(_buffer(args, 2), 1)
  ends, valid = _layer_ends(args, num_splats)
  cotangents = _buffer(args, 4)
  if (
      not valid
      or not _is_images(cotangents, ends.shape[0], channels)
      or not _are_gradients(rets, 0, num_splats, channels)
  ):
    return _invalid(frame)
  means, cholesky, colors = _splats(args, 0, num_splats, channels)
  grads = _splats(rets, 0, num_splats, channels)
  images = _f32(cotangents, _image_shape(cotangents))
  done = composite_vjp(
      means, cholesky, colors, ends, images, grads[0], grads[1], grads[2]
  )
  return _status(frame, done)


@_handler()
def composite_error_handler(frame):
  """(splats..., layer_ends, target, weights x 2) -> errors, gradients."""
  if _answers_metadata(frame):
    return 0
  if not _has_splats(frame, 7, 4):
    return _invalid(frame)
  args, rets = frame + _FRAME_ARGS, frame + _FRAME_RETS
  num_splats = _dim(_buffer(args, 0), 0)
  channels = _dim(_buffer(args, 2), 1)
  ends, valid = _layer_ends(args, num_splats)
  target, mask, levels = _buffer(args, 4), _buffer(args, 5), _buffer(args, 6)
  if (
      not valid
      or not _is_array(target, _DTYPE_F32, 3)
      or _dim(target, 2) != channels
      or not _is_matrix(mask, _dim(target, 0), _dim(target, 1))
      or not _is_array(levels, _DTYPE_F32, 1)
      or _dim(levels, 0) != ends.shape[0]
      or not _is_array(_buffer(rets, 0), _DTYPE_F32, 1)
      or _dim(_buffer(rets, 0), 0) != ends.shape[0]
      or not _are_gradients(rets, 1, num_splats, channels)
  ):
    return _invalid(frame)
  height, width = _dim(target, 0), _dim(target, 1)
  means, cholesky, colors = _splats(args, 0, num_splats, channels)
  grads = _splats(rets, 1, num_splats, channels)
  done = composite_error(
      means,
      cholesky,
      colors,
      ends,
      _f32(target, (height, width, channels)),
      _f32(mask, (height, width)),
      _f32(levels, (ends.shape[0],)),
      _f32(_buffer(rets, 0), (ends.shape[0],)),
      grads[0],
      grads[1],
      grads[2],
  )
  return _status(frame, done)
