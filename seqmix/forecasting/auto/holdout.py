"""The held-out rows on which the models of a portfolio are compared."""

from dataclasses import dataclass

import numpy as np

from seqmix.forecasting.auto.ensemble import units
from seqmix.forecasting.long import Long, head, picked
from seqmix.forecasting.plan import MOST_CHANNELS

# windows of short series, and the share of series that must be long enough for one window more
_WINDOWS = 3
_SHARE = 0.75
# rows before the first cutoff
_LEAST = 3
# long series have more windows, in this share of their rows: as many as that, and no more forecasts of all series
_LAST = 0.2
_MOST = 32
_FORECASTS = 512


@dataclass(frozen=True)
class Holdout:
    """Held-out rows at the end of series that are long enough, several horizons of them.

    Args:
        train: the rows of all such series before the first cutoff.
        long: a sample of them with all rows.
        rows: rows after each cutoff, ``(K,)``.
        truth: observed values, NaN where missing, ``(n, K, horizon)``.
        unit: unit of the errors of each of the sample, from its rows before the first cutoff, ``(n,)``.
    """

    train: Long
    long: Long
    rows: np.ndarray
    truth: np.ndarray
    unit: np.ndarray


def make_holdout(long: Long, horizon: int, season: int, seed: int, mode: str) -> Holdout | None:
    """Choose the rows to compare models on; None where no series is long enough.

    Short series have as many windows, one after another, as most of them have with a season and a horizon before the
    first cutoff; or else with a horizon, or with three rows. Long series have more of them, spread over their last
    rows, for three neighbors say little about a year.

    Args:
        long: the frame.
        horizon: steps of a forecast.
        season: steps of the season.
        seed: seed of the sample.
        mode: ``multivariate`` for models that forecast all series together: the sample is all of them. With other modes
            models forecast as many together as the sample has at most.
    """
    lengths = np.diff(long.indptr)
    rows, least = _cutoffs(lengths, horizon, season)
    enough = np.flatnonzero(lengths - rows[0] >= least)
    if not len(enough):
        return None
    sample = enough
    if len(enough) > MOST_CHANNELS and mode != "multivariate":
        sample = np.sort(np.random.default_rng(seed).choice(enough, MOST_CHANNELS, replace=False))
    tested = picked(long, sample)
    at = tested.indptr[1:, None, None] - rows[:, None] + np.arange(horizon)
    return Holdout(
        train=head(picked(long, enough), lengths[enough] - rows[0]),
        long=tested,
        rows=rows,
        truth=np.asarray(tested.y, float)[at],
        unit=units(tested, int(rows[0]), season),
    )


def _cutoffs(lengths: np.ndarray, horizon: int, season: int) -> tuple[np.ndarray, int]:
    """Rows after each cutoff, ``(K,)``, and the rows that a series needs before the first."""
    sizes = [(windows, max(horizon, rows)) for rows in (season + 2, _LEAST) for windows in range(_WINDOWS, 0, -1)]
    for windows, least in [*sizes, (1, _LEAST)]:
        if (lengths - windows * horizon >= least).mean() >= _SHARE:
            break
    length = np.quantile(lengths, 1 - _SHARE)
    room = int(min(_LAST * length, length - least)) // horizon
    more = min(room, _MOST, _FORECASTS // len(lengths))
    if more <= windows:
        room = more = windows
    # uneven steps, so that no day of the week is all there is
    steps = np.linspace(1, room, more).round().astype(int)
    return horizon * steps[::-1], least
