"""What files hold, and the tables of it that commands print."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json

from pgsvc_jax import metrics
from pgsvc_jax.codec import bitstream


@dataclasses.dataclass(frozen=True)
class Column:
  """How a field of a row is printed.

  Attributes:
    title: of the column.
    form: of a figure.
    unit: how many of the field are one.
  """

  title: str
  form: str
  unit: float = 1

  def cell(self, value: float | None) -> str:
    """The figure, or `-` where there is none."""
    return '-' if value is None else format(value / self.unit, self.form)


# Those of rows of layers and anchors, in their order.
COLUMNS = {
    'width': Column('width', '.0f'),
    'height': Column('height', '.0f'),
    'splats': Column('splats', '.0f'),
    'bytes': Column('bytes', '.0f'),
    'bits_per_second': Column('kbit/s', '.1f', 1000),
    'bpp': Column('bpp', '.4f'),
    **{
        name: Column(metric.title, f'.{metric.digits}f')
        for name, metric in metrics.ALL.items()
    },
    'entropy_ms': Column('entropy, ms', '.1f'),
    'render_ms': Column('render, ms', '.1f'),
    'write_ms': Column('write, ms', '.1f'),
}

# Milliseconds of decoding a picture or frame.
TIMES = ('entropy_ms', 'render_ms', 'write_ms')


def columns(rows: Sequence[Mapping], skip: Iterable[str] = ()) -> list[str]:
  """Names of the columns that rows have; sizes only where they differ."""
  sizes = {(row.get('width'), row.get('height')) for row in rows}
  skipped = {*skip, *(('width', 'height') if len(sizes) < 2 else ())}
  return [
      name
      for name in COLUMNS
      if name not in skipped and any(name in row for row in rows)
  ]


def cells(row: Mapping, names: Iterable[str]) -> list[str]:
  """A row of a table."""
  return [COLUMNS[name].cell(row.get(name)) for name in names]


def no_figures() -> dict[str, None]:
  """The figures that are measured only against an original."""
  return {metric.name: None for metric in metrics.choose(is_video=False)}


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
            **no_figures(),
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


def print_layers(layers: list[dict], without: Iterable[str] = ()) -> None:
  """Prints the table of operating points; `-` where a figure is not there.

  Args:
    layers: rows.
    without: columns to leave out.
  """
  names = columns(layers, [*TIMES, *without])
  print_table(
      ['layer', *(COLUMNS[name].title for name in names), ''],
      [
          [
              str(row['layer']),
              *cells(row, names),
              '' if row['available'] else '(cut off)',
          ]
          for row in layers
      ],
  )


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
