"""Which devices the tests see, and where real material lies."""

import os
import pathlib
import re

import jax
import pytest

from launch import caches

# Before the first use of JAX: bands over devices are tested on every machine.
jax.config.update('jax_num_cpu_devices', 8)

# Tests and the commands that they run compile the kernels once between them.
os.environ['NUMBA_CACHE_DIR'] = str(caches.folder('numba'))


def pytest_configure(config: pytest.Config) -> None:
  """Only tests that ask for a GPU see one, and what they start likewise."""
  if not re.search(r'(?<!not )\bgpu\b', config.getoption('markexpr')):
    os.environ['JAX_PLATFORMS'] = 'cpu'
    jax.config.update('jax_platforms', 'cpu')


@pytest.fixture(scope='session')
def data_dir() -> pathlib.Path:
  """The folder of real pictures and videos beside the repository, if any."""
  folder = pathlib.Path(__file__).parents[2] / 'shared' / 'data'
  if not folder.is_dir():
    pytest.skip('no real test material beside the repository')
  return folder
