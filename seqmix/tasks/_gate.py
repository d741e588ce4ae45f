"""The gate of a correction: the factor applied to it, chosen by a t-test over blocks of the validation set."""

import math

import torch
from torch import Tensor

BLOCKS = 10
# the gate is searched on a grid of tenths, so that absolute errors can be summed for each value
_SHARES = torch.linspace(0, 1, 11, dtype=torch.float64)


class GateSums:
    """Sums of errors of forecasts ``base + g * correction`` in one validation, from which the gate ``g`` is chosen.

    A correction is taken if its gain in squared error, one number for each of ten consecutive blocks of the validation
    time, has a t-statistic over 2. The gate is then its least-squares factor, in tenths from 0 to 1. Where windows
    are too few for ten blocks the test has the same level, with the degrees of freedom that there are.

    Args:
        n_channels: number of channels C.
        each: choose a gate for each channel, not one for all.
    """

    def __init__(self, n_channels: int, *, each: bool):
        self.each = each
        # for each block and channel: e^2, e d and d^2 of the error e of the base and the correction d, and values
        self.squares = torch.zeros(4, BLOCKS, n_channels, dtype=torch.float64)
        self.absolute = torch.zeros(len(_SHARES), n_channels, dtype=torch.float64)
        self.counted = torch.zeros(1, dtype=torch.float64)

    def add(self, error: Tensor, correction: Tensor, weight: Tensor | None, place: Tensor) -> None:
        """Add a batch.

        Args:
            error: truth less the base, ``(B, horizon, C)``.
            correction: with a gate of 1, ``(B, horizon, C)``.
            weight: weight of each value, of that shape. None: equal weights.
            place: part of the validation time before each window, from 0 to below 1, ``(B,)``.
        """
        w = torch.ones_like(error) if weight is None else weight
        products = [w * error * error, w * error * correction, w * correction * correction, w]
        sums = torch.stack([x.sum(1) for x in products]).double().cpu()  # (4, B, C)
        self.squares.index_add_(1, (place * BLOCKS).long().cpu(), sums)
        for share, total in zip(_SHARES.tolist(), self.absolute, strict=True):
            total += (w * (error - share * correction).abs()).sum((0, 1), dtype=torch.float64).cpu()
        self.counted += int(w.flatten(1).any(1).sum())

    @property
    def windows(self) -> int:
        """Windows that were added."""
        return int(self.counted)

    def totals(self) -> list[Tensor]:
        """The sums, which the processes of a run on several devices add up."""
        return [self.squares, self.absolute, self.counted]

    def choose(self) -> tuple[Tensor, Tensor]:
        """Gate and t-statistic of each channel, ``(C,)`` each."""
        squares = self.squares if self.each else self.squares.sum(-1, keepdim=True)
        found = [_test(*channel) for channel in squares.permute(2, 0, 1)]
        gate, t = torch.tensor(found, dtype=torch.float64).T
        n_channels = self.squares.shape[-1]
        return gate.expand(n_channels), t.expand(n_channels)

    def errors(self, gate: Tensor) -> tuple[float, float]:
        """Mean squared and absolute error with a gate that ``choose`` gave."""
        e, cross, d, count = self.squares.sum(1)  # (C,) each
        squared = e - 2 * gate * cross + gate**2 * d
        at = (gate[:, None] - _SHARES).abs().argmin(1)
        absolute = self.absolute[at, torch.arange(len(gate))]
        return float(squared.sum() / count.sum()), float(absolute.sum() / count.sum())


def _test(e: Tensor, cross: Tensor, d: Tensor, count: Tensor) -> tuple[float, float]:
    """Gate and t-statistic from the sums of each block, ``(BLOCKS,)``."""
    from scipy.special import stdtr, stdtrit

    seen = count > 0
    cross, d, count = cross[seen], d[seen], count[seen]
    gains = 2 * _SHARES * cross.sum() - _SHARES**2 * d.sum()
    share = _SHARES[gains.argmax()]
    gain = (2 * share * cross - share**2 * d) / count
    if len(gain) < 2 or not share > 0:
        return 0.0, 0.0
    t = float(gain.mean() / gain.std() * math.sqrt(len(gain)))
    # the level of t = 2 with ten blocks
    return float(share) if t > stdtrit(len(gain) - 1, stdtr(BLOCKS - 1, 2.0)) else 0.0, t
