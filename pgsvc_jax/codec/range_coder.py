"""Integers <-> bytes by an adaptive binary range coder, in integers only.

A value is split into yes/no decisions; each decision has a context that learns
how often it is a 1, and the coder spends -log2 p bits on it. Its arithmetic is
on integers below 2**53, so Numba, plain Python and JavaScript agree bit for
bit. `docs/format_v2.md` is the specification.

With m = |value| + 1 and its size s = floor(log2 m), a value is

  s ones and a zero    each place has its context     (prefix)
  lower bits of m      the top two have contexts, the rest are even chances
  sign                 one context, only if value != 0

Values are coded column after column, so that the contexts of a column may
depend on all of the columns before it. Version 1 went row after row, every
column with contexts of its own: as one long column here.

All compiled code stands in this one file because Numba's cache does not notice
changes of functions imported from another.
"""

import math

from jaxtyping import Int
import numpy as np

from pgsvc_jax.codec import compiling

# Largest size: |value| < 2**62 - 1. The zero that ends the prefix is not coded
# there, so that no byte sequence has an endless prefix.
_MAX_SIZE = 61
MAX_VALUE = 2 ** (_MAX_SIZE + 1) - 2

# Contexts of one column: prefix places, sign, then three nodes for the top two
# bits below the leading one, for every size.
_SIGN = _MAX_SIZE
_MANTISSA = _SIGN + 1
_NUM_CONTEXTS = _MANTISSA + 3 * (_MAX_SIZE + 1)

# A context is (fast chance, slow chance, count); a chance is that of a 0, of
# 2**20. It starts as the plain average of what came and ends as one that
# forgets after about 32 or 512 decisions. Rounding keeps the mean of the two
# within 16..65519 of 2**16: no decision is ever impossible.
_CHANCE_ONE = 2**20
_FAST = 32
_SLOW = 512
_EVEN = 2**15

# The coder's interval: its low end (while encoding) or what the data is above
# it (while decoding), its width, and the next byte.
_LOW, _WIDTH, _NEXT = 0, 1, 2
_FULL_WIDTH = 2**32
_MIN_WIDTH = 2**24
# The decoder reads this many bytes ahead.
_LOOKAHEAD = 4

# More than any value takes: 65 decisions of at most 12 bits and 59 bits.
_MAX_VALUE_BYTES = 128


def _new_contexts(columns: int) -> Int[np.ndarray, 'columns contexts 3']:
  contexts = np.zeros((columns, _NUM_CONTEXTS, 3), np.int64)
  contexts[:, :, :2] = _CHANCE_ONE // 2
  return contexts


@compiling.inner
def _chance(contexts, column, place):
  """The chance of a 0, of 2**16."""
  state = contexts[column, place]
  return (state[0] + state[1]) >> 5


@compiling.inner
def _learn(contexts, column, place, bit):
  state = contexts[column, place]
  memory = state[2] + 2
  for rate, limit in ((0, _FAST), (1, _SLOW)):
    divisor = min(memory, limit)
    if bit:
      state[rate] -= state[rate] // divisor
    else:
      state[rate] += (_CHANCE_ONE - state[rate]) // divisor
  if memory < _SLOW:
    state[2] += 1


@compiling.inner
def _carry(out, end):
  """Adds one to the number that the bytes before `end` are."""
  end -= 1
  while out[end] == 255:
    out[end] = 0
    end -= 1
  out[end] += 1


@compiling.inner
def _encode_bit(coder, out, chance, bit):
  low, width, position = coder[_LOW], coder[_WIDTH], coder[_NEXT]
  bound = width * chance >> 16
  if bit:
    low += bound
    width -= bound
    if low >= _FULL_WIDTH:
      low -= _FULL_WIDTH
      _carry(out, position)
  else:
    width = bound
  while width < _MIN_WIDTH:
    out[position] = low >> 24
    position += 1
    low = (low & 0xFFFFFF) << 8
    width <<= 8
  coder[_LOW], coder[_WIDTH], coder[_NEXT] = low, width, position


@compiling.inner
def _encode_decision(coder, out, contexts, column, place, bit):
  _encode_bit(coder, out, _chance(contexts, column, place), bit)
  _learn(contexts, column, place, bit)


