"""The document of a benchmark, for people: a head and a table."""

from ... import table
from . import workloads

_LABELS = ('shape', 'sweep', 'value', 'implementation')
_LEFT = ('shape', 'sweep', 'implementation', 'case')


def headline(document: dict) -> str:
  """Device, driver, versions and commit, in one line."""
  versions = document['versions']
  unit = 'cores of' if document['platform'] == 'cpu' else 'x'
  parts = [
      f'{document["num_devices"]} {unit} {document["device"]}',
      f'driver {document["driver"]}' if document['driver'] else '',
      f'Python {versions["python"]}',
      *(f'{name} {versions[name]}' for name in ('jax', 'jaxlib', 'numba')),
      f'commit {document["commit"]}' if document['commit'] else '',
  ]
  return ', '.join(part for part in parts if part)


def _ceiling_lines(document: dict) -> list[str]:
  return [
      f'Measured ceilings of {n} device{"s" if n != "1" else ""}:'
      f' {x["fma"] / 1e9:.1f} G FMA/s, {x["exp"] / 1e9:.2f} G exp/s,'
      f' {x["num_bytes"] / 1e9:.1f} GB/s'
      for n, x in document['ceilings_per_second'].items()
  ]


def _number(value: float | None, form: str) -> str:
  """A dash where there is nothing to tell."""
  return format(value, form) if value else '-'


def _columns(row: dict) -> dict[str, str]:
  """A row of the document as cells by header."""
  weights, evaluations = row.get('weights', 0), row.get('evaluations')
  return {name: str(row[name]) for name in _LABELS if name in row} | {
      'case': workloads.CASES[row['case']],
      'devices': str(row['num_devices']),
      'median ms': f'{row["median_ms"]:.2f}',
      'middle half': f'{row["low_ms"]:.2f}-{row["high_ms"]:.2f}',
      'compile ms': f'{row["lower_ms"] + row["compile_ms"]:.0f}',
      'G weights/s': _number(weights / row['median_ms'] / 1e6, '.3f'),
      'evaluated': _number(evaluations and evaluations / weights, '.2f'),
      'exp %': _number(row.get('exp_share'), '.1%').rstrip('%'),
      'FMA %': _number(row.get('fma_share'), '.1%').rstrip('%'),
      'bytes %': _number(row.get('bytes_share'), '.1%').rstrip('%'),
  }


def _cells(document: dict) -> tuple[list[str], list[list[str]]]:
  rows = [_columns(row) for row in document['times']]
  return list(rows[0]), [list(row.values()) for row in rows]


def print_text(document: dict) -> None:
  """Prints head and table, columns aligned."""
  print(headline(document))
  for line in _ceiling_lines(document):
    print(line)
  table.print_table(*_cells(document))


def print_markdown(document: dict) -> None:
  """Prints what docs/benchmarks.md quotes."""
  print(f'```\n{document["command"]}\n```\n')
  print(f'{headline(document)}. {". ".join(_ceiling_lines(document))}.\n')
  header, rows = _cells(document)
  rule = ['---' if name in _LEFT else '--:' for name in header]
  for cells in (header, rule, *rows):
    print(f'| {" | ".join(cells)} |')
