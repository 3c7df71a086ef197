"""What came of a sweep: rows, Pareto front, table, files."""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import io
import json
import pathlib
from typing import Any

from pgsvc_jax import metrics

from ... import command
from ... import table

VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
  """What is measured of a trial.

  Attributes:
    title: of an axis.
    form: of a value.
    unit: behind a value.
    key: of the row of a layer that has it; none of seconds.
    layer: which row.
    is_maximized: whether more is better.
  """

  title: str
  form: str
  unit: str
  key: str = ''
  layer: int = -1
  is_maximized: bool = False


def _of(metric: metrics.Metric, layer: int = -1, where: str = '') -> Figure:
  return Figure(
      title=where + metric.label,
      form=f'.{metric.digits}f',
      unit=f' {metric.unit or metric.title}'
      + (f' {where.rstrip()}' if where else ''),
      key=metric.name,
      layer=layer,
      is_maximized=metric.higher_is_better,
  )


_METRICS = metrics.choose(is_video=False)
# In the order of columns; PSNR, the first metric, is of the base layer too.
FIGURES = {
    'bytes': Figure(title='bytes', form=',.0f', unit=' bytes', key='bytes'),
    'bpp': Figure(title='bits per pixel', form='.3f', unit=' bpp', key='bpp'),
    **{x.name.removesuffix('_db'): _of(x) for x in _METRICS},
    'base_psnr': _of(_METRICS[0], layer=0, where='base '),
    'seconds': Figure(title='seconds to encode', form='.1f', unit=' s'),
}
_COLUMNS = ('trial', 'state', *FIGURES, 'tries', 'front', 'reason')


def directions(objectives: Sequence[str]) -> dict[str, bool]:
  """Whether each is to be maximized.

  Example:
    >>> directions(['bytes', 'psnr'])
    {'bytes': False, 'psnr': True}
  """
  return {name: FIGURES[name].is_maximized for name in objectives}


def say(name: str, value: float | None) -> str:
  """A figure with its unit.

  Example:
    >>> say('psnr', 31.234)
    '31.23 dB'
  """
  if value is None:
    return f'no {name}'
  return format(value, FIGURES[name].form) + FIGURES[name].unit


def say_param(value: float | str) -> str:
  """A value of the config, short."""
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def pareto(rows: Sequence[Mapping], objectives: Mapping[str, bool]) -> set[int]:
  """Which rows no other row beats.

  A row is beaten by one that is as good in every objective and better in one.

  Args:
    rows: with a figure for every objective.
    objectives: whether each is to be maximized, by name.

  Returns:
    Indices into `rows`.

  Example:
    >>> rows = [{'bytes': 9, 'psnr': 30}, {'bytes': 9, 'psnr': 31}]
    >>> pareto(rows, {'bytes': False, 'psnr': True})
    {1}
  """
  points = [
      tuple(
          -row[name] if is_maximized else row[name]
          for name, is_maximized in objectives.items()
      )
      for row in rows
  ]
  # A point that is beaten is beaten by one of the front that sorts before it.
  front, kept = set(), []
  for i in sorted(range(len(points)), key=points.__getitem__):
    point = points[i]
    if not any(
        other != point and all(a <= b for a, b in zip(other, point))
        for other in kept
    ):
      front.add(i)
      kept.append(point)
  return front


def make_rows(slots: Sequence, objectives: Mapping[str, bool]) -> list[dict]:
  """One row a trial.

  Args:
    slots: of `trials.Queue`.
    objectives: whether each is to be maximized, by name.

  Returns:
    {trial, state, params, the figures, seconds, tries, front, reason}.
  """
  rows = [
      {
          'trial': slot.index,
          'state': slot.state,
          'params': slot.params,
          **{name: slot.measured.get(name) for name in FIGURES},
          'tries': slot.num_tries,
          'front': False,
          'reason': slot.reason,
      }
      for slot in slots
  ]
  finished = [row for row in rows if row['state'] == 'finished']
  for i in pareto(finished, objectives):
    finished[i]['front'] = True
  return rows


def say_best(rows: Sequence[Mapping], objectives: Mapping[str, bool]) -> str:
  """The best so far in every objective, and how long the front is."""
  finished = [row for row in rows if row['state'] == 'finished']
  if not finished:
    return 'none finished'
  best = ', '.join(
      say(name, (max if is_maximized else min)(row[name] for row in finished))
      for name, is_maximized in objectives.items()
  )
  if len(objectives) == 1:
    return f'best {best}'
  length = sum(row['front'] for row in finished)
  return f'front of {length}, best {best}'


def write(folder: pathlib.Path, definition: dict, rows: list[dict]) -> None:
  """Writes results.json and trials.csv."""
  document = {'version': VERSION, 'definition': definition, 'trials': rows}
  text = json.dumps(document, indent=1, allow_nan=False)
  command.write_bytes(str(folder / 'results.json'), text.encode())
  fields = list(definition['space'])
  file = io.StringIO()
  writer = csv.writer(file, lineterminator='\n')
  writer.writerow([*_COLUMNS, *fields])
  for row in rows:
    cells = [row[name] for name in _COLUMNS]
    params = [row['params'].get(name) for name in fields]
    writer.writerow(['' if x is None else x for x in cells + params])
  command.write_bytes(str(folder / 'trials.csv'), file.getvalue().encode())


def check(document: Mapping[str, Any], path: str) -> None:
  """Refuses what `write` has not written as results.json.

  Args:
    document: the JSON document.
    path: of its file, for the message.

  Raises:
    ValueError: it is something else.
  """
  if document.get('version') != VERSION:
    raise ValueError(f'{path}: not results of this version of `sweep`')
  definition = document.get('definition')
  lacking = {'config', 'inputs', 'space', 'sampler', 'objectives'}
  lacking -= set(definition if isinstance(definition, dict) else ())
  for row in document['trials']:
    lacking |= {*_COLUMNS, 'params'} - set(row)
  if lacking:
    raise ValueError(f'{path}: not results of `sweep` (no {min(lacking)!r})')


def make_table(
    rows: Sequence[Mapping],
    fields: Sequence[str],
    objectives: Mapping[str, bool],
) -> tuple[list[str], list[list[str]]]:
  """The finished trials, best in the first objective first.

  Args:
    rows: of `make_rows`.
    fields: that were varied.
    objectives: whether each is to be maximized, by name.

  Returns:
    The names of the columns, and the cells of each row; those on the front
    are marked `*`.
  """
  header = ['trial', '', *FIGURES, *(name.split('.')[-1] for name in fields)]
  first, is_maximized = next(iter(objectives.items()))
  finished = [row for row in rows if row['state'] == 'finished']
  finished.sort(key=lambda row: row[first], reverse=is_maximized)
  lines = []
  for row in finished:
    figures = [
        '-' if row[name] is None else format(row[name], figure.form)
        for name, figure in FIGURES.items()
    ]
    params = [say_param(row['params'][name]) for name in fields]
    mark = '*' if row['front'] else ''
    lines.append([f'{row["trial"]:05}', mark, *figures, *params])
  return header, lines


def print_table(
    rows: Sequence[Mapping],
    fields: Sequence[str],
    objectives: Mapping[str, bool],
) -> None:
  """Prints `make_table`, and the trials that failed."""
  table.print_table(*make_table(rows, fields, objectives))
  for row in rows:
    if row['state'] == 'failed':
      print(f'{row["trial"]:05} failed: {row["reason"]}')
