"""A group of pictures <-> one packet a layer: the splats of its frames.

The first frame (I) is born from nothing; every later one (P) moves the splats
of the frame before by a motion field, lets some die, changes some by whole
steps of the lattice that each splat was born with (`lattice.py`), and gives
birth to others. A layer is predicted from itself alone, but for the motion
field, which stands in the base layer: so any prefix of layers decodes without
the others, and what the encoder has seen is what every decoder sees.

What contexts have learned lives on from frame to frame. `docs/format_video.md`
is the specification.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import io
import struct
from typing import NamedTuple

from jaxtyping import Bool, Int
import numpy as np

from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import lattice as lattice_lib
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import quantized
from pgsvc_jax.codec import range_coder
from pgsvc_jax.codec import splat_coding
from pgsvc_jax.codec import syntax
from pgsvc_jax.video import motion

# Step sizes, and log2 of the pixels across a block.
_HEAD = struct.Struct('<HHHHB')
# Nothing that a splat has changes by more steps in a frame.
_CHANGE_LIMIT = 2**30


class Update(NamedTuple):
  """What a frame does to the n splats of a layer, after they were moved.

  Attributes:
    dead: which of them are no more.
    changes: of the points of the m others, in steps.
    born: splats, in the order of `splat_coding.sort`.
  """

  dead: Bool[np.ndarray, ' n']
  changes: Int[np.ndarray, 'm k']
  born: quantize.Symbols


class Layer(NamedTuple):
  """The splats of a layer in one frame.

  Attributes:
    points: as in `lattice.py`.
    lattice: their steps.
    changed: sum of the last changes of each, in steps.
  """

  points: Int[np.ndarray, 'n k']
  lattice: lattice_lib.Lattice
  changed: Int[np.ndarray, ' n']


def empty_layer(channels: int) -> Layer:
  """A layer before its first frame.

  Example:
    >>> empty_layer(3).points.shape
    (0, 8)
  """
  none = np.zeros(0, np.int64)
  return Layer(
      points=np.zeros((0, lattice_lib.COLORS + channels), np.int64),
      lattice=lattice_lib.Lattice(none, none, np.zeros((0, 2), np.int64)),
      changed=none,
  )


def apply(
    layer: Layer, update: Update, step_sizes: quantize.StepSizes
) -> Layer:
  """The layer after an update.

  Raises:
    ValueError: a splat leaves the range of what it can be.
  """
  alive = ~update.dead
  survivors = lattice_lib.Lattice(*(x[alive] for x in layer.lattice))
  points = layer.points[alive] + update.changes
  lattice_lib.check(points, survivors, step_sizes)
  quantize.check(update.born, step_sizes)
  new_points, new_lattice = lattice_lib.from_symbols(update.born, step_sizes)
  return Layer(
      points=np.concatenate([points, new_points]),
      lattice=lattice_lib.Lattice(
          *map(np.concatenate, zip(survivors, new_lattice, strict=True))
      ),
      changed=np.concatenate(
          [np.abs(update.changes).sum(axis=1), np.ones(len(new_points), int)]
      ),
  )


class _Writer:
  """Codes columns; see `_Reader`."""

  def __init__(self, statistics: range_coder.Statistics):
    self.statistics = statistics
    self.coder = range_coder.Encoder()

  def column(self, name, contexts, values):
    self.coder.column(values, contexts, self.statistics, name)
    return values

  def splats(self, count, origin, channels, step_sizes, symbols):
    splat_coding.encode_columns(
        self.coder, symbols, origin, step_sizes, self.statistics
    )
    return symbols

  def finish(self, least: int) -> bytes:
    return self.coder.finish().ljust(least, b'\0')


class _Reader:
  """Reads the columns that `_Writer` codes: one description serves both."""

  def __init__(self, statistics: range_coder.Statistics, data: bytes):
    self.statistics = statistics
    self.coder = range_coder.Decoder(data)
    self.size = len(data)

  def column(self, name, contexts, values=None):
    return self.coder.column(contexts, self.statistics, name)

  def splats(self, count, origin, channels, step_sizes, symbols=None):
    if count > splat_coding.SPLATS_PER_BYTE * self.size:
      raise ValueError(f'{count} splats in {self.size} bytes')
    return splat_coding.decode_columns(
        self.coder, count, origin, channels, step_sizes, self.statistics
    )


def _code_update(
    coder: _Writer | _Reader,
    layer: Layer,
    step_sizes: quantize.StepSizes,
    channels: int,
    update: Update | None = None,
) -> Update:
  """Writes an update, or reads one if there is none."""
  given = update is not None
  dead = coder.column(
      'dead',
      np.minimum(layer.lattice.precision >> 2, 3),
      update.dead.astype(np.int64) if given else None,
  ).astype(bool)
  alive = ~dead
  changed = layer.changed[alive]

  # What did not change in the frame before, rarely does in this one.
  still = coder.column(
      'still',
      np.minimum(quantize.bit_lengths(changed), 3),
      (update.changes == 0).all(axis=1).astype(np.int64) if given else None,
  )
  moves = still == 0
  moving = np.zeros((int(moves.sum()), layer.points.shape[1]), np.int64)
  # Splats that changed much in one number did so in others.
  total = np.zeros(len(moving), np.int64)
  for k in range(moving.shape[1]):
    moving[:, k] = coder.column(
        f'change {k}',
        np.minimum(quantize.bit_lengths(total), 3),
        update.changes[moves, k] if given else None,
    )
    if (np.abs(moving[:, k]) > _CHANGE_LIMIT).any():
      raise ValueError('change out of range')
    total += np.abs(moving[:, k])
  changes = np.zeros((len(changed), layer.points.shape[1]), np.int64)
  changes[moves] = moving

  first = np.zeros(1, np.int64)
  born = update.born if given else None
  counts = coder.column(
      'births', first, np.array([len(born.classes)]) if given else None
  )
  count = int(counts[0])
  if count < 0:
    raise ValueError('a negative number of splats')
  if not count:
    return Update(dead, changes, quantize.zeros(0, channels))
  origin = None
  if given:
    cells = born.positions >> quantize.cell_bits(born, step_sizes)
    origin = cells.min(axis=0)
  origin = coder.column('origin', np.array([0, 1]), origin)
  if (np.abs(origin) > quantize.CELL_LIMIT).any():
    raise ValueError('origin out of range')
  born = coder.splats(count, origin, channels, step_sizes, born)
  return Update(dead, changes, born)


def _code_field(
    coder: _Writer | _Reader,
    shape: tuple[int, int],
    vectors: Int[np.ndarray, 'rows cols 2'] | None = None,
) -> Int[np.ndarray, 'rows cols 2'] | None:
  """Writes or reads the motion field; None where nothing moves."""
  given = isinstance(coder, _Writer)
  values = np.array([int(vectors is not None)]) if given else None
  (moves,) = coder.column('moves', np.zeros(1, np.int64), values)
  if not moves:
    return None
  return motion.code(
      lambda contexts, values: coder.column('vector', contexts, values),
      shape,
      vectors,
  )


def _move(
    layer: Layer,
    step_sizes: quantize.StepSizes,
    vectors: Int[np.ndarray, 'rows cols 2'] | None,
    log2_block: int,
) -> Layer:
  if vectors is None or not len(layer.points):
    return layer
  points = motion.move(
      layer.points, layer.lattice, step_sizes, vectors, log2_block
  )
  return layer._replace(points=points)


class GopEncoder:
  """Codes the frames of one group, and knows what a decoder would see.

  For each frame: `move` (not for the first), then `add`.

  Attributes:
    layers: as they stand after the last call.
    step_sizes: of each layer.
  """

  def __init__(
      self,
      step_sizes: Sequence[quantize.StepSizes],
      *,
      height: int,
      width: int,
      channels: int,
      log2_block: int = 4,
  ):
    self.step_sizes = tuple(step_sizes)
    self.layers = [empty_layer(channels) for _ in step_sizes]
    self._channels = channels
    self._log2_block = log2_block
    self._shape = motion.field_shape(height, width, log2_block)
    self._statistics = [range_coder.Statistics() for _ in step_sizes]
    self._payloads = [[] for _ in step_sizes]
    self._vectors = None

  def move(self, vectors: Int[np.ndarray, 'rows cols 2'] | None) -> None:
    """Moves all splats by the field of the next frame (`motion.py`)."""
    if vectors is not None and not vectors.any():
      vectors = None
    self._vectors = vectors
    self.layers = [
        _move(layer, steps, vectors, self._log2_block)
        for layer, steps in zip(self.layers, self.step_sizes)
    ]

  def add(self, updates: Sequence[Update]) -> None:
    """Codes a frame: the update of each layer."""
    for k, update in enumerate(updates):
      writer = _Writer(self._statistics[k])
      # Empty before the first frame: there is nothing to move.
      if k == 0 and self._payloads[0]:
        _code_field(writer, self._shape, self._vectors)
      steps = self.step_sizes[k]
      _code_update(writer, self.layers[k], steps, self._channels, update)
      least = -(-len(update.born.classes) // splat_coding.SPLATS_PER_BYTE)
      self._payloads[k].append(writer.finish(least))
      self.layers[k] = apply(self.layers[k], update, steps)
    self._vectors = None

  @property
  def sizes(self) -> list[list[int]]:
    """Bytes of each frame so far, of every layer."""
    return [list(map(len, payloads)) for payloads in self._payloads]

  def packets(self) -> list[bytes]:
    """The packet of each layer."""
    return [
        _HEAD.pack(*dataclasses.astuple(steps), self._log2_block)
        + b''.join(syntax.pack_varint(len(x)) for x in payloads)
        + b''.join(payloads)
        for steps, payloads in zip(self.step_sizes, self._payloads)
    ]


def layered(
    layers: Sequence[Layer],
    step_sizes: Sequence[quantize.StepSizes],
    height: int,
    width: int,
) -> types.LayeredSplats:
  """The splats of a frame, to be rendered."""
  splats = [
      lattice_lib.splats(layer.points, layer.lattice, steps)
      for layer, steps in zip(layers, step_sizes)
  ]
  return types.LayeredSplats(
      splats=types.Splats(*map(np.concatenate, zip(*splats, strict=True))),
      layer_sizes=tuple(len(layer.points) for layer in layers),
      height=height,
      width=width,
  )


@dataclasses.dataclass(frozen=True)
class _Packet:
  """A packet, cut into its frames.

  Attributes:
    step_sizes: of the layer.
    log2_block: of the motion field.
    payloads: of the frames.
  """

  step_sizes: quantize.StepSizes
  log2_block: int
  payloads: list[bytes]


def _cut(packet: bytes, num_frames: int) -> _Packet:
  """Raises ValueError where the packet is not made of so many frames."""
  if len(packet) < _HEAD.size:
    raise ValueError('packet ends inside its head')
  *steps, log2_block = _HEAD.unpack_from(packet)
  if not motion.MIN_LOG2_BLOCK <= log2_block <= motion.MAX_LOG2_BLOCK:
    raise ValueError(f'bad size of blocks {log2_block}')
  file = io.BytesIO(packet)
  file.seek(_HEAD.size)
  sizes = [syntax.read_varint(file) for _ in range(num_frames)]
  position = file.tell()
  if sum(sizes) != len(packet) - position:
    raise ValueError('packet is not as long as its frames')
  payloads = []
  for size in sizes:
    payloads.append(packet[position : position + size])
    position += size
  names = (field.name for field in dataclasses.fields(quantize.StepSizes))
  step_sizes = quantize.StepSizes(**dict(zip(names, steps, strict=True)))
  return _Packet(step_sizes, log2_block, payloads)


def frame_sizes(packet: bytes, num_frames: int) -> list[int]:
  """Bytes of each frame in a packet, without its head.

  Raises:
    ValueError: the packet is not made of so many frames.
  """
  return [len(payload) for payload in _cut(packet, num_frames).payloads]


def decode_gop(
    packets: Sequence[bytes],
    *,
    num_frames: int,
    height: int,
    width: int,
    channels: int,
) -> Iterator[types.LayeredSplats]:
  """Decodes the frames of a group, one after the other.

  Args:
    packets: of the first layers.
    num_frames: of the group.
    height: of the frames, pixels.
    width: of the frames, pixels.
    channels: colors a splat.

  Yields:
    The splats of each frame.

  Raises:
    BitstreamError: a packet is damaged; the message names its layer.
  """
  cut = []
  for k, packet in enumerate(packets):
    with _damage(f'layer {k}: packet is damaged'):
      cut.append(_cut(packet, num_frames))
  step_sizes = [packet.step_sizes for packet in cut]
  statistics = [range_coder.Statistics() for _ in cut]
  layers = [empty_layer(channels) for _ in cut]
  log2_block = cut[0].log2_block
  shape = motion.field_shape(height, width, log2_block)
  for frame in range(num_frames):
    vectors = None
    for k, packet in enumerate(cut):
      with _damage(f'layer {k}: packet is damaged in frame {frame}'):
        reader = _Reader(statistics[k], packet.payloads[frame])
        if k == 0 and frame:
          vectors = _code_field(reader, shape)
        moved = _move(layers[k], step_sizes[k], vectors, log2_block)
        update = _code_update(reader, moved, step_sizes[k], channels)
        reader.coder.finish()
        layers[k] = apply(moved, update, step_sizes[k])
    yield layered(layers, step_sizes, height, width)


@contextlib.contextmanager
def _damage(where: str) -> Iterator[None]:
  """Says where a packet is damaged."""
  try:
    yield
  except ValueError as error:
    raise bitstream.BitstreamError(f'{where} ({error})') from None


def births(
    symbols: quantize.Symbols, step_sizes: quantize.StepSizes, num_dead: int = 0
) -> Update:
  """The update of a layer that ends all its splats and begins with these."""
  born, _, _ = splat_coding.sort(symbols, step_sizes)
  width = lattice_lib.COLORS + symbols.colors.shape[1]
  none = np.zeros((0, width), np.int64)
  return Update(np.ones(num_dead, bool), none, born)


def encode_gop(
    frames: Sequence[types.LayeredSplats], step_sizes: quantize.StepSizes
) -> list[bytes]:
  """The packets of frames that have nothing to do with each other.

  Args:
    frames: all of one size and number of layers.
    step_sizes: of every frame.

  Returns:
    The packets, base layer first.
  """
  first = frames[0]
  encoder = GopEncoder(
      [step_sizes] * len(first.layer_sizes),
      height=first.height,
      width=first.width,
      channels=first.channels,
  )
  for frame in frames:
    layers = quantized.quantize_layers(frame, step_sizes)
    dead = (len(layer.points) for layer in encoder.layers)
    encoder.add(list(map(births, layers.symbols, layers.step_sizes, dead)))
  return encoder.packets()
