"""Integers <-> bytes by mixed, trained contexts: the coder of version 6.

A value is split into yes/no decisions, as `range_coder` does, but five models
predict each of them. A model is a table of states, and a context tells which of
its rows is asked; a state is the chance of a 1 and how often it was seen. The
five chances are mixed as logistic regression would mix them,

  chance = squash(sum of weight * stretch(chance of the model)),

with weights that depend on how often the state was seen and that learn from
every decision; see Mahoney, Adaptive weighing of context models for lossless
data compression, 2005. States and weights start as trained on other pictures
(`models`).

One description serves both directions: the same code writes a value that it is
given, or reads it. Everything that decides what is decoded is a rule on
integers below 2**53, so Numba, plain Python and JavaScript agree bit for bit.
`docs/format.md` is the specification.
"""

from typing import NamedTuple

import numpy as np

from pgsvc_jax.codec import compiling

compiled, inlined = compiling.compiled, compiling.inlined

# Columns, each with models of its own.
BOX, CELL, CLASS, COLOR0, COLOR1, COLOR2, SHEAR, ASPECT = range(8)
NUM_COLUMNS = 8
# What is not predicted counts as columns of their own where bits are counted.
SIZE, PLACE = 8, 9
NUM_MODELS = 5
# Decisions of a value: whether it is 0, its sign, ten places of the prefix of
# its magnitude, fifteen of the two bits below the leading one. Of a model that
# predicts a sign they stand again, for values of the other sign.
PREFIX, MANTISSA, NUM_NODES = 2, 12, 27
_LAST_PREFIX = 9
_MAX_SIZE = 40

# How often a state was seen is told to the weights in six steps.
_SEEN_STEPS = (1, 3, 8, 23, 64)
NUM_SEEN = 6
SEEN_LIMIT = 255
LEARNING_RATE = 8

CHANCE_BITS = 16
ONE = 1 << CHANCE_BITS
_LEAST = 32
# A state is chance << 10 | seen.
SEEN_BITS = 10
_SEEN_MASK = (1 << SEEN_BITS) - 1
_MAX_WEIGHT = 2**19 - 1
# An input that is always there.
_BIAS = 77

# 2**16 / (1 + exp(-x / 2)), rounded, for x = -16 .. 16.
_SIGMOID = np.array(
    [
        *(22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812),
        *(11955, 17625, 24743, 32768, 40793, 47911, 53581, 57724, 60565),
        *(62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476),
        *(65500, 65514),
    ]
)
# Logits count 1/256 and are within this many of them.
_LOGITS = 2048


def _make_squash() -> np.ndarray:
  """The chance of every logit, by straight lines between those of _SIGMOID."""
  place = np.arange(2 * _LOGITS)
  low, part = place >> 7, place & 127
  chance = _SIGMOID[low] * (128 - part) + _SIGMOID[low + 1] * part + 64 >> 7
  return np.clip(chance, _LEAST, ONE - _LEAST)


def _make_stretch() -> np.ndarray:
  """Of chances in 1/4096 the greatest logit whose chance is not above them."""
  chances = 16 * np.arange(4096) + 8
  place = np.searchsorted(SQUASH, chances, side='right') - 1
  return np.maximum(place, 1) - _LOGITS


SQUASH = _make_squash()
_STRETCH = _make_stretch()
# 2**16 / (n + 1.6): what a state learns when it was seen n times.
_LEARN = 5 * ONE // (5 * np.arange(_SEEN_MASK + 1) + 8)
_SEEN = np.searchsorted(_SEEN_STEPS, np.arange(_SEEN_MASK + 1), side='right')
# Bits of a chance in 1/4096, in 1/65536; only to be told.
_COST = np.rint(-ONE * np.log2((np.arange(4096) + 0.5) / 4096)).astype(np.int64)
_BIT_LENGTHS = np.array([n.bit_length() for n in range(256)])

# What a coder is: low end (writing) or what the data is above it (reading) of
# its interval, its width, the next byte, whether it writes, the limit of what
# states count to and the rate of the weights; then room for the models of one
# decision and for the bits of each column.
LOW, WIDTH, NEXT, WRITES, LIMIT, RATE = range(6)
_ROW, _FLIP, _INPUT, _PLACE, BITS = 8, 16, 24, 32, 40
_CODER_SIZE = 56
# The decoder reads this many bytes ahead.
_LOOKAHEAD = 4


class Model(NamedTuple):
  """What contexts have learned.

  Attributes:
    states: int32 [rows * 2 NUM_NODES], chance of a 1 << 10 | times seen.
    weights: int32 [NUM_COLUMNS * NUM_NODES * (NUM_MODELS + 1) * NUM_SEEN], of
      2**16; the last model is the input that is always there.
  """

  states: np.ndarray
  weights: np.ndarray


