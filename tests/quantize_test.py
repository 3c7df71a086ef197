import math

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest

from pgsvc_jax import types
from pgsvc_jax.codec import morton
from pgsvc_jax.codec import quantize

SETTINGS = hypothesis.settings(
    max_examples=150, derandomize=True, deadline=None, database=None
)

STEP_SIZES = st.builds(
    quantize.StepSizes,
    color=st.integers(1, quantize.MAX_STEP),
    shape=st.integers(1, quantize.MAX_STEP),
    position=st.integers(1, quantize.MAX_STEP),
    cell=st.integers(0, quantize.MAX_CELL),
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
  again = quantize.quantize(decoded, step_sizes)
  for array, expected in zip(again, symbols, strict=True):
    np.testing.assert_array_equal(array, expected)


def test_error_is_at_most_half_a_step():
  splats = make_splats(2000)
  step_sizes = quantize.StepSizes(color=33, cell=6)
  symbols = quantize.quantize(splats, step_sizes)
  decoded = quantize.dequantize(symbols, step_sizes)
  slack = 1.001
  color = 33 * quantize.STEP_UNIT * 2 ** (-symbols.classes / 2)
  error = np.linalg.norm(decoded.colors - splats.colors, axis=1)
  assert (error <= math.sqrt(3) / 2 * color * slack).all()

  precision = quantize.precisions(symbols.colors)
  shape = quantize.shape_steps(precision, step_sizes) / 2**28
  log = lambda x: np.log(np.float64(x.cholesky[:, [0, 2]]))
  size = np.abs(log(decoded).sum(1) - log(splats).sum(1))
  levels = quantize.size_levels(precision, step_sizes)
  assert (size <= math.log(2) / levels / 2 * slack).all()
  aspect = np.abs(np.diff(log(decoded) - log(splats))[:, 0])
  assert (aspect <= shape / 2 * slack).all()
  # The slope of the splat's axis is what survives the rounding of the aspect.
  slope = lambda x: x.cholesky[:, 1] / x.cholesky[:, 0]
  ratio = decoded.cholesky[:, 0] / decoded.cholesky[:, 2]
  shear = np.abs((slope(decoded) - slope(splats)) * ratio)
  assert (shear <= shape / 2 * slack).all()

  bits = quantize.cell_bits(symbols, step_sizes)
  x, y = (decoded.means - splats.means).T
  lean = slope(decoded) * x
  steps = 2.0 ** (6 - bits)
  assert (np.abs(x) <= steps[:, 0] / 2 * slack).all()
  assert (np.abs(y - lean) <= steps[:, 1] / 2 * slack).all()


def test_equal_error_for_every_attribute():
  """The header's formulas, against pictures summed over a fine grid."""
  means = np.float64([0.3, -0.2])
  cholesky = np.float64([3, 2, 1.5])
  colors = np.float64([0.5, -0.2, 0.4])
  grid = np.stack(np.meshgrid(*[np.arange(-40, 40, 0.25)] * 2), -1)

  def picture(means, cholesky, colors):
    l11, l21, l22 = cholesky
    u, v = np.moveaxis(grid - means, -1, 0)
    z1 = u / l11
    z2 = (v - l21 * z1) / l22
    return np.exp(-(z1**2 + z2**2) / 2)[..., None] * colors

  def error(**changes):
    splat = dict(means=means, cholesky=cholesky, colors=colors)
    change = picture(**(splat | changes)) - picture(**splat)
    return (change**2).sum() / 16

  area = math.pi * 3 * 1.5
  energy = area * (colors**2).sum()
  d = 1e-3
  grow = cholesky * math.exp(d / 2)
  lean = cholesky + [0, d * 1.5, 0]
  # The slope l21 / l11 is kept.
  widen = cholesky * np.exp([d / 2, d / 2, -d / 2])
  moved = means + d * np.float64([3, 2])
  assert error(colors=colors + [d, 0, 0]) == pytest.approx(
      area * d**2, rel=1e-3
  )
  assert error(cholesky=grow) == pytest.approx(energy / 2 * d**2, rel=2e-3)
  assert error(cholesky=widen) == pytest.approx(energy / 4 * d**2, rel=2e-3)
  assert error(cholesky=lean) == pytest.approx(energy / 4 * d**2, rel=2e-3)
  assert error(means=moved) == pytest.approx(energy / 2 * d**2, rel=2e-3)


def test_cells_of_position_are_as_fine_as_the_rule_says():
  """sigma 8, S = 2^10, no aspect: 1.19 * 8 / 32 is nearest to 1/4 pixel."""
  symbols = quantize.zeros(1, channels=1)._replace(
      classes=np.array([6]), colors=np.array([[32]])
  )
  bits = quantize.cell_bits(symbols, quantize.StepSizes(cell=3))
  assert bits.tolist() == [[5, 5]]


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_rotated_colors_come_back(channels):
  splats = make_splats(50, channels)
  step_sizes = quantize.StepSizes(color=1)
  symbols = quantize.quantize(splats, step_sizes)
  decoded = quantize.dequantize(symbols, step_sizes)
  np.testing.assert_allclose(decoded.colors, splats.colors, atol=3e-4)
  gray = splats._replace(colors=np.full((50, channels), 0.5, np.float32))
  chroma = quantize.quantize(gray, step_sizes).colors[:, 1:3]
  assert channels < 3 or not chroma.any()


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
  with pytest.raises(ValueError, match='shape'):
    quantize.StepSizes(shape=value)


@pytest.mark.parametrize('field', quantize.Symbols._fields)
@pytest.mark.parametrize('value', [2**24, -(2**24), 2**61, -(2**61)])
def test_symbols_out_of_range_are_refused(field, value):
  zeros = np.zeros(2, np.int64)
  pairs, colors = np.zeros((2, 2), np.int64), np.zeros((2, 3), np.int64)
  symbols = quantize.Symbols(pairs, zeros, colors, zeros, zeros, zeros)
  changed = getattr(symbols, field).copy()
  changed[-1] = value
  with pytest.raises(ValueError, match='out of range'):
    quantize.dequantize(
        symbols._replace(**{field: changed}), quantize.StepSizes()
    )


@SETTINGS
@hypothesis.given(
    hnp.arrays(
        np.int64,
        st.tuples(st.integers(0, 20), st.just(2)),
        elements=st.integers(0, 2**24 - 1),
    )
)
def test_morton_codes_interleave_and_come_back(positions):
  codes = morton.encode(positions)
  for (x, y), code in zip(positions.tolist(), codes.tolist(), strict=True):
    bits = ''.join(b + a for a, b in zip(f'{x:024b}', f'{y:024b}', strict=True))
    assert code == int(bits, 2) < morton.END
  np.testing.assert_array_equal(morton.decode(codes), positions)
