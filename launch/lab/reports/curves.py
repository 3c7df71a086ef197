"""Rate-distortion curves out of results.json, and their comparison.

A curve's points are (bits per pixel or kbit/s, quality), where a quality is the
place that a metric gives its figure on an axis: MS-SSIM is in decibels.
"""

import dataclasses
import json
import re
import statistics
from typing import Literal

import numpy as np
from scipy import interpolate

from pgsvc_jax import metrics

from ... import command
from ...evaluation import results
from . import bd_rate

PUBLISHED = command.CONFIGS / 'published.json'
# Of the rates in rows, the unit of the points and how many of theirs it is.
RATES = {'bpp': ('bits per pixel', 1), 'bits_per_second': ('kbit/s', 1000)}

Kind = Literal['point', 'level', 'front', 'anchor', 'published']
Pairs = list[tuple[float, float]]


def _front(points: Pairs) -> Pairs:
  """The points that none of at most their rate reaches in quality."""
  kept = []
  # Of equal rates the best comes first.
  for rate, quality in sorted(points, key=lambda point: (point[0], -point[1])):
    if not kept or quality > kept[-1][1]:
      kept.append((rate, quality))
  return kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
  """Points of one codec, by rate.

  Attributes:
    name: for people.
    kind: one file's prefixes, one prefix of all files, the best prefixes of
      all files, a codec run here, or published figures.
    key: `kind` and what tells it from others of the kind; picks its color.
    rows: with bpp and figures; missing ones are None.
    note: what must be said beside it.
  """

  name: str
  kind: Kind
  key: str
  rows: list[dict]
  note: str = ''

  def points(self, metric: str, rate: str = 'bpp') -> Pairs:
    """(rate, quality) of the rows that have both; of a front, the best."""
    _, unit = RATES[rate]
    place = metrics.ALL[metric].place
    pairs = [
        (row[rate] / unit, place(row.get(metric)))
        for row in self.rows
        if row.get(rate)
    ]
    pairs = sorted((x, y) for x, y in pairs if y is not None)
    return _front(pairs) if self.kind == 'front' else pairs


def compared(document: dict) -> list[metrics.Metric]:
  """The metrics with a curve that results have."""
  rows = [row for file in document['files'] for row in file['layers']]
  rows += document['anchors']
  return [
      metric
      for name, metric in metrics.ALL.items()
      if metric.has_curve and any(row.get(name) is not None for row in rows)
  ]


def _with_front(curves: list[Curve]) -> list[Curve]:
  """Adds the best prefixes of all files, if there are several."""
  if len(curves) < 2:
    return curves
  rows = [row for curve in curves for row in _of_whole_size(curve).rows]
  return [
      Curve(name='pgsvc, best of all', kind='front', key='front', rows=rows),
      *curves,
  ]


def _of_whole_size(curve: Curve) -> Curve:
  """The curve without prefixes that were compared at a smaller size."""
  rows = [x for x in curve.rows if not results.is_smaller(x, curve.rows[-1])]
  return dataclasses.replace(curve, rows=rows)


def points(document: dict) -> list[str]:
  """Names of the operating points, in the order of the file."""
  return list(dict.fromkeys(file['point'] for file in document['files']))


def _own(point: str, rows: list[dict]) -> Curve:
  return Curve(
      name=f'pgsvc {point}', kind='point', key=f'point {point}', rows=rows
  )


def _anchor(document: dict, codec: str, rows: list[dict]) -> Curve:
  return Curve(
      name=document['codecs'][codec]['title'],
      kind='anchor',
      key=f'anchor {codec}',
      rows=rows,
  )


def of_picture(document: dict, picture: str) -> list[Curve]:
  """All curves of one picture that was measured here."""
  own = [
      _own(file['point'], [row for row in file['layers'] if row['available']])
      for file in document['files']
      if file['picture'] == picture
  ]
  anchors = []
  for codec in document['codecs']:
    rows = [
        row
        for row in document['anchors']
        if (row['picture'], row['codec']) == (picture, codec)
    ]
    if rows:
      anchors.append(_anchor(document, codec, rows))
  return _with_front(own) + anchors


def means(document: dict) -> list[Curve]:
  """Means over the pictures, at equal setting and equal prefix.

  A point or codec that lacks one of the pictures is left out: its mean would
  be of other pictures.
  """
  per_picture = [
      {curve.key: curve for curve in of_picture(document, picture['name'])}
      for picture in document['pictures']
  ]
  own, anchors = [], []
  for key, first in per_picture[0].items():
    if first.kind == 'front' or not all(key in x for x in per_picture):
      continue
    columns = zip(*(x[key].rows for x in per_picture))
    rows = [results.mean_row(list(column)) for column in columns]
    curve = dataclasses.replace(first, rows=rows)
    (own if curve.kind == 'point' else anchors).append(curve)
  return _with_front(own) + anchors


