"""Packets of version 6: the symbols of a layer <-> bytes.

A packet is coded in three passes, each of which knows what those before told:

  cells    the box of all cells is halved again and again, and of every half it
           is told how many of the splats of the whole are in it
  classes  the size class of every splat, in the order of the cells
  splats   all else, splat by splat, the largest first

What surrounds a splat predicts it: how densely the cells around are filled, and
the splats that lie near and have been coded before, those of lower layers
among them. So a packet needs those of the layers below to be decoded; what
contexts have learned lives on from layer to layer, too.

Near splats are found by a table: the picture is divided into blocks, of sides
2, 4, .. 128 pixels, and the table knows of every block the splat in it that was
coded last. `docs/format.md` is the specification.
"""

import functools
from typing import NamedTuple

import numpy as np

from pgsvc_jax.codec import compiling
from pgsvc_jax.codec import mixing
from pgsvc_jax.codec import models
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import splat_coding

bit_length, clamp, log4 = mixing.bit_length, mixing.clamp, mixing.log4
code_value, set_model = mixing.code_value, mixing.set_model

# CRC-32 of mixing.py, which is compiled into the functions here. Numba's cache
# only notices changes of this file, so each change there has to change it, too;
# a test compares.
MIXING = 0xD88D7DF1

# The box of every layer is told in four numbers, with contexts of their own.
_BOX_SIDES = 4
# Rows of the models of each column.
ROWS = (
    (2 * _BOX_SIDES, 1, 1, 1, 1),
    (10 * 16 * 3, 10 * 8 * 4 * 3, 10 * 16 * 8, 6 * 8 * 8 * 2, 10 * 16 * 16),
    (2 * 24 * 4, 24 * 24, 16 * 8 * 16, 48 * 4, 24 * 4 * 16),
    (16 * 2, 20 * 16, 8 * 16, 16 * 16, 8 * 16),
    (10 * 16 * 2, 8 * 10, 8 * 8 * 2, 16 * 10, 8 * 10),
    (16 * 10, 7 * 7 * 2, 7 * 7, 8 * 10, 10 * 16 * 2),
    (16 * 16, 8 * 10, 6 * 5 * 2 * 5, 20 * 2, 10 * 16),
    (16 * 6 * 10, 8 * 10, 7 * 6 * 4 * 2, 20 * 6 * 2, 10 * 16),
)
FIRST_ROWS = np.cumsum([0, *np.ravel(ROWS)])[:-1].reshape(np.shape(ROWS))
NUM_ROWS = int(np.sum(ROWS))

# A level of boxes that are more than this is not looked around in.
_BOXES_PER_SPLAT, _BOXES = 32, 4096
# log2 of the sides of blocks in pixels; positions count eighths of a pixel.
_LEAST_BLOCK, _LARGEST_BLOCK = 1, 7
_EIGHTHS = 3
_MAX_POSITION = 2**28
_MAX_DISTANCE = 2**18
_NEAR = 9
# Shears and aspects of neighbors count 1/64 and end here.
_SHAPE_SHIFT, _MAX_SHAPE = quantize.SHAPE_BITS - 6, 256
# Colors of neighbors, in 1/256, and where they are multiplied.
_COLOR_SHIFT, _MAX_COLOR, _MAX_FACTOR = 4, 2**20, 4096
_USUAL_CLASS = 3

# Results of passes.
_DONE, _INVALID = 0, 1


class _Around(NamedTuple):
  """What is known of the splats of this and lower layers.

  Attributes:
    splats: int32 [n, 9]: x and y in eighths of a pixel, K, shear and aspect in
      1/64, and four colors in 1/256, up to the color step of the layer.
    coarse: table of the splats of which cell and class are known.
    fine: table of those that are wholly coded.
    near: room for a search.
  """

  splats: np.ndarray
  coarse: np.ndarray
  fine: np.ndarray
  near: np.ndarray


# Columns of splats.
_X, _Y, _CLASS, _SHEAR, _ASPECT, _COLORS, _FIELDS = 0, 1, 2, 3, 4, 5, 9


class _Steps(NamedTuple):
  """`quantize.StepSizes` and what follows from them, for compiled code."""

  color: int
  shape: int
  cell: int
  position_level: int


@compiling.inlined
def _slot(table, level, column, row):
  number = column * 73856093 + row * 19349663 + level * 83492791
  return (number & 0xFFFFFFFF) >> 7 & (len(table) - 1)


