"""Artificial gaps for imputation: hidden cells as a function of seed and window number."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Pattern = Literal["point", "block", "subsequence", "mixed"]
PATTERNS: tuple[Pattern, ...] = ("point", "subsequence", "block", "mixed")

_GOLDEN, _FIRST, _SECOND = (c - (1 << 64) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class Hiding(NamedTuple):
    """Pattern of hidden cells of windows; every cell is hidden with the same probability.

    ``point``: each cell on its own. ``subsequence``: runs of ``run`` steps of one channel. ``block``: runs of ``run``
    steps of all channels at once. ``mixed``: one of the three in each window. Runs start anywhere and may overlap or
    touch, so that longer gaps occur; at the ends of the window they are cut.

    The random numbers are those of a counter: they depend on ``seed``, ``epoch`` and the number of the window only, not
    on batches, devices or the state of a generator.
    """

    pattern: Pattern
    rate: float
    run: int
    seed: int

    def hidden(self, observed: Tensor, window: Tensor, epoch: int) -> Tensor:
        """Cells to hide, observed ones only, ``(B, L, C)`` bool.

        Args:
            observed: True where a value was observed, ``(B, L, C)``.
            window: number of each window ``(B,)``.
            epoch: of training, from 1; 0 for validation and test.
        """
        _, L, C = observed.shape
        keys = _mixed(_mixed(_mixed(window.new_tensor(self.seed)) + epoch) + window)
        if self.pattern != "mixed":
            return observed & self._drawn(self.pattern, keys, L, C)
        kind = (3 * _uniform(_mixed(keys + 1), 1)).long()  # (B, 1)
        parts = [(kind == i)[..., None] & self._drawn(name, keys, L, C) for i, name in enumerate(PATTERNS[:3])]
        return observed & (parts[0] | parts[1] | parts[2])

    def _drawn(self, pattern: Pattern, keys: Tensor, L: int, C: int) -> Tensor:
        if pattern == "point":
            return _uniform(keys, L * C).view(-1, L, C) < self.rate
        # a cell is kept if none of the `run` starts that cover it was drawn
        width = 1 if pattern == "block" else C
        start = 1 - (1 - self.rate) ** (1 / self.run)
        starts = _uniform(keys, (L + self.run - 1) * width).view(-1, L + self.run - 1, width) < start
        covered = F.max_pool1d(starts.transpose(1, 2).float(), self.run, stride=1).transpose(1, 2) > 0
        return covered.expand(-1, L, C)


def _uniform(keys: Tensor, n: int) -> Tensor:
    """``n`` numbers from 0 to below 1 for each key ``(B,)``, ``(B, n)``: SplitMix64 in counter mode."""
    counter = torch.arange(1, n + 1, device=keys.device) * _GOLDEN
    return (_shifted(_mixed(keys[:, None] + counter), 40)).float() * 2.0**-24


def _mixed(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64, by Stafford, on int64 that wraps around."""
    x = x + _GOLDEN
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """Logical shift to the right: torch's keeps the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)
