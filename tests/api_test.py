"""The public names: which there are, how they are called, and their examples.

`tests/golden/api.txt` holds them as they stand in the source. A change of it is
a change for every user: say it in CHANGELOG.md, then

    python -m tests.api_test
"""

import ast
import dataclasses
import inspect
import io
import pathlib
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

import pallas_kernels
import pgsvc_jax
from pgsvc_jax.codec import stream

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
assert_type(pgsvc_jax.encode_video(np.zeros((1, 1, 1, 1))), bytes)
pgsvc_jax.FitConfig(num_steps=3)
assert_type(pallas_kernels.default_implementations('cpu'), tuple[str, ...])
pgsvc_jax.decode('a path')  # Wrong: line 11, and all that follow.
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
  assert lines == [11, 12, 13], result.stdout + result.stderr


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


# ---- encode_video and decode_video -------------------------------------------
VIDEO_CONFIG = pgsvc_jax.VideoConfig(
    image=CONFIG,
    gop=3,
    update_steps=20,
    update_rounding_steps=30,
)


def clip():
  return [np.roll(scene(), k, axis=1) for k in range(4)]


@pytest.fixture(scope='module')
def video():
  return pgsvc_jax.encode_video(
      iter(clip()), VIDEO_CONFIG, frame_rate=30, metadata=b'{}'
  )


def test_frames_go_to_bytes_and_back(video):
  header = stream.StreamReader(io.BytesIO(video)).header
  assert (header.metadata, header.frame_rate) == (b'{}', 30)
  for num_layers, least in ((1, 20), (2, 22)):
    frames = pgsvc_jax.decode(video, num_layers)
    for frame, original in zip(frames, clip(), strict=True):
      assert pgsvc_jax.psnr_db(frame, original) > least


def test_frames_can_be_chosen(video):
  whole = list(pgsvc_jax.decode(video))
  part = pgsvc_jax.decode(io.BytesIO(video), first_frame=1, num_frames=2)
  np.testing.assert_array_equal(list(part), whole[1:3])
  small = list(pgsvc_jax.decode(video, scale=0.5))
  assert [x.shape for x in small] == [(12, 20, 3)] * 4


def test_a_cut_video_gives_the_groups_that_are_whole(video):
  second = stream.StreamReader(io.BytesIO(video)).gop(1)
  assert second.first_frame == 3
  cut = video[: second.packet_offsets[0]]
  np.testing.assert_array_equal(
      list(pgsvc_jax.decode(cut)),
      list(pgsvc_jax.decode(video, num_frames=3)),
  )


@pytest.mark.parametrize(
    ('frames', 'message'),
    [
        ([], 'at least a frame'),
        (np.zeros((2, 4, 4)), r'frames are \[h, w, c\]'),
        ([np.zeros((4, 4, 3)), np.zeros((4, 5, 3))], 'all of one size'),
        (np.zeros((2, 4, 4, 3), np.uint16), 'not uint16'),
    ],
)
def test_what_is_no_video_is_refused(frames, message):
  with pytest.raises(ValueError, match=message):
    pgsvc_jax.encode_video(frames, VIDEO_CONFIG)


def test_a_picture_is_a_video_of_one_frame(data, video):
  (frame,) = pgsvc_jax.decode_frames(data)
  np.testing.assert_array_equal(frame.pixels, pgsvc_jax.decode(data))
  with pytest.warns(DeprecationWarning, match='decode does it'):
    frames = pgsvc_jax.decode_video(video, 1)
  assert len(list(frames)) == 4
  with pytest.raises(ValueError, match='max_pixels=100'):
    pgsvc_jax.decode(video, max_pixels=100)


@pytest.mark.slow
@pytest.mark.parametrize('target_kbps', [0, 400])
def test_the_command_writes_the_same_packets_of_a_video(tmp_path, target_kbps):
  folder, file = tmp_path / 'frames', tmp_path / 'clip.pgsvc'
  folder.mkdir()
  for k, frame in enumerate(clip()):
    pgsvc_jax.write_picture(folder / f'{k}.png', frame)
  config = dataclasses.replace(VIDEO_CONFIG, target_kbps=target_kbps)
  subprocess.run(
      [
          *(sys.executable, '-m', 'launch.encode', '--frame_rate=24'),
          *(f'--input={folder}', f'--output={file}', '--num_devices=2'),
          *('--config=configs/video.py', f'--target_kbps={target_kbps}'),
          *(
              f'--config.{name}={getattr(config, name)}'
              for name in ('gop', 'update_steps', 'update_rounding_steps')
          ),
          *(
              f'--config.image.fit.{name}={getattr(CONFIG.fit, name)}'
              for name in SETTINGS
          ),
      ],
      cwd=ROOT,
      check=True,
  )

  def packets(data):
    reader = stream.StreamReader(io.BytesIO(data))
    return [reader.packets(gop.index, 2) for gop in reader]

  data = pgsvc_jax.encode_video(clip(), config)
  assert packets(file.read_bytes()) == packets(data)


if __name__ == '__main__':
  GOLDEN.write_text(describe_all())
