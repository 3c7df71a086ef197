"""The page of a report on videos: what stands in video_page.html."""

import pathlib
import statistics

from . import page
from . import plots
from . import strips

_RATE = 'bits_per_second'


def _with_rates(published: dict, document: dict) -> dict:
  """Published curves at the frame rate and size of the clips here."""
  pixels = statistics.fmean(
      x['width'] * x['height'] * x['frames_per_second']
      for x in document['pictures']
  )
  for curve in published['curves']:
    for row in curve.rows:
      row[_RATE] = row['bpp'] * pixels
  return published


def _clip(document: dict, clip: dict, folder: pathlib.Path, name: str) -> dict:
  """The section of one clip."""
  file = page.largest_file(document, clip)
  # What errors of prediction add up to is seen last before an I-frame.
  keys = [*file['is_key'], True]
  frame = keys.index(True, 1) - 1
  strip, missing = [], ''
  try:
    strip = strips.make_video(folder, file, clip, frame)
  except ModuleNotFoundError:
    missing = "PyAV is not installed (pip install 'pgsvc_jax[video]')"
  except (OSError, ValueError) as error:
    missing = str(error)
  return page.picture_fields(document, clip, name, _RATE) | {
      'title': clip['name'],
      'over_time': plots.over_time(file, f'{name}time'),
      'frame': frame,
      'strip': strip,
      'missing': missing,
  }


def _describe(clip: dict) -> str:
  select = ', '.join(f'--{name}={x}' for name, x in clip['select'].items())
  return (
      f'{clip["name"]}: {clip["width"]} x {clip["height"]}, {clip["frames"]}'
      f' frames from {clip["start_s"]:g} s, {clip["frames_per_second"]:g} a'
      f' second{f" ({select})" if select else ""}'
  )


def make(document: dict, folder: pathlib.Path) -> str:
  """The page.

  Args:
    document: results, of videos.
    folder: of results.json, to which its paths are relative.

  Returns:
    HTML without any reference to another file.
  """
  published = _with_rates(page.published_set(document), document)
  return page.template('video_page.html').render(
      **page.fields(document, published, _RATE),
      has_gops=any(name.endswith('_gop') for name in document['codecs']),
      clips=[_describe(clip) for clip in document['pictures']],
      pictures=[
          _clip(document, clip, folder, f'picture{i}')
          for i, clip in enumerate(document['pictures'])
      ],
  )
