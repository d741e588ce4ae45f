"""The held-out rows on which the models of a portfolio are compared."""

from dataclasses import dataclass

import numpy as np

from seqmix.forecasting.auto.ensemble import units
from seqmix.forecasting.long import Long, head, picked
from seqmix.forecasting.plan import MOST_CHANNELS

# windows at most, and the share of series that must be long enough for one window more
_WINDOWS = 3
_SHARE = 0.75
# rows before the first cutoff
_LEAST = 3


@dataclass(frozen=True)
class Holdout:
    """Held-out rows at the end of series that are long enough, several horizons one after another.

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

    As many windows as most series have, with a season and a horizon before the first cutoff; or else with a horizon, or
    with three rows.

    Args:
        long: the frame.
        horizon: steps of a forecast.
        season: steps of the season.
        seed: seed of the sample.
        mode: ``multivariate`` for models that forecast all series together: the sample is all of them. With other modes
            models forecast as many together as the sample has at most.
    """
    lengths = np.diff(long.indptr)
    sizes = [(windows, max(horizon, rows)) for rows in (season + 2, _LEAST) for windows in range(_WINDOWS, 0, -1)]
    for windows, least in [*sizes, (1, _LEAST)]:
        if (lengths - windows * horizon >= least).mean() >= _SHARE:
            break
    enough = np.flatnonzero(lengths - windows * horizon >= least)
    if not len(enough):
        return None
    sample = enough
    if len(enough) > MOST_CHANNELS and mode != "multivariate":
        sample = np.sort(np.random.default_rng(seed).choice(enough, MOST_CHANNELS, replace=False))
    tested = picked(long, sample)
    rows = horizon * np.arange(windows, 0, -1)
    at = tested.indptr[1:, None, None] - rows[:, None] + np.arange(horizon)
    return Holdout(
        train=head(picked(long, enough), lengths[enough] - windows * horizon),
        long=tested,
        rows=rows,
        truth=np.asarray(tested.y, float)[at],
        unit=units(tested, windows * horizon, season),
    )
