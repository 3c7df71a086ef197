"""Builds the API reference with pdoc: `python docs/reference.py FOLDER`.

The first page of each package holds its public names; the pages of the modules
are for those who extend it.
"""

import dataclasses
import importlib
import inspect
import pathlib
import pkgutil
import re
import sys
from types import ModuleType

import pdoc

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('pgsvc_jax', 'pallas_kernels')


def field_comments(cls: type) -> dict[str, str]:
  """The comments above the fields of a dataclass, each as one line.

  For dataclasses that do not say it in the metadata of `pgsvc_jax.fields`.
  A comment holds for all fields up to the next one: they share an entry.
  """
  comments, above, names = {}, [], []
  code = inspect.getsource(cls).partition('  def ')[0]
  for line in code.splitlines():
    line = line.strip()
    if line.startswith('#'):
      if names:
        above, names = [], []
      above.append(line[1:].strip())
    elif above and (field := re.match(r'(\w+): ', line)):
      comments.pop(', '.join(names), None)
      names.append(field[1])
      comments[', '.join(names)] = ' '.join(above)
  return comments


def document_fields(cls: type) -> None:
  """Adds what its fields mean to the docstring of a class."""
  comments = {
      field.name: ' '.join(field.metadata['meaning'].split())
      for field in dataclasses.fields(cls)
      if 'meaning' in field.metadata
  } or field_comments(cls)
  if comments and 'Attributes:' not in cls.__doc__:
    rows = ''.join(f'\n    {x}: {text}' for x, text in comments.items())
    text, example, code = inspect.getdoc(cls).partition('Example:')
    cls.__doc__ = f'{text}\n\nAttributes:{rows}\n\n{example}{code}'


def leave_out_generated_docs(cls: type) -> None:
  """Drops 'Alias for field number 0' and the like from a named tuple."""
  cls.__new__.__doc__ = ''
  for name in cls._fields:
    getattr(cls, name).__doc__ = ''


def prepare(module: ModuleType) -> None:
  """Completes the docstrings of the classes that a module defines."""
  for thing in vars(module).values():
    if inspect.isclass(thing) and thing.__module__ == module.__name__:
      if dataclasses.is_dataclass(thing):
        document_fields(thing)
      elif hasattr(thing, '_fields'):
        leave_out_generated_docs(thing)


def main(folder: str) -> None:
  """Writes the pages into the folder."""
  names = []
  for package in PACKAGES:
    where = [str(ROOT / package)], f'{package}.'
    for module in pkgutil.walk_packages(*where):
      prepare(importlib.import_module(module.name))
    # pdoc finds what is in folders, but not what `__all__` leaves out.
    names.append(package)
    names += [module.name for module in pkgutil.iter_modules(*where)]
  pdoc.render.configure(docformat='google', search=False)
  pdoc.pdoc(*names, output_directory=pathlib.Path(folder))


if __name__ == '__main__':
  sys.path.insert(0, str(ROOT))
  main(*sys.argv[1:])
