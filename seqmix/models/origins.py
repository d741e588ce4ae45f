"""Statistics of a series at forecast origins: level, scales, drift, and simple forecasts."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# cycles that the seasonal mean is over, and steps of a drift without a season
_CYCLES, _DRIFT_STEPS = 3, 8
# levels, slow and fast: means over a part of the cycle, and at least so many steps
_LEVELS = ((1, 12), (4, 5))
# unit of a perfect cycle, whose seasonal naive error is 0, in deviations
_LEAST_UNIT = 0.01


class Origins(NamedTuple):
    """Facts at n origins of N series, each from the rows before it alone."""

    seen: Tensor  # number of observed values (N, n)
    age: Tensor  # rows since the first observed value (N, n)
    last: Tensor  # last observed value (N, n)
    mean: Tensor  # (N, n)
    deviation: Tensor  # (N, n)
    unit: Tensor  # mean absolute error of the seasonal naive forecast (N, n)
    drift: Tensor  # change per step (N, n)
    periods: Tensor  # (N, n, 2), 1 where there is none, or fewer than two cycles of history
    naive: Tensor  # seasonal naive forecast with the first period (N, n, horizon)
    #: other simple forecasts ``(6, N, n, horizon)``: the mean of three seasons; seasonal naive and such a mean with the
    #: second period; seasonal naive with drift; the seasonal profile on the level of a cycle, and of a few steps
    others: Tensor


#: number of simple forecasts beside the seasonal naive one, and which of them is the one with drift
N_OTHERS, DRIFT = 6, 3


def origins(x: Tensor, mask: Tensor, periods: Tensor, ends: Tensor, horizon: int) -> Origins:
    """Facts at the origins after ``ends`` rows; sums are in float64, so that a level cannot hide changes.

    Shapes: ``(N, T), (N, T), (N, 2), (n,) ->`` see ``Origins``. Cost: O(N (T + n horizon)).

    Args:
        x: series ``(N, T)``, 0 where a value is missing.
        mask: observed values ``(N, T)`` bool.
        periods: two periods ``(N, 2)`` in time steps, 0 for none.
        ends: rows before each origin ``(n,)``, at least 1.
        horizon: steps of the simple forecasts.
    """
    T, at = x.shape[1], ends - 1
    rows = torch.arange(T, device=x.device)
    first = torch.where(mask.any(1), mask.int().argmax(1), T - 1)[:, None]  # (N, 1)
    # a missing value is the last one before it
    filled = x.gather(1, _latest(torch.where(mask, rows, 0)))  # (N, T)
    age = (ends - first).clamp(min=0)  # (N, n)
    one = torch.ones_like(age)
    p = torch.stack([torch.where((q > 0) & (age >= 2 * q), q, one) for q in periods[:, None].unbind(-1)], -1)
    p = torch.where((p[..., 1:] == 1), p[..., :1], p)  # (N, n, 2)

    # statistics are treated as constants in the gradient
    weight, wide = mask.double(), x.detach().double()
    seen = weight.cumsum(1)[:, at]
    count = seen.clamp(min=1)
    mean = wide.cumsum(1)[:, at] / count
    deviation = (wide.square().cumsum(1)[:, at] / count - mean.square()).clamp(min=0).sqrt()
    errors = [
        _naive_error(filled.detach(), mask, lag, at) for lag in (periods[:, :1].clamp(min=1), torch.ones_like(first))
    ]
    unit = torch.where(p[..., 0] > 1, *errors).to(x.dtype)
    unit = torch.maximum(unit, _LEAST_UNIT * deviation.to(x.dtype)).clamp(min=1e-6)

    total = _before(filled.detach())
    w = torch.maximum(p[..., 0], (age // 2).clamp(1, _DRIFT_STEPS))
    sums = [total.gather(1, (ends - k * w).clamp(min=0)) for k in (0, 1, 2)]
    drift = torch.where(age >= 2 * w, (sums[0] - 2 * sums[1] + sums[2]) / w.square(), 0.0).to(x.dtype)

    ahead = torch.arange(1, horizon + 1, device=x.device)
    simple = []
    for q in p.unsqueeze(-2).unbind(-1):  # (N, n, 1)
        # rows from a step of the horizon to the same phase of the last cycle (N, n, horizon)
        back = q * -(-ahead // q)
        index = at[:, None] + ahead - back
        values = torch.stack([_take(filled, index - c * q) for c in range(_CYCLES)])
        there = torch.stack([index - c * q >= first[:, :, None] for c in range(_CYCLES)])
        mean_of = (values * there).sum(0) / there.sum(0).clamp(min=1)
        simple += [values[0], mean_of, drift[..., None] * back, index]
    naive, seasonal_mean, change, index, second, second_mean, _, _ = simple

    profile, seasonal = _profile(filled, periods[:, :1].clamp(min=1), first), p[..., 0] > 1
    shape = torch.where(seasonal[..., None], _take(profile, index), 0.0)
    adjusted, levels = _before(filled.detach() - profile), []
    for part, least in _LEVELS:
        w = torch.maximum(-(-p[..., 0] // part), age.clamp(1, least))
        mean_of = [
            (v.gather(1, ends.expand_as(w)) - v.gather(1, (ends - w).clamp(min=0))) / w for v in (adjusted, total)
        ]
        levels.append(torch.where(seasonal, *mean_of).to(x.dtype)[..., None] + shape)
    others = torch.stack([seasonal_mean, second, second_mean, naive + change, *levels])
    seen, mean, deviation = (v.to(x.dtype) for v in (seen, mean, deviation))
    return Origins(seen, age, filled[:, at], mean, deviation, unit, drift, p, naive, others)


def _naive_error(filled: Tensor, mask: Tensor, lag: Tensor, at: Tensor) -> Tensor:
    """Mean absolute difference ``lag: (N, 1)`` rows apart before each origin ``(N, n)``; 0 where there is none."""
    index = torch.arange(filled.shape[1], device=filled.device) - lag
    before = index.clamp(min=0)
    both = mask & mask.gather(1, before) & (index >= 0)
    error = ((filled - filled.gather(1, before)).abs() * both).double()
    return error.cumsum(1)[:, at] / both.cumsum(1)[:, at].clamp(min=1)


def _profile(filled: Tensor, lag: Tensor, first: Tensor) -> Tensor:
    """Running mean by phase of the values minus the mean of the cycle that they end, ``(N, T)``.

    The difference to the mean of a trailing cycle has the seasonal profile, but for a constant. Rows of one phase are
    put side by side, so that sums over cycles are differences of running sums.

    Args:
        filled: series ``(N, T)``.
        lag: length of the cycle ``(N, 1)``.
        first: first row of each series ``(N, 1)``.
    """
    T = filled.shape[1]
    rows = torch.arange(T, device=filled.device)
    whole = rows - lag + 1 - first >= 0  # a whole cycle ends here
    total, wide = _before(filled.detach()), filled.detach().double()
    cycle = (total[:, 1:] - total.gather(1, (rows + 1 - lag).clamp(min=0))) / lag
    above = torch.where(whole, wide - cycle, 0.0)
    phase, length = rows % lag, torch.full_like(lag, T)
    start = phase * (length // lag) + torch.minimum(phase, length % lag)
    place = start + rows // lag
    running = _before(torch.zeros_like(above).scatter(1, place, above))
    count = torch.where(whole, (rows - lag + 1 - first) // lag + 1, 1)
    return ((running.gather(1, place + 1) - running.gather(1, start)) / count).to(filled.dtype)


def _latest(rows: Tensor) -> Tensor:
    """The largest of ``rows: (N, T)`` so far, in doubling steps: operations that every exported graph has."""
    step = 1
    while step < rows.shape[1]:
        rows = torch.maximum(rows, F.pad(rows, (step, 0))[:, : rows.shape[1]])
        step *= 2
    return rows


def _before(x: Tensor) -> Tensor:
    """Sum of the rows before each ``(N, T + 1)``, of ``x: (N, T)``, in float64."""
    return F.pad(x.double().cumsum(1), (1, 0))


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Values ``(N, n, horizon)`` of ``x: (N, T)`` at ``index``, the first where it is before the series."""
    return x.gather(1, index.clamp(min=0).flatten(1)).view(index.shape)
