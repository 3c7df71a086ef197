"""The table of layers that `info`, `evaluate` and `demo` print."""

import json

from pgsvc_jax.codec import bitstream


def describe(data: bytes) -> dict:
  """What the header and the length of a file tell; nothing is decoded."""
  header = bitstream.read_header(data)
  available = header.available_layers(len(data))
  splats = 0
  layers = []
  for i, layer in enumerate(header.layers):
    splats += layer.num_splats
    layers.append(
        {
            'layer': i,
            'splats': splats,
            'bytes': header.truncation_points[i],
            'bpp': header.bits_per_pixel[i],
            'width': header.native_shapes[i][1],
            'height': header.native_shapes[i][0],
            'psnr_db': None,
            'ms_ssim': None,
            'available': i < available,
        }
    )
  return {
      'width': header.width,
      'height': header.height,
      'channels': header.channels,
      'file_bytes': len(data),
      'layers': layers,
  }


def add_attributes(document: dict, data: bytes) -> None:
  """Adds to every layer at hand `bits_per_splat`, by attribute.

  Origin, padding and header are in none of them. A layer without splats has
  zeros.

  Args:
    document: of `describe`.
    data: the file.

  Raises:
    bitstream.BitstreamError: the file is damaged, or of version 1.
  """
  layers = bitstream.read_header(data).layers
  for row, entry, bits in zip(
      document['layers'], layers, bitstream.attribute_bits(data)
  ):
    num_splats = max(1, entry.num_splats)
    row['bits_per_splat'] = {
        name: value / num_splats for name, value in bits.items()
    }


def print_json(document: dict) -> None:
  """Prints one JSON document, all there is on standard output."""
  print(json.dumps(document, indent=2, allow_nan=False))


def print_table(header: list[str], rows: list[list[str]]) -> None:
  """Prints right-aligned columns."""
  widths = [max(map(len, column)) for column in zip(header, *rows)]
  for row in [header, *rows]:
    print('  '.join(cell.rjust(width) for cell, width in zip(row, widths)))


def print_layers(layers: list[dict]) -> None:
  """Prints the table of operating points; `-` where a figure is not there.

  Native sizes only where they differ from one another.
  """
  has_sizes = len({(row['width'], row['height']) for row in layers}) > 1
  columns = {
      'layer': '',
      **({'width': '', 'height': ''} if has_sizes else {}),
      'splats': '',
      'bytes': '',
      'bpp': '.4f',
      'psnr_db': '.2f',
      'ms_ssim': '.4f',
  }
  rows = [
      [
          '-' if row[name] is None else format(row[name], form)
          for name, form in columns.items()
      ]
      + ['' if row['available'] else '(cut off)']
      for row in layers
  ]
  print_table([*columns, ''], rows)


def print_attributes(layers: list[dict]) -> None:
  """Prints the bits a splat of each layer at hand, by attribute."""
  rows = []
  for row in layers:
    if 'bits_per_splat' in row:
      bits = row['bits_per_splat']
      cells = [*bits.values(), sum(bits.values())]
      rows.append([str(row['layer']), *(f'{x:.2f}' for x in cells)])
  print('\nbits a splat of each layer')
  print_table(['layer', *layers[0]['bits_per_splat'], 'all'], rows)
