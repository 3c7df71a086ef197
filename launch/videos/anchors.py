"""Video codecs as anchors, through the ffmpeg of imageio-ffmpeg.

Encoders get the frames as they were measured, as 8-bit 4:2:0 (BT.709, limited
range, chroma the mean of 2 x 2 pixels): that is what they are made for, and
SVT-AV1 takes nothing else. What they write is read back like any other video
and compared as RGB at 8 bits; the PSNR of 4:2:0 planes, which halving chroma
costs nothing, is measured beside it.

Bytes are those of the coded packets and of the parameter sets (in the form that
MP4 keeps them in); neither container nor the text in which x264 and x265 name
their options counts.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from fractions import Fraction
import pathlib

from jaxtyping import Float
import lazy_loader
import numpy as np

from pgsvc_jax import media
from pgsvc_jax import metrics
from pgsvc_jax.video import ffmpeg
from pgsvc_jax.video import media as video_media

from . import quality as video_quality

av = lazy_loader.load('av')

# Longer than any clip: an I-frame only at the start and where the encoder sees
# a cut.
_NO_GOP = 9999


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoCodec:
  """An encoder and the points of its curve.

  Attributes:
    title: its name for people.
    varies: what a setting is.
    settings: from the lowest rate to high quality.
    options: of ffmpeg, for a setting and frames between I-frames at most.
    note: the options in words.
    sets_apart: whether parameter sets stand outside the packets only.
  """

  title: str
  varies: str
  settings: tuple[int, ...]
  options: Callable[[int, int], list[str]]
  note: str
  sets_apart: bool


def _x264(crf: int, gop: int) -> list[str]:
  return [
      *('-c:v', 'libx264', '-preset', 'medium', '-tune', 'psnr'),
      *('-crf', f'{crf}', '-x264-params', f'keyint={gop}:open-gop=0'),
      # The text is a message of type 6.
      *('-bsf:v', 'filter_units=remove_types=6'),
  ]


def _x265(crf: int, gop: int) -> list[str]:
  return [
      *('-c:v', 'libx265', '-preset', 'medium', '-tune', 'psnr'),
      *('-crf', f'{crf}'),
      '-x265-params',
      f'keyint={gop}:open-gop=0:info=0:log-level=error',
  ]


def _svt_av1(crf: int, gop: int) -> list[str]:
  return [
      *('-c:v', 'libsvtav1', '-preset', '6', '-crf', f'{crf}'),
      *('-svtav1-params', f'keyint={gop}:tune=1:irefresh-type=2'),
  ]


def _vvenc(qp: int, gop: int) -> list[str]:
  return [
      *('-c:v', 'libvvenc', '-preset', 'faster', '-qpa', '0', '-qp', f'{qp}'),
      *('-vvenc-params', f'intraperiod={gop}:decodingrefreshtype=idr'),
  ]


CODECS = {
    'x264': VideoCodec(
        title='x264',
        varies='CRF',
        settings=(50, 44, 38, 33, 28, 23, 18),
        options=_x264,
        note='H.264, preset medium, tune psnr',
        sets_apart=True,
    ),
    'x265': VideoCodec(
        title='x265',
        varies='CRF',
        settings=(50, 44, 38, 33, 28, 23, 18),
        options=_x265,
        note='HEVC, preset medium, tune psnr',
        sets_apart=True,
    ),
    'svt_av1': VideoCodec(
        title='SVT-AV1',
        varies='CRF',
        settings=(63, 57, 50, 42, 35, 27, 18),
        options=_svt_av1,
        note='AV1, preset 6, tune 1 (PSNR)',
        sets_apart=False,
    ),
    'vvenc': VideoCodec(
        title='VVenC',
        varies='QP',
        settings=(50, 45, 40, 35, 30, 25),
        options=_vvenc,
        note='VVC, preset faster, no perceptual adaptation, 10 bits',
        sets_apart=False,
    ),
}
DEFAULT = ('x264', 'x265', 'svt_av1')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
  """What the encoders get.

  Attributes:
    path: raw frames, 4:2:0.
    width: of the frames compared; the raw ones have even sides.
    height: of the frames compared.
    rate: frames a second.
    seconds: how long it lasts.
    originals: gives the frames compared with.
  """

  path: pathlib.Path
  width: int
  height: int
  rate: Fraction
  seconds: float
  originals: Callable[[], Iterator[Float[np.ndarray, 'h w 3']]]

  @property
  def raw_size(self) -> tuple[int, int]:
    """Width and height of the raw frames."""
    return self.width + self.width % 2, self.height + self.height % 2


def describe(name: str, gop: int | None) -> dict:
  """What the figures of a codec depend on: title, options, versions."""
  codec = CODECS[name]
  limit = f'an I-frame every {gop} frames at least' if gop else 'any GOP'
  return {
      'title': f'{codec.title}, GOP {gop}' if gop else codec.title,
      'varies': codec.varies,
      'note': f'{codec.note}, 8-bit 4:2:0 in, {limit}',
      'version': f'ffmpeg {ffmpeg.version()}',
  }


def encode(
    name: str, setting: int, gop: int | None, clip: Clip, output: pathlib.Path
) -> int:
  """Encodes a clip into MP4.

  Args:
    name: of CODECS.
    setting: of the codec's.
    gop: frames between I-frames at most; None: no limit.
    clip: what is encoded.
    output: the file to write.

  Returns:
    Its bytes without those of the container.

  Raises:
    ChildProcessError: the encoder failed.
  """
  codec = CODECS[name]
  ffmpeg.run(
      *ffmpeg.raw_input(clip.path, *clip.raw_size, clip.rate),
      *codec.options(setting, gop or _NO_GOP),
      *('-color_primaries', 'bt709', '-color_trc', 'bt709'),
      *('-colorspace', 'bt709', '-color_range', 'tv'),
      *('-f', 'mp4', str(output)),
  )
  with av.open(str(output)) as container:
    stream = container.streams.video[0]
    num_bytes = sum(packet.size for packet in container.demux(stream))
    if codec.sets_apart:
      num_bytes += len(stream.codec_context.extradata or b'')
  return num_bytes


def measure(
    name: str,
    setting: int,
    gop: int | None,
    clip: Clip,
    measured: Sequence[metrics.Metric],
) -> dict:
  """One point of a codec's curve.

  Args:
    name: of CODECS.
    setting: of the codec's.
    gop: frames between I-frames at most; None: no limit.
    clip: what is encoded and compared with.
    measured: what is measured.

  Returns:
    {setting, bytes, bpp, bits_per_second}, means of the figures, and per_frame.

  Raises:
    ChildProcessError: ffmpeg failed.
    ValueError: what comes back has another number of frames.
  """
  coded = clip.path.with_name('anchor.mp4')
  num_bytes = encode(name, setting, gop, clip, coded)
  with (
      video_media.open_video(coded) as video,
      metrics.Scores(measured) as found,
  ):
    # Strict: an encoder that drops frames would look good.
    for frame, original in zip(video, clip.originals(), strict=True):
      pixels = frame.pixels[: clip.height, : clip.width]
      found.add(media.to_uint8(pixels), original)
    rows = found.rows()
  return {
      'setting': setting,
      'bytes': num_bytes,
      'bpp': 8 * num_bytes / (clip.width * clip.height * len(rows)),
      'bits_per_second': 8 * num_bytes / clip.seconds,
  } | video_quality.summary(rows)
