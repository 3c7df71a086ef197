"""The public names: which there are, how they are called, and their examples.

`tests/golden/api.txt` holds them as they stand in the source. A change of it is
a change for every user: say it in CHANGELOG.md, then

    python -m tests.api_test
"""

import ast
import contextlib
import dataclasses
import inspect
import io
import pathlib
import subprocess
import sys
import textwrap

import jax
from jax import numpy as jnp
import numpy as np
from PIL import Image
import pytest

import pallas_kernels
import pgsvc_jax
from pgsvc_jax import inputs
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
  if arguments.kwarg:
    parts.append(f'**{ast.unparse(arguments.kwarg)}')
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
  # What raises an exception, or gives the other, shows it.
  is_error = inspect.isclass(thing) and issubclass(thing, Exception)
  if not is_error and name != 'VideoReader':
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
assert_type(pgsvc_jax.encode('clip.mp4', frame_rate=24), bytes)
pgsvc_jax.FitConfig(num_steps=3)
assert_type(pallas_kernels.default_implementations('cpu'), tuple[str, ...])
pgsvc_jax.decode([1, 2])  # Wrong: line 11, and all that follow.
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
    ('source', 'config', 'message'),
    [
        (np.zeros((3, 20, 30)), CONFIG, r'is \[c, h, w\], .*np.moveaxis'),
        (np.zeros((4, 4, 5)), CONFIG, 'of 5 channels, a picture has 1 to 4'),
        (np.zeros(4), CONFIG, r'no picture, which is \[h, w, c\]'),
        (np.zeros((0, 4, 3)), CONFIG, 'without pixels'),
        (np.full((4, 4, 1), 128.0), CONFIG, r'in \[128, 128\], .*by 255'),
        (np.full((4, 4, 1), np.nan), CONFIG, 'not in'),
        (np.zeros((4, 4, 1), np.int64), CONFIG, r'not int64: image.astype'),
        (scene(), CONFIG.fit, r'a FitConfig: give EncodeConfig\(fit=config\)'),
        (scene(), {'fit': {}}, 'config is an EncodeConfig .*not dict'),
        ([scene()], CONFIG, 'the source is a video: give a VideoConfig'),
        (
            scene(),
            pgsvc_jax.VideoConfig(),
            r'the source is a picture: .*\[pict',
        ),
        (b'\x89PNG', None, 'an array, a path, an open file, .*not bytes'),
        (7, None, 'a picture or video is an array, .*not int'),
        ('no.png', None, 'no.png: No such file'),
        (str(ROOT / 'README.md'), None, 'not a picture of a known format'),
    ],
)
def test_what_cannot_be_encoded_is_said_at_once(source, config, message):
  """Before JAX has anything to do, with what to do instead."""
  with pytest.raises((TypeError, ValueError), match=message):
    pgsvc_jax.encode(source, config)


def test_an_unknown_argument_is_refused():
  with pytest.raises(TypeError, match="no argument 'initialiser'"):
    pgsvc_jax.encode(scene(), CONFIG, initialiser=None)
  with pytest.raises(TypeError, match='initial is for pictures'):
    pgsvc_jax.encode([scene()], initial=None)


def test_pictures_come_in_many_forms(tmp_path):
  """To the same pixels."""
  path = tmp_path / 'picture.png'
  pgsvc_jax.write_picture(path, scene())
  expected = scene() / np.float32(255)
  with open(path, 'rb') as file, contextlib.ExitStack() as stack:
    for form in (
        *(scene(), scene().astype(np.uint16) * 257, expected),
        *(path, str(path), file, pgsvc_jax.read_picture(path)),
        *(Image.fromarray(scene()), Image.open(path), jnp.array(expected)),
    ):
      pixels = inputs.read(form, None, 24, stack)
      assert pixels.dtype == np.float32
      np.testing.assert_array_equal(pixels, expected)
  gray = inputs.to_pixels(scene()[..., 0])
  np.testing.assert_array_equal(gray, expected[..., :1])
  palette = Image.fromarray(scene()[..., 0]).convert('P')
  assert inputs.to_pixels(palette).shape == (24, 40, 3)


