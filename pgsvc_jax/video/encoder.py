"""A video to a file: its groups of pictures, one a device at a time.

Groups need nothing from one another, so the file is the same however many
devices and processes there are.
"""

from collections.abc import Callable, Sequence
import dataclasses
import io
from typing import Any, BinaryIO

import jax

import pallas_kernels
from pgsvc_jax import config as config_lib
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.training import schedule
from pgsvc_jax.video import frame_source
from pgsvc_jax.video import stream_format
from pgsvc_jax.video import workers as workers_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resumed:
  """A file is gone on with.

  Attributes:
    num_groups: that it has.
    num_frames: in these.
  """

  num_groups: int
  num_frames: int


def make_header(
    source: frame_source.FrameSource,
    config: config_lib.VideoConfig,
    metadata: bytes = b'',
) -> syntax.VideoHeader:
  """The header of the file that a video is encoded to.

  Args:
    source: the video.
    config: the settings.
    metadata: stored in the header as it is.

  Returns:
    The header, with all that there is to say of the source.
  """
  form = source.format
  names = [x.name for x in dataclasses.fields(stream_format.VideoFormat)]
  sizes, shapes = schedule.finished_layers(
      config.image.fit, form.height, form.width
  )
  return syntax.VideoHeader(
      **{name: getattr(form, name) for name in names},
      channels=source.channels,
      num_layers=len(sizes),
      layer_shapes=shapes,
      metadata=metadata,
  )


def encode_to(
    file: BinaryIO,
    source: frame_source.FrameSource,
    config: config_lib.VideoConfig,
    *,
    metadata: bytes = b'',
    devices: Sequence[jax.Device] | None = None,
    implementation: pallas_kernels.Implementation | None = None,
    report: Callable[[Any], None] | None = None,
    share: workers_lib.Share | None = None,
) -> None:
  """Encodes a video group by group; any decoder plays the file as it grows.

  Args:
    file: to write to, seekable and readable; groups that it has already, of the
      same video and settings, are kept.
    source: the video.
    config: the settings.
    metadata: stored in the header as it is.
    devices: each encodes a group at a time; None: one of them.
    implementation: of the operator; None: the best.
    report: called with `Resumed` where there are groups already, with
      `FrameDone` after every frame, by several threads, and with `GroupDone`
      before a group is written.
    share: of this process among several, of which only process 0 writes to
      `file`.

  Raises:
    ValueError: the file is of another video or other settings; as `encode`.
    DivergenceError: the loss is not finite any more.
  """
  devices = devices or jax.local_devices()[:1]
  report = report or (lambda event: None)
  share = share or workers_lib.Share()
  header = make_header(source, config, metadata)
  workers = workers_lib.Workers(source, config, devices, implementation, report)
  if share.process_id:
    with workers:
      for done in workers.encode(header, share):
        if not share.leave(done, header):  # Process 0 has not waited.
          return
    return
  with workers, _writer(file, header) as writer:
    if writer.num_gops:
      report(Resumed(num_groups=writer.num_gops, num_frames=writer.num_frames))
    for done in workers.encode(
        header, share, writer.num_gops, writer.num_frames
    ):
      report(done)
      group = done.group
      writer.add_gop(
          group.times, done.packets, last_duration=group.last_duration
      )


def _writer(file: BinaryIO, header: syntax.VideoHeader) -> stream.StreamWriter:
  """Begins a file, or goes on with it."""
  if not file.seek(0, io.SEEK_END):
    return stream.StreamWriter(file, header)
  writer = stream.StreamWriter.resume(file)
  if writer.header != header:
    raise ValueError('the file is of another video, or of other settings')
  return writer
