"""How much memory a fit takes, before it is run.

Arithmetic only: terms that grow with the pixels and terms that grow with the
splats. Only the dense `reference` has a term in their product. The factors
count arrays or were measured, as the peak resident memory of `encode` on Linux:
pictures of 0.003 to 33 megapixels with 200 to 500,000 splats on one, two and
six CPU devices. The estimates were 8 % below to 25 % above; a run with XLA's
programs not yet cached takes 60 to 90 MiB more than the next one.
"""

import dataclasses

_MIB = 2**20

# The process with its libraries, and with XLA's programs for the operator.
_BASE = {
    'cpu': 400 * _MIB,
    'xla': 490 * _MIB,
    'triton': 490 * _MIB,
    'reference': 490 * _MIB,
}

# The same while Numba compiles, which it does once on a machine.
_COMPILING = 600 * _MIB

# What `xla` works on at a time on each device, whatever the picture.
_CHUNK = 40 * _MIB

# Float arrays of the size of all prefix images that a step holds at a time.
# Of `triton`, what XLA allots when it compiles for an H200, with the pairs for
# each tile.
_PREFIX_IMAGES = {'cpu': 0, 'xla': 1.75, 'triton': 2.5, 'reference': 7}

# Pairs and jobs of `triton`, for each splat: 10 pairs of 15 bytes, with those
# that the sort works in.
_WINDOW = 300

# The same of all splats at all pixels: the weights, and those of autodiff.
_DENSE = 7

# Rows of the arrays of bands that share a picture, over those of the picture.
_BAND_SLACK = 1.5

# Copies of the train state for each device: the old, the new and the gradient
# on the device; on the host, those on their way there and back.
_DEVICE_STATES = 2.6
_HOST_STATES = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """Peak memory of a fit.

  Attributes:
    host_bytes: of the whole process, CPU devices included.
    device_bytes: on each device that has memory of its own; 0 on CPU.
  """

  host_bytes: int
  device_bytes: int


def estimate_fit(
    height: int,
    width: int,
    channels: int,
    layer_sizes: tuple[int, ...],
    *,
    num_devices: int = 1,
    num_pictures: int = 1,
    platform: str = 'cpu',
    implementation: str | tuple[str, ...] | None = None,
    compiles: bool = False,
    layer_scales: tuple[float, ...] = (),
) -> Estimate:
  """Estimates the peak memory of `encode`, from reading to writing.

  Args:
    height: of a picture, pixels.
    width: of a picture, pixels.
    channels: of a picture.
    layer_sizes: splats per layer.
    num_devices: that share the rows of each picture.
    num_pictures: of this size, fitted at the same time.
    platform: of the devices; other than 'cpu' have memory of their own, where
      no figure was measured yet.
    implementation: of the operator; None is the default of the platform, and
      one that is not known here is taken to cost what `xla` does.
    compiles: Numba's cache is empty, so that it has to compile.
    layer_scales: as in `config.FitConfig`.

  Returns:
    The estimate.

  Example:
    >>> estimate = estimate_fit(1530, 2040, 3, (60000, 20000, 20000))
    >>> round(estimate.host_bytes / 2**20)
    754
  """
  splats = sum(layer_sizes)
  # Here: it loads JAX, which has long been there where a fit is planned.
  from pallas_kernels import dispatch

  kind = implementation or dispatch.default_implementations(platform)
  if isinstance(kind, tuple):  # Tried in order.
    kind = kind[0]
  kind = kind if kind in _BASE else 'xla'
  plane = 4 * height * width * num_pictures
  image = plane * channels
  # Parameters, two moments each, age and activity.
  state = splats * (12 * (5 + channels) + 5)

  # Pixels of all grids / those of the picture.
  grids = sum(scale**2 for scale in {*layer_scales, 1.0})
  # Bands: a copy of the picture, and a weight for every pixel.
  slack = _BAND_SLACK if num_devices > num_pictures else 1.0
  bands = slack * grids * (image + plane)
  step = slack * _PREFIX_IMAGES[kind] * len(layer_sizes) * image
  if kind == 'xla':
    step += num_devices * _CHUNK
  if kind == 'triton':
    step += num_devices * _WINDOW * splats
  if kind == 'reference':
    step += _DENSE * splats * plane
  # What the splats show: bands, all of them on every device, and joined.
  render = slack * image * (num_devices / num_pictures + 2) + image
  # The residual and its two derivatives; the density and the planes of the
  # structure tensor.
  birth = 3 * image + 7 * plane
  # Every prefix at 8 bits, one picture after the other.
  decoded = len(layer_sizes) * image / 4 / num_pictures

  # The picture, and the last render.
  host = _BASE[kind] + (1 + grids) * image + num_devices * _HOST_STATES * state
  devices = bands + num_devices * _DEVICE_STATES * state
  if platform == 'cpu':
    host += devices + max(birth, step, render, decoded)
    each = 0
  else:
    host += bands + max(birth, render, decoded)
    each = (devices + max(step, render)) / num_devices
  if compiles:
    host = max(host, _COMPILING + image + bands)
  return Estimate(host_bytes=round(host), device_bytes=round(each))
