"""What every command shares: how it starts, fails and writes.

A command exits with 0 only when its work is done. What the user can mend is one
line on standard error and status 1; a defect of the program is a traceback
(and so is everything with --verbosity=1).
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback
from typing import Any, BinaryIO, NoReturn

from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

from pgsvc_jax.codec import syntax

from . import caches
from . import children
from . import interrupts

CONFIGS = pathlib.Path(__file__).parent.parent / 'configs'

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


def define_config() -> flags.FlagHolder:
  """Defines --config; its default is an argument of `run`.

  Not the flag's own default: config_flags reads that while the module is
  imported, where a wrong --config.FIELD is a traceback.
  """
  return config_flags.DEFINE_config_file(
      'config',
      None,
      'configs/NAME.py[:preset]; single fields by --config.fit.FIELD=VALUE',
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
) -> None:
  """Parses the flags, runs `main` and exits the process.

  Args:
    main: the command.
    config: for commands with --config, the file in configs/ that is the
      default, or what chooses it from the values of --input.
  """
  app.run(
      lambda argv: _guarded(main),
      flags_parser=functools.partial(_parse, default_config=config),
  )


@contextlib.contextmanager
def about(path: str) -> Iterator[None]:
  """Errors in the block are about this file: their message names it."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


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
) -> list[str]:
  """Parses flags; unknown flags, fields and presets are one line."""
  words = _bundled_config(argv)
  if '--help' in words or '-h' in words:
    # absl's own help flags exit with 1.
    app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)
  if default_config and not any(w.startswith('--config=') for w in words):
    if callable(default_config):
      default_config = default_config(_inputs(words))
    words.insert(1, f'--config={CONFIGS / default_config}')
  try:
    rest = flags.FLAGS(words)
  except flags.Error as error:
    # Of an error inside a config file, absl quotes the whole traceback.
    _fail(f'{str(error).splitlines()[-1]} (--help lists the flags)')
  except Exception as error:  # Of config_flags, or of the user's config file.
    _fail(f'--config: {type(error).__name__}: {error}')
  if len(rest) > 1:
    _fail(f'unexpected argument {rest[1]!r}: paths go into --input, --output')
  return rest


def _inputs(words: list[str]) -> list[str]:
  """The values of --input, before flags can be parsed."""
  pairs = zip(words, [*words[1:], ''])
  return [
      word.partition('=')[2] if '=' in word else following
      for word, following in pairs
      if word.partition('=')[0].lstrip('-') == 'input' and word[:1] == '-'
  ]


def _bundled_config(argv: list[str]) -> list[str]:
  """Finds configs/NAME.py beside this package when it is not in the cwd."""
  words = []
  for word in argv:
    if words and words[-1] == '--config':
      word = f'{words.pop()}={word}'
    flag, _, value = word.partition('=')
    path, colon, preset = value.partition(':')
    name = pathlib.PurePath(path)
    if (
        flag == '--config'
        and name.parent == pathlib.PurePath('configs')
        and not os.path.exists(path)
        and (CONFIGS / name.name).exists()
    ):
      word = f'{flag}={CONFIGS / name.name}{colon}{preset}'
    words.append(word)
  return words


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


def is_video(path: str) -> bool:
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
