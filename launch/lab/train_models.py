r"""Trains what the contexts of the coder know before they have seen anything.

python -m launch.lab.train_models --files=FOLDER \
    --output=pgsvc_jax/codec/models.json --web_output=pgsvc_jax/web/models.js

Reads the .pgsvc files of a folder and of those in it, of any version from 2 on,
encodes their symbols again and again, and writes what was learned: states of
all contexts, then the weights of the mixing. Weights are trained on every
picture with the states of the other half of the pictures, or they would trust
what was learned by heart. Files of the same name are of one picture.

What the models of the format were trained on stands in `models.json`: the files
were those of `encode --config=configs/image.py:fast --target_bpp=R`, with R =
0.15, 0.3, 0.6 and 0.9. The models are constants: others are a new version of
the format.
"""

from collections.abc import Iterable, Sequence
import pathlib

from absl import app
from absl import flags
from absl import logging
import numpy as np

from pgsvc_jax.codec import bitstream
from pgsvc_jax.codec import layer_coding
from pgsvc_jax.codec import mixing
from pgsvc_jax.codec import models
from pgsvc_jax.codec import quantized

FLAGS = flags.FLAGS

_WEB_START = """/** What contexts know at first: launch/lab/train_models.py. */
export const MODELS = """

# Counters that forget hardly anything are averages.
_LONG_MEMORY = (1 << mixing.SEEN_BITS) - 1
# Rates of the weights in one pass after the other.
_RATES = (10, 6, 3)
# A state counts as seen less often than it was: pictures differ.
_TRUST, _MOST_SEEN = 0.7, 24


def blank_model() -> mixing.Model:
  """Nothing is known, and states count more the more often they were seen."""
  half = mixing.ONE // 2 << mixing.SEEN_BITS
  states = np.full(
      (layer_coding.NUM_ROWS, 2 * mixing.NUM_NODES), half, np.int32
  )
  shape = (
      *(mixing.NUM_COLUMNS, mixing.NUM_NODES),
      *(mixing.NUM_MODELS + 1, mixing.NUM_SEEN),
  )
  weights = np.zeros(shape, np.int32)
  weights[:, :, :-1] = np.rint(
      0.35 * mixing.ONE * np.array([0.1, 0.25, 0.45, 0.6, 0.8, 1.0])
  )
  return mixing.Model(states.ravel(), weights.ravel())


def _learn(
    model: mixing.Model,
    pictures: Iterable[quantized.QuantizedLayers],
    *,
    rate: int,
    limit: int,
    states_stay: bool,
) -> None:
  """Encodes pictures and lets the model learn from each."""
  for picture in pictures:
    states = model.states.copy() if states_stay else model.states
    coder = layer_coding.LayerCoder(
        picture.height,
        picture.width,
        picture.channels,
        mixing.Model(states, model.weights),
        rate=rate,
        limit=limit,
    )
    for pair in zip(picture.symbols, picture.step_sizes, strict=True):
      coder.write(*pair)


def train(
    pictures: dict[str, list[quantized.QuantizedLayers]],
) -> mixing.Model:
  """A model of pictures.

  Args:
    pictures: the files of every picture, by name; two or more.
  """
  names = sorted(pictures)
  halves = [[x for name in names[k::2] for x in pictures[name]] for k in (0, 1)]

  def averages(files):
    model = blank_model()
    _learn(model, files, rate=0, limit=_LONG_MEMORY, states_stay=False)
    seen = model.states & _LONG_MEMORY
    chance = np.clip(model.states >> mixing.SEEN_BITS, 64, mixing.ONE - 64)
    seen = np.minimum((seen * _TRUST).astype(np.int32), _MOST_SEEN)
    return chance << mixing.SEEN_BITS | seen

  others = [averages(half) for half in halves[::-1]]
  weights = blank_model().weights
  for rate in _RATES:
    for half, states in zip(halves, others):
      _learn(
          mixing.Model(states, weights),
          half,
          rate=rate,
          limit=mixing.SEEN_LIMIT,
          states_stay=True,
      )
    logging.info('weights are trained at rate %d', rate)
  return mixing.Model(averages(halves[0] + halves[1]), weights)


def read_folder(
    folder: pathlib.Path,
) -> dict[str, list[quantized.QuantizedLayers]]:
  """The symbols of all files below a folder, by the name of the picture."""
  found = {}
  for path in sorted(folder.rglob('*.pgsvc')):
    found.setdefault(path.stem, []).append(
        bitstream.read_symbols(path.read_bytes())
    )
  return found


def main(argv: Sequence[str]) -> None:
  """Reads the folder, trains, writes."""
  if len(argv) > 1:
    raise app.UsageError(f'what is {argv[1]!r}?')
  pictures = read_folder(pathlib.Path(FLAGS.files))
  if len(pictures) < 2:
    raise app.UsageError(f'{FLAGS.files} has fewer than two pictures')
  text = models.write(
      train(pictures),
      trained_on=FLAGS.trained_on,
      table_rows=np.ravel(layer_coding.ROWS).tolist(),
  )
  pathlib.Path(FLAGS.output).write_text(text, 'ascii')
  if FLAGS.web_output:
    module = f'{_WEB_START}{text.rstrip()};\n'
    pathlib.Path(FLAGS.web_output).write_text(module, 'ascii')


if __name__ == '__main__':
  flags.DEFINE_string('files', None, 'folder of .pgsvc files', required=True)
  flags.DEFINE_string('output', None, 'JSON to be written', required=True)
  flags.DEFINE_string('web_output', None, 'the same for web/, as a module')
  flags.DEFINE_string('trained_on', '', 'a sentence on what the files are')
  app.run(main)
