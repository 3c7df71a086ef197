"""The page of a report on videos: what stands in video_page.html."""

import pathlib
import statistics

from . import curves
from . import page
from . import plots
from . import strips

_RATE = 'bits_per_second'
_COLUMNS = {
    'splats': ('splats', ',.0f', 1),
    'bytes': ('bytes', ',.0f', 1),
    _RATE: ('kbit/s', '.1f', 1000),
    'bpp': ('bpp', '.4f', 1),
    'psnr_db': ('PSNR, dB', '.2f', 1),
    'y_psnr_db': ('Y, dB', '.2f', 1),
    'yuv_psnr_db': ('4:2:0, dB', '.2f', 1),
    'ms_ssim': ('MS-SSIM', '.4f', 1),
    'vmaf': ('VMAF', '.2f', 1),
    'entropy_ms': ('entropy, ms', '.1f', 1),
    'render_ms': ('render, ms', '.1f', 1),
}


def _means_table(own: list[curves.Curve]) -> list[list[str]]:
  rows = []
  for curve in own:
    for i, row in enumerate(curve.rows):
      figures = [
          page.number(row[name] and row[name] / unit, form)
          for name, (_, form, unit) in _COLUMNS.items()
          if name in row
      ]
      rows.append([curve.name, str(i + 1), *figures])
  return rows


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


def _clip(
    document: dict,
    clip: dict,
    order: list[str],
    folder: pathlib.Path,
    name: str,
) -> dict:
  """The section of one clip."""
  metrics = curves.metrics(document)
  lines = curves.of_picture(document, clip['name'])
  main = lines[0]
  bd = [
      (x.name, [page.cell(curves.compare(x, main, m)) for m in metrics])
      for x in lines
      if x.kind == 'anchor'
  ]
  files = [x for x in document['files'] if x['picture'] == clip['name']]
  # What is drawn over time and shown is the file that has most to show.
  file = max(files, key=lambda x: x['file_bytes'])
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
  return {
      'name': clip['name'],
      'plot': plots.rate_distortion(
          lines, order, name, metrics=metrics, rate=_RATE
      ),
      'main': main.name,
      'bd': bd,
      'point': file['point'],
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
  metrics = curves.metrics(document)
  points = curves.points(document)
  order = [f'point {point}' for point in points]
  mean = curves.means(document)
  own = [curve for curve in mean if curve.kind == 'point']
  names = [f'pgsvc {point}' for point in points]
  names += [codec['title'] for codec in document['codecs'].values()]
  published = curves.published_set(document, curves.load_published())
  published = _with_rates(published, document)
  levels = curves.levels(own)
  most = max(len(file['layers']) for file in document['files'])
  return page.template('video_page.html').render(
      document=document,
      metrics=metrics,
      has_vmaf='vmaf' in metrics,
      has_gops=any(name.endswith('_gop') for name in document['codecs']),
      clips=[_describe(clip) for clip in document['pictures']],
      left_out=[name for name in names if name not in {x.name for x in mean}],
      mean_plot=plots.rate_distortion(
          mean + published['curves'],
          order,
          'mean',
          metrics=metrics,
          rate=_RATE,
      ),
      mean_names=[
          title
          for name, (title, _, _) in _COLUMNS.items()
          if own and name in own[0].rows[0]
      ],
      means=_means_table(own),
      bd_tables=[
          page.bd_table(document, mean, published, metric) for metric in metrics
      ],
      levels_plot=len(levels) > 1 and plots.levels(levels, 'levels'),
      published=published,
      published_entries=[
          x
          for x in curves.load_published()['curves']
          if x['set'] == published['title']
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
          'frames and clips',
      ),
      pictures=[
          _clip(document, clip, order, folder, f'picture{i}')
          for i, clip in enumerate(document['pictures'])
      ],
  )
