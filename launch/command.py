"""What every command shares: how it starts, fails and writes.

A command exits with 0 only when its work is done. What the user can mend is one
line on standard error and status 1; a defect of the program is a traceback.
"""

from collections.abc import Callable
import os
import pathlib
import sys
import tempfile

from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

CONFIGS = pathlib.Path(__file__).parent.parent / 'configs'

_default_config = ''

_USER_ERRORS = (OSError, ValueError, ArithmeticError, MemoryError)


def define_config(default: str) -> flags.FlagHolder:
  """Defines --config, of a file in configs/ unless the user names another.

  Not as the flag's own default: config_flags reads that while the module is
  imported, where a wrong --config.FIELD is a traceback.
  """
  global _default_config
  _default_config = f'--config={CONFIGS / default}'
  return config_flags.DEFINE_config_file(
      'config',
      None,
      f'configs/NAME.py[:preset], default configs/{default}; single fields by'
      ' --config.fit.FIELD=VALUE',
  )


def run(main: Callable[[], None]) -> None:
  """Parses the flags, runs `main` and exits the process."""
  app.run(lambda argv: _guarded(main), flags_parser=_parse)


def _name() -> str:
  return pathlib.Path(sys.argv[0]).stem


def _fail(message: str, status: int = 1) -> None:
  print(f'{_name()}: {" ".join(message.split())}', file=sys.stderr)
  # Not sys.exit: worker threads of a failed run must not hold the process.
  sys.stderr.flush()
  sys.exit(status)


def _guarded(main: Callable[[], None]) -> None:
  try:
    main()
  except KeyboardInterrupt:
    _fail('interrupted; nothing was written', 130)
  except _USER_ERRORS as error:
    if logging.get_verbosity() >= logging.DEBUG:
      raise
    if isinstance(error, OSError) and error.filename:
      _fail(f'{error.filename}: {error.strerror}')
    _fail(str(error) or type(error).__name__)


def _parse(argv: list[str]) -> list[str]:
  """Parses flags; unknown flags, fields and presets are one line."""
  if '--help' in argv[1:] or '-h' in argv[1:]:
    # absl's own help flags exit with 1.
    app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)
  words = [_bundled_config(word) for word in argv]
  if _default_config and not any(w.startswith('--config=') for w in words):
    words.insert(1, _default_config)
  try:
    rest = flags.FLAGS(words)
  except flags.Error as error:
    # Of an error inside a config file, absl quotes the whole traceback.
    _fail(f'{str(error).splitlines()[-1]} (--help lists the flags)')
  except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    # config_flags raises these for unknown fields, presets and files.
    _fail(f'--config: {error.args[-1] if error.args else error}')
  if len(rest) > 1:
    _fail(f'unexpected argument {rest[1]!r}: paths go into --input, --output')
  return rest


def _bundled_config(word: str) -> str:
  """Finds configs/NAME.py beside this package when it is not in the cwd."""
  flag, equals, value = word.partition('=')
  path, colon, preset = value.partition(':')
  name = pathlib.PurePath(path)
  if (
      flag in ('--config', '-config')
      and name.parent == pathlib.PurePath('configs')
      and not os.path.exists(path)
      and (CONFIGS / name.name).exists()
  ):
    return f'{flag}{equals}{CONFIGS / name.name}{colon}{preset}'
  return word


def read_bytes(path: str) -> bytes:
  """Reads a whole file."""
  return pathlib.Path(path).read_bytes()


def write_bytes(path: str, data: bytes) -> None:
  """Writes a file whole or not at all: a temporary name, then a rename."""
  target = pathlib.Path(path)
  try:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix='.partial-')
  except OSError as error:
    raise OSError(f'cannot write {path}: {error.strerror}') from error
  try:
    with os.fdopen(handle, 'wb') as file:
      file.write(data)
    # mkstemp makes private files; give the mode a plain open() would give.
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(name, 0o666 & ~mask)
    os.replace(name, target)
  except BaseException:
    pathlib.Path(name).unlink(missing_ok=True)
    raise
