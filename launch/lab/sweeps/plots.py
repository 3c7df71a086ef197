"""Draws a sweep: its Pareto front, and every figure over every parameter."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker
import numpy as np

from .. import plotting
from . import space
from . import summary

_FRONT = '#d62728'
_OTHERS = '#9aa5b1'
# Above it, the numbers of the trials would cover each other.
_MOST_NUMBERS = 12


def draw(
    rows: Sequence[Mapping],
    parameters: Mapping[str, space.Parameter],
    objectives: Mapping[str, bool],
) -> dict[str, mpl_figure.Figure]:
  """Draws the trials that are finished.

  Args:
    rows: of `summary.make_rows`.
    parameters: what was varied, by field.
    objectives: whether each is to be maximized, by name.

  Returns:
    `pareto`, of two objectives or more, and `parameters`; nothing where no
    trial is finished.
  """
  rows = [row for row in rows if row['state'] == 'finished']
  figures = {}
  with mpl.rc_context(plotting.STYLE):
    if rows and len(objectives) > 1:
      figures['pareto'] = _draw_pareto(rows, objectives)
    if rows:
      figures['parameters'] = _draw_parameters(rows, parameters, objectives)
  return figures


def _draw_pareto(
    rows: Sequence[Mapping], objectives: Mapping[str, bool]
) -> mpl_figure.Figure:
  """Every objective over the first; of each pair, a line through its front.

  The front of a pair is the part that no trial beats in these two; a trial on
  the front of all objectives is red in every panel.
  """
  first, *others = objectives
  figure = mpl_figure.Figure(
      figsize=(4.6 * len(others) + 0.6, 4.0), layout='constrained'
  )
  axes = figure.subplots(1, len(others), squeeze=False)[0]
  for axis, name in zip(axes, others):
    pair = {key: objectives[key] for key in (first, name)}
    line = sorted(
        (rows[i][first], rows[i][name]) for i in summary.pareto(rows, pair)
    )
    axis.plot(
        *zip(*line), color=_FRONT, lw=1, alpha=0.6, label='front of these two'
    )
    _scatter(axis, rows, [row[first] for row in rows], name)
    axis.set_xlabel(_title(first, objectives))
    axis.set_ylabel(_title(name, objectives))
    numbered = [row for row in rows if row['front']]
    if len(numbered) <= _MOST_NUMBERS:
      for row in numbered:
        axis.annotate(
            str(row['trial']),
            (row[first], row[name]),
            xytext=(4, 4),
            textcoords='offset points',
            fontsize=7,
            color='#444444',
        )
  axes[0].legend(loc='best')
  figure.suptitle(f'{len(rows)} trials', fontsize=10, x=0.01, ha='left')
  return figure


def _draw_parameters(
    rows: Sequence[Mapping],
    parameters: Mapping[str, space.Parameter],
    objectives: Mapping[str, bool],
) -> mpl_figure.Figure:
  """A panel for every objective (rows) and parameter (columns)."""
  figure = mpl_figure.Figure(
      figsize=(3.0 * len(parameters) + 0.6, 2.3 * len(objectives) + 0.4),
      layout='constrained',
  )
  axes = figure.subplots(
      len(objectives),
      len(parameters),
      squeeze=False,
      sharex='col',
      sharey='row',
  )
  for column, (field, parameter) in zip(axes.T, parameters.items()):
    values = [row['params'][field] for row in rows]
    if isinstance(parameter, space.Choices):
      # Side by side, spread a little so that equal ones can be told apart.
      spread = np.random.default_rng(0).uniform(-0.15, 0.15, len(values))
      places = [parameter.values.index(x) for x in values] + spread
    else:
      places = values
    for axis, name in zip(column, objectives):
      _scatter(axis, rows, places, name)
    if isinstance(parameter, space.Choices):
      names = [summary.say_param(value) for value in parameter.values]
      column[-1].set_xticks(range(len(names)), names)
      column[-1].set_xlim(-0.5, len(names) - 0.5)
    elif parameter.is_log:
      column[-1].set_xscale('log')
      column[-1].xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
      column[-1].xaxis.set_major_formatter('{x:g}')
      column[-1].xaxis.set_minor_formatter(ticker.NullFormatter())
    column[-1].set_xlabel(plotting.plain(field))
  for axis, name in zip(axes[:, 0], objectives):
    axis.set_ylabel(_title(name, objectives))
  return figure


def _scatter(
    axis: mpl_axes.Axes, rows: Sequence[Mapping], places: Sequence, name: str
) -> None:
  for is_front, color, label in (
      (False, _OTHERS, 'beaten by another trial'),
      (True, _FRONT, 'on the front of all objectives'),
  ):
    members = [i for i, row in enumerate(rows) if row['front'] == is_front]
    axis.scatter(
        [places[i] for i in members],
        [rows[i][name] for i in members],
        color=color,
        s=22,
        zorder=3 if is_front else 2,
        label=label,
    )


def _title(name: str, objectives: Mapping[str, bool]) -> str:
  better = 'higher' if objectives[name] else 'lower'
  return f'{summary.FIGURES[name].title}\n({better} is better)'
