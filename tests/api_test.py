"""The public names: which there are, how they are called, and their examples.

`tests/golden/api.txt` holds them as they stand in the source. A change of it is
a change for every user: say it in CHANGELOG.md, then

    python -m tests.api_test
"""

import ast
import inspect
import pathlib
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

import pallas_kernels
import pgsvc_jax

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / 'tests' / 'golden' / 'api.txt'
PACKAGES = (pgsvc_jax, pallas_kernels)


def _function_lines(node: ast.FunctionDef) -> list[str]:
  """`def name(...) -> type`, where it is long an argument a line."""
  arguments = node.args
  defaults = (None,) * (len(arguments.args) - len(arguments.defaults))
  pairs = [*zip(arguments.args, (*defaults, *arguments.defaults))]
  if arguments.kwonlyargs:
    pairs.append((ast.arg('*'), None))
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults)
  parts = [
      ast.unparse(argument) + (f' = {ast.unparse(default)}' if default else '')
      for argument, default in pairs
  ]
  returns = f' -> {ast.unparse(node.returns)}' if node.returns else ''
  short = f'def {node.name}({", ".join(parts)}){returns}'
  if len(short) <= 80:
    return [short]
  return [
      f'def {node.name}(',
      *(f'    {part},' for part in parts),
      f'){returns}',
  ]


def _class_lines(node: ast.ClassDef) -> list[str]:
  """The class with its public fields, properties and methods."""
  bases = ', '.join(ast.unparse(base) for base in node.bases)
  lines = [f'class {node.name}({bases}):' if bases else f'class {node.name}:']
  for child in node.body:
    if isinstance(child, ast.AnnAssign) and child.target.id[0] != '_':
      lines.append(f'  {ast.unparse(child)}')
    elif isinstance(child, ast.FunctionDef) and child.name[0] != '_':
      lines += [f'  @{ast.unparse(x)}' for x in child.decorator_list]
      lines += [f'  {line}' for line in _function_lines(child)]
  return lines


