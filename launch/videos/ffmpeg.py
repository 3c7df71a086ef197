"""The ffmpeg program that imageio-ffmpeg installs: anchors and VMAF.

It is a build of its own, with encoders and filters that PyAV lacks; what it
writes is read through `video_media` like any other video.
"""

from fractions import Fraction
import json
import pathlib
import subprocess
import tempfile

# Of a side, pixels: with fewer, libvmaf crashes.
_LEAST_SIDE = 18


def _program() -> str:
  import imageio_ffmpeg  # An extra.

  try:
    return imageio_ffmpeg.get_ffmpeg_exe()
  except RuntimeError as error:
    raise ValueError(f'no ffmpeg: {error}') from error


def run(*arguments: str, folder: str | pathlib.Path = '.') -> str:
  """Runs ffmpeg.

  Args:
    *arguments: what stands after the options that keep it quiet.
    folder: where it runs.

  Returns:
    Its standard output.

  Raises:
    ChildProcessError: it failed; the message is the last it said.
  """
  result = subprocess.run(
      [_program(), '-hide_banner', '-loglevel', 'error', '-nostdin', '-y']
      + list(arguments),
      cwd=folder,
      capture_output=True,
      text=True,
      check=False,
  )
  if result.returncode:
    lines = result.stderr.strip().splitlines() or [f'{result.returncode}']
    raise ChildProcessError(f'ffmpeg: {lines[-1]}')
  return result.stdout


def version() -> str:
  """The version of the program."""
  return run('-version').split()[2]


def raw_input(
    path: str | pathlib.Path, width: int, height: int, rate: Fraction
) -> list[str]:
  """The arguments that read raw 8-bit 4:2:0 frames, BT.709, limited range."""
  return [
      *('-f', 'rawvideo', '-pix_fmt', 'yuv420p'),
      *('-video_size', f'{width}x{height}', '-framerate', str(rate)),
      *('-color_range', 'tv', '-colorspace', 'bt709'),
      *('-i', str(path)),
  ]


def vmaf(
    distorted: pathlib.Path, reference: pathlib.Path, width: int, height: int
) -> list[float | None]:
  """VMAF of each frame, by the model vmaf_v0.6.1.

  Args:
    distorted: raw 4:2:0 frames.
    reference: as many.
    width: even.
    height: even.

  Returns:
    From 0 to 100; None of frames that are too small for it.

  Raises:
    ChildProcessError: it cannot be computed.
  """
  if min(width, height) < _LEAST_SIDE:
    return [None] * (reference.stat().st_size // (width * height * 3 // 2))
  with tempfile.TemporaryDirectory() as folder:
    run(
        *raw_input(distorted.resolve(), width, height, Fraction(25)),
        *raw_input(reference.resolve(), width, height, Fraction(25)),
        *('-lavfi', 'libvmaf=log_fmt=json:log_path=vmaf.json'),
        *('-f', 'null', '-'),
        folder=folder,
    )
    log = json.loads((pathlib.Path(folder) / 'vmaf.json').read_text())
  return [frame['metrics']['vmaf'] for frame in log['frames']]
