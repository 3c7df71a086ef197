"""The container of videos: both orders, cuts, growth, seeking, extraction."""

import dataclasses
import fractions
import io
import random
import zlib

import numpy as np
import pytest

from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import stream
from pgsvc_jax.codec import syntax
from pgsvc_jax.video import playback

TIME, QUALITY = syntax.PacketOrder


def make_header(**changes):
  header = syntax.VideoHeader(
      width=64,
      height=48,
      channels=3,
      num_layers=3,
      time_base=fractions.Fraction(1001, 30000),
      frame_rate=fractions.Fraction(30000, 1001),
      primaries=1,
      transfer=1,
      matrix=6,
      full_range=True,
      metadata=b'{"title": "clip"}',
  )
  return dataclasses.replace(header, **changes)


# Constant rate with a gap, variable rate, one frame; an empty packet.
GOPS = (
    ((-3, -2, -1, 0), 1, (b'a0' * 9, b'a1' * 200, b'a2' * 5)),
    ((10, 11, 13, 20, 21), 1, (b'b0', b'', b'b2' * 30)),
    ((22,), 7, (b'c0' * 100, b'c1', b'c2' * 3)),
)


def write(gops=GOPS, end=True, **changes):
  file = io.BytesIO()
  writer = stream.StreamWriter(file, make_header(**changes))
  for times, last, packets in gops:
    writer.add_gop(times, packets, last_duration=last)
  if end:
    writer.close()
  return file.getvalue()


def reader_of(data):
  return stream.StreamReader(io.BytesIO(data))


def reorder(data, order):
  file = io.BytesIO()
  stream.reorder(reader_of(data), file, order)
  return file.getvalue()


def extract(data, **kwargs):
  file = io.BytesIO()
  stream.extract(reader_of(data), file, **kwargs)
  return file.getvalue()


def contents(data):
  """[(times, end, packets that are whole)] of all entries."""
  reader = reader_of(data)
  return [
      (gop.times, gop.end, reader.packets(k, reader.available_layers(k)))
      for k, gop in enumerate(reader)
  ]


WHOLE = [(times, times[-1] + last, list(ps)) for times, last, ps in GOPS]


# Heights and widths of the layers.
SHAPES = ((12, 16), (12, 16), (48, 64))


@pytest.fixture(
    scope='module',
    params=[(TIME, ()), (QUALITY, ()), (TIME, SHAPES), (QUALITY, SHAPES)],
    ids=['time', 'quality', 'time, sizes', 'quality, sizes'],
)
def data(request):
  order, shapes = request.param
  return reorder(write(layer_shapes=shapes), order)


def test_everything_comes_back(data):
  reader = reader_of(data)
  shapes = SHAPES if data[8] == 5 else ()
  header = make_header(order=reader.header.order, layer_shapes=shapes)
  assert reader.header == header
  assert contents(data) == WHOLE
  assert reader.is_complete
  assert [gop.first_frame for gop in reader] == [0, 4, 9]
  assert [gop.num_frames for gop in reader] == [4, 5, 1]


def test_packets_stand_in_the_order_that_the_header_says():
  packets = [gop[2] for gop in GOPS]
  in_time = b''.join(b''.join(gop) for gop in packets)
  in_quality = b''.join(b''.join(layer) for layer in zip(*packets))
  time, quality = write(), reorder(write(), QUALITY)
  assert in_quality in quality and in_time not in time
  offsets = [o for gop in reader_of(time) for o in gop.packet_offsets]
  assert offsets == sorted(offsets)
  for data in (time, quality):
    for gop, expected in zip(reader_of(data), packets):
      for offset, packet in zip(gop.packet_offsets, expected):
        assert data[offset : offset + len(packet)] == packet


def test_reordering_there_and_back_gives_the_same_bytes():
  time = write()
  quality = reorder(time, QUALITY)
  assert quality != time
  assert reorder(quality, TIME) == time
  assert reorder(reorder(time, TIME), QUALITY) == quality


def test_constant_rate_costs_a_few_bytes_whatever_the_frames():
  def entry_bytes(n, step):
    gop = tuple(range(0, n * step, step)), step, (b'', b'', b'')
    return len(write([gop]))

  assert entry_bytes(4000, 3003) - entry_bytes(2, 3003) == 2


