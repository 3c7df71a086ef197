"""Compares layers of several sizes with separate fits of each size.

python -m launch.ladder --pictures=FOLDER --output=FOLDER \
    [--config=configs/resolution.py:fast] [--limit=N]

For every picture one file of all levels, and for each level a file of a single
layer with as many splats, fitted to the picture at the size of the level: what
files that are not scalable would reach. Each is an ordinary `encode` in its own
process; files that are there already are taken as they are, so another config
needs another folder.

Prints, in Markdown, the PSNR of every level on its own grid, how far that is
from the separate file, and the distance that phase correlation finds between
the level and the picture (pixels of its grid). Writes results.json, and
scales.png: the first picture decoded at several scales.
"""

import json
import pathlib
import statistics
import sys

from absl import flags
from ml_collections import config_flags
import numpy as np
from PIL import Image

from pgsvc_jax import bitstream
from pgsvc_jax import media
from pgsvc_jax import metrics
from pgsvc_jax import render
from pgsvc_jax import resolution

from . import caches
from . import command

_PICTURES = flags.DEFINE_string(
    'pictures', None, 'folder of pictures', required=True
)
_OUTPUT = flags.DEFINE_string(
    'output', None, 'folder for the files and results.json', required=True
)
_CONFIG = command.define_config()
flags.declare_key_flag('config')
_LIMIT = flags.DEFINE_integer('limit', None, 'pictures to take; default: all')
flags.declare_key_flag('cache')

# Of scales.png; and the height of the largest in pixels.
_SCALES = (0.25, 0.5, 1.0, 1.5, 2.0)
_STRIP_HEIGHT = 288
_GAP = 8


def _encode(picture: pathlib.Path, file: pathlib.Path, **fit) -> bytes:
  """The file of a picture, made unless it is there."""
  if not file.exists():
    config = config_flags.get_config_filename(flags.FLAGS['config'])
    fields = config_flags.get_override_values(flags.FLAGS['config']) | {
        f'fit.{name}': value for name, value in fit.items()
    }
    command.run_verb(
        'encode',
        f'--input={picture}',
        f'--output={file}',
        f'--config={config}',
        *(f'--config.{name}={value}' for name, value in fields.items()),
        quiet=True,
    )
  return file.read_bytes()


def _compare(picture: pathlib.Path, folder: pathlib.Path) -> list[dict]:
  """One row a level."""
  original = media.read_picture(picture).pixels
  data = _encode(picture, folder / f'{picture.stem}.pgsvc')
  header = bitstream.read_header(data)
  layered = bitstream.read_layers(data)
  rows = []
  for level, image in enumerate(render.render_levels(layered)):
    height, width, _ = image.shape
    target = resolution.downsample(original, height, width)
    num_splats = sum(layered.layer_sizes[: level + 1])
    small = folder / f'{picture.stem}-{level}.png'
    media.write_picture(small, media.to_uint8(target))
    separate = _encode(
        small,
        folder / f'{picture.stem}-{level}.pgsvc',
        strategy='single',
        layer_scales='()',
        layer_splats=f'({num_splats},)',
    )
    alone = render.render_picture(bitstream.read_layers(separate))
    rows.append(
        {
            'picture': picture.name,
            'level': level,
            'width': width,
            'height': height,
            'splats': num_splats,
            'bytes': header.truncation_points[level],
            'psnr_db': metrics.psnr_db(image, target),
            'separate_bytes': len(separate),
            'separate_psnr_db': metrics.psnr_db(alone, target),
            'shift': _shift(image, target),
        }
    )
  return rows


def _shift(image: np.ndarray, target: np.ndarray) -> float:
  """Pixels between a decoded picture and the original."""
  # Of the extra `demo`.
  from skimage import registration

  shift, _, _ = registration.phase_cross_correlation(
      target.mean(-1), image.mean(-1) / 255, upsample_factor=100
  )
  return float(np.abs(shift).max())


def _draw_scales(file: pathlib.Path, output: pathlib.Path) -> None:
  """The picture of a file at several scales, side by side."""
  layered = bitstream.read_layers(file.read_bytes())
  layered = render.scaled(
      layered, min(1, _STRIP_HEIGHT / _SCALES[-1] / layered.height)
  )
  images = [
      Image.fromarray(render.render_picture(render.scaled(layered, scale)))
      for scale in _SCALES
  ]
  width = sum(image.width + _GAP for image in images) - _GAP
  strip = Image.new('RGB', (width, images[-1].height), 'white')
  left = 0
  for image in images:
    strip.paste(image, (left, strip.height - image.height))
    left += image.width + _GAP
  strip.save(output, optimize=True)


def _print_means(rows: list[dict]) -> None:
  print('| level | splats | bytes | dB | separate | dB | difference | shift |')
  print('|---' * 8 + '|')
  for level in sorted({row['level'] for row in rows}):
    members = [row for row in rows if row['level'] == level]
    mean = lambda name, members=members: statistics.fmean(
        row[name] for row in members
    )
    difference = mean('psnr_db') - mean('separate_psnr_db')
    print(
        f'| {level} | {mean("splats"):.0f} | {mean("bytes"):.0f}'
        f' | {mean("psnr_db"):.2f} | {mean("separate_bytes"):.0f}'
        f' | {mean("separate_psnr_db"):.2f} | {difference:+.2f}'
        f' | {max(row["shift"] for row in members):.2f} |'
    )


def main() -> None:
  """Encodes everything and prints the means."""
  pictures = sorted(
      path
      for path in pathlib.Path(_PICTURES.value).iterdir()
      if path.is_file() and not path.name.startswith('.')
  )[: _LIMIT.value]
  if not pictures:
    raise ValueError(f'no pictures in {_PICTURES.value}')
  folder = pathlib.Path(_OUTPUT.value)
  folder.mkdir(parents=True, exist_ok=True)
  caches.announce()
  rows = []
  for i, picture in enumerate(pictures):
    rows += _compare(picture, folder)
    levels = ' / '.join(
        f'{row["psnr_db"]:.2f} ({row["separate_psnr_db"]:.2f})'
        for row in rows
        if row['picture'] == picture.name
    )
    print(
        f'{i + 1}/{len(pictures)} {picture.name}: {levels} dB', file=sys.stderr
    )
  (folder / 'results.json').write_text(json.dumps(rows, indent=1))
  _draw_scales(folder / f'{pictures[0].stem}.pgsvc', folder / 'scales.png')
  _print_means(rows)


if __name__ == '__main__':
  command.run(main, config='resolution.py:fast')
