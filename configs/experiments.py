"""The experiments that `launch.reproduce` runs: what is compared, and claimed.

  python -m launch.reproduce --experiment=NAME --form=laptop --pictures=KODAK
  python -m launch.reproduce --list

An experiment is an entry of EXPERIMENTS: variants of the settings, run on the
same pictures or clips, and claims about the difference between them. To add
one, add an entry; `--update` then records its figures.

Forms: smoke (seconds, a generated picture, claims are not judged), laptop (some
minutes to an hour on two cores), fast (as many steps, all pictures), paper (all
pictures and steps). Recorded figures of ours
stand in experiments.json, published ones in published.json, with their source.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, Literal, Protocol

Values = Sequence[float]


class Figures(Protocol):
  """What claims are about: means over the pictures, one value a prefix."""

  def psnr_db(self, variant: str) -> Values:
    """Of the prefixes of a variant, the base first."""

  def bpp(self, variant: str) -> Values:
    """Bits a pixel of the file up to the end of each prefix."""

  def published_db(self, codec: str) -> Values:
    """Published figures at the same numbers of splats; may be empty."""

  def gaps_db(self, variants: Sequence[str]) -> Values:
    """Between neighboring levels' curves through these files, base first."""

  def shifts(self, variant: str) -> Values:
    """Pixels between each prefix and the picture; empty: not measured."""

  def bytes_percent(self, variants: Sequence[str], anchor: str) -> Values:
    """Of a curve through files, at the PSNR of another; one a source."""

  def frames_percent(
      self, variant: str, intra: Mapping[float, Sequence[str]]
  ) -> Values:
    """Of predicted frames, of I-frames of their PSNR; one a source, frame."""

  def bd_rates(self, variants: Sequence[str], anchors: Sequence[str]) -> Values:
    """Of whole files in percent, one a source."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
  """One way to encode.

  Attributes:
    name: in tables.
    config: in place of that of the form.
    overrides: of fields of the config, on top of those of the form.
    shares: of the splats of the form in each layer; empty: as the form has it.
    separate: encode each prefix as a file of one layer.
    coder: pgsvc, or gsvc, which codes a clip by the rules of GSVC
      (`launch/lab/experiments/gsvc.py`).
    alone_at: encode only the frame at this share of a clip, as an I-frame;
      0: all frames.
  """

  name: str
  config: str = ''
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  shares: tuple[float, ...] = ()
  separate: bool = False
  coder: Literal['pgsvc', 'gsvc'] = 'pgsvc'
  alone_at: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
  """How large an experiment is.

  Attributes:
    config: file in this folder, with its preset.
    overrides: of fields of the config.
    names: of the pictures or clips to take, by the start of their names.
    limit: how many to take, where there are none of those names.
    frames: of each clip.
    size: of each clip, WIDTHxHEIGHT.
  """

  config: str
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  names: tuple[str, ...] = ()
  limit: int | None = None
  frames: int | None = None
  size: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
  """A difference that has to lie in an interval, at every prefix it gives.

  Attributes:
    text: what is claimed.
    difference: from the figures, a value a prefix, or a clip; empty where it
      does not apply.
    published: what was published of it.
    above: it must be larger.
    below: it must be smaller.
    unit: of the difference.
  """

  text: str
  difference: Callable[[Figures], Values]
  published: str = ''
  above: float = 0.0
  below: float = float('inf')
  unit: str = 'dB'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
  """A table and a plot.

  Attributes:
    title: of its section.
    about: its run book: question, hardware and time, sources.
    variants: one row each.
    claims: about them.
    forms: by name.
    inputs: what is encoded.
    published: codecs of published.json to stand in the table.
    scales: of the picture, at which each prefix is shown and measured; empty:
      at its native size.
    axis: of the plot, what PSNR stands over.
    shown: scales at which the first picture, of the first variant, is drawn
      side by side.
    bases: variants whose base layers, of the first picture or clip, are drawn
      side by side.
    tolerance_db: how far means of the same pictures may be from those recorded.
  """

  title: str
  about: str
  variants: tuple[Variant, ...]
  claims: tuple[Claim, ...]
  forms: Mapping[str, Form]
  inputs: Literal['pictures', 'clips'] = 'pictures'
  published: tuple[str, ...] = ()
  scales: tuple[float, ...] = ()
  axis: Literal['splats', 'bpp'] = 'splats'
  shown: tuple[float, ...] = ()
  bases: tuple[str, ...] = ()
  tolerance_db: float = 0.15


def gain(
    better: str, worse: str, prefixes: slice = slice(None)
) -> Callable[[Figures], Values]:
  """PSNR of a variant above that of another; the top stands against the top.

  Args:
    better: the variant that is claimed to be better.
    worse: the other.
    prefixes: which differences count, of those that both have.

  Returns:
    The difference as a function of the figures.
  """

  def difference(figures: Figures) -> Values:
    pairs = zip(
        reversed(figures.psnr_db(better)), reversed(figures.psnr_db(worse))
    )
    return [a - b for a, b in pairs][::-1][prefixes]

  return difference


def above_published(variant: str, codec: str) -> Callable[[Figures], Values]:
  """PSNR of a variant above what was published of a codec."""

  def difference(figures: Figures) -> Values:
    published = figures.published_db(codec)
    return [a - b for a, b in zip(figures.psnr_db(variant), published)]

  return difference


def mean_gain(
    better: str, worse: str, prefixes: slice = slice(None)
) -> Callable[[Figures], Values]:
  """As `gain`, the mean over the prefixes."""

  def difference(figures: Figures) -> Values:
    values = gain(better, worse, prefixes)(figures)
    return [sum(values) / len(values)]

  return difference


# From textured to smooth. On average 1.6 dB easier than the 16 of
# docs/results.md: differences mean more than levels.
_FOUR = ('kodim05', 'kodim07', 'kodim19', 'kodim23')

# Rounding steps would train every strategy jointly, for as long as the fit.
_FLOAT = {'fit.rounding_steps': 0}
# Near the float fit, also where the config is not that of the tables.
_FINE = _FLOAT | {'rounding_noise': 0.02}

_COUNTS = {
    'smoke': Form(config='kodak.py:smoke', limit=1),
    'laptop': Form(
        config='kodak.py:fast', overrides=_FLOAT, names=_FOUR, limit=4
    ),
    'fast': Form(config='kodak.py:fast', overrides=_FLOAT),
    'paper': Form(config='kodak.py', overrides=_FLOAT),
}
_SPLATS_2K = {'fit.layer_splats': (50_000, 20_000, 20_000)}
_COUNTS_2K = {
    'smoke': Form(config='kodak.py:smoke', limit=1),
    'laptop': Form(
        config='kodak.py:fast', overrides=_FLOAT | _SPLATS_2K, limit=3
    ),
    'paper': Form(config='kodak.py', overrides=_FLOAT | _SPLATS_2K),
}
_RATES = {
    'smoke': Form(
        config='image.py:smoke', overrides={'fit.num_births': 4}, limit=1
    ),
    'laptop': Form(config='image.py:fast', names=_FOUR, limit=4),
    'paper': Form(config='image.py:medium'),
}

_STRATEGIES = (
    Variant(name='joint'),
    Variant(name='all_levels', overrides={'fit.strategy': 'all_levels'}),
    Variant(name='sequential', overrides={'fit.strategy': 'sequential'}),
    Variant(name='prune', overrides={'fit.strategy': 'prune'}),
    Variant(name='single', overrides={'fit.strategy': 'single'}, separate=True),
)


_CLIPS = ('davis_blackswan', 'davis_libby', 'bunny', 'flower')


def _clips(**fields) -> dict[str, Form]:
  """Forms of the four clips."""
  return {
      'smoke': Form(config='video.py:smoke', frames=3, limit=1),
      'laptop': Form(
          config='video.py:fast', names=_CLIPS, limit=4, frames=8, **fields
      ),
      'paper': Form(config='video.py', frames=96),
  }


def _rates(
    prefix: str,
    overrides: Mapping[str, Any],
    noises: Sequence[float] = (0.05, 0.15, 0.4, 1.0),
) -> tuple[Variant, ...]:
  """Videos of several qualities."""
  return tuple(
      Variant(
          name=f'{prefix}noise {noise}',
          overrides={'image.rounding_noise': noise, **overrides},
      )
      for noise in noises
  )


_560_STEPS = {'update_steps': 240, 'update_rounding_steps': 320}
_PREDICTED = _rates('', {})
_PREDICTED_560 = _rates('560 steps, ', _560_STEPS, (0.02, 0.05, 0.15))

# I-frames reach lower rates best with fewer splats.
_INTRA = (
    *(
        Variant(
            name=f'intra, 1/{part} of the splats',
            overrides={
                'gop': 1,
                'image.rounding_noise': 0.4,
                'image.fit.layer_density': tuple(
                    x / part for x in (0.0064, 0.0026, 0.0026)
                ),
            },
        )
        for part in (4, 2)
    ),
    *_rates('intra, ', {'gop': 1}, (0.4, 0.15)),
)


# I-frames of single frames: splats, as a share of the default, and noises.
_ALONE = {
    place: tuple(
        Variant(
            name=f'at {place}: {share} of the splats, noise {noise}',
            overrides={
                'image.rounding_noise': noise,
                'image.fit.layer_density': tuple(
                    share * x for x in (0.0064, 0.0026, 0.0026)
                ),
            },
            alone_at=place,
        )
        for share, noise in (
            (0.125, 0.5), (0.25, 0.5), (0.5, 0.5), (1.0, 0.5), (1.0, 0.15)
        )
    )
    for place in (0.25, 0.5, 0.75)
}  # fmt: skip


def _names(variants: Sequence[Variant]) -> list[str]:
  return [variant.name for variant in variants]


def _half_the_bytes(variants: Sequence[Variant], name: str) -> Claim:
  return Claim(
      text=f'each clip takes at most half the bytes of {name}, at its PSNR',
      difference=lambda figures: figures.bytes_percent(_names(variants), name),
      below=50.0,
      unit='%',
  )


def _image_table(published: str, **fields) -> Experiment:
  return Experiment(
      variants=_STRATEGIES,
      claims=(
          Claim(
              text='joint training is better than layer by layer (sequential)',
              difference=gain('joint', 'sequential'),
              published=published,
          ),
          Claim(
              text='low prefixes of a ranked and cut fit (prune) have holes',
              difference=gain('joint', 'prune', slice(-1)),
              published='yes, without figures',
          ),
          Claim(
              text='layers cost less than 1.1 dB against one layer',
              difference=gain('joint', 'single'),
              published='about -1.1',
              above=-1.1,
          ),
          Claim(
              text='joint reaches the PSNR published for P-GSVC (means of other'
              ' pictures)',
              difference=above_published('joint', 'P-GSVC'),
          ),
      ),
      published=('P-GSVC', 'LIG'),
      bases=tuple(variant.name for variant in _STRATEGIES),
      **fields,
  )


EXPERIMENTS = {
    'image_table': _image_table(
        '+1.9 / +2.1 / +2.1 (24 pictures, against LIG)',
        title='Strategies on pictures',
        about="""\
