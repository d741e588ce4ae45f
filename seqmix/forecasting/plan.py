"""The plan of a fit: what the options come to for the data at hand, by pure functions of lengths, clock and options."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from seqmix.errors import ConfigError, DataError, check_choice
from seqmix.forecasting.clock import Clock
from seqmix.forecasting.long import Long

# losses whose forecast holds its own uncertainty
_SPREAD = ("quantile", "normal", "student_t", "negative_binomial")


@dataclass(frozen=True)
class Plan:
    """What is fitted, without "auto" and without None; ``forecaster.plan_`` shows it.

    Args:
        horizon: steps that are forecast at once.
        context: steps that the models see.
        season: steps of the season, of the seasonal naive forecast and of MASE; 1 for none.
        joint: the series are channels of one.
        normalize: how each window is normalized.
        scaler: how each series is scaled.
        loss: what training minimizes.
        levels: coverage of the intervals that predict gives, in percent.
        calibrated: levels whose quantiles are calibrated, rising; empty for point forecasts, whose errors serve any.
        calendar: features of the calendar are known-future inputs.
        short: what is done about series that are shorter than a window.
        seed: seed of weights, order and dropout.
    """

    horizon: int
    context: int
    season: int
    joint: bool
    normalize: Literal["season", "window", "last", "none"]
    scaler: Literal["season", "standard", "none"]
    loss: Any
    levels: tuple[float, ...]
    calibrated: tuple[float, ...]
    calendar: bool
    short: Literal["pad", "drop", "error"]
    seed: int

    @property
    def spread(self) -> bool:
        """Forecasts hold their own uncertainty: quantiles or the parameters of a distribution."""
        return isinstance(self.loss, str) and self.loss in _SPREAD

    @property
    def quantiles(self) -> list[float] | None:
        """Quantiles that are trained; None where the loss has its own or none."""
        if self.loss != "quantile" or not self.levels:
            return None
        return sorted({q for level in self.levels for q in bounds(level)} | {0.5})


def make_plan(options: Mapping[str, Any], long: Long, *, mixes_channels: bool, linear: bool) -> Plan:
    """The plan for a checked frame.

    Args:
        options: those of the Forecaster.
        long: the frame.
        mixes_channels: a model forecasts aligned series better together.
        linear: all models are linear maps, the same for all series.
    """
    horizon, loss, clock = options["horizon"], options["loss"], long.clock
    levels = tuple(options["levels"] or ())
    season = options["season"] or clock.season
    spread = isinstance(loss, str) and loss in _SPREAD
    scaler, normalize = options["scaler"], options["normalize"]
    if loss == "negative_binomial":
        # a distribution of counts needs counts
        scaler = "none"
    elif scaler == "auto":
        # on M4 Hourly MASE is lower by season for a linear map, by deviation for DenseMLP and Hydra (LOG.md)
        scaler = "season" if linear else "standard"
    if normalize == "auto":
        # the seasonal naive forecast would carry the effect of its covariates, and counts have no differences
        plain = options["future_covariates"] or options["calendar"] or season == 1 or loss == "negative_binomial"
        normalize = "window" if plain else "season"
    return Plan(
        horizon=horizon,
        context=options["context_length"] or default_context(np.diff(long.indptr), horizon, clock),
        season=season,
        joint=_joint(long, options["mode"], mixes_channels),
        normalize=normalize,
        scaler=scaler,
        loss=loss,
        levels=levels,
        calibrated=tuple(sorted(levels)) if options["conformal"] and spread else (),
        calendar=options["calendar"],
        short=options["short"],
        seed=options["seed"],
    )


def default_context(lengths: np.ndarray, horizon: int, clock: Clock) -> int:
    """Three horizons or the cycle of the frequency, as far as half of the series are long enough."""
    room = int(np.median(lengths)) - 2 * horizon
    return min(max(3 * horizon, clock.cycle), max(room, horizon))


def held_out(plan: Plan, lengths: np.ndarray, val_size: int | str | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Validation rows of each series, 0 where it is too short, and how many of them only calibrate intervals.

    Args:
        plan: the plan.
        lengths: rows of each series.
        val_size: validation rows; ``auto`` is a tenth, or what the intervals need.

    Raises:
        ConfigError: if ``val_size`` is none.
    """
    need = _calibration_rows(plan, len(lengths))
    if isinstance(val_size, np.ndarray):
        n_val = val_size
    elif val_size != "auto":
        if isinstance(val_size, str) or val_size < 0 or 0 < val_size < plan.horizon:
            raise ConfigError(f"val_size = {val_size!r} should be 'auto', 0, or at least horizon = {plan.horizon}")
        n_val = np.where(lengths > val_size + plan.horizon, val_size, 0)
    else:
        want = np.maximum(lengths // 10, need)
        roomy = lengths >= want + plan.context + plan.horizon
        n_val = np.where(roomy, want, np.where(lengths >= plan.context + 2 * plan.horizon, plan.horizon, 0))
    # intervals are calibrated on rows that early stopping has not seen, where there are enough for both
    return n_val, np.where(n_val >= 2 * need, n_val // 2, 0)


def bounds(level: float) -> tuple[float, float]:
    """The quantiles that an interval is between."""
    return round(0.5 - level / 200, 9), round(0.5 + level / 200, 9)


def _joint(long: Long, mode: str, mixes: bool) -> bool:
    """Whether the series are forecast together, as channels."""
    check_choice("mode", mode, ("auto", "global", "multivariate"))
    if mode == "multivariate" and not long.aligned:
        lengths = np.diff(long.indptr)
        odd = np.flatnonzero((lengths != lengths[0]) | (long.first != long.first[0]))
        raise DataError(
            f"mode='multivariate' needs series with the same time stamps; {len(odd)} of {len(long.ids)} differ from "
            f"{long.ids[0]!r}, first: {long.ids[odd[0]]!r}. Cut them to a common span, or use mode='global'"
        )
    return mode == "multivariate" or (mode == "auto" and mixes and len(long.ids) > 1 and long.aligned)


def _calibration_rows(plan: Plan, n_series: int) -> int:
    """Rows of each series that intervals need: one of 90 percent takes 9 windows, of all series together."""
    top = min(max(plan.levels or (90,)), 99.9)
    windows = math.ceil(top / (100 - top) / n_series)
    # hours: a week of days, the errors of a weekend are not those of a Monday
    weekly = plan.levels and plan.season == 24
    return plan.horizon - 1 + (max(windows, 6 * plan.season + 1) if weekly else windows)
