"""The installed command: `pgsvc <verb> --flags`, the same verbs as launch/."""

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
    'predicted': 'compare predicted frames with I-frames of their quality',
}


def main() -> None:
  """Runs the module of the verb as `python -m` would."""
  if len(sys.argv) < 2 or sys.argv[1] not in VERBS:
    asked_for_help = sys.argv[1:] in (['--help'], ['-h'], ['help'])
    out = sys.stdout if asked_for_help else sys.stderr
    print('usage: pgsvc VERB --flags (pgsvc VERB --help lists them)', file=out)
    for verb, what in VERBS.items():
      print(f'  {verb:10} {what}', file=out)
    sys.exit(0 if asked_for_help else 2)
  interrupts.end_at_once()
  verb = sys.argv.pop(1)
  package = __package__ or 'launch'
  runpy.run_module(f'{package}.{verb}', run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  main()
