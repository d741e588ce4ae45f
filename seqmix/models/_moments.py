"""Second moments of inputs and targets, summed over batches: all that least squares needs to know of the data."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

# rows that are multiplied at a time: the work space, whatever the size of the data and of its batches
_BLOCK = 4096


class Rows(NamedTuple):
    """Inputs of all steps ``x: (B, C, D)``, of each step ``ahead: (B, H, F)``, ``y: (B, H, C)``, ``weight: (B, C)``."""

    x: Tensor
    ahead: Tensor
    y: Tensor
    weight: Tensor


class Moments:
    """Weighted sums of products of inputs ``x: (D,)``, inputs of a step ``v: (H, F)`` and targets ``y: (H,)``.

    They are kept in float64 for each of G groups; a row is one channel of one window. Sums of blocks of rows are added
    up, so that the order and the size of batches change them by rounding only, about 1e-15 of their size. Shapes:
    ``xx: (G, D, D)``, ``xy: (G, D, H)``, ``yy: (G, H)``, ``xv: (G, H, D, F)``, ``vv: (G, H, F, F)``, ``vy: (G, H, F)``;
    ``weight: (G,)`` is the sum of the weights, ``rows: (G,)`` the number of rows with one above 0.

    Args:
        groups: 1 for all channels together, or the number of channels.
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
        self.vy = zeros(horizon, ahead)
        self.weight, self.rows = zeros(), zeros()

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

    def pooled(self) -> "Moments":
        """The sums over all groups, as one group."""
        return self._made(lambda name: getattr(self, name).sum(0, keepdim=True))

    def without(self, part: "Moments") -> "Moments":
        """The sums over all rows but those of ``part``, which were added before."""
        return self._made(lambda name: getattr(self, name) - getattr(part, name))

    def _made(self, sums: Callable[[str], Tensor]) -> "Moments":
        found = Moments(0, 0, 0, 0, self.xx.device)
        for name in vars(self):
            setattr(found, name, sums(name))
        return found

    def error(self, group: int, weight: Tensor, effect: Tensor) -> Tensor:
        """Mean squared error at each step of ``weight: (D, H)`` and ``effect: (H, F)``, ``(H,)``."""
        xx, xy, yy, xv, vv, vy = (t[group] for t in (self.xx, self.xy, self.yy, self.xv, self.vv, self.vy))
        squared = yy - 2 * (weight * xy).sum(0) + (weight * (xx @ weight)).sum(0)
        # what the inputs of the step add: their own square, and their products with the rest
        cross = (xv.mT @ weight.T.unsqueeze(2)).squeeze(2)  # (H, F)
        own = (vv @ effect.unsqueeze(2)).squeeze(2)
        squared = squared + (effect * (own + 2 * cross - 2 * vy)).sum(1)
        return squared.clamp(min=0) / self.weight[group]

    def _add_block(self, rows: list[Rows]) -> None:
        x, v, y, weight = (torch.cat(parts).to(self.xx.device, torch.float64) for parts in zip(*rows, strict=True))
        B, C, G = *weight.shape, len(self.weight)
        # (G, rows, ...): channels are rows of one group, or groups
        root = weight.T.reshape(G, -1, 1).sqrt()
        x = x.transpose(0, 1).reshape(G, -1, x.shape[2]) * root
        y = y.permute(2, 0, 1).reshape(G, -1, y.shape[1]) * root
        self.xx.baddbmm_(x.mT, x)
        self.xy.baddbmm_(x.mT, y)
        self.yy += y.square().sum(1)
        self.weight += weight.T.reshape(G, -1).sum(1)
        self.rows += (root > 0).sum((1, 2))
        if v.shape[2]:
            v = v.expand(C, B, *v.shape[1:]).reshape(G, -1, *v.shape[1:]) * root.unsqueeze(3)  # (G, rows, H, F)
            self.xv += (x.mT @ v.flatten(2)).unflatten(2, v.shape[2:]).transpose(1, 2)
            self.vv += torch.einsum("grhf,grhe->ghfe", v, v)
            self.vy += torch.einsum("grhf,grh->ghf", v, y)