@compiling.inlined
def _insert(table, x, y, splat):
  for level in range(_LEAST_BLOCK, _LARGEST_BLOCK + 1):
    shift = _EIGHTHS + level
    table[_slot(table, level, x >> shift, y >> shift)] = splat


@compiling.inlined
def _search(table, x, y, level, near):
  """The last splats of the block and of the eight around it."""
  shift = _EIGHTHS + level
  count = 0
  for row in range(-1, 2):
    for column in range(-1, 2):
      splat = table[
          _slot(table, level, (x >> shift) + column, (y >> shift) + row)
      ]
      if splat >= 0:
        near[count] = splat
        count += 1
  return count


@compiling.inlined
def _squared_distance(around, splat, x, y):
  dx = min(abs(np.int64(around.splats[splat, _X]) - x), _MAX_DISTANCE)
  dy = min(abs(np.int64(around.splats[splat, _Y]) - y), _MAX_DISTANCE)
  return dx * dx + dy * dy


@compiling.inlined
def _is_less(a, b):
  return 1 if a < b else 0


@compiling.compiled
def _code_split(coder, count, first):
  """How many of `count` > 0 splats are in the first half of their box."""
  excess = 2 * first - count
  value = (abs(excess) + 1) >> 1
  if excess < 0:
    value = -value
  kind = mixing.ANY
  if count & 1:
    kind = mixing.SIGN_ONLY if count == 1 else mixing.NOT_ZERO
  value = code_value(coder, mixing.CELL, kind, value)
  if value == 0:
    return count >> 1
  excess = 2 * abs(value) - (count & 1)
  return count + excess >> 1 if value > 0 else count - excess >> 1