5,000 + 2,000 + 2,000 splats on Kodak pictures: how layers are trained. `single`
is a file of one layer for each number of splats. Float fits, finely rounded at
the end. The paper compares with LIG for sequential training.""",
        forms=_COUNTS,
    ),
    'image_table_2k': _image_table(
        '+2.4 / +2.6 / +2.6 (DIV2K validation HR, against LIG)',
        title='Strategies on 2K pictures',
        about="""\
The same with 50,000 + 20,000 + 20,000 splats on pictures of 2K (--pictures, the
paper has DIV2K validation). Two cores take a minute or two for each file.""",
        forms=_COUNTS_2K,
    ),
    'video': Experiment(
        title='Strategies on video',
        about="""\
Three layers, splats in proportion to the pixels, one I-frame: how layers are
trained, in all frames. After the fit of a frame its rounding trains all layers,
whatever the strategy, so differences are smaller than those of float fits.""",
        inputs='clips',
        variants=(
            Variant(name='joint'),
            Variant(
                name='all_levels',
                overrides={'image.fit.strategy': 'all_levels'},
            ),
            Variant(
                name='sequential',
                overrides={'image.fit.strategy': 'sequential'},
            ),
            Variant(name='prune', overrides={'image.fit.strategy': 'prune'}),
            Variant(name='single', overrides={'image.fit.strategy': 'single'}),
        ),
        claims=(
            Claim(
                text='joint training is better than layer by layer',
                difference=gain('joint', 'sequential'),
                published='up to +1.9',
            ),
            Claim(
                text='low prefixes of a ranked and cut fit (prune) have holes',
                difference=gain('joint', 'prune', slice(-1)),
            ),
            Claim(
                text='layers cost less than 1.1 dB against one layer',
                difference=gain('joint', 'single'),
                above=-1.1,
            ),
        ),
        forms=_clips(
            size='854x480',
            overrides={
                'bit_weight': 0.5,
                'image.fit.layer_density': (0.0127, 0.0051, 0.0051),
            },
        ),
        axis='bpp',
        bases=('joint', 'sequential', 'prune'),
        tolerance_db=0.3,
    ),
    'video_gsvc': Experiment(
        title='Against the coding rules of GSVC',
        about="""\