class Coder(NamedTuple):
  """A coder: what it does, the bytes, and what its contexts have learned."""

  state: np.ndarray
  data: np.ndarray
  model: Model


def writer(model: Model, capacity: int) -> Coder:
  """Writes values to as many bytes at most."""
  state = np.zeros(_CODER_SIZE, np.int64)
  state[[WIDTH, WRITES]] = 1 << 32, 1
  return Coder(state, np.zeros(capacity, np.uint8), model)


def reader(model: Model, data: bytes) -> Coder:
  """Reads what a writer wrote."""
  state = np.zeros(_CODER_SIZE, np.int64)
  state[[WIDTH, NEXT]] = 1 << 32, _LOOKAHEAD
  state[LOW] = int.from_bytes(data[:_LOOKAHEAD].ljust(_LOOKAHEAD, b'\0'), 'big')
  return Coder(state, np.frombuffer(bytearray(data), np.uint8), model)


def finish_writing(coder: Coder) -> bytes:
  """The fewest bytes that, zeros following, lie in the interval."""
  low, width = int(coder.state[LOW]), int(coder.state[WIDTH])
  position = int(coder.state[NEXT])
  count, rest = 0, (1 << 32) - 1
  while ((low + rest) & ~rest) >= low + width:
    count += 1
    rest >>= 8
  low = (low + rest) & ~rest
  whole = int.from_bytes(coder.data[:position].tobytes(), 'big')
  whole = (whole << 32) + low >> 32 - 8 * count
  return whole.to_bytes(position + count, 'big')


def finish_reading(coder: Coder) -> None:
  """Raises ValueError where data goes on after the last value."""
  if coder.data[coder.state[NEXT] :].any():
    raise ValueError('coded symbols end before their data')


@inlined
def bit_length(n):
  """Bits of an integer >= 0; 0 has none."""
  length = 0
  while n > 255:
    n >>= 8
    length += 8
  return length + _BIT_LENGTHS[n]


@inlined
def clamp(n, low, high):
  """n, or the limit that it is beyond."""
  return low if n < low else high if n > high else n


@inlined
def log4(n):
  """4 log2(n) of an integer > 0, in straight lines and rounded down."""
  octave = bit_length(n) - 1
  return 4 * octave + ((n << 2 >> octave) & 3)


@inlined
def is_spent(coder):
  """Whether more was read than there is: garbage would go on for ever."""
  state = coder.state
  return state[WRITES] == 0 and state[NEXT] > len(coder.data) + _LOOKAHEAD


@inlined
def _code_bit(state, data, chance, bit):
  """Writes or reads a bit; `chance` is that of a 0, of 2**16."""
  width = state[WIDTH]
  bound = width * chance >> CHANCE_BITS
  if state[WRITES]:
    if bit:
      state[LOW] += bound
      width -= bound
      if state[LOW] >= 1 << 32:
        state[LOW] -= 1 << 32
        end = state[NEXT] - 1
        while data[end] == 255:
          data[end] = 0
          end -= 1
        data[end] += 1
    else:
      width = bound
    while width < 1 << 24:
      data[state[NEXT]] = state[LOW] >> 24
      state[NEXT] += 1
      state[LOW] = (state[LOW] & 0xFFFFFF) << 8
      width <<= 8
  else:
    if state[LOW] < bound:
      bit = 0
      width = bound
    else:
      bit = 1
      state[LOW] -= bound
      width -= bound
    while width < 1 << 24:
      position = state[NEXT]
      byte = np.int64(data[position]) if position < len(data) else 0
      state[NEXT] = position + 1
      state[LOW] = state[LOW] << 8 | byte
      width <<= 8
  state[WIDTH] = width
  return bit


@compiled
def code_bits(coder, num_bits, value):
  """The lowest bits of a value, as they are."""
  result = 0
  for k in range(num_bits - 1, -1, -1):
    bit = _code_bit(coder.state, coder.data, ONE >> 1, (value >> k) & 1)
    result = 2 * result + bit
  coder.state[BITS + PLACE] += num_bits * ONE
  return result


@compiled
def code_uniform(coder, count, value):
  """A number in 0 .. count - 1, all alike."""
  low, high = 0, count
  while high - low > 1:
    middle = low + high >> 1
    chance = ((middle - low) << CHANCE_BITS) // (high - low)
    bit = 1 if value >= middle else 0
    if coder.state[WRITES]:
      share = ONE - chance if bit else chance
      coder.state[BITS + SIZE] += _COST[share >> 4]
    if _code_bit(coder.state, coder.data, chance, bit):
      low = middle
    else:
      high = middle
  return low


