"""The search of Ridge: every penalty, lookback and level from sums of products alone."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from seqmix.models._moments import Moments

Level = Literal["last", "mean", "season", "none"]


class Fit(NamedTuple):
    """One map, and what it was found with."""

    weight: Tensor  # from the window to the horizon, the level in it: (L, H), in float64
    error: float  # mean squared error of validation, or the estimate of it
    freedom: float  # effective degrees of freedom over training rows
    level: Level
    lookback: int
    ridge: float


class Search(NamedTuple):
    """What is tried; the least error of validation wins, and the first of equals."""

    levels: Sequence[Level]
    lookbacks: Sequence[int]
    ridges: Sequence[float]
    season: int

    def best(self, train: Moments, val: Moments, group: int) -> Fit:
        """The best map of one group of rows."""
        return min(self._tried(train, val, group), key=lambda fit: fit.error)

    def _tried(self, train: Moments, val: Moments, group: int) -> Iterator[Fit]:
        L, H = train.xy.shape[1:]
        n = train.weight[group].clamp(min=torch.finfo(torch.float64).tiny)
        for lookback in self.lookbacks:
            xx, xy = train.xx[group, -lookback:, -lookback:] / n, train.xy[group, -lookback:] / n
            for level in self.levels:
                if level == "season" and not 1 < self.season <= lookback:
                    continue
                base = _level(level, lookback, H, self.season).to(xx)
                inside, ahead = base.split([lookback, H], 1)
                rest = torch.eye(lookback, dtype=xx.dtype, device=xx.device) - inside
                # of what is left of the window when its level is taken from it, and of the horizon
                values, vectors = torch.linalg.eigh(rest.T @ xx @ rest)
                values = values.clamp(min=0)
                # a constant series leaves nothing
                unit = values.mean().clamp(min=torch.finfo(torch.float64).tiny)
                turned = vectors.T @ (rest.T @ (xy - xx @ ahead))
                back = rest @ vectors
                for ridge in self.ridges:
                    shrunk = values + ridge * unit
                    weight = torch.zeros(L, H, dtype=xx.dtype, device=xx.device)
                    weight[-lookback:] = ahead + back @ (turned / shrunk.unsqueeze(1))
                    freedom = float((values / shrunk).sum() / train.rows[group].clamp(min=1))
                    yield Fit(weight, judge(train, val, group, weight, freedom), freedom, level, lookback, ridge)


def judge(train: Moments, val: Moments, group: int, weight: Tensor, freedom: float) -> float:
    """Squared error on the validation rows; without any, generalized cross-validation on the training rows."""
    if val.weight[group] > 0:
        return float(val.error(group, weight).mean())
    return float(train.error(group, weight).mean()) / max(1 - freedom, 1e-3) ** 2


def _level(level: Level, lookback: int, horizon: int, season: int) -> Tensor:
    """Level at each step of window and horizon, a map of the window ``(lookback, lookback + horizon)``."""
    width = lookback + horizon
    base = torch.zeros(lookback, width, dtype=torch.float64)
    if level == "mean":
        base[:] = 1 / lookback
    elif level != "none":
        cycle = season if level == "season" else 1
        steps = torch.arange(width)
        # the step of the last season that is of the same phase
        base[lookback - cycle + (steps - lookback) % cycle, steps] = 1
    return base
