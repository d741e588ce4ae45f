"""The plan of a fit: options resolved for the data, by pure functions of lengths, clock and options."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.clock import Clock
from seqmix.forecasting.long import Long
from seqmix.mapped import row_blocks

# losses whose forecast holds its own uncertainty
_SPREAD = ("quantile", "normal", "student_t", "negative_binomial")
#: most series that a model gets as channels in mode "auto": weights and memory grow with their number
MOST_CHANNELS = 512
_LEAST_ORIGINS = 10
# windows for each step of a season that series hold less than twice, from which it is learned
_WINDOWS = 4
# options that pretrained models do not use, and their neutral values
_FIXED = {"context_length": (None,), "loss": ("mae", "quantile"), "normalize": ("auto", "none")}


@dataclass(frozen=True)
class Plan:
    """Resolved options, without "auto" and without None; public as ``forecaster.plan_``.

    Args:
        horizon: steps that are forecast at once.
        context: steps that the models see.
        season: steps of the season, of the seasonal naive forecast and of MASE; 1 for none.
        joint: the series are channels of one.
        normalize: how each window is normalized.
        scaler: how each series is scaled.
        loss: training loss.
        native: quantiles that a pretrained model forecasts, rising; empty for models that are trained.
        levels: coverage of the intervals that predict gives, in percent.
        conformal: quantile and distribution forecasts are calibrated.
        nonnegative: forecasts are clipped at zero.
        calendar: features of the calendar are known-future inputs.
        short: handling of series that are shorter than a window.
        seed: seed of weights, order and dropout.
        notes: messages about how the options were resolved.
    """

    horizon: int
    context: int
    season: int
    joint: bool
    normalize: Literal["season", "window", "last", "none"]
    scaler: Literal["season", "standard", "none"]
    loss: Any
    native: tuple[float, ...]
    levels: tuple[float, ...]
    conformal: bool
    nonnegative: bool
    calendar: bool
    short: Literal["pad", "drop", "error"]
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def spread(self) -> bool:
        """Forecasts hold their own uncertainty: quantiles or the parameters of a distribution."""
        return isinstance(self.loss, str) and self.loss in _SPREAD

    @property
    def calibrated(self) -> tuple[float, ...]:
        """Levels whose quantiles are calibrated, rising; empty for point forecasts, whose errors serve any."""
        return tuple(sorted(self.levels)) if self.conformal and self.spread else ()

    @property
    def quantiles(self) -> list[float] | None:
        """Quantiles that are forecast; None where the loss has its own or none."""
        if self.native or self.loss != "quantile" or not self.levels:
            return list(self.native) or None
        return sorted({q for level in self.levels for q in bounds(level)} | {0.5})

    def check_native(self, name: str, levels: Sequence[float], quantiles: Sequence[float]) -> None:
        """Refuse intervals and quantiles beyond those that the pretrained model ``name`` forecasts.

        Raises:
            ConfigError: with the widest interval that there is.
        """
        asked = [*(q for level in levels for q in bounds(level)), *quantiles]
        if self.native and asked and not self.native[0] <= min(asked) <= max(asked) <= self.native[-1]:
            what = f"quantiles = {list(quantiles)}" if quantiles else f"levels = {list(levels)}"
            raise ConfigError(
                f"{what} reach beyond what {name} forecasts, quantiles {self.native[0]:g} to {self.native[-1]:g}; use "
                f"levels up to {100 * (self.native[-1] - self.native[0]):g}"
            )


def make_plan(options: Mapping[str, Any], long: Long, *, mixes_channels: bool, linear: bool, pretrained: bool) -> Plan:
    """The plan of a model for a checked frame.

    Args:
        options: those of the Forecaster, as plain values.
        long: the frame.
        mixes_channels: the model forecasts aligned series better together.
        linear: the model is a linear map, the same for all series.
        pretrained: the model is pretrained, and has context, loss and normalization of its own.

    Raises:
        ConfigError: if the season does not fit the context.
        DataError: if the series are no channels of one.
    """
    loss, levels = options["loss"], options["levels"]
    context, season, note = _lengths(options, np.diff(long.indptr), long.clock, pretrained)
    joint, crowd = _joint(long, options["mode"], mixes_channels)
    scaler, normalize, nonnegative = options["scaler"], options["normalize"], options["nonnegative"]
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
    if nonnegative == "auto":
        nonnegative = not any((long.y[rows] < 0).any() for rows in row_blocks(len(long.y)))
    return Plan(
        horizon=options["horizon"],
        context=context,
        season=season,
        joint=joint,
        normalize=normalize,
        scaler=scaler,
        loss=loss,
        native=(),
        levels=levels,
        conformal=options["conformal"],
        nonnegative=bool(nonnegative),
        calendar=options["calendar"],
        short=options["short"],
        seed=options["seed"],
        notes=tuple(text for text in (note, crowd) if text),
    )


def check_pretrained(options: Mapping[str, Any]) -> None:
    """Refuse options that no model uses, where all are pretrained.

    Raises:
        ConfigError: with the option.
    """
    for name, free in _FIXED.items():
        if options[name] not in free:
            raise ConfigError(f"{name} = {options[name]!r} is for models that are not pretrained; leave it out")


def held_out(
    plan: Plan, lengths: np.ndarray, tail: np.ndarray, val_size: int | str | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Validation rows of each series, 0 where it is too short, and how many of them only calibrate intervals.

    Args:
        plan: the plan.
        lengths: rows of each series.
        tail: rows at its end that nothing was observed in; ``auto`` counts from before them.
        val_size: validation rows; ``auto`` is a tenth, or what the intervals need.

    Raises:
        ConfigError: if ``val_size`` is neither ``auto``, 0, nor at least the horizon.
    """
    horizon, origins = plan.horizon, _origins(plan, len(lengths))
    need, shift = horizon - 1 + origins, np.zeros_like(lengths)
    if isinstance(val_size, np.ndarray):
        n_val = val_size
    elif val_size != "auto":
        if not isinstance(val_size, int | np.integer) or val_size < 0 or 0 < val_size < horizon:
            raise ConfigError(f"val_size = {val_size!r} does not hold a horizon; use 'auto', 0, or at least {horizon}")
        n_val = np.where(lengths > val_size + horizon, val_size, 0)
        if val_size and not n_val.any():
            raise DataError(
                f"val_size = {val_size} leaves no series rows to train on, the longest has {lengths.max()}; use fewer"
            )
    else:
        shift = shift + (tail.min() if plan.joint else tail)
        lengths = lengths - shift
        want = np.maximum(lengths // 10, need)
        # windows of a series, with one horizon held out; short series hold out half of them at most
        spare = lengths - plan.context - 2 * horizon + 1
        few = np.where(spare >= 1, horizon - 1 + np.clip(spare // 2, 1, origins), 0)
        n_val = np.where(lengths >= want + plan.context + horizon, want, few)
    # intervals are calibrated on rows that early stopping has not seen, where there are enough for both
    n_test = np.where(n_val >= 2 * need, n_val // 2, 0)
    return np.where(n_val > 0, n_val + shift, 0), np.where(n_test > 0, n_test + shift, 0)


def bounds(level: float) -> tuple[float, float]:
    """The quantiles that bound an interval."""
    return round(0.5 - level / 200, 9), round(0.5 + level / 200, 9)


def _lengths(options: Mapping[str, Any], lengths: np.ndarray, clock: Clock, pretrained: bool) -> tuple[int, int, str]:
    """Context, season, and a note where the season had to go.

    The context is three horizons or the cycle of the frequency, and at least a season. One longer than that cycle, as
    a day of minutes, counts if half of the series hold it twice, or many windows hold it. With its horizon the context
    is at most half of a series, unless horizon or season need more: from few windows that are nearly the same nothing
    is learned. Forecasts, MASE and the seasonal naive model mean the same season. Pretrained models see what there is
    of their own context, and the season stays.
    """
    horizon, context, season = options["horizon"], options["context_length"], options["season"]
    typical = int(np.median(lengths))
    room = max(typical - 2 * horizon, horizon)
    wanted = season or clock.season
    if context is None:
        windows = (lengths - wanted - horizon + 1).clip(min=0).sum()
        held = season or wanted <= clock.cycle or 2 * wanted <= typical or windows >= _WINDOWS * wanted
        least = wanted if held and wanted <= room else 1
        most = max(typical // 2 - horizon, min(3 * horizon, room), least)
        context = min(max(3 * horizon, clock.cycle, least), most, room)
        if season and context < season <= typical - horizon:
            context = season
    if wanted <= context or pretrained:
        return context, wanted, ""
    if season and options["context_length"]:
        raise ConfigError(
            f"season = {season} is longer than context_length = {context}; use context_length={season}, or leave it out"
        )
    if season:
        raise DataError(
            f"season = {season} needs series of {season + horizon} rows, half of them have {typical} or fewer; "
            "give longer series, or season=1"
        )
    return context, 1, f"no season: the models see {context} steps, and a season has {wanted}; set context_length"


def _joint(long: Long, mode: str, mixes: bool) -> tuple[bool, str]:
    """Whether the series are forecast together, as channels, and a note where that would be too many."""
    n = len(long.ids)
    if mode == "multivariate" and not long.aligned:
        lengths = np.diff(long.indptr)
        odd = np.flatnonzero((lengths != lengths[0]) | (long.first != long.first[0]))
        raise DataError(
            f"mode='multivariate' needs series with the same time stamps, {len(odd)} of {n} differ from "
            f"{long.ids[0]!r}, first: {long.ids[odd[0]]!r}; cut them to a common span, or use mode='global'"
        )
    if mode != "auto" or not mixes or n == 1 or not long.aligned:
        return mode == "multivariate", ""
    if n > MOST_CHANNELS:
        return False, f"{n} series are more than {MOST_CHANNELS} channels: mode is global; mode='multivariate' insists"
    return True, ""


def _origins(plan: Plan, n_series: int) -> int:
    """Forecast origins that intervals are calibrated on: series of one origin may be wrong all together."""
    top = min(max(plan.levels or (90,)), 99.9)
    # one of 90 percent takes 9 windows, of all series together
    origins = max(_LEAST_ORIGINS, math.ceil(top / (100 - top) / n_series))
    # hours: a week of days, the errors of a weekend are not those of a Monday
    return max(origins, 6 * plan.season + 1) if plan.levels and plan.season == 24 else origins