As many splats in every frame, coded by us (in three layers, at several values
of `rounding_noise`) and by the rules of GSVC (one layer): independent
differences from the frame before, positions of 16 bits a coordinate,
covariances of 6, colors by residual vector quantization. See
launch/lab/experiments/gsvc.py for what was taken in favor of GSVC. Once more
with 560 steps for each predicted frame, 140 else in the laptop form.""",
        inputs='clips',
        variants=(
            *_PREDICTED,
            Variant(name='GSVC', coder='gsvc'),
            *_PREDICTED_560,
            Variant(name='560 steps, GSVC', coder='gsvc', overrides=_560_STEPS),
        ),
        claims=(
            _half_the_bytes(_PREDICTED, 'GSVC'),
            _half_the_bytes(_PREDICTED_560, '560 steps, GSVC'),
        ),
        forms=_clips(size='428x240'),
        axis='bpp',
        tolerance_db=0.3,
    ),
    'video_intra': Experiment(
        title='Predicted frames against I-frames alone',
        about="""\
Files of four values of `rounding_noise`, with predicted frames, and files of
I-frames only (`gop=1`), of several numbers of splats and values of
`rounding_noise`: the BD-rate of whole files, of each clip.""",
        inputs='clips',
        variants=(*_PREDICTED, *_INTRA),
        claims=(
            Claim(
                text='predicted frames save bytes: BD-rate of each clip',
                difference=lambda figures: figures.bd_rates(
                    _names(_PREDICTED), _names(_INTRA)
                ),
                above=-100.0,
                below=0.0,
                unit='%',
            ),
        ),
        forms=_clips(size='428x240'),
        axis='bpp',
        tolerance_db=0.3,
    ),
    'video_frames': Experiment(
        title='Predicted frames against I-frames of their quality',
        about="""\
