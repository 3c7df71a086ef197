"""Fields of settings: default, bounds and meaning, said once.

A dataclass of settings declares its fields with `field` and calls `check` when
it is made. Help and documentation come from the same declarations.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import difflib
import functools
import numbers
import re
import textwrap
from typing import (
    Any,
    Literal,
    NamedTuple,
    get_args,
    get_origin,
    get_type_hints,
)

_INTERVAL = re.compile(r'[\[(](\S+), (\S+)[\])]')


def field(
    default: Any,
    meaning: str,
    within: str = '',
    choices: Iterable[str] = (),
) -> Any:
  """Declares a field of a dataclass of settings.

  Args:
    default: its value, if none is given.
    meaning: what it is and what its values mean; may have several lines.
    within: the interval that the number, or every number of a tuple, must be
      in, such as '[0, 1)'; nothing: any.
    choices: the values of a text, if its type is no Literal of them.
  """
  metadata = {
      'meaning': textwrap.dedent(meaning).strip(),
      'within': within,
      'choices': tuple(choices),
  }
  return dataclasses.field(default=default, metadata=metadata)


def check(settings: Any, what: str = '') -> None:
  """Refuses settings that are out of their bounds.

  Args:
    settings: a dataclass with fields as declared by `field`.
    what: to stand before the name of a field, in messages.

  Raises:
    ValueError: the first that is, with its bounds and its value.
  """
  for rule in _rules(type(settings)):
    value = getattr(settings, rule.name)
    values = value if isinstance(value, tuple | list) else (value,)
    if not all(map(rule.fits, values)):
      raise ValueError(
          f'{what}{rule.name} must be {rule.bounds}, not {value!r}'
      )


def suggest(name: str, names: Iterable[str]) -> str:
  """What may have been meant by a name that there is not, to end a message.

  Example:
    >>> suggest('num_step', ['num_steps', 'seed'])
    ', did you mean num_steps?'
  """
  near = difflib.get_close_matches(name, names, n=1)
  return f', did you mean {near[0]}?' if near else ''


class _Rule(NamedTuple):
  """What the values of a field must be."""

  name: str
  is_integer: bool
  within: str
  choices: tuple[str, ...]

  @property
  def bounds(self) -> str:
    """In words."""
    if self.choices:
      return f'one of {", ".join(self.choices)}'
    words = ['an integer'] if self.is_integer else []
    match = _INTERVAL.fullmatch(self.within)
    if self.within == '(0, inf)':
      words.append('positive')
    elif match and match[2] == 'inf':
      words.append(f'at least {match[1]}')
    elif match:
      words.append(f'in {self.within}')
    return ', '.join(words)

  def fits(self, value: Any) -> bool:
    """Whether a number or text is as it must be."""
    if self.choices:
      return value in self.choices
    if self.is_integer and not isinstance(value, numbers.Integral):
      return False
    match = _INTERVAL.fullmatch(self.within)
    if not match:
      return True
    low, high = map(float, match.groups())
    above = low < value or (value == low and self.within[0] == '[')
    return above and (
        value < high or (value == high and self.within[-1] == ']')
    )


@functools.cache
def _rules(cls: type) -> tuple[_Rule, ...]:
  hints = get_type_hints(cls)
  rules = []
  for entry in dataclasses.fields(cls):
    if not entry.metadata:
      continue
    hint = hints[entry.name]
    is_choice = get_origin(hint) is Literal
    rules.append(
        _Rule(
            name=entry.name,
            is_integer=int in (hint, *get_args(hint)),
            within=entry.metadata['within'],
            choices=get_args(hint) if is_choice else entry.metadata['choices'],
        )
    )
  return tuple(rules)


class Row(NamedTuple):
  """A field for people: name, default, bounds and meaning."""

  name: str
  default: Any
  bounds: str
  meaning: str


def rows(settings: Any, prefix: str = '') -> Iterator[Row]:
  """The fields of settings, those inside others by dotted names.

  Args:
    settings: a dataclass; its values count as defaults.
    prefix: of the names.
  """
  rules = {rule.name: rule for rule in _rules(type(settings))}
  for entry in dataclasses.fields(settings):
    value = getattr(settings, entry.name)
    if dataclasses.is_dataclass(value):
      yield from rows(value, f'{prefix}{entry.name}.')
    else:
      yield Row(
          f'{prefix}{entry.name}',
          value,
          rules[entry.name].bounds if entry.name in rules else '',
          entry.metadata.get('meaning', ''),
      )


def help_text(settings: Any) -> str:
  """The fields of settings as flags of a command, in 80 columns."""
  lines = []
  for row in rows(settings):
    default = str(row.default).replace(' ', '')
    lines.append(f'  --config.{row.name}={default}')
    bounds = [f'({row.bounds})'] if row.bounds else []
    for line in [*row.meaning.splitlines(), *bounds]:
      lines += textwrap.wrap(
          line, 80, initial_indent=' ' * 6, subsequent_indent=' ' * 6
      )
  return '\n'.join(lines) + '\n'


def from_mapping(cls: type, values: Mapping[str, Any]) -> Any:
  """See `config.from_mapping`."""
  fields = {entry.name: entry for entry in dataclasses.fields(cls)}
  arguments = {}
  for name, value in values.items():
    if name not in fields:
      hint = suggest(name, fields)
      raise ValueError(f'{cls.__name__} has no field {name!r}{hint}')
    default = fields[name].default
    if dataclasses.is_dataclass(default):
      value = from_mapping(type(default), value)
    elif isinstance(default, tuple):
      value = tuple(value)
    arguments[name] = value
  return cls(**arguments)
