"""What a metric is, and what all of them share."""

from collections.abc import Callable
import dataclasses
from typing import Protocol, Self

from jaxtyping import Float
import numpy as np

Figure = float | None


class Meter(Protocol):
  """Takes the frames of a clip, one at a time; used as a context."""

  def __enter__(self) -> Self:
    ...

  def __exit__(self, *error: object) -> None:
    ...

  def add(self, image: np.ndarray, reference: np.ndarray) -> None:
    """Takes a frame: `[H, W, C]`, uint8 or in [0, 1], and its reference."""

  def figures(self) -> list[Figure]:
    """The figure of every frame so far."""


class _FrameMeter:
  """Applies a function of one picture to each frame."""

  def __init__(self, function: Callable[[np.ndarray, np.ndarray], Figure]):
    self._function = function
    self._figures = []

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    pass

  def add(self, image: np.ndarray, reference: np.ndarray) -> None:
    value = self._function(image, reference)
    # JSON has no infinity, which is the PSNR of equal pictures.
    self._figures.append(
        None if value is None or np.isinf(value) else float(value)
    )

  def figures(self) -> list[Figure]:
    return self._figures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
  """A figure that says how close a picture or clip is to its reference.

  It needs either one picture at a time (`function`) or whole clips
  (`clip_meter`).

  Attributes:
    name: in JSON documents, such as `psnr_db`.
    title: for people, such as `PSNR`.
    unit: `dB`, or nothing.
    digits: behind the decimal point.
    function: from a picture and its reference, `[H, W, C]`, uint8 or in [0, 1];
      None or infinity where there is no figure.
    clip_meter: makes what takes the frames of a clip.
    higher_is_better: of two figures.
    is_for_pictures: whether it is measured of pictures, and not only of videos.
    on_request: whether it is measured only where it is asked for by name.
    has_curve: whether reports draw it over the rate and give BD-rates of it.
    spread: from a figure to its place on an axis and in BD-rates; increasing.
    ticks: of that axis, as figures; empty: chosen by the plot.
    order: of columns and plots.
  """

  name: str
  title: str
  unit: str = ''
  digits: int = 2
  function: Callable[[np.ndarray, np.ndarray], Figure] | None = None
  clip_meter: Callable[[], Meter] | None = None
  higher_is_better: bool = True
  is_for_pictures: bool = True
  on_request: bool = False
  has_curve: bool = True
  spread: Callable[[float], float] | None = None
  ticks: tuple[float, ...] = ()
  order: int = 100

  def meter(self) -> Meter:
    """Makes what measures one clip, or one picture as a clip of one frame."""
    if self.clip_meter:
      return self.clip_meter()
    return _FrameMeter(self.function)

  @property
  def label(self) -> str:
    """Title and unit."""
    return f'{self.title}, {self.unit}' if self.unit else self.title

  def format(self, figure: Figure) -> str:
    """The figure with its digits; `-` where there is none."""
    return '-' if figure is None else f'{figure:.{self.digits}f}'

  def place(self, figure: Figure) -> Figure:
    """Where a figure stands on an axis; None where it stands nowhere."""
    if figure is None or not self.spread:
      return figure
    place = self.spread(figure)
    return place if np.isfinite(place) else None


def comparable(
    image: np.ndarray, reference: np.ndarray
) -> tuple[Float[np.ndarray, '...'], Float[np.ndarray, '...']]:
  """Returns both as float64 in [0, 1], which E[x^2] - E[x]^2 needs.

  Raises:
    ValueError: the shapes differ.
  """
  if np.shape(image) != np.shape(reference):
    raise ValueError(
        f'shapes differ: {np.shape(image)} and {np.shape(reference)}'
    )
  pair = np.asarray(image), np.asarray(reference)
  # Codes of 8 bits equal what float32 has of the same codes.
  exact = np.float32 if np.float32 in (x.dtype for x in pair) else np.float64
  x, y = (
      (np.divide(v, 255, dtype=exact) if v.dtype == np.uint8 else v).astype(
          np.float64
      )
      for v in pair
  )
  return x, y
