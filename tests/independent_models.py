"""Packets of version 6 of .pgsvc pictures, from docs/format.md alone.

Part of `independent_decoder`: plain Python integers, names of the page.
"""

import json
import pathlib

_S = (
    '22 36 60 98 162 267 439 720 1179 1921 3108 4971 7812 11955 17625 24743'
    ' 32768 40793 47911 53581 57724 60565 62428 63615 64357 64816 65097 65269'
    ' 65374 65438 65476 65500 65514'
)


def bits(n):
  """Binary digits of n >= 0."""
  return n.bit_length()


def clamp(n, low, high):
  """n, or the limit that it is beyond."""
  return max(low, min(n, high))


def log4(n):
  o = bits(n) - 1
  return 4 * o + (4 * n >> o) % 4


def _squash():
  s = list(map(int, _S.split()))
  found = []
  for i in range(4096):
    a, f = i >> 7, i % 128
    p = (s[a] * (128 - f) + s[a + 1] * f + 64) >> 7
    found.append(clamp(p, 32, 2**16 - 32))
  return found


SQUASH = _squash()


def _stretch():
  found, i = [], 1
  for c in range(4096):
    while i + 1 < 4096 and SQUASH[i + 1] <= 16 * c + 8:
      i += 1
    found.append(i - 2048)
  return found


STRETCH = _stretch()
TABLES = json.loads(
    (
        pathlib.Path(__file__).parents[1] / 'pgsvc_jax/codec/models.json'
    ).read_text()
)
_DIGITS = [chr(c) for c in range(33, 127) if c not in (34, 92)]


