"""The viewer page: one file of it, and the server of it."""

import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import PIL.Image
import pytest

from launch.viewer import page
from launch.viewer import server

ROOT = pathlib.Path(__file__).parents[1]
PICTURE = ROOT / 'tests' / 'golden' / 'v2_three_layers.pgsvc'


@pytest.mark.skipif(
    shutil.which('node') is None, reason='Node.js is not installed'
)
def test_modules_in_one_script_still_decode(tmp_path):
  script = tmp_path / 'bundle.mjs'
  script.write_text(
      page.bundle('decoder.js')
      + "const {decodePicture} = modules['decoder.js'];\n"
      + "const {readFileSync} = await import('node:fs');\n"
      + f'const {{layers}} = decodePicture(readFileSync({str(PICTURE)!r}));\n'
      + 'console.log(layers.map((splats) => splats.length / 9).join());\n'
  )
  result = subprocess.run(
      ['node', script], capture_output=True, text=True, check=True
  )
  assert result.stdout == '24,9,5\n'


@pytest.mark.parametrize('entry', ['viewer.js', 'worker.js'])
def test_one_script_imports_nothing(entry):
  text = page.bundle(entry)
  assert not re.search(r'^(import|export) ', text, re.MULTILINE)
  assert 'import.meta' not in text
  assert text.index("modules['range_coder.js']") < text.index(f"['{entry}']")


def test_a_page_holds_its_files_and_loads_nothing():
  data = PICTURE.read_bytes()
  text = page.write({'file': ('a </script> & b.pgsvc', data)})
  tags = re.sub('<script.*?</script>', '', text, flags=re.DOTALL)
  assert not re.search(r'(src|href)="(?!data:)', tags)
  (held,) = re.findall(r'id="pgsvc-files">\n(.*?)</script>', text, re.DOTALL)
  files = json.loads(held.replace('<\\/', '</'))
  assert files['file']['name'] == 'a </script> & b.pgsvc'
  assert text.count('</script>') == 3
  assert '<title>a &lt;/script&gt; &amp; b.pgsvc</title>' in text


def test_pictures_that_browsers_do_not_know_come_as_png(tmp_path):
  pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
  for suffix, name in (('png', 'a.png'), ('tiff', 'a.tiff.png')):
    path = tmp_path / f'a.{suffix}'
    PIL.Image.fromarray(pixels).save(path)
    shown, data = page.shown_bytes(str(path))
    assert shown == name
    assert data.startswith(b'\x89PNG')
    if suffix == 'png':
      assert data == path.read_bytes()
  text = tmp_path / 'a.txt'
  text.write_text('hello')
  with pytest.raises(ValueError, match=r'a\.txt: no picture'):
    page.shown_bytes(str(text))


@contextlib.contextmanager
def serving(app):
  uvicorn = pytest.importorskip('uvicorn')
  config = uvicorn.Config(app, port=0, log_level='error', lifespan='off')
  runner = uvicorn.Server(config)
  thread = threading.Thread(target=runner.run)
  thread.start()
  try:
    while not runner.started:
      assert thread.is_alive()
      time.sleep(0.01)
    port = runner.servers[0].sockets[0].getsockname()[1]
    yield f'http://127.0.0.1:{port}'
  finally:
    runner.should_exit = True
    thread.join()


def fetch(url, **headers):
  request = urllib.request.Request(url, headers=headers)
  try:
    with urllib.request.urlopen(request) as response:
      return response.status, response.url, response.read()
  except urllib.error.HTTPError as error:
    with error:
      return error.code, url, error.read()


def test_the_server_has_the_page_and_ranges_of_its_files(tmp_path):
  pytest.importorskip('starlette')
  odd = tmp_path / 'ä & b?.pgsvc'
  odd.write_bytes(PICTURE.read_bytes())
  data = odd.read_bytes()
  with serving(server.make_app([str(odd), str(PICTURE)])) as url:
    status, landed, text = fetch(url + '/')
    assert status == 200
    assert b'<title>pgsvc viewer</title>' in text
    names = re.findall(r'(?:file|original)=([^&]+)', landed)
    file, original = (urllib.request.unquote(name) for name in names)
    assert fetch(f'{url}/{file}')[2] == data
    assert fetch(f'{url}/{original}')[2] == PICTURE.read_bytes()
    status, _, part = fetch(f'{url}/{file}', Range='bytes=10-19')
    assert (status, part) == (206, data[10:20])
    status, _, _ = fetch(f'{url}/{file}', Range='bytes=99999-')
    assert status == 416
    assert fetch(f'{url}/files/2/x')[0] == 404
    assert fetch(f'{url}/viewer.js')[0] == 200
    # A page of another site cannot read it through a name of its own.
    assert fetch(f'{url}/{file}', Host='evil.example')[0] == 400


def test_commands_fail_in_a_line(tmp_path):
  (tmp_path / 'a.pgsvc').write_text('nothing')
  for verb, words in (
      ('view', ['a.pgsvc']),
      ('view', [str(PICTURE), 'none.png']),
      ('view', [str(PICTURE), '--export=none/page.html']),
      ('compare', [str(PICTURE)]),
  ):
    result = subprocess.run(
        [sys.executable, '-m', f'launch.{verb}', *words],
        cwd=tmp_path,
        env={'PYTHONPATH': str(ROOT), 'PATH': ''},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, (verb, words)
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert not list(tmp_path.rglob('*.html'))


def test_view_exports_a_page(tmp_path):
  out = tmp_path / 'page.html'
  subprocess.run(
      [
          sys.executable,
          '-m',
          'launch.view',
          str(PICTURE),
          f'--export={out}',
      ],
      cwd=ROOT,
      check=True,
  )
  assert 'v2_three_layers.pgsvc' in out.read_text()
