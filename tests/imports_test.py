"""Who may import whom, and what starts without JAX."""

import ast
import pathlib
import subprocess
import sys
import tomllib

import pytest

from launch import main

ROOT = pathlib.Path(__file__).parents[1]

# Data flows one way, and so do imports: a module may import those named here
# (and nothing else of the project). A new arrow is a decision, made here.
ARROWS = {
    'pgsvc_jax.training.strategies': set(),
    'pgsvc_jax.training.losses.squared': {
        'pallas_kernels',
        'pgsvc_jax.training.losses',
    },
    'pgsvc_jax.training.losses.charbonnier': {
        'pgsvc_jax.training.losses',
    },
    'pallas_kernels.constants': set(),
    'pallas_kernels.boxes': {
        'pallas_kernels.constants',
    },
    'pallas_kernels.dispatch': set(),
    'pallas_kernels.reference': {
        'pallas_kernels.constants',
        'pallas_kernels.dispatch',
    },
    'pallas_kernels.xla': {
        'pallas_kernels.boxes',
        'pallas_kernels.constants',
        'pallas_kernels.dispatch',
    },
    'pallas_kernels.jit': set(),
    'pallas_kernels.vectors': set(),
    'pallas_kernels.tile_lists': {
        'pallas_kernels.constants',
        'pallas_kernels.jit',
        'pallas_kernels.vectors',
    },
    'pallas_kernels.cpu_kernels': {
        'pallas_kernels.constants',
        'pallas_kernels.jit',
        'pallas_kernels.tile_lists',
        'pallas_kernels.vectors',
    },
    'pallas_kernels.cpu_handlers': {
        'pallas_kernels.cpu_kernels',
        'pallas_kernels.jit',
    },
    'pallas_kernels.numpy_kernels': {
        'pallas_kernels.constants',
    },
    'pallas_kernels.cpu': {
        'pallas_kernels.cpu_handlers',
        'pallas_kernels.cpu_kernels',
        'pallas_kernels.dispatch',
    },
    'pallas_kernels.triton': {
        'pallas_kernels.boxes',
        'pallas_kernels.constants',
        'pallas_kernels.dispatch',
    },
    'pallas_kernels.api': {
        'pallas_kernels.dispatch',
    },
    'pgsvc_jax.types': {
        'pgsvc_jax.display',
    },
    'pgsvc_jax.profiles': set(),
    'pgsvc_jax.pipes': set(),
    'pgsvc_jax.hdr': {
        'pgsvc_jax.profiles',
    },
    'pgsvc_jax.deep_pictures': set(),
    'pgsvc_jax.media': {
        'pgsvc_jax.deep_pictures',
        'pgsvc_jax.hdr',
        'pgsvc_jax.pipes',
        'pgsvc_jax.profiles',
    },
    'pgsvc_jax.memory': {
        'pallas_kernels.dispatch',
    },
    'pgsvc_jax.codec.morton': set(),
    'pgsvc_jax.metrics.metric': set(),
    'pgsvc_jax.metrics.psnr': {
        'pgsvc_jax.metrics.metric',
    },
    'pgsvc_jax.metrics.multiscale_ssim': {
        'pgsvc_jax.metrics.metric',
    },
    'pgsvc_jax.metrics.planes': {
        'pgsvc_jax.metrics.metric',
        'pgsvc_jax.metrics.psnr',
    },
    'pgsvc_jax.video.ffmpeg': set(),
    'pgsvc_jax.metrics.vmaf': {
        'pgsvc_jax.metrics.metric',
        'pgsvc_jax.metrics.planes',
        'pgsvc_jax.video.ffmpeg',
    },
    'pgsvc_jax.codec.quantize': {
        'pgsvc_jax.fields',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.resolution': {
        'pgsvc_jax.types',
    },
    'pgsvc_jax.codec.compiling': {'pallas_kernels.jit'},
    'pgsvc_jax.codec.range_coder': {'pgsvc_jax.codec.compiling'},
    'pgsvc_jax.video.stream_format': set(),
    'pgsvc_jax.video.color': {
        'pgsvc_jax.video.stream_format',
    },
    'pgsvc_jax.video.structure': set(),
    'pgsvc_jax.video.av_frames': {
        'pgsvc_jax.media',
    },
    'pgsvc_jax.video.av_reader': {
        'pgsvc_jax.hdr',
        'pgsvc_jax.profiles',
        'pgsvc_jax.video.av_frames',
        'pgsvc_jax.video.color',
        'pgsvc_jax.video.stream_format',
        'pgsvc_jax.video.structure',
    },
    'pgsvc_jax.video.av_writer': {
        'pgsvc_jax.video.color',
        'pgsvc_jax.video.stream_format',
        'pgsvc_jax.video.structure',
    },
    'pgsvc_jax.video.y4m': {
        'pgsvc_jax.video.color',
        'pgsvc_jax.video.stream_format',
    },
    'pgsvc_jax.video.frame_folder': {
        'pgsvc_jax.media',
        'pgsvc_jax.video.stream_format',
    },
    'pgsvc_jax.video.media': {
        'pgsvc_jax.media',
        'pgsvc_jax.pipes',
        'pgsvc_jax.video.av_reader',
        'pgsvc_jax.video.av_writer',
        'pgsvc_jax.video.frame_folder',
        'pgsvc_jax.video.stream_format',
        'pgsvc_jax.video.y4m',
    },
    'pgsvc_jax.codec.versions.version1': {
        'pgsvc_jax.codec.morton',
        'pgsvc_jax.codec.range_coder',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.codec.splat_coding': {
        'pgsvc_jax.codec.morton',
        'pgsvc_jax.codec.quantize',
        'pgsvc_jax.codec.range_coder',
    },
    'pgsvc_jax.codec.quantized': {
        'pgsvc_jax.codec.quantize',
        'pgsvc_jax.codec.splat_coding',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.codec.syntax': {
        'pgsvc_jax.codec.quantize',
        'pgsvc_jax.codec.splat_coding',
        'pgsvc_jax.codec.versions.version1',
    },
    'pgsvc_jax.codec.stream': {
        'pgsvc_jax.codec.syntax',
    },
    'pgsvc_jax.codec.mixing': {'pgsvc_jax.codec.compiling'},
    'pgsvc_jax.codec.models': {
        'pgsvc_jax.codec.mixing',
    },
    'pgsvc_jax.codec.layer_coding': {
        'pgsvc_jax.codec.compiling',
        'pgsvc_jax.codec.mixing',
        'pgsvc_jax.codec.models',
        'pgsvc_jax.codec.quantize',
        'pgsvc_jax.codec.splat_coding',
    },
    'pgsvc_jax.codec.bitstream': {
        'pgsvc_jax.codec.layer_coding',
        'pgsvc_jax.codec.quantize',
        'pgsvc_jax.codec.quantized',
        'pgsvc_jax.codec.splat_coding',
        'pgsvc_jax.codec.stream',
        'pgsvc_jax.codec.syntax',
        'pgsvc_jax.codec.versions.version1',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.codec.lattice': {
        'pgsvc_jax.codec.quantize',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.video.motion': {
        'pgsvc_jax.codec.lattice',
        'pgsvc_jax.codec.quantize',
    },
    'pgsvc_jax.video.frame_coding': {
        'pgsvc_jax.codec.bitstream',
        'pgsvc_jax.codec.lattice',
        'pgsvc_jax.codec.quantize',
        'pgsvc_jax.codec.quantized',
        'pgsvc_jax.codec.range_coder',
        'pgsvc_jax.codec.splat_coding',
        'pgsvc_jax.codec.syntax',
        'pgsvc_jax.types',
        'pgsvc_jax.video.motion',
    },
    'pgsvc_jax.video.playback': {
        'pgsvc_jax.codec.bitstream',
        'pgsvc_jax.codec.stream',
        'pgsvc_jax.codec.syntax',
        'pgsvc_jax.resolution',
        'pgsvc_jax.types',
        'pgsvc_jax.video.frame_coding',
        'pgsvc_jax.video.stream_format',
    },
    'pgsvc_jax.render': {
        'pallas_kernels.cpu_kernels',
        'pallas_kernels.numpy_kernels',
        'pgsvc_jax.media',
        'pgsvc_jax.resolution',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.display': {
        'pgsvc_jax.render',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.pillow': {
        'pgsvc_jax.codec.bitstream',
        'pgsvc_jax.codec.syntax',
        'pgsvc_jax.decoder',
    },
    'pgsvc_jax.decoder': {
        'pgsvc_jax.codec.stream',
        'pgsvc_jax.codec.syntax',
        'pgsvc_jax.render',
        'pgsvc_jax.video.playback',
    },
    'pgsvc_jax.deprecated': {
        'pgsvc_jax.config',
        'pgsvc_jax.decoder',
        'pgsvc_jax.encoder',
    },
    'pgsvc_jax.inputs': {
        'pgsvc_jax.config',
        'pgsvc_jax.media',
        'pgsvc_jax.video.frame_source',
        'pgsvc_jax.video.media',
        'pgsvc_jax.video.stream_format',
    },
    'pgsvc_jax.video.frame_source': {
        'pgsvc_jax.video.media',
        'pgsvc_jax.video.stream_format',
    },
    'pgsvc_jax.video.workers': {
        'pallas_kernels',
        'pgsvc_jax.codec.stream',
        'pgsvc_jax.codec.syntax',
        'pgsvc_jax.config',
        'pgsvc_jax.video.frame_source',
        'pgsvc_jax.video.gop_fit',
        'pgsvc_jax.video.groups',
        'pgsvc_jax.video.rate_control',
    },
    'pgsvc_jax.fields': set(),
    'pgsvc_jax.config': {
        'pgsvc_jax.codec.quantize',
        'pgsvc_jax.fields',
        'pgsvc_jax.training.losses',
        'pgsvc_jax.training.strategies',
    },
    'pgsvc_jax.training.schedule': {
        'pgsvc_jax.codec.quantize',
        'pgsvc_jax.config',
        'pgsvc_jax.resolution',
        'pgsvc_jax.training.strategies',
    },
    'pgsvc_jax.training.peaks': {
        'pallas_kernels.jit',
    },
    'pgsvc_jax.training.matching': {
        'pgsvc_jax.training.peaks',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.training.initialize': {
        'pgsvc_jax.training.matching',
        'pgsvc_jax.training.peaks',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.training.relocation': {
        'pgsvc_jax.training.matching',
        'pgsvc_jax.training.peaks',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.training.optimizer': {
        'pgsvc_jax.types',
    },
    'pgsvc_jax.training.bands': {
        'pallas_kernels.constants',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.training.train': {
        'pallas_kernels',
        'pallas_kernels.constants',
        'pgsvc_jax.codec.lattice',
        'pgsvc_jax.config',
        'pgsvc_jax.resolution',
        'pgsvc_jax.training.bands',
        'pgsvc_jax.training.optimizer',
        'pgsvc_jax.training.schedule',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.codec.code_lengths': {
        'pgsvc_jax.codec.quantize',
        'pgsvc_jax.codec.splat_coding',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.training.rounding': {
        'pgsvc_jax.codec.code_lengths',
        'pgsvc_jax.codec.quantize',
        'pgsvc_jax.config',
        'pgsvc_jax.training.schedule',
        'pgsvc_jax.training.train',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.codec.rate': {
        'pgsvc_jax.codec.bitstream',
        'pgsvc_jax.codec.code_lengths',
        'pgsvc_jax.codec.quantize',
        'pgsvc_jax.codec.quantized',
        'pgsvc_jax.config',
        'pgsvc_jax.metrics',
        'pgsvc_jax.render',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.training.checkpoint': {
        'pgsvc_jax.codec.quantize',
        'pgsvc_jax.training.rounding',
        'pgsvc_jax.training.train',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.training.warm_start': {
        'pgsvc_jax.types',
    },
    'pgsvc_jax.pace': set(),
    'pgsvc_jax.processes': set(),
    'pgsvc_jax.training.loop': {
        'pallas_kernels',
        'pgsvc_jax.codec.quantize',
        'pgsvc_jax.codec.quantized',
        'pgsvc_jax.config',
        'pgsvc_jax.pace',
        'pgsvc_jax.processes',
        'pgsvc_jax.training.bands',
        'pgsvc_jax.training.checkpoint',
        'pgsvc_jax.training.losses',
        'pgsvc_jax.training.rounding',
        'pgsvc_jax.training.schedule',
        'pgsvc_jax.training.train',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.training.changes': {
        'pgsvc_jax.codec.quantize',
        'pgsvc_jax.config',
        'pgsvc_jax.training.initialize',
        'pgsvc_jax.training.loop',
        'pgsvc_jax.training.relocation',
        'pgsvc_jax.training.schedule',
        'pgsvc_jax.training.train',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.training.fit': {
        'pallas_kernels',
        'pgsvc_jax.codec.quantize',
        'pgsvc_jax.codec.quantized',
        'pgsvc_jax.config',
        'pgsvc_jax.pace',
        'pgsvc_jax.processes',
        'pgsvc_jax.training.changes',
        'pgsvc_jax.training.checkpoint',
        'pgsvc_jax.training.initialize',
        'pgsvc_jax.training.loop',
        'pgsvc_jax.training.losses',
        'pgsvc_jax.training.schedule',
        'pgsvc_jax.training.strategies',
        'pgsvc_jax.training.train',
        'pgsvc_jax.training.warm_start',
        'pgsvc_jax.types',
    },
    'pgsvc_jax.video.flow': {
        'pgsvc_jax.video.motion',
    },
    'pgsvc_jax.video.motion_fit': {
        'pallas_kernels',
        'pgsvc_jax.types',
        'pgsvc_jax.video.motion',
    },
    'pgsvc_jax.video.groups': {
        'pgsvc_jax.codec.rate',
        'pgsvc_jax.config',
        'pgsvc_jax.training.schedule',
        'pgsvc_jax.video.flow',
        'pgsvc_jax.video.stream_format',
    },
    'pgsvc_jax.video.rate_control': {
        'pgsvc_jax.config',
        'pgsvc_jax.video.groups',
    },
    'pgsvc_jax.video.gop_fit': {
        'pallas_kernels',
        'pgsvc_jax.codec.lattice',
        'pgsvc_jax.codec.quantize',
        'pgsvc_jax.codec.rate',
        'pgsvc_jax.config',
        'pgsvc_jax.render',
        'pgsvc_jax.resolution',
        'pgsvc_jax.training.fit',
        'pgsvc_jax.training.initialize',
        'pgsvc_jax.training.loop',
        'pgsvc_jax.training.losses',
        'pgsvc_jax.training.schedule',
        'pgsvc_jax.training.strategies',
        'pgsvc_jax.training.train',
        'pgsvc_jax.types',
        'pgsvc_jax.video.flow',
        'pgsvc_jax.video.frame_coding',
        'pgsvc_jax.video.motion_fit',
        'pgsvc_jax.video.rate_control',
    },
    'pgsvc_jax.video.encoder': {
        'pallas_kernels',
        'pgsvc_jax.codec.stream',
        'pgsvc_jax.codec.syntax',
        'pgsvc_jax.config',
        'pgsvc_jax.training.schedule',
        'pgsvc_jax.video.frame_source',
        'pgsvc_jax.video.stream_format',
        'pgsvc_jax.video.workers',
    },
    'pgsvc_jax.encoder': {
        'pgsvc_jax.codec.bitstream',
        'pgsvc_jax.codec.quantized',
        'pgsvc_jax.codec.rate',
        'pgsvc_jax.config',
        'pgsvc_jax.inputs',
        'pgsvc_jax.training.fit',
        'pgsvc_jax.video.encoder',
        'pgsvc_jax.video.workers',
    },
    'pgsvc_jax.operator': {
        'pallas_kernels.api.composite',
        'pallas_kernels.api.composite_error',
        'pgsvc_jax.types',
    },
}