The frames at a quarter, half and three quarters of one group of pictures, and
each of them by itself as an I-frame, at several numbers of splats and values of
`rounding_noise`: bytes of the predicted frame, motion field included, in
percent of those of an I-frame of its PSNR, between I-frames that no other one
beats.""",
        inputs='clips',
        variants=(
            Variant(name='predicted'),
            *(variant for group in _ALONE.values() for variant in group),
        ),
        claims=(
            Claim(
                text='predicted frames take fewer bytes than I-frames',
                difference=lambda figures: figures.frames_percent(
                    'predicted', {x: _names(y) for x, y in _ALONE.items()}
                ),
                below=100.0,
                unit='%',
            ),
        ),
        forms={
            'smoke': Form(config='video.py:smoke', frames=3, limit=1),
            'laptop': Form(
                config='video.py:fast',
                names=_CLIPS,
                limit=4,
                frames=16,
                size='428x240',
            ),
            'paper': Form(config='video.py', frames=16),
        },
        axis='bpp',
        tolerance_db=0.3,
    ),
    'allocation': Experiment(
        title='Splats of the layers',
        about="""\
9,000 splats: most in the base (5,000 + 2,000 + 2,000), evenly, or most in the
top (2,000 + 3,000 + 4,000).""",
        variants=(
            Variant(name='base'),
            Variant(name='even', shares=(1, 1, 1)),
            Variant(name='top', shares=(2, 3, 4)),
        ),
        claims=(
            Claim(
                text='a larger base is a better base',
                difference=gain('base', 'even', slice(1)),
            ),
            Claim(
                text='with few splats below, the whole costs no more than'
                ' 0.5 dB',
                difference=gain('top', 'base', slice(-1, None)),
                above=-0.5,
            ),
        ),
        forms=_COUNTS,
        axis='splats',
    ),
    'rate_distortion': Experiment(
        title='Rate and distortion of the levels',
        about="""\
Files of four rates, three layers each. A file is a curve of three pieces; the
same level of all files is a curve too, and the gap between neighboring levels
at equal rate is what it costs to have the others in the file. The gap is the
mean over the rates that both curves have.""",
        variants=tuple(
            Variant(name=f'{rate} bpp', overrides={'target_bpp': rate})
            for rate in (0.15, 0.3, 0.6, 0.9)
        ),
        claims=(
            Claim(
                text='neighboring levels are less than 0.5 dB apart at equal'
                ' rate',
                difference=lambda figures: figures.gaps_db(
                    ['0.15 bpp', '0.3 bpp', '0.6 bpp', '0.9 bpp']
                ),
                published='about 0.2 apart',
                above=-0.5,
                below=0.5,
            ),
            Claim(
                text='every layer adds quality',
                difference=lambda figures: [
                    high - low
                    for rate in ('0.15', '0.3', '0.6', '0.9')
                    for low, high in zip(
                        figures.psnr_db(f'{rate} bpp'),
                        figures.psnr_db(f'{rate} bpp')[1:],
                    )
                ],
            ),
        ),
        forms=_RATES,
        axis='bpp',
    ),
    'overhead': Experiment(
        title='What layers cost',
        about="""\
