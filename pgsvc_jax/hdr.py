"""HDR to SDR: PQ and HLG of BT.2020 and the like to BT.709.

As FFmpeg's filters do it by default: linear light in units of 100 cd/m2, the
primaries of BT.709, then Hable's curve on the largest of red, green and blue,
which keeps the hue; what is brighter than 1,000 cd/m2 is white.
"""

from jaxtyping import Float
import numpy as np

from pgsvc_jax import profiles

_WHITE = 100.0  # cd/m2 that SDR's white stands for
_PEAK = 1000.0
# Of HLG on a display of that peak: ITU-R BT.2100.
_SYSTEM_GAMMA = 1.2


def linear_light(
    pixels: Float[np.ndarray, 'h w 3'], kind: str
) -> Float[np.ndarray, 'h w 3']:
  """What a display shows, in cd/m2.

  Args:
    pixels: RGB in [0, 1].
    kind: PQ or HLG.

  Example:
    >>> linear_light(np.full((1, 1, 3), 0.508), 'PQ').round()
    array([[[100., 100., 100.]]])
  """
  if kind == 'PQ':
    root = np.power(pixels, 1 / 78.84375)
    ratio = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
    return 10_000 * np.power(ratio, 1 / 0.1593017578125)
  a, b, c = 0.17883277, 0.28466892, 0.55991073
  upper = (np.exp((pixels - c) / a) + b) / 12
  scene = np.where(pixels <= 0.5, pixels * pixels / 3, upper)
  luminance = scene @ np.array([0.2627, 0.6780, 0.0593], scene.dtype)
  gain = np.power(np.maximum(luminance, 1e-6), _SYSTEM_GAMMA - 1)
  return _PEAK * scene * gain[..., None]


def _hable(x: np.ndarray | float) -> np.ndarray | float:
  """John Hable's filmic curve."""
  a, b, c, d, e, f = 0.15, 0.50, 0.10, 0.20, 0.02, 0.30
  top, bottom = x * (a * x + c * b) + d * e, x * (a * x + b) + d * f
  return top / bottom - e / f


def to_linear_sdr(
    pixels: Float[np.ndarray, 'h w 3'], kind: str, primaries: int
) -> Float[np.ndarray, 'h w 3']:
  """Linear light of BT.709 in [0, 1], for a display of SDR.

  Args:
    pixels: RGB in [0, 1].
    kind: PQ or HLG.
    primaries: code point of ITU-T H.273.

  Returns:
    RGB, to be given a curve.
  """
  own = profiles.PRIMARIES.get(primaries, profiles.PRIMARIES[9])
  matrix = np.linalg.solve(
      profiles.xyz_from_rgb(profiles.PRIMARIES[1]), profiles.xyz_from_rgb(own)
  )
  light = linear_light(pixels.astype(np.float32), kind) / np.float32(_WHITE)
  light = np.einsum('hwc,kc->hwk', light, matrix.astype(np.float32))
  largest = np.maximum(light.max(axis=2, keepdims=True), 1e-6)
  light *= _hable(largest) / (_hable(_PEAK / _WHITE) * largest)
  return np.clip(light, 0, 1, out=light)


def to_bt709(
    pixels: Float[np.ndarray, 'h w 3'], kind: str, primaries: int
) -> Float[np.ndarray, 'h w 3']:
  """As `to_linear_sdr`, for a display of BT.709: the curve of BT.1886."""
  return to_linear_sdr(pixels, kind, primaries) ** np.float32(1 / 2.4)
