"""What the contexts of `mixing` know before they have seen anything.

`models.json` holds it; `launch/lab/train_models.py` makes it, from pictures
that are none of those that the codec is judged by.
"""

from collections.abc import Sequence
import functools
import json
import pathlib

import numpy as np

from pgsvc_jax.codec import mixing

PATH = pathlib.Path(__file__).with_name('models.json')

# A state is one of these digits, 4 level + seen: the logit of its chance is 128
# (level - 11), and `seen` stands for one of _SEEN. A space is a state that is
# as if never seen. All printable letters but " and the backslash.
_DIGITS = ''.join(
    chr(code) for code in range(33, 127) if chr(code) not in '"\\'
)
_SEEN = np.array([1, 4, 11, 24])
_LEVELS = 128 * (np.arange(23) - 11) + 2048
# Weights are written in units of 2**-8.
_WEIGHT_SHIFT = 8


def _read_row(text: str) -> list[int]:
  states = []
  for digit in text:
    chance, seen = mixing.ONE // 2, 0
    if digit != ' ':
      level, kind = divmod(_DIGITS.index(digit), 4)
      chance, seen = int(mixing.SQUASH[_LEVELS[level]]), int(_SEEN[kind])
    states.append(chance << mixing.SEEN_BITS | seen)
  return states


def parse(text: str) -> mixing.Model:
  """The model that is written in the text of models.json.

  Example:
    >>> model = load()
    >>> text = write(model, trained_on='', seen_least=0)
    >>> bool((parse(text).states == model.states).all())
    True
  """
  written = json.loads(text)
  rows = [row for table in written['states'] for row in table.split('\n')]
  blank = mixing.ONE // 2 << mixing.SEEN_BITS
  states = np.full((len(rows), 2 * mixing.NUM_NODES), blank, np.int32)
  for k, row in enumerate(rows):
    found = _read_row(row)
    states[k, : len(found)] = found
  weights = np.array(written['weights'], np.int32) << _WEIGHT_SHIFT
  return mixing.Model(states.ravel(), weights.ravel())


def write(
    model: mixing.Model,
    *,
    trained_on: str,
    table_rows: Sequence[int] = (),
    seen_least: int = 24,
) -> str:
  """The text of models.json.

  Args:
    model: to be rounded and written.
    trained_on: a sentence on what it learned from.
    table_rows: rows of each table; one table of all of them where it is empty.
    seen_least: states that were seen less often are left out.
  """
  states = model.states.reshape(-1, 2 * mixing.NUM_NODES)
  chances = states >> mixing.SEEN_BITS
  seen = states & (1 << mixing.SEEN_BITS) - 1
  nearest = np.abs(chances[..., None] - mixing.SQUASH[_LEVELS]).argmin(axis=-1)
  counts = np.abs(seen[..., None] - _SEEN).argmin(axis=-1)
  numbers = np.where(seen >= max(seen_least, 1), 4 * nearest + counts, -1)
  rows = [
      ''.join(' ' if n < 0 else _DIGITS[n] for n in row).rstrip()
      for row in numbers.tolist()
  ]
  ends = np.cumsum(table_rows or [len(rows)])
  tables = np.split(np.array(rows, object), ends[:-1])
  weights = model.weights + (1 << _WEIGHT_SHIFT - 1) >> _WEIGHT_SHIFT
  written = {
      'trained_on': trained_on,
      'states': ['\n'.join(table) for table in tables],
      'weights': weights.reshape(mixing.NUM_COLUMNS, -1).tolist(),
  }
  return json.dumps(written, indent=0) + '\n'


@functools.cache
def _loaded() -> mixing.Model:
  return parse(PATH.read_text('ascii'))


def load() -> mixing.Model:
  """A copy of the trained model, to be changed by a coder."""
  return mixing.Model(*(x.copy() for x in _loaded()))
