"""The mixture of generated series for pretraining: shares, seasons, lengths of history."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from seqmix.data.series.synthetic._rows import log_uniform, spread, standardize
from seqmix.data.series.synthetic.composed import composed, intermittent
from seqmix.data.series.synthetic.daily import daily_cycles
from seqmix.data.series.synthetic.ets import ets
from seqmix.data.series.synthetic.kernels import kernel_synth
from seqmix.data.series.synthetic.noise import level_shift, missing, noiser, rounded, spikes
from seqmix.data.series.synthetic.processes import flat, regimes, sawtooth, shots, steps, walks
from seqmix.data.series.synthetic.sarima import sarima, sarima_pair

Make = Callable[[int, int, np.ndarray, np.random.Generator], np.ndarray]
# the season of the frequency, the longer one, and how often
Seasons = tuple[tuple[float, float, float], ...]


class Kind(NamedTuple):
    """One row of the mixture: which series, how many, with which seasons and histories."""

    #: part of all series
    share: float
    #: makes series of these periods: ``(n, length, periods, rng) -> (n, length)``
    make: Make
    seasons: Seasons
    #: shortest and longest history; the longest one is at most the context
    history: tuple[int, int]
    #: part of the series whose history is log-uniform between the two, instead of the longest
    cut: float
    #: part whose values are the rates of a noiser
    noised: float = 0.0
    #: part that is turned upside down
    flipped: float = 0.1
    #: part that is the exponential of what is seen, so that growth accelerates and noise grows with the level
    curved: float = 0.0
    #: how often shifts, spikes, rounding and missing values come, as a part of the constants below
    rough: float = 1.0


def _none(generator: Callable[..., np.ndarray]) -> Make:
    """Generator of series without a period."""
    return lambda n, length, periods, rng: generator(n, length, rng=rng)


def _one(generator: Callable[..., np.ndarray]) -> Make:
    """Generator that takes the first period."""
    return lambda n, length, periods, rng: generator(n, length, period=periods[:, 0], rng=rng)


def _two(generator: Callable[..., np.ndarray]) -> Make:
    """Generator that takes both periods."""
    return lambda n, length, periods, rng: generator(n, length, periods=periods, rng=rng)


def _growing(n: int, length: int, *, period: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """SARIMA series that are integrated once or more, their seasons seldom."""
    return sarima(
        n,
        length,
        period=period,
        orders=(3, 2),
        seasonal_r_max=0.8,
        d=(0.6, 1.6),
        integrated=0.85,
        seasonally_integrated=0.3,
        rng=rng,
    )


# weights of trend, first and second season and noise of composed series
GROWTH, CYCLES = (8.0, 0.5, 0.3, 0.2), (0.3, 0.8, 0.5, 0.12)
# the context is the limit
ANY_LENGTH = 1_000_000
# seasons of the frequencies, and their shares
LOW: Seasons = ((0, 0, 0.28), (4, 0, 0.26), (12, 0, 0.36), (52, 0, 0.04), (7, 0, 0.04), (24, 0, 0.02))
HOURLY: Seasons = ((24, 168, 0.62), (24, 0, 0.06), (48, 336, 0.14), (96, 672, 0.14), (144, 1008, 0.04))
DAILY: Seasons = ((7, 0, 0.4), (7, 365.25, 0.4), (7, 30.44, 0.1), (5, 0, 0.1))
WEEKLY: Seasons = ((52.18, 0, 1.0),)
# seasonal polynomials take whole periods
WEEKS: Seasons = ((52, 0, 1.0),)
ANY: Seasons = (
    *((first, second, 0.35 * share) for first, second, share in HOURLY),
    *((first, second, 0.25 * share) for first, second, share in DAILY),
    (52.18, 0, 0.1),
    (12, 0, 0.08),
    (4, 0, 0.02),
    (10, 0, 0.03),
    (30, 0, 0.03),
    (60, 0, 0.02),
    (0, 0, 0.12),
)
NONE: Seasons = ((0, 0, 0.2), (7, 0, 0.3), (5, 0, 0.1), (52, 0, 0.3), (24, 168, 0.1))

KINDS = {
    # 37 %: yearly, quarterly and monthly series, as of the M competitions
    "low, smoothing": Kind(0.22, _one(ets), LOW, (4, 150), 1.0, curved=0.4, rough=0.3),
    "low, composed": Kind(0.09, _two(partial(composed, weights=GROWTH)), LOW, (6, 150), 1.0, curved=0.4, rough=0.3),
    "low, sarima": Kind(0.06, _one(_growing), LOW, (6, 150), 1.0, curved=0.4, rough=0.3),
    # 28 %: cycles of the day and the week
    "hourly, cycles": Kind(0.21, _two(daily_cycles), HOURLY, (24, ANY_LENGTH), 0.25),
    "hourly, composed": Kind(0.05, _two(partial(composed, weights=CYCLES)), HOURLY, (24, ANY_LENGTH), 0.25, noised=0.2),
    "hourly, sarima": Kind(0.02, _two(sarima_pair), HOURLY, (24, ANY_LENGTH), 0.25, noised=0.3),
    # 35 %: the others
    "daily": Kind(0.07, _two(composed), DAILY, (10, ANY_LENGTH), 0.7, noised=0.2),
    "weekly, seasonal": Kind(0.03, _two(composed), WEEKLY, (30, ANY_LENGTH), 0.7, noised=0.15),
    "weekly, trends": Kind(0.05, _two(partial(composed, weights=GROWTH)), WEEKLY, (30, ANY_LENGTH), 0.7, curved=0.3),
    "weekly, sarima": Kind(0.04, _one(_growing), WEEKS, (30, ANY_LENGTH), 0.7, curved=0.3),
    "sarima": Kind(0.035, _two(sarima_pair), ANY, (3, ANY_LENGTH), 0.7, noised=0.4, flipped=0.5),
    "kernels": Kind(0.025, _one(kernel_synth), ANY, (3, ANY_LENGTH), 0.7, noised=0.2, flipped=0.5),
    "intermittent": Kind(0.02, _one(intermittent), ANY, (10, ANY_LENGTH), 0.7, flipped=0),
    "shots": Kind(0.015, _one(shots), ANY, (10, ANY_LENGTH), 0.7),
    "walks": Kind(0.04, _none(walks), NONE, (3, ANY_LENGTH), 0.7, flipped=0.5, rough=0.3),
    "regimes": Kind(0.008, _none(regimes), NONE, (3, ANY_LENGTH), 0.7, flipped=0.5),
    "steps": Kind(0.006, _none(steps), NONE, (3, ANY_LENGTH), 0.7, flipped=0.5),
    "sawtooth": Kind(0.006, _one(sawtooth), ANY, (3, ANY_LENGTH), 0.7, flipped=0.5),
    "flat": Kind(0.005, _none(flat), NONE, (3, ANY_LENGTH), 0.7, rough=0),
}
# parts of all series, times `rough`
SHIFTED, SPIKED, ROUNDED, GAPS = 0.1, 0.1, 0.1, 0.3
# part of the values that are missing where there are gaps
MISSING = 0.05
# part of the series that are a mean of up to three of the same season (TSMixup)
MIXED = 0.2
# parts with an announced season that is not there, and with one that is there and not announced
ABSENT, UNANNOUNCED = 0.12, 0.12


class Batch(NamedTuple):
    """Generated series: values ``x (n, length)``, where they are seen ``mask``, announced ``periods (n, 2)``."""

    x: np.ndarray
    mask: np.ndarray
    periods: np.ndarray


def draw(n: int, context: int, horizon: int, *, seed: int | tuple[int, ...]) -> Batch:
    """Draw ``n`` series of the mixture, of ``context + horizon`` values each.

    They depend on the arguments alone. A short history stands at the end of the context: values before it are masked,
    as are missing ones, and 0. The others have mean 0 and deviation 1 over all that are seen, so that no one is larger
    than the square root of the length. Constant series are 0.

    Args:
        n: number of series.
        context: longest history.
        horizon: values after it.
        seed: of ``numpy.random.default_rng``; a tuple of seed and step for a training run.

    Returns:
        ``x`` in float32, ``mask`` (bool), and ``periods`` (int64): the season of the frequency and a longer one, 0 for
        none, as a user knows them, which is not always how the series is.
    """
    rng = np.random.default_rng(seed)
    counts = spread(n, np.array([kind.share for kind in KINDS.values()]), rng)
    parts = [
        _draw_kind(kind, int(k), context, horizon, rng) for kind, k in zip(KINDS.values(), counts, strict=True) if k
    ]
    x, mask, periods = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = rng.permutation(n)
    return Batch(x[order], mask[order], periods[order])


def _draw_kind(kind: Kind, n: int, context: int, horizon: int, rng: np.random.Generator) -> Batch:
    longest = min(kind.history[1], context)
    length = longest + horizon
    true, announced = _periods(kind.seasons, n, rng)
    y = kind.make(n, length, true, rng)
    noised = rng.random(n) < kind.noised
    y[noised] = noiser(y[noised], rng=rng)
    y = _mixed(standardize(y), announced, rng)
    for share, change in ((SHIFTED, level_shift), (SPIKED, spikes), (ROUNDED, rounded)):
        rows = rng.random(n) < kind.rough * share
        y[rows] = change(y[rows], rng=rng)
    y *= np.where(rng.random((n, 1)) < kind.flipped, -1, 1)
    cut = rng.random(n) < kind.cut
    history = np.where(cut, log_uniform(rng, min(kind.history[0], longest), longest + 1, n), longest).astype(int)
    gaps = missing(n, length, share=MISSING, rng=rng) & (rng.random((n, 1)) < kind.rough * GAPS)
    seen = (np.arange(length) >= longest - history[:, None]) & ~gaps
    curved = np.where(rng.random((n, 1)) < kind.curved, log_uniform(rng, 0.1, 1.2, (n, 1)), 0.0)
    y = np.where(curved > 0, np.exp(curved * standardize(y, seen) * seen), y)
    before = ((0, 0), (context - longest, 0))
    x = (standardize(np.where(seen, y, 0.0), seen) * seen).astype(np.float32)
    return Batch(np.pad(x, before), np.pad(seen, before), announced)


def _periods(seasons: Seasons, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Periods ``(n, 2)`` that series have, and those that are announced, as integers."""
    table = np.array(seasons)
    drawn = table[rng.choice(len(table), n, p=table[:, 2] / table[:, 2].sum()), :2]
    surprise = rng.random((n, 1))
    true = np.where(surprise < ABSENT, 0, drawn)
    announced = np.where((surprise >= ABSENT) & (surprise < ABSENT + UNANNOUNCED), 0, np.round(drawn))
    return true, announced.astype(np.int64)


def _mixed(y: np.ndarray, announced: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replace part of the rows by weighted means with one or two others of the same announced season."""
    n = len(y)
    weights = rng.dirichlet((1.5, 1.5, 1.5), n)
    # the third one takes part in half of them
    weights[:, 2] *= rng.random(n) < 0.5
    # the row itself weighs most: its season is the announced one
    weights.sort(1)
    mixed = weights[:, 2:] * y
    for column in (0, 1):
        mixed += weights[:, column, None] * y[_partners(announced[:, 0], rng)]
    return np.where(rng.random((n, 1)) < MIXED, standardize(mixed), y)


def _partners(season: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each row another one, or itself, of the same season, at random."""
    _, group, size = np.unique(season, return_inverse=True, return_counts=True)
    first = np.cumsum(size) - size
    return np.argsort(season, kind="stable")[first[group] + np.floor(rng.random(len(season)) * size[group]).astype(int)]
