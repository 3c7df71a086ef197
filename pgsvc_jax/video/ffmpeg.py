"""The ffmpeg program that imageio-ffmpeg installs, for anchors and VMAF.

It is a build of its own, with encoders and filters that PyAV lacks; what it
writes is read like any other video.
"""

from fractions import Fraction
import importlib.util
import pathlib
import subprocess


def is_installed() -> bool:
  """Whether there is such a program."""
  return importlib.util.find_spec('imageio_ffmpeg') is not None


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