@compiling.inner
def _encode_value(coder, out, contexts, column, value):
  shifted = abs(value) + 1
  size = 0
  while shifted >> (size + 1):
    _encode_decision(coder, out, contexts, column, size, 1)
    size += 1
  if size < _MAX_SIZE:
    _encode_decision(coder, out, contexts, column, size, 0)
  node = 0
  for k in range(size - 1, -1, -1):
    bit = (shifted >> k) & 1
    if node < 3:
      place = _MANTISSA + 3 * size + node
      _encode_decision(coder, out, contexts, column, place, bit)
      node = 2 * node + 1 + bit
    else:
      _encode_bit(coder, out, _EVEN, bit)
  if value != 0:
    sign = 1 if value < 0 else 0
    _encode_decision(coder, out, contexts, column, _SIGN, sign)


@compiling.compiled
def _encode_column(coder, out, contexts, values, which):
  """Returns `out` or what replaces it: there must be room for all values."""
  for row in range(len(values)):
    if len(out) - coder[_NEXT] < 2 * _MAX_VALUE_BYTES:
      larger = np.zeros(2 * len(out), np.uint8)
      larger[: len(out)] = out
      out = larger
    _encode_value(coder, out, contexts, which[row], values[row])
  return out


@compiling.compiled
def _encode_bits(coder, out, values, widths):
  for row in range(len(values)):
    if len(out) - coder[_NEXT] < 2 * _MAX_VALUE_BYTES:
      larger = np.zeros(2 * len(out), np.uint8)
      larger[: len(out)] = out
      out = larger
    for k in range(widths[row] - 1, -1, -1):
      _encode_bit(coder, out, _EVEN, (values[row] >> k) & 1)
  return out


@compiling.compiled
def _flush(coder, out):
  """Ends with the fewest bytes that, zeros following, lie in the interval."""
  low, width, position = coder[_LOW], coder[_WIDTH], coder[_NEXT]
  count = 0
  rest = _FULL_WIDTH - 1
  while ((low + rest) & ~rest) >= low + width:
    count += 1
    rest >>= 8
  low = (low + rest) & ~rest
  if low >= _FULL_WIDTH:
    low -= _FULL_WIDTH
    _carry(out, position)
  for k in range(count):
    out[position + k] = (low >> (24 - 8 * k)) & 0xFF
  return position + count


@compiling.compiled
def _next_byte(coder, data):
  """The next byte of the data, zeros after its end."""
  position = coder[_NEXT]
  coder[_NEXT] = position + 1
  return np.int64(data[position]) if position < len(data) else np.int64(0)


@compiling.inner
def _decode_bit(coder, data, chance):
  bound = coder[_WIDTH] * chance >> 16
  if coder[_LOW] < bound:
    bit = 0
    coder[_WIDTH] = bound
  else:
    bit = 1
    coder[_LOW] -= bound
    coder[_WIDTH] -= bound
  while coder[_WIDTH] < _MIN_WIDTH:
    coder[_LOW] = coder[_LOW] << 8 | _next_byte(coder, data)
    coder[_WIDTH] <<= 8
  return bit


@compiling.inner
def _decode_decision(coder, data, contexts, column, place):
  bit = _decode_bit(coder, data, _chance(contexts, column, place))
  _learn(contexts, column, place, bit)
  return bit


@compiling.inner
def _decode_value(coder, data, contexts, column):
  size = 0
  while size < _MAX_SIZE and _decode_decision(
      coder, data, contexts, column, size
  ):
    size += 1
  shifted = np.int64(1)
  node = 0
  for _ in range(size):
    if node < 3:
      place = _MANTISSA + 3 * size + node
      bit = _decode_decision(coder, data, contexts, column, place)
      node = 2 * node + 1 + bit
    else:
      bit = _decode_bit(coder, data, _EVEN)
    shifted = 2 * shifted + bit
  value = shifted - 1
  if value and _decode_decision(coder, data, contexts, column, _SIGN):
    return -value
  return value


@compiling.compiled
def _decode_column(coder, data, contexts, which, values):
  for row in range(len(values)):
    # Garbage would go on for as many values as were promised.
    if coder[_NEXT] > len(data) + _LOOKAHEAD:
      break
    values[row] = _decode_value(coder, data, contexts, which[row])


@compiling.compiled
def _decode_bits(coder, data, widths, values):
  for row in range(len(values)):
    if coder[_NEXT] > len(data) + _LOOKAHEAD:
      break
    value = 0
    for _ in range(widths[row]):
      value = 2 * value + _decode_bit(coder, data, _EVEN)
    values[row] = value


class Statistics:
  """What contexts have learned, kept from one use of a column to the next.

  Encoder and decoder each hold one and ask for the same columns in the same
  order.
  """

  def __init__(self):
    self._states = {}

  def of(self, name: str, count: int) -> Int[np.ndarray, 'columns contexts 3']:
    """The states of at least `count` contexts of a column, to be updated."""
    states = self._states.get(name, _new_contexts(0))
    if len(states) < count:
      states = np.concatenate([states, _new_contexts(count - len(states))])
      self._states[name] = states
    return states


