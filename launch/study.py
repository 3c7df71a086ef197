"""Compares training strategies over a folder of pictures, with real files.

python -m launch.study --pictures=FOLDER --output=FOLDER \
    --config=configs/kodak.py:fast --strategies=joint,sequential,prune,single

Every cell is an ordinary `encode` and `evaluate`, each in its own process;
files made with the same settings before are not encoded again. `single` is
encoded once for every prefix size, as one layer: what a file that is not
scalable would reach.
Writes results.json and prints a table in Markdown.
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


def _cell(
    picture: pathlib.Path,
    strategy: str,
    sizes: tuple[int, ...],
    folder: pathlib.Path,
) -> dict:
  """One picture under one strategy: {bytes, psnr_db, ms_ssim, seconds}."""
  stem = f'{picture.name}-{strategy}'
  if strategy == 'single':
    results = []
    for k in range(len(sizes)):
      total = sum(sizes[: k + 1])
      overrides = {'fit.strategy': strategy, 'fit.layer_splats': f'({total},)'}
      file = folder / f'{stem}-{total}.pgsvc'
      results.append(_encode(picture, file, overrides))
    layers = [result['layers'][0] for result in results]
    seconds = sum(result['seconds'] for result in results)
  else:
    file = folder / f'{stem}.pgsvc'
    result = _encode(picture, file, {'fit.strategy': strategy})
    layers, seconds = result['layers'], result['seconds']
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
  cells = []
  for i, picture in enumerate(pictures):
    for strategy in _STRATEGIES.value:
      cells.append(_cell(picture, strategy, sizes, folder))
      levels = ' / '.join(f'{psnr:.2f}' for psnr in cells[-1]['psnr_db'])
      print(
          f'{i + 1}/{len(pictures)} {picture.name} {strategy}: {levels} dB,'
          f' {cells[-1]["seconds"]:.1f} s',
          file=sys.stderr,
      )
  (folder / 'results.json').write_text(json.dumps(cells, indent=1))

  totals = [sum(sizes[: k + 1]) for k in range(len(sizes))]
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
