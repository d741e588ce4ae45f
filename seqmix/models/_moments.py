"""Second moments of inputs and targets, summed over batches, for least squares."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

# rows per product: bounds the work space whatever the size of data and batches
_BLOCK = 4096
# shares of a sum that are rounding
_ROUNDING = 1e-13


class Rows(NamedTuple):
    """Inputs and targets of windows; a row is one channel of one window.

    Args:
        x: inputs of all steps, ``(B, C, D)``.
        ahead: inputs of each step, ``(B, H, F)``.
        y: targets, ``(B, H, C)``.
        seen: where a target was observed, ``(B, H, C)``; what ``y`` holds elsewhere does not matter.
        weight: what a row counts, ``(B, C)``.
        group: the group of a window, ``(B,)``; it is not asked for where channels are groups, or all rows are one.
    """

    x: Tensor
    ahead: Tensor
    y: Tensor
    seen: Tensor
    weight: Tensor
    group: Tensor


class Moments:
    """Weighted sums of products of inputs ``x: (D,)``, inputs of a step ``v: (H, F)`` and targets ``y: (H,)``.

    They are kept in float64 for each of G groups. Sums of blocks of rows are added up, so that the order and the size
    of batches change them by rounding only, about 1e-15 of their size. Shapes: ``xx: (G, D, D)``, ``xy: (G, D, H)``,
    ``yy: (G, H)``, ``xv: (G, H, D, F)``, ``vv: (G, H, F, F)``, ``vy: (G, H, F)``; ``weight: (G, H)`` is the sum of the
    weights, ``rows: (G, H)`` the number of rows with one above 0.

    A row counts at the steps that it has targets of. Its products of inputs are in ``xx``, and those that do not count
    at a step are in ``lacking: (G, H, D, D)``; it is empty, ``(G, 0, D, D)``, as long as no target is missing.

    Args:
        groups: number of groups G.
        width: inputs of all steps D.
        horizon: steps H.
        ahead: inputs of each step F.
        device: where sums are kept.
    """

    def __init__(self, groups: int, width: int, horizon: int, ahead: int, device: torch.device):
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64, device=device)

        self.xx, self.xy, self.yy = zeros(width, width), zeros(width, horizon), zeros(horizon)
        self.xv, self.vv = zeros(horizon, width, ahead), zeros(horizon, ahead, ahead)
        self.vy, self.lacking = zeros(horizon, ahead), zeros(0, width, width)
        self.weight, self.rows = zeros(horizon), zeros(horizon)

    def add(self, rows: Iterable[Rows]) -> "Moments":
        """Add rows, and return the sums."""
        waiting: list[Rows] = []
        for each in rows:
            waiting.append(each)
            if sum(given.weight.numel() for given in waiting) >= _BLOCK:
                self._add_block(waiting)
                waiting = []
        if waiting:
            self._add_block(waiting)
        return self

    def pooled(self, labels: Tensor) -> "Moments":
        """The sums over the groups of each label from 0 on; ``labels: (G,)``."""
        n = int(labels.max()) + 1
        return self._made(lambda x: x.new_zeros(n, *x.shape[1:]).index_add_(0, labels.to(x.device), x))

    def at(self, steps: Tensor) -> "Moments":
        """The sums at some steps of the horizon alone; ``steps: (h,)``."""
        found = self._made(lambda x: x)
        for name in ("yy", "xv", "vv", "vy", "weight", "rows", *(["lacking"] if self.lacking.shape[1] else [])):
            setattr(found, name, getattr(self, name)[:, steps])
        found.xy = self.xy[..., steps]
        return found

    def without(self, part: "Moments") -> "Moments":
        """The sums over all rows but those of ``part``, which were added before."""
        rest = self._made(lambda x: x)
        for name, x in vars(part).items():
            mine = getattr(self, name)
            # nothing is missing in the part
            left = mine - x if x.shape == mine.shape else mine
            # what is left of equal sums is rounding, and a fit to it would be arbitrary
            setattr(rest, name, left.masked_fill(left.abs() <= _ROUNDING * mine.abs(), 0))
        return rest

    def gram(self, group: int, step: int) -> Tensor:
        """Sum of the products of inputs of the rows that count at a step, ``(D, D)``."""
        if not self.lacking.shape[1]:
            return self.xx[group]
        # exactly 0 without rows
        return (self.xx[group] - self.lacking[group, step]) * (self.weight[group, step] > 0)

    def squared(self, group: int, weight: Tensor, effect: Tensor) -> Tensor:
        """Sum of squared errors at each step of ``weight: (D, H)`` and ``effect: (H, F)``, ``(H,)``."""
        xx, xy, yy, xv, vv, vy = (t[group] for t in (self.xx, self.xy, self.yy, self.xv, self.vv, self.vy))
        found = yy - 2 * (weight * xy).sum(0) + (weight * (xx @ weight)).sum(0)
        if self.lacking.shape[1]:
            found = found - (weight.T * (self.lacking[group] @ weight.T.unsqueeze(2)).squeeze(2)).sum(1)
        # moments of the inputs of the step: their squares, and products with the rest
        cross = (xv.mT @ weight.T.unsqueeze(2)).squeeze(2)  # (H, F)
        own = (vv @ effect.unsqueeze(2)).squeeze(2)
        return (found + (effect * (own + 2 * cross - 2 * vy)).sum(1)).clamp(min=0)

    def _made(self, sums: Callable[[Tensor], Tensor]) -> "Moments":
        found = Moments(0, 0, 0, 0, self.xx.device)
        for name, x in vars(self).items():
            setattr(found, name, sums(x))
        return found

    def _add_block(self, rows: list[Rows]) -> None:
        x, v, y, seen, weight, group = (torch.cat(parts).to(self.xx.device) for parts in zip(*rows, strict=True))
        B, C, G = *weight.shape, len(self.weight)
        kinds = G not in (1, C)
        if kinds:
            # kinds of windows of one channel: sorted, so that each is a slice
            group, order = group.sort(stable=True)
            x, v, y, seen, weight = (t[order] for t in (x, v, y, seen, weight))
        x, v, weight = x.double().transpose(0, 1), v.double().expand(C, *v.shape), weight.double().T  # (C, B, ...)
        parts = x, v, y.permute(2, 0, 1).double(), seen.permute(2, 0, 1), weight
        if not kinds:
            self._add_rows(slice(None), *(t.reshape(G, C * B // G, *t.shape[2:]) for t in parts))
            return
        found, counts = group.unique_consecutive(return_counts=True)
        for g, *own in zip(found.tolist(), *(t.split(counts.tolist(), 1) for t in parts), strict=True):
            self._add_rows(slice(g, g + 1), *own)

    def _add_rows(self, groups: slice, x: Tensor, v: Tensor, y: Tensor, seen: Tensor, weight: Tensor) -> None:
        """Add the same number n of rows to each of some groups: ``x: (g, n, D)``, ``v: (g, n, H, F)``, ..."""
        complete = bool(seen.all())
        counts, root = weight.unsqueeze(2), weight.sqrt().unsqueeze(2)  # (g, n, 1)
        if not complete:
            y, counts, root = torch.where(seen, y, 0), counts * seen, root * seen.any(2, keepdim=True)
            v = v * seen.unsqueeze(3)
        x, y = x * root, y * root
        self.xx[groups].baddbmm_(x.mT, x)
        self.xy[groups].baddbmm_(x.mT, y)
        self.yy[groups] += y.square().sum(1)
        self.weight[groups] += counts.sum(1)
        self.rows[groups] += (counts > 0).sum(1)
        if v.shape[3]:
            v = v * root.unsqueeze(3)
            self.xv[groups] += (x.mT @ v.flatten(2)).unflatten(2, v.shape[2:]).transpose(1, 2)
            self.vv[groups] += torch.einsum("grhf,grhe->ghfe", v, v)
            self.vy[groups] += torch.einsum("grhf,grh->ghf", v, y)
        if not complete:
            if not self.lacking.shape[1]:
                G, D, H = self.xy.shape
                self.lacking = self.xx.new_zeros(G, H, D, D)
            for lacking, mine, missing in zip(self.lacking[groups], x, ~seen, strict=True):
                _add_lacking(lacking, mine, missing)


def _add_lacking(lacking: Tensor, x: Tensor, missing: Tensor) -> None:
    """Add the products of rows ``x: (n, D)`` to the steps that they lack, once for all steps that lack the same rows.

    Args:
        lacking: the sums, ``(H, D, D)``.
        x: the rows.
        missing: where a row lacks a target, ``(n, H)``.
    """
    patterns, which = missing.unique(dim=1, return_inverse=True)
    for k, rows in enumerate(patterns.T):
        if rows.any():
            lacking[which == k] += x[rows].T @ x[rows]
