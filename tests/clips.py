"""Small clips made for tests: what is in them is known exactly."""

from fractions import Fraction

import av
import numpy as np


def moving(num_frames=8, width=64, height=48, shift=(3, 1), seed=0):
  """A smooth pattern that moves by `shift` (x, y) pixels a frame.

  Args:
    num_frames: how many.
    width: in pixels.
    height: in pixels.
    shift: motion, in pixels a frame; may be fractions.
    seed: of the pattern.

  Returns:
    uint8 [T, H, W, 3].
  """
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width]
  frames = np.zeros((num_frames, height, width, 3))
  for _ in range(6):
    frequency = rng.uniform(-0.25, 0.25, 2)
    phase = rng.uniform(0, 2 * np.pi, 3)
    amplitude = rng.uniform(5, 20)
    for t in range(num_frames):
      along = frequency[0] * (x - shift[0] * t) + frequency[1] * (
          y - shift[1] * t
      )
      frames[t] += amplitude * np.sin(along[..., None] + phase)
  return np.rint(128 + frames).clip(0, 255).astype(np.uint8)


def with_cut(num_frames=8, cut=4, **options):
  """Two scenes; the second begins at frame `cut`. uint8 [T, H, W, 3]."""
  scenes = [moving(num_frames, seed=seed, **options) for seed in (0, 1)]
  return np.concatenate([scenes[0][:cut], 255 - scenes[1][cut:]])


def irregular_times(num_frames=8, seed=0):
  """Times of a variable frame rate, in ticks: increasing, from 0."""
  steps = np.random.default_rng(seed).integers(1, 90, num_frames - 1)
  return [0, *(int(t) for t in np.cumsum(steps))]


def write(
    path,
    frames,
    *,
    codec='libx264',
    pixel_format='yuv444p',
    options=(('crf', '1'), ('bf', '0')),
    container=None,
    container_options=(),
    time_base=Fraction(1, 25),
    rate=Fraction(25),
    times=None,
    tags=(2, 2, 2, 0),
    pixel_aspect=None,
    rotation=None,
    flags=0,
):
  """Writes a clip by PyAV alone, to test readers with.

  Args:
    path: the file.
    frames: uint8 [T, H, W, 3], or a list of `av.VideoFrame` in `pixel_format`.
    codec: FFmpeg's name.
    pixel_format: FFmpeg's name.
    options: of the codec.
    container: FFmpeg's name; None for what the suffix says.
    container_options: of the container.
    time_base: seconds a tick.
    rate: nominal, in frames a second.
    times: of the frames, in ticks; None for 0, 1, 2, ...
    tags: primaries, transfer, matrix, range as FFmpeg counts them.
    pixel_aspect: width by height of a pixel.
    rotation: to be applied by players: (degrees, flip x, flip y).
    flags: of the codec, by `av.codec.context.Flags`.
  """
  times = range(len(frames)) if times is None else times
  with av.open(
      str(path), 'w', format=container, options=dict(container_options)
  ) as output:
    stream = output.add_stream(codec, rate=rate, options=dict(options))
    first = frames[0]
    if isinstance(first, av.VideoFrame):
      stream.width, stream.height = first.width, first.height
    else:
      stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = pixel_format
    stream.time_base = time_base
    context = stream.codec_context
    context.time_base = time_base
    context.flags |= flags
    context.color_primaries, context.color_trc = tags[:2]
    context.colorspace, context.color_range = tags[2:]
    if pixel_aspect is not None:
      context.sample_aspect_ratio = pixel_aspect
    if rotation is not None:
      degrees, flip_x, flip_y = rotation
      stream.set_display_rotation(degrees, hflip=flip_x, vflip=flip_y)
    for frame, time in zip(frames, times):
      if not isinstance(frame, av.VideoFrame):
        frame = av.VideoFrame.from_ndarray(frame, format='rgb24')
        frame = frame.reformat(format=pixel_format)
      frame.pts, frame.time_base = time, time_base
      output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
