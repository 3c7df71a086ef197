"""Fits of groups of pictures: closed loop, strategies, failures."""

import dataclasses
import io

import jax
import numpy as np
import pytest
import scipy.ndimage

from pgsvc_jax import config as config_lib
from pgsvc_jax import encoder
from pgsvc_jax import render
from pgsvc_jax import resolution
from pgsvc_jax import types
from pgsvc_jax.codec import quantize
from pgsvc_jax.codec import stream
from pgsvc_jax.training import loop
from pgsvc_jax.training import schedule
from pgsvc_jax.video import frame_coding
from pgsvc_jax.video import gop_fit
from pgsvc_jax.video import playback
from pgsvc_jax.video import workers

FIT = config_lib.FitConfig(
    layer_splats=(120, 60),
    num_steps=120,
    num_births=6,
    rounding_steps=60,
    rounding_groups=2,
)
CONFIG = config_lib.VideoConfig(
    image=config_lib.EncodeConfig(fit=FIT),
    update_steps=60,
    update_rounding_steps=60,
    update_groups=2,
)


@pytest.fixture(name='frames', scope='module')
def _frames():
  """A window on texture that moves by (3, 1) pixels a frame."""
  noise = np.random.default_rng(0).normal(size=(60, 90, 3))
  texture = scipy.ndimage.gaussian_filter(noise, (1.5, 1.5, 0))
  texture = np.clip(0.5 + 0.15 * texture / texture.std(), 0, 1)
  windows = [texture[t : t + 48, 3 * t : 3 * t + 64] for t in range(4)]
  return np.stack(windows).astype(np.float32)


def encode(frames, config=CONFIG):
  height, width = frames.shape[1:3]
  fitter = gop_fit.GopFitter(
      config, height, width, device=jax.local_devices()[0]
  )
  stats = list(fitter.encode(frames))
  decoded = frame_coding.decode_gop(
      fitter.packets(),
      num_frames=len(frames),
      height=height,
      width=width,
      channels=3,
  )
  return stats, list(decoded)


def psnr_db(layered, frame):
  image = render.render_picture(layered) / 255
  return -10 * np.log10(np.mean((image - frame) ** 2))


@pytest.fixture(name='encoded', scope='module')
def _encoded(frames):
  return encode(frames)


def test_the_encoder_says_what_a_decoder_sees(frames, encoded):
  stats, decoded = encoded
  for row, layered, frame in zip(stats, decoded, frames, strict=True):
    assert row.psnr_db[-1] == pytest.approx(psnr_db(layered, frame), abs=1e-3)
    base = dataclasses.replace(
        layered,
        splats=type(layered.splats)(
            *(x[: layered.layer_sizes[0]] for x in layered.splats)
        ),
        layer_sizes=layered.layer_sizes[:1],
    )
    assert row.psnr_db[0] == pytest.approx(psnr_db(base, frame), abs=1e-3)


def test_predicted_frames_are_cheap_and_good(frames, encoded):
  stats, decoded = encoded
  first, *others = stats
  for row in others:
    assert sum(row.sizes) < 0.5 * sum(first.sizes)
    assert row.psnr_db[-1] > first.psnr_db[-1] - 3
  # The same splats without any update are far off by now.
  stale = psnr_db(decoded[0], frames[-1])
  assert stats[-1].psnr_db[-1] > stale + 5


def test_without_motion_it_is_dearer_or_worse(frames, encoded):
  still, _ = encode(frames[:2], dataclasses.replace(CONFIG, log2_block=0))
  moved = encoded[0][1]
  bits = np.log2(sum(still[1].sizes) / sum(moved.sizes))
  # About 6 dB for twice the bytes.
  assert 6 * bits + moved.psnr_db[-1] - still[1].psnr_db[-1] > 1


def test_bits_weigh_less_after_a_frame_that_lost():
  config = config_lib.VideoConfig(bit_weight=2.0, quality_hold=1.0)
  weight = lambda predicted_db: gop_fit.held_weight(config, predicted_db)
  assert weight([]) == weight([30.0]) == 2.0
  # 0.5 dB below the first one, half an octave; and above it.
  assert weight([30.5, 30.0]) == pytest.approx(2.0 / 2**0.5)
  assert weight([30.0, 31.0, 30.5]) == pytest.approx(2.0 * 2**0.5)
  # A frame that is much worse does not take all bits.
  assert weight([60.0, 20.0]) > 0.2
  loose = dataclasses.replace(config, quality_hold=0.0)
  assert gop_fit.held_weight(loose, [31.0, 30.0]) == 2.0


