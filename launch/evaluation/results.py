"""The file that `evaluate` writes and `report` reads: results.json.

All lists are of plain rows:
  pictures: name, path, sha256, width, height, channels.
  files: point, picture, path, sha256, file_bytes, header_bytes and layers, the
    rows that a single `evaluate --json` prints, with decode times.
  anchors: picture, codec, setting, bytes, bpp, decode_ms and the figures.
  codecs: title, note and version of every codec in anchors, by name.
  missing: codecs that the installed Pillow lacks.
Paths are relative to the folder of the file.

Figures are by the names of `pgsvc_jax.metrics`; null where there is none. Those
of metrics that came later are missing.

Of videos, `pictures` are clips, and each has also `select`, the flags that say
which of its frames; frames, start_s and frames_per_second. Figures are means
over frames. Rows of layers and anchors have also bits_per_second and
`per_frame`, lists of the figures; in those of layers also of `bytes`. Rows of
files have lists time_s and is_key.
"""

import json
import pathlib
import statistics

VERSION = 1
_FIELDS = {
    'processor': str,
    'cores': int,
    'versions': dict,
    'pictures': list,
    'files': list,
    'anchors': list,
    'codecs': dict,
    'missing': list,
}
_ROW_FIELDS = {
    'pictures': {'name', 'path', 'sha256', 'width', 'height', 'channels'},
    'files': {'point', 'picture', 'path', 'sha256', 'header_bytes', 'layers'},
    'anchors': {'picture', 'codec', 'setting', 'bytes', 'bpp'},
}
_PICTURE_FIELDS = {'anchors': {'decode_ms'}}
_VIDEO_FIELDS = {
    'pictures': {'select', 'frames', 'start_s', 'frames_per_second'},
    'files': {'time_s', 'is_key'},
    'anchors': {'bits_per_second'},
}


def load(path: str) -> dict:
  """Reads results.

  Args:
    path: of the file.

  Returns:
    The document.

  Raises:
    OSError: it cannot be read.
    ValueError: it is something else.
  """
  document = read(path)
  check(document, path)
  return document


def read(path: str) -> dict:
  """Reads a JSON document, whatever it says; raises as `load` does."""
  try:
    document = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{path}: not results of a command ({error})') from error
  if not isinstance(document, dict):
    raise ValueError(f'{path}: not results of a command')
  return document


def check(document: dict, path: str) -> None:
  """Refuses what `evaluate` has not written; raises as `load` does."""
  if document.get('version') != VERSION:
    raise ValueError(f'{path}: not results of this version of `evaluate`')
  for name, kind in _FIELDS.items():
    if not isinstance(document.get(name), kind):
      raise ValueError(f'{path}: not results of `evaluate` (no {name!r})')
  more = _VIDEO_FIELDS if are_of_videos(document) else _PICTURE_FIELDS
  for name, fields in _ROW_FIELDS.items():
    for row in document[name]:
      if lacking := (fields | more.get(name, set())) - set(row):
        raise ValueError(
            f'{path}: not results of `evaluate` ({min(lacking)!r} is missing'
            f' in {name!r})'
        )


def are_of_videos(document: dict) -> bool:
  """Whether the results are of videos."""
  return any('frames' in picture for picture in document['pictures'])


def is_smaller(row: dict, whole: dict) -> bool:
  """Whether a prefix was compared at a smaller size than the whole file's.

  Args:
    row: of a layer; in older results it has no size.
    whole: the row of the file, of its original or of its last layer.
  """
  return any(x in row and row[x] < whole[x] for x in ('width', 'height'))


def mean_row(rows: list[dict]) -> dict:
  """Means of rows; of a figure that one of them lacks, None."""
  names = [
      name for name, x in rows[0].items() if not isinstance(x, (str, dict))
  ]
  return {
      name: None
      if any(row.get(name) is None for row in rows)
      else statistics.fmean(row[name] for row in rows)
      for name in names
  }
