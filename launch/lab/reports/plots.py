"""The plots of a report, as SVG that stands inside a page.

A codec, an operating point or a layer has one color in all plots of a report.
"""

from collections.abc import Sequence
import functools
import itertools

import matplotlib as mpl
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker
import numpy as np

from pgsvc_jax import metrics

from .. import plotting
from . import curves

_ANCHORS = ('#7f7f7f', '#2ca02c', '#9467bd', '#8c564b', '#555555', '#bcbd22')
_PUBLISHED = ('#17a2b8', '#b5a300', '#e377c2', '#a0522d')
_POINTS = ('#1f77b4', '#ff7f0e', '#d62728', '#4c4cff', '#c71585', '#008b8b')
_PARTS = {
    'entropy_ms': ('entropy decoding', '#4c78a8'),
    'render_ms': ('rendering', '#f58518'),
    'write_ms': ('writing PNG', '#d9d9d9'),
}
_HEADER = '#222222'
_RATE_TICKS = (
    0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20
)  # fmt: skip
# Of a rate in four digits fewer have room.
_KBIT_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000,
    20_000, 50_000, 100_000)  # fmt: skip


def _figure(width: float, height: float) -> mpl_figure.Figure:
  return mpl_figure.Figure(figsize=(width, height), layout='constrained')


def _line(curve: curves.Curve, order: Sequence[str]) -> dict:
  """How a curve is drawn; `order` are the keys of points and anchors."""
  if curve.kind == 'front':
    return {'color': '#c9d3dd', 'lw': 7, 'solid_capstyle': 'round', 'zorder': 1}
  if curve.kind == 'published':
    return _published_line(curve.name)
  # With a limit of its groups, a codec has the color that it has without.
  key = curve.key.removesuffix('_gop')
  colors = _POINTS if curve.kind == 'point' else _ANCHORS
  alike = [x for x in order if x.partition(' ')[0] == key.partition(' ')[0]]
  color = colors[alike.index(key) % len(colors)]
  if curve.kind == 'point':
    return {'color': color, 'lw': 1.6, 'marker': 'o', 'ms': 4, 'zorder': 4}
  style = ':' if curve.key != key else '-'
  return {'color': color, 'lw': 1.3, 'ls': style, 'marker': '.', 'ms': 4}


@functools.cache
def _published_colors() -> dict[str, str]:
  """Of the published codecs, all that are known."""
  known = curves.load_published()
  names = dict.fromkeys(
      entry['codec']
      for kind in ('curves', 'by_splats')
      for entry in known[kind]
  )
  return dict(zip(names, itertools.cycle(_PUBLISHED)))


def _published_line(codec: str) -> dict:
  color = _published_colors()[codec]
  return {'color': color, 'lw': 1.3, 'ls': '--', 'marker': 'D', 'ms': 3.5}


def _rate_axis(axis: mpl_axes.Axes, rate: str) -> None:
  axis.set_xscale('log')
  low, high = axis.get_xlim()
  unit, _ = curves.RATES[rate]
  ticks = _RATE_TICKS if rate == 'bpp' else _KBIT_TICKS
  ticks = [x for x in ticks if low <= x <= high]
  axis.xaxis.set_major_locator(ticker.FixedLocator(ticks))
  axis.xaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
  axis.xaxis.set_minor_locator(ticker.NullLocator())
  axis.set_xlabel(unit)


def _quality_axis(axis: mpl_axes.Axes, metric: metrics.Metric) -> None:
  """Figures at their places."""
  if metric.ticks:
    low, high = axis.get_ylim()
    places = {x: metric.place(x) for x in metric.ticks}
    shown = {x: place for x, place in places.items() if low <= place <= high}
    axis.set_yticks(list(shown.values()), [f'{x:g}' for x in shown])


