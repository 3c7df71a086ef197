"""Pictures of a run, for people who would rather look than read."""

from collections.abc import Sequence
import json
import pathlib

import imageio.v3 as iio
import matplotlib

matplotlib.use('agg')
from matplotlib import collections as mpl_collections
from matplotlib import pyplot as plt
import numpy as np
from PIL import Image

from pgsvc_jax import media
from pgsvc_jax import metrics
from pgsvc_jax import render
from pgsvc_jax import types
from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import syntax

from .reports import strips

_DPI = 80

# Of the largest picture of `draw_scales`, and between pictures, pixels.
_STRIP_HEIGHT = 288
_STRIP_GAP = 8


def _window(height: int, width: int) -> tuple[slice, slice]:
  """A quarter of the shorter side, left above the middle: where faces are."""
  size = max(1, min(height, width) // 4)
  top, left = height // 5, width * 2 // 5
  return slice(top, top + size), slice(left, left + size)


def _show(axis: plt.Axes, image: np.ndarray, title: str = '') -> None:
  if image.ndim == 3 and image.shape[2] < 3:
    image = image[..., 0]  # Gray, its alpha not shown.
  axis.imshow(image, cmap='gray', interpolation='nearest')
  axis.set_axis_off()
  axis.set_title(title, fontsize=10)


def draw_prefixes(
    original: pathlib.Path,
    decoded: list[pathlib.Path],
    layers: list[dict],
    output: pathlib.Path,
) -> None:
  """Draws the decoded prefixes and the original, with a crop of each below.

  Args:
    original: the picture.
    decoded: one picture per prefix.
    layers: rows of `evaluate`.
    output: PNG file to write.
  """
  images = [iio.imread(path) for path in decoded]
  images.append(media.read_picture(original).pixels)
  titles = [
      f'{row["layer"] + 1} layer{"s" if row["layer"] else ""}:'
      f' {row["splats"]} splats, {row["bytes"] / 1024:.1f} KiB\n'
      + ('exact' if row['psnr_db'] is None else f'{row["psnr_db"]:.2f} dB')
      + f' at {row["bpp"]:.2f} bpp'
      for row in layers
  ] + ['original\n' + original.name]
  _draw_columns(images, titles, _window(*images[0].shape[:2]), output)


def _draw_columns(
    images: list[np.ndarray],
    titles: list[str],
    window: tuple[slice, slice],
    output: pathlib.Path,
) -> None:
  """Draws pictures of one size side by side, a crop of each below."""
  height, width = images[0].shape[:2]
  figure, axes = plt.subplots(
      2,
      len(images),
      squeeze=False,
      layout='constrained',
      figsize=(4 * len(images), 4 * height / width + 4.6),
  )
  for column, (image, title) in enumerate(zip(images, titles)):
    _show(axes[0, column], image, title)
    _show(axes[1, column], image[window])
  figure.savefig(output, dpi=_DPI)
  plt.close(figure)


def draw_bases(
    images: dict[str, np.ndarray],
    reference: np.ndarray,
    name: str,
    output: pathlib.Path,
) -> None:
  """Draws the base layers that different strategies gave, and the original.

  Args:
    images: uint8, by strategy.
    reference: the original, float32 in [0, 1].
    name: of the original.
    output: PNG file to write.
  """
  titles = [
      f'{strategy}\nbase layer, {metrics.psnr_db(image, reference):.2f} dB'
      for strategy, image in images.items()
  ]
  # The crop is where they differ most from the original.
  size = max(1, min(reference.shape[:2]) // 6)
  window = strips.worst_window(list(images.values()), reference, size)
  _draw_columns(
      [*images.values(), reference],
      [*titles, f'original\n{name}'],
      window,
      output,
  )


def draw_scales(
    layered: types.LayeredSplats,
    scales: Sequence[float],
    output: pathlib.Path,
) -> None:
  """Draws a picture at several scales side by side, pixel by pixel.

  Args:
    layered: the picture; made smaller where the largest would be too high.
    scales: rising.
    output: PNG file to write.
  """
  layered = render.scaled(
      layered, min(1, _STRIP_HEIGHT / scales[-1] / layered.height)
  )
  images = [
      render.render_picture(render.scaled(layered, scale)) for scale in scales
  ]
  width = sum(image.shape[1] + _STRIP_GAP for image in images) - _STRIP_GAP
  strip = Image.new('RGB', (width, len(images[-1])), 'white')
  left = 0
  for image in map(Image.fromarray, images):
    strip.paste(image, (left, strip.height - image.height))
    left += image.width + _STRIP_GAP
  strip.save(output, optimize=True)


def draw_how_it_works(
    original: pathlib.Path,
    decoded: list[pathlib.Path],
    file: pathlib.Path,
    metrics: pathlib.Path,
    output: pathlib.Path,
) -> None:
  """Draws the way from picture to file and back, from a real run.

  Args:
    original: the picture.
    decoded: one picture per prefix.
    file: the .pgsvc file.
    metrics: metrics.jsonl of the run that made it.
    output: PNG file to write.
  """
  image = media.read_picture(original).pixels
  data = file.read_bytes()
  layered, header = bitstream.read_layers(data), bitstream.read_header(data)
  figure, axes = plt.subplots(
      1,
      5,
      figsize=(18, 4.4),
      layout='constrained',
      gridspec_kw={'width_ratios': [1, 1, 1.1, 1.1, 0.4]},
  )
  window = _window(*image.shape[:2])
  _show(axes[0], image, '1. a picture')
  _draw_splats(axes[1], layered, window)
  _draw_training(axes[2], metrics)
  _draw_file(axes[3], header)
  crops = [iio.imread(path)[window] for path in decoded]
  _show(
      axes[4],
      np.concatenate(crops),
      '5. any prefix decodes',
  )
  figure.savefig(output, dpi=_DPI)
  plt.close(figure)


def _draw_splats(
    axis: plt.Axes, layered: types.LayeredSplats, window: tuple[slice, slice]
) -> None:
  """The ellipses of one standard deviation, a color a layer."""
  rows, columns = window
  ends = np.cumsum(layered.layer_sizes)
  for layer, (end, size) in enumerate(zip(ends, layered.layer_sizes)):
    means, (l11, l21, l22) = (
        layered.splats.means[end - size : end],
        layered.splats.cholesky[end - size : end].T,
    )
    xx, xy, yy = l11**2, l11 * l21, l21**2 + l22**2
    half = np.hypot((xx - yy) / 2, xy)
    axis.add_collection(
        mpl_collections.EllipseCollection(
            2 * np.sqrt((xx + yy) / 2 + half),
            2 * np.sqrt(np.maximum((xx + yy) / 2 - half, 0)),
            np.degrees(np.arctan2(2 * xy, xx - yy) / 2),
            units='xy',
            offsets=means,
            offset_transform=axis.transData,
            facecolors='none',
            edgecolors=f'C{layer}',
            linewidths=0.8,
        )
    )
    axis.plot([], [], color=f'C{layer}', label=f'layer {layer}: {size} splats')
  axis.set(
      xlim=(columns.start, columns.stop),
      ylim=(rows.stop, rows.start),
      aspect='equal',
      xticks=[],
      yticks=[],
  )
  axis.legend(fontsize=8, loc='lower right')
  axis.set_title('2. layers of splats (a part of it)', fontsize=10)


def _draw_training(axis: plt.Axes, metrics: pathlib.Path) -> None:
  """PSNR of every prefix over the steps."""
  rows = [json.loads(line) for line in metrics.read_text().splitlines()]
  for layer in range(len(rows[-1]['psnr_db'])):
    points = [
        (row['step'], row['psnr_db'][layer])
        for row in rows
        if len(row['psnr_db']) > layer and row['psnr_db'][layer] is not None
    ]
    axis.plot(*zip(*points), label=f'layers 0..{layer}' if layer else 'base')
  axis.set(xlabel='step', ylabel='PSNR, dB')
  axis.legend(fontsize=8)
  axis.set_title('3. all layers are trained together', fontsize=10)


def _draw_file(axis: plt.Axes, header: syntax.Header) -> None:
  """The file as a bar: header, then a packet a layer."""
  start = 0
  sizes = [header.header_size, *(x.packet_size for x in header.layers)]
  names = ['header', *(f'packet {k}' for k in range(len(header.layers)))]
  for i, (size, name) in enumerate(zip(sizes, names)):
    color = 'black' if i == 0 else f'C{i - 1}'
    axis.barh([0], size, left=start, color=color)
    if i:
      label = f'{name}\n{size:,}'
      axis.text(start + size / 2, 0, label, ha='center', va='center', size=8)
    start += size
    axis.axvline(start, color='gray', lw=0.8, ls=':')
  axis.set(xlabel='bytes; cut anywhere, whole packets count', yticks=[])
  axis.set_ylim(-1.5, 1.5)
  axis.set_title('4. one file, a packet a layer', fontsize=10)
