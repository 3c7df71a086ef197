"""Compiles for an H200, to machine code, on a machine without a GPU.

`make test-h200` sets up the compiler (requirements-h200.txt, 0.9 GB) and runs
this. Errors that lowering does not show appear here: shapes, layouts, shared
memory, registers. Nothing is executed.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent

_ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    # There is no cuDNN, and nothing here needs it.
    'JAX_SKIP_CUDA_CONSTRAINTS_CHECK': '1',
    'PYTHONPATH': '.',
}
_DUMP = (
    '--xla_dump_to={} --xla_dump_emitter_re=.* --xla_gpu_dump_llvmir=true'
    ' --xla_gpu_force_compilation_parallelism=1'
)

pytestmark = pytest.mark.h200


@pytest.fixture(scope='module')
def ptxas():
  """NVIDIA's assembler, from the wheel."""
  nvidia = pytest.importorskip('nvidia')
  found = [
      path
      for folder in nvidia.__path__
      for path in pathlib.Path(folder).glob('*/bin/ptxas')
  ]
  if not found:
    pytest.skip('there is no ptxas')
  return found[0]


def compile_in_a_process(*words, flags=''):
  subprocess.run(
      [sys.executable, __file__, *words],
      cwd=HERE.parent,
      env=os.environ | _ENVIRONMENT | {'XLA_FLAGS': flags},
      check=True,
      timeout=300,
  )


@pytest.mark.parametrize('num_devices', ['1', '2'])
def test_train_steps_compile(ptxas, num_devices):
  compile_in_a_process('train', num_devices)


@pytest.mark.parametrize('channels', ['1', '3'])
def test_kernels_spill_no_registers(ptxas, tmp_path, channels):
  compile_in_a_process('kernels', channels, flags=_DUMP.format(tmp_path))
  registers = {}
  for path in tmp_path.glob('*.ptx'):
    name = re.search(r'\.entry (splat_\w+)', path.read_text())
    if not name:
      continue
    report = subprocess.run(
        [ptxas, '-v', '-arch=sm_90a', path, '-o', tmp_path / 'out.cubin'],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert '0 bytes spill stores, 0 bytes spill loads' in report, name[1]
    registers[name[1]] = int(re.search(r'Used (\d+) registers', report)[1])
  print(f'registers with {channels} channels: {registers}')
  assert set(registers) == {
      'splat_search',
      'splat_composite',
      'splat_gradient',
      'splat_sum_runs',
  }


# ---- In a process of their own -----------------------------------------------
def described_devices(num_devices):
  """Devices that are described and not there, as a mesh."""
  import jax
  from jax.experimental import topologies
  import numpy as np

  from pgsvc_jax.training import train

  topology = topologies.get_topology_desc(
      'h200',
      'cuda',
      target_config=(HERE / 'h200.txtpb').read_text(),
      topology=f'1x1x{num_devices}',
  )
  return jax.sharding.Mesh(np.array(topology.devices), (train.AXIS,))


def compile_for(mesh, function, *arguments):
  """Compiles for a mesh; arrays are split along their first axis."""
  import jax
  import numpy as np

  spec = jax.sharding.PartitionSpec(*mesh.axis_names)
  sharding = jax.sharding.NamedSharding(mesh, spec)

  def each(*arguments):
    results = function(*jax.tree.map(lambda x: x[0], arguments))
    return jax.tree.map(lambda x: x[None], results)

  # What pmap is, for devices that are not there.
  sharded = jax.shard_map(
      each, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
  )
  arguments = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
          (mesh.size, *np.shape(x)), x.dtype, sharding=sharding
      ),
      arguments,
  )
  traced = jax.jit(sharded).trace(*arguments)
  return traced.lower(lowering_platforms=('cuda',)).compile()


def compile_train_steps(num_devices: str) -> None:
  """Compiles a scan of train steps over bands, optimiser and all."""
  import jax
  import numpy as np

  from pgsvc_jax import config as config_lib
  from pgsvc_jax.training import schedule as schedule_lib
  from pgsvc_jax.training import train

  mesh = described_devices(int(num_devices))
  # Small: without a GPU, XLA sorts by a network of kernels instead of CUB's
  # radix sort, and large ones compile for minutes.
  rows, width = 64, 64
  config = config_lib.FitConfig(layer_splats=(40, 20, 20), num_steps=20)
  schedule = schedule_lib.make_schedule(config, rows * mesh.size, width)
  step = train.make_train_step(config, schedule)
  band = train.Band(
      target=np.zeros((rows, width, 3), np.float32),
      pixel_weights=np.ones((rows, width), np.float32),
      top=np.float32(0),
      bottom=np.float32(rows),
  )

  def steps(state, inputs, band):
    return jax.lax.scan(lambda s, x: step(s, x, band), state, inputs)

  state = train.create_train_state(80, 3)
  compiled = compile_for(mesh, steps, state, schedule.inputs, band)
  print('temporary bytes', compiled.memory_analysis().temp_size_in_bytes)


def compile_kernels(channels: str) -> None:
  """Compiles every kernel of the triton implementation by itself.

  Alone, because JAX 0.11.2 hangs when it dumps a program of several.
  """
  import jax
  from jax import numpy as jnp

  from pallas_kernels import dispatch
  from pallas_kernels import triton

  calls = {}
  make_call = triton._call

  def record(*args, **kwargs):
    call = make_call(*args, **kwargs)

    def recorded(*operands):
      shapes = [jnp.zeros(x.shape, x.dtype) for x in operands]
      calls.setdefault(kwargs['name'], (call, shapes))
      return call(*operands)

    return recorded

  triton._call = record
  arrays = [(80, 2), (80, 3), (80, int(channels))]
  arrays += [(64, 64, int(channels)), (64, 64), (3,)]
  static = dispatch.Static((40, 20, 20), 64, 64)
  jax.eval_shape(
      lambda *arrays: triton.composite_error(*arrays, static, 'cuda'),
      *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in arrays),
  )
  mesh = described_devices(1)
  for call, operands in calls.values():
    compile_for(mesh, call, *operands)


if __name__ == '__main__':
  what, argument = sys.argv[1:]
  {'train': compile_train_steps, 'kernels': compile_kernels}[what](argument)