class PictureDecoder:
  """The packets of one picture, base layer first."""

  def __init__(self, width, height, channels, error):
    self.width, self.height, self.channels = width, height, channels
    self.error = error
    self.tables = [text.split('\n') for text in TABLES['states']]
    self.states = {}
    self.weights = [list(column) for column in TABLES['weights']]
    self.weights = [[256 * w for w in column] for column in self.weights]
    self.q = clamp(bits(width * height) - 2, 12, 20)
    self.coarse, self.fine = {}, {}
    self.splats = []

  def require(self, condition, what):
    if not condition:
      raise self.error(what)

  def state(self, column, k, row, place):
    key = column, k, row, place
    if key not in self.states:
      lines = self.tables[5 * column + k]
      text = lines[row] if row < len(lines) else ''
      digit = text[place] if place < len(text) else ' '
      if digit == ' ':
        self.states[key] = [2**15, 0]
      else:
        n = _DIGITS.index(digit)
        self.states[key] = [
            SQUASH[128 * (n // 4) + 640],
            (1, 4, 11, 24)[n % 4],
        ]
    return self.states[key]

  def decide(self, column, models, node, negative=0):
    weights = self.weights[column]
    inputs = []
    for k, (row, flip) in enumerate(models):
      place = node
      if node >= 2 and flip >= 0 and flip != negative:
        place += 27
      state = self.state(column, k, row, place)
      x = STRETCH[state[0] >> 4]
      if node == 1 and flip == 1:
        x = -x
      step = sum(t <= state[1] for t in (1, 3, 8, 23, 64))
      inputs.append((x, (6 * node + k) * 6 + step, state))
    inputs.append((77, (6 * node + 5) * 6, None))
    t = sum(weights[w] * x for x, w, _ in inputs) >> 16
    p = SQUASH[clamp(t, -2047, 2047) + 2048]
    bit = self.coder.bit(2**16 - p)
    e = 8 * (2**16 * bit - p)
    for x, w, _ in inputs:
      limit = 2**19 - 1
      weights[w] = clamp(weights[w] + (e * x >> 18), -limit, limit)
    for (_, flip), (_, _, state) in zip(models, inputs):
      goal = 1 - bit if node == 1 and flip == 1 else bit
      chance, seen = state
      learn = 5 * 2**16 // (5 * seen + 8)
      chance += (2**16 * goal - chance) * learn >> 16
      state[:] = clamp(chance, 32, 2**16 - 32), min(seen + 1, 255)
    return bit

  def value(self, column, models, kind='any'):
    if kind == 'any' and not self.decide(column, models, 0):
      return 0
    negative = self.decide(column, models, 1)
    m = 1
    if kind != 'sign':
      size = 0
      while size < 40 and self.decide(
          column, models, 2 + min(size, 9), negative
      ):
        size += 1
      for i in range(size):
        first = 12 + 3 * min(size - 1, 4)
        if i == 0:
          bit = self.decide(column, models, first, negative)
        elif i == 1:
          bit = self.decide(column, models, first + 1 + m % 2, negative)
        else:
          bit = self.coder.bit()
        m = 2 * m + bit
    return -m if negative else m

  def packet(self, coder, count, entry):
    """Rows of symbols, as `independent_decoder.read_symbols`."""
    self.coder = coder
    self.s_color, self.s_shape, self.s_position, self.log2_cell = entry
    self.above = int(bool(self.splats))
    usual = [
        0,
        0,
        -(-self.width >> self.log2_cell),
        -(-self.height >> self.log2_cell),
    ]
    x0, y0, x1, y1 = (
        self.value(0, [(4 * self.above + i, -1)] + [(0, -1)] * 4) + usual[i]
        for i in range(4)
    )
    limit = 2**14 - 1
    self.require(-limit <= x0 < x1 <= limit, 'box')
    self.require(-limit <= y0 < y1 <= limit, 'box')
    w, g = x1 - x0, y1 - y0
    boxes, grid, a, b = self.cells(count, w, g)
    rows = []
    levels = bits(w - 1), bits(g - 1)
    for i, j, n in boxes:
      for _ in range(n):
        x, y = j * w >> levels[0], i * g >> levels[1]
        rows.append({'cell_x': x + x0, 'cell_y': y + y0, 'at': (x, y)})
    self.classes(rows, grid, a, b, w, g)
    order = sorted(range(count), key=lambda i: -rows[i]['K'])
    for i in order:
      self.splat(rows[i])
    self.splats += rows
    return rows

  def cells(self, count, w, g):
    top_a, top_b = bits(w - 1), bits(g - 1)
    a = b = seen_a = seen_b = 0
    boxes, grid, seen = [(0, 0, count)], {(0, 0): count}, True
    while a < top_a or b < top_b:
      by_column = a < top_a and (b == top_b or w * 2**b >= g * 2**a)
      seen = seen and 2 ** (a + b + 1) <= 32 * count + 4096
      new, made = [], {}
      y = min(top_a - a + top_b - b, 15)
      for i, j, n in boxes:
        k, size, halved = (j, w, a) if by_column else (i, g, b)
        low, high = k * size >> halved, (k + 1) * size >> halved
        middle = (2 * k + 1) * size >> (halved + 1)
        if middle in (low, high):
          n0 = 0 if middle == low else n
        else:
          around = n, n, 0, 0
          if seen:
            around = self.around(grid, made, i, j, n, by_column, a, b)
          u = 0
          if middle - low != high - middle:
            u = 1 if middle - low < high - middle else 2
          models = self.split_models(n, around, u, y)
          kind = 'sign' if n == 1 else 'nonzero' if n % 2 else 'any'
          v = self.value(1, models, kind)
          excess = 2 * abs(v) - n % 2
          sign = (v > 0) - (v < 0)
          n0 = (n + sign * excess) >> 1 if v else n // 2
          self.require(0 <= n0 <= n, 'n0')
        for half, part in enumerate((n0, n - n0)):
          if part:
            box = (i, 2 * j + half) if by_column else (2 * i + half, j)
            new.append((*box, part))
            made[box] = part
      boxes = new
      a, b = a + by_column, b + (not by_column)
      if seen:
        grid, seen_a, seen_b = made, a, b
    return boxes, grid, seen_a, seen_b

  def around(self, before, made, i, j, n, by_column, a, b):
    def swap(box):
      return box if by_column else box[::-1]

    # Names as where columns are halved.
    i, j = swap((i, j))
    columns = 2 ** (a if by_column else b)
    p = lambda r, c: before.get(swap((r, c)), 0)
    q = lambda r, c: made.get(swap((r, c)), 0)
    near = 2 * q(i, 2 * j - 1) if j > 0 else None
    far = p(i, j + 1) if j + 1 < columns else None
    if near is None:
      near = n if far is None else far
    if far is None:
      far = near
    side0 = 4 * q(i - 1, 2 * j) + p(i - 1, j - 1) + p(i + 1, j - 1)
    side1 = 4 * q(i - 1, 2 * j + 1) + p(i - 1, j + 1) + p(i + 1, j + 1)
    return near, far, side0, side1

  def split_models(self, n, around, u, y):
    near, far, side0, side1 = around
    z = n if n < 5 else min(2 + bits(n - 1), 9)
    lean, m = near - far, side0 - side1
    t = 2 * (near + far) + side0 + side1
    density = clamp(log4(2 * t // (6 * n) + 1) >> 1, 0, 7)
    f, r = int(2 * lean + m < 0), min(24 * abs(2 * lean + m) // (t + 6), 15)
    f1, r1 = int(lean < 0), min(8 * abs(lean) // (near + far + 2), 7)
    f2, r2 = int(m < 0), min(8 * abs(m) // (side0 + side1 + 4), 7)
    seen_from = lambda flip: 3 - u if u and flip else u
    return [
        ((16 * z + r) * 3 + seen_from(f), f),
        (((8 * z + r1) * 4 + (density >> 1)) * 3 + seen_from(f1), f1),
        ((16 * z + y) * 8 + density, -1),
        (((8 * min(z, 5) + r2) * 8 + r1) * 2 + (f1 == f2), f2),
        ((16 * z + y) * 16 + r, f),
    ]

  def place(self, level, p, r):
    number = 73856093 * p + 19349663 * r + 83492791 * level
    return (number % 2**32 >> 7) % 2**self.q

  def enter(self, table, splat):
    x, y = splat['eighths']
    for level in range(1, 8):
      table[self.place(level, x >> 3 + level, y >> 3 + level)] = splat

  def search(self, table, splat, level):
    """(splat, squared distance) of what is found."""
    x, y = splat['eighths']
    found = []
    for v in (-1, 0, 1):
      for u in (-1, 0, 1):
        other = table.get(
            self.place(level, (x >> 3 + level) + u, (y >> 3 + level) + v)
        )
        if other:
          dx, dy = (
              min(abs(p - q), 2**18)
              for p, q in zip(splat['eighths'], other['eighths'])
          )
          found.append((other, dx * dx + dy * dy))
    return found

  def classes(self, rows, grid, a, b, w, g):
    unit = max(1, 64 * w * g // 2 ** (a + b))
    sums = [[0] * (2**a + 1) for _ in range(2**b + 1)]
    for r in range(2**b):
      for c in range(2**a):
        sums[r + 1][c + 1] = (
            grid.get((r, c), 0) + sums[r][c + 1] + sums[r + 1][c] - sums[r][c]
        )

    def window(row, column, reach):
      top, bottom = max(row - reach, 0), min(row + reach + 1, 2**b)
      left, right = max(column - reach, 0), min(column + reach + 1, 2**a)
      held = sums[bottom][right] - sums[top][right]
      held += sums[top][left] - sums[bottom][left]
      return held, (bottom - top) * (right - left)

    before = 6
    for s in rows:
      x, y = s['at']
      column, row = ((x + 1) * 2**a - 1) // w, ((y + 1) * 2**b - 1) // g
      own, _ = window(row, column, 1)
      for reach in (1, 2, 4, 8, 16, 32):
        count, area = window(row, column, reach)
        if count >= 6:
          break
      spread = log4(max(1, area * unit // count)) >> 1
      spread = clamp(spread - 4 + 4 * (self.log2_cell - 2), 0, 23)
      level = clamp(spread + 3 >> 2, 1, 7)
      s['eighths'] = [
          clamp((2 * s[cell] + 1) << self.log2_cell + 2, -(2**28), 2**28)
          for cell in ('cell_x', 'cell_y')
      ]
      u = 64 * 4**level
      found = self.search(self.coarse, s, level)
      weights = [1024 * u // (u + 4 * d) for _, d in found]
      z = sum(weights)
      mean = sum(x * o['K'] for x, (o, _) in zip(weights, found))
      mean = (4 * mean + 1536) // (z + 128)
      like, far = 3, 7
      if found:
        other, d = min(found, key=lambda pair: pair[1])
        like, far = other['K'], clamp(log4(16 * d // u + 1) >> 2, 0, 7)
      crowd = clamp(own - 1, 0, 3)
      models = [
          (24 * self.above + spread) * 4 + crowd,
          24 * clamp((mean >> 1) + 5, 0, 23) + spread,
          (8 * clamp(like + 3, 0, 15) + far) * 16 + before,
          4 * clamp(mean + 10, 0, 47) + min(z >> 10, 3),
          (4 * spread + crowd) * 16 + before,
      ]
      s['K'] = self.value(2, [(row, -1) for row in models]) + 3
      self.require(abs(s['K']) <= 46, 'K')
      before = clamp(s['K'] + 3, 0, 15)
      self.enter(self.coarse, s)

  def splat(self, s):
    k = s['K']
    reach = (64 << clamp(k, 0, 24)) + 256
    found = self.search(self.fine, s, clamp((k + 1 >> 1) + 1, 1, 7))
    weights = [256 * reach // (reach + d) for _, d in found]
    z = sum(weights)

    def total(value):
      return sum(x * value(o) for x, (o, _) in zip(weights, found))

    s['kind'] = clamp(k + 3, 0, 15)
    s['distance'], nearest = 15, 0
    if found:
      other, d = min(found, key=lambda pair: pair[1])
      s['distance'] = clamp(log4(16 * d // reach + 1) >> 1, 0, 15)
      nearest = other['e'][0]
    self.colors(s, total, (z + 32) * self.s_color, nearest)
    energy = sum(s[f'c{i}'] ** 2 for i in range(self.channels))
    t = s['T'] = clamp(bits(energy), 1, 32)
    d = self.s_shape * (65536 if t % 2 else 46341) >> ((t - 1) >> 1)
    d = s['D'] = max(d, 1 << 12)
    s['n'] = max(1, (263136042 + (d >> 1)) // d)
    low, high = 0, s['n']
    while high - low > 1:
      middle = low + high >> 1
      if self.coder.bit(2**16 * (middle - low) // (high - low)):
        low = middle
      else:
        high = middle
    s['j'] = low
    self.shape(s, total, z)
    self.position(s)
    s['e'] = [
        clamp(s[f'c{i}'] * self.s_color >> 4, -(2**20), 2**20)
        for i in range(self.channels)
    ]
    s['H'] = clamp(s['h'] * d >> 22, -256, 256)
    s['B'] = clamp(s['b'] * d >> 22, -256, 256)
    self.enter(self.fine, s)

  def colors(self, s, total, v, nearest):
    kind, distance, above = s['kind'], s['distance'], self.above
    size = lambda number, most: min(bits(abs(number)), most)
    short = lambda other, i: clamp(other['e'][i], -4096, 4096)
    second = 0
    for i in range(self.channels):
      mag = log4(32 * total(lambda o, i=i: abs(o['e'][i])) // v + 1)
      if i == 0:
        near = 16 * nearest // self.s_color
        mean = 16 * total(lambda o: o['e'][0]) // v
        models = [
            (2 * kind + above, -1),
            (16 * clamp(mag >> 1, 0, 19) + kind, -1),
            (16 * size(near, 7) + distance, near < 0),
            (16 * kind + distance, -1),
            (16 * size(mean, 7) + distance, mean < 0),
        ]
        value = c0 = self.value(3, models)
        sign, first = (-1 if c0 < 0 else 1), size(c0, 9)
      else:
        slope = 2 * total(lambda o, i=i: short(o, 0) * short(o, i))
        slope *= min(abs(c0), 4096)
        slope //= total(lambda o: short(o, 0) ** 2) + 64
        if i == 1:
          mean = sign * (16 * total(lambda o: o['e'][1]) // v)
          models = [
              ((16 * first + kind) * 2 + (c0 < 0), -1),
              (10 * size(slope, 7) + first, slope < 0),
              (
                  (8 * clamp(mag >> 2, 0, 7) + size(slope, 7)) * 2 + above,
                  slope < 0,
              ),
              (10 * clamp(mag >> 1, 0, 15) + first, -1),
              (10 * size(mean, 7) + first, mean < 0),
          ]
          value = second = self.value(4, models)
        else:
          r = 2 * total(lambda o, i=i: short(o, 1) * short(o, i))
          r *= clamp(second, -4096, 4096)
          r //= total(lambda o: short(o, 1) ** 2) + 64
          both = min(bits((abs(c0) >> 1) + 2 * abs(second)), 6)
          agrees = (second < 0) == (slope < 0)
          models = [
              (10 * clamp(mag >> 1, 0, 15) + first, -1),
              ((7 * size(second, 6) + both) * 2 + agrees, second < 0),
              (7 * size(r, 6) + size(second, 6), r < 0),
              (10 * size(slope, 7) + first, slope < 0),
              ((16 * first + kind) * 2 + (c0 < 0), -1),
          ]
          value = self.value(5, models)
        value *= sign
      self.require(abs(value) < 1 << 22, f'c{i}')
      s[f'c{i}'] = value

  def shape(self, s, total, z):
    kind, distance, above = s['kind'], s['distance'], self.above
    t, d = s['T'], s['D']
    e = total(lambda o: o['H']) // (z + 64)
    f = total(lambda o: o['B']) // (z + 64)
    half = min(t >> 1, 9)
    steps = lambda v: bits(clamp(2 * (abs(v) << 22) // d, 0, 127))
    row = 5 * min(bits(abs(e) >> 2), 5) + min(bits(abs(f) >> 3), 4)
    models = [
        (16 * min(t, 15) + kind, -1),
        (10 * steps(e) + half, e < 0),
        ((row * 2 + (f < 0)) * 5 + min(t // 3, 4), e < 0),
        (2 * min(t, 19) + above, -1),
        (16 * half + distance, -1),
    ]
    s['h'] = self.value(6, models)
    self.require(abs(s['h']) < 1 << 20, 'h')
    own = clamp(s['h'] * d >> 22, -256, 256)
    skew = min(bits(abs(own) >> 3), 5)
    row = (6 * min(bits(abs(f) >> 2), 6) + skew) * 4
    row += min(bits(abs(e) >> 3), 3)
    models = [
        ((6 * kind + skew) * 10 + half, -1),
        (10 * steps(f) + half, f < 0),
        (row * 2 + ((own < 0) != (e < 0)), f < 0),
        ((6 * min(t, 19) + skew) * 2 + above, -1),
        (16 * half + distance, -1),
    ]
    s['b'] = self.value(7, models)
    self.require(abs(s['b']) <= 12 * 2**28 // d, 'b')

  def position(self, s):
    o = bits(self.s_position) - 1
    p = 256 * (o - 12) + (self.s_position * 256 >> o) - 256
    q = p + 128 * (s['K'] - s['T'] + 1)
    r = s['b'] * s['D'] * 185 >> 28
    s['eighths'] = []
    for axis, level in (('x', q + r), ('y', q - r)):
      count = clamp(self.log2_cell - ((level + 128) >> 8), 0, 8)
      symbol = s['cell_' + axis]
      for _ in range(count):
        symbol = 2 * symbol + self.coder.bit()
      s['bits_' + axis], s[axis] = count, symbol
      shift = self.log2_cell - count + 2
      odd = 2 * symbol + 1
      odd = odd << shift if shift >= 0 else odd >> -shift
      s['eighths'].append(clamp(odd, -(2**28), 2**28))
