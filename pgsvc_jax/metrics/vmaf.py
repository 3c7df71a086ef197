"""VMAF, by the libvmaf that the ffmpeg of the extra `anchors` has."""

import contextlib
from fractions import Fraction
import json
import pathlib
import tempfile
from typing import Self

import numpy as np

from pgsvc_jax.metrics import metric
from pgsvc_jax.metrics import planes
from pgsvc_jax.video import ffmpeg

# Of a side, pixels: with fewer, libvmaf crashes.
_LEAST_SIDE = 18


class VmafMeter:
  """Writes a clip and its reference as raw 4:2:0 frames, for vmaf_v0.6.1.

  Figures are from 0 to 100; None where frames are too small for it. All frames
  have one size.

  Raises:
    ChildProcessError: ffmpeg failed.
    ModuleNotFoundError: it is not installed.
  """

  def __enter__(self) -> Self:
    ffmpeg.version()  # Missing, it is missed now and not at the end.
    self._stack = contextlib.ExitStack()
    self._folder = pathlib.Path(
        self._stack.enter_context(tempfile.TemporaryDirectory())
    )
    names = ('distorted.yuv', 'reference.yuv')
    self._files = [
        self._stack.enter_context(open(self._folder / name, 'wb'))
        for name in names
    ]
    self._count, self._shape = 0, (0, 0)
    return self

  def __exit__(self, *error: object) -> None:
    self._stack.close()

  def add(self, image: np.ndarray, reference: np.ndarray) -> None:
    """Takes a frame, RGB, uint8 or in [0, 1], and its reference."""
    self._count, self._shape = self._count + 1, image.shape[:2]
    for file, pixels in zip(self._files, (image, reference)):
      file.write(planes.yuv420_bytes(pixels))

  def figures(self) -> list[float | None]:
    """Of every frame."""
    height, width = (side + side % 2 for side in self._shape)
    if min(width, height) < _LEAST_SIDE:
      return [None] * self._count
    for file in self._files:
      file.flush()
    ffmpeg.run(
        *(
            word
            for file in self._files
            for word in ffmpeg.raw_input(file.name, width, height, Fraction(25))
        ),
        *('-lavfi', 'libvmaf=log_fmt=json:log_path=vmaf.json'),
        *('-f', 'null', '-'),
        folder=self._folder,
    )
    log = json.loads((self._folder / 'vmaf.json').read_text())
    return [frame['metrics']['vmaf'] for frame in log['frames']]


METRICS = (
    metric.Metric(
        name='vmaf',
        title='VMAF',
        clip_meter=VmafMeter,
        is_for_pictures=False,
        on_request=True,
        order=4,
    ),
)