def test_videos_come_in_many_forms(tmp_path):
  """To the same frames, walked over and taken by group."""
  for k, frame in enumerate(clip()):
    pgsvc_jax.write_picture(tmp_path / f'{k}.png', frame)
  expected = [frame / np.float32(255) for frame in clip()]
  with pgsvc_jax.open_video(tmp_path) as video, contextlib.ExitStack() as stack:
    for form in (
        *(clip(), iter(clip()), np.stack(clip()), tmp_path, video),
        *(map(Image.fromarray, clip()), sorted(tmp_path.iterdir())),
    ):
      source = inputs.read(form, None, 30, stack)
      walked = [frame.pixels for frame in source.walk()]
      np.testing.assert_array_equal(walked, expected)
      taken = [frame.pixels for frame in source.frames(1, 3)]
      np.testing.assert_array_equal(taken, expected[1:3])
      assert (source.format.width, source.format.height) == (40, 24)


def test_a_file_is_decoded_from_bytes_a_path_and_an_open_file(tmp_path, data):
  path = tmp_path / 'picture.pgsvc'
  path.write_bytes(data)
  expected = pgsvc_jax.decode(data)
  with open(path, 'rb') as file:
    for form in (path, str(path), file, bytearray(data), memoryview(data)):
      np.testing.assert_array_equal(pgsvc_jax.decode(form), expected)
  path.write_text('text')
  with pytest.raises(pgsvc_jax.BitstreamError, match='pgsvc: not a .pgsvc fil'):
    pgsvc_jax.decode(path)
  with pytest.raises(TypeError, match='from its bytes, .* not from ndarray'):
    pgsvc_jax.decode(scene())


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


def test_layered_splats_are_a_pytree(data):
  layered = pgsvc_jax.read_layers(data)
  twice = jax.jit(lambda x: jax.tree.map(lambda leaf: 2 * leaf, x))(layered)
  assert isinstance(twice, pgsvc_jax.LayeredSplats)
  assert twice.layer_sizes == layered.layer_sizes
  np.testing.assert_array_equal(twice.splats.means, 2 * layered.splats.means)
  assert len(jax.tree.leaves(layered)) == 3


def test_several_implementations_are_tried_in_order():
  class Never:

    @staticmethod
    def composite(*_):
      raise NotImplementedError('not today')

    composite_vjp = composite

  class Nor(Never):
    pass

  one = np.float32([[1, 1]]), np.float32([[1, 0, 1]]), np.float32([[1]])
  sizes = {'layer_sizes': (1,), 'height': 2, 'width': 3}
  expected = pgsvc_jax.composite(*one, **sizes)
  for several in ([Never, 'cpu'], (Never, Nor, 'xla')):
    images = pgsvc_jax.composite(*one, **sizes, implementation=several)
    np.testing.assert_allclose(images, expected, atol=1e-6)
  with pytest.raises(NotImplementedError, match='Never: not today; Nor: not'):
    pgsvc_jax.composite(*one, **sizes, implementation=[Never, Nor])
  with pytest.raises(ValueError, match="'best' is not one of"):
    pgsvc_jax.composite(*one, **sizes, implementation=['cpu', 'best'])
  with pytest.raises(ValueError, match='empty'):
    pgsvc_jax.composite(*one, **sizes, implementation=[])


# ---- Videos ------------------------------------------------------------------
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
  return pgsvc_jax.encode(
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
        (np.zeros((2, 4, 4, 5)), 'of 5 channels'),
        ([np.zeros((4, 4, 3)), np.zeros((4, 5, 3))], 'all of one size'),
        (np.zeros((2, 4, 4, 3), np.int32), 'not int32'),
    ],
)
def test_what_is_no_video_is_refused(frames, message):
  with pytest.raises(ValueError, match=message):
    pgsvc_jax.encode(frames, VIDEO_CONFIG)


def test_a_picture_is_a_video_of_one_frame(data, video):
  (frame,) = pgsvc_jax.decode_frames(data)
  np.testing.assert_array_equal(frame.pixels, pgsvc_jax.decode(data))


def test_old_names_work_with_a_warning(video):
  with pytest.warns(DeprecationWarning, match='decode does it'):
    frames = pgsvc_jax.decode_video(video, 1)
  assert len(list(frames)) == 4
  with pytest.warns(DeprecationWarning, match='encode does it'):
    with pytest.raises(ValueError, match='at least a frame'):
      pgsvc_jax.encode_video([], VIDEO_CONFIG)
  with pytest.raises(ValueError, match='max_pixels=100'):
    pgsvc_jax.decode(video, max_pixels=100)
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

  data = pgsvc_jax.encode(clip(), config)
  assert packets(file.read_bytes()) == packets(data)


if __name__ == '__main__':
  GOLDEN.write_text(describe_all())
