"""The contract of anomaly detectors."""

from abc import ABC, abstractmethod
from typing import Protocol, final

import torch
from torch import Tensor, nn

from seqmix.errors import DataError
from seqmix.models.ridge import fill
from seqmix.series import Series

# default period; shortest and longest detectable period, and number of lags inspected
_NO_PERIOD, _SHORTEST, _LONGEST, _LAGS = 125, 6, 300, 401
_LEAST_CORRELATION = 0.3
# squared error of a standardized value that may be rounding
_ROUNDING = 1e-10
# quantile of the training scores that is the unit of errors of rows and of what is around them
_UNIT = 0.99


class Detector(nn.Module, ABC):
    """Base of anomaly detectors: scores for every row of a series (higher = more anomalous) after a fit to normal rows.

    Members are built as ``Detector(series, *, options)`` and fitted in closed form. ``series.context`` is the number of
    rows before a row, or around it, that its score may depend on; ``series.season`` the period of the series. Missing
    values are taken from the row before and count in no score.

    Channels are standardized by their training rows. The score of a row is the largest error of its observed channels,
    each in units of its largest training error after the fit to all training rows; channels without an anomaly do not
    dilute those with one. Rows without a score of their own (too early, nothing observed) have the median of the
    training scores.

    Window errors detect more than row errors, but one spike raises them in every row around it. Therefore
    ``both_errors`` also has the errors of single rows: a row is above a threshold if both are, and window errors rank
    the rows below it.

    The training scores that ``fit`` returns, for the threshold, are those of each half of the rows by a fit to the
    other half, where halves are twice the context or more, so that thresholds hold on new rows too.

    Args:
        series: the facts of the data.
    """

    #: mean and standard deviation of the training rows, ``(2, C)``
    moments: Tensor
    #: unit of the errors of each channel, the largest training error or their quantile, of both kinds, ``(2, C)``
    largest: Tensor
    #: median score of the training rows, ``(2,)``
    middle: Tensor
    #: 99 % quantile of these scores, ``(2,)``
    unit: Tensor

    def __init__(self, series: Series):
        super().__init__()
        self.series = series
        self.register_buffer("moments", torch.tensor([[0.0], [1.0]], dtype=torch.float64).repeat(1, series.n_channels))
        self.register_buffer("largest", torch.ones(2, series.n_channels, dtype=torch.float64))
        self.register_buffer("middle", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("unit", torch.ones(2, dtype=torch.float64))

    @abstractmethod
    def fit_rows(self, x: Tensor, mask: Tensor) -> None:
        """Fit to standardized rows ``x: (T, C)``, without gaps, observed where ``mask`` is True."""

    @abstractmethod
    def errors(self, x: Tensor, mask: Tensor) -> Tensor:
        """Error of each standardized value, ``(T, C)``, at least 0 and NaN where unknown."""

    def both_errors(self, x: Tensor, mask: Tensor) -> Tensor:
        """``errors``, and those of single rows, ``(2, T, C)``. Default: the same."""
        return self.errors(x, mask).expand(2, -1, -1)

    @property
    def label(self) -> str:
        """Name in messages."""
        return type(self).__name__

    @property
    def _needed(self) -> int:
        """Rows that a fit needs."""
        return self.series.context + self.series.horizon

    @final
    @torch.no_grad()
    def fit(self, x: Tensor, mask: Tensor | None = None, *, inner: bool = False) -> Tensor:
        """Fit the detector and return the training scores ``(T,)`` for a threshold.

        A score is the lesser one of both, each in units of the 99 % quantile of the cross-fitted scores.

        Args:
            x: training rows ``(T, C)``, at least ``context + horizon`` of the series.
            mask: True where a value was observed. Default: everywhere.
            inner: the threshold is for the training rows themselves, whose scores by the fitted detector are returned
                instead of the cross-fitted ones. The unit of a channel is then the 99 % quantile of its errors: their
                largest is an anomaly in some channels, and would be 1 in each.

        Raises:
            ValueError: if there are too few rows, other channels than the detector was built for, or values that are
                not finite.
        """
        x, mask = self._training_rows(x, mask)
        apart = self._held_out(x, mask)
        errors = self._learn(x, mask, _UNIT if inner else 1.0)
        scores = self._scores(errors if apart is None else apart.masked_fill(~mask, torch.nan))
        self.middle.copy_(scores.nanmedian(1).values.nan_to_num(0))
        self.unit.copy_(torch.quantile(self._known(scores), _UNIT, dim=1).clamp(min=_ROUNDING))
        scores = self._scores(errors) if inner else scores
        return (self._known(scores) / self.unit[:, None]).amin(0)

    @final
    @torch.no_grad()
    def learn(self, x: Tensor, mask: Tensor) -> None:
        """Fit what ``both_errors`` and their units need, and no scores: those are of a mean of several detectors."""
        self._learn(*self._training_rows(x, mask), 1.0)

    @final
    @torch.no_grad()
    def score(self, x: Tensor, mask: Tensor | None = None, *, threshold: float | None = None) -> Tensor:
        """Score every row of ``x: (T, C)``; ``(T,)`` in float64.

        Args:
            x: rows, in the units of those of ``fit``; rows before those of interest give them a past.
            mask: True where a value was observed. Default: everywhere.
            threshold: a threshold on the scores that ``fit`` returned. Scores are then in their units, and above it
                only in rows that are anomalous by themselves. Default: scores from ``errors`` alone, in units of the
                largest.

        Raises:
            ValueError: if there are other channels than the detector was built for, or values that are not finite.
            DataError: if there are too few rows to score one.
        """
        scores = self._all_scores(x, mask)
        return scores[0] if threshold is None else ranked(scores / self.unit[:, None], threshold)

    @final
    @torch.no_grad()
    def both_scores(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores from ``errors`` and from those of single rows, each in its units, ``(2, T)``."""
        return self._all_scores(x, mask) / self.unit[:, None]

    def _all_scores(self, x: Tensor, mask: Tensor | None) -> Tensor:
        self._check(x, mask)
        x, mask = self._rows(x, mask)
        errors = self.both_errors(x, mask)
        if len(x) and errors.isnan().all():
            raise DataError(
                f"none of {len(x)} rows can be scored: {self.label} looks at windows of up to "
                f"{self._needed} rows; give earlier rows as well"
            )
        return self._known(self._scores(errors.masked_fill(~mask, torch.nan)))

    def _training_rows(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rows that are enough to fit, standardized by themselves, and their mask."""
        self._check(x, mask)
        if len(x) < self._needed:
            raise ValueError(f"{len(x)} training rows are fewer than {self._needed}; give more, or a smaller context")
        mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        self.moments.copy_(_moments(x.double(), mask))
        return self._rows(x, mask)

    def _learn(self, x: Tensor, mask: Tensor, share: float) -> Tensor:
        """Fit to standardized rows; their errors ``(2, T, C)``, whose quantile ``share`` is the unit of a channel."""
        self.fit_rows(x, mask)
        errors = self.both_errors(x, mask).masked_fill(~mask, torch.nan)
        units = errors.nan_to_num(0).amax(1) if share == 1 else errors.nanquantile(share, dim=1)
        # a channel without any error has no part in scores
        self.largest.copy_(units.clamp(min=_ROUNDING).masked_fill(errors.isnan().all(1), torch.nan))
        return errors

    def _held_out(self, x: Tensor, mask: Tensor) -> Tensor | None:
        """Errors ``(2, T, C)`` of each half of the rows by a fit to the other half; None if halves are too short."""
        T = len(x)
        if self._needed > T // 2:
            return None
        halves = slice(0, T // 2), slice(T // 2, T)
        found = []
        for ours, theirs in (halves, halves[::-1]):
            self.fit_rows(x[theirs], mask[theirs])
            # all rows, so that the first ones of the second half have a past
            found.append(self.both_errors(x, mask)[:, ours])
        return torch.cat(found, 1)

    def _check(self, x: Tensor, mask: Tensor | None) -> None:
        name, C = self.label, self.series.n_channels
        if x.ndim != 2 or x.shape[1] != C or not (mask is None or mask.shape == x.shape):
            shapes = tuple(x.shape), *(() if mask is None else (tuple(mask.shape),))
            raise ValueError(f"rows and their mask have shapes {shapes}, {name} was built for (T, {C})")
        if not (x if mask is None else x[mask]).isfinite().all():
            raise ValueError("rows hold values that are not finite; leave them out of the mask")

    def _rows(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Standardized rows in float64 without gaps, and their mask."""
        mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        filled = fill(((x.double() - self.moments[0]) / self.moments[1]).unsqueeze(0), mask.unsqueeze(0))
        return filled.squeeze(0), mask

    def _scores(self, errors: Tensor) -> Tensor:
        """Largest relative error over the channels, ``(2, T)``; NaN where there is none."""
        relative = errors / self.largest[:, None]
        return relative.nan_to_num(0).amax(2).masked_fill(relative.isnan().all(2), torch.nan)

    def _known(self, scores: Tensor) -> Tensor:
        """Scores ``(2, T)`` with the median in rows without one."""
        return torch.where(scores.isnan(), self.middle[:, None], scores)


def ranked(both: Tensor, threshold: float) -> Tensor:
    """One score for each row from ``both_scores (2, T)``: the lesser one if it is above the threshold.

    Any other row comes below the threshold, in the order of the first of both.
    """
    least = both.amin(0)
    return torch.where(least > threshold, least, threshold * both[0] / (threshold + both[0]).clamp(min=_ROUNDING))


class DetectorFactory(Protocol):
    """Factory of detectors: a class, ``functools.partial`` or config entry, called with the facts of the data."""

    def __call__(self, series: Series) -> Detector:
        """Build a detector from the facts of the data."""
        ...


def _moments(x: Tensor, mask: Tensor) -> Tensor:
    """Mean and standard deviation of the observed values of each channel, ``(2, C)``; 1 for one that is constant."""
    x, count = x.masked_fill(~mask, 0), mask.sum(0).clamp(min=1)
    mean = x.sum(0) / count
    deviation = ((x - mean).masked_fill(~mask, 0).square().sum(0) / count).sqrt()
    # the mean of a constant channel may be off by rounding
    return torch.stack([mean, torch.where(deviation > 1e-9 * (1e-9 + mean.abs()), deviation, 1)])


def series_of(x: Tensor, mask: Tensor | None = None, *, window: int | None = None) -> Series:
    """Facts that a detector is built from, for training rows ``x: (T, C)``.

    The season is that of ``period_of``, half of the rows at most; the context is two of them, or one where two are more
    than a third of the rows.

    Args:
        x: training rows.
        mask: True where a value was observed. Default: everywhere.
        window: the season, in rows. Default: inferred from the rows.
    """
    season = period_of(x, mask) if window is None else window
    season = max(1, min(season, len(x) // 2))
    return Series(x.shape[1], max(season, min(2 * season, len(x) // 3)), 1, season=season)


def period_of(x: Tensor, mask: Tensor | None = None) -> int:
    """Period of ``x: (T, C)``: the lag of the highest peak of the autocorrelation, which is a mean over the channels.

    It is 6 to 300 rows, and 125 where there is none: the highest peak below a lag of 400 is under 0.3, or above 300.

    Source: TSB-AD, Liu and Paparrizos, NeurIPS 2024. Differs from the original code in: all rows, several channels, a
    least correlation.
    """
    z = x.double() if mask is None else fill(x.double().unsqueeze(0), mask.unsqueeze(0)).squeeze(0)
    z = z - z.mean(0)
    power = torch.fft.rfft(z, 2 * len(z), dim=0).abs().square()
    covariance = torch.fft.irfft(power, 2 * len(z), dim=0)[: min(len(z), _LAGS)]
    # constant channels have no autocorrelation
    correlation = (covariance / covariance[0].clamp(min=1e-12)).mean(1)
    if len(correlation) < 3:
        return _NO_PERIOD
    inner = correlation[1:-1]
    peaks = (inner > correlation[:-2]) & (inner > correlation[2:])
    peaks[: _SHORTEST - 1] = False
    height, lag = inner.masked_fill(~peaks, -2).max(0)
    return int(lag) + 1 if height > _LEAST_CORRELATION and lag < _LONGEST else _NO_PERIOD