def layers_within(data, n):
  """How many layers of each GOP end within n bytes, by the whole file."""
  return [
      sum(o + s <= n for o, s in zip(gop.packet_offsets, gop.packet_sizes))
      for gop in reader_of(data)
  ]


def test_a_cut_in_order_of_time_keeps_whole_gops_and_layers():
  data = write()
  starts = [gop.packet_offsets[0] for gop in reader_of(data)]
  seen = set()
  for n in range(make_header().header_size, len(data)):
    got = contents(data[:n])
    assert not reader_of(data[:n]).is_complete
    counts = [len(packets) for _, _, packets in got]
    entries = sum(start <= n for start in starts)
    assert counts == layers_within(data, n)[:entries]
    assert counts[:-1] == [3] * len(counts[:-1])
    for (times, end, packets), whole in zip(got, WHOLE):
      assert (times, end) == whole[:2]
      assert packets == whole[2][: len(packets)]
    seen.add(tuple(counts))
  # The empty packet is whole as soon as the one before is.
  assert seen >= {(), (0,), (1,), (3, 0), (3, 2), (3, 3), (3, 3, 1), (3, 3, 3)}
  assert (3, 1) not in seen


def test_a_cut_in_order_of_quality_keeps_layers_of_all():
  data = reorder(write(), QUALITY)
  start = reader_of(data).gop(0).packet_offsets[0]
  seen = []
  for n in range(start, len(data) + 1):
    counts = layers_within(data, n)
    assert [len(packets) for *_, packets in contents(data[:n])] == counts
    assert sorted(counts, reverse=True) == counts or counts[1] == 2
    if counts not in seen:
      seen.append(counts)
  assert seen == [
      [0, 0, 0],
      [1, 0, 0],
      [1, 1, 0],
      [1, 1, 1],
      [2, 2, 1],
      [2, 2, 2],
      [3, 2, 2],
      [3, 3, 2],
      [3, 3, 3],
  ]
  for n in range(make_header().header_size, start):
    with pytest.raises(bitstream.BitstreamError, match='inside the directory'):
      reader_of(data[:n])


def test_a_cut_inside_the_header_is_refused(data):
  for n in range(make_header().header_size):
    with pytest.raises(bitstream.BitstreamError, match='inside the header'):
      reader_of(data[:n])


def test_every_damaged_byte_is_noticed(data):
  rng = random.Random(0)
  for at in range(len(data)):
    changed = bytearray(data)
    changed[at] ^= rng.randrange(1, 256)
    try:
      got = contents(bytes(changed))
      complete = reader_of(bytes(changed)).is_complete
    except bitstream.BitstreamError as error:
      assert '\n' not in str(error)
    else:
      # A size that now goes beyond the end looks like a cut, or as if the file
      # were still being written.
      assert not complete and got == WHOLE[: len(got)]


@pytest.mark.parametrize('k', range(3))
@pytest.mark.parametrize('layer', range(3))
def test_damage_names_gop_and_layer_and_spares_the_others(data, k, layer):
  gop = reader_of(data).gop(k)
  if not gop.packet_sizes[layer]:
    return
  changed = bytearray(data)
  changed[gop.packet_offsets[layer]] ^= 1
  reader = reader_of(bytes(changed))
  with pytest.raises(
      bitstream.BitstreamError,
      match=rf'^GOP {k}, layer {layer}: packet is damaged \(checksum\)$',
  ):
    reader.packet(k, layer)
  others = [(i, j) for i in range(3) for j in range(3) if (i, j) != (k, layer)]
  assert all(reader.packet(i, j) == WHOLE[i][2][j] for i, j in others)


def test_damage_behind_what_is_asked_for_does_not_matter():
  data = bytearray(write())
  reader = reader_of(bytes(data))
  entry_end = reader.gop(1).packet_offsets[0]
  data[entry_end - 1] ^= 1  # Of the checksum of the second entry.
  reader = reader_of(bytes(data))
  assert reader.packets(0, 3) == WHOLE[0][2]
  assert reader.gop_at(0) == 0
  with pytest.raises(
      bitstream.BitstreamError, match='^GOP 1: entry is damaged'
  ):
    reader.gop(1)


