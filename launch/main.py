"""The installed command: `pgsvc VERB ...`, the same verbs as launch/."""

import difflib
import runpy
import sys

from . import interrupts

VERBS = {
    'encode': 'fit a picture and write a .pgsvc file',
    'decode': 'turn a .pgsvc file, whole or cut, into a picture or video',
    'info': 'list the layers of a file, and the GOPs of a video',
    'view': 'show a file in a browser, layer by layer',
    'compare': 'show two files side by side in a browser',
    'export': 'write the splats of a file as arrays',
    'extract': 'copy the first layers of a file, without decoding',
    'reorder': 'put the packets of a video in order of time or of quality',
    'evaluate': 'measure every operating point against the originals',
    'report': 'turn results of evaluate into a page of curves and tables',
    'benchmark': 'time the operator, the train step and a fit',
    'doctor': 'say what this machine has, and check that it works',
    'demo': 'encode a sample photograph and show what comes back',
    'sweep': 'try settings over any field of the config, on many workers',
    'reproduce': 'run experiments again and compare with published figures',
}

_USAGE = 'usage: pgsvc VERB [FILES] [--flags]; pgsvc VERB --help says more'


def main() -> None:
  """Runs the module of the verb as `python -m` would."""
  verb = sys.argv[1] if len(sys.argv) > 1 else ''
  if verb == '--version':
    import pgsvc_jax

    print(f'pgsvc_jax {pgsvc_jax.__version__}')
    return
  if verb in ('', '--help', '-h', 'help'):
    out = sys.stdout if verb else sys.stderr
    print(_USAGE, file=out)
    for name, what in VERBS.items():
      print(f'  {name:10} {what}', file=out)
    sys.exit(0 if verb else 2)
  if verb not in VERBS:
    near = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f'did you mean {near[0]!r}?' if near else 'pgsvc --help lists them'
    sys.exit(_refuse(f'{verb!r} is no verb; {hint}'))
  interrupts.end_at_once()
  sys.argv.pop(1)
  package = __package__ or 'launch'
  runpy.run_module(f'{package}.{verb}', run_name='__main__', alter_sys=True)


def _refuse(message: str) -> int:
  print(f'pgsvc: {message}', file=sys.stderr)
  return 2


if __name__ == '__main__':
  main()
