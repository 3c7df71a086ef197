"""Draws how cost grows with pixels, splats, layers and devices."""

import io

import matplotlib

matplotlib.use('agg')
from matplotlib import pyplot as plt

from . import workloads

_DPI = 100


def draw(rows: list[dict], head: str) -> bytes:
  """Draws a panel a sweep, both axes logarithmic.

  Args:
    rows: of the document, with `sweep` and `value`.
    head: what is said above the panels.

  Returns:
    A PNG file.
  """
  sweeps = list(dict.fromkeys(row['sweep'] for row in rows))
  figure, axes = plt.subplots(
      1,
      len(sweeps),
      squeeze=False,
      sharey=True,
      figsize=(4 * len(sweeps), 4.2),
      layout='constrained',
  )
  for axis, sweep in zip(axes.flat, sweeps):
    _draw_panel(axis, [row for row in rows if row['sweep'] == sweep])
    axis.set_xlabel(sweep)
  axes[0, 0].set_ylabel('ms')
  axes[0, 0].yaxis.set_major_formatter('{x:g}')
  figure.suptitle(head, fontsize=9)
  file = io.BytesIO()
  figure.savefig(file, format='png', dpi=_DPI)
  plt.close(figure)
  return file.getvalue()


def _draw_panel(axis: plt.Axes, rows: list[dict]) -> None:
  """Draws a line an implementation, the middle half shaded."""
  for name in dict.fromkeys(row['implementation'] for row in rows):
    line = [row for row in rows if row['implementation'] == name]
    values, medians, low, high = (
        [row[key] for row in line]
        for key in ('value', 'median_ms', 'low_ms', 'high_ms')
    )
    axis.plot(values, medians, marker='o', label=name)
    axis.fill_between(values, low, high, alpha=0.2)
  axis.set(xscale='log', yscale='log')
  values = sorted({row['value'] for row in rows})
  if values[-1] < 100:
    axis.set_xticks(values, [str(x) for x in values])
    axis.set_xticks([], minor=True)
  axis.set_title(workloads.CASES[rows[0]['case']], fontsize=10)
  axis.grid(which='both', alpha=0.3)
  axis.legend(fontsize=8)