# What a reader of files must not load.
TRAINING_STACK = {
    'jax',
    'optax',
    'flax',
    'orbax',
    'pgsvc_jax.training.fit',
    'pgsvc_jax.training.train',
    'pgsvc_jax.training.optimizer',
}


def project_imports(path):
  """Modules of the project that a file imports, at any depth."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  roots = ('pgsvc_jax', 'pallas_kernels', 'launch', 'configs')
  return {name for name in names if name.split('.')[0] in roots}


def test_every_module_has_its_arrows():
  modules = {
      '.'.join(path.relative_to(ROOT).with_suffix('').parts)
      for package in ('pgsvc_jax', 'pallas_kernels')
      for path in (ROOT / package).rglob('*.py')
      if path.stem != '__init__'
  }
  assert modules == set(ARROWS)


def test_a_wheel_has_every_package():
  config = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  named = config['tool']['setuptools']['packages']
  found = {
      '.'.join(path.parent.relative_to(ROOT).parts)
      for package in ('pgsvc_jax', 'pallas_kernels', 'launch', 'configs')
      for path in (ROOT / package).rglob('__init__.py')
  }
  inside = ('launch', 'configs')
  assert set(named) == {
      f'pgsvc_jax.{x}' if x.startswith(inside) else x for x in found
  }


@pytest.mark.parametrize('module', ARROWS)
def test_imports_follow_the_arrows(module):
  path = ROOT / (module.replace('.', '/') + '.py')
  assert project_imports(path) <= ARROWS[module]


def loaded_after(code):
  """Names of all modules run after running the code in a new process.

  A proxy that will import its module at its first use has run nothing yet.
  """
  program = f"""{code}