def _states_of(statistics, name, contexts):
  count = contexts.max(initial=0) + 1
  return statistics.of(name, count) if statistics else _new_contexts(count)


class Encoder:
  """Codes columns of integers, one after the other.

  Example:
    >>> encoder = Encoder()
    >>> encoder.column(np.array([3, -1]), np.array([0, 1]))
    >>> encoder.bits(np.array([5, 1]), np.array([3, 1]))
    >>> decoder = Decoder(encoder.finish())
    >>> decoder.column(np.array([0, 1])), decoder.bits(np.array([3, 1]))
    (array([ 3, -1]), array([5, 1]))
    >>> decoder.finish()
  """

  def __init__(self):
    self._coder = np.array([0, _FULL_WIDTH, 0])
    self._out = np.zeros(4 * _MAX_VALUE_BYTES, np.uint8)

  def column(
      self,
      values: Int[np.ndarray, ' n'],
      contexts: Int[np.ndarray, ' n'],
      statistics: Statistics | None = None,
      name: str = '',
  ) -> None:
    """Codes values, each with the statistics of its context.

    Args:
      values: integers, at most MAX_VALUE in magnitude.
      contexts: a small number for each value, from 0. A column shares none of
        its statistics with other columns.
      statistics: where they are kept; None: they start afresh.
      name: of the column in there.

    Raises:
      ValueError: a value is too large.
    """
    values = np.ascontiguousarray(values, np.int64)
    contexts = np.ascontiguousarray(contexts, np.int64)
    if ((values > MAX_VALUE) | (values < -MAX_VALUE)).any():
      raise ValueError(f'symbols beyond {MAX_VALUE}')
    states = _states_of(statistics, name, contexts)
    self._out = _encode_column(self._coder, self._out, states, values, contexts)

  def bits(
      self, values: Int[np.ndarray, ' n'], widths: Int[np.ndarray, ' n']
  ) -> None:
    """Codes the lowest `widths` bits (up to 62) of each value as they are."""
    values = np.ascontiguousarray(values, np.int64)
    widths = np.ascontiguousarray(widths, np.int64)
    self._out = _encode_bits(self._coder, self._out, values, widths)

  @property
  def num_bits(self) -> float:
    """What has been coded so far, fractions of a bit included."""
    bits = math.log2(_FULL_WIDTH) - math.log2(self._coder[_WIDTH])
    return 8 * int(self._coder[_NEXT]) + bits

  def finish(self) -> bytes:
    """The coded bytes; zero bytes may be appended freely."""
    return self._out[: _flush(self._coder, self._out)].tobytes()


class Decoder:
  """Reads what Encoder coded, asked in the same order. Safe on any bytes.

  Every method raises ValueError where the data ends before the last symbol;
  other damage gives other symbols and needs a checksum to be seen.
  """

  def __init__(self, data: bytes):
    self._data = np.frombuffer(data, np.uint8)
    self._coder = np.array([0, _FULL_WIDTH, 0])
    for _ in range(_LOOKAHEAD):
      byte = _next_byte(self._coder, self._data)
      self._coder[_LOW] = self._coder[_LOW] << 8 | byte

  def column(
      self,
      contexts: Int[np.ndarray, ' n'],
      statistics: Statistics | None = None,
      name: str = '',
  ) -> Int[np.ndarray, ' n']:
    """The values of a column, given the context of each."""
    contexts = np.ascontiguousarray(contexts, np.int64)
    values = np.zeros(len(contexts), np.int64)
    states = _states_of(statistics, name, contexts)
    _decode_column(self._coder, self._data, states, contexts, values)
    self._check_end()
    return values

  def bits(self, widths: Int[np.ndarray, ' n']) -> Int[np.ndarray, ' n']:
    """Numbers of as many bits as given, each."""
    widths = np.ascontiguousarray(widths, np.int64)
    values = np.zeros(len(widths), np.int64)
    _decode_bits(self._coder, self._data, widths, values)
    self._check_end()
    return values

  def finish(self) -> None:
    """Raises ValueError where the data goes on after the last symbol."""
    if self._data[self._coder[_NEXT] :].any():
      raise ValueError('coded symbols end before their data')

  def _check_end(self) -> None:
    if self._coder[_NEXT] > len(self._data) + _LOOKAHEAD:
      raise ValueError('coded symbols end too early')
