"""What a sweep varies: fields of the config, each with its values.

As text, NAME=VALUES, where VALUES is one of

    joint,sequential        choices; (400,200),(300,300) for tuples
    0.05..0.5               a range of floats; 0.1..0.5/0.1 with a step
    log:0.05..0.5           the same, on a logarithmic scale
    int:4..48               a range of integers, both ends included; int:4..48/4
    logint:4..512           the same, on a logarithmic scale

A file may say it too: JSON, {"fit.strategy": ["joint", "prune"], ...}, or
Python with a `get_space()` that returns such a dict.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import difflib
import itertools
import json
import math
import pathlib
import re
import runpy
from typing import Any

Value = int | float | str

_NUMBER = r'[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?'
_RANGE = re.compile(
    rf'(?:(log|int|logint):)?({_NUMBER})\.\.({_NUMBER})(?:/({_NUMBER}))?'
)
_INTEGER = re.compile(r'[-+]?\d+')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
  """Values in no order.

  Attributes:
    values: numbers, or what a flag of the config takes.
  """

  values: tuple[Value, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
  """Numbers between two, both included.

  Attributes:
    low: the least.
    high: the most.
    step: between neighbours; None: any number, or any integer.
    is_log: whether equal ratios count as equal distances.
    is_integer: whether only integers are meant.
  """

  low: float
  high: float
  step: float | None
  is_log: bool
  is_integer: bool


Parameter = Choices | Range


def parse_parameter(text: str) -> Parameter:
  """The values of one field.

  Args:
    text: as the module says.

  Returns:
    The values.

  Raises:
    ValueError: the text says something else.

  Example:
    >>> parse_parameter('joint,prune').values
    ('joint', 'prune')
    >>> parse_parameter('int:4..48').high
    48
  """
  match = _RANGE.fullmatch(text)
  if match:
    return _range(text, *match.groups())
  if '..' in text or text.startswith(('log:', 'int:', 'logint:')):
    raise ValueError(
        f'{text!r} is no range: write LOW..HIGH, log:LOW..HIGH, int:LOW..HIGH'
        ' or logint:LOW..HIGH'
    )
  values = tuple(number_or_text(word) for word in _split(text))
  if '' in values or len(set(values)) < len(values):
    raise ValueError(f'{text!r} has an empty choice, or one twice')
  return Choices(values=values)


def _range(
    text: str, kind: str | None, low: str, high: str, step: str | None
) -> Range:
  is_integer = kind in ('int', 'logint')
  numbers = [low, high] + ([step] if step else [])
  if is_integer and not all(map(_INTEGER.fullmatch, numbers)):
    raise ValueError(f'{text!r} must have integers')
  first, last, *rest = (int(x) if is_integer else float(x) for x in numbers)
  is_log = kind in ('log', 'logint')
  if not first < last or (is_log and first <= 0) or (rest and rest[0] <= 0):
    raise ValueError(
        f'{text!r}: the range must rise, a logarithmic one from above 0, by a'
        ' positive step'
    )
  if is_log and rest:
    raise ValueError(f'{text!r}: a logarithmic range has no step')
  return Range(
      low=first,
      high=last,
      step=rest[0] if rest else None,
      is_log=is_log,
      is_integer=is_integer,
  )


def _split(text: str) -> list[str]:
  """At the commas that are in no brackets."""
  words, depth = [''], 0
  for letter in text:
    depth += (letter in '([') - (letter in ')]')
    if letter == ',' and depth == 0:
      words.append('')
    else:
      words[-1] += letter
  return words


def number_or_text(word: str) -> Value:
  """A number where it is one.

  Example:
    >>> number_or_text("4"), number_or_text("0.5"), number_or_text("joint")
    (4, 0.5, 'joint')
  """
  for kind in (int, float):
    try:
      return kind(word)
    except ValueError:
      continue
  return word


def read(words: Sequence[str]) -> dict[str, str]:
  """Collects a space, as text by field.

  Args:
    words: NAME=VALUES, several in one word where spaces part them, or the
      names of files.

  Returns:
    The values of every field, as text, sorted by field.

  Raises:
    ValueError: one of them says nothing, or a field twice.
    OSError: a file cannot be read.

  Example:
    >>> read(['fit.num_steps=int:1..9 fit.strategy=joint,prune'])
    {'fit.num_steps': 'int:1..9', 'fit.strategy': 'joint,prune'}
  """
  entries = []
  for word in words:
    if '=' not in word and pathlib.PurePath(word).suffix in ('.json', '.py'):
      entries += _read_file(word).items()
      continue
    for part in word.split():
      name, equals, text = part.partition('=')
      if not (name and equals and text):
        raise ValueError(
            f'--space={part}: write FIELD=VALUES, or name a .json or .py file'
        )
      entries.append((name.removeprefix('config.'), text))
  names = [name for name, _ in entries]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f'--space has {name} twice')
  if not entries:
    raise ValueError('--space is empty')
  for name, text in entries:
    try:
      parse_parameter(text)
    except ValueError as error:
      raise ValueError(f'--space: {name}: {error}') from error
  # Workers must agree on the order of a grid, whatever theirs of the flags is.
  return dict(sorted(entries))


def _read_file(name: str) -> dict[str, str]:
  path = pathlib.Path(name)
  try:
    if path.suffix == '.json':
      values = json.loads(path.read_text())
    else:
      values = runpy.run_path(name)['get_space']()
    return {field: _text(value) for field, value in values.items()}
  except OSError:
    raise
  except Exception as error:  # Whatever a user's file raises.
    raise ValueError(f'{name}: {type(error).__name__}: {error}') from error


def _text(value: Any) -> str:
  """What the command line would have said."""
  if isinstance(value, list | tuple):
    parts = (
        str(tuple(x)).replace(' ', '')
        if isinstance(x, list | tuple)
        else str(x)
        for x in value
    )
    return ','.join(parts)
  return str(value)


def check(parameters: Mapping[str, Parameter], fields: dict[str, Any]) -> None:
  """Refuses what no trial could take.

  Values that only some trials cannot take are left to them.

  Args:
    parameters: by field.
    fields: of the config, flat.

  Raises:
    ValueError: there is no such field, or its values are of another type.
  """
  for name, parameter in parameters.items():
    if name not in fields:
      near = difflib.get_close_matches(name, fields, n=1)
      hint = f', did you mean {near[0]}?' if near else ''
      raise ValueError(f'--space: the config has no field {name}{hint}')
    default = fields[name]
    is_range = isinstance(parameter, Range)
    if isinstance(default, int) and not (
        parameter.is_integer
        if is_range
        else all(isinstance(value, int) for value in parameter.values)
    ):
      raise ValueError(
          f'--space: {name} takes integers: int:4..48, logint:4..48 or 4,8,16'
      )
    if is_range and not isinstance(default, int | float):
      raise ValueError(f'--space: {name} takes choices, not a range')
    if isinstance(default, float) and not (
        is_range
        or all(isinstance(value, int | float) for value in parameter.values)
    ):
      raise ValueError(f'--space: {name} takes numbers')


def grid(parameters: Mapping[str, Parameter]) -> list[dict[str, Value]]:
  """Every combination, the last field varying fastest.

  Args:
    parameters: by field.

  Returns:
    Values by field.

  Raises:
    ValueError: a range has no step, so its values cannot be listed.

  Example:
    >>> grid({'a': parse_parameter('x,y'), 'b': parse_parameter('int:1..2')})[1]
    {'a': 'x', 'b': 2}
  """
  columns = []
  for name, parameter in parameters.items():
    if isinstance(parameter, Choices):
      columns.append(parameter.values)
      continue
    step = parameter.step or (1 if parameter.is_integer else None)
    if parameter.is_log or step is None:
      raise ValueError(
          f'--sampler=grid: {name} needs choices, or a range with a step,'
          ' LOW..HIGH/STEP'
      )
    # Ends that miss a whole number of steps by rounding alone are included.
    count = math.floor((parameter.high - parameter.low) / step + 1e-9) + 1
    columns.append([parameter.low + i * step for i in range(count)])
  return [
      dict(zip(parameters, values)) for values in itertools.product(*columns)
  ]


def overrides(params: Mapping[str, Value]) -> list[str]:
  """Flags that set fields of the config.

  Example:
    >>> overrides({'fit.means_rate': 0.1})
    ['--config.fit.means_rate=0.1']
  """
  return [f'--config.{name}={value}' for name, value in params.items()]
