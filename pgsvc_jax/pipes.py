"""Standard input and output, and pipes, which can be read only once.

What is read is kept in a temporary file until the process ends, so that it can
be read again and from any place.
"""

import atexit
from collections.abc import Iterator
import contextlib
import functools
import os
import pathlib
import stat
import sys
import tempfile
from typing import BinaryIO

STANDARD = '-'
# Of a temporary file; a pipe may never end.
_MAX_BYTES = 2**32
_BLOCK = 2**20


def is_pipe(path: str | os.PathLike[str]) -> bool:
  """Whether a path stands for standard input or output, or for a pipe.

  Example:
    >>> is_pipe('-'), is_pipe(__file__)
    (True, False)
  """
  if os.fspath(path) == STANDARD:
    return True
  try:
    mode = os.stat(path).st_mode
  except (OSError, ValueError):
    return False
  return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)


def seekable(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
  """A file that can be read from any place, again and again.

  Args:
    path: of a file, or of a pipe, which is then read to its end; once, however
      often it is asked for.

  Returns:
    The path, or that of a temporary file with what came out of the pipe.

  Raises:
    ValueError: there is too much in it.
  """
  return _copied(os.fspath(path)) if is_pipe(path) else path


@functools.cache
def _copied(path: str) -> str:
  with tempfile.NamedTemporaryFile(prefix='pgsvc_', delete=False) as copy:
    atexit.register(pathlib.Path(copy.name).unlink, missing_ok=True)
    if path == STANDARD:
      _copy(sys.stdin.buffer, copy)
    else:
      with open(path, 'rb') as source:
        _copy(source, copy)
  return copy.name


def _copy(source: BinaryIO, target) -> None:
  size = 0
  while block := source.read(_BLOCK):
    size += len(block)
    if size > _MAX_BYTES:
      raise ValueError(f'more than {_MAX_BYTES >> 30} GiB come out of the pipe')
    target.write(block)


@contextlib.contextmanager
def open_for_writing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
  """Opens a pipe, or standard output, which stays open afterwards."""
  if os.fspath(path) != STANDARD:
    with open(path, 'wb') as file:
      yield file
    return
  yield sys.stdout.buffer
  sys.stdout.buffer.flush()


def note(path: str | os.PathLike[str]) -> list[str]:
  """What to say of a path that is a pipe."""
  if not is_pipe(path):
    return []
  size = os.path.getsize(seekable(path))
  return [f'read to its end first, {size} bytes in a temporary file']