def rate_distortion(
    lines: Sequence[curves.Curve],
    order: Sequence[str],
    name: str,
    compared: Sequence[metrics.Metric],
    rate: str,
) -> str:
  """Qualities over the rate, two in a row, one legend.

  Args:
    lines: what to draw.
    order: keys of all points and anchors of the report, which give them their
      colors.
    name: of the figure, for its ids.
    compared: the qualities.
    rate: of `curves.RATES`.

  Returns:
    SVG.
  """
  with mpl.rc_context(plotting.STYLE):
    height = (len(compared) + 1) // 2
    figure = _figure(10.6, 4.0 * height)
    axes = figure.subplots(height, 2, squeeze=False).ravel()
    for axis in axes[len(compared) :]:
      axis.set_axis_off()
    handles = {}
    for axis, metric in zip(axes, compared):
      drawn = False
      for curve in lines:
        points = curve.points(metric.name, rate)
        if points:
          label = plotting.plain(curve.name)
          if curve.kind == 'published':
            label += ' (published)'
          (handles[label],) = axis.plot(*zip(*points), **_line(curve, order))
          drawn = True
      if not drawn:
        axis.text(0.5, 0.5, 'no figures', ha='center')
        axis.set_axis_off()
        continue
      axis.set_title(metric.label, loc='left')
      _rate_axis(axis, rate)
      _quality_axis(axis, metric)
    figure.legend(handles.values(), handles.keys(), loc='outside right center')
    return plotting.svg(figure, name)


def levels(lines: Sequence[curves.Curve], name: str) -> str:
  """PSNR of every level over the rate, and how far neighbors are apart.

  Args:
    lines: the levels, the base first.
    name: of the figure, for its ids.

  Returns:
    SVG.
  """
  with mpl.rc_context(plotting.STYLE):
    figure = _figure(10.6, 3.6)
    left, right = figure.subplots(1, 2)
    for level, curve in enumerate(lines):
      style = {'color': _layer_color(level, len(lines)), 'lw': 1.6}
      left.plot(
          *zip(*curve.points('psnr_db')),
          marker='o',
          ms=4,
          label=plotting.plain(curve.name),
          **style,
      )
      if level and (points := curves.gap(lines[level - 1], curve)):
        below = plotting.plain(lines[level - 1].name)
        label = f'{plotting.plain(curve.name)}, above {below}'
        right.plot(*zip(*points), label=label, **style)
    left.set_title('PSNR, dB', loc='left')
    right.set_title('dB above the level below, at equal rate', loc='left')
    right.axhline(0, color='#888888', lw=0.8)
    for axis in (left, right):
      _rate_axis(axis, 'bpp')
      if axis.get_legend_handles_labels()[0]:
        axis.legend(loc='best')
    return plotting.svg(figure, name)


def quality_by_splats(
    own: Sequence[curves.Curve],
    published: Sequence[dict],
    order: Sequence[str],
    name: str,
) -> str:
  """PSNR over the number of splats, which papers report without rates."""
  with mpl.rc_context(plotting.STYLE):
    figure = _figure(7.2, 3.6)
    axis = figure.subplots()
    for curve in own:
      points = [(row['splats'], row['psnr_db']) for row in curve.rows]
      points = sorted(x for x in points if x[1] is not None)
      if not points:
        continue
      label = plotting.plain(curve.name)
      axis.plot(*zip(*points), label=label, **_line(curve, order))
    for entry in published:
      axis.plot(
          entry['splats'],
          entry['psnr_db'],
          label=f'{entry["codec"]} (published)',
          **_published_line(entry['codec']),
      )
    axis.set_title('PSNR, dB', loc='left')
    axis.set_xlabel('splats')
    axis.xaxis.set_major_formatter(ticker.StrMethodFormatter('{x:,.0f}'))
    figure.legend(loc='outside right center')
    return plotting.svg(figure, name)


def _layer_color(layer: int, number: int) -> tuple:
  """Dark for the base, lighter for each enhancement layer."""
  shades = mpl.colormaps['viridis'](np.linspace(0.15, 0.9, max(number, 2)))
  return tuple(shades[layer])


def _bars(rows: int) -> tuple[mpl_figure.Figure, mpl_axes.Axes]:
  """A figure of horizontal bars, the first at the top."""
  figure = _figure(10.6, 0.95 + 0.27 * rows)
  axis = figure.subplots()
  axis.set_ylim(rows - 0.4, -0.6)
  axis.grid(False, axis='y')
  axis.tick_params(axis='y', length=0)
  return figure, axis


def _label_bar(axis: mpl_axes.Axes, x: float, y: float, text: str) -> None:
  """Writes behind the end of a bar; browsers drop spaces that lead a text."""
  axis.annotate(
      text,
      (x, y),
      xytext=(4, 0),
      textcoords='offset points',
      va='center',
      color='#444444',
  )


