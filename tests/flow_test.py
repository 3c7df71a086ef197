"""Motion as seen in the source."""

import numpy as np
import pytest
import scipy.ndimage

from pgsvc_jax.video import flow
from pgsvc_jax.video import motion

pytest.importorskip('cv2')


@pytest.mark.parametrize('shift', [(5, -3), (-4, 2)])
def test_the_field_says_where_splats_of_the_frame_before_go(shift):
  texture = np.random.default_rng(0).uniform(size=(96, 128, 1))
  texture = scipy.ndimage.gaussian_filter(texture, (2, 2, 0))
  before = (texture - texture.min()) / np.ptp(texture)
  x, y = shift
  after = np.roll(before, (y, x), axis=(0, 1))
  field = flow.motion_field(before, after, 4) / 2**motion.VECTOR_BITS
  # At the edges, texture comes in from the other side.
  assert np.abs(field[1:-1, 1:-1] - shift).max() < 0.3
