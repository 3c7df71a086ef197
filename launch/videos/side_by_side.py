"""A video of the prefixes of a file beside the original."""

from typing import Self

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from pgsvc_jax import media
from pgsvc_jax import metrics
from pgsvc_jax.video import media as video_media
from pgsvc_jax.video import stream_format

from . import quality as video_quality

_LABEL_HEIGHT = 16


def _label(text: str, width: int) -> np.ndarray:
  """White on black, `[16, W, 3]`."""
  image = Image.new('RGB', (width, _LABEL_HEIGHT))
  font = ImageFont.load_default(11)
  ImageDraw.Draw(image).text((3, 1), text, fill='white', font=font)
  return np.asarray(image)


def _column(
    text: str, image: np.ndarray, height: int, width: int
) -> np.ndarray:
  """A picture under its label; smaller than its room, in the upper left."""
  column = np.zeros((_LABEL_HEIGHT + height, width, 3), np.uint8)
  column[:_LABEL_HEIGHT] = _label(text, width)
  column[_LABEL_HEIGHT:][: image.shape[0], : image.shape[1]] = image
  return column


class Writer:
  """Writes the video; used as a context.

  Args:
    path: of the video; its suffix says the format.
    form: of one picture of the row.
    rates: bits a second of each prefix.
  """

  def __init__(
      self, path: str, form: stream_format.VideoFormat, rates: list[float]
  ):
    self._rates = rates
    # Sides are even, for 4:2:0.
    width = form.width * (len(rates) + 1)
    height = form.height + _LABEL_HEIGHT
    self._padding = ((0, height % 2), (0, width % 2), (0, 0))
    self._file = video_media.VideoWriter(
        path,
        stream_format.VideoFormat(
            width=width + width % 2,
            height=height + height % 2,
            time_base=form.time_base,
            frame_rate=form.frame_rate,
            primaries=form.primaries,
            transfer=form.transfer,
            matrix=form.matrix,
            full_range=form.full_range,
            pixel_aspect=form.pixel_aspect,
        ),
    )

  def __enter__(self) -> Self:
    self._file.__enter__()
    return self

  def __exit__(self, *error: object) -> None:
    self._file.__exit__(*error)

  def write(self, frame: video_quality.Comparison) -> None:
    """Writes a frame: its prefixes, with their PSNR, and the original."""
    figures = map(metrics.psnr_db, frame.images, frame.targets)
    texts = [
        f'{k} of {len(self._rates)} layers, {rate / 1000:.0f} kbit/s, '
        + ('exact' if np.isinf(figure) else f'{figure:.1f} dB')
        for k, (figure, rate) in enumerate(zip(figures, self._rates), 1)
    ]
    images = [*frame.images, media.to_uint8(frame.original)]
    shape = frame.original.shape[:2]
    columns = [
        _column(text, image, *shape)
        for text, image in zip([*texts, 'original'], images, strict=True)
    ]
    row = np.pad(np.concatenate(columns, axis=1), self._padding, 'edge')
    self._file.write(row, frame.time, frame.duration)