def layer_bytes(files: Sequence[dict], number: int, name: str) -> str:
  """Bits per pixel of header and layers, a bar for each file.

  Args:
    files: rows of results.json.
    number: layers of the largest file of the report, for its colors.
    name: of the figure, for its ids.

  Returns:
    SVG.
  """
  with mpl.rc_context(plotting.STYLE):
    figure, axis = _bars(len(files))
    labels = {}
    for i, file in enumerate(files):
      # Of a video, pixels of all frames.
      pixels = file['width'] * file['height'] * file.get('frames', 1)
      bits = 8 / pixels
      left = file['header_bytes']
      bar = axis.barh(i, left * bits, color=_HEADER, height=0.72)
      labels.setdefault('header', bar)
      for row in (x for x in file['layers'] if x['available']):
        size = (row['bytes'] - left) * bits
        color = _layer_color(row['layer'], number)
        bar = axis.barh(i, size, left=left * bits, color=color, height=0.72)
        labels.setdefault(f'layer {row["layer"]}', bar)
        left = row['bytes']
      text = f'{left * bits:.3f} bpp, {left:,} bytes'
      _label_bar(axis, left * bits, i, text)
    axis.set_yticks(
        range(len(files)), [plotting.plain(x['picture']) for x in files]
    )
    axis.set_xlim(0, axis.get_xlim()[1] * 1.16)
    axis.set_xlabel('bits per pixel')
    figure.legend(labels.values(), labels.keys(), loc='outside right center')
    return plotting.svg(figure, name)


def decode_times(
    rows: Sequence[tuple[str, dict]], name: str, of: str = 'the pictures'
) -> str:
  """Milliseconds of the parts of decoding, a bar for each prefix.

  Args:
    rows: labels, and what has entropy_ms, render_ms and maybe write_ms.
    name: of the figure, for its ids.
    of: what the milliseconds are means over.

  Returns:
    SVG.
  """
  with mpl.rc_context(plotting.STYLE):
    figure, axis = _bars(len(rows))
    handles = {}
    for i, (_, row) in enumerate(rows):
      left = 0
      for part, (title, color) in _PARTS.items():
        if part not in row:
          continue
        bar = axis.barh(i, row[part], left=left, color=color, height=0.72)
        handles.setdefault(title, bar)
        left += row[part]
      work = row['entropy_ms'] + row['render_ms']
      text = f'{work:.0f} ms, '
      if 'write_ms' in row:
        text += f'written {left:.0f} ms'
      else:
        text += f'{1000 / work:.0f} frames a second'
      _label_bar(axis, left, i, text)
    axis.set_yticks(
        range(len(rows)), [plotting.plain(label) for label, _ in rows]
    )
    axis.set_xlim(0, axis.get_xlim()[1] * 1.2)
    axis.set_xlabel(f'milliseconds, mean over {of}')
    figure.legend(handles.values(), handles.keys(), loc='outside right center')
    return plotting.svg(figure, name)


def over_time(file: dict, name: str) -> str:
  """PSNR and bytes of each frame of a video, a line for each prefix.

  Args:
    file: its row of results.json.
    name: of the figure, for its ids.

  Returns:
    SVG.
  """
  rows = [row for row in file['layers'] if row['available']]
  frames = range(len(file['time_s']))
  with mpl.rc_context(plotting.STYLE):
    figure = _figure(10.6, 4.6)
    quality, rate = figure.subplots(2, 1, sharex=True)
    for row in rows:
      figures = row['per_frame']
      line = {
          'color': _layer_color(row['layer'], len(file['layers'])),
          'lw': 1.4,
          'marker': '.',
          'ms': 4,
      }
      label = f'{row["layer"] + 1} layer{"s" if row["layer"] else ""}'
      values = [np.nan if x is None else x for x in figures['psnr_db']]
      quality.plot(frames, values, label=label, **line)
      rate.plot(frames, figures['bytes'], **line)
    for axis in (quality, rate):
      for frame in np.flatnonzero(file['is_key']):
        axis.axvline(
            frame,
            color='#d62728',
            lw=1,
            ls='--',
            zorder=0,
            label='I-frame' if (axis, frame) == (quality, 0) else None,
        )
    rate.set_yscale('log')
    rate.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    rate.yaxis.set_major_formatter(ticker.StrMethodFormatter('{x:,.0f}'))
    rate.yaxis.set_minor_locator(ticker.NullLocator())
    quality.set_title('PSNR of RGB, dB', loc='left')
    rate.set_title('bytes of a frame', loc='left')
    rate.set_xlabel('frame')
    rate.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    figure.legend(loc='outside right center')
    return plotting.svg(figure, name)
