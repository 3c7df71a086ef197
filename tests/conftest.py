import pathlib

import pytest


@pytest.fixture(scope='session')
def data_dir() -> pathlib.Path:
  """The folder of real pictures and videos beside the repository, if any."""
  folder = pathlib.Path(__file__).parents[2] / 'shared' / 'data'
  if not folder.is_dir():
    pytest.skip('no real test material beside the repository')
  return folder