def describe(package) -> str:
  """All public names of a package, from their sources.

  Not from `inspect.signature`, which shows annotations in another way in every
  version of Python and JAX.
  """
  blocks = [f'# {package.__name__}']
  for name in package.__all__:
    thing = getattr(package, name)
    if inspect.isfunction(thing) or inspect.isclass(thing):
      (node,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
      is_class = isinstance(node, ast.ClassDef)
      lines = (_class_lines if is_class else _function_lines)(node)
      blocks.append('\n'.join(lines))
    else:
      blocks.append(name)
  return '\n\n'.join(blocks) + '\n'


def describe_all() -> str:
  return '\n'.join(describe(package) for package in PACKAGES)


def test_the_public_names_are_those_of_the_golden_file():
  assert describe_all() == GOLDEN.read_text(), (
      'the public names have changed; if that is meant, say so in CHANGELOG.md'
      ' and run: python -m tests.api_test'
  )


@pytest.mark.parametrize('name', pgsvc_jax.__all__)
def test_every_public_name_is_documented_with_an_example(name):
  thing = getattr(pgsvc_jax, name)
  assert thing.__doc__
  # What raises an exception shows it.
  if not (inspect.isclass(thing) and issubclass(thing, Exception)):
    assert '>>>' in thing.__doc__


@pytest.mark.parametrize('name', pgsvc_jax.__all__)
def test_every_argument_is_typed_and_documented(name):
  thing = getattr(pgsvc_jax, name)
  if inspect.isclass(thing):
    return
  for parameter in inspect.signature(thing).parameters.values():
    assert parameter.annotation is not parameter.empty, parameter
    assert f'\n    {parameter.name}: ' in thing.__doc__, parameter
  assert 'return' in inspect.get_annotations(thing)


def test_type_checkers_see_the_names(tmp_path):
  """Pyrefly finds what is right right, and what is wrong wrong."""
  program = tmp_path / 'program.py'
  program.write_text("""
import numpy as np
import pgsvc_jax
import pallas_kernels
from typing import assert_type
assert_type(pgsvc_jax.encode(np.zeros((1, 1, 1))), bytes)
assert_type(pgsvc_jax.read_layers(b''), pgsvc_jax.LayeredSplats)
pgsvc_jax.FitConfig(num_steps=3)
assert_type(pallas_kernels.default_implementations('cpu'), tuple[str, ...])
pgsvc_jax.decode('a path')  # Wrong: line 10, and all that follow.
pgsvc_jax.FitConfig(num_steps='3')
pgsvc_jax.no_such_name
""")
  result = subprocess.run(
      [
          pathlib.Path(sys.executable).parent / 'pyrefly',
          'check',
          f'--python-interpreter-path={sys.executable}',
          f'--search-path={ROOT}',
          '--preset=default',
          '--output-format=min-text',
          str(program),
      ],
      capture_output=True,
      text=True,
  )
  lines = [
      int(line.partition('program.py:')[2].partition(':')[0])
      for line in result.stdout.splitlines()
      if 'program.py:' in line
  ]
  assert lines == [10, 11, 12], result.stdout + result.stderr


# ---- encode and decode -------------------------------------------------------
SETTINGS = {
    'layer_splats': (30, 20),
    'num_steps': 40,
    'num_births': 2,
    'rounding_steps': 110,
}
CONFIG = pgsvc_jax.EncodeConfig(fit=pgsvc_jax.FitConfig(**SETTINGS))


def scene():
  y, x = np.mgrid[:24, :40] / 8
  waves = [np.sin(x), np.cos(y), np.sin(x + y)]
  return (128 + 100 * np.stack(waves, -1)).astype(np.uint8)


@pytest.fixture(scope='module')
def data():
  devices = jax.devices()[:1]
  return pgsvc_jax.encode(scene(), CONFIG, metadata=b'{}', devices=devices)


def test_a_picture_goes_to_bytes_and_back(data):
  qualities = [
      pgsvc_jax.psnr_db(pgsvc_jax.decode(data, k), scene()) for k in (1, 2)
  ]
  assert 20 < qualities[0] < qualities[1]
  assert pgsvc_jax.read_header(data).metadata == b'{}'
  assert pgsvc_jax.decode(data, scale=0.5).shape == (12, 20, 3)


def test_a_cut_file_decodes_like_its_layers(data):
  np.testing.assert_array_equal(
      pgsvc_jax.decode(data[:-1]), pgsvc_jax.decode(data, 1)
  )


def test_the_rate_is_what_is_asked_for():
  config = pgsvc_jax.EncodeConfig(fit=CONFIG.fit, target_bpp=3.0)
  header = pgsvc_jax.read_header(pgsvc_jax.encode(scene(), config))
  assert 2.5 < header.bits_per_pixel[-1] < 3.3


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (np.zeros((4, 4)), r'a picture is \[h, w, c\]'),
        (np.full((4, 4, 1), 128.0), r'in \[128, 128\], not in \[0, 1\]'),
        (np.full((4, 4, 1), np.nan), 'not in'),
        (np.zeros((4, 4, 1), np.uint16), 'not uint16'),
    ],
)
def test_what_is_no_picture_is_refused(image, message):
  with pytest.raises(ValueError, match=message):
    pgsvc_jax.encode(image, CONFIG)


def test_a_size_out_of_proportion_is_refused(data):
  with pytest.raises(ValueError, match='max_pixels=100'):
    pgsvc_jax.decode(data, max_pixels=100)
  with pytest.raises(ValueError, match='positive'):
    pgsvc_jax.decode(data, scale=-1)


@pytest.mark.slow
def test_the_command_writes_the_same_packets(tmp_path, data):
  picture, file = tmp_path / 'picture.png', tmp_path / 'picture.pgsvc'
  pgsvc_jax.write_picture(picture, scene())
  subprocess.run(
      [
          sys.executable,
          '-m',
          'launch.encode',
          f'--input={picture}',
          f'--output={file}',
          '--num_devices=1',
          *(
              f'--config.fit.{name}={getattr(CONFIG.fit, name)}'
              for name in SETTINGS
          ),
      ],
      cwd=ROOT,
      check=True,
  )

  def packets(data):
    return data[pgsvc_jax.read_header(data).header_size :]

  assert packets(file.read_bytes()) == packets(data)


if __name__ == '__main__':
  GOLDEN.write_text(describe_all())
