"""What `info` says of a video."""

import itertools

from pgsvc_jax.codec import stream

from .. import table


def describe(reader: stream.StreamReader, file_bytes: int) -> dict:
  """What header and entries tell; no packet is read.

  Args:
    reader: of the file.
    file_bytes: its size.

  Returns:
    A JSON document. `bytes` of a layer are those of the file without the
    packets of the layers above; times are in seconds.
  """
  header = reader.header
  gops = reader.gops
  seconds = lambda time: float(time * header.time_base)
  frames = sum(gop.num_frames for gop in gops)
  duration = seconds(gops[-1].end - gops[0].start) if gops else 0.0
  packets = [
      sum(sizes) for sizes in zip(*(gop.packet_sizes for gop in gops))
  ] or [0] * header.num_layers
  available = [reader.available_layers(gop.index) for gop in gops]
  layers = []
  overhead = reader.whole_size - sum(packets)
  pairs = zip(itertools.accumulate(packets), header.native_shapes)
  for k, (size, shape) in enumerate(pairs):
    size += overhead
    layers.append(
        {
            'layer': k,
            'splats': None,
            'bytes': size,
            'bpp': 8 * size / (header.width * header.height * max(frames, 1)),
            'bits_per_second': 8 * size / duration if duration else None,
            'width': shape[1],
            'height': shape[0],
            **table.no_figures(),
            'available': bool(gops) and min(available) > k,
        }
    )
  rate = header.frame_rate
  return {
      'width': header.width,
      'height': header.height,
      'channels': header.channels,
      'file_bytes': file_bytes,
      'frames': frames,
      'duration_s': duration,
      'time_base': str(header.time_base),
      'frame_rate': str(rate) if rate else None,
      'color': {
          'primaries': header.primaries,
          'transfer': header.transfer,
          'matrix': header.matrix,
          'full_range': header.full_range,
      },
      'order': header.order.name.lower(),
      'complete': reader.is_complete,
      'layers': layers,
      'gops': [
          {
              'gop': gop.index,
              'frame': gop.first_frame,
              'frames': gop.num_frames,
              'start_s': seconds(gop.start),
              'duration_s': seconds(gop.end - gop.start),
              'layer_bytes': list(gop.packet_sizes),
              'available_layers': count,
          }
          for gop, count in zip(gops, available)
      ],
  }


def print_info(info: dict) -> None:
  """Prints the document for people."""
  rate = f', {info["frame_rate"]} frames a second' if info['frame_rate'] else ''
  state = '' if info['complete'] else ', cut or still being written'
  print(
      f'{info["width"]} x {info["height"]}, {info["channels"]} channels,'
      f' {info["frames"]} frames, {info["duration_s"]:.3f} s{rate},'
      f' {info["file_bytes"]} bytes in order of {info["order"]}{state}'
  )
  # Of the figures, what a file tells without an original.
  table.print_layers(info['layers'], without=['splats', *table.no_figures()])
  num_layers = len(info['layers'])
  table.print_table(
      ['GOP', 'frame', 'frames', 'start s', 'bytes by layer', ''],
      [
          [
              str(row['gop']),
              str(row['frame']),
              str(row['frames']),
              f'{row["start_s"]:.3f}',
              ' + '.join(map(str, row['layer_bytes'])),
              ''
              if row['available_layers'] == num_layers
              else f'({row["available_layers"]} of {num_layers} layers)',
          ]
          for row in info['gops']
      ],
  )