@compiling.compiled
def _set_split_models(state, rows, count, around, uneven, left):
  """Contexts of a split.

  Args:
    state: of the coder.
    rows: first ones of the models.
    count: of the box.
    around: twice the count of the near half of the box before; the count of the
      box after; four times the counts of the halves of the box beside, which
      was split before, each with those of the two boxes at its corners.
    uneven: 1 or 2 where the first or the second half is the smaller one.
    left: levels to come.
  """
  before, after, side0, side1 = around
  size = count if count < 5 else min(2 + bit_length(count - 1), 9)
  lean, side = before - after, side0 - side1
  total = 2 * (before + after) + side0 + side1
  density = clamp(log4(2 * total // (6 * count) + 1) >> 1, 0, 7)

  sum_flip = _is_less(2 * lean + side, 0)
  sum_part = min(24 * abs(2 * lean + side) // (total + 6), 15)
  smaller = uneven if uneven == 0 or sum_flip == 0 else 3 - uneven
  row = (size * 16 + sum_part) * 3 + smaller
  set_model(state, 0, rows[0] + row, sum_flip)
  flip = _is_less(lean, 0)
  part = min(8 * abs(lean) // (before + after + 2), 7)
  smaller = uneven if uneven == 0 or flip == 0 else 3 - uneven
  row = ((size * 8 + part) * 4 + (density >> 1)) * 3 + smaller
  set_model(state, 1, rows[1] + row, flip)
  row = (size * 16 + min(left, 15)) * 8 + density
  set_model(state, 2, rows[2] + row, -1)
  side_flip = _is_less(side, 0)
  side_part = min(8 * abs(side) // (side0 + side1 + 4), 7)
  agrees = 1 if side_flip == flip else 0
  row = ((min(size, 5) * 8 + side_part) * 8 + part) * 2 + agrees
  set_model(state, 3, rows[3] + row, side_flip)
  row = (size * 16 + min(left, 15)) * 16 + sum_part
  set_model(state, 4, rows[4] + row, sum_flip)


@compiling.inlined
def _grid_at(grid, row, column):
  """A count of a level; 0 beyond it and where it is not kept."""
  if 0 <= row < grid.shape[0] and 0 <= column < grid.shape[1]:
    return np.int64(grid[row, column])
  return np.int64(0)


@compiling.compiled
def _look_around(before, after, row, column, axis):
  """Counts around a box that is split, as `_set_split_models` takes them.

  Args:
    before: counts of the level, [rows, columns].
    after: counts of the level that is being made.
    row: of the box.
    column: of the box.
    axis: 0 where columns are split, 1 where rows are.
  """
  count = _grid_at(before, row, column)
  if axis == 0:
    near = 2 * _grid_at(after, row, 2 * column - 1) if column else -1
    far = -1
    if column + 1 < before.shape[1]:
      far = _grid_at(before, row, column + 1)
    side0 = 4 * _grid_at(after, row - 1, 2 * column)
    side1 = 4 * _grid_at(after, row - 1, 2 * column + 1)
  else:
    near = 2 * _grid_at(after, 2 * row - 1, column) if row else -1
    far = -1
    if row + 1 < before.shape[0]:
      far = _grid_at(before, row + 1, column)
    side0 = 4 * _grid_at(after, 2 * row, column - 1)
    side1 = 4 * _grid_at(after, 2 * row + 1, column - 1)
  side0 += _grid_at(before, row - 1, column - 1)
  side1 += _grid_at(before, row + 1, column + 1)
  if axis == 0:
    side0 += _grid_at(before, row + 1, column - 1)
    side1 += _grid_at(before, row - 1, column + 1)
  else:
    side0 += _grid_at(before, row - 1, column + 1)
    side1 += _grid_at(before, row + 1, column - 1)
  if near < 0:
    near = far if far >= 0 else count
  if far < 0:
    far = near
  return near, far, side0, side1


@compiling.compiled
def _code_cells(coder, rows, width, height, cells):
  """The cells of a layer, level by level of halved boxes.

  Args:
    coder: writes, or reads.
    rows: first ones of the models.
    width: of the box of all, cells.
    height: of the box of all, cells.
    cells: [n, 2], within the box; when writing they are sorted into the order
      in which they are coded, when reading they are filled in.

  Returns:
    Which cells the writer has coded, in order, and the counts of the last level
    that was looked around in.
  """
  state = coder.state
  n = len(cells)
  order = np.arange(n)
  spare = np.empty(n, np.int64)
  # Boxes that are not empty, in order: column, row, count.
  boxes = np.zeros((max(n, 1), 3), np.int64)
  boxes[0, 2] = n
  num_boxes = 1
  halved_x, halved_y = 0, 0
  levels_x, levels_y = bit_length(width - 1), bit_length(height - 1)
  grid = np.full((1, 1), n, np.int32)
  most = _BOXES_PER_SPLAT * n + _BOXES
  looks = True
  while halved_x < levels_x or halved_y < levels_y:
    axis = 1
    if halved_x < levels_x and (
        halved_y == levels_y or width << halved_y >= height << halved_x
    ):
      axis = 0
    left = levels_x - halved_x + levels_y - halved_y
    length = width if axis == 0 else height
    halved = halved_x if axis == 0 else halved_y
    looks = looks and grid.size * 2 <= most
    if looks:
      new_grid = np.zeros(
          (grid.shape[0] * (1 + axis), grid.shape[1] * (2 - axis)), np.int32
      )
    else:
      new_grid = grid
    new_boxes = np.zeros((n, 3), np.int64)
    new_num = 0
    start = 0
    for k in range(num_boxes):
      column, row, count = boxes[k]
      index = column if axis == 0 else row
      low = index * length >> halved
      middle = (2 * index + 1) * length >> halved + 1
      high = (index + 1) * length >> halved
      first = 0
      if state[mixing.WRITES]:
        # Those of the first half come first, in the order they had.
        for i in range(start, start + count):
          if cells[order[i], axis] < middle:
            spare[first] = order[i]
            first += 1
        rest = first
        for i in range(start, start + count):
          if cells[order[i], axis] >= middle:
            spare[rest] = order[i]
            rest += 1
        # Not as slices: Numba would compile formatting of strings for them.
        for i in range(count):
          order[start + i] = spare[i]
      if low == middle:
        first = 0
      elif middle == high:
        first = count
      else:
        around = (count, count, 0, 0)
        if looks:
          around = _look_around(grid, new_grid, row, column, axis)
        uneven = _is_less(middle - low, high - middle)
        uneven += 2 * _is_less(high - middle, middle - low)
        _set_split_models(state, rows, count, around, uneven, left)
        first = _code_split(coder, count, first)
        if first < 0 or first > count or mixing.is_spent(coder):
          return order[:0], grid
      for half in range(2):
        part = first if half == 0 else count - first
        if part:
          new_column = 2 * column + half if axis == 0 else column
          new_row = row if axis == 0 else 2 * row + half
          new_boxes[new_num] = new_column, new_row, part
          new_num += 1
          if looks:
            new_grid[new_row, new_column] = part
      start += count
    boxes, num_boxes, grid = new_boxes, new_num, new_grid
    halved_x += 1 - axis
    halved_y += axis
  if not state[mixing.WRITES]:
    i = 0
    for k in range(num_boxes):
      column, row, count = boxes[k]
      for _ in range(count):
        cells[i, 0] = column * width >> halved_x
        cells[i, 1] = row * height >> halved_y
        i += 1
  return order, grid


@compiling.compiled
def _sums_of(grid):
  """Sums of a grid over all that is above and left of a corner."""
  sums = np.zeros((grid.shape[0] + 1, grid.shape[1] + 1), np.int64)
  for row in range(grid.shape[0]):
    for column in range(grid.shape[1]):
      sums[row + 1, column + 1] = (
          grid[row, column]
          + sums[row, column + 1]
          + sums[row + 1, column]
          - sums[row, column]
      )
  return sums


@compiling.inlined
def _window(sums, row, column, reach):
  """How many splats, in how many boxes, are up to `reach` boxes away."""
  top, bottom = max(row - reach, 0), min(row + reach + 1, len(sums) - 1)
  left = max(column - reach, 0)
  right = min(column + reach + 1, sums.shape[1] - 1)
  count = sums[bottom, right] - sums[top, right]
  count += sums[top, left] - sums[bottom, left]
  return count, (bottom - top) * (right - left)


@compiling.compiled
def _code_classes(coder, rows, around, first, cells, box, grid, cell, classes):
  """The size class of each splat, in the order of the cells."""
  state = coder.state
  width, height = box
  above = 1 if first else 0
  sums = _sums_of(grid)
  # In cells; 64ths.
  box_area = max(64 * width * height // grid.size, 1)
  previous = _USUAL_CLASS
  for i in range(len(cells)):
    # Boxes are told from cells as they were halved.
    column = ((cells[i, 0] + 1) * grid.shape[1] - 1) // width
    row = ((cells[i, 1] + 1) * grid.shape[0] - 1) // height
    own, _ = _window(sums, row, column, 1)
    count, area = own, 9
    for k in range(6):
      count, area = _window(sums, row, column, 1 << k)
      if count >= 6:
        break
    count = max(count, 1)
    spread = (log4(max(area * box_area // count, 1)) >> 1) - 4 + 4 * (cell - 2)
    spread = clamp(spread, 0, 23)

    splat = first + i
    x = np.int64(around.splats[splat, _X])
    y = np.int64(around.splats[splat, _Y])
    level = clamp(spread + 3 >> 2, _LEAST_BLOCK, _LARGEST_BLOCK)
    unit = 64 << 2 * level
    weights, weighted = 0, 0
    nearest, like = -1, _USUAL_CLASS
    for k in range(_search(around.coarse, x, y, level, around.near)):
      other = around.near[k]
      squared = _squared_distance(around, other, x, y)
      weight = (unit << 10) // (unit + 4 * squared)
      weights += weight
      weighted += weight * around.splats[other, _CLASS]
      if nearest < 0 or squared < nearest:
        nearest, like = squared, np.int64(around.splats[other, _CLASS])
    mean = (4 * weighted + 4 * _USUAL_CLASS * 128) // (weights + 128)
    far = 7
    if nearest >= 0:
      far = clamp(log4(16 * nearest // unit + 1) >> 2, 0, 7)

    crowd = clamp(own - 1, 0, 3)
    before = clamp(previous + 3, 0, 15)
    row = (above * 24 + spread) * 4 + crowd
    set_model(state, 0, rows[0] + row, -1)
    row = clamp((mean >> 1) + 5, 0, 23) * 24 + spread
    set_model(state, 1, rows[1] + row, -1)
    row = (clamp(like + 3, 0, 15) * 8 + far) * 16 + before
    set_model(state, 2, rows[2] + row, -1)
    row = clamp(mean + 10, 0, 47) * 4 + min(weights >> 10, 3)
    set_model(state, 3, rows[3] + row, -1)
    row = (spread * 4 + crowd) * 16 + before
    set_model(state, 4, rows[4] + row, -1)
    value = classes[i] - _USUAL_CLASS
    value = code_value(coder, mixing.CLASS, mixing.ANY, value) + _USUAL_CLASS
    if abs(value) > quantize.CLASS_LIMIT or mixing.is_spent(coder):
      return _INVALID
    classes[i] = around.splats[splat, _CLASS] = previous = value
    _insert(around.coarse, x, y, splat)
  return _DONE


@compiling.inlined
def _sign_and_size(value, most):
  """Whether a prediction is below 0, and how many bits it has."""
  return _is_less(value, 0), min(bit_length(abs(value)), most)


@compiling.compiled
def _gather(around, sums, splat, size_class, channels):
  """Sums over the near splats, each weighted by how near it is.

  Args:
    around: all splats.
    sums: room for what is returned. Its first row are the weights, shears,
      aspects and first two colors; the others are, by channel, magnitudes of
      colors, their products with the first color and with the second.
    splat: which one.
    size_class: of it.
    channels: of the colors.

  Returns:
    The squared distance of the nearest, in 1/16 of what the weights halve at,
    and its first color; -1 and 0 where none is near.
  """
  x = np.int64(around.splats[splat, _X])
  y = np.int64(around.splats[splat, _Y])
  level = clamp((size_class + 1 >> 1) + 1, _LEAST_BLOCK, _LARGEST_BLOCK)
  reach = (64 << clamp(size_class, 0, 24)) + 256
  sums[:] = 0
  nearest, like = -1, np.int64(0)
  for k in range(_search(around.fine, x, y, level, around.near)):
    other = around.near[k]
    squared = _squared_distance(around, other, x, y)
    weight = (reach << 8) // (reach + squared)
    if nearest < 0 or squared < nearest:
      nearest, like = squared, np.int64(around.splats[other, _COLORS])
    sums[0, 0] += weight
    sums[0, 1] += weight * around.splats[other, _SHEAR]
    sums[0, 2] += weight * around.splats[other, _ASPECT]
    color0 = np.int64(around.splats[other, _COLORS])
    sums[0, 3] += weight * color0
    if channels > 1:
      sums[0, 4] += weight * around.splats[other, _COLORS + 1]
    color0 = clamp(color0, -_MAX_FACTOR, _MAX_FACTOR)
    color1 = np.int64(0)
    for channel in range(channels):
      color = np.int64(around.splats[other, _COLORS + channel])
      sums[1, channel] += weight * abs(color)
      color = clamp(color, -_MAX_FACTOR, _MAX_FACTOR)
      sums[2, channel] += weight * color0 * color
      if channel == 1:
        color1 = color
      if channel >= 1:
        sums[3, channel] += weight * color1 * color
  return (16 * nearest // reach if nearest >= 0 else -1), like


@compiling.compiled
def _code_colors(coder, rows, sums, place, like, size_class, step, colors):
  """The colors of one splat; the bits of their squared norm, or -1."""
  state = coder.state
  above, distance = place
  total = (sums[0, 0] + 32) * step
  kind = clamp(size_class + 3, 0, 15)
  norm = 0
  sign, strength, first, second = 1, 0, 0, 0
  for channel in range(len(colors)):
    column = min(channel, 2)
    models = rows[mixing.COLOR0 + column]
    magnitude = log4(32 * sums[1, channel] // total + 1)
    value = colors[channel] * sign
    if channel == 0:
      flip, size = _sign_and_size(16 * like // step, 7)
      set_model(state, 0, models[0] + kind * 2 + above, -1)
      row = clamp(magnitude >> 1, 0, 19) * 16 + kind
      set_model(state, 1, models[1] + row, -1)
      set_model(state, 2, models[2] + size * 16 + distance, flip)
      set_model(state, 3, models[3] + kind * 16 + distance, -1)
      flip, size = _sign_and_size(16 * sums[0, 3] // total, 7)
      set_model(state, 4, models[4] + size * 16 + distance, flip)
    else:
      slope = 2 * sums[2, channel] * min(strength, _MAX_FACTOR)
      flip, size = _sign_and_size(slope // (sums[2, 0] + 64), 7)
      if channel == 1:
        row = (first * 16 + kind) * 2 + _is_less(sign, 0)
        set_model(state, 0, models[0] + row, -1)
        set_model(state, 1, models[1] + size * 10 + first, flip)
        row = (clamp(magnitude >> 2, 0, 7) * 8 + size) * 2 + above
        set_model(state, 2, models[2] + row, flip)
        row = clamp(magnitude >> 1, 0, 15) * 10 + first
        set_model(state, 3, models[3] + row, -1)
        flip, size = _sign_and_size(16 * sums[0, 4] // total * sign, 7)
        set_model(state, 4, models[4] + size * 10 + first, flip)
      else:
        set_model(state, 3, models[3] + size * 10 + first, flip)
        row = (first * 16 + kind) * 2 + _is_less(sign, 0)
        set_model(state, 4, models[4] + row, -1)
        magnitude = clamp(magnitude >> 1, 0, 15)
        set_model(state, 0, models[0] + magnitude * 10 + first, -1)
        agrees = 1 if _is_less(second, 0) == flip else 0
        second_flip, second_size = _sign_and_size(second, 6)
        both = min(bit_length((strength >> 1) + 2 * abs(second)), 6)
        row = (second_size * 7 + both) * 2 + agrees
        set_model(state, 1, models[1] + row, second_flip)
        slope = 2 * sums[3, channel]
        slope *= clamp(second, -_MAX_FACTOR, _MAX_FACTOR)
        flip, size = _sign_and_size(slope // (sums[3, 1] + 64), 6)
        set_model(state, 2, models[2] + size * 7 + second_size, flip)
    value = code_value(coder, mixing.COLOR0 + column, mixing.ANY, value)
    if abs(value) > quantize.COLOR_LIMIT:
      return -1
    norm += value * value
    if channel == 0:
      strength = abs(value)
      first = min(bit_length(strength), 9)
      if value < 0:
        sign = -1
      colors[0] = value
    else:
      colors[channel] = value * sign
      if channel == 1:
        second = value
  return clamp(bit_length(norm), 1, 32)


@compiling.compiled
def _code_shape(coder, rows, sums, place, size_class, precision, step, shape):
  """Shear and aspect of one splat: [shear, aspect] is read or written."""
  state = coder.state
  above, distance = place
  weights = sums[0, 0] + 64
  shear, aspect = sums[0, 1] // weights, sums[0, 2] // weights
  kind = clamp(size_class + 3, 0, 15)
  half = min(precision >> 1, 9)
  in_steps = mixing.clamp(2 * (abs(shear) << _SHAPE_SHIFT) // step, 0, 127)
  shear_flip = _is_less(shear, 0)
  models = rows[mixing.SHEAR]
  row = min(precision, 15) * 16 + kind
  set_model(state, 0, models[0] + row, -1)
  row = bit_length(in_steps) * 10 + half
  set_model(state, 1, models[1] + row, shear_flip)
  row = min(bit_length(abs(shear) >> 2), 5) * 5
  row += min(bit_length(abs(aspect) >> 3), 4)
  row = (row * 2 + _is_less(aspect, 0)) * 5 + min(precision // 3, 4)
  set_model(state, 2, models[2] + row, shear_flip)
  set_model(state, 3, models[3] + min(precision, 19) * 2 + above, -1)
  set_model(state, 4, models[4] + half * 16 + distance, -1)
  value = code_value(coder, mixing.SHEAR, mixing.ANY, shape[0])
  if abs(value) > quantize.SHEAR_LIMIT:
    return _INVALID
  shape[0] = value

  skew = clamp(value * step >> _SHAPE_SHIFT, -_MAX_SHAPE, _MAX_SHAPE)
  skewed = min(bit_length(abs(skew) >> 3), 5)
  in_steps = mixing.clamp(2 * (abs(aspect) << _SHAPE_SHIFT) // step, 0, 127)
  flip = _is_less(aspect, 0)
  models = rows[mixing.ASPECT]
  row = (kind * 6 + skewed) * 10 + half
  set_model(state, 0, models[0] + row, -1)
  set_model(state, 1, models[1] + bit_length(in_steps) * 10 + half, flip)
  row = min(bit_length(abs(aspect) >> 2), 6) * 6 + skewed
  row = row * 4 + min(bit_length(abs(shear) >> 3), 3)
  differs = 1 if _is_less(skew, 0) != shear_flip else 0
  set_model(state, 2, models[2] + row * 2 + differs, flip)
  row = (min(precision, 19) * 6 + skewed) * 2 + above
  set_model(state, 3, models[3] + row, -1)
  set_model(state, 4, models[4] + half * 16 + distance, -1)
  value = code_value(coder, mixing.ASPECT, mixing.ANY, shape[1])
  if abs(value) > quantize.ASPECT_LIMIT // step:
    return _INVALID
  shape[1] = value
  return _DONE


@compiling.compiled
def _code_splats(coder, rows, around, first, order, cells, steps, symbols):
  """All that is not told yet, the largest splats first.

  Args:
    coder: writes, or reads.
    rows: first ones of all models.
    around: all splats.
    first: index of the first splat of the layer.
    order: of the splats.
    cells: x and y.
    steps: of the layer.
    symbols: positions, colors, sizes and shapes (shear, aspect), as in
      `quantize.Symbols`; read or written.

  Returns:
    _DONE or _INVALID.
  """
  positions, colors, sizes, shapes = symbols
  channels = colors.shape[1]
  above = 1 if first else 0
  sums = np.zeros((4, 5), np.int64)
  for i in order:
    splat = first + i
    size_class = np.int64(around.splats[splat, _CLASS])
    near, like = _gather(around, sums, splat, size_class, channels)
    distance = clamp(log4(near + 1) >> 1, 0, 15) if near >= 0 else 15
    place = above, distance
    precision = _code_colors(
        coder, rows, sums, place, like, size_class, steps.color, colors[i]
    )
    if precision < 0:
      return _INVALID
    halvings = precision - 1
    step = 65536 if precision & 1 else 46341
    step = max(steps.shape * step >> (halvings >> 1), 4096)
    levels = max(1, (263136042 + (step >> 1)) // step)
    sizes[i] = mixing.code_uniform(coder, levels, sizes[i])
    shape = shapes[i]
    invalid = _code_shape(
        coder, rows, sums, place, size_class, precision, step, shape
    )
    if invalid:
      return _INVALID
    level = steps.position_level + 128 * (size_class - precision + 1)
    lean = shape[1] * step * 185 >> quantize.SHAPE_BITS
    for axis in range(2):
      exponent = level + lean if axis == 0 else level - lean
      bits = clamp(steps.cell - (exponent + 128 >> 8), 0, 8)
      low = mixing.code_bits(coder, bits, positions[i, axis])
      position = (cells[i, axis] << bits) + low
      positions[i, axis] = position
      shift = steps.cell - bits + _EIGHTHS - 1
      eighths = 2 * position + 1
      eighths = eighths << shift if shift >= 0 else eighths >> -shift
      around.splats[splat, axis] = clamp(eighths, -_MAX_POSITION, _MAX_POSITION)
    if mixing.is_spent(coder):
      return _INVALID
    for channel in range(channels):
      around.splats[splat, _COLORS + channel] = clamp(
          colors[i, channel] * steps.color >> _COLOR_SHIFT,
          -_MAX_COLOR,
          _MAX_COLOR,
      )
    for k in range(2):
      around.splats[splat, _SHEAR + k] = clamp(
          shape[k] * step >> _SHAPE_SHIFT, -_MAX_SHAPE, _MAX_SHAPE
      )
    x, y = around.splats[splat, _X], around.splats[splat, _Y]
    _insert(around.fine, np.int64(x), np.int64(y), splat)
  return _DONE


_ATTRIBUTES = {
    'position': [mixing.BOX, mixing.CELL, mixing.PLACE],
    'color': [mixing.COLOR0, mixing.COLOR1, mixing.COLOR2],
    'scale': [mixing.CLASS, mixing.SIZE],
    'aspect': [mixing.ASPECT],
    'shear': [mixing.SHEAR],
}


class LayerCoder:
  """Codes the layers of one picture, base layer first.

  Example:
    >>> steps = quantize.StepSizes()
    >>> symbols = quantize.zeros(2, channels=3)
    >>> packet = LayerCoder(8, 8, 3).write(symbols, steps)
    >>> found = LayerCoder(8, 8, 3).read(packet, 2, steps)
    >>> found.positions.tolist()
    [[0, 0], [0, 0]]
  """

  def __init__(
      self,
      height: int,
      width: int,
      channels: int,
      model: mixing.Model | None = None,
      *,
      rate: int = mixing.LEARNING_RATE,
      limit: int = mixing.SEEN_LIMIT,
  ):
    """Begins a picture.

    Args:
      height: of the picture, pixels.
      width: of the picture, pixels.
      channels: colors a splat.
      model: to begin with, changed; None: as trained.
      rate: of the weights; others than this one are for training.
      limit: of what states count to, likewise.
    """
    self._shape = height, width
    self._channels = channels
    self._given_model = model
    self._rates = {mixing.LIMIT: limit, mixing.RATE: rate}
    bits = (height * width).bit_length() - 2
    table = np.full(1 << min(max(bits, 12), 20), -1, np.int32)
    self._around = _Around(
        splats=np.zeros((0, _FIELDS), np.int32),
        coarse=table,
        fine=table.copy(),
        near=np.zeros(_NEAR, np.int64),
    )
    # Bits that each column has taken of what was written, in 1/65536.
    self.bits = np.zeros(mixing.PLACE + 1, np.int64)

  @functools.cached_property
  def _model(self) -> mixing.Model:
    """Loaded by who codes something only."""
    return self._given_model or models.load()

  def write(
      self, symbols: quantize.Symbols, step_sizes: quantize.StepSizes
  ) -> bytes:
    """The packet of the next layer; the splats in any order."""
    num_splats = len(symbols.classes)
    if not num_splats:
      return b''
    # Sorted, so that the order of those in one cell is one that all know.
    symbols, _, _ = splat_coding.sort(symbols, step_sizes)
    cells = symbols.positions >> quantize.cell_bits(symbols, step_sizes)
    # More than any splat takes: 80 decisions of at most 11 bits, and 60 bits.
    coder = mixing.writer(self._model, 128 * num_splats + 1024)
    self._code(coder, symbols, cells, step_sizes)
    self.bits += coder.state[mixing.BITS :][: len(self.bits)]
    packet = mixing.finish_writing(coder)
    return packet.ljust(-(-num_splats // splat_coding.SPLATS_PER_BYTE), b'\0')

  def read(
      self, packet: bytes, num_splats: int, step_sizes: quantize.StepSizes
  ) -> quantize.Symbols:
    """The symbols of the next layer, in the order of `splat_coding.sort`.

    Raises:
      ValueError: the packet cannot come from `write`.
    """
    symbols = quantize.zeros(num_splats, self._channels)
    if not num_splats:
      return symbols
    coder = mixing.reader(self._model, packet)
    symbols = self._code(coder, symbols, None, step_sizes)
    if compiling.plain(mixing.is_spent)(coder):
      raise ValueError('coded symbols end too early')
    mixing.finish_reading(coder)
    return splat_coding.sort(symbols, step_sizes)[0]

  def attribute_bits(self) -> dict[str, float]:
    """The bits of all that was written: those of each attribute."""
    return {
        name: float(self.bits[columns].sum()) / mixing.ONE
        for name, columns in _ATTRIBUTES.items()
    }

  def _code(self, coder, symbols, cells, step_sizes):
    """Writes or reads a layer; the symbols in the order of their cells."""
    for place, value in self._rates.items():
      coder.state[place] = value
    origin, box = self._code_box(coder, cells, step_sizes.cell)
    n = len(symbols.classes)
    inside = np.zeros((n, 2), np.int64) if cells is None else cells - origin
    order, grid = _code_cells(coder, FIRST_ROWS[mixing.CELL], *box, inside)
    if not len(order):
      raise ValueError('cells out of range')
    symbols = quantize.Symbols(
        *(np.ascontiguousarray(x[order], np.int64) for x in symbols)
    )
    if cells is not None:
      inside = inside[order]
    cells = inside + origin

    first = len(self._around.splats)
    shift = step_sizes.cell + _EIGHTHS - 1
    new = np.zeros((n, _FIELDS), np.int32)
    places = (2 * cells + 1) << shift
    new[:, : _Y + 1] = np.clip(places, -_MAX_POSITION, _MAX_POSITION)
    self._around = self._around._replace(
        splats=np.concatenate([self._around.splats, new])
    )
    invalid = _code_classes(
        *(coder, FIRST_ROWS[mixing.CLASS], self._around, first, inside, box),
        *(grid, step_sizes.cell, symbols.classes),
    )
    if invalid:
      raise ValueError('symbols out of range')
    octave = step_sizes.position.bit_length() - 1
    level = (octave - 12) * 256 + (step_sizes.position * 256 >> octave) - 256
    steps = _Steps(step_sizes.color, step_sizes.shape, step_sizes.cell, level)
    shapes = np.stack([symbols.shears, symbols.aspects], -1)
    invalid = _code_splats(
        *(coder, FIRST_ROWS, self._around, first),
        *(np.argsort(-symbols.classes, kind='stable'), cells, steps),
        (symbols.positions, symbols.colors, symbols.sizes, shapes),
    )
    if invalid:
      raise ValueError('symbols out of range')
    return symbols._replace(shears=shapes[:, 0], aspects=shapes[:, 1])

  def _code_box(self, coder, cells, log2_cell):
    """The box of all cells, in cells beyond those of the picture."""
    height, width = self._shape
    usual = np.array([0, 0, -(-width >> log2_cell), -(-height >> log2_cell)])
    sides = usual
    if cells is not None:
      sides = np.concatenate([cells.min(axis=0), cells.max(axis=0) + 1])
    above = 1 if len(self._around.splats) else 0
    set_row = compiling.plain(set_model)
    found = []
    for k, value in enumerate((sides - usual).tolist()):
      rows = FIRST_ROWS[mixing.BOX]
      set_row(coder.state, 0, rows[0] + above * _BOX_SIDES + k, -1)
      for model in range(1, mixing.NUM_MODELS):
        set_row(coder.state, model, rows[model], -1)
      value = code_value(coder, mixing.BOX, mixing.ANY, value)
      found.append(int(value + usual[k]))
    left, top, right, bottom = found
    limit = quantize.CELL_LIMIT
    inside = min(left, top) >= -limit and max(right, bottom) <= limit
    if not (inside and left < right and top < bottom):
      raise ValueError('cells out of range')
    return np.array([left, top]), (right - left, bottom - top)
