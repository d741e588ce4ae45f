"""Second moments of windows and targets, summed over batches: all that least squares needs to know of the data."""

from collections.abc import Iterable

import torch
from torch import Tensor

# rows that are multiplied at a time: the work space, whatever the size of the data and of its batches
_BLOCK = 4096


class Moments:
    """Weighted sums of products of windows ``x: (D,)`` and targets ``y: (H,)``, in float64, for each of G groups.

    A row is one channel of one window. Sums of blocks of rows are added up, so that the order and the size of batches
    change them by rounding only, about 1e-15 of their size. Shapes: ``xx: (G, D, D)``, ``xy: (G, D, H)``,
    ``yy: (G, H)``, ``weight: (G,)`` is the sum of the weights, ``rows: (G,)`` the number of rows with one above 0.

    Args:
        groups: 1 for all channels together, or the number of channels.
        width: numbers D of a row of x.
        horizon: numbers H of a row of y.
        device: where sums are kept.
    """

    def __init__(self, groups: int, width: int, horizon: int, device: torch.device):
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64, device=device)

        self.xx, self.xy, self.yy = zeros(width, width), zeros(width, horizon), zeros(horizon)
        self.weight, self.rows = zeros(), zeros()

    def add(self, rows: Iterable[tuple[Tensor, Tensor, Tensor]]) -> "Moments":
        """Add windows ``(B, D, C)``, targets ``(B, H, C)`` and weights ``(B, C)``, and return the sums."""
        waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        for each in rows:
            waiting.append(each)
            if sum(weight.numel() for *_, weight in waiting) >= _BLOCK:
                self._add_block(waiting)
                waiting = []
        if waiting:
            self._add_block(waiting)
        return self

    def pooled(self) -> "Moments":
        """The sums over all groups, as one group."""
        found = Moments(0, 0, 0, self.xx.device)
        for name, sums in vars(self).items():
            setattr(found, name, sums.sum(0, keepdim=True))
        return found

    def error(self, group: int, weight: Tensor) -> Tensor:
        """Mean squared error of the linear map ``weight: (D, H)``, at each step of the horizon, ``(H,)``."""
        xx, xy, yy = self.xx[group], self.xy[group], self.yy[group]
        squared = yy - 2 * (weight * xy).sum(0) + (weight * (xx @ weight)).sum(0)
        return squared.clamp(min=0) / self.weight[group]

    def _add_block(self, rows: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        x, y, weight = (torch.cat(parts).to(self.xx.device, torch.float64) for parts in zip(*rows, strict=True))
        G = len(self.weight)
        # (G, rows, ...): channels are rows of one group, or groups
        x, y = (part.permute(2, 0, 1).reshape(G, -1, part.shape[1]) for part in (x, y))
        weight = weight.T.reshape(G, -1)
        root = weight.sqrt().unsqueeze(2)
        x, y = x * root, y * root
        self.xx.baddbmm_(x.mT, x)
        self.xy.baddbmm_(x.mT, y)
        self.yy += y.square().sum(1)
        self.weight += weight.sum(1)
        self.rows += (weight > 0).sum(1)
