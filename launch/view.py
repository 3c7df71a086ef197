"""Shows a .pgsvc file in a browser: its layers, one by one, at any size.

pgsvc view FILE.pgsvc [ORIGINAL] [--port=N] [--no_open]
pgsvc view FILE.pgsvc [ORIGINAL] --export=PAGE.html

With the original, how far off each layer is, beside a JPEG of as many bytes.
The page is served to this machine alone; --export writes it as one file, with
the files inside, that needs no server. Needs the extra `view`, unless exported.
"""

from absl import flags

from . import command
from .viewer import page
from .viewer import server

_INPUT = flags.DEFINE_string('input', None, 'a .pgsvc file', required=True)
_ORIGINAL = flags.DEFINE_string(
    'original', None, 'a picture, or another .pgsvc file, to compare it with'
)
_PORT = flags.DEFINE_integer(
    'port', 0, 'to serve at; 0: any that is free', lower_bound=0
)
_NO_OPEN = flags.DEFINE_bool('no_open', False, 'print the address, no browser')
_EXPORT = flags.DEFINE_string(
    'export', None, 'write one page with everything in it, and serve nothing'
)


def main() -> None:
  """Serves or writes the page."""
  command.holds_video(_INPUT.value)  # Refuses what is no .pgsvc file.
  paths = [x for x in (_INPUT.value, _ORIGINAL.value) if x is not None]
  if _EXPORT.value is None:
    app = server.make_app(paths)
    server.serve(app, _PORT.value, not _NO_OPEN.value)
    return
  files = dict(zip(('file', 'original'), map(page.shown_bytes, paths)))
  command.write_bytes(_EXPORT.value, page.write(files).encode())


if __name__ == '__main__':
  command.run(main, paths=('input', 'original'))
