"""What a benchmark works on: named sizes, sweeps, and splats to fill them."""

import dataclasses

import numpy as np

CHANNELS = 3


# What is timed, and what a table calls it; cases.py has the programs.
CASES = {
    'render': 'forward, one prefix',
    'forward': 'forward, all prefixes',
    'backward': 'backward, all prefixes',
    'render_backward': 'forward + backward, one prefix',
    'forward_backward': 'forward + backward, all prefixes',
    'error_gradient': 'error + gradient, all prefixes',
    'train_step': 'train step',
    'step_rest': 'rest of the step',
    'fit': 'whole fit',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
  """A picture and its layers."""

  height: int
  width: int
  layer_sizes: tuple[int, ...]

  @property
  def num_splats(self) -> int:
    """Of all layers."""
    return sum(self.layer_sizes)


SHAPES = {
    'thumbnail': Shape(height=128, width=192, layer_sizes=(300, 100, 100)),
    'kodak-9k': Shape(height=512, width=768, layer_sizes=(5000, 2000, 2000)),
    'hd-50k': Shape(height=1080, width=1920, layer_sizes=(30000, 10000, 10000)),
    '4k-200k': Shape(
        height=2160, width=3840, layer_sizes=(120000, 40000, 40000)
    ),
}


def make_splats(shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Random (means, cholesky, colors), of the sizes that a fit ends with."""
  rng = np.random.default_rng(0)
  n = shape.num_splats
  spread = 0.6 * np.sqrt(shape.height * shape.width / n)
  means = rng.uniform(0, [shape.width, shape.height], (n, 2))
  cholesky = np.stack(
      [
          spread * rng.lognormal(0, 0.4, n),
          spread * rng.normal(0, 0.4, n),
          spread * rng.lognormal(0, 0.4, n),
      ],
      1,
  )
  colors = rng.normal(0.1, 0.2, (n, CHANNELS))
  return (
      means.astype(np.float32),
      cholesky.astype(np.float32),
      colors.astype(np.float32),
  )


def make_target(shape: Shape) -> np.ndarray:
  """A random picture, [H, W, 3]."""
  rng = np.random.default_rng(1)
  return rng.uniform(size=(shape.height, shape.width, CHANNELS)).astype(
      np.float32
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
  """A point of a sweep.

  Attributes:
    sweep: what varies.
    value: of that.
    shape: with it.
    case: what is timed.
    num_devices: that share the work.
  """

  sweep: str
  value: int
  shape: Shape
  case: str = 'error_gradient'
  num_devices: int = 1


def make_sweeps(centre: Shape, num_devices: int) -> list[Point]:
  """Points that vary pixels, splats, layers or devices around a shape.

  The splats cover the picture alike at every point. Up to four times the size,
  so that a plot takes minutes on CPU.
  """
  points = []
  for factor in (0.25, 0.5, 1, 2):
    height, width = (round(factor * x) for x in (centre.height, centre.width))
    shape = dataclasses.replace(centre, height=height, width=width)
    points.append(Point(sweep='pixels', value=height * width, shape=shape))
  for factor in (0.125, 0.25, 0.5, 1, 2, 4):
    sizes = tuple(max(round(factor * x), 1) for x in centre.layer_sizes)
    shape = dataclasses.replace(centre, layer_sizes=sizes)
    points.append(Point(sweep='splats', value=shape.num_splats, shape=shape))
  for layers in (1, 2, 4, 8):
    size, rest = divmod(centre.num_splats, layers)
    sizes = (size + rest, *[size] * (layers - 1))
    shape = dataclasses.replace(centre, layer_sizes=sizes)
    points.append(Point(sweep='layers', value=layers, shape=shape))
  powers = {2**k for k in range(num_devices.bit_length())}
  for n in sorted(powers | {num_devices}):
    points.append(
        Point(
            sweep='devices',
            value=n,
            shape=centre,
            case='train_step',
            num_devices=n,
        )
    )
  return points
