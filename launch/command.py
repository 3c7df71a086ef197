"""What every command shares: how it starts, fails and writes.

A command exits with 0 only when its work is done. What the user can mend is one
line on standard error and status 1; a defect of the program is a traceback
(and so is everything with --verbosity=1).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import functools
import itertools
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import traceback
from typing import Any, BinaryIO, NoReturn

from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

import pgsvc_jax
from pgsvc_jax import config as config_lib
from pgsvc_jax import fields
from pgsvc_jax.codec import syntax

from . import caches
from . import children
from . import interrupts

CONFIGS = pathlib.Path(__file__).parent.parent / 'configs'

# What stands before the verb where help shows a command: as it was called.
_AS_MODULE = sys.orig_argv[1:2] == ['-m'] and sys.orig_argv[2:3] != [
    'launch.main'
]
PROGRAM = 'python -m launch.' if _AS_MODULE else 'pgsvc '

# RuntimeError: JAX's own, such as out of memory; and NotImplementedError.
USER_ERRORS = (
    OSError,
    ValueError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
)

# Packages that the decoder of pictures does without, and the extra of each.
_EXTRAS = {
    **dict.fromkeys(('jax', 'flax', 'optax', 'orbax', 'psutil', 'rich'), 'jax'),
    'av': 'video',
    'cv2': 'video',
    'imageio_ffmpeg': 'anchors',
    'tensorboardX': 'tensorboard',
    **dict.fromkeys(('starlette', 'uvicorn'), 'view'),
}

# Of several processes, one that fails leaves at once: JAX would have it wait at
# its end for the others, and those wait for it.
_leaves_at_once = False


def define_paths(
    input_help: str, output_help: str
) -> tuple[flags.FlagHolder, flags.FlagHolder]:
  """Defines --input and --output, which are also taken without their names."""
  return (
      flags.DEFINE_string('input', None, input_help, required=True),
      flags.DEFINE_string('output', None, output_help, required=True),
  )


def define_config() -> flags.FlagHolder:
  """Defines --config; its default is an argument of `run`.

  Not the flag's own default: config_flags reads that while the module is
  imported, where a wrong --config.FIELD is a traceback.
  """
  return config_flags.DEFINE_config_file(
      'config',
      None,
      'configs/NAME.py[:preset], or a preset of the one for the input, such as'
      ' fast; single fields by --config.fit.FIELD=VALUE',
  )


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Fields by their dotted names.

  Example:
    >>> flatten({'fit': {'seed': 3}, 'target_bpp': 0.5})
    {'fit.seed': 3, 'target_bpp': 0.5}
  """
  fields = {}
  for name, value in config.items():
    if isinstance(value, Mapping):
      fields |= flatten(value, f'{prefix}{name}.')
    else:
      fields[prefix + name] = value
  return fields


def run(
    main: Callable[[], None],
    config: str | Callable[[list[str]], str] | None = None,
    paths: Sequence[str] = ('input', 'output'),
) -> None:
  """Parses the flags, runs `main` and exits the process.

  Args:
    main: the command.
    config: for commands with --config, the file in configs/ that is the
      default, or what chooses it from the values of --input.
    paths: the flags whose values may stand without their names, in this order.
  """
  app.run(
      lambda argv: _guarded(main),
      flags_parser=functools.partial(
          _parse, default_config=config, paths=paths
      ),
  )


