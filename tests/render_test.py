"""The decoder's renderer against the reference."""

import sys

import numpy as np
import pytest

import pallas_kernels
from pgsvc_jax import render
from pgsvc_jax import types


def random_layers(height, width, channels=3, sizes=(20, 0, 15)):
  rng = np.random.default_rng(0)
  n = sum(sizes)
  return types.LayeredSplats(
      splats=types.Splats(
          rng.uniform(0, [width, height], (n, 2)).astype(np.float32),
          np.stack(
              [rng.uniform(1, 9, n), rng.normal(size=n), rng.uniform(1, 9, n)],
              1,
          ).astype(np.float32),
          rng.normal(0.2, 0.4, (n, channels)).astype(np.float32),
      ),
      layer_sizes=sizes,
      height=height,
      width=width,
  )


@pytest.mark.parametrize('with_numba', [True, False])
@pytest.mark.parametrize('shape', [(150, 40), (64, 33), (1, 1)])
def test_prefixes_agree_with_the_reference_within_one_code_value(
    monkeypatch, shape, with_numba
):
  layered = random_layers(*shape)
  if not with_numba:
    # What an import finds where the package is missing.
    monkeypatch.delattr(pallas_kernels, 'cpu_kernels', raising=False)
    monkeypatch.setitem(sys.modules, 'pallas_kernels.cpu_kernels', None)
  images = render.render_prefixes(layered)
  expected = pallas_kernels.composite(
      *layered.splats,
      layer_sizes=layered.layer_sizes,
      height=shape[0],
      width=shape[1],
      implementation='reference',
  )
  expected = np.round(np.clip(expected, 0, 1) * 255)
  difference = np.abs(images.astype(int) - expected)
  # Float rounding moves values next to .5 across it, rarely.
  assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_first_layers_render_as_the_prefix():
  layered = random_layers(50, 60)
  prefixes = render.render_prefixes(layered)
  for k in (1, 2, 3):
    image = render.render_picture(render.first_layers(layered, k))
    np.testing.assert_array_equal(image, prefixes[k - 1])
  for k in (0, 4):
    with pytest.raises(ValueError, match='of 3'):
      render.first_layers(layered, k)


def test_scaling_moves_nothing():
  """Twice as fine, averaged over 2 x 2, is the picture within its curvature."""
  layered = random_layers(40, 48)
  fine = render.render_picture(render.scaled(layered, 2.0)).astype(float)
  assert fine.shape == (80, 96, 3)
  means = fine.reshape(40, 2, 48, 2, 3).mean((1, 3))
  plain = render.render_picture(layered)
  inside = (plain > 0) & (plain < 255)
  # Splats are at least a pixel wide; half a pixel of shift would be 15.
  assert np.abs(means - plain)[inside].mean() < 2.5
  for scale in (0.0, -1.0, float('inf'), float('nan')):
    with pytest.raises(ValueError, match='positive'):
      render.scaled(layered, scale)
