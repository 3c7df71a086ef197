"""Compares training strategies over a folder of pictures, with real files.

python -m launch.study --pictures=FOLDER --output=FOLDER \
    --config=configs/kodak.py:fast --strategies=joint,sequential,prune,single

Every cell is an ordinary `encode` and `evaluate`, each in its own process;
files made with the same settings before are not encoded again. `single` is
encoded once for every prefix size, as one layer: what a file that is not
scalable would reach.
Writes results.json and bases.png, the base layers of the first picture side by
side, and prints a table in Markdown.
"""

import json
import pathlib
import statistics
import sys
import time

from absl import flags
from ml_collections import config_flags

from pgsvc_jax import config as config_lib

from . import command

_PICTURES = flags.DEFINE_string(
    'pictures', None, 'folder of pictures', required=True
)
_OUTPUT = flags.DEFINE_string(
    'output', None, 'folder for the files and results.json', required=True
)
_CONFIG = command.define_config()
flags.declare_key_flag('config')
_STRATEGIES = flags.DEFINE_list('strategies', ['joint'], 'what to compare')
_LIMIT = flags.DEFINE_integer('limit', None, 'pictures to take; default: all')
flags.declare_key_flag('cache')


def _encode(picture: pathlib.Path, file: pathlib.Path, overrides: dict) -> dict:
  """Encodes unless done before; returns the evaluation with the seconds."""
  config = config_flags.get_config_filename(flags.FLAGS['config'])
  fields = config_flags.get_override_values(flags.FLAGS['config']) | overrides
  settings = [
      f'--config={config}',
      *(f'--config.{name}={value}' for name, value in fields.items()),
  ]
  record = file.with_suffix('.json')
  if record.exists() and file.exists():
    result = json.loads(record.read_text())
    if result['settings'] == settings:
      return result
  begin = time.perf_counter()
  command.run_verb(
      'encode', f'--input={picture}', f'--output={file}', *settings, quiet=True
  )
  seconds = time.perf_counter() - begin
  output = command.run_verb(
      'evaluate', f'--input={file}', f'--reference={picture}', '--json'
  )
  result = json.loads(output) | {'seconds': seconds, 'settings': settings}
  record.write_text(json.dumps(result))
  return result


def _file(
    folder: pathlib.Path, picture: pathlib.Path, strategy: str, total: int
) -> pathlib.Path:
  """Where a file stands; `single` has one for every number of splats."""
  size = f'-{total}' if strategy == 'single' else ''
  return folder / f'{picture.name}-{strategy}{size}.pgsvc'


def _cell(
    picture: pathlib.Path,
    strategy: str,
    totals: list[int],
    folder: pathlib.Path,
) -> dict:
  """One picture under one strategy: {bytes, psnr_db, ms_ssim, seconds}."""
  overrides = {'fit.strategy': strategy}
  if strategy == 'single':
    results = [
        _encode(
            picture,
            _file(folder, picture, strategy, total),
            overrides | {'fit.layer_splats': f'({total},)'},
        )
        for total in totals
    ]
    layers = [result['layers'][0] for result in results]
  else:
    file = _file(folder, picture, strategy, totals[-1])
    results = [_encode(picture, file, overrides)]
    layers = results[0]['layers']
  seconds = sum(result['seconds'] for result in results)
  cell = {'picture': picture.name, 'strategy': strategy, 'seconds': seconds}
  for name in ('bytes', 'bpp', 'psnr_db', 'ms_ssim'):
    cell[name] = [layer[name] for layer in layers]
  return cell


def _row(strategy: str, cells: list[dict]) -> str:
  columns = [strategy]
  for values in zip(*(cell['psnr_db'] for cell in cells)):
    columns.append(f'{statistics.fmean(values):.2f}')
  for values in zip(*(cell['bpp'] for cell in cells)):
    columns.append(f'{statistics.fmean(values):.3f}')
  columns.append(f'{statistics.median(c["seconds"] for c in cells):.1f}')
  return '| ' + ' | '.join(columns) + ' |'


def main() -> None:
  """Encodes everything and prints the means."""
  # Slow to import; here, because a run without it would end in an error.
  from . import figures

  config = config_lib.from_mapping(config_lib.EncodeConfig, _CONFIG.value)
  sizes = config.fit.layer_splats
  if not sizes:
    raise ValueError('set fit.layer_splats: the strategies share the counts')
  pictures = sorted(
      path
      for path in pathlib.Path(_PICTURES.value).iterdir()
      if path.is_file() and not path.name.startswith('.')
  )[: _LIMIT.value]
  if not pictures:
    raise ValueError(f'no pictures in {_PICTURES.value}')
  folder = pathlib.Path(_OUTPUT.value)
  folder.mkdir(parents=True, exist_ok=True)
  totals = [sum(sizes[: k + 1]) for k in range(len(sizes))]
  cells = []
  for i, picture in enumerate(pictures):
    for strategy in _STRATEGIES.value:
      cells.append(_cell(picture, strategy, totals, folder))
      levels = ' / '.join(f'{psnr:.2f}' for psnr in cells[-1]['psnr_db'])
      print(
          f'{i + 1}/{len(pictures)} {picture.name} {strategy}: {levels} dB,'
          f' {cells[-1]["seconds"]:.1f} s',
          file=sys.stderr,
      )
  (folder / 'results.json').write_text(json.dumps(cells, indent=1))

  bases = {
      strategy: _file(folder, pictures[0], strategy, totals[0])
      for strategy in _STRATEGIES.value
  }
  figures.draw_bases(pictures[0], bases, folder / 'bases.png')
  names = (
      ['strategy']
      + [f'dB at {total}' for total in totals]
      + [f'bpp at {total}' for total in totals]
      + ['median s']
  )
  print('| ' + ' | '.join(names) + ' |')
  print('|---' * len(names) + '|')
  for strategy in _STRATEGIES.value:
    print(_row(strategy, [c for c in cells if c['strategy'] == strategy]))


if __name__ == '__main__':
  command.run(main, config='kodak.py')