@contextlib.contextmanager
def about(path: str) -> Iterator[None]:
  """Errors in the block are about this file: their message names it."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def refuse(holders: Sequence[flags.FlagHolder], why: str, instead: str) -> None:
  """Raises ValueError where one of the flags is given that make no sense."""
  for holder in holders:
    if holder.value not in (None, False):
      raise ValueError(f'{why}: --{holder.name} is {instead}')


def leave_at_once_on_failure() -> None:
  """From now on, a failure ends the process without any cleaning up by JAX."""
  global _leaves_at_once
  _leaves_at_once = True


def complain(message: str) -> None:
  """Prints one line on standard error, in the name of the command."""
  name = pathlib.Path(sys.argv[0]).stem
  print(f'{name}: {" ".join(message.split())}', file=sys.stderr)


def explain(error: Exception) -> str:
  """What a user should read about one of `USER_ERRORS`."""
  if isinstance(error, OSError) and error.filename:
    return f'{error.filename}: {error.strerror}'
  return str(error) or type(error).__name__


def _leave(status: int) -> NoReturn:
  if _leaves_at_once:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  sys.exit(status)


def _fail(message: str, status: int = 1) -> NoReturn:
  complain(message)
  _leave(status)


def _guarded(main: Callable[[], None]) -> None:
  interrupts.catch()
  children.end_with_parent()
  caches.set_up()
  try:
    main()
  except KeyboardInterrupt as error:
    # Who knows better what is left, says it in the exception.
    _fail(f'interrupted; {str(error) or "the output was not written"}', 130)
  except ModuleNotFoundError as error:
    # What is loaded on first use says its name only in the message.
    name = error.name or str(error).split("'")[1]
    name = name.partition('.')[0]
    if name not in _EXTRAS:
      raise
    _fail(
        f"this command needs {name}: pip install 'pgsvc_jax[{_EXTRAS[name]}]'"
    )
  except USER_ERRORS as error:
    if logging.get_verbosity() >= logging.DEBUG:
      traceback.print_exc()
      _leave(1)
    _fail(explain(error))
  except Exception:  # A defect.
    if not _leaves_at_once:
      raise
    traceback.print_exc()
    _leave(1)


def _parse(
    argv: list[str],
    default_config: str | Callable[[list[str]], str] | None,
    paths: Sequence[str],
) -> list[str]:
  """Parses flags; unknown flags, fields and presets are one line."""
  if '--help' in argv or '-h' in argv:
    module = sys.modules['__main__']
    text = (module.__doc__ or '').replace('%', '%%')
    module.__doc__ = re.sub('^pgsvc ', PROGRAM, text, flags=re.MULTILINE)
    # absl's own help flags exit with 1.
    app.usage(shorthelp=True, writeto_stdout=True)
    if default_config:
      for kind in (config_lib.EncodeConfig(), config_lib.VideoConfig()):
        print(f'\nFields of {type(kind).__name__}, with their defaults:')
        print(fields.help_text(kind), end='')
    sys.exit(0)
  if '--version' in argv:
    print(f'pgsvc_jax {pgsvc_jax.__version__}')
    sys.exit(0)
  words = _with_names(argv, [x for x in paths if x in flags.FLAGS])
  if default_config:
    if callable(default_config):
      values = [x.partition('=')[2] for x in words if x.startswith('--input=')]
      default_config = default_config(values)
    words = _with_config(words, default_config)
  try:
    flags.FLAGS(words)
  except flags.Error as error:
    # Of an error inside a config file, absl quotes the whole traceback.
    text = str(error).splitlines()[-1]
    text = re.sub('^flag --.*=None: Flag |other than None.', '', text)
    _fail(f'{text.strip()} (--help lists the flags)')
  except Exception as error:  # Of config_flags, or of the user's config file.
    _fail(f'--config: {type(error).__name__}: {error}')
  return words[:1]


def _with_names(argv: list[str], paths: Sequence[str]) -> list[str]:
  """The words with a flag for each: `--name=value`, `IN OUT` or `--name value`.

  Args:
    argv: the command and its words.
    paths: flags whose values may stand alone, in this order. Of a flag that
      may be given several times, all values but those for the others.
  """
  words, alone = [], []
  rest = iter(argv[1:])
  for word in rest:
    name = word.lstrip('-').partition('=')[0]
    if not word.startswith('-') or word == '-':
      alone.append(word)
    elif '=' in word or not _takes_value(name):
      words.append(word)
    else:
      words += [f'{word}={value}' for value in itertools.islice(rest, 1)]
  given = {word.lstrip('-').partition('=')[0] for word in words}
  for name in (free := [x for x in paths if x not in given]):
    is_many = isinstance(flags.FLAGS[name], flags.MultiFlag)
    count = max(1, len(alone) - len(free) + 1) if is_many else 1
    words += [f'--{name}={value}' for value in alone[:count]]
    alone = alone[count:]
  if alone:
    _fail(f'unexpected argument {alone[0]!r} (--help lists the flags)')
  return [argv[0], *words]


def _takes_value(name: str) -> bool:
  """Whether a word follows a flag; of one that does not exist, none does."""
  if name.startswith('config.'):
    return True
  return name in flags.FLAGS and not flags.FLAGS[name].boolean


def _with_config(words: list[str], default: str) -> list[str]:
  """The words with a file as --config: one that is named, else the default.

  NAME, NAME.py and configs/NAME.py are found beside this package when they are
  not in the working directory; what is no such name is a preset of the default.
  """
  value = default
  for word in words[1:]:
    if word.startswith('--config='):
      value = word.partition('=')[2]
  path, colon, preset = value.partition(':')
  name = pathlib.PurePath(path)
  bundled = CONFIGS / name.with_suffix('.py').name
  if not os.path.exists(path) and str(name.parent) in ('.', 'configs'):
    if bundled.exists():
      path = bundled
    elif not colon and not name.suffix:
      path, colon, preset = CONFIGS / default, ':', value
  rest = [word for word in words[1:] if not word.startswith('--config=')]
  return [words[0], f'--config={path}{colon}{preset}', *rest]


def check_output(path: str) -> None:
  """Refuses a path that cannot be written, before long work is done for it.

  Raises:
    OSError: the path cannot be written.
  """
  target = pathlib.Path(path)
  if not target.parent.is_dir():
    raise OSError(f'cannot write {path}: no folder {target.parent}')
  if target.exists() and not target.is_file():
    raise OSError(f'cannot write {path}: it is no regular file')
  if not os.access(target.parent, os.W_OK):
    raise OSError(f'cannot write {path}: no permission in {target.parent}')


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
  """A file to write whole or not at all: a temporary name, then a rename.

  Raises:
    OSError: the path cannot be written.
  """
  check_output(path)
  target = pathlib.Path(path)
  handle, name = tempfile.mkstemp(dir=target.parent, prefix='.partial-')
  try:
    with os.fdopen(handle, 'wb') as file:
      yield file
    # mkstemp makes private files; give the mode a plain open() would give.
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(name, 0o666 & ~mask)
    os.replace(name, target)
  except BaseException as error:  # Ctrl-C too: nothing half-written is left.
    pathlib.Path(name).unlink(missing_ok=True)
    if isinstance(error, OSError):
      raise OSError(f'cannot write {path}: {error.strerror}') from error
    raise


def write_bytes(path: str, data: bytes) -> None:
  """Writes a file whole or not at all; raises as `replacing`."""
  with replacing(path) as file:
    file.write(data)


def holds_video(path: str) -> bool:
  """Whether a .pgsvc file is a video, not a picture.

  Raises:
    BitstreamError: it is no .pgsvc file.
  """
  with open(path, 'rb') as file, about(path):
    version = syntax.read_version(file.read(len(syntax.MAGIC) + 1))
  return version in syntax.VIDEO_VERSIONS


def verb_line(verb: str, *arguments: str) -> list[str]:
  """The command line that runs another command as this one was run."""
  cache = [] if caches.KEEP.value else ['--nocache']
  module = f'{__package__}.{verb}'
  return [sys.executable, '-m', module, *arguments, *cache]


def run_verb(verb: str, *arguments: str, quiet: bool = False) -> str:
  """Runs another command in a fresh process.

  Args:
    verb: the command.
    *arguments: its flags.
    quiet: keep its standard error back, unless it fails.

  Returns:
    Its standard output.

  Raises:
    ChildProcessError: it failed.
  """
  result = subprocess.run(
      verb_line(verb, *arguments),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE if quiet else None,
      text=True,
      check=False,
  )
  if result.returncode:
    lines = (result.stderr or '').splitlines()
    why = lines[-1] if lines else f'{verb} ended with {result.returncode}'
    raise ChildProcessError(why)
  return result.stdout