def test_bytes_behind_the_video_are_refused(data):
  with pytest.raises(bitstream.BitstreamError, match='^2 bytes after the'):
    contents(data + b'ab')


def test_a_reader_follows_a_growing_file():
  data = write()
  file = io.BytesIO()
  file.write(data[: make_header().header_size])
  reader = stream.StreamReader(file)
  assert reader.gops == ()
  seen = []
  for n in range(make_header().header_size, len(data)):
    file.seek(n)
    file.write(data[n : n + 1])
    reader.refresh()
    seen += [
        gop.times
        for gop in reader.gops[len(seen) :]
        if reader.available_layers(gop.index) == 3
    ]
  assert seen == [times for times, _, _ in WHOLE]
  assert reader.is_complete


def test_each_gop_is_in_the_file_when_add_gop_returns(tmp_path):
  with open(tmp_path / 'video', 'wb') as file:
    writer = stream.StreamWriter(file, make_header())
    for k, (times, last, packets) in enumerate(GOPS):
      writer.add_gop(times, packets, last_duration=last)
      written = (tmp_path / 'video').read_bytes()
      assert contents(written) == WHOLE[: k + 1]


def test_an_exception_leaves_no_end_mark():
  file = io.BytesIO()
  with pytest.raises(KeyError):
    with stream.StreamWriter(file, make_header()):
      raise KeyError
  assert not reader_of(file.getvalue()).is_complete


def test_a_writer_goes_on_after_the_last_whole_gop():
  whole = write()
  for n in (*range(make_header().header_size, len(whole), 7), len(whole)):
    file = io.BytesIO(whole[:n])
    writer = stream.StreamWriter.resume(file)
    assert writer.num_frames == sum(
        len(t) for t, _, _ in GOPS[: writer.num_gops]
    )
    for times, last, packets in GOPS[writer.num_gops :]:
      writer.add_gop(times, packets, last_duration=last)
    writer.close()
    assert file.getvalue() == whole
  second = reader_of(whole).gop(1).packet_offsets[0]
  for tail in (bytes(40), b'\xff' * 40, whole[second:-9] + bytes(7)):
    file = io.BytesIO(whole[:second] + tail)
    writer = stream.StreamWriter.resume(file)
    assert writer.num_gops == (2 if tail.startswith(b'b0') else 1)
    assert whole.startswith(file.getvalue())
  with pytest.raises(bitstream.BitstreamError, match='order of time'):
    stream.StreamWriter.resume(io.BytesIO(reorder(whole, QUALITY)))


def test_seeking_by_time_and_frame(data):
  reader = reader_of(data)
  for time in range(-10, 29):
    # By definition: the GOP of the last frame that has started, or in a gap
    # before it has, of the next.
    expected = next(k for k, (_, end, _) in enumerate(WHOLE) if time < end)
    assert reader_of(data).gop_at(time) == expected == reader.gop_at(time)
  with pytest.raises(bitstream.BitstreamError, match='ends before time 29'):
    reader.gop_at(29)
  gops = [reader.gop_of_frame(k) for k in range(10)]
  assert gops == [0, 0, 0, 0, 1, 1, 1, 1, 1, 2]
  for frame in (-1, 10):
    with pytest.raises(bitstream.BitstreamError, match=f'frame {frame} is not'):
      reader.gop_of_frame(frame)


class CountingFile(io.BytesIO):
  """Counts the bytes that are read."""

  total = 0

  def read(self, size=-1):
    data = super().read(size)
    self.total += len(data)
    return data


def test_a_reader_reads_what_it_needs(data):
  """Not the packets it was not asked for."""
  big = tuple((t, d, tuple(p + bytes(10**5) for p in ps)) for t, d, ps in GOPS)
  file = CountingFile(reorder(write(big), reader_of(data).header.order))
  reader = stream.StreamReader(file)
  reader.gop_at(21)
  assert file.total <= 2**16 + 2000
  reader.packet(1, 2)
  assert file.total <= 2**16 + 2000 + 10**5


