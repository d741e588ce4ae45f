"""A fitted Forecaster's state: everything that forecasts and tests need."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from seqmix.data.series.panel import LARGEST, scaling
from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.arrange import Arrays, Ends, arrange, ends
from seqmix.forecasting.clock import Clock
from seqmix.forecasting.covariates import Inputs, ahead
from seqmix.forecasting.frame import Reading, stamped, tested
from seqmix.forecasting.given_rows import static_rows
from seqmix.forecasting.kind import Kind
from seqmix.forecasting.long import Long, channels, named
from seqmix.forecasting.member import Member
from seqmix.forecasting.plan import Plan
from seqmix.forecasting.scales import Scales
from seqmix.forecasting.warning import warn

# a window is of another kind of series if all its values are this many scales away from the mean
_FAR = 1e4


@dataclass
class Fitted:
    """State of a fitted Forecaster: models, scales and the last rows of the series.

    Args:
        reading: how frames are read.
        plan: resolved options; that of a model may differ in context, loss and normalization.
        clock: the time steps.
        kind: library and types of the frame of the fit.
        ids: the series, in order of first appearance.
        inputs: how covariates become numbers.
        loc: mean of the training rows, ``(n, C)``.
        scale: divisor of the series, ``(n, C)``.
        scales: units of errors, from the training rows.
        ends: the last rows of each series.
        last: stamp of the last row of each series, one for each id.
        members: the fitted models.
        history: errors during training.
        report: sizes of the fit.
        notes: messages for the user.
    """

    reading: Reading
    plan: Plan
    clock: Clock
    kind: Kind
    ids: pd.Index
    inputs: Inputs
    loc: np.ndarray
    scale: np.ndarray
    scales: Scales
    ends: Ends
    last: np.ndarray
    members: list[Member] = field(default_factory=list)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    report: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def parts(self) -> "list[Fitted]":
        """The fits of models that were fitted apart: this one."""
        return [self]

    @property
    def first_plan(self) -> Plan:
        """The plan of the first model."""
        return self.members[0].plan

    @property
    def context(self) -> int:
        """The longest lookback of the models."""
        return max(member.plan.context for member in self.members)

    @property
    def leaderboard(self) -> pd.DataFrame:
        """Refused: only the automatic choice compares models."""
        raise ConfigError("leaderboard_ is what model='auto' leaves; compare models by cross_validation and evaluate")

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
        self._check(horizon, levels, quantiles)
        ids, last, start = self.ids, self.last, self.ends
        if long is not None:
            long = channels(long, ids) if self.plan.joint else long
            ids, last, start = long.ids, long.last, self._last_windows(long, static)
        blank = np.isnan(start.values).all(1).ravel()
        if blank.any():
            warn(
                f"{blank.sum()} of {len(ids)} series {'has' if blank.sum() == 1 else 'have'} no value in the last "
                f"{start.values.shape[1]} rows, so that nothing is known to forecast from; leave them out: "
                f"{named(list(ids[blank]))}"
            )
        # models always forecast their whole horizon
        steps = -(-horizon // self.plan.horizon) * self.plan.horizon
        clock = self.clock if long is None else long.clock
        self.clock.check_zone(clock, "df")
        where = (self.reading, clock, ids, last, horizon, steps)
        known = ahead(self.inputs, *where, future, joint=self.plan.joint)
        frame = stamped(self.reading, clock, ids, last, horizon)
        return frame.assign(**self._columns(start, known, horizon, levels, quantiles, self._at(ids)))

    def backtest(
        self,
        long: Long,
        static: pd.DataFrame | None,
        rows: np.ndarray,
        levels: Sequence[float],
        quantiles: Sequence[float],
    ) -> pd.DataFrame:
        """Forecasts from cutoffs ``rows`` ``(K,)`` before the end of each series, with ``cutoff`` and the truth."""
        long = channels(long, self.ids) if self.plan.joint else long
        arrays, H, K = self._arrays(long, static), self.plan.horizon, len(rows)
        n = len(arrays.indptr) - 1
        series = np.repeat(np.arange(n), K)
        end = arrays.indptr[1:][series] - np.tile(rows, n)  # (n K,)
        known = None if arrays.future is None else arrays.future[end[:, None] + np.arange(H)]  # (n K, H, F)
        start = ends(arrays, series, end, self.context, *self._scales(long, arrays))
        self.clock.check_zone(long.clock, "df")
        at = np.repeat(self._at(long.ids), K)
        return tested(self.reading, long, rows, H).assign(**self._columns(start, known, H, levels, quantiles, at))

    def _check(self, horizon: int, levels: Sequence[float], quantiles: Sequence[float]) -> None:
        """Refuse forecasts that cannot be made, and warn of a horizon beyond the fitted one."""
        plan, past = self.plan, self.reading.past
        calibrated = next((member.plan.calibrated for member in self.members if member.plan.calibrated), ())
        lacking = sorted(set(levels) - set(calibrated))
        if calibrated and lacking:
            raise ConfigError(
                f"levels {lacking} were not calibrated, {list(calibrated)} were; fit with levels={sorted(levels)}"
            )
        for member in self.members:
            member.plan.check_native(member.name, levels, quantiles)
        any_horizon = all(member.choice.cls.pretrained for member in self.members)
        if horizon <= plan.horizon or (any_horizon and not calibrated):
            return
        if levels or quantiles:
            raise ConfigError(
                f"intervals are known up to the fitted horizon {plan.horizon}, got {horizon}; fit with that horizon"
                ", or pass levels=[]"
            )
        if past:
            raise ConfigError(
                f"past covariates {named(list(past))} are not known beyond the fitted horizon {plan.horizon}, got "
                f"{horizon}; fit with that horizon"
            )
        if not any_horizon:
            warn(f"horizon {horizon} is longer than the fitted {plan.horizon}: forecasts are made from forecasts")

    def _arrays(self, long: Long, static: pd.DataFrame | None) -> Arrays:
        rows = static_rows(long, self.reading.static, static, self.reading.id_col)
        return arrange(long, self.inputs, rows, joint=self.plan.joint)

    def _last_windows(self, long: Long, static: pd.DataFrame | None) -> Ends:
        lengths = np.diff(long.indptr)
        # pretrained models take histories of any length
        context = max((m.plan.context for m in self.members if not m.choice.cls.pretrained), default=0)
        few = np.flatnonzero(lengths < context)
        if len(few):
            warn(
                f"{len(few)} of {len(long.ids)} series have fewer than context_length = {context} rows and are "
                f"padded: {named([f'{long.ids[i]} ({lengths[i]})' for i in few])}"
            )
        arrays = self._arrays(long, static)
        return last_windows(arrays, self.plan, self.context, long.ids, *self._scales(long, arrays))

    def _scales(self, long: Long, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        """Scales of each series: those of the fit, or from all its rows if it was not fitted."""
        if self.plan.joint:
            return self.loc, self.scale
        at = self.ids.get_indexer(long.ids)
        scaler = "none" if (at >= 0).all() else self.plan.scaler
        lengths, typical = np.diff(arrays.indptr), float(np.median(self.scale))
        loc, scale = scaling(arrays.values, arrays.indptr, lengths, scaler, self.plan.season, typical=typical)
        known = (at >= 0)[:, None]
        return np.where(known, self.loc[at], loc), np.where(known, self.scale[at], scale)

    def _at(self, ids: pd.Index) -> np.ndarray:
        """Numbers of series among those of the fit, -1 for others; channels are those of one series."""
        return np.zeros(1, int) if self.plan.joint else self.ids.get_indexer(ids)

    def _columns(
        self,
        start: Ends,
        known: np.ndarray | None,
        horizon: int,
        levels: Sequence[float],
        quantiles: Sequence[float],
        at: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """The columns of all members for windows of the series ``at`` of the fit, in the order of the ids."""
        found: dict[str, np.ndarray] = {}
        for member in self.members:
            found |= member.columns(start, known, horizon, levels, quantiles, at)
        # (n K, horizon, C) as (ids, K, horizon), flat: an id is a series, or a channel
        joint = self.plan.joint
        return {name: (x.transpose(2, 0, 1) if joint else x[..., 0]).ravel() for name, x in found.items()}


def last_windows(arrays: Arrays, plan: Plan, context: int, ids: pd.Index, loc: np.ndarray, scale: np.ndarray) -> Ends:
    """The last ``context`` rows of each series; those that ``loc`` and ``scale`` do not fit are scaled by themselves.

    Raises:
        DataError: if values that are not scaled are too large.
    """
    start = ends(arrays, np.arange(len(arrays.indptr) - 1), arrays.indptr[1:], context, loc, scale)
    nearest, farthest = start.distances
    far = (nearest > _FAR) | (farthest > LARGEST) if plan.scaler != "none" else farthest > LARGEST
    if not far.any():
        return start
    which = named(list(ids[far.ravel()]))
    if plan.scaler == "none":
        raise DataError(f"values of {which} are too large; divide them by a power of ten, or use scaler='standard'")
    warn(
        f"values of {far.sum()} of {len(ids)} series are far from those of the fit, and are scaled by themselves: "
        f"{which}"
    )
    own = scaling(arrays.values, arrays.indptr, np.diff(arrays.indptr), plan.scaler, plan.season)
    return start._replace(loc=np.where(far, own[0], loc), scale=np.where(far, own[1], scale))
