"""Runs experiments again and compares with published and recorded figures.

python -m launch.reproduce --experiment=image_table --pictures=KODAK
python -m launch.reproduce --experiment=all --form=paper --pictures=KODAK \
    --clips=FOLDER --output=FOLDER
python -m launch.reproduce --list

Experiments are data, in configs/experiments.py, with a run book each. Every
file is an ordinary `encode` in a folder of its own, OUTPUT/units/NAME; what is
there is not encoded again, so the same command goes on where it was ended.
Figures are of the files as decoded again. Writes OUTPUT/EXPERIMENT.json, .md
and .png, of some experiments the base layers of the first picture side by side
(EXPERIMENT_bases.png) or that picture at several scales
(EXPERIMENT_scales.png), prints the table, and ends with status 1 where a claim
does not hold or a mean is farther from the recorded one than the tolerance.
"""

import dataclasses
import json
import pathlib
import shlex
import sys
import time

from absl import flags
import numpy as np

from pgsvc_jax import media
from pgsvc_jax import resolution
from pgsvc_jax.codec import bitstream
from pgsvc_jax.training import schedule

from . import caches
from . import command
from .lab.experiments import units

_EXPERIMENT = flags.DEFINE_list(
    'experiment', None, 'names, separated by commas, or all; --list has them'
)
_FORM = flags.DEFINE_enum(
    'form', 'laptop', ['smoke', 'laptop', 'fast', 'paper'], 'how large'
)
_PICTURES = flags.DEFINE_string(
    'pictures', None, 'folder of pictures; smoke makes one if there is none'
)
_CLIPS = flags.DEFINE_string(
    'clips', None, 'folder of videos; smoke makes one if there is none'
)
_OUTPUT = flags.DEFINE_string(
    'output', 'reproduced', 'folder for files, tables and plots'
)
_LIMIT = flags.DEFINE_integer(
    'limit',
    None,
    'pictures or clips to take of those of the form',
    lower_bound=1,
)
_WORKERS = flags.DEFINE_integer(
    'workers', 1, 'files to encode at a time', lower_bound=1
)
_RECORDED = flags.DEFINE_string(
    'recorded',
    str(command.CONFIGS / 'experiments.json'),
    'figures to compare with',
)
_UPDATE = flags.DEFINE_bool(
    'update',
    False,
    'put the figures into --recorded, and into docs/ of this source tree',
)
_LIST = flags.DEFINE_bool('list', False, 'say which experiments there are')
flags.declare_key_flag('cache')

_DOCUMENTS = command.CONFIGS.parent / 'docs'
_DOCUMENT = {'pictures': 'results.md', 'clips': 'results_video.md'}
_PLOTS = _DOCUMENTS / 'experiments'
_SAMPLE_SHAPE = (64, 96)


def main() -> None:
  """Runs what is asked for."""
  table = units.load_module('experiments').EXPERIMENTS
  if _LIST.value:
    recorded = _read_recorded()
    for name, experiment in table.items():
      print(f'{name} ({", ".join(experiment.forms)})')
      print('  ' + experiment.about.replace('\n', '\n  '))
      for form, known in recorded.get(name, {}).items():
        seconds = sum(
            row.get('seconds', 0) for x in known.values() for row in x.values()
        )
        print(
            f'  {form}: {seconds / 60:.0f} min when it was recorded; means are'
            f' to be within {experiment.tolerance_db} dB of those'
        )
      print()
    return
  names = _EXPERIMENT.value or []
  if names == ['all']:
    names = [x for x in table if _FORM.value in table[x].forms]
  if not names:
    raise ValueError('--experiment=NAME, or --list')
  for name in names:
    if name not in table:
      raise ValueError(f'no experiment {name!r}, there are {", ".join(table)}')
    if _FORM.value not in table[name].forms:
      raise ValueError(
          f'{name} has no form {_FORM.value},'
          f' only {", ".join(table[name].forms)}'
      )
  if _UPDATE.value and (_FORM.value == 'smoke' or not _DOCUMENTS.exists()):
    raise ValueError('--update needs a source tree, and a form that tells')
  _require_plots()
  pathlib.Path(_OUTPUT.value).mkdir(parents=True, exist_ok=True)
  sources = {name: _sources(table[name]) for name in names}
  caches.prepare()
  misses = []
  for name in names:
    misses += [f'{name}: {x}' for x in _run(name, table[name], sources[name])]
  if misses:
    raise ValueError('; '.join(misses))


def _read_recorded() -> dict:
  """Figures by experiment, form, variant and source."""
  record = pathlib.Path(_RECORDED.value)
  if not record.exists():
    return {}
  with command.about(str(record)):
    return json.loads(record.read_text(encoding='utf-8'))


def _require_plots() -> None:
  # Slow to import; now is the time to say that it is missing.
  try:
    import skimage  # noqa: F401

    from .lab.experiments import figures  # noqa: F401
    from .lab.experiments import page  # noqa: F401
  except ModuleNotFoundError as error:
    if error.name not in ('bjontegaard', 'matplotlib', 'skimage'):
      raise
    raise ValueError(
        f"needs {error.name}: pip install 'pgsvc_jax[report]'"
    ) from error


