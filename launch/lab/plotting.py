"""What plots have in common: their style, and PNG and SVG of them."""

import io
import re

import matplotlib as mpl
from matplotlib import figure as mpl_figure

STYLE = {
    # Text of an SVG stays text, in whatever sans-serif the reader has.
    'svg.fonttype': 'none',
    'font.family': ['DejaVu Sans', 'sans-serif'],
    'font.size': 9,
    'axes.grid': True,
    'axes.grid.which': 'both',
    'grid.color': '#e6e6e6',
    'grid.linewidth': 0.7,
    'axes.axisbelow': True,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.edgecolor': '#888888',
    'axes.titlesize': 10,
    'axes.titleweight': 'bold',
    'legend.frameon': False,
}
_DPI = 110


def plain(text: str) -> str:
  """Keeps matplotlib from reading names as formulas."""
  return text.replace('$', r'\$')


def png(figure: mpl_figure.Figure) -> bytes:
  """A PNG file."""
  file = io.BytesIO()
  with mpl.rc_context(STYLE):
    figure.savefig(file, format='png', dpi=_DPI, metadata={'Software': None})
  return file.getvalue()


def svg(figure: mpl_figure.Figure, name: str) -> str:
  """An SVG element to stand in a page.

  Args:
    figure: what it shows.
    name: that begins all its ids; another one for every figure of a page.

  Returns:
    The element alone: no header, no metadata, no namespaces.
  """
  file = io.StringIO()
  with mpl.rc_context(STYLE | {'svg.hashsalt': name}):
    figure.savefig(file, format='svg', metadata={'Date': None})
  text = file.getvalue()
  text = text[text.index('<svg') :]
  text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
  # An element of an HTML page needs no namespaces.
  text = re.sub(r' xmlns(:\w+)?="[^"]*"', '', text)
  return re.sub(r'( id="|"#|\(#)', rf'\g<1>{name}-', text)
