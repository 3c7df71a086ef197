"""What the pages of reports have in common: what stands in results_page.html.

Below, a picture may be a clip, too.
"""

import pathlib

import jinja2

from pgsvc_jax import metrics

from ... import table
from ...evaluation import results
from . import bd_rate
from . import curves
from . import plots

_FOLDER = pathlib.Path(__file__).parent


def template(name: str) -> jinja2.Template:
  """A template of this folder."""
  return jinja2.Environment(
      loader=jinja2.FileSystemLoader(_FOLDER),
      autoescape=True,
      undefined=jinja2.StrictUndefined,
      trim_blocks=True,
  ).get_template(name)


def published_set(document: dict) -> dict:
  """`curves.published_set` of the pictures, with the `entries` it is of."""
  known = curves.load_published()
  published = curves.published_set(document, known)
  entries = [
      entry
      for kind in ('curves', 'by_splats')
      for entry in known[kind]
      if entry['set'] == published['title']
  ]
  return published | {'entries': entries}


def fields(document: dict, published: dict, rate: str) -> dict:
  """What results_page.html needs, but for the pictures.

  Args:
    document: results.
    published: of `published_set`.
    rate: of `curves.RATES`.

  Returns:
    Values by name.
  """
  is_video = results.are_of_videos(document)
  compared = curves.compared(document)
  points = curves.points(document)
  mean = curves.means(document)
  own = [curve for curve in mean if curve.kind == 'point']
  levels = curves.levels(own)
  names = [f'pgsvc {point}' for point in points]
  names += [codec['title'] for codec in document['codecs'].values()]
  most = max(len(file['layers']) for file in document['files'])
  columns = table.columns([row for curve in own for row in curve.rows])
  return {
      'document': document,
      'kind': 'clip' if is_video else 'picture',
      'shown': 'frame' if is_video else 'picture',
      'metrics': {x.name: x.title for x in compared},
      'left_out': [x for x in names if x not in {curve.name for curve in mean}],
      'mean_plot': plots.rate_distortion(
          mean + published['curves'],
          order(document),
          'mean',
          compared,
          rate,
      ),
      'mean_names': [table.COLUMNS[name].title for name in columns],
      'means': [
          [curve.name, str(i), *table.cells(row, columns)]
          for curve in own
          for i, row in enumerate(curve.rows, 1)
      ],
      'has_sizes': any(
          results.is_smaller(row, file)
          for file in document['files']
          for row in file['layers']
      ),
      'levels_plot': len(levels) > 1 and plots.levels(levels, 'levels'),
      'bd_tables': [_bd_table(document, mean, published, x) for x in compared],
      'published': published,
      'layer_plots': [
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
      'time_plot': own
      and plots.decode_times(
          [
              (f'{curve.name}, {i + 1} layer{"s" if i else ""}', row)
              for curve in own
              for i, row in enumerate(curve.rows)
          ],
          'times',
          'frames and clips' if is_video else 'the pictures',
      ),
  }


def order(document: dict) -> list[str]:
  """Keys of points and anchors, which give them their colors."""
  return [
      *(f'point {point}' for point in curves.points(document)),
      *(f'anchor {codec}' for codec in document['codecs']),
  ]


def _bd_table(
    document: dict,
    mean: list[curves.Curve],
    published: dict,
    metric: metrics.Metric,
) -> dict:
  """A table of BD-rates: title, columns, and rows of (name, cells).

  A column for each of our own curves, a row for each curve compared with.
  """
  kind = 'clips' if results.are_of_videos(document) else 'pictures'
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
        result = curves.compare(anchor, test, metric.name)
        cells.append(_cell(result, anchor.note))
      else:
        result, found = curves.compare_means(
            document, anchor.key, test.key, metric.name
        )
        remark = '' if found == total else f'{found} of {total} {kind}'
        cells.append(_cell(result, remark))
    rows.append((anchor.name, cells))
  return {
      'title': metric.title,
      'columns': [x.name for x in own],
      'rows': rows,
  }


def _cell(result: bd_rate.BdRate, remark: str = '') -> dict:
  """A cell of a BD table: a percentage with a remark, or why there is none."""
  if result.percent is None:
    return {'text': '', 'remark': result.reason, 'better': None}
  return {
      'text': f'{result.percent:+.1f} %',
      'remark': remark,
      'better': result.percent < 0,
  }


def largest_file(document: dict, picture: dict) -> dict:
  """The file of a picture that has most to show."""
  files = [x for x in document['files'] if x['picture'] == picture['name']]
  return max(files, key=lambda x: x['file_bytes'])


def picture_fields(document: dict, picture: dict, name: str, rate: str) -> dict:
  """What the section of a picture needs, but for the title and the strip.

  Args:
    document: results.
    picture: its row.
    name: that begins the ids of its plots.
    rate: of `curves.RATES`.

  Returns:
    Values by name.
  """
  compared = curves.compared(document)
  lines = curves.of_picture(document, picture['name'])
  main = lines[0]
  return {
      'plot': plots.rate_distortion(
          lines, order(document), name, compared, rate
      ),
      'main': main.name,
      'bd': [
          (x.name, [_cell(curves.compare(x, main, m.name)) for m in compared])
          for x in lines
          if x.kind == 'anchor'
      ],
      'point': largest_file(document, picture)['point'],
  }
