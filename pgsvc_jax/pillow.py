"""Pillow opens .pgsvc pictures once this module is imported.

>>> import io
>>> import numpy as np
>>> from PIL import Image
>>> import pgsvc_jax
>>> import pgsvc_jax.pillow
>>> splats = pgsvc_jax.Splats(
...     np.float32([[2, 1]] * 2), np.float32([[1, 0, 1]] * 2),
...     np.float32([[0.5]] * 2))
>>> layered = pgsvc_jax.LayeredSplats(
...     splats=splats, layer_sizes=(1, 1), height=2, width=4)
>>> data = pgsvc_jax.write(layered, pgsvc_jax.StepSizes())
>>> image = Image.open(io.BytesIO(data))
>>> image.mode, image.size, image.layers
('L', (4, 2), 2)
>>> brightest = image.getextrema()[1]
>>> image.layers = 1
>>> 0 < image.getextrema()[1] < brightest
True

A cut file opens with the layers that are whole. Reading alone: encoding takes
more than Pillow's `save` has words for.
"""

from PIL import Image
from PIL import ImageFile

from pgsvc_jax import decoder
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import syntax

_FORMAT = 'PGSVC'
_MODES = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}


def _accept(prefix: bytes) -> bool:
  start = len(syntax.MAGIC)
  return (
      prefix.startswith(syntax.MAGIC)
      and prefix[start : start + 1] != b''
      and prefix[start] not in syntax.VIDEO_VERSIONS
  )


class PgsvcImageFile(ImageFile.ImageFile):
  """A picture in layers: `layers`, of the whole ones, are shown."""

  format = _FORMAT
  format_description = 'Layered 2D Gaussian splats'

  def _open(self) -> None:
    self._data = self.fp.read()
    try:
      self._header = bitstream.read_header(self._data)
      self._available = self._header.available_layers(len(self._data))
    except syntax.BitstreamError as error:
      # What Pillow raises for other broken files.
      raise OSError(f'this .pgsvc file is damaged: {error}') from error
    if not self._available:
      raise OSError('this .pgsvc file ends inside its base layer')
    self._show(self._available)
    self._mode = _MODES[self._header.channels]
    self.info['layers'] = self._available
    # It decodes by itself.
    self.tile = []

  def _show(self, layers: int) -> None:
    height, width = self._header.shown_shape(len(self._data), layers)
    self._layers = layers
    self._size = width, height
    self._shown = None

  @property
  def layers(self) -> int:
    """Layers that are shown; set it to show fewer, or more again.

    The size is that of the highest one, which may be smaller than the picture.
    """
    return self._layers

  @layers.setter
  def layers(self, layers: int) -> None:
    if not 1 <= layers <= self._available:
      raise ValueError(f'{layers} layers asked for, of {self._available}')
    if layers != self._layers:
      self._show(layers)

  def load(self):
    """Decodes what is to be shown, unless that was done."""
    if self._shown != self._layers:
      try:
        pixels = decoder.decode(self._data, self._layers)
      except syntax.BitstreamError as error:
        raise OSError(f'this .pgsvc file is damaged: {error}') from error
      if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
      self.im = Image.fromarray(pixels, self.mode).im
      self._shown = self._layers
      if self.fp is not None and self._exclusive_fp:
        self.fp.close()
        self.fp = None
    return super().load()


Image.register_open(_FORMAT, PgsvcImageFile, _accept)
Image.register_extension(_FORMAT, '.pgsvc')
Image.register_mime(_FORMAT, 'image/x-pgsvc')
