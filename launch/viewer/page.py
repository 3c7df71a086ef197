"""One page with all in it: modules, style, worker and the files to show."""

import base64
from collections.abc import Mapping, Sequence
import functools
import html
import io
import json
import pathlib
import re

import PIL.Image

import pgsvc_jax
from pgsvc_jax.codec import syntax

WEB = pathlib.Path(pgsvc_jax.__file__).parent / 'web'

_IMPORT = re.compile(r"^import (?:\{([^}]*)\} from )?'\./([\w.]+)';\n", re.M)
_EXPORTED = re.compile(
    r'^export (?=(?:async )?(?:class|const|function\*?) (\w+))', re.M
)
_EXPORT_LIST = re.compile(r'^export \{([^}]*)\};\n', re.M)
# The worker's text stands in the page, and is not run there.
_START = (
    'globalThis.pgsvcWorkerUrl = URL.createObjectURL(new Blob([document'
    ".getElementById('pgsvc-worker').textContent], "
    "{type: 'text/javascript'}));\n"
)
# What browsers show as it is.
_SHOWN = {'AVIF', 'BMP', 'GIF', 'JPEG', 'PNG', 'WEBP'}


def bundle(entry: str) -> str:
  """An ES module and all that it imports, as one script.

  It knows the forms of import and export that the folder uses, each on lines of
  its own; every module becomes a function, so names need not differ.

  Args:
    entry: the name of the module in the folder.

  Returns:
    The text of the script.
  """
  texts = {}

  def add(name: str) -> None:
    if name in texts:
      return
    text = (WEB / name).read_text(encoding='utf-8')
    for _, other in _IMPORT.findall(text):
      add(other)
    texts[name] = _as_function(name, text)

  add(entry)
  return 'const modules = {};\n' + ''.join(texts.values())


def _as_function(name: str, text: str) -> str:
  names = _EXPORTED.findall(text)
  for group in _EXPORT_LIST.findall(text):
    names += re.findall(r'\w+', group)
  text = _EXPORT_LIST.sub('', _EXPORTED.sub('', text))
  text = _IMPORT.sub(_as_constant, text)
  text = text.replace('import.meta.url', 'document.baseURI')
  return (
      f'modules[{name!r}] = (() => {{\n{text}'
      f'return {{{", ".join(names)}}};\n}})();\n'
  )


def _as_constant(match: re.Match) -> str:
  names, module = match.groups()
  if names is None:
    return ''
  return f'const {{{names.replace(" as ", ": ")}}} = modules[{module!r}];\n'


def write(files: Mapping[str, tuple[str, bytes]]) -> str:
  """The page that needs nothing else, not even a server.

  Args:
    files: names and bytes: `file`, and perhaps `original`.

  Returns:
    Its HTML.
  """
  held = {
      key: {'name': name, 'data': base64.b64encode(data).decode('ascii')}
      for key, (name, data) in files.items()
  }
  text = (WEB / 'viewer.html').read_text(encoding='utf-8')
  style = (WEB / 'viewer.css').read_text(encoding='utf-8')
  scripts = [
      _script('application/json', json.dumps(held), 'pgsvc-files'),
      _script('text/plain', bundle('worker.js'), 'pgsvc-worker'),
      _script('module', _START + bundle('viewer.js')),
  ]
  replacements = {
      '<link rel="stylesheet" href="viewer.css">': f'<style>\n{style}</style>',
      '<script type="module" src="viewer.js"></script>': '\n'.join(scripts),
      '<title>pgsvc viewer</title>': (
          f'<title>{html.escape(files["file"][0])}</title>'
      ),
  }
  for old, new in replacements.items():
    if old not in text:
      raise AssertionError(f'viewer.html has no {old}')
    text = text.replace(old, new)
  return text


def elements() -> str:
  """Scripts with which any page has `<pgsvc-image>` and `<pgsvc-video>`."""
  return '\n'.join(
      [
          _script('text/plain', bundle('worker.js'), 'pgsvc-worker'),
          _script('module', _START + bundle('elements.js')),
      ]
  )


def _script(kind: str, text: str, name: str = '') -> str:
  # The first `</script` would end it, wherever it stands.
  text = text.replace('</script', '<\\/script')
  label = f' id="{name}"' if name else ''
  return f'<script type="{kind}"{label}>\n{text}</script>'


@functools.lru_cache(maxsize=8)
def shown_bytes(path: str) -> tuple[str, bytes]:
  """A name and bytes that browsers show, or that the page decodes.

  Args:
    path: a .pgsvc file, or a picture; kinds that browsers do not know come as
      PNG.

  Raises:
    OSError: it cannot be read.
    ValueError: it is no picture.
  """
  name = pathlib.Path(path).name
  data = pathlib.Path(path).read_bytes()
  if data.startswith(syntax.MAGIC):
    return name, data
  try:
    with PIL.Image.open(io.BytesIO(data)) as image:
      if image.format in _SHOWN:
        return name, data
      out = io.BytesIO()
      image.save(out, 'PNG')
  except PIL.UnidentifiedImageError:
    raise ValueError(f'{path}: no picture') from None
  return f'{name}.png', out.getvalue()


def names_of(paths: Sequence[str]) -> list[str]:
  """What the page calls the files."""
  return [shown_bytes(path)[0] for path in paths]
