"""The page of a report: what stands in page.html."""

import pathlib

import jinja2

from ..evaluation import results
from . import bd_rate
from . import curves
from . import plots
from . import strips

_FOLDER = pathlib.Path(__file__).parent


def template(name: str) -> jinja2.Template:
  """A template of this folder."""
  return jinja2.Environment(
      loader=jinja2.FileSystemLoader(_FOLDER),
      autoescape=True,
      undefined=jinja2.StrictUndefined,
      trim_blocks=True,
  ).get_template(name)


def number(value: float | None, form: str) -> str:
  """A figure, or `-` where there is none."""
  return '-' if value is None else format(value, form)


def cell(result: bd_rate.BdRate, remark: str = '') -> dict:
  """A cell of a BD table: a percentage with a remark, or why there is none."""
  if result.percent is None:
    return {'text': '', 'remark': result.reason, 'better': None}
  return {
      'text': f'{result.percent:+.1f} %',
      'remark': remark,
      'better': result.percent < 0,
  }


def _means_table(own: list[curves.Curve]) -> list[list[str]]:
  forms = {
      'splats': ',.0f',
      'bytes': ',.0f',
      'bpp': '.4f',
      'psnr_db': '.2f',
      'ms_ssim': '.4f',
      'entropy_ms': '.1f',
      'render_ms': '.1f',
      'write_ms': '.1f',
  }
  return [
      [curve.name, str(i + 1)]
      + [number(row[name], form) for name, form in forms.items()]
      for curve in own
      for i, row in enumerate(curve.rows)
  ]


def bd_table(
    document: dict, mean: list[curves.Curve], published: dict, metric: str
) -> dict:
  """A table of BD-rates for the templates.

  Args:
    document: results.
    mean: curves of the means.
    published: of `curves.published_set`.
    metric: of `curves.metrics`.

  Returns:
    title, columns, one for each of our own curves, and rows, one for each
    curve compared with.
  """
  kind = 'clips' if results.is_video(document) else 'pictures'
  points = [x for x in mean if x.kind == 'point']
  own = [x for x in mean if x.kind == 'front'] + curves.whole_files(points)
  # Files of few layers have too few prefixes to be compared alone.
  own += [x for x in points if len(x.rows) >= bd_rate.FEWEST_POINTS]
  own = own or points
  total = len(document['pictures'])
  rows = []
  anchors = [x for x in mean if x.kind == 'anchor' or x in own]
  anchors = [x for x in anchors if x.kind != 'front']
  for anchor in anchors + published['curves']:
    cells = []
    for test in own:
      if test.key == anchor.key:
        cells.append({'text': '', 'remark': '', 'better': None})
      elif anchor.kind == 'published':
        result = curves.compare(anchor, test, metric)
        cells.append(cell(result, anchor.note))
      else:
        result, found = curves.compare_means(
            document, anchor.key, test.key, metric
        )
        remark = '' if found == total else f'{found} of {total} {kind}'
        cells.append(cell(result, remark))
    rows.append((anchor.name, cells))
  return {
      'title': curves.metrics(document)[metric],
      'columns': [x.name for x in own],
      'rows': rows,
  }


def _picture(
    document: dict,
    picture: dict,
    order: list[str],
    folder: pathlib.Path,
    name: str,
) -> dict:
  """The section of one picture."""
  lines = curves.of_picture(document, picture['name'])
  main = lines[0]
  bd = [
      (
          curve.name,
          [cell(curves.compare(curve, main, x)) for x in curves.METRICS],
      )
      for curve in lines
      if curve.kind == 'anchor'
  ]
  files = [x for x in document['files'] if x['picture'] == picture['name']]
  # The strip is of the file that has most to show.
  file = max(files, key=lambda x: x['file_bytes'])
  strip, missing = [], ''
  try:
    strip = strips.make(folder, file, picture)
  except (OSError, ValueError) as error:
    missing = str(error)
  return {
      'name': picture['name'],
      'size': f'{picture["width"]} x {picture["height"]}',
      'plot': plots.rate_distortion(lines, order, name),
      'main': main.name,
      'bd': bd,
      'point': file['point'],
      'strip': strip,
      'missing': missing,
  }


def make(document: dict, folder: pathlib.Path) -> str:
  """The page.

  Args:
    document: results.
    folder: of results.json, to which its paths are relative.

  Returns:
    HTML without any reference to another file.
  """
  points = curves.points(document)
  order = [f'point {point}' for point in points]
  mean = curves.means(document)
  own = [curve for curve in mean if curve.kind == 'point']
  levels = curves.levels(own)
  names = [f'pgsvc {point}' for point in points]
  names += [codec['title'] for codec in document['codecs'].values()]
  published = curves.published_set(document, curves.load_published())
  most = max(len(file['layers']) for file in document['files'])
  by_splats = published['by_splats']
  return template('page.html').render(
      document=document,
      left_out=[name for name in names if name not in {x.name for x in mean}],
      mean_plot=plots.rate_distortion(
          mean + published['curves'], order, 'mean'
      ),
      levels_plot=len(levels) > 1 and plots.levels(levels, 'levels'),
      splats_plot=by_splats
      and plots.quality_by_splats(own, by_splats, order, 'splats'),
      published=published,
      published_entries=[
          x
          for kind in ('curves', 'by_splats')
          for x in curves.load_published()[kind]
          if x['set'] == published['title']
      ],
      bd_tables=[
          bd_table(document, mean, published, x) for x in curves.METRICS
      ],
      layer_plots=[
          (
              point,
              plots.layer_bytes(
                  [x for x in document['files'] if x['point'] == point],
                  most,
                  f'layers{i}',
              ),
          )
          for i, point in enumerate(points)
      ],
      time_plot=own
      and plots.decode_times(
          [
              (f'{curve.name}, {i + 1} layer{"s" if i else ""}', row)
              for curve in own
              for i, row in enumerate(curve.rows)
          ],
          'times',
      ),
      anchor_times=[
          (curve.name, [number(x['decode_ms'], '.1f') for x in curve.rows])
          for curve in mean
          if curve.kind == 'anchor'
      ],
      means=_means_table(own),
      pictures=[
          _picture(document, picture, order, folder, f'picture{i}')
          for i, picture in enumerate(document['pictures'])
      ],
  )
