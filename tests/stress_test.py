"""Every odd picture there is: encoded and decoded to its size, or refused."""

import pathlib
import subprocess
import sys

from PIL import Image
import pytest

from pgsvc_jax import media

ROOT = pathlib.Path(__file__).parents[1]


def run(verb, *flags):
  return subprocess.run(
      [sys.executable, '-m', f'launch.{verb}', *flags],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
  )


@pytest.mark.slow  # About three seconds a file, 196 files.
def test_every_file_encodes_and_decodes_or_is_refused(data_dir, tmp_path):
  counts = {'decoded': 0, 'refused': 0}
  files = sorted(p for p in (data_dir / 'stress').rglob('*') if p.is_file())
  assert len(files) > 100
  for file in files:
    output, decoded = tmp_path / 'x.pgsvc', tmp_path / 'x.png'
    output.unlink(missing_ok=True)
    encoded = run(
        'encode',
        f'--input={file}',
        f'--output={output}',
        '--config=configs/image.py:smoke',
    )
    if encoded.returncode:
      lines = [x for x in encoded.stderr.splitlines() if x.startswith('encode')]
      assert encoded.returncode == 1 and len(lines) == 1, encoded.stderr
      assert file.name in lines[0] and 'Traceback' not in encoded.stderr
      assert not list(tmp_path.glob('.partial*')) and not output.exists()
      counts['refused'] += 1
      continue
    result = run('decode', f'--input={output}', f'--output={decoded}')
    assert result.returncode == 0, (file, result.stderr)
    height, width, channels = media.read_picture(file).pixels.shape
    with Image.open(decoded) as image:
      assert image.size == (width, height), file
      assert len(image.getbands()) == channels, file
    counts['decoded'] += 1
  print(counts)
  assert counts['decoded'] > 150
