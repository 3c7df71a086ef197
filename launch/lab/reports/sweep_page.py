"""The page of a report on a sweep: what stands in sweep_page.html."""

import collections

from .. import plotting
from ..sweeps import plots
from ..sweeps import space
from ..sweeps import summary
from . import page


def make(document: dict) -> str:
  """The page.

  Args:
    document: results of a sweep.

  Returns:
    HTML without any reference to another file.
  """
  definition, rows = document['definition'], document['trials']
  objectives = summary.directions(definition['objectives'])
  parameters = {
      name: space.parse_parameter(text)
      for name, text in definition['space'].items()
  }
  figures = plots.draw(rows, parameters, objectives)
  columns, table = summary.make_table(rows, list(parameters), objectives)
  return page.template('sweep_page.html').render(
      definition=definition,
      total=len(rows),
      states=collections.Counter(row['state'] for row in rows),
      plots={
          name: plotting.svg(figure, name) for name, figure in figures.items()
      },
      columns=columns,
      table=table,
      failed=[row for row in rows if row['state'] == 'failed'],
  )
