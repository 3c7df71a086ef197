"""A photograph becomes one layered file and comes back prefix by prefix.

python -m launch.demo --output=FOLDER [--input=PICTURE] [--config=...]

Runs the ordinary commands, each in its own process: encode, decode of every
prefix, evaluate. Leaves the file, the decoded pictures, prefixes.png, which
shows them side by side, and how_it_works.png, which shows the run.
"""

import json
import pathlib
import sys
import time

from absl import flags

from . import command
from . import table

_INPUT = flags.DEFINE_string(
    'input', None, 'picture; default: the astronaut that scikit-image carries'
)
_OUTPUT = flags.DEFINE_string('output', 'demo', 'folder for the results')
_CONFIG = flags.DEFINE_string('config', 'configs/image.py', 'of the encoder')

flags.declare_key_flag('cache')


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
  # Slow to import; here, because a run without it would end in an error.
  from .lab import drawings

  begin = time.perf_counter()
  picture = pathlib.Path(_INPUT.value) if _INPUT.value else _sample()
  folder = pathlib.Path(_OUTPUT.value)
  folder.mkdir(parents=True, exist_ok=True)
  file = folder / f'{picture.stem}.pgsvc'
  command.run_verb(
      'encode',
      f'--input={picture}',
      f'--output={file}',
      f'--config={_CONFIG.value}',
      f'--workdir={folder / "run"}',
  )
  result = json.loads(
      command.run_verb(
          'evaluate', f'--input={file}', f'--reference={picture}', '--json'
      )
  )
  decoded = []
  for row in result['layers']:
    decoded.append(folder / f'{picture.stem}_{row["layer"] + 1}_layers.png')
    command.run_verb(
        'decode',
        f'--input={file}',
        f'--output={decoded[-1]}',
        f'--layers={row["layer"] + 1}',
    )
  table.print_layers(result['layers'])
  drawings.draw_prefixes(
      picture, decoded, result['layers'], folder / 'prefixes.png'
  )
  drawings.draw_how_it_works(
      picture,
      decoded,
      file,
      folder / 'run' / 'metrics.jsonl',
      folder / 'how_it_works.png',
  )
  print(f'{folder}/prefixes.png shows the prefixes side by side')
  print(f'all in {time.perf_counter() - begin:.0f} s', file=sys.stderr)


if __name__ == '__main__':
  command.run(main)
