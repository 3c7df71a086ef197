"""A photograph becomes one layered file and comes back prefix by prefix.

python -m launch.demo --output=FOLDER [--input=PICTURE] [--config=...]

Runs the ordinary commands, each in its own process: encode, decode of every
prefix, evaluate. Leaves the file, the decoded pictures and prefixes.png, which
shows them side by side.
"""

import json
import pathlib
import subprocess
import sys
import time

from absl import flags
import imageio.v3 as iio

from . import command
from . import table

_INPUT = flags.DEFINE_string(
    'input', None, 'picture; default: the astronaut that scikit-image carries'
)
_OUTPUT = flags.DEFINE_string('output', 'demo', 'folder for the results')
_CONFIG = flags.DEFINE_string('config', 'configs/image.py', 'of the encoder')


def _run(verb: str, *arguments: str) -> str:
  """Runs a command in a fresh process; returns its standard output."""
  result = subprocess.run(
      [sys.executable, '-m', f'{__package__}.{verb}', *arguments],
      stdout=subprocess.PIPE,
      text=True,
      check=False,
  )
  if result.returncode:
    raise RuntimeError(f'{verb} failed with status {result.returncode}')
  return result.stdout


def _sample() -> pathlib.Path:
  try:
    import skimage
  except ImportError as error:
    raise ValueError(
        'the sample picture needs scikit-image: pip install pgsvc_jax[demo],'
        ' or give --input'
    ) from error
  return pathlib.Path(skimage.__file__).parent / 'data' / 'astronaut.png'


def main() -> None:
  """Encodes, decodes, measures and draws."""
  begin = time.perf_counter()
  picture = pathlib.Path(_INPUT.value) if _INPUT.value else _sample()
  folder = pathlib.Path(_OUTPUT.value)
  folder.mkdir(parents=True, exist_ok=True)
  file = folder / f'{picture.stem}.pgsvc'
  _run(
      'encode', f'--input={picture}', f'--output={file}',
      f'--config={_CONFIG.value}', f'--workdir={folder / "run"}',
  )
  result = json.loads(
      _run('evaluate', f'--input={file}', f'--reference={picture}', '--json')
  )
  decoded = []
  for row in result['layers']:
    decoded.append(folder / f'{picture.stem}_{row["layer"] + 1}_layers.png')
    _run(
        'decode', f'--input={file}', f'--output={decoded[-1]}',
        f'--layers={row["layer"] + 1}',
    )
  table.print_layers(result['layers'])
  strip = folder / 'prefixes.png'
  draw_prefixes(picture, decoded, result['layers'], strip)
  print(f'{strip} shows the prefixes side by side')
  print(f'all in {time.perf_counter() - begin:.0f} s', file=sys.stderr)


def draw_prefixes(
    original: pathlib.Path,
    decoded: list[pathlib.Path],
    layers: list[dict],
    output: pathlib.Path,
) -> None:
  """Draws the decoded prefixes and the original, with a crop of each below."""
  # Slow to import, and only needed here.
  import matplotlib

  matplotlib.use('agg')
  from matplotlib import pyplot as plt

  images = [iio.imread(path) for path in [*decoded, original]]
  titles = [
      f'{row["layer"] + 1} layer{"s" if row["layer"] else ""}:'
      f' {row["splats"]} splats, {row["bytes"] / 1024:.1f} KiB\n'
      + ('exact' if row['psnr_db'] is None else f'{row["psnr_db"]:.2f} dB')
      + f' at {row["bpp"]:.2f} bpp'
      for row in layers
  ] + [f'original\n{original.name}']
  height, width = images[0].shape[:2]
  size = max(1, min(height, width) // 4)
  top, left = height // 5, width * 2 // 5
  figure, axes = plt.subplots(
      2, len(images), squeeze=False,
      figsize=(4 * len(images), 4 * height / width + 4.6), layout='constrained',
  )
  for column, (image, title) in enumerate(zip(images, titles)):
    crop = image[top : top + size, left : left + size]
    for axis, shown in zip(axes[:, column], (image, crop)):
      axis.imshow(shown, cmap='gray', interpolation='nearest')
      axis.set_axis_off()
    axes[0, column].set_title(title, fontsize=10)
  figure.savefig(output, dpi=80)
  plt.close(figure)


if __name__ == '__main__':
  command.run(main)
