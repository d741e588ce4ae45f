"""The search of Ridge: every penalty from sums of products alone, and the test that a gain is more than chance."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from seqmix.models._moments import Moments

Level = Literal["last", "mean", "season", "none"]
# covariates are few and do not stand for each other: they are penalized a hundredth as much as steps of the window
_LIGHT = 10.0


class Fit(NamedTuple):
    """One map, and its error."""

    weight: Tensor  # from the inputs of all steps to the horizon, the level in it: (D, H), in float64
    effect: Tensor  # of the inputs of each step: (H, F)
    error: float  # mean squared error of validation, or the estimate of it


def best_ridge(train: Moments, val: Moments, group: int, level: Tensor, ridges: tuple[float, ...]) -> Fit:
    """The map of one group with the penalty of the least validation error, or, without one, of cross-validation.

    With A the products of the inputs of all steps, and the penalty on their diagonal, the inputs of a step have the
    effect ``(V - B' A^-1 B)^-1 (d - B' A^-1 c)``, and the others ``A^-1 (c - B effect)``: one eigendecomposition of A
    serves all penalties and all steps.

    Args:
        train: sums over training windows.
        val: sums over validation windows; where they are empty generalized cross-validation takes their place.
        group: number of the group.
        level: the level at each step of window and horizon as a linear map of the window, ``(L, L + H)``.
        ridges: penalties to try.
    """
    D, H = train.xy.shape[1:]
    L = len(level)
    tiny = torch.finfo(torch.float64).tiny
    n = train.weight[group].clamp(min=tiny)
    xx, xy, xv, vv, vy = (t[group] / n for t in (train.xx, train.xy, train.xv, train.vv, train.vy))
    level = nn.functional.pad(level.to(xx), (0, 0, 0, D - L))
    inside, ahead = level.split([L, H], 1)
    # of what is left of window and horizon when the level of the window is taken from both
    rest = torch.eye(D, dtype=xx.dtype, device=xx.device)
    rest[:, :L] -= inside
    # mean square of a step; a constant series leaves nothing
    unit = ((rest.T @ xx) * rest.T).sum(1)[:L].mean().clamp(min=tiny)
    rest[:, L:] *= _LIGHT * (unit / xx.diagonal()[L:].clamp(min=tiny)).sqrt().clamp(max=1e6)
    size = _LIGHT * (unit / vv.diagonal(dim1=1, dim2=2).mean(0).clamp(min=tiny)).sqrt().clamp(max=1e6)  # (F,)
    values, vectors = torch.linalg.eigh(rest.T @ xx @ rest)
    values, back = values.clamp(min=0), rest @ vectors
    c = back.T @ (xy - xx @ ahead)  # (D, H)
    B = back.T @ xv * size  # (H, D, F)
    V = vv * size * size.unsqueeze(1)  # (H, F, F)
    d = (vy - (xv.mT @ ahead.T.unsqueeze(2)).squeeze(2)) * size  # (H, F)
    found = []
    for ridge in ridges:
        shrunk = values + ridge * unit
        over = B / shrunk.unsqueeze(1)
        left = V - B.mT @ over + ridge * unit * torch.eye(len(size), dtype=xx.dtype, device=xx.device)
        effect = torch.linalg.solve(left, d.unsqueeze(2) - over.mT @ c.T.unsqueeze(2))  # (H, F, 1)
        weight = ahead + back @ ((c - (B @ effect).squeeze(2).T) / shrunk.unsqueeze(1))
        effect = effect.squeeze(2) * size
        if val.weight[group] > 0:
            error = float(val.error(group, weight, effect).mean())
        else:
            freedom = float((values / shrunk).sum() + len(size)) / max(float(train.rows[group]), 1)
            error = float(train.error(group, weight, effect).mean()) / max(1 - freedom, 1e-3) ** 2
        found.append(Fit(weight, effect, error))
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


def significant(gains: Tensor, horizon: int) -> bool:
    """Whether the mean of gains ``(n,)`` of consecutive windows is above chance: t > 2 over ten blocks of time.

    Horizons of neighbors overlap: a block is no shorter than one, and fewer than three blocks tell nothing.
    """
    n_blocks = min(10, len(gains) // horizon)
    if n_blocks < 3:
        return False
    blocks = torch.stack([block.mean() for block in gains.tensor_split(n_blocks)])
    return bool(blocks.mean() > 2 * blocks.std() / n_blocks**0.5)
