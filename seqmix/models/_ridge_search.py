"""The search of Ridge: every penalty from sums of products alone, and the test that a gain is more than chance."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from seqmix.models._moments import Moments

Level = Literal["last", "mean", "season", "none"]
# covariates are few and do not stand for each other: they are penalized a hundredth as much as steps of the window
_LIGHT = 10.0


class Path(NamedTuple):
    """The maps of R penalties for some steps, and their errors."""

    weight: Tensor  # from the inputs of all steps to the horizon, the level in it: (R, D, H), in float64
    effect: Tensor  # of the inputs of each step: (R, H, F)
    squared: Tensor  # sum of squared errors of validation, or the estimate of it: (R, H)
    share: Tensor  # degrees of freedom for each training row: (R, H)
    rows: float  # training rows that cross-validation has; infinite with validation windows


class Fit(NamedTuple):
    """One map, ``(D, H)`` and ``(H, F)``, and its sum of squared errors of validation, or the estimate of it."""

    weight: Tensor
    effect: Tensor
    squared: float


def best_fit(paths: Sequence[Path], overlap: float) -> Fit:
    """The map of the penalty with the least error over all steps.

    Args:
        paths: the maps for parts of the horizon, in order.
        overlap: training rows that cross-validation counts as one; the error is infinite where that leaves none to
            spare. Errors of validation count with 1.
    """
    weight, effect, squared, share = (
        torch.cat(parts, dim) for parts, dim in zip(list(zip(*paths, strict=True))[:4], (2, 1, 1, 1), strict=True)
    )
    if overlap > 1:
        left = 1 - overlap * share
        squared = (squared * ((1 - share) / left) ** 2).masked_fill(left <= 0, math.inf)
    total = squared.sum(1)
    best = int(total.argmin()) if bool(total.isfinite().any()) else len(total) - 1
    return Fit(weight[best], effect[best], float(total[best]))


def ridge_path(train: Moments, val: Moments, group: int, level: Tensor, ridges: tuple[float, ...]) -> Path:
    """The maps of one group for all penalties.

    With A the products of the inputs of all steps, and the penalty on their diagonal, the inputs of a step have the
    effect ``(V - B' A^-1 B)^-1 (d - B' A^-1 c)``, and the others ``A^-1 (c - B effect)``: one eigendecomposition of A
    serves all penalties, and all steps that the same rows count at.

    Args:
        train: sums over training windows.
        val: sums over validation windows; where they are empty generalized cross-validation takes their place.
        group: number of the group.
        level: the level at each step of window and horizon as a linear map of the window, ``(L, L + H)``.
        ridges: penalties to try.
    """
    H = train.xy.shape[2]
    # without missing targets the same rows count at all steps
    parts = [slice(h, h + 1) for h in range(H)] if train.lacking.shape[1] else [slice(0, H)]
    found = [_solved(train, group, steps, level, ridges) for steps in parts]
    weight = torch.cat([part[0] for part in found], 2)
    effect, freedom = (torch.cat([part[k] for part in found], 1) for k in (1, 2))
    share = freedom / train.rows[group].clamp(min=1)
    held = val if val.weight[group].any() else train
    squared = torch.stack([held.squared(group, *each) for each in zip(weight, effect, strict=True)])
    if held is train:
        squared = squared / (1 - share).clamp(min=1e-3) ** 2
    return Path(weight, effect, squared, share, float(train.rows[group].max()) if held is train else math.inf)


def _solved(
    train: Moments, group: int, steps: slice, level: Tensor, ridges: tuple[float, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights ``(R, D, h)``, effects ``(R, h, F)`` and degrees of freedom ``(R, h)`` at h steps of the same rows."""
    L, D = len(level), train.xx.shape[1]
    tiny = torch.finfo(torch.float64).tiny
    n = train.weight[group, steps.start].clamp(min=tiny)
    xx = train.gram(group, steps.start) / n
    xy = train.xy[group, :, steps] / n
    xv, vv, vy = (t[group, steps] / n for t in (train.xv, train.vv, train.vy))
    level = nn.functional.pad(level.to(xx), (0, 0, 0, D - L))
    inside, ahead = level[:, :L], level[:, L:][:, steps]
    # projection that subtracts the level of the window from window and horizon
    rest = torch.eye(D, dtype=xx.dtype, device=xx.device)
    rest[:, :L] -= inside
    # mean square of a step; a constant series leaves nothing
    unit = ((rest.T @ xx) * rest.T).sum(1)[:L].mean().clamp(min=tiny)
    rest[:, L:] *= _LIGHT * (unit / xx.diagonal()[L:].clamp(min=tiny)).sqrt().clamp(max=1e6)
    size = _LIGHT * (unit / vv.diagonal(dim1=1, dim2=2).mean(0).clamp(min=tiny)).sqrt().clamp(max=1e6)  # (F,)
    values, vectors = torch.linalg.eigh(rest.T @ xx @ rest)
    values, back = values.clamp(min=0), rest @ vectors
    c = back.T @ (xy - xx @ ahead)  # (D, h)
    B = back.T @ xv * size  # (h, D, F)
    V = vv * size * size.unsqueeze(1)  # (h, F, F)
    d = (vy - (xv.mT @ ahead.T.unsqueeze(2)).squeeze(2)) * size  # (h, F)
    found = []
    for ridge in ridges:
        shrunk = values + ridge * unit
        over = B / shrunk.unsqueeze(1)
        left = V - B.mT @ over + ridge * unit * torch.eye(len(size), dtype=xx.dtype, device=xx.device)
        effect = torch.linalg.solve(left, d.unsqueeze(2) - over.mT @ c.T.unsqueeze(2))  # (h, F, 1)
        weight = ahead + back @ ((c - (B @ effect).squeeze(2).T) / shrunk.unsqueeze(1))
        freedom = (values / shrunk).sum() + len(size)
        found.append((weight, effect.squeeze(2) * size, freedom.expand(ahead.shape[1])))
    weights, effects, freedoms = zip(*found, strict=True)
    return torch.stack(weights), torch.stack(effects), torch.stack(freedoms)


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
