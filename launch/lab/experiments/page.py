"""An experiment as Markdown, its plot, and its section in a document."""

from collections.abc import Mapping, Sequence
import io
import pathlib
import re

from matplotlib import figure as mpl_figure

from . import figures as figures_lib

_MARKS = {True: 'yes', False: '**no**', None: 'not judged'}


def _levels(values: Sequence[float], form: str = '.2f') -> str:
  return ' / '.join(format(value, form) for value in values)


def _row(cells: Sequence[str]) -> str:
  return f'| {" | ".join(cells)} |\n'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  return _row(header) + '|---' * len(header) + '|\n' + ''.join(map(_row, rows))


def _difference(verdict: figures_lib.Verdict) -> str:
  form = {'dB': '+.2f', '%': '.0f'}.get(verdict.unit, '.2f')
  levels = _levels(verdict.values, form)
  return f'{levels} {verdict.unit}' if levels else '-'


def markdown(
    experiment,
    figures: figures_lib.Figures,
    verdicts: Sequence[figures_lib.Verdict],
    differences: Mapping[str, Sequence[float]],
    command: str,
    plot: str,
) -> str:
  """The section of an experiment.

  Args:
    experiment: of `configs/experiments.py`.
    figures: what came out.
    verdicts: on its claims.
    differences: from the recorded figures, by variant.
    command: that gives this again.
    plot: path of its plot, as seen from the document.

  Returns:
    Markdown, without the title.
  """
  sources = list(dict.fromkeys(row.source for row in figures.rows))
  text = f'{experiment.about}\n\n```\n{command}\n```\n\n'
  text += f'Means over {", ".join(sources)}; prefixes from the base up.\n\n'
  header = ['variant', 'splats', 'bpp', 'dB', 'median s']
  if differences:
    header.append('dB from the recorded')
  rows = []
  for variant in figures.variants:
    splats = figures.splats(variant)
    row = [
        variant,
        ' / '.join(map(str, splats)) if splats else '-',
        _levels(figures.bpp(variant), '.3f'),
        _levels(figures.psnr_db(variant)),
        f'{figures.seconds(variant):.1f}',
    ]
    if differences:
      row.append(_levels(differences.get(variant, ()), '+.2f'))
    rows.append(row)
  for codec in experiment.published:
    entry = figures.published(codec)
    if entry:
      splats = ' / '.join(map(str, entry['splats']))
      values = _levels(entry['psnr_db'], '.1f')
      row = [f'*{codec}, published*', splats, '-', values, '-']
      rows.append([*row, *['-'] * (len(header) - len(row))])
  text += _table(header, rows)
  claims = [
      [
          verdict.text,
          verdict.published or '-',
          _difference(verdict),
          _MARKS[verdict.holds],
      ]
      for verdict in verdicts
  ]
  text += '\n' + _table(['claim', 'published', 'here', 'holds'], claims)
  return f'{text}\n![PSNR of the prefixes]({plot})\n'


def draw(experiment, figures: figures_lib.Figures) -> bytes:
  """PSNR of the prefixes, a line a variant: PNG."""
  canvas = mpl_figure.Figure(figsize=(6.6, 3.4), layout='constrained')
  axis = canvas.subplots()
  for variant in figures.variants:
    splats = figures.splats(variant)
    by_splats = experiment.axis == 'splats' and splats
    x = splats if by_splats else figures.bpp(variant)
    axis.plot(x, figures.psnr_db(variant), marker='o', ms=4, label=variant)
  for codec, style in zip(experiment.published, ('--', ':', '-.')):
    entry = figures.published(codec)
    if entry:
      axis.plot(
          entry['splats'],
          entry['psnr_db'],
          ls=style,
          marker='D',
          ms=3.5,
          color='gray',
          label=f'{codec}, published',
      )
  axis.set(
      xlabel='splats' if experiment.axis == 'splats' else 'bits per pixel',
      ylabel='PSNR, dB',
      title=experiment.title,
  )
  axis.grid(color='#e6e6e6')
  # Beside the lines: there may be as many as to leave no room between them.
  canvas.legend(fontsize=8, loc='outside right center')
  file = io.BytesIO()
  canvas.savefig(file, format='png', dpi=100, metadata={'Software': None})
  return file.getvalue()


def replace_section(document: str, name: str, title: str, text: str) -> str:
  r"""Puts a section between its marks, or with them at the end.

  Example:
    >>> page = replace_section('Results\n', 'video', 'Video', 'old\n')
    >>> print(replace_section(page, 'video', 'Video', 'new\n'))
    Results
    <BLANKLINE>
    <!-- experiment: video -->
    ### Video
    <BLANKLINE>
    new
    <!-- end of video -->
    <BLANKLINE>
  """
  begin, end = f'<!-- experiment: {name} -->', f'<!-- end of {name} -->'
  section = f'{begin}\n### {title}\n\n{text}{end}\n'
  pattern = re.compile(
      f'{re.escape(begin)}.*?{re.escape(end)}\n', flags=re.DOTALL
  )
  if pattern.search(document):
    return pattern.sub(lambda _: section, document)
  return f'{document.rstrip()}\n\n{section}'


def relative(plot: pathlib.Path, document: pathlib.Path) -> str:
  """A path as a link in a document."""
  return plot.relative_to(document.parent).as_posix()
