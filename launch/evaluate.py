"""Measures every operating point of .pgsvc files against the originals.

python -m launch.evaluate --input=FILE.pgsvc --reference=PICTURE [--json]
python -m launch.evaluate --input=FOLDER[,FOLDER] --reference=FOLDER \
    --output=results.json [--anchors=jpeg,jpeg2000,webp,avif]

Pictures are compared as decoded, at 8 bits: PSNR over all channels, and the
five-scale MS-SSIM (none for pictures under 161 pixels). Layers of several sizes
are each compared at their own, with the original averaged over the area of each
pixel; bits per pixel count the pixels of the original.

python -m launch.evaluate --workdir=DIR --reference=PICTURE [--json]

That is of a checkpoint of `encode --workdir`, as floats; the bytes are those of
the file that would be written of it now.

A folder holds NAME.pgsvc, or POINT/NAME.pgsvc for several operating points;
NAME is the original's, without its suffix. Or the input are files, and the
reference is the one original of them all. Every file is cut after each layer
and decoded from what is left. results.json also holds the anchors, classical
codecs at several qualities on the same pictures; those that an older
results.json has are taken from it. `report` turns it into a page.

python -m launch.evaluate --input=FILE.pgsvc --reference=VIDEO \
    [--start=N] [--frames=N] [--size=WxH] [--vmaf] [--side_by_side=OUT.mp4]
python -m launch.evaluate --input=FOLDER --reference=FOLDER --size=WxH \
    --output=results.json [--anchors=x264,x265,svt_av1] [--vmaf]

Videos alike: figures of each frame and their means, every prefix decoded as a
stream beside the frames of the original that start at the same times. --size
and the like are those given to `encode`. Anchors and VMAF need the extra
`anchors`.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import sys

from absl import flags
import numpy as np

from pgsvc_jax import media
from pgsvc_jax import render
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import quantized

from . import caches
from . import command
from . import host
from . import table
from .evaluation import anchors
from .evaluation import operating_points
from .evaluation import results
from .videos import anchors as video_anchors
from .videos import evaluation as evaluate_video
from .videos import source as video_source

_INPUT = flags.DEFINE_string(
    'input',
    None,
    'a .pgsvc file; with --output, folders or files, separated by commas',
)
_WORKDIR = flags.DEFINE_string(
    'workdir',
    None,
    'in place of --input: of a run of `encode`, also unfinished',
)
_CHECKPOINT = flags.DEFINE_enum(
    'checkpoint',
    'latest',
    ['latest', 'best'],
    'of --workdir; best: of the highest PSNR of the full picture',
)
_REFERENCE = flags.DEFINE_string(
    'reference',
    None,
    'the original; with --output, a folder of them, or the one of all files',
    required=True,
)
_OUTPUT = flags.DEFINE_string('output', None, 'results.json to write')
_ANCHORS = flags.DEFINE_list(
    'anchors',
    None,
    f'codecs to compare with; pictures: of {", ".join(anchors.CODECS)}, default'
    ' all that the installed Pillow has; videos: of'
    f' {", ".join(video_anchors.CODECS)}, default'
    f' {",".join(video_anchors.DEFAULT)}; needs --output',
)
_VIDEO = video_source.Flags()
_VMAF = flags.DEFINE_bool('vmaf', False, 'of videos: VMAF too')
_SIDE_BY_SIDE = flags.DEFINE_string(
    'side_by_side',
    None,
    'of one video: a video to write of its prefixes beside the original',
)
_JSON = flags.DEFINE_bool('json', False, 'print one JSON document')
flags.declare_key_flag('cache')


def _evaluate_file(name: str) -> None:
  """Measures one file and prints its table."""
  data = pathlib.Path(name).read_bytes()
  with command.about(name):
    document = table.describe(data)
    kept = media.read_metadata(bitstream.read_header(data).metadata)
  color = 'keep' if 'profile' in kept else 'srgb'
  reference = media.read_picture(_REFERENCE.value, color=color).pixels
  with command.about(name):
    caches.announce()
    layered = bitstream.read_layers(data)
  operating_points.check_size(document, name, reference, _REFERENCE.value)
  images = render.render_levels(layered)
  for row, image in zip(document['layers'], images):
    operating_points.add_quality(row, image, reference)
  if _JSON.value:
    table.print_json(document)
    return
  table.print_layers(document['layers'])


def _evaluate_workdir(name: str) -> None:
  """Measures the checkpoint of a run and prints its table."""
  # Only here: files are measured without the training stack.
  import jax

  from pgsvc_jax import config as config_lib
  from pgsvc_jax.codec import rate
  from pgsvc_jax.training import fit

  from . import checkpoints

  # The accelerator may be busy with the run, and it is not needed.
  jax.config.update('jax_platforms', 'cpu')
  folder = pathlib.Path(name)
  reference = media.read_picture(_REFERENCE.value).pixels
  caches.announce()
  values, snapshot = checkpoints.read(folder, _CHECKPOINT.value)
  config = config_lib.from_mapping(config_lib.EncodeConfig, values)
  layered = fit.finish(snapshot.layered, config.fit)
  if snapshot.decided is None:
    # As the rounding will begin, or the run will end.
    steps = rate.choose_step_sizes(
        config, layered, float(snapshot.errors[-1]), reference
    )
    layers = rate.round_layers(config, layered, steps)
  else:
    num_layers = len(layered.layer_sizes)
    steps = fit.finish_step_sizes(snapshot.step_sizes, num_layers)
    layers = quantized.quantize_layers(layered, steps)
  document = table.describe(bitstream.write(layers))
  operating_points.check_size(document, name, reference, _REFERENCE.value)
  images = render.render_levels(layered)
  for row, image, count in zip(
      document['layers'], images, np.cumsum(layered.layer_sizes).tolist()
  ):
    row['splats'] = count
    operating_points.add_quality(row, image, reference)
  document['step'] = snapshot.step
  document['step_sizes'] = [dataclasses.asdict(x) for x in layers.step_sizes]
  if _JSON.value:
    table.print_json(document)
    return
  print(f'step {snapshot.step}', file=sys.stderr)
  table.print_layers(document['layers'])


def _known_anchors(path: pathlib.Path) -> dict[tuple, dict]:
  """Rows of an older file, by picture, codec and setting.

  Only those that today's codecs would give again.
  """
  if not path.exists():
    return {}
  old = results.load(str(path))
  if results.is_video(old):
    raise ValueError(f'{path} holds results of videos')
  hashes = {x['name']: x['sha256'] for x in old['pictures']}
  return {
      (hashes[row['picture']], row['codec'], row['setting']): row
      for row in old['anchors']
      if old['codecs'][row['codec']] == anchors.describe(row['codec'])
  }


def _measure_anchors(
    picture: dict, reference: np.ndarray, codecs: list[str], known: dict
) -> Iterator[dict]:
  """Rows of all codecs for one picture."""
  if not anchors.suits(picture['channels']):
    return
  pixels = media.to_uint8(reference)
  for codec in codecs:
    for setting in anchors.CODECS[codec].settings:
      row = known.get((picture['sha256'], codec, setting))
      row = row or anchors.measure(codec, setting, pixels, reference)
      yield row | {'picture': picture['name'], 'codec': codec}


def _machine() -> dict:
  """The head of results.json: what times and figures depend on."""
  names = ['numpy', 'numba', 'pillow']
  return {
      'version': results.VERSION,
      'processor': host.processor(),
      'cores': host.num_cores(),
      'versions': {'python': platform.python_version()}
      | {name: importlib.metadata.version(name) for name in names},
  }


def _evaluate_folders(output: pathlib.Path) -> dict:
  """Measures all files and anchors."""
  entries = operating_points.find(_INPUT.value.split(','), _REFERENCE.value)
  kinds = {command.is_video(str(entry.file)) for entry in entries}
  if len(kinds) > 1:
    raise ValueError('pictures and videos: evaluate them apart')
  caches.announce()
  if kinds == {True}:
    return _machine() | _evaluate_videos(entries, output)
  _refuse_video_flags()
  return _machine() | _evaluate_pictures(entries, output)


def _evaluate_videos(
    entries: Sequence[operating_points.Entry], output: pathlib.Path
) -> dict:
  names, missing = _ANCHORS.value, []
  if names is None:
    names = list(video_anchors.DEFAULT)
    if not evaluate_video.has_ffmpeg():
      names, missing = [], names
  evaluate_video.check_anchors(names)
  old = results.load(str(output)) if output.exists() else None
  if old and not results.is_video(old):
    raise ValueError(f'{output} holds results of pictures')
  return evaluate_video.evaluate_folders(
      entries,
      _VIDEO.values(),
      output,
      codecs=names,
      with_vmaf=_VMAF.value,
      old=old,
  ) | {'missing': missing}


def _evaluate_pictures(
    entries: Sequence[operating_points.Entry], output: pathlib.Path
) -> dict:
  names = list(anchors.CODECS) if _ANCHORS.value is None else _ANCHORS.value
  for name in names:
    if name not in anchors.CODECS:
      raise ValueError(
          f'unknown anchor {name!r}, there are {list(anchors.CODECS)}'
      )
  known = _known_anchors(output)
  codecs = [name for name in names if anchors.available(name)]
  document = {
      'pictures': [],
      'files': [],
      'anchors': [],
      'codecs': {name: anchors.describe(name) for name in codecs},
      'missing': [name for name in names if name not in codecs],
  }
  originals = sorted({entry.reference for entry in entries})
  for i, path in enumerate(originals):
    print(f'{i + 1}/{len(originals)} {path.name}', file=sys.stderr)
    reference = media.read_picture(path).pixels
    height, width, channels = reference.shape
    picture = {
        'name': path.stem,
        'path': os.path.relpath(path, output.parent),
        'sha256': operating_points.sha256(path),
        'width': width,
        'height': height,
        'channels': channels,
    }
    document['pictures'].append(picture)
    for entry in (entry for entry in entries if entry.reference == path):
      row = {
          'point': entry.point,
          'picture': path.stem,
          'path': os.path.relpath(entry.file, output.parent),
          'sha256': operating_points.sha256(entry.file),
      }
      row |= operating_points.measure(entry, reference)
      document['files'].append(row)
    document['anchors'] += _measure_anchors(picture, reference, codecs, known)
  return document


def _print_means(document: dict) -> None:
  """Prints the mean of every prefix of every point over its pictures."""
  forms = {'bytes': '.0f', 'bpp': '.4f', 'psnr_db': '.2f', 'ms_ssim': '.4f'}
  kind = 'pictures'
  if results.is_video(document):
    forms |= {'yuv_psnr_db': '.2f'} | ({'vmaf': '.2f'} if _VMAF.value else {})
    kind = 'videos'
  groups = {}
  for file in document['files']:
    for row in file['layers']:
      if row['available']:
        groups.setdefault((file['point'], row['layer']), []).append(row)
  rows = []
  for (point, layer), members in groups.items():
    cells = [point, str(layer), str(len(members))]
    for name, form in forms.items():
      values = [row[name] for row in members]
      cells.append(
          '-' if None in values else format(statistics.fmean(values), form)
      )
    rows.append(cells)
  table.print_table(['point', 'layer', kind, *forms], rows)


def _refuse_video_flags() -> None:
  given = _VIDEO.given() + ['vmaf'] * _VMAF.value
  given += ['side_by_side'] * bool(_SIDE_BY_SIDE.value)
  for name in given:
    raise ValueError(f'--{name} is for videos')


def _evaluate_video(name: str) -> None:
  if _SIDE_BY_SIDE.value:
    command.check_output(_SIDE_BY_SIDE.value)
  caches.announce()
  evaluate_video.evaluate_file(
      name,
      video_source.Source(path=_REFERENCE.value, options=_VIDEO.options()),
      with_vmaf=_VMAF.value,
      shown=_SIDE_BY_SIDE.value,
      as_json=_JSON.value,
  )


def main() -> None:
  """Measures, and prints or writes."""
  if bool(_INPUT.value) == bool(_WORKDIR.value):
    raise ValueError('one of --input and --workdir is needed, and not both')
  if _WORKDIR.value:
    if _OUTPUT.value or flags.FLAGS['anchors'].present:
      raise ValueError('--output and --anchors are for folders of files')
    _refuse_video_flags()
    _evaluate_workdir(_WORKDIR.value)
    return
  if not _OUTPUT.value:
    if pathlib.Path(_INPUT.value).is_dir():
      raise ValueError('folders need --output=results.json')
    if flags.FLAGS['anchors'].present:
      raise ValueError('--anchors needs folders and --output=results.json')
    if command.is_video(_INPUT.value):
      _evaluate_video(_INPUT.value)
      return
    _refuse_video_flags()
    _evaluate_file(_INPUT.value)
    return
  if _SIDE_BY_SIDE.value:
    raise ValueError('--side_by_side is of one video, without --output')
  command.check_output(_OUTPUT.value)
  document = _evaluate_folders(pathlib.Path(_OUTPUT.value))
  text = json.dumps(document, indent=1, allow_nan=False)
  command.write_bytes(_OUTPUT.value, text.encode())
  if _JSON.value:
    table.print_json(document)
  else:
    _print_means(document)


if __name__ == '__main__':
  command.run(main)
