"""Periods of series, found from their autocorrelation and a test of their spectrum."""

import torch
from torch import Tensor

# false positive rate of Fisher's test
_RISK = 1e-3
_LEAST_CORRELATION = 0.3
# autocorrelation of a clear period, and its margin over that of the known season
_PLAIN, _AHEAD = 0.8, 0.3
# a period that was found has to repeat more often than one that is known
_CYCLES_KNOWN, _CYCLES_FOUND = 2, 3


def find_periods(x: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    """Two periods of each series, in time steps, 0 for none: known ones, or else a detected one.

    A known period needs two cycles of history, series by series. Where none is left, or where the series does not
    follow it and has another cycle plainly, the peak of the periodogram of the detrended series is tested by Fisher's
    g; the period is the lag of the highest autocorrelation near it.

    Shapes: ``(N, T), (N, T), (N, 2) -> (N, 2)``. Cost: O(N T log T).

    Args:
        x: series ``(N, T)``, 0 where a value is missing.
        mask: observed values ``(N, T)`` bool.
        known: periods ``(N, 2)`` that are usual for the data, the shorter one first; 0 for none.

    Source: Fisher, 1929, Tests of significance in harmonic analysis. Differs from it in: missing values are 0 after the
    removal of the trend; the autocorrelation refines the period.
    """
    if x.shape[0] == 0:
        return known
    span = mask.shape[1] - mask.int().argmax(1)  # (N,)
    known = torch.where(_CYCLES_KNOWN * known <= span[:, None], known, 0)
    # a longer cycle does not need the shorter one
    known = torch.where(known[:, :1] > 0, known, known.flip(1))
    found, height, at_known = _search(x.double(), mask, span, known[:, 0])
    # a cycle of another length hides behind the season of the frequency, unless it is plain and the season is not there
    other = (height > _PLAIN) & (height > at_known + _AHEAD) & (found > 0)
    instead = torch.stack([found, torch.where(other, known[:, 0], 0)], -1)
    return torch.where((known[:, :1] > 0) & ~other[:, None], known, instead)


def _search(x: Tensor, mask: Tensor, span: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The most significant period, 0 for none, the autocorrelation there, and that at ``known``; each ``(N,)``."""
    T, weight = x.shape[1], mask.double()
    count = weight.sum(1, keepdim=True).clamp(min=1)
    time = torch.linspace(-1, 1, T, dtype=torch.float64, device=x.device)
    t = (time - (weight * time).sum(1, keepdim=True) / count) * weight
    z = (x - (weight * x).sum(1, keepdim=True) / count) * weight
    z = z - t * (t * z).sum(1, keepdim=True) / t.square().sum(1, keepdim=True).clamp(min=1e-12)
    # padded to twice the length, so that lags do not wrap around
    spectrum = torch.fft.rfft(z, 2 * T).abs().square()
    support = torch.fft.rfft(weight, 2 * T).abs().square()
    covariance = torch.fft.irfft(spectrum)[:, :T]
    pairs = torch.fft.irfft(support)[:, :T].clamp(min=1)
    correlation = (covariance / pairs) / (covariance[:, :1] / pairs[:, :1]).clamp(min=1e-12)

    # periods of 2 steps to a third of the history; every second frequency is one of the unpadded transform
    power = spectrum[:, 2::2]
    order = torch.arange(1, power.shape[1] + 1, device=x.device)
    power = power * (order * span[:, None] >= _CYCLES_FOUND * T)
    share, peak = (power / power.sum(1, keepdim=True).clamp(min=1e-12)).max(1)
    bins = (span / 2).clamp(min=1)
    risk = bins * (1 - share).clamp(min=0) ** (bins - 1)
    center = (T / (peak + 1.0)).round().long()
    reach = (center // 8).clamp(min=1)
    lags = torch.arange(T, device=x.device)
    near = ((lags - center[:, None]).abs() <= reach[:, None]) & (lags >= 2)
    height, period = correlation.masked_fill(~near, -2).max(1)
    sure = (risk < _RISK) & (height > _LEAST_CORRELATION) & (_CYCLES_FOUND * period <= span)
    return torch.where(sure, period, 0), height, correlation.gather(1, known[:, None]).squeeze(1)
