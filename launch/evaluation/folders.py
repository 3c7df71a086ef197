"""Every prefix of every file of a folder, measured, and codecs beside them.

A folder holds files of one operating point, FOLDER/NAME.pgsvc, or of several,
FOLDER/POINT/NAME.pgsvc; NAME is that of the original without its suffix. Where
there is one original for all, files may be called anything.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any, Protocol

from pgsvc_jax import metrics

from .. import progress
from . import results


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """A file, the name of its operating point and its original."""

  point: str
  file: pathlib.Path
  reference: pathlib.Path


def _files(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  """Files of a folder by point; those right in it are named after it."""
  points = {}
  for path in sorted(folder.glob('*.pgsvc')):
    points.setdefault(folder.resolve().name, []).append(path)
  for path in sorted(folder.glob('*/*.pgsvc')):
    points.setdefault(path.parent.name, []).append(path)
  return points


def find(inputs: Sequence[str], references: str) -> list[Entry]:
  """Finds the files and the original of each.

  Args:
    inputs: folders, and files, each of which is a point named after it.
    references: folder of the originals, or the one original of all files.

  Returns:
    The files in the order of the inputs, then by point, then by name.

  Raises:
    ValueError: something is missing, or a name stands for two things.
  """
  root, originals = pathlib.Path(references), {}
  if not root.exists():
    raise ValueError(f'{references} is not a folder or a file')
  for path in sorted(root.iterdir()) if root.is_dir() else ():
    if path.is_file() and not path.name.startswith('.'):
      originals.setdefault(path.stem, []).append(path)
  entries, seen = [], {}
  for name in inputs:
    path = pathlib.Path(name)
    if not path.exists():
      raise ValueError(f'{name} is not a folder or a file')
    points = _files(path) if path.is_dir() else {path.stem: [path]}
    if not points:
      raise ValueError(f'{name}: no *.pgsvc, and no folders that have any')
    for point, files in points.items():
      for file in files:
        matches = originals.get(file.stem, []) if root.is_dir() else [root]
        if len(matches) != 1:
          found = ' and '.join(x.name for x in matches) or 'no original'
          raise ValueError(
              f'{file}: {references} has {found} of that name; need one'
          )
        other = seen.setdefault((point, matches[0]), file)
        if other != file:
          raise ValueError(f'{other} and {file} are both point {point!r}')
        entries.append(Entry(point=point, file=file, reference=matches[0]))
  return entries


def sha256(path: pathlib.Path) -> str:
  """The hash that tells whether a file is still the one that was measured."""
  return hashlib.sha256(path.read_bytes()).hexdigest()


class Original(Protocol):
  """A picture or clip: what its files and the anchors are compared with.

  Attributes:
    row: width, height and what else tells which frames it has.
    has_anchors: whether codecs are run on it.
  """

  row: dict[str, Any]
  has_anchors: bool

  def measure(self, entry: Entry) -> dict:
    """The figures of every prefix of a file; ValueError: it does not fit."""

  def anchor(self, codec: str, setting: float) -> dict:
    """The figures of a codec at one of its settings."""


class Kind(Protocol):
  """Pictures, or videos.

  Attributes:
    is_video: which of them.
    metrics: that are measured.
    codecs: to compare with, by name: what their figures depend on.
    missing: codecs that are not installed.
  """

  is_video: bool
  metrics: Sequence[metrics.Metric]
  codecs: Mapping[str, dict]
  missing: Sequence[str]

  def settings(self, codec: str) -> Sequence[float]:
    """Those of a codec, from the lowest rate."""

  def open(
      self, path: pathlib.Path, entries: Sequence[Entry]
  ) -> contextlib.AbstractContextManager[Original]:
    """An original, of which these are the files."""


def check_codecs(names: Sequence[str], known: Mapping[str, Any]) -> None:
  """Refuses names of codecs that are not known.

  Raises:
    ValueError: there is one.
  """
  for name in names:
    if name not in known:
      raise ValueError(f'unknown anchor {name!r}, there are {list(known)}')


def _identity(original: Mapping) -> str:
  """What the figures of an anchor depend on, of an original."""
  fields = {k: x for k, x in original.items() if k not in ('name', 'path')}
  return json.dumps(fields, sort_keys=True)


def _known_anchors(path: pathlib.Path, kind: Kind) -> dict:
  """Rows of an older results.json, by original, codec and setting.

  Only those that today's codecs and metrics would give again.
  """
  if not path.exists():
    return {}
  old = results.load(str(path))
  if results.are_of_videos(old) != kind.is_video:
    raise ValueError(
        f'{path} holds results of {"pictures" if kind.is_video else "videos"}'
    )
  identities = {x['name']: _identity(x) for x in old['pictures']}
  return {
      (identities[row['picture']], row['codec'], row['setting']): row
      for row in old['anchors']
      if old['codecs'][row['codec']] == kind.codecs.get(row['codec'])
      and all(metric.name in row for metric in kind.metrics)
  }


def evaluate(
    entries: Sequence[Entry], kind: Kind, output: pathlib.Path
) -> dict:
  """Measures all files and anchors.

  Args:
    entries: the files.
    kind: what they are, and what is compared with.
    output: of results.json, to which paths are relative; anchors that one of
      this name has are taken from it.

  Returns:
    Of results.json: pictures, files, anchors, codecs and missing.

  Raises:
    ValueError: a file does not fit to its original.
  """
  known = _known_anchors(output, kind)
  document = {'pictures': [], 'files': [], 'anchors': []}
  described = lambda path: {
      'path': os.path.relpath(path, output.parent),
      'sha256': sha256(path),
  }
  originals = sorted({entry.reference for entry in entries})
  points = [(x, setting) for x in kind.codecs for setting in kind.settings(x)]
  total = len(entries) + len(originals) * len(points)
  done = 0
  with progress.Display('evaluate', total) as display:
    for path in originals:
      own = [entry for entry in entries if entry.reference == path]
      with kind.open(path, own) as original:
        row = {'name': path.stem} | described(path) | original.row
        document['pictures'].append(row)
        for entry in own:
          display.update(done, text=entry.file.name)
          head = {'point': entry.point, 'picture': path.stem}
          head |= described(entry.file)
          document['files'].append(head | original.measure(entry))
          done += 1
        for codec, setting in points if original.has_anchors else ():
          display.update(done, text=f'{path.name}, {codec} {setting:g}')
          found = known.get((_identity(row), codec, setting))
          found = found or original.anchor(codec, setting)
          document['anchors'].append(
              found | {'picture': path.stem, 'codec': codec}
          )
          done += 1
    display.update(total)
  return document | {'codecs': kind.codecs, 'missing': kind.missing}
