"""Measures every operating point of .pgsvc files against the originals.

python -m launch.evaluate --input=FILE.pgsvc --reference=PICTURE [--json]
python -m launch.evaluate --input=FOLDER[,FOLDER] --reference=FOLDER \
    --output=results.json [--anchors=jpeg,jpeg2000,webp,avif,avif_default]

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

import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import sys

from absl import flags
import numpy as np

from pgsvc_jax import media
from pgsvc_jax import metrics
from pgsvc_jax import render
from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import quantized

from . import caches
from . import command
from . import host
from . import table
from .evaluation import anchors
from .evaluation import folders
from .evaluation import pictures
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
_METRICS = flags.DEFINE_list(
    'metrics',
    [],
    'further metrics, of'
    f' {", ".join(x.name for x in metrics.ALL.values() if x.on_request)}',
)
_VMAF = flags.DEFINE_bool('vmaf', False, 'the same as --metrics=vmaf')
_SIDE_BY_SIDE = flags.DEFINE_string(
    'side_by_side',
    None,
    'of one video: a video to write of its prefixes beside the original',
)
_JSON = flags.DEFINE_bool('json', False, 'print one JSON document')
flags.declare_key_flag('cache')


def _evaluate_file(name: str) -> dict:
  """Measures one file."""
  data = pathlib.Path(name).read_bytes()
  with command.about(name):
    document = table.describe(data)
    kept = media.read_metadata(bitstream.read_header(data).metadata)
  color = 'keep' if 'profile' in kept else 'srgb'
  reference = media.read_picture(_REFERENCE.value, color=color).pixels
  with command.about(name):
    caches.prepare()
    layered = bitstream.read_layers(data)
  _add_quality(document, layered, name, reference)
  return document


def _add_quality(
    document: dict,
    layered: types.LayeredSplats,
    name: str,
    reference: np.ndarray,
) -> None:
  """Measures all prefixes and puts their figures into the rows."""
  pictures.check_size(document, name, reference, _REFERENCE.value)
  measured = metrics.choose(False, _requested())
  images = render.render_levels(layered)
  for row, image in zip(document['layers'], images):
    row |= pictures.quality(measured, image, reference)


def _evaluate_workdir(name: str) -> dict:
  """Measures the checkpoint of a run."""
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
  caches.prepare()
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
  _add_quality(document, layered, name, reference)
  counts = np.cumsum(layered.layer_sizes).tolist()
  for row, count in zip(document['layers'], counts):
    row['splats'] = count
  document['step'] = snapshot.step
  document['step_sizes'] = [dataclasses.asdict(x) for x in layers.step_sizes]
  if not _JSON.value:
    print(f'step {snapshot.step}', file=sys.stderr)
  return document


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
  entries = folders.find(_INPUT.value.split(','), _REFERENCE.value)
  kinds = {command.holds_video(str(entry.file)) for entry in entries}
  if len(kinds) > 1:
    raise ValueError('pictures and videos: evaluate them apart')
  caches.prepare()
  requested = _requested()
  if kinds == {True}:
    kind = evaluate_video.Videos(
        _ANCHORS.value, requested, _VIDEO.values(), entries
    )
  else:
    _refuse_video_flags()
    kind = pictures.Pictures(_ANCHORS.value, requested)
  return _machine() | folders.evaluate(entries, kind, output)


def _print_means(document: dict) -> None:
  """Prints the mean of every prefix of every point over its pictures."""
  groups = {}
  for file in document['files']:
    for row in file['layers']:
      if row['available']:
        groups.setdefault((file['point'], row['layer']), []).append(row)
  names = table.columns(
      sum(groups.values(), []), ['width', 'height', 'splats', *table.TIMES]
  )
  kind = 'videos' if results.are_of_videos(document) else 'pictures'
  table.print_table(
      ['point', 'layer', kind, *(table.COLUMNS[x].title for x in names)],
      [
          [
              point,
              str(layer),
              str(len(rows)),
              *table.cells(results.mean_row(rows), names),
          ]
          for (point, layer), rows in groups.items()
      ],
  )


def _requested() -> list[str]:
  """Metrics that are measured only when asked for."""
  return [*_METRICS.value, *(['vmaf'] * _VMAF.value)]


def _refuse_video_flags() -> None:
  given = _VIDEO.given() + ['vmaf'] * _VMAF.value
  given += ['side_by_side'] * bool(_SIDE_BY_SIDE.value)
  for name in given:
    raise ValueError(f'--{name} is for videos')


def _evaluate_video(name: str) -> dict:
  if _SIDE_BY_SIDE.value:
    command.check_output(_SIDE_BY_SIDE.value)
  caches.prepare()
  return evaluate_video.evaluate_file(
      name,
      video_source.Source(path=_REFERENCE.value, options=_VIDEO.options()),
      metrics.choose(True, _requested()),
      _SIDE_BY_SIDE.value,
  )


def _evaluate_one() -> dict:
  """Measures one file, or the checkpoint of a run."""
  if _WORKDIR.value:
    if _OUTPUT.value or flags.FLAGS['anchors'].present:
      raise ValueError('--output and --anchors are for folders of files')
    _refuse_video_flags()
    return _evaluate_workdir(_WORKDIR.value)
  if pathlib.Path(_INPUT.value).is_dir():
    raise ValueError('folders need --output=results.json')
  if flags.FLAGS['anchors'].present:
    raise ValueError('--anchors needs folders and --output=results.json')
  if command.holds_video(_INPUT.value):
    return _evaluate_video(_INPUT.value)
  _refuse_video_flags()
  return _evaluate_file(_INPUT.value)


def main() -> None:
  """Measures, and prints or writes."""
  if bool(_INPUT.value) == bool(_WORKDIR.value):
    raise ValueError('one of --input and --workdir is needed, and not both')
  if not _OUTPUT.value or _WORKDIR.value:
    document = _evaluate_one()
    print_document = lambda found: table.print_layers(found['layers'])
  else:
    if _SIDE_BY_SIDE.value:
      raise ValueError('--side_by_side is of one video, without --output')
    command.check_output(_OUTPUT.value)
    document = _evaluate_folders(pathlib.Path(_OUTPUT.value))
    text = json.dumps(document, indent=1, allow_nan=False)
    command.write_bytes(_OUTPUT.value, text.encode())
    print_document = _print_means
  if _JSON.value:
    table.print_json(document)
  else:
    print_document(document)


if __name__ == '__main__':
  command.run(main, paths=('input', 'reference'))
