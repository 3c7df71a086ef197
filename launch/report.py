"""Turns results of `evaluate` or `sweep` into a page that needs nothing else.

python -m launch.report --input=results.json --output=report.html
python -m launch.report --input=STUDY --output=sweep.html

Of `evaluate`: rate-distortion curves, BD-rates against the anchors, bytes by
layer, decode times, and the prefixes beside the originals; of videos also
quality and bytes over time. Nothing is measured again; the pictures are decoded
from the files where they still stand, and left out where they do not. Published
figures come from configs/published.json, for sets of pictures that it knows.

Of `sweep`, also while it runs: the Pareto front, every figure over every
parameter, and the table of trials.
"""

import pathlib

from absl import flags

from . import command
from .evaluation import results
from .lab.sweeps import summary

_INPUT = flags.DEFINE_string(
    'input', None, 'results.json, or the folder it is in', required=True
)
_OUTPUT = flags.DEFINE_string('output', None, 'page to write', required=True)


def main() -> None:
  """Reads, draws and writes."""
  command.check_output(_OUTPUT.value)
  path = pathlib.Path(_INPUT.value)
  if path.is_dir():
    path /= 'results.json'
  document = results.read(str(path))
  is_sweep = 'trials' in document
  if is_sweep:
    summary.check(document, str(path))
  else:
    results.check(document, str(path))
    if not document['pictures'] or not document['files']:
      raise ValueError(f'{path}: nothing was measured')
  try:
    from .lab.reports import picture_page
    from .lab.reports import sweep_page
    from .lab.reports import video_page
  except ImportError as error:
    raise ValueError(
        f'needs {error.name}: pip install pgsvc_jax[report]'
    ) from error
  if is_sweep:
    text = sweep_page.make(document)
  elif results.are_of_videos(document):
    text = video_page.make(document, path.parent)
  else:
    text = picture_page.make(document, path.parent)
  command.write_bytes(_OUTPUT.value, text.encode())


if __name__ == '__main__':
  command.run(main)