def _sources(experiment) -> list[pathlib.Path]:
  """The pictures or clips of an experiment."""
  form = experiment.forms[_FORM.value]
  is_clips = experiment.inputs == 'clips'
  given = _CLIPS.value if is_clips else _PICTURES.value
  if not given:
    if _FORM.value != 'smoke':
      raise ValueError(f'--{experiment.inputs}=FOLDER is missing')
    return [_make_sample(is_clips)]
  found = sorted(
      path
      for path in pathlib.Path(given).iterdir()
      if not path.name.startswith('.')
  )
  if not found:
    raise ValueError(f'nothing in {given}')
  named = [path for path in found if path.stem.startswith(form.names)]
  chosen = named if form.names and named else found[: form.limit]
  return chosen[: _LIMIT.value]


def _make_sample(is_clip: bool) -> pathlib.Path:
  """A picture, or the frames of a clip: waves and an edge that move."""
  folder = pathlib.Path(_OUTPUT.value) / 'samples'
  clip = folder / 'sample_clip'
  clip.mkdir(parents=True, exist_ok=True)
  y, x = np.mgrid[: _SAMPLE_SHAPE[0], : _SAMPLE_SHAPE[1]]
  for frame in range(3 if is_clip else 1):
    moved = (x + frame) / 9
    waves = [np.sin(moved + c) * np.cos(y / 7 - c) for c in range(3)]
    pixels = 0.5 + 0.3 * np.stack(waves, -1)
    pixels[20:, 30 + frame :] *= 0.6
    path = clip / f'{frame}.png' if is_clip else folder / 'sample.png'
    media.write_picture(path, media.to_uint8(pixels.astype(np.float32)))
  return clip if is_clip else folder / 'sample.png'


def _prefix_totals(form, source: pathlib.Path) -> list[int]:
  """Splats of the prefixes that the form asks for."""
  unit = units.Unit(source=source, config=form.config, overrides=form.overrides)
  config = unit.parsed
  height, width, _ = media.read_picture(source).pixels.shape
  return np.cumsum(schedule.layer_sizes(config.fit, height, width)).tolist()


def _split(total: int, shares: tuple[float, ...]) -> tuple[int, ...]:
  """So many splats in layers of these shares."""
  ends = np.rint(np.cumsum(shares) / sum(shares) * total).astype(int)
  return tuple(np.diff(ends, prepend=0).tolist())


def _downsample(source: pathlib.Path, scale: float) -> pathlib.Path:
  """The picture at another size, as a file."""
  if scale == 1:
    return source
  pixels = media.read_picture(source).pixels
  shape = resolution.scaled_shape(*pixels.shape[:2], scale)
  folder = pathlib.Path(_OUTPUT.value) / 'samples'
  folder.mkdir(exist_ok=True)
  path = folder / f'{source.stem}-{shape[1]}x{shape[0]}.png'
  small = resolution.downsample(pixels, *shape)
  media.write_picture(path, media.to_uint8(small))
  return path


def _units(
    variant, form, source: pathlib.Path, scales: tuple[float, ...]
) -> list[units.Unit]:
  """The files of a variant; several where each prefix has its own."""
  from .lab.experiments import figures as figures_lib

  overrides = [dict(form.overrides) | dict(variant.overrides)]
  sources = [source]
  if variant.shares:
    total = _prefix_totals(form, source)[-1]
    overrides[0]['fit.layer_splats'] = _split(total, variant.shares)
  if variant.separate:
    totals = _prefix_totals(form, source)
    overrides = [
        overrides[0] | {'fit.layer_splats': (total,)} for total in totals
    ]
    sources = [_downsample(source, x) for x in scales or (1,) * len(totals)]
    scales = ()
  start, frames = 0, form.frames
  if variant.alone_at:
    start, frames = figures_lib.frame_at(variant.alone_at, form.frames), 1
  return [
      units.Unit(
          source=x,
          config=variant.config or form.config,
          overrides=fields,
          start=start,
          frames=frames,
          size=form.size,
          scales=scales,
          coder=variant.coder,
      )
      for x, fields in zip(sources, overrides, strict=True)
  ]