import importlib.util, sys
for name, module in list(sys.modules.items()):
  if type(module) is not importlib.util._LazyModule:
    print(name)
"""
  result = subprocess.run(
      [sys.executable, '-c', program],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=True,
  )
  return set(result.stdout.split())


@pytest.mark.parametrize('name', ['decode', 'evaluate'])
def test_the_decoder_loads_no_training_stack(name):
  loaded = loaded_after(
      f'import launch.{name}, pgsvc_jax.codec.range_coder,'
      'pallas_kernels.cpu_kernels'
  )
  assert 'pgsvc_jax.render' in loaded
  assert not loaded & TRAINING_STACK


@pytest.mark.parametrize('name', main.VERBS)
def test_commands_start_without_the_slow_imports(name):
  """And without Numba, which must learn first where its cache is."""
  loaded = loaded_after(f'import launch.{name}')
  assert not loaded & (
      TRAINING_STACK | {'av', 'cv2', 'matplotlib', 'numba', 'optuna', 'rich'}
  )


def test_decoding_loads_no_training_stack():
  loaded = loaded_after(
      'import pgsvc_jax; pgsvc_jax.decode, pgsvc_jax.decode_frames'
  )
  assert 'pgsvc_jax.render' in loaded
  assert not loaded & TRAINING_STACK


def test_public_names_load_on_first_use():
  loaded = loaded_after('import pgsvc_jax, pallas_kernels')
  assert not loaded & TRAINING_STACK
  loaded = loaded_after(
      'import pgsvc_jax\n'
      'for name in pgsvc_jax.__all__: getattr(pgsvc_jax, name)'
  )
  assert {'pgsvc_jax.training.fit', 'pgsvc_jax.video.encoder'} <= loaded
  # They are extras.
  assert not loaded & {'av', 'cv2'}


def test_the_demo_does_with_its_own_extra():
  loaded = loaded_after('import launch.demo, launch.lab.drawings')
  assert 'launch.lab.reports.strips' in loaded
  # Of the extras `report`, `video` and `anchors`.
  others = {'bjontegaard', 'jinja2', 'av', 'cv2', 'imageio_ffmpeg'}
  assert not loaded & others