@pytest.mark.slow
@pytest.mark.parametrize(
    'strategy', ['all_levels', 'sequential', 'prune', 'single']
)
def test_every_strategy_of_pictures_fits_videos(frames, strategy):
  config = dataclasses.replace(
      CONFIG,
      image=dataclasses.replace(
          CONFIG.image, fit=dataclasses.replace(FIT, strategy=strategy)
      ),
  )
  stats, decoded = encode(frames[:3], config)
  assert len(decoded[0].layer_sizes) == (1 if strategy == 'single' else 2)
  for row, layered, frame in zip(stats, decoded, frames):
    assert row.psnr_db[-1] == pytest.approx(psnr_db(layered, frame), abs=1e-3)
    assert row.psnr_db[-1] > 22  # Layer by layer is the worst, at 24.8.


@pytest.mark.slow
def test_a_video_takes_the_loss_of_its_pictures(frames):
  fit = dataclasses.replace(FIT, loss='charbonnier')
  image = dataclasses.replace(CONFIG.image, fit=fit)
  config = dataclasses.replace(CONFIG, image=image)
  frames = np.where(np.random.default_rng(1).random((4, 48, 64, 1)) < 0.05,
                    np.float32(1), frames)[:2]  # fmt: skip
  errors = []
  for other in (CONFIG, config):
    stats, decoded = encode(frames, other)
    assert sum(stats[1].sizes) < sum(stats[0].sizes)
    images = [render.render_picture(x) / np.float32(255) for x in decoded]
    errors.append(np.abs(np.array(images) - frames).mean((1, 2, 3)))
  # What is lowered is the absolute error, in both frames.
  assert (errors[1] < 0.99 * errors[0]).all(), errors


def test_layers_of_several_sizes(frames):
  """Each is fitted, and gets its splats, on its own grid."""
  scales = dataclasses.replace(
      FIT, layer_splats=(30, 120), layer_scales=(0.5, 1.0)
  )
  config = dataclasses.replace(
      CONFIG,
      turnover=0.1,
      image=dataclasses.replace(CONFIG.image, fit=scales),
  )
  stats = []
  data = encoder.encode(frames[:3], config, report=stats.append)
  stats = [x for x in stats if isinstance(x, workers.FrameDone)]
  reader = stream.StreamReader(io.BytesIO(data))
  assert reader.header.layer_shapes == ((24, 32), (48, 64))
  decoded = [frame.layered for frame in playback.frames(reader)]
  for row, layered, frame in zip(stats, decoded, frames[:3], strict=True):
    small = resolution.downsample(frame, 24, 32)
    base = render.at_native_size(render.first_layers(layered, 1))
    assert row.psnr_db[0] == pytest.approx(psnr_db(base, small), abs=1e-3)
    assert row.psnr_db[1] == pytest.approx(psnr_db(layered, frame), abs=1e-3)
    # So few splats show less of the whole frame.
    whole = psnr_db(render.first_layers(layered, 1), frame)
    assert row.psnr_db[0] > whole + 0.3
  # A tenth, but for newborn that rounding finds too weak.
  assert all(13 <= row.born <= 15 for row in stats[1:])
  assert stats[2].psnr_db[0] > stats[0].psnr_db[0] - 3


def test_births_of_a_grid_are_where_its_own_prefix_lacks_something():
  """Not where those above do."""
  grids = (
      schedule.Grid(20, 30, (0.5, 0.5), (4,)),
      schedule.Grid(40, 60, (1.0, 1.0), (4 + 6,)),
  )
  residuals = [np.zeros((grid.height, grid.width, 1)) for grid in grids]
  residuals[0][3:6, 3:6] = 1
  residuals[1][30:34, 50:54] = 1
  coder = frame_coding.GopEncoder(
      [quantize.StepSizes()] * 2, height=40, width=60, channels=1
  )
  rng = np.random.default_rng(0)
  splats = types.Splats(
      rng.uniform(5, 35, (10, 2)),
      np.tile([2.0, 0, 2], (10, 1)),
      np.ones((10, 1)),
  )
  layers = (slice(0, 4), slice(4, 10))
  symbols = quantize.quantize(splats, quantize.StepSizes())
  coder.add(
      [
          frame_coding.births(
              quantize.Symbols(*(x[part] for x in symbols)),
              quantize.StepSizes(),
          )
          for part in layers
      ]
  )
  dead = [np.arange(n) < 2 for n in (4, 6)]
  update = gop_fit._Prediction((4, 6), coder, dead, 1)
  state = update.give_birth(update.state(0.0), grids, residuals, rng)
  assert state.active.all()
  born = [state.params.means[part][-2:] for part in layers]
  assert (born[0] >= 6).all() and (born[0] <= 12).all()
  assert (born[1] >= (50, 30)).all() and (born[1] <= (54, 34)).all()


def test_a_fit_that_diverges_says_in_which_frame(frames):
  config = dataclasses.replace(CONFIG, update_rate=1e30)
  with pytest.raises(loop.DivergenceError, match='frame 1'):
    encode(frames[:2], config)
