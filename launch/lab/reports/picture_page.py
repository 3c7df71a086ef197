"""The page of a report on pictures: what stands in picture_page.html."""

import base64
import pathlib

from ...viewer import page as viewer_page
from . import curves
from . import page
from . import plots
from . import strips

_RATE = 'bpp'


def _picture(
    document: dict, picture: dict, folder: pathlib.Path, name: str
) -> dict:
  """The section of one picture."""
  file = page.largest_file(document, picture)
  strip, missing, data = [], '', b''
  try:
    strip = strips.make(folder, file, picture)
    data = (folder / file['path']).read_bytes()
  except (OSError, ValueError) as error:
    missing = str(error)
  return page.picture_fields(document, picture, name, _RATE) | {
      'title': f'{picture["name"]}, {picture["width"]} x {picture["height"]}',
      'strip': strip,
      'missing': missing,
      # Of the page's own element, which decodes and draws it.
      'data': base64.b64encode(data).decode('ascii'),
  }


def make(document: dict, folder: pathlib.Path) -> str:
  """The page.

  Args:
    document: results.
    folder: of results.json, to which its paths are relative.

  Returns:
    HTML without any reference to another file.
  """
  mean = curves.means(document)
  own = [curve for curve in mean if curve.kind == 'point']
  published = page.published_set(document)
  by_splats = published['by_splats']
  pictures = [
      _picture(document, picture, folder, f'picture{i}')
      for i, picture in enumerate(document['pictures'])
  ]
  has_files = any(picture['data'] for picture in pictures)
  return page.template('picture_page.html').render(
      **page.fields(document, published, _RATE),
      splats_plot=by_splats
      and plots.quality_by_splats(
          own, by_splats, page.order(document), 'splats'
      ),
      anchor_times=[
          (
              curve.name,
              [f'{row["decode_ms"]:.1f}' for row in curve.rows],
          )
          for curve in mean
          if curve.kind == 'anchor'
      ],
      pictures=pictures,
      elements=viewer_page.elements() if has_files else '',
  )