A file of three layers against one of a single layer, at equal bytes (0.6 bits a
pixel). At equal splats: `single` in the strategies on pictures.""",
        variants=(
            Variant(name='three layers', overrides={'target_bpp': 0.6}),
            Variant(
                name='one layer',
                overrides={'target_bpp': 0.6, 'fit.strategy': 'single'},
            ),
        ),
        claims=(
            Claim(
                text='three layers cost less than 1.1 dB at equal bytes',
                difference=gain('three layers', 'one layer'),
                published='about -1.1, or 3 % in an older text',
                above=-1.1,
            ),
        ),
        forms=_RATES,
        axis='bpp',
    ),
    'cycle': Experiment(
        title='Cycles of the joint loss',
        about="""\
Which lower prefix a step weighs beside the full picture: the next one at every
step, one for 50 steps, a random one, or none.""",
        variants=(
            Variant(name='step'),
            Variant(name='epoch', overrides={'fit.cycle': 'epoch'}),
            Variant(name='random', overrides={'fit.cycle': 'random'}),
            Variant(name='none', overrides={'fit.cycle': 'none'}),
        ),
        claims=(
            Claim(
                text='without lower prefixes in the loss, they are worse',
                difference=gain('step', 'none', slice(-1)),
            ),
            Claim(
                text='lower prefixes in the loss cost the whole picture less'
                ' than 1.1 dB',
                difference=gain('step', 'none', slice(-1, None)),
                above=-1.1,
            ),
            Claim(
                text='by the step is no worse than by the epoch (mean of the'
                ' prefixes, within 0.1 dB)',
                difference=mean_gain('step', 'epoch'),
                above=-0.1,
            ),
            Claim(
                text='by the step is no worse than random (the same)',
                difference=mean_gain('step', 'random'),
                above=-0.1,
            ),
        ),
        forms=_COUNTS,
    ),
    'incremental': Experiment(
        title='Layers one after the other, or all from the start',
        about="""\
Layers are born one after the other, each where the residual is large, or all
grow at the same time from the first step on. Joint training in both.""",
        variants=(
            Variant(name='incremental'),
            Variant(name='at once', overrides={'fit.incremental': False}),
        ),
        claims=(
            Claim(
                text='incremental is better (mean of the prefixes)',
                difference=mean_gain('incremental', 'at once'),
            ),
        ),
        forms=_COUNTS,
    ),
    'resolution': Experiment(
        title='Layers of several sizes',
        about="""\
Layers for 1/4, 1/2 and the whole size, shown at 1/4, 1/2 and 1: a ladder, whose
layers were fitted at these sizes; the same splats as three layers of the whole
size; and for each size a file of its own with as many splats. Where a level
lies is found by phase correlation with the picture at its size.""",
        variants=(
            Variant(name='ladder'),
            Variant(name='one size', overrides={'fit.layer_scales': ()}),
            Variant(
                name='separate',
                overrides={
                    'fit.layer_scales': (),
                    'fit.layer_density': (),
                    'fit.strategy': 'single',
                    # Those of a ladder are for three layers.
                    'fit.num_births': 36,
                },
                separate=True,
            ),
        ),
        claims=(
            Claim(
                text='at small sizes, layers of these sizes show more (mean of'
                ' 1/4 and 1/2)',
                difference=mean_gain('ladder', 'one size', slice(-1)),
            ),
            Claim(
                text='which costs the whole picture less than 0.5 dB',
                difference=gain('ladder', 'one size', slice(-1, None)),
                above=-0.5,
            ),
            Claim(
                text='levels are within 0.5 dB of a file for each size',
                difference=gain('ladder', 'separate'),
                above=-0.5,
            ),
            Claim(
                text='levels lie where the picture does',
                difference=lambda figures: figures.shifts('ladder'),
                above=-0.05,
                below=0.05,
                unit='pixels',
            ),
        ),
        forms={
            'smoke': Form(config='resolution.py:smoke', limit=1),
            'laptop': Form(config='resolution.py:fast', overrides=_FINE),
            'paper': Form(config='resolution.py', overrides=_FINE),
        },
        scales=(0.25, 0.5, 1.0),
        shown=(0.25, 0.5, 1.0, 1.5, 2.0),
    ),
}
