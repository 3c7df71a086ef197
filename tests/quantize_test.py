import math

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest

from pgsvc_jax import quantize
from pgsvc_jax import types

SETTINGS = hypothesis.settings(
    max_examples=150, derandomize=True, deadline=None, database=None
)

STEP_SIZES = st.builds(
    quantize.StepSizes,
    position=st.integers(1, quantize.MAX_STEP),
    cholesky=st.integers(1, quantize.MAX_STEP),
    shear=st.integers(1, quantize.MAX_STEP),
    color=st.integers(1, quantize.MAX_STEP),
)


@st.composite
def any_splats(draw):
  """Splats of any finite float32 value, ordinary and extreme."""
  n = draw(st.integers(0, 6))
  c = draw(st.integers(1, 4))

  def array(columns, **limits):
    values = st.floats(
        width=32, allow_nan=False, allow_infinity=False, **limits
    ) | st.floats(0.125, 100, width=32)
    return draw(hnp.arrays(np.float32, (n, columns), elements=values))

  tiny = float(np.finfo(np.float32).smallest_subnormal)
  diagonals = array(2, min_value=tiny)
  cholesky = np.stack([diagonals[:, 0], array(1)[:, 0], diagonals[:, 1]], -1)
  return types.Splats(means=array(2), cholesky=cholesky, colors=array(c))


def make_splats(n, channels=3, seed=0):
  rng = np.random.default_rng(seed)
  diagonals = np.exp(rng.normal(1.1, 0.6, (n, 2)))
  l21 = rng.normal(0, 1.5, n)
  return types.Splats(
      means=rng.uniform(-8, 600, (n, 2)).astype(np.float32),
      cholesky=np.stack([diagonals[:, 0], l21, diagonals[:, 1]], -1).astype(
          np.float32
      ),
      colors=rng.laplace(0, 0.2, (n, channels)).astype(np.float32),
  )


@SETTINGS
@hypothesis.given(any_splats(), STEP_SIZES)
def test_quantize_takes_back_what_dequantize_gives(splats, step_sizes):
  symbols = quantize.quantize(splats, step_sizes)
  decoded = quantize.dequantize(symbols, step_sizes)
  for array in decoded:
    assert array.dtype == np.float32
    assert np.isfinite(array).all()
  assert (decoded.cholesky[:, [0, 2]] > 0).all()
  assert np.abs(symbols).max(initial=0) < 2**25
  np.testing.assert_array_equal(quantize.quantize(decoded, step_sizes), symbols)


def test_error_is_at_most_half_a_step():
  splats = make_splats(2000)
  step_sizes = quantize.StepSizes(position=512, cholesky=200, color=33)
  decoded = quantize.dequantize(
      quantize.quantize(splats, step_sizes), step_sizes
  )
  unit = quantize.STEP_UNIT
  slack = 1.001
  means_error = np.abs(decoded.means - splats.means)
  assert means_error.max() <= 256 * unit * slack
  assert np.abs(decoded.colors - splats.colors).max() <= 16.5 * unit * slack
  logs = np.log(decoded.cholesky[:, [0, 2]] / splats.cholesky[:, [0, 2]])
  assert np.abs(logs).max() <= 100 * unit * slack
  # The slope of the splat's axis is what survives the rounding of l11.
  l11, l21, l22 = splats.cholesky.T
  decoded_l11, decoded_l21, decoded_l22 = decoded.cholesky.T
  shear = (decoded_l21 - l21 * decoded_l11 / l11) / decoded_l22
  assert np.abs(shear).max() <= step_sizes.shear / 2 * unit * slack


def test_symbols_match_their_definition():
  splats = types.Splats(
      means=np.float32([[-3.25, 700.5]]),
      cholesky=np.float32([[math.e, -1.0, 1.0]]),
      colors=np.float32([[0.5, 0.25, -0.125, 1.0]]),
  )
  step_sizes = quantize.StepSizes(
      position=1024, cholesky=1024, shear=1024, color=512
  )
  # RGB are 4, 2, -1: Co = 5, t = -1 + 2 = 1, Cg = 1, Y = 1 + 0.
  assert quantize.quantize(splats, step_sizes).tolist() == [
      [-13, 2802, 4, -4, 0, 1, 5, 1, 8]
  ]


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_lifting_leaves_other_channels_alone(channels):
  splats = make_splats(50, channels)
  step_sizes = quantize.StepSizes()
  symbols = quantize.quantize(splats, step_sizes)
  colors = np.rint(np.float64(splats.colors) / (6 * quantize.STEP_UNIT))
  start = 3 if channels >= 3 else 0
  np.testing.assert_array_equal(symbols[:, 5 + start :], colors[:, start:])
  decoded = quantize.dequantize(symbols, step_sizes)
  np.testing.assert_array_equal(
      decoded.colors, np.float32(colors * 6 * quantize.STEP_UNIT)
  )


@pytest.mark.parametrize('field', ['means', 'cholesky', 'colors'])
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(field, value):
  splats = make_splats(3)
  getattr(splats, field)[1, 0] = value
  with pytest.raises(ValueError, match=f'{field} are not all finite'):
    quantize.quantize(splats, quantize.StepSizes())


@pytest.mark.parametrize('value', [0.0, -1.0])
def test_diagonals_that_are_not_positive_are_refused(value):
  splats = make_splats(3)
  splats.cholesky[1, 2] = value
  with pytest.raises(ValueError, match='diagonals'):
    quantize.quantize(splats, quantize.StepSizes())


@pytest.mark.parametrize('value', [0, -1, 2**16])
def test_step_sizes_out_of_range_are_refused(value):
  with pytest.raises(ValueError, match='shear'):
    quantize.StepSizes(shear=value)


@pytest.mark.parametrize('column', range(8))
@pytest.mark.parametrize('value', [2**24, -(2**24), 2**61, -(2**63)])
def test_symbols_out_of_range_are_refused(column, value):
  symbols = np.zeros((2, 8), np.int64)
  symbols[1, column] = value
  with pytest.raises(ValueError, match='out of range'):
    quantize.dequantize(symbols, quantize.StepSizes())


@SETTINGS
@hypothesis.given(
    hnp.arrays(
        np.int64,
        st.tuples(st.integers(0, 20), st.just(2)),
        elements=st.integers(0, 2**24 - 1),
    )
)
def test_morton_codes_interleave_and_come_back(positions):
  codes = quantize.morton_codes(positions)
  for (x, y), code in zip(positions.tolist(), codes.tolist(), strict=True):
    bits = ''.join(b + a for a, b in zip(f'{x:024b}', f'{y:024b}', strict=True))
    assert code == int(bits, 2) < quantize.MORTON_END
  np.testing.assert_array_equal(quantize.from_morton_codes(codes), positions)


def test_order_makes_codes_increase_and_keeps_ties():
  splats = make_splats(500)
  symbols = quantize.quantize(splats, quantize.StepSizes(position=65535))
  order = quantize.order(symbols)
  assert sorted(order.tolist()) == list(range(500))
  codes = quantize.morton_codes(symbols[order, :2] - quantize.origin(symbols))
  steps = np.diff(codes)
  assert (steps >= 0).all()
  assert (steps == 0).any()
  assert (np.diff(order)[steps == 0] > 0).all()


def test_order_of_no_splats_is_empty():
  assert quantize.order(np.zeros((0, 8), np.int64)).shape == (0,)
