"""The search of Ridge: every penalty from sums of products alone, and the test that a gain is more than chance."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from seqmix.models._moments import Moments

Level = Literal["last", "mean", "season", "none"]
# covariates are few and do not stand for each other: they are penalized a hundredth as much as steps of the window
_LIGHT = 10.0
# training rows that each count as one in cross-validation; fewer count as their square over this number
_FEW = 10
# least share of rows with a target at the step that has fewest, for one search over the penalty at all steps, and least
# inputs, as decompositions of a few cost nothing
_ALIKE, _LARGE = 0.8, 128


class Path(NamedTuple):
    """The maps of R penalties for some steps, and their errors."""

    weight: Tensor  # from the inputs of all steps to the horizon, the level in it: (R, D, H), in float64
    effect: Tensor  # of the inputs of each step: (R, H, F)
    squared: Tensor  # sum of squared errors of validation, or the estimate of it: (R, H)
    share: Tensor  # degrees of freedom for each training row: (R, H)
    rows: float  # training rows that cross-validation has; infinite with validation windows
    # weight and effect of the penalty of a number, where those above are of the mean over steps of unlike rows
    exact: Callable[[int], tuple[Tensor, Tensor]] | None


class Fit(NamedTuple):
    """One map, ``(D, H)`` and ``(H, F)``, and its sum of squared errors of validation, or the estimate of it."""

    weight: Tensor
    effect: Tensor
    squared: float


def best_fit(paths: Sequence[Path], overlap: int) -> Fit:
    """The map of the penalty with the least error over all steps.

    Args:
        paths: the maps for parts of the horizon, in order.
        overlap: training rows that cross-validation counts as one; the error is infinite where that leaves none to
            spare. Errors of validation count with 1.
    """
    squared, share = torch.cat([path.squared for path in paths], 1), torch.cat([path.share for path in paths], 1)
    # windows that overlap agree by chance: from a few of them cross-validation would learn anything
    one = max(overlap, _FEW / max(paths[0].rows, 1))
    if one > 1:
        left = 1 - one * share
        squared = (squared * ((1 - share) / left) ** 2).masked_fill(left <= 0, math.inf)
    total = squared.sum(1)
    best = int(total.argmin()) if bool(total.isfinite().any()) else len(total) - 1
    parts = [path.exact(best) if path.exact else (path.weight[best], path.effect[best]) for path in paths]
    weights, effects = zip(*parts, strict=True)
    return Fit(torch.cat(weights, 1), torch.cat(effects), float(total[best]))


def ridge_path(train: Moments, val: Moments, group: int, level: Tensor, ridges: tuple[float, ...]) -> Path:
    """The maps of one group for all penalties.

    With A the products of the inputs of all steps, and the penalty on their diagonal, the inputs of a step have the
    effect ``(V - B' A^-1 B)^-1 (d - B' A^-1 c)``, and the others ``A^-1 (c - B effect)``: one eigendecomposition of A
    serves all penalties, and all steps that the same rows count at. Where steps lack few targets, that of their mean
    serves the search, and the map of the penalty that is chosen is exact.

    Args:
        train: sums over training windows.
        val: sums over validation windows; where they are empty generalized cross-validation takes their place.
        group: number of the group.
        level: the level at each step of window and horizon as a linear map of the window, ``(L, L + H)``.
        ridges: penalties to try.
    """
    H = train.xy.shape[2]
    rows = train.rows[group]
    # without missing targets the same rows count at all steps
    D, gaps = train.xx.shape[1], bool(train.lacking.shape[1])
    alike = gaps and H > 1 and D >= _LARGE and bool(rows.min() > max(_ALIKE * rows.max(), 2 * D))
    parts = [slice(0, H)] if alike or not gaps else [slice(h, h + 1) for h in range(H)]
    found = [_solved(train, group, steps, level, ridges) for steps in parts]
    weight = torch.cat([part[0] for part in found], 2)
    effect, freedom = (torch.cat([part[k] for part in found], 1) for k in (1, 2))
    share = freedom / rows.clamp(min=1)
    held = val if val.weight[group].any() else train
    squared = torch.stack([held.squared(group, *each) for each in zip(weight, effect, strict=True)])
    if held is train:
        squared = squared / (1 - share).clamp(min=1e-3) ** 2

    def exact(best: int) -> tuple[Tensor, Tensor]:
        each = [_exact(train, group, h, level, ridges[best]) for h in range(H)]
        return torch.cat([w for w, _ in each], 1), torch.cat([e for _, e in each])

    return Path(
        weight, effect, squared, share, float(rows.max()) if held is train else math.inf, exact if alike else None
    )


class _System(NamedTuple):
    """Normal equations at h steps, before the penalty; a map is ``ahead + rest @ w``."""

    xx: Tensor  # (D, D)
    rest: Tensor  # projection that subtracts the level of the window from window and horizon, (D, D)
    ahead: Tensor  # the level at each step, (D, h)
    left: Tensor  # products of inputs and targets without the level, (D, h)
    xv: Tensor  # (h, D, F)
    V: Tensor  # (h, F, F)
    d: Tensor  # (h, F)
    size: Tensor  # scale of the inputs of a step, (F,)
    unit: Tensor  # mean square of a step of the window


def _system(train: Moments, group: int, steps: slice, level: Tensor) -> _System:
    """The system at steps of the same rows, or, with the mean of their inputs, at steps of rows that are alike."""
    L, D = len(level), train.xx.shape[1]
    tiny = torch.finfo(torch.float64).tiny
    n = train.weight[group, steps]
    # sums without a row, which may be rounding where others were subtracted, are 0
    n = n.masked_fill(n <= 0, math.inf)  # (h,)
    one = steps.stop - steps.start == 1 or not train.lacking.shape[1]
    grams = [
        train.gram(group, h) / n[h - steps.start] for h in range(steps.start, steps.start + 1 if one else steps.stop)
    ]
    xx = grams[0] if one else torch.stack(grams).mean(0)
    xy = train.xy[group, :, steps] / n
    xv, vv, vy = (
        train.xv[group, steps] / n[:, None, None],
        train.vv[group, steps] / n[:, None, None],
        train.vy[group, steps] / n[:, None],
    )
    level = nn.functional.pad(level.to(xx), (0, 0, 0, D - L))
    inside, ahead = level[:, :L], level[:, L:][:, steps]
    rest = torch.eye(D, dtype=xx.dtype, device=xx.device)
    rest[:, :L] -= inside
    # a constant series leaves nothing
    unit = ((rest.T @ xx) * rest.T).sum(1)[:L].mean().clamp(min=tiny)
    rest[:, L:] *= _LIGHT * (unit / xx.diagonal()[L:].clamp(min=tiny)).sqrt().clamp(max=1e6)
    size = _LIGHT * (unit / vv.diagonal(dim1=1, dim2=2).mean(0).clamp(min=tiny)).sqrt().clamp(max=1e6)  # (F,)
    left = xy - (xx @ ahead if one else torch.stack([gram @ ahead[:, k] for k, gram in enumerate(grams)], 1))
    V = vv * size * size.unsqueeze(1)
    d = (vy - (xv.mT @ ahead.T.unsqueeze(2)).squeeze(2)) * size
    return _System(xx, rest, ahead, left, xv, V, d, size, unit)


def _solved(
    train: Moments, group: int, steps: slice, level: Tensor, ridges: tuple[float, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights ``(R, D, h)``, effects ``(R, h, F)`` and degrees of freedom ``(R, h)`` at h steps of the same rows."""
    xx, rest, ahead, left, xv, V, d, size, unit = _system(train, group, steps, level)
    values, vectors = torch.linalg.eigh(rest.T @ xx @ rest)
    values, back = values.clamp(min=0), rest @ vectors
    c = back.T @ left  # (D, h)
    B = back.T @ xv * size  # (h, D, F)
    found = []
    for ridge in ridges:
        shrunk = values + ridge * unit
        over = B / shrunk.unsqueeze(1)
        own = V - B.mT @ over + ridge * unit * torch.eye(len(size), dtype=xx.dtype, device=xx.device)
        effect = torch.linalg.solve(own, d.unsqueeze(2) - over.mT @ c.T.unsqueeze(2))  # (h, F, 1)
        weight = ahead + back @ ((c - (B @ effect).squeeze(2).T) / shrunk.unsqueeze(1))
        freedom = (values / shrunk).sum() + len(size)
        found.append((weight, effect.squeeze(2) * size, freedom.expand(ahead.shape[1])))
    weights, effects, freedoms = zip(*found, strict=True)
    return torch.stack(weights), torch.stack(effects), torch.stack(freedoms)


def _exact(train: Moments, group: int, step: int, level: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Weight ``(D, 1)`` and effect ``(1, F)`` at one step, without an eigendecomposition."""
    xx, rest, ahead, left, xv, V, d, size, unit = _system(train, group, slice(step, step + 1), level)
    shrunk = rest.T @ xx @ rest
    shrunk.diagonal().add_(ridge * unit)
    B = rest.T @ xv[0] * size  # (D, F)
    over = torch.linalg.solve(shrunk, torch.cat([rest.T @ left, B], 1))
    own = V[0] - B.T @ over[:, 1:] + ridge * unit * torch.eye(len(size), dtype=xx.dtype, device=xx.device)
    effect = torch.linalg.solve(own, d[0].unsqueeze(1) - B.T @ over[:, :1])  # (F, 1)
    return ahead + rest @ (over[:, :1] - over[:, 1:] @ effect), effect.T * size


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