@pytest.mark.parametrize('num_layers', [1, 2, 3])
@pytest.mark.parametrize('first,count', [(0, None), (1, None), (1, 1), (2, 1)])
def test_extract_copies_layers_and_gops(data, num_layers, first, count):
  cut = extract(data, num_layers=num_layers, first_gop=first, num_gops=count)
  last = None if count is None else first + count
  assert contents(cut) == [
      (times, end, packets[:num_layers])
      for times, end, packets in WHOLE[first:last]
  ]
  reader = reader_of(cut)
  assert reader.is_complete
  whole = reader_of(data).header
  assert reader.header == dataclasses.replace(
      whole,
      num_layers=num_layers,
      layer_shapes=whole.layer_shapes[:num_layers],
  )
  assert reader.gop(0).first_frame == 0


def test_extract_of_all_is_the_file_and_of_a_cut_what_is_whole(data):
  assert extract(data) == data
  time = write()
  assert contents(extract(time[:-3])) == WHOLE[:2]
  quality = reorder(time, QUALITY)[:-30]  # In the last layer of GOP 1.
  assert [len(p) for *_, p in contents(quality)] == [3, 2, 2]
  assert contents(extract(quality)) == WHOLE[:1]
  two = extract(quality, num_layers=2)
  assert contents(two) == [(t, e, p[:2]) for t, e, p in WHOLE]


def test_what_is_not_there_is_refused(data):
  header_size = make_header().header_size
  refused = {
      '4 layers asked for, the file has 3': dict(num_layers=4),
      'GOP 3 is not there, the file has 3': dict(first_gop=3),
      '3 GOPs asked for, 2 have': dict(first_gop=1, num_gops=3),
      'num_layers=0 is not positive': dict(num_layers=0),
      'num_gops=0 is not positive': dict(num_gops=0),
  }
  for message, arguments in refused.items():
    with pytest.raises(ValueError, match=message):
      extract(data, **arguments)
  time = write()
  first = reader_of(time).gop(0)
  for end in (header_size, header_size + 17, first.packet_offsets[1] - 1):
    message = 'ends before the base layer of its first GOP'
    with pytest.raises(bitstream.BitstreamError, match=message):
      extract(time[:end])
    for position in ('0', '0s'):
      with pytest.raises(bitstream.BitstreamError, match=message):
        reader = reader_of(time[:end])
        first_frame = playback.frame_at(reader, position)
        next(playback.frames(reader, first_frame=first_frame))
  cut = time[: first.packet_offsets[2]]
  with pytest.raises(bitstream.BitstreamError, match='GOP 0: 3 layers asked'):
    extract(cut, num_layers=3)
  with pytest.raises(
      bitstream.BitstreamError, match='GOP 0, layer 2: file ends'
  ):
    reader_of(cut).packet(0, 2)
  with pytest.raises(bitstream.BitstreamError, match='cut or still being'):
    reorder(cut, QUALITY)


def test_playable_gops_of_a_cut_file():
  quality = reorder(write(), QUALITY)[:-30]
  reader = reader_of(quality)
  layers = lambda *args: [n for _, n in reader.playable(*args)]
  assert layers() == [3, 2, 2]
  assert layers(2) == [2, 2, 2]
  assert layers(3) == [3]
  assert layers(None, 1) == [2, 2]


def test_pictures_and_videos_name_each_other():
  assert bitstream.read_header(write()) == make_header()
  with pytest.raises(bitstream.BitstreamError, match='is a video, not a pic'):
    bitstream.read_layers(write())
  picture = types.LayeredSplats(
      splats=types.Splats(
          np.ones((1, 2)), np.float64([[1, 0, 1]]), np.ones((1, 3))
      ),
      layer_sizes=(1,),
      height=4,
      width=4,
  )
  data = bitstream.write(picture, quantize.StepSizes())
  with pytest.raises(bitstream.BitstreamError, match='is a picture, not a vid'):
    reorder(data, TIME)
  reader = reader_of(data)
  (gop,) = reader
  assert (gop.times, gop.durations) == ((0,), (1,)) and reader.is_complete
  (frame,) = playback.frames(reader)
  for array, other in zip(frame.layered.splats, picture.splats):
    np.testing.assert_allclose(array, other, atol=0.2)
  assert extract(data, num_layers=1) == data