def _run(name: str, experiment, sources: list[pathlib.Path]) -> list[str]:
  """Runs one experiment; returns what is not as it should be."""
  from .lab.experiments import figures as figures_lib
  from .lab.reports import curves

  begin = time.perf_counter()
  form = experiment.forms[_FORM.value]
  planned = {
      (variant.name, source): _units(variant, form, source, experiment.scales)
      for source in sources
      for variant in experiment.variants
  }
  print(f'{name}, {_FORM.value}', file=sys.stderr)
  output = pathlib.Path(_OUTPUT.value)
  results = units.run(
      [unit for group in planned.values() for unit in group],
      output / 'units',
      _WORKERS.value,
  )
  rows = [
      _make_row(variant.name, source, planned[variant.name, source], results)
      for variant in experiment.variants
      for source in sources
  ]
  stems = [source.stem for source in sources]
  published = figures_lib.published_set(stems, curves.load_published())
  figures = figures_lib.Figures(rows, published)
  # Thirty steps tell nothing.
  claims = experiment.claims if _FORM.value != 'smoke' else ()
  verdicts = [figures_lib.judge(claim, figures) for claim in claims]
  recorded = _read_recorded()
  differences, misses = {}, []
  if not _UPDATE.value:
    known = recorded.get(name, {}).get(_FORM.value, {})
    differences, misses = figures_lib.compare(
        figures, known, experiment.tolerance_db
    )
  misses += [
      f'"{verdict.text}" does not hold'
      for verdict in verdicts
      if verdict.holds is False
  ]
  _write(name, experiment, figures, verdicts, differences)
  if experiment.shown:
    first = planned[experiment.variants[0].name, sources[0]][0]
    _draw_scales(first, experiment.shown, output / f'{name}_scales.png')
  if experiment.bases:
    first = {x: planned[x, sources[0]][0] for x in experiment.bases}
    _draw_bases(first, output / f'{name}_bases.png')
  if _UPDATE.value:
    known = recorded.setdefault(name, {}).setdefault(_FORM.value, {})
    figures_lib.record(figures, known)
    text = json.dumps(recorded, indent=1, sort_keys=True) + '\n'
    command.write_bytes(_RECORDED.value, text.encode())
  print(
      f'{name}: {len(rows)} cells in {time.perf_counter() - begin:.0f} s',
      file=sys.stderr,
  )
  return misses


def _make_row(
    variant: str, source: pathlib.Path, group: list[units.Unit], results: dict
):
  """The figures of a variant on one input."""
  from .lab.experiments import figures as figures_lib

  found = [results[unit.name] for unit in group]
  levels = [level for result in found for level in result['levels']]
  column = lambda key: tuple(level[key] for level in levels)
  bpp = column('bpp')
  if len(group) > 1:
    # Files of smaller pictures, too, have their bits shared by all pixels.
    pixels = media.read_picture(source).pixels[..., 0].size
    bpp = tuple(8 * size / pixels for size in column('bytes'))
  return figures_lib.Row(
      variant=variant,
      source=source.stem,
      splats=column('splats'),
      bytes=column('bytes'),
      bpp=bpp,
      psnr_db=column('psnr_db'),
      seconds=sum(result['seconds'] for result in found),
      shift=column('shift') if 'shift' in levels[0] else (),
      frames=tuple(map(tuple, levels[-1].get('frames', ()))),
  )


def _draw_scales(
    unit: units.Unit, scales: tuple[float, ...], output: pathlib.Path
) -> None:
  """Draws a picture at several scales."""
  from .lab import drawings

  file = units.file_of(unit, pathlib.Path(_OUTPUT.value) / 'units')
  drawings.draw_scales(bitstream.read_layers(file.read_bytes()), scales, output)


def _draw_bases(first: dict[str, units.Unit], output: pathlib.Path) -> None:
  """Draws the base layers that variants gave of a picture or clip."""
  from .lab import drawings

  folder = pathlib.Path(_OUTPUT.value) / 'units'
  shown = {name: units.show_base(x, folder) for name, x in first.items()}
  images = {name: image for name, (image, _) in shown.items()}
  (_, reference), *_ = shown.values()
  source = next(iter(first.values())).source
  drawings.draw_bases(images, reference, source.name, output)


def _write(name: str, experiment, figures, verdicts, differences) -> None:
  """Writes and prints what came out."""
  from .lab.experiments import page

  output = pathlib.Path(_OUTPUT.value)
  plot = page.draw(experiment, figures)
  parts = (experiment, figures, verdicts, differences)
  text = page.markdown(*parts, _command(name, experiment), f'{name}.png')
  document = {
      'form': _FORM.value,
      'rows': [dataclasses.asdict(row) for row in figures.rows],
      'claims': [dataclasses.asdict(verdict) for verdict in verdicts],
      'from_recorded_db': differences,
  }
  command.write_bytes(str(output / f'{name}.png'), plot)
  command.write_bytes(str(output / f'{name}.md'), text.encode())
  command.write_bytes(
      str(output / f'{name}.json'), json.dumps(document, indent=1).encode()
  )
  print(f'### {experiment.title}\n\n{text}')
  if _UPDATE.value:
    _PLOTS.mkdir(exist_ok=True)
    command.write_bytes(str(_PLOTS / f'{name}.png'), plot)
    results = _DOCUMENTS / _DOCUMENT[experiment.inputs]
    link = page.relative(_PLOTS / f'{name}.png', results)
    text = page.markdown(*parts, _command(name, experiment), link)
    whole = results.read_text(encoding='utf-8')
    whole = page.replace_section(whole, name, experiment.title, text)
    command.write_bytes(str(results), whole.encode())


def _command(name: str, experiment) -> str:
  """What gives the figures again, without the paths of this machine."""
  words = ['python', '-m', 'launch.reproduce', f'--experiment={name}']
  words += [f'--form={_FORM.value}']
  if _LIMIT.value:
    words += [f'--limit={_LIMIT.value}']
  words += [f'--{experiment.inputs}={experiment.inputs.upper()}']
  return shlex.join(words)


if __name__ == '__main__':
  command.run(main)
