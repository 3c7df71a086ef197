"""Plots what is on the screen while a picture arrives: docs/viewer.md.

python docs/arrival.py ORIGINAL.png OUTPUT.png FOLDER "LABEL=NAME" ...

FOLDER is what tests/web/arrival.mjs wrote; each NAME is a file that it showed.
Prints when each first was as good as some PSNR.
"""

import json
import pathlib
import sys

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

LEVELS = (15, 20, 25, 30, 34)


def psnr(a, b):
  """PSNR of 8-bit pixels, dB."""
  error = np.mean((a.astype(float) - b) ** 2)
  return 10 * np.log10(255**2 / error)


def frames(folder, name, original):
  """Times (ms), pixels and PSNR of what was on the screen, in order."""
  found = []
  for path in sorted(folder.glob(f'{name}.*.png')):
    pixels = np.asarray(Image.open(path).convert('RGB'))
    pixels = pixels[: original.shape[0], : original.shape[1]]
    found.append(
        (int(path.stem.split('.')[-1]), pixels, psnr(pixels, original))
    )
  return found


def main():
  """Plots and prints."""
  original_path, output, folder, *labels = sys.argv[1:]
  original = np.asarray(Image.open(original_path).convert('RGB'))
  folder = pathlib.Path(folder)
  shows = {}
  for label in labels:
    label, name = label.split('=')
    shows[label] = frames(folder, name, original)
    events = json.loads((folder / f'{name}.json').read_text())['events']
    print(label, [(x['type'], x.get('layer'), round(x['at'])) for x in events])
  end = max(show[-1][0] for show in shows.values()) * 1.08
  figure = plt.figure(figsize=(9, 8.6), layout='constrained')
  grid = figure.add_gridspec(
      1 + len(shows), 4, height_ratios=[1.15] + [1] * len(shows)
  )
  axes = figure.add_subplot(grid[0, :])
  moments = np.array([0.16, 0.33, 0.66, 1]) * end
  for row, (label, show) in enumerate(shows.items(), start=1):
    times, _, values = zip(*show)
    axes.step(
        [*times, end], [*values, values[-1]], where='post', label=label, lw=2
    )
    line = [f'{label:>16}']
    for level in LEVELS:
      reached = next((t for t, _, value in show if value >= level), None)
      line.append('     -' if reached is None else f'{reached:6d}')
    print(*line)
    for column, moment in enumerate(moments):
      ax = figure.add_subplot(grid[row, column])
      pixels, value = [(p, v) for t, p, v in show if t <= moment or t == 0][-1]
      ax.imshow(pixels)
      ax.set_xticks([])
      ax.set_yticks([])
      ax.set_title(f'{moment:.0f} ms: {value:.1f} dB', fontsize=9)
      if column == 0:
        ax.set_ylabel(label)
  axes.set_xlabel('ms after the request')
  axes.set_ylabel('PSNR on the screen, dB')
  axes.set_ylim(10, None)
  axes.grid(alpha=0.3)
  axes.legend(frameon=False)
  figure.savefig(output, dpi=100)


if __name__ == '__main__':
  main()
