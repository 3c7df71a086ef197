"""The estimate of a fit's memory, and the run that it refuses."""

import subprocess
import sys

import pytest

from launch import runtime
from pgsvc_jax import memory

HD = (1080, 1920, 3)


def host(shape, num_splats, **kwargs):
  estimate = memory.estimate_fit(*shape, (num_splats,), **kwargs)
  return estimate.host_bytes


@pytest.mark.parametrize('implementation', ['cpu', 'xla'])
def test_memory_grows_with_pixels_and_splats_not_with_their_product(
    implementation,
):
  def grown(pixels, splats):
    shape = (1000 * pixels, 1000, 3)
    return host(shape, 1000 * splats, implementation=implementation)

  base = grown(1, 1)
  both = grown(100, 100) - base
  assert both == pytest.approx(
      (grown(100, 1) - base) + (grown(1, 100) - base), rel=1e-6
  )


def test_reference_grows_with_the_product():
  dense = host(HD, 9000, implementation='reference')
  assert dense > HD[0] * HD[1] * 9000 * 4
  assert dense > 10 * host(HD, 9000)


def test_every_device_copies_the_splats():
  def splats(num_devices):
    with_some = host(HD, 10**6, num_devices=num_devices)
    return with_some - host(HD, 0, num_devices=num_devices)

  assert splats(3) == pytest.approx(3 * splats(1), rel=1e-6)


def test_pictures_side_by_side_add_up():
  one, two, three = (
      host(HD, 0, num_devices=6, num_pictures=n) for n in (1, 2, 3)
  )
  assert one < two < three < 3 * one


def test_devices_with_memory_of_their_own_are_counted_apart():
  sizes = [
      memory.estimate_fit(*HD, (9000,), num_devices=n, platform='gpu')
      for n in (1, 2)
  ]
  assert 0 < sizes[1].device_bytes < sizes[0].device_bytes
  assert memory.estimate_fit(*HD, (9000,)).device_bytes == 0


def test_a_gpu_holds_prefix_images_and_pairs():
  def device(splats, **kwargs):
    return memory.estimate_fit(*HD, splats, platform='gpu', **kwargs)

  image = 4 * HD[0] * HD[1] * HD[2]
  # The images and their cotangents, of every prefix.
  six, three = device((5,) * 6), device((10,) * 3)
  assert six.device_bytes - three.device_bytes > 3 * 2 * image
  assert three == device((10,) * 3, implementation='triton')
  # A window has room for 8 pairs of each splat, of a key and a number.
  more = device((10**6,)).device_bytes - device((10,)).device_bytes
  assert more > 10**6 * 8 * 8


def test_compilation_matters_to_small_pictures_only():
  assert host((8, 8, 3), 10, compiles=True) > host((8, 8, 3), 10)
  large = (4320, 7680, 3)
  assert host(large, 10**5, compiles=True) == host(large, 10**5)


def test_what_does_not_fit_is_refused(monkeypatch):
  monkeypatch.setattr(
      runtime, 'host_memory', lambda: {'available_bytes': 3 * 2**30}
  )
  devices = runtime.jax.local_devices()
  small = memory.Estimate(host_bytes=2**30, device_bytes=0)
  line = 'needs about 1.0 GiB of host memory, 3.0 GiB available'
  assert runtime.require_memory(small, devices).startswith(line)
  large = memory.Estimate(host_bytes=4 * 2**30, device_bytes=0)
  with pytest.raises(ValueError, match='4.0 GiB of host memory, 3.0 GiB avail'):
    runtime.require_memory(large, devices)


def test_a_device_that_is_too_small_is_refused(monkeypatch):
  monkeypatch.setattr(runtime, 'device_memory', lambda device: 2**30)
  devices = runtime.jax.local_devices()
  with pytest.raises(ValueError, match='2.0 GiB of .* memory, 1.0 GiB avail'):
    runtime.require_memory(
        memory.Estimate(host_bytes=0, device_bytes=2**31), devices
    )


def test_control_groups_limit_what_is_available(tmp_path):
  files = {
      'memory.max': '1000',
      'memory.current': '700',
      'memory.stat': 'anon 500\ninactive_file 150\n',
  }
  for name, text in files.items():
    (tmp_path / name).write_text(text)
  names = ('memory.max', 'memory.current', 'inactive_file')
  assert list(runtime._room(tmp_path, *names)) == [450]
  (tmp_path / 'memory.max').write_text('max')
  assert not list(runtime._room(tmp_path, *names))
  assert not list(runtime._room(tmp_path / 'none', *names))


def test_encode_refuses_before_it_starts(tmp_path):
  from PIL import Image

  picture = tmp_path / 'a.png'
  Image.new('RGB', (70, 50), 'teal').save(picture)
  result = subprocess.run(
      [
          sys.executable,
          '-m',
          'launch.encode',
          f'--input={picture}',
          f'--output={tmp_path / "a.pgsvc"}',
          '--config.fit.layer_splats=(10000000000,)',
      ],
      capture_output=True,
      text=True,
      check=False,
  )
  assert result.returncode == 1
  (line,) = result.stderr.splitlines()
  assert line.startswith(f'encode: {picture}: the fit needs about')
  assert 'GiB available' in line
