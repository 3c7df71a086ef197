"""The tutorial runs, and prints what it says.

`python -m tests.tutorial_test` writes what it prints and draws into docs/.
"""

import contextlib
import io
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TUTORIAL = ROOT / 'docs' / 'tutorial.md'

# Code, and what it printed, if there is a block for that.
_BLOCKS = re.compile(r'```python\n(.*?)```(\n\n```text\n(.*?)```)?', re.DOTALL)
_NUMBER = re.compile(r'\d+(?:\.\d+)?')


def execute(text: str) -> str:
  """Runs the code of a text in one namespace; the text with new outputs."""
  namespace = {'__name__': 'tutorial'}

  def run(block: re.Match) -> str:
    line = text[: block.start(1)].count('\n')
    code = compile('\n' * line + block[1], str(TUTORIAL), 'exec')
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
      exec(code, namespace)
    if not block[2]:
      assert not printed.getvalue(), f'no place for {printed.getvalue()!r}'
      return block[0]
    return f'```python\n{block[1]}```\n\n```text\n{printed.getvalue()}```'

  return _BLOCKS.sub(run, text)


def outputs(text: str) -> list[str]:
  return [block[3] for block in _BLOCKS.finditer(text) if block[2]]


@pytest.mark.slow
def test_the_tutorial_prints_what_it_says(tmp_path):
  subprocess.run(
      [sys.executable, '-m', 'tests.tutorial_test', str(tmp_path)],
      cwd=ROOT,
      check=True,
  )
  said = outputs(TUTORIAL.read_text())
  printed = outputs((tmp_path / 'tutorial.md').read_text())
  assert len(said) == len(printed) > 5
  for a, b in zip(said, printed):
    assert _NUMBER.sub('N', a) == _NUMBER.sub('N', b)
    # Other machines, devices and versions round differently.
    numbers = [[float(x) for x in _NUMBER.findall(text)] for text in (a, b)]
    assert numbers[0] == pytest.approx(numbers[1], rel=0.05, abs=1e-3), a


def main(folder: str) -> None:
  text = TUTORIAL.read_text()
  os.chdir(folder)
  pathlib.Path('tutorial.md').write_text(execute(text))


if __name__ == '__main__':
  main(*(sys.argv[1:] or [str(TUTORIAL.parent)]))