@inlined
def set_model(state, k, row, flip):
  """The row that model k is asked in the decisions of the next value.

  Args:
    state: of the coder.
    k: of the models.
    row: of its states.
    flip: 1 where the model expects a value < 0, 0 where one > 0: signs are
      then coded as seen from there; -1 where it expects neither.
  """
  state[_ROW + k] = row
  state[_FLIP + k] = flip


# Which decisions come first in a value.
ANY, NOT_ZERO, SIGN_ONLY = range(3)


@compiled
def code_value(coder, column, kind, value):
  """An integer, by the models that were set.

  Args:
    coder: of the value.
    column: that weights and bits belong to.
    kind: ANY; NOT_ZERO where the value cannot be 0; SIGN_ONLY where it is -1 or
      1.
    value: to be written.

  Returns:
    The value.
  """
  state, data = coder.state, coder.data
  states, weights = coder.model.states, coder.model.weights
  magnitude = abs(value)
  negative = 1 if value < 0 else 0
  full_size = bit_length(magnitude) - 1
  stage = 0 if kind == ANY else 1
  node = stage
  size, done, read = 0, 0, 1
  while True:
    # What comes next: is it 0, its sign, its prefix, its lower bits.
    if stage == 0:
      bit = 1 if magnitude else 0
    elif stage == 1:
      bit = negative
    elif stage == 2:
      bit = 1 if size < full_size else 0
    else:
      bit = (magnitude >> (size - 1 - done)) & 1
    if stage == 4:
      if state[WRITES]:
        state[BITS + column] += ONE
      bit = _code_bit(state, data, ONE >> 1, bit)
    else:
      mixer = (column * NUM_NODES + node) * (NUM_MODELS + 1) * NUM_SEEN
      bias = mixer + NUM_MODELS * NUM_SEEN
      total = weights[bias] * _BIAS
      for k in range(NUM_MODELS):
        flip = state[_FLIP + k]
        place = state[_ROW + k] * (2 * NUM_NODES) + node
        if node >= PREFIX and flip >= 0 and flip != negative:
          place += NUM_NODES
        learned = states[place]
        logit = _STRETCH[learned >> SEEN_BITS + 4]
        if node == 1 and flip > 0:
          logit = -logit
        state[_INPUT + k] = logit
        state[_PLACE + k] = place
        seen = _SEEN[learned & _SEEN_MASK]
        total += weights[mixer + k * NUM_SEEN + seen] * logit
      total = clamp(total >> CHANCE_BITS, 1 - _LOGITS, _LOGITS - 1)
      chance = SQUASH[total + _LOGITS]
      if state[WRITES]:
        share = chance if bit else ONE - chance
        state[BITS + column] += _COST[share >> 4]
      bit = _code_bit(state, data, ONE - chance, bit)

      error = ((bit << CHANCE_BITS) - chance) * state[RATE]
      weight = weights[bias] + (error * _BIAS >> 18)
      weights[bias] = clamp(weight, -_MAX_WEIGHT, _MAX_WEIGHT)
      for k in range(NUM_MODELS):
        place = state[_PLACE + k]
        learned = np.int64(states[place])
        seen = learned & _SEEN_MASK
        mixed = mixer + k * NUM_SEEN + _SEEN[seen]
        weight = weights[mixed] + (error * state[_INPUT + k] >> 18)
        weights[mixed] = clamp(weight, -_MAX_WEIGHT, _MAX_WEIGHT)
        goal = bit
        if node == 1 and state[_FLIP + k] > 0:
          goal = 1 - bit
        chance = learned >> SEEN_BITS
        chance += ((goal << CHANCE_BITS) - chance) * _LEARN[seen] >> CHANCE_BITS
        chance = clamp(chance, _LEAST, ONE - _LEAST)
        if seen < state[LIMIT]:
          seen += 1
        states[place] = chance << SEEN_BITS | seen

    if stage == 0:
      if not bit:
        return 0
      stage, node = 1, 1
    elif stage == 1:
      negative = bit
      if kind == SIGN_ONLY:
        break
      stage, node = 2, PREFIX
    elif stage == 2:
      if bit:
        size += 1
        node = PREFIX + min(size, _LAST_PREFIX)
      if not bit or size == _MAX_SIZE:
        if not size:
          break
        stage, node = 3, MANTISSA + 3 * min(size - 1, 4)
    else:
      read = 2 * read + bit
      done += 1
      if done == size:
        break
      if done == 1:
        node += 1 + bit
      else:
        stage = 4
  return -read if negative else read