def levels(own: list[Curve]) -> list[Curve]:
  """One curve a level: the same prefix of the files of all points.

  Args:
    own: curves of kind `point`.

  Returns:
    The levels that several points have, the base first.
  """
  most = max((len(curve.rows) for curve in own), default=0)
  result = []
  for level in range(most):
    rows = [curve.rows[level] for curve in own if level < len(curve.rows)]
    if len(rows) > 1:
      name = 'base' if not level else f'base + {level}'
      result.append(
          Curve(name=name, kind='level', key=f'level {level}', rows=rows)
      )
  return result


def whole_files(own: list[Curve]) -> list[Curve]:
  """The curve of the files that are not cut, if there are several.

  Args:
    own: curves of kind `point`, of one picture or of means.

  Returns:
    One curve, or none.
  """
  rows = [curve.rows[-1] for curve in own if curve.rows]
  if len(rows) < 2:
    return []
  name = 'pgsvc, whole files'
  return [Curve(name=name, kind='level', key='whole files', rows=rows)]


def gap(lower: Curve, upper: Curve) -> Pairs:
  """How many dB of PSNR the upper curve is above the lower, at equal rate.

  Returns:
    (rate, dB) over the rates that they share; empty where there are none.
  """
  ends, lines = [], []
  for curve in (lower, upper):
    rates, qualities = np.array(curve.points('psnr_db')).reshape(-1, 2).T
    if len(rates) < 2 or (np.diff(rates) <= 0).any():
      return []
    ends.append((rates[0], rates[-1]))
    lines.append(interpolate.PchipInterpolator(np.log(rates), qualities))
  first = max(start for start, _ in ends)
  last = min(end for _, end in ends)
  if first >= last:
    return []
  shared = np.geomspace(first, last, 40)
  difference = lines[1](np.log(shared)) - lines[0](np.log(shared))
  return list(zip(shared.tolist(), difference.tolist()))


def load_published() -> dict:
  """The figures of configs/published.json that fit no picture in particular."""
  return json.loads(PUBLISHED.read_text(encoding='utf-8'))


def _set_of(document: dict, published: dict) -> tuple[str | None, bool]:
  """The published set that all pictures are of, and whether it is complete."""
  names = {picture['name'] for picture in document['pictures']}
  for title, entry in published['sets'].items():
    if all(re.fullmatch(entry['pattern'], name) for name in names):
      return title, len(names) == entry['num_pictures']
  return None, False


def published_set(document: dict, published: dict) -> dict:
  """The published figures for the set that the pictures are of.

  Returns:
    `title` of the set, or None; `note`, what comparing must say; `curves`,
    those with rates; and `by_splats`, entries without.
  """
  title, complete = _set_of(document, published)
  if title is None:
    return {'title': None, 'note': '', 'curves': [], 'by_splats': []}
  number = published['sets'][title]['num_pictures']
  kind = 'clips' if results.are_of_videos(document) else 'pictures'
  note = f'as published, mean of all {number} {kind}'
  if not complete:
    note = (
        f'as published, other averaging: {number} {kind}, here'
        f' {len(document["pictures"])}'
    )
  curves = []
  for entry in published['curves']:
    if entry['set'] == title:
      names = [name for name in ('bpp', *metrics.ALL) if name in entry]
      rows = [
          dict(zip(names, values))
          for values in zip(*(entry[name] for name in names))
      ]
      curves.append(
          Curve(
              name=entry['codec'],
              kind='published',
              key=f'published {entry["codec"]}',
              rows=rows,
              note=note,
          )
      )
  by_splats = [x for x in published['by_splats'] if x['set'] == title]
  return {
      'title': title,
      'note': note,
      'curves': curves,
      'by_splats': by_splats,
  }


def compare(anchor: Curve, test: Curve, metric: str) -> bd_rate.BdRate:
  """The BD-rate of a curve against another."""
  points = (_of_whole_size(x).points(metric) for x in (anchor, test))
  return bd_rate.bd_rate(*points)


def compare_means(
    document: dict, anchor: str, test: str, metric: str
) -> tuple[bd_rate.BdRate, int]:
  """The mean BD-rate over the pictures, and over how many it is.

  Args:
    document: the results.
    anchor: key of the curve compared with.
    test: key of the curve in question.
    metric: its name.

  Returns:
    The mean of the pictures that have one; if none has, the commonest reason.
  """
  values, reasons = [], []
  for picture in document['pictures']:
    lines = of_picture(document, picture['name'])
    lines += whole_files([x for x in lines if x.kind == 'point'])
    found = {x.key: x for x in lines}
    if anchor not in found or test not in found:
      reasons.append('not measured')
      continue
    result = compare(found[anchor], found[test], metric)
    if result.percent is None:
      reasons.append(result.reason)
    else:
      values.append(result.percent)
  if values:
    return bd_rate.BdRate(percent=statistics.fmean(values)), len(values)
  reason = statistics.mode(reasons)
  return bd_rate.BdRate(percent=None, reason=reason), 0
