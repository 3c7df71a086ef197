"""Times the operator, the train step and the fit, and counts their work.

python -m launch.benchmark [--shapes=kodak-9k,hd-50k] [--implementations=cpu]
    [--cases=forward,train_step] [--json | --markdown]
python -m launch.benchmark --plot=FILE.png [--shapes=kodak-9k]
python -m launch.benchmark --tune [--shapes=kodak-9k,hd-50k]

Every time is a median after one run to warm up, compilation apart, with the
middle half of the samples (benchmarks/timing.py says what a sample is); the
shares are of what the device was measured to do at best
(benchmarks/roofline.py). Compare figures of one run only.

--plot draws how cost grows with pixels, splats, layers and devices around one
shape, and prints those points. --tune times variants of the triton
implementation's `Tuning`, one field at a time, on a CUDA device.
"""

import pathlib

from absl import flags

from . import command
from . import table
from .lab.benchmarks import workloads

_SHAPES = flags.DEFINE_list(
    'shapes',
    None,
    f'of {", ".join(workloads.SHAPES)}; default: the first two; --plot takes'
    ' one, by default kodak-9k',
)
_IMPLEMENTATIONS = flags.DEFINE_list(
    'implementations',
    None,
    'of the operator; default: all that suit the device and the shape',
)
_CASES = flags.DEFINE_list(
    'cases',
    None,
    f'of {", ".join(workloads.CASES)}; default: all but fit, which takes'
    ' minutes on CPU',
)
_REPEATS = flags.DEFINE_integer(
    'repeats',
    None,
    'samples of each case, fewer of slow ones; default: 20, for --plot 7',
    lower_bound=2,
)
_FIT_STEPS = flags.DEFINE_integer(
    'fit_steps', 2000, 'of the case fit', lower_bound=1
)
_NUM_DEVICES = flags.DEFINE_integer(
    'num_devices',
    0,
    'for the train step and the fit; 0: all, on CPU one a core',
    lower_bound=0,
)
_JSON = flags.DEFINE_bool('json', False, 'print one JSON document')
_MARKDOWN = flags.DEFINE_bool('markdown', False, 'print Markdown')
_PLOT = flags.DEFINE_string('plot', None, 'PNG file to draw')
_TUNE = flags.DEFINE_bool('tune', False, 'vary the Tuning of triton')


def _check_flags() -> None:
  for kind, names, known in (
      ('shape', _SHAPES.value, workloads.SHAPES),
      ('case', _CASES.value, workloads.CASES),
  ):
    for name in names or ():
      if name not in known:
        raise ValueError(f'unknown {kind} {name!r}, there are {list(known)}')
  if _JSON.value and _MARKDOWN.value:
    raise ValueError('--json and --markdown are two ways to print: give one')
  if _TUNE.value and (_PLOT.value or _CASES.value or _IMPLEMENTATIONS.value):
    raise ValueError('--tune takes --shapes and --repeats only')
  if not _PLOT.value:
    return
  if _CASES.value is not None or len(_SHAPES.value or ['']) != 1:
    raise ValueError('--plot takes one of --shapes, and no --cases')
  if pathlib.Path(_PLOT.value).suffix != '.png':
    raise ValueError(f'--plot={_PLOT.value} must end in .png')
  command.check_output(_PLOT.value)


def main() -> None:
  """Times all cases and prints or draws them."""
  _check_flags()

  # Only now: --help and wrong flags need not wait for JAX.
  from . import runtime
  from .lab.benchmarks import measure
  from .lab.benchmarks import table as benchmark_table
  from .lab.benchmarks import tune

  if _PLOT.value:
    try:
      from .lab.benchmarks import plots as cost_plots
    except ImportError as error:
      raise ValueError(
          '--plot needs matplotlib: pip install pgsvc_jax[demo]'
      ) from error
  devices = runtime.set_up(_NUM_DEVICES.value, use_cache=False)
  if _TUNE.value:
    tune.run(
        _SHAPES.value or ['kodak-9k', 'hd-50k'],
        devices[0],
        samples=_REPEATS.value or 20,
        as_json=_JSON.value,
    )
    return
  if _PLOT.value:
    (name,) = _SHAPES.value or ['kodak-9k']
    jobs = measure.plot_jobs(name, _IMPLEMENTATIONS.value, devices)
  else:
    jobs = measure.table_jobs(
        _SHAPES.value or list(workloads.SHAPES)[:2],
        _IMPLEMENTATIONS.value,
        _CASES.value or [x for x in workloads.CASES if x != 'fit'],
        devices,
    )
  document = measure.measure(
      jobs,
      devices,
      samples=_REPEATS.value or (7 if _PLOT.value else 20),
      fit_steps=_FIT_STEPS.value,
  )
  if _PLOT.value:
    picture = cost_plots.draw(
        document['times'], benchmark_table.headline(document)
    )
    command.write_bytes(_PLOT.value, picture)
  if _JSON.value:
    table.print_json(document)
  elif _MARKDOWN.value:
    benchmark_table.print_markdown(document)
  else:
    benchmark_table.print_text(document)


if __name__ == '__main__':
  command.run(main)
