"""Workers as jobs of a cluster, through submitit."""

from collections.abc import Sequence
import pathlib
import sys

from ... import command
from . import space


def submit(
    folder: pathlib.Path, cluster: str, num_workers: int, options: Sequence[str]
) -> None:
  """Submits copies of this command, as workers, and says which jobs they are.

  Args:
    folder: for what submitit writes, the output of the workers among it.
    cluster: slurm, or local.
    num_workers: jobs.
    options: NAME=VALUE of submitit's parameters.

  Raises:
    ValueError: submitit is missing, or does not know an option.
    RuntimeError: there is no such cluster.
  """
  try:
    import submitit
  except ModuleNotFoundError as error:
    raise ValueError(
        f"needs {error.name}: pip install 'pgsvc_jax[slurm]'"
    ) from error
  parameters = {}
  for option in options:
    name, equals, value = option.partition('=')
    if not equals:
      raise ValueError(f'--slurm_options={option}: write NAME=VALUE')
    parameters[name] = space.number_or_text(value)
  executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
  try:
    executor.update_parameters(name='sweep', **parameters)
  except (NameError, TypeError) as error:
    raise ValueError(f'--slurm_options: {error}') from error
  line = command.verb_line('sweep', *_worker_flags(sys.argv[1:]))
  worker = submitit.helpers.CommandFunction(line, cwd=pathlib.Path.cwd())
  with executor.batch():
    jobs = [executor.submit(worker) for _ in range(num_workers)]
  print(
      f'submitted {num_workers} workers, {", ".join(x.job_id for x in jobs)};'
      f' their output is in {folder}',
      file=sys.stderr,
  )


def _worker_flags(words: Sequence[str]) -> list[str]:
  """The flags of this command without those of its jobs."""
  kept, skips = [], False
  for word in words:
    if word.lstrip('-').startswith('slurm') and word.startswith('-'):
      skips = '=' not in word  # The next word is its value.
    elif skips:
      skips = False
    else:
      kept.append(word)
  return kept
