"""Compiles a train step to H200 machine code on a machine without a GPU.

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
}
_DUMP = (
    '--xla_dump_to={} --xla_dump_emitter_re=.* --xla_gpu_dump_llvmir=true'
    # Without it, dumping from several threads aborts.
    ' --xla_gpu_force_compilation_parallelism=1'
)


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


def compile_in_a_process(num_devices, flags=''):
  subprocess.run(
      [sys.executable, __file__, str(num_devices)],
      cwd=HERE.parent,
      env=os.environ | _ENVIRONMENT | {'PYTHONPATH': '.', 'XLA_FLAGS': flags},
      check=True,
      timeout=600,
  )


@pytest.mark.h200
def test_train_steps_over_two_devices_compile(ptxas):
  compile_in_a_process(2)


@pytest.mark.h200
def test_kernels_of_the_train_step_spill_no_registers(ptxas, tmp_path):
  # One device: dumping what is compiled for two crashes JAX 0.11.2.
  compile_in_a_process(1, _DUMP.format(tmp_path))
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
    used = int(re.search(r'Used (\d+) registers', report)[1])
    registers[name[1]] = max(used, registers.get(name[1], 0))
  print(f'registers: {registers}')
  assert {re.sub(r'_\d+$', '', name) for name in registers} == {
      'splat_search',
      'splat_composite',
      'splat_gradient',
      'splat_sum_runs',
  }


def compile_train_chunk(num_devices: int) -> None:
  """Compiles ten train steps over bands, optimiser and all."""
  import jax
  from jax.experimental import topologies
  import numpy as np

  from pgsvc_jax import config as config_lib
  from pgsvc_jax import schedule as schedule_lib
  from pgsvc_jax import train

  topology = topologies.get_topology_desc(
      'h200',
      'cuda',
      target_config=(HERE / 'h200.txtpb').read_text(),
      topology=f'1x1x{num_devices}',
  )
  # Small: without a GPU, XLA sorts by a network of kernels instead of CUB's
  # radix sort, and large ones compile for minutes.
  height, width = 64 * num_devices, 64
  config = config_lib.FitConfig(layer_splats=(40, 20, 20), num_steps=20)
  schedule = schedule_lib.make_schedule(config, height, width)
  step = train.make_train_step(config, schedule)
  mesh = jax.sharding.Mesh(np.array(topology.devices), (train.AXIS,))
  spec = jax.sharding.PartitionSpec(train.AXIS)

  def chunk(state, inputs, band):
    state, inputs, band = jax.tree.map(lambda x: x[0], (state, inputs, band))
    state, errors = jax.lax.scan(lambda s, x: step(s, x, band), state, inputs)
    return jax.tree.map(lambda x: x[None], (state, errors))

  # What pmap is, on devices that are described and not there.
  sharded = jax.jit(
      jax.shard_map(
          chunk,
          mesh=mesh,
          in_specs=spec,
          out_specs=spec,
          check_vma=False,
      )
  )
  state = train.create_train_state(80, 3)
  image = np.zeros((height, width, 3), np.float32)
  inputs = jax.tree.map(lambda x: x[: config.chunk_steps], schedule.inputs)
  sharding = jax.sharding.NamedSharding(mesh, spec)

  def placed(x):
    shape = (num_devices, *np.shape(x))
    return jax.ShapeDtypeStruct(shape, np.asarray(x).dtype, sharding=sharding)

  arguments = jax.tree.map(placed, (state, inputs, one_band(image)))
  lowered = sharded.trace(*arguments).lower(lowering_platforms=('cuda',))
  compiled = lowered.compile()
  print('temporary bytes', compiled.memory_analysis().temp_size_in_bytes)


def one_band(image):
  import numpy as np

  from pgsvc_jax import train

  return train.Band(
      target=image[:64],
      pixel_weights=np.ones((64, image.shape[1]), np.float32),
      top=np.float32(0),
  )


if __name__ == '__main__':
  compile_train_chunk(int(sys.argv[1]))