@pytest.mark.parametrize(
    'changes',
    [
        dict(width=0),
        dict(width=2**15, height=2**14),
        dict(channels=5),
        dict(num_layers=0),
        dict(num_layers=256),
        dict(time_base=fractions.Fraction(0)),
        dict(time_base=fractions.Fraction(1, 2**32)),
        dict(frame_rate=fractions.Fraction(-1)),
        dict(matrix=256),
        dict(metadata=bytes(2**16)),
        dict(order=QUALITY),
        dict(layer_shapes=SHAPES[:2]),
        dict(layer_shapes=(*SHAPES, (48, 64))),
        dict(layer_shapes=((0, 16), (12, 16), (48, 64))),
        dict(layer_shapes=((12, 16), (12, 15), (48, 64))),
        dict(layer_shapes=((12, 16), (12, 16), (48, 65))),
    ],
)
def test_a_header_that_breaks_a_rule_is_not_written(changes):
  file = io.BytesIO()
  with pytest.raises(ValueError):
    stream.StreamWriter(file, make_header(**changes))
  assert not file.getvalue()


@pytest.mark.parametrize(
    'times,last,packets,message',
    [
        ((), 1, [b''] * 3, 'no frames'),
        (range(4097), 1, [b''] * 3, '4097 frames'),
        ((0, 1, 1), 1, [b''] * 3, 'do not increase'),
        ((0, 1), 0, [b''] * 3, 'do not increase'),
        ((0,), 1, [b''] * 2, '3 layers'),
        ((2**53,), 1, [b''] * 3, 'times beyond'),
        ((-(2**53) - 1,), 1, [b''] * 3, 'times beyond'),
    ],
)
def test_a_gop_that_breaks_a_rule_is_not_written(times, last, packets, message):
  file = io.BytesIO()
  writer = stream.StreamWriter(file, make_header())
  size = len(file.getvalue())
  with pytest.raises(ValueError, match=message):
    writer.add_gop(times, packets, last_duration=last)
  assert len(file.getvalue()) == size and writer.num_gops == 0


def test_gops_do_not_overlap():
  packets = [b'', b'', b'']
  write([((0, 10), 10, packets), ((20, 30), 9, packets)])
  with pytest.raises(ValueError, match='before the GOP before ends'):
    write([((0, 10), 10, packets), ((19, 30), 9, packets)])


def forge(entry_numbers, checksums=(0, 0, 0)):
  """A file of one entry: varints as bytes, and good checksums."""
  body = b''.join(entry_numbers)
  size = (2 + len(body) + 4).to_bytes(2, 'little')
  entry = size + body
  entry += zlib.crc32(entry).to_bytes(4, 'little')
  return syntax.pack_header(make_header()) + entry + b'\0\0'


LAYER = b'\0' + bytes(4)


@pytest.mark.parametrize(
    'numbers,message',
    [
        ([b'\1', b'\0', b'\1\1', LAYER, LAYER, LAYER], None),
        ([b'\x81\0', b'\0', b'\1\1', LAYER, LAYER, LAYER], 'spelt wrong'),
        ([b'\xff' * 8 + b'\1', b'\0'], 'spelt wrong'),
        ([b'\0', b'\0', LAYER, LAYER, LAYER], '0 frames'),
        ([b'\2', b'\0', b'\1\1\1\1', LAYER, LAYER, LAYER], 'durations are'),
        ([b'\2', b'\0', b'\1\0\2\2', LAYER, LAYER, LAYER], 'durations are'),
        ([b'\2', b'\0', b'\1\3', LAYER, LAYER, LAYER], '3 durations for 2'),
        ([b'\1', b'\0', b'\0\1', LAYER, LAYER, LAYER], 'do not increase'),
        ([b'\1', b'\0', b'\1\1', LAYER, LAYER], 'too early'),
        ([b'\1', b'\0', b'\1\1', LAYER, LAYER, b'\0' * 3], 'too early'),
        ([b'\1', b'\0', b'\1\1', LAYER, LAYER, LAYER, b'\0'], 'too late'),
        (
            [b'\1', b'\xfe' + b'\xff' * 6 + b'\x7f', b'\1\1'] + [LAYER] * 3,
            'times beyond',
        ),
    ],
)
def test_a_forged_entry_is_refused(numbers, message):
  data = forge(numbers)
  if message is None:
    assert [gop.times for gop in reader_of(data)] == [(0,)]
    return
  with pytest.raises(
      bitstream.BitstreamError, match=rf'^GOP 0: entry is invalid .*{message}'
  ):
    list(reader_of(data))
