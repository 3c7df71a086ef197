"""Writes the splats of a .pgsvc file for other programs: arrays of NumPy.

pgsvc export FILE.pgsvc --npz=SPLATS.npz [--layers=K] [--frame=N]

The arrays: means [n, 2] (x, y; pixels of the whole picture, the centre of the
first one at 0.5, 0.5), cholesky [n, 3] (l11, l21, l22 of the covariance),
colors [n, c], layer_sizes [l], size (width, height) and native_sizes [l, 2].
"""

import io
import pathlib

from absl import flags
import numpy as np

from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import stream
from pgsvc_jax.video import playback

from . import command

_INPUT = flags.DEFINE_string('input', None, 'a .pgsvc file', required=True)
_NPZ = flags.DEFINE_string('npz', None, 'the file to write', required=True)
_LAYERS = flags.DEFINE_integer(
    'layers', None, 'layers to write, the base counted; default: all there are'
)
_FRAME = flags.DEFINE_string(
    'frame', None, 'of a video: the frame (48) or its time (2.5s)'
)


def main() -> None:
  """Decodes, and writes."""
  is_video = command.holds_video(_INPUT.value)
  if is_video != (_FRAME.value is not None):
    hint = (
        'a video: --frame=N says which' if is_video else 'a picture: no --frame'
    )
    raise ValueError(f'{_INPUT.value} is {hint}')
  command.check_output(_NPZ.value)
  with command.about(_INPUT.value):
    layered = _frame() if is_video else _picture()
  out = io.BytesIO()
  np.savez_compressed(out, **arrays(layered))
  command.write_bytes(_NPZ.value, out.getvalue())


def _picture() -> types.LayeredSplats:
  data = pathlib.Path(_INPUT.value).read_bytes()
  return bitstream.read_layers(data, _LAYERS.value)


def _frame() -> types.LayeredSplats:
  with open(_INPUT.value, 'rb') as file:
    reader = stream.StreamReader(file)
    index = playback.frame_at(reader, _FRAME.value)
    (frame,) = playback.frames(
        reader, num_layers=_LAYERS.value, first_frame=index, num_frames=1
    )
  return frame.layered


def arrays(layered: types.LayeredSplats) -> dict[str, np.ndarray]:
  """What the file holds, by name."""
  return {
      **layered.splats._asdict(),
      'layer_sizes': np.array(layered.layer_sizes),
      'size': np.array([layered.width, layered.height]),
      'native_sizes': np.array([x[::-1] for x in layered.native_shapes]),
  }


if __name__ == '__main__':
  command.run(main, paths=('input', 'npz'))
