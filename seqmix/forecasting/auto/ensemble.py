"""A weighted ensemble of fitted models, with the methods of ``Fitted``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from seqmix.data.series.panel import season_error
from seqmix.errors import ConfigError, SeqmixError
from seqmix.forecasting.auto.parts import Found, Local, Part
from seqmix.forecasting.auto.spread import Spread, check_wanted, stretched
from seqmix.forecasting.auto.weights import Weights, combined
from seqmix.forecasting.clock import Clock
from seqmix.forecasting.frame import Reading, stamped, tested
from seqmix.forecasting.kind import Kind
from seqmix.forecasting.long import Long, named
from seqmix.forecasting.member import Member
from seqmix.forecasting.options import AUTO
from seqmix.forecasting.plan import Plan, bounds
from seqmix.forecasting.scales import Scales
from seqmix.forecasting.warning import warn


@dataclass
class Ensemble:
    """Weighted ensemble: its forecast is the weighted mean of the models, quantile by quantile.

    Args:
        reading: how frames are read.
        plan: horizon, season and levels.
        clock: the time steps.
        kind: library and types of the frame of the fit.
        ids: the series, in order of first appearance.
        last: stamp of the last row of each series.
        scales: units of errors of a test.
        unit: units of the intervals of each series.
        naive: the seasonal naive forecast, used where no other part has a forecast.
        parts: the models that have a weight.
        weights: their weights for each series, and for series that were not fitted.
        spreads: the errors of each part, for the intervals of those that forecast no quantiles.
        stretch: factor that calibrates the intervals of each coverage.
        leaderboard: the models that were tried, with errors, weight and seconds.
        history: errors during training.
        report: sizes of the fit.
        notes: messages for the user.
    """

    reading: Reading
    plan: Plan
    clock: Clock
    kind: Kind
    ids: pd.Index
    last: np.ndarray
    scales: Scales
    unit: np.ndarray
    naive: Local
    parts: list[Part]
    weights: Weights
    spreads: list[Spread]
    stretch: np.ndarray
    leaderboard: pd.DataFrame
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    report: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def first_plan(self) -> Plan:
        """The plan of all."""
        return self.plan

    @property
    def members(self) -> list[Member]:
        """The trained models among the parts."""
        return [member for part in self.parts for member in part.members]

    def forecast(
        self,
        long: Long | None,
        static: pd.DataFrame | None,
        future: pd.DataFrame | None,
        horizon: int,
        levels: Sequence[float],
        quantiles: Sequence[float],
    ) -> pd.DataFrame:
        """Forecasts after the last rows of ``long``, or of the frame of the fit; one row for each series and step."""
        if horizon > self.plan.horizon and (levels or quantiles):
            raise ConfigError(
                f"intervals are known up to the fitted horizon {self.plan.horizon}, got {horizon}; fit with that "
                "horizon, or pass levels=[]"
            )
        rows: Any = self if long is None else long
        self.clock.check_zone(rows.clock, "df")
        unit = self.unit if long is None else units(long, 0, self.plan.season)
        frame = stamped(self.reading, rows.clock, rows.ids, rows.last, horizon)
        weights = self.weights.of(self.ids.get_indexer(rows.ids))

        def run(part: Part, wanted: Sequence[float]) -> Found:
            return part.forecast(long, static, future, horizon, wanted)

        columns = self._columns(unit, weights, levels, quantiles, run)
        return frame.assign(**columns)

    def backtest(
        self,
        long: Long,
        static: pd.DataFrame | None,
        rows: np.ndarray,
        levels: Sequence[float],
        quantiles: Sequence[float],
    ) -> pd.DataFrame:
        """Forecasts from cutoffs ``rows`` ``(K,)`` before the end of each series, with ``cutoff`` and the truth."""
        self.clock.check_zone(long.clock, "df")
        H = self.plan.horizon
        unit = np.stack([units(long, int(after), self.plan.season) for after in rows], 1)  # (n, K)
        weights = self.weights.of(self.ids.get_indexer(long.ids))

        def run(part: Part, wanted: Sequence[float]) -> Found:
            return part.backtest(long, static, rows, H, wanted)

        columns = self._columns(unit, weights, levels, quantiles, run)
        return tested(self.reading, long, rows, H).assign(**columns)

    def _columns(
        self,
        unit: np.ndarray,
        weights: np.ndarray,
        levels: Sequence[float],
        quantiles: Sequence[float],
        run: Callable[[Part, Sequence[float]], Found],
    ) -> dict[str, np.ndarray]:
        """The point forecast, bounds and quantiles, each of all series, cutoffs and steps in a row."""
        wanted = [*(q for level in levels for q in bounds(level)), *quantiles]
        check_wanted(wanted)
        labels = [f"{AUTO}-{side}-{level:g}" for level in levels for side in ("lo", "hi")]
        labels += [f"{AUTO}_q{q:g}" for q in quantiles]
        point, spread = self._combined(run, wanted, np.nan_to_num(unit), weights)
        columns = {AUTO: point, **{label: spread[..., i] for i, label in enumerate(labels)}}
        return {name: (x.clip(min=0) if self.plan.nonnegative else x).ravel() for name, x in columns.items()}

    def _combined(
        self,
        run: Callable[[Part, Sequence[float]], Found],
        wanted: Sequence[float],
        unit: np.ndarray,
        weights: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Point forecasts and quantiles; the weight of parts that fail, or forecast NaN, goes to the others."""
        points, spreads, shares, failed = [], [], [], []
        for part, weight, spread in zip(self.parts, weights, self.spreads, strict=True):
            try:
                point, levels = run(part, wanted)
            except SeqmixError:
                # the frame or an option is wrong, for every part
                raise
            except Exception as e:
                # whatever else one part fails of, the others have a forecast
                failed.append(f"{part.name} ({type(e).__name__}: {e})")
                continue
            points.append(point)
            spreads.append(spread.quantiles(point, unit, wanted) if levels is None else levels)
            shares.append(weight)
        if failed:
            warn(f"parts of auto failed, and the others stand in: {named(failed)}")
        naive = run(self.naive, ()).point
        # a series without a value
        naive = np.where(np.isfinite(naive), naive, 0.0)
        if not points:
            points, spreads, shares = [naive], [np.repeat(naive[..., None], len(wanted), -1)], [np.ones(len(naive))]
        point, spread = (combined(np.stack(x), np.stack(shares)) for x in (points, spreads))
        point = np.where(np.isfinite(point), point, naive)
        spread = np.where(np.isfinite(spread), spread, point[..., None])
        return point, stretched(spread, point, wanted, self.stretch)


def units(long: Long, after: int, season: int) -> np.ndarray:
    """Unit of the errors of each series, ``(n,)``: its mean absolute change over a season, or over a step; or NaN.

    Args:
        long: the series.
        after: rows at their end to ignore.
        season: steps of the season.
    """
    lengths = np.diff(long.indptr) - after
    by_season, by_step = (season_error(long.y[:, None], long.indptr, lengths, s).ravel() for s in (season, 1))
    return np.where(np.isnan(by_season), by_step, by_season)
