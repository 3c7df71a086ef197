"""Shows two files side by side in a browser, or how they differ.

pgsvc compare FILE.pgsvc OTHER [--port=N] [--no_open]

OTHER is a picture, or a .pgsvc file of the same picture. Needs the extra
`view`.
"""

from absl import flags

from . import command
from .viewer import server

_INPUT = flags.DEFINE_string('input', None, 'a .pgsvc file', required=True)
_OTHER = flags.DEFINE_string(
    'other', None, 'a picture or .pgsvc file', required=True
)
_PORT = flags.DEFINE_integer(
    'port', 0, 'to serve at; 0: any that is free', lower_bound=0
)
_NO_OPEN = flags.DEFINE_bool('no_open', False, 'print the address, no browser')


def main() -> None:
  """Serves the page."""
  command.holds_video(_INPUT.value)  # Refuses what is no .pgsvc file.
  app = server.make_app([_INPUT.value, _OTHER.value], mode='split')
  server.serve(app, _PORT.value, not _NO_OPEN.value)


if __name__ == '__main__':
  command.run(main, paths=('input', 'other'))
