"""The search of Ridge: every penalty from sums of products alone, and the test that a gain is more than chance."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from seqmix.models._moments import Moments

Level = Literal["last", "mean", "season", "none"]


class Fit(NamedTuple):
    """One map, and what it was found with."""

    weight: Tensor  # from the window to the horizon, the level in it: (L, H), in float64
    error: float  # mean squared error of validation, or the estimate of it
    ridge: float


def best_ridge(train: Moments, val: Moments, group: int, level: Tensor, ridges: tuple[float, ...]) -> Fit:
    """The map of one group with the penalty of the least validation error, or, without one, of cross-validation.

    Args:
        train: sums over training windows.
        val: sums over validation windows; where they are empty generalized cross-validation takes their place.
        group: number of the group.
        level: the level at each step of window and horizon as a linear map of the window, ``(L, L + H)``.
        ridges: penalties to try.
    """
    L, H = train.xy.shape[1:]
    tiny = torch.finfo(torch.float64).tiny
    n = train.weight[group].clamp(min=tiny)
    xx, xy = train.xx[group] / n, train.xy[group] / n
    inside, ahead = level.to(xx).split([L, H], 1)
    # of what is left of window and horizon when the level of the window is taken from both
    rest = torch.eye(L, dtype=xx.dtype, device=xx.device) - inside
    values, vectors = torch.linalg.eigh(rest.T @ xx @ rest)
    values = values.clamp(min=0)
    # a constant series leaves nothing
    unit = values.mean().clamp(min=tiny)
    turned = vectors.T @ (rest.T @ (xy - xx @ ahead))
    back = rest @ vectors
    found = []
    for ridge in ridges:
        shrunk = values + ridge * unit
        weight = ahead + back @ (turned / shrunk.unsqueeze(1))
        if val.weight[group] > 0:
            error = float(val.error(group, weight).mean())
        else:
            freedom = float((values / shrunk).sum() / train.rows[group].clamp(min=1))
            error = float(train.error(group, weight).mean()) / max(1 - freedom, 1e-3) ** 2
        found.append(Fit(weight, error, ridge))
    return min(found, key=lambda fit: fit.error)


def level_map(level: Level, context: int, horizon: int, season: int) -> Tensor:
    """Level at each step of window and horizon, as a linear map of the window, ``(context, context + horizon)``."""
    width = context + horizon
    base = torch.zeros(context, width, dtype=torch.float64)
    if level == "mean":
        base[:] = 1 / context
    elif level != "none":
        cycle = season if level == "season" else 1
        steps = torch.arange(width)
        # the step of the last season that is of the same phase
        base[context - cycle + (steps - context) % cycle, steps] = 1
    return base


def significant(gains: Tensor) -> Tensor:
    """Whether mean gains ``(n, ...)`` are above chance: t > 2 over ten consecutive blocks of the n, ``(...)``."""
    if len(gains) < 10:
        return torch.zeros(gains.shape[1:], dtype=torch.bool)
    blocks = torch.stack([block.mean(0) for block in gains.tensor_split(10)])
    return blocks.mean(0) > 2 * blocks.std(0) / 10**0.5
