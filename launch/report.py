"""Turns results.json of `evaluate` into one page that needs nothing else.

python -m launch.report --input=results.json --output=report.html

Rate-distortion curves, BD-rates against the anchors, bytes by layer, decode
times, and the prefixes beside the originals; of videos also quality and bytes
over time. Nothing is measured again; the
pictures are decoded from the files where they still stand, and left out where
they do not. Published figures come from configs/published.json, for sets of
pictures that it knows.
"""

import pathlib

from absl import flags

from . import command
from .evaluation import results

_INPUT = flags.DEFINE_string('input', None, 'results.json', required=True)
_OUTPUT = flags.DEFINE_string('output', None, 'page to write', required=True)


def main() -> None:
  """Reads, draws and writes."""
  command.check_output(_OUTPUT.value)
  document = results.load(_INPUT.value)
  if not document['pictures'] or not document['files']:
    raise ValueError(f'{_INPUT.value}: nothing was measured')
  try:
    from .reports import page
    from .reports import video_page
  except ImportError as error:
    raise ValueError(
        f'needs {error.name}: pip install pgsvc_jax[report]'
    ) from error
  make = video_page.make if results.is_video(document) else page.make
  text = make(document, pathlib.Path(_INPUT.value).parent)
  command.write_bytes(_OUTPUT.value, text.encode())


if __name__ == '__main__':
  command.run(main)
