"""Clusters of Ridge: channels, or kinds of windows, with one map, by k-means on their sums of products."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from seqmix.models._moments import Moments
from seqmix.models._ridge_search import Fit, best_fit, ridge_path

# number of times that the clusters are split in two
_HALVINGS = 4
CELLS = 2**_HALVINGS
# number of windows that clusters are learned from
_SAMPLE = 8192
_PASSES = 10
# steps of the horizon that clusters are told by, and where targets are missing: each then has an eigendecomposition
_STEPS, _STEPS_LACKING = 8, 2


class Cells(nn.Module):
    """Kinds of windows of one channel, told by their normal statistics: how rough they are at several lags.

    A statistic is the root of the mean square of differences at a lag, in units of the deviation of the window, which
    level and scale do not change. A window is of the kind whose center is nearest. Before ``learn`` all are of the
    first.

    Shapes: ``(B, context, 1) -> (B,)``. Cost: O(B context log context).

    Args:
        context: steps of a window.
        season: steps of the season, a further lag.
    """

    centers: Tensor
    scale: Tensor

    def __init__(self, context: int, season: int):
        super().__init__()
        lags = {2**k for k in range(12)} | {season}
        self.lags = sorted(k for k in lags if k <= max(1, context // 3) and k < context)
        self.register_buffer("centers", torch.zeros(CELLS, len(self.lags)))
        self.register_buffer("scale", torch.ones(len(self.lags)))

    def forward(self, x: Tensor) -> Tensor:
        """The kind of each window."""
        apart = self.statistics(x).unsqueeze(1) - self.centers  # (B, cells, lags)
        return apart.square().sum(2).argmin(1)

    def statistics(self, x: Tensor) -> Tensor:
        """Statistics of windows, ``(B, lags)``."""
        x = x[..., 0].float()
        x = x - x.mean(1, keepdim=True)
        spread = x.square().mean(1).clamp(min=torch.finfo(x.dtype).tiny)
        rough = [(x[:, k:] - x[:, :-k]).square().mean(1) / spread for k in self.lags]
        return torch.stack(rough, 1).clamp(max=8).sqrt() / self.scale if rough else x[:, :0]

    @torch.no_grad()
    def learn(self, windows: Iterable[Tensor]) -> None:
        """Find the centers: cells are halved along their longest axis, then moved by k-means."""
        self.scale.fill_(1)
        points, n, every = self.centers[:0], 0, 1
        for x in windows:
            at = torch.arange(n, n + len(x), device=x.device) % every == 0
            points, n = torch.cat([points, self.statistics(x[at])]), n + len(x)
            if len(points) > 2 * _SAMPLE:
                points, every = points[::2], 2 * every
        if not points.numel():
            return
        self.scale.copy_(points.std(0, correction=0).clamp(min=1e-6))
        points = points / self.scale
        cell = torch.zeros(len(points), dtype=torch.long, device=points.device)
        for _ in range(_HALVINGS):
            cell = 2 * cell + _far_side(points, cell)
        self.centers.copy_(points.mean(0))
        for _ in range(_PASSES):
            for k in cell.unique().tolist():
                self.centers[k] = points[cell == k].mean(0)
            cell = torch.cdist(points, self.centers).argmin(1)


def clusterings(train: Moments, level: Tensor, ridges: tuple[float, ...], overlap: int, most: int) -> Iterator[Tensor]:
    """Labels ``(G,)`` of the groups in 2, 4, 8, ... clusters, each group in the one whose map errs least on its rows.

    The first maps are those of single groups, one after another of the group that the maps before serve worst.

    Args:
        train: sums over training windows.
        level: the level at each step of window and horizon as a linear map of the window, ``(L, L + H)``.
        ridges: penalties to try, by cross-validation.
        overlap: rows that it counts as one.
        most: clusters at most.
    """
    if most < 2:
        return
    G, H, L = *train.yy.shape, len(level)
    n_steps = min(H, _STEPS_LACKING if train.lacking.shape[1] else _STEPS)
    steps = torch.linspace(0, H - 1, n_steps).round().long()
    train, level = train.at(steps), torch.cat([level[:, :L], level[:, L + steps]], 1)

    def maps(sums: Moments) -> list[Fit]:
        none = sums.without(sums)
        groups = range(len(sums.weight))
        return [best_fit([ridge_path(sums, none, g, level, ridges)], overlap) for g in groups]

    def costs(fits: list[Fit]) -> Tensor:
        """Squared errors of each map on each group, ``(G, K)``."""
        each = [[train.squared(g, fit.weight, fit.effect).sum() for fit in fits] for g in range(G)]
        return torch.stack([torch.stack(row) for row in each])

    shared = costs(maps(train.pooled(torch.zeros(G, dtype=torch.long))))
    own = costs(maps(train)) / shared.clamp(
        min=torch.finfo(shared.dtype).tiny
    )  # relative: no group counts by its scale
    first, size = [int(own.sum(0).argmin())], 2
    while size < min(G, most + 1):
        while len(first) < size:
            first.append(int((own[:, first].amin(1) - own.diagonal()).argmax()))
        labels = own[:, first].argmin(1)
        for _ in range(_PASSES):
            labels, before = costs(maps(train.pooled(labels))).argmin(1), labels
            if torch.equal(labels, before):
                break
        yield labels.unique(return_inverse=True)[1]
        size *= 2


def _far_side(points: Tensor, cell: Tensor) -> Tensor:
    """Whether a point ``(n, F)`` lies beyond the mean of its cell along the longest axis of that cell, as 0 or 1."""
    far = torch.zeros_like(cell)
    for k in cell.unique():
        own = points[cell == k].double()
        apart = own - own.mean(0)
        far[cell == k] = (apart @ torch.linalg.eigh(apart.T @ apart).eigenvectors[:, -1] > 0).long()
    return far
