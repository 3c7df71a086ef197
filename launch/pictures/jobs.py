"""Which pictures become which files, and what becomes of those that fail."""

import collections
from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import functools
import pathlib
from typing import Any, Literal

from pgsvc_jax import media

from .. import command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """One picture and the file it becomes.

  Attributes:
    picture: path.
    file: path.
    workdir: for the records of the run, if any.
    color: of `media.read_picture`.
    metadata: of `media.read_picture`.
  """

  picture: str
  file: str
  workdir: pathlib.Path | None
  color: Literal['srgb', 'keep'] = 'srgb'
  metadata: Literal['none', 'keep', 'all'] = 'none'


def list_jobs(
    inputs: Sequence[str], output: str, workdir: str | None, **options: Any
) -> list[Job]:
  """What becomes what; folders stand for the files in them, without hidden.

  Args:
    inputs: paths of pictures and of folders.
    output: a file, or the folder for several.
    workdir: of one picture its own, of several the folder for them.
    **options: color and metadata of the jobs.

  Returns:
    A job a picture.

  Raises:
    ValueError: there is no picture, or several would become one file.

  Example:
    >>> [job.file for job in list_jobs(['a.png', 'b.png'], 'files', None)]
    ['files/a.pgsvc', 'files/b.pgsvc']
  """
  pictures = []
  for name in inputs:
    path = pathlib.Path(name)
    if path.is_dir():
      pictures += sorted(
          str(file)
          for file in path.iterdir()
          if file.is_file() and not file.name.startswith('.')
      )
    else:
      pictures.append(name)
  if inputs == pictures and len(pictures) == 1:
    folder = pathlib.Path(workdir) if workdir else None
    job = Job(picture=pictures[0], file=output, workdir=folder, **options)
    return [job]
  if not pictures:
    raise ValueError(f'no pictures in {", ".join(inputs)}')
  jobs = []
  for picture in pictures:
    stem = pathlib.Path(picture).stem
    jobs.append(
        Job(
            picture=picture,
            file=str(pathlib.Path(output) / f'{stem}.pgsvc'),
            workdir=pathlib.Path(workdir) / stem if workdir else None,
            **options,
        )
    )
  ((file, times),) = collections.Counter(x.file for x in jobs).most_common(1)
  if times > 1:
    raise ValueError(f'{times} pictures would become {file}')
  return jobs


def check_outputs(jobs: list[Job], output: str) -> None:
  """Refuses what cannot be written, before long work is done for it."""
  folder = pathlib.Path(output)
  if jobs[0].file == output or folder.is_dir():
    for job in jobs:
      command.check_output(job.file)
  elif folder.exists():
    raise OSError(f'cannot write into {folder}: it is no folder')
  else:
    command.check_output(output)


@functools.lru_cache(maxsize=1)
def read(job: Job) -> media.Picture:
  """A single picture is read once; of many, none is kept until its turn."""
  return media.read_picture(job.picture, color=job.color, metadata=job.metadata)


def group_jobs(
    shapes: dict[Job, tuple[int, ...]], num_devices: int, parallel: str
) -> list[list[Job]]:
  """Which pictures are fitted at a time.

  Args:
    shapes: of the pictures.
    num_devices: how many can be fitted at a time.
    parallel: bands, batch or auto, as --parallel says.

  Returns:
    Groups of pictures of one shape.

  Example:
    >>> jobs = list_jobs(['a.png', 'b.png', 'c.png'], 'files', None)
    >>> groups = group_jobs(dict.fromkeys(jobs, (4, 4, 3)), 2, 'auto')
    >>> [len(group) for group in groups]
    [2, 1]
  """
  by_shape = collections.defaultdict(list)
  for job, shape in shapes.items():
    by_shape[shape].append(job)
  groups = []
  for same in by_shape.values():
    for first in range(0, len(same), num_devices):
      group = same[first : first + num_devices]
      together = parallel == 'batch' or (
          parallel == 'auto' and len(group) == num_devices
      )
      groups += [group] if together else [[job] for job in group]
  return groups


class Failures:
  """Pictures that could not be encoded: counted and said, or raised."""

  def __init__(self, fatal: bool):
    self.count = 0
    self._fatal = fatal

  def note(self, job: Job, error: Exception) -> None:
    """To be called where the error is handled."""
    if self._fatal:
      raise error
    self.count += 1
    message = command.explain(error)
    named = job.picture in message or job.file in message
    command.complain(message if named else f'{job.picture}: {message}')

  @contextlib.contextmanager
  def of(self, job: Job) -> Iterator[None]:
    """Notes what goes wrong in the block."""
    try:
      yield
    except command.USER_ERRORS as error:
      self.note(job, error)
