"""Which pictures become which files, and what becomes of those that fail."""

import collections
from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import functools
import pathlib
import sys
from typing import Any, Literal

from PIL import Image

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


@dataclasses.dataclass(kw_only=True)
class Jobs:
  """What is to be done, and what became of it.

  Attributes:
    jobs: a job a picture.
    is_batch: whether there may be several: then one that fails is said, and the
      others go on.
    others: files and folders in the folders that are no pictures.
    existing: files that are there already and are left as they are.
    failures: pictures that failed.
    sizes: bytes and bits per pixel of what was written.
  """

  jobs: list[Job]
  is_batch: bool
  others: list[str] = dataclasses.field(default_factory=list)
  existing: list[str] = dataclasses.field(default_factory=list)
  failures: list[str] = dataclasses.field(default_factory=list)
  sizes: list[tuple[int, float]] = dataclasses.field(default_factory=list)

  def skip_existing(self) -> None:
    """Leaves out what is there already."""
    is_there = lambda job: pathlib.Path(job.file).exists()
    self.existing = [job.file for job in self.jobs if is_there(job)]
    self.jobs = [job for job in self.jobs if not is_there(job)]

  def note(self, job: Job, error: Exception) -> None:
    """Says that a picture failed; to be called where the error is handled."""
    if not self.is_batch:
      raise error
    self.failures.append(job.picture)
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

  def sum_up(self) -> None:
    """Says what became of all of them.

    Raises:
      ValueError: some failed.
    """
    if not self.is_batch:
      return
    count = len(self.sizes)
    parts = [f'{count} pictures encoded']
    if count:
      sizes, rates = zip(*self.sizes)
      parts[
          0
      ] += f', {sum(sizes)} bytes, {sum(rates) / count:.3f} bpp on average'
    if self.existing:
      parts.append(f'{len(self.existing)} were there already')
    if self.others:
      names = ', '.join(pathlib.Path(x).name for x in self.others[:3])
      more = ', ...' if len(self.others) > 3 else ''
      parts.append(f'{len(self.others)} others left out ({names}{more})')
    print('; '.join(parts), file=sys.stderr)
    if self.failures:
      total = len(self.failures) + count
      raise ValueError(f'{len(self.failures)} of {total} pictures failed')


def list_jobs(
    inputs: Sequence[str], output: str, workdir: str | None, **options: Any
) -> Jobs:
  """What becomes what; folders stand for the pictures in them.

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
    >>> [x.file for x in list_jobs(['a.png', 'b.png'], 'files', None).jobs]
    ['files/a.pgsvc', 'files/b.pgsvc']
  """
  pictures, others = [], []
  for name in inputs:
    path = pathlib.Path(name)
    if path.is_dir():
      inside = sorted(x for x in path.iterdir() if not x.name.startswith('.'))
      for file in inside:
        (pictures if _is_picture(file) else others).append(str(file))
    else:
      pictures.append(name)
  if inputs == pictures and len(pictures) == 1:
    folder = pathlib.Path(workdir) if workdir else None
    job = Job(picture=pictures[0], file=output, workdir=folder, **options)
    return Jobs(jobs=[job], is_batch=False)
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
  return Jobs(jobs=jobs, is_batch=True, others=others)


def _is_picture(path: pathlib.Path) -> bool:
  """By its name: one that is damaged is a failure, not something else."""
  names = Image.registered_extensions()
  return path.is_file() and path.suffix.lower() in names


def check_outputs(jobs: Jobs, output: str) -> None:
  """Refuses what cannot be written, before long work is done for it."""
  folder = pathlib.Path(output)
  if not jobs.is_batch or folder.is_dir():
    for job in jobs.jobs:
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
    >>> jobs = list_jobs(['a.png', 'b.png', 'c.png'], 'files', None).jobs
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
