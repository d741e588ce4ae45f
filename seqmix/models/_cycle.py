"""The cycle of Ridge: the mean course of a season, and where in it a window begins, found by correlation."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

# passes over the windows: each aligns them to the course of the previous pass
_PASSES = 4


class Cycle(nn.Module):
    """Mean course of a season in every channel, laid over a window and its horizon.

    A window begins at the phase at which the mean of its seasons has the largest product with the course, over all
    channels, each divided by the variance of its deviations from the course: no time stamps are needed. The course is
    learned in the same way, from one window on; it begins anywhere in the season. Before that it is 0.

    Shapes: ``(B, context, C) -> (B, context + horizon, C)``. Cost: O(B C season^2).

    Args:
        n_channels: number of channels C.
        season: steps of the season.
        horizon: steps after the window.
    """

    def __init__(self, n_channels: int, season: int, horizon: int):
        super().__init__()
        self.season, self.horizon = season, horizon
        self.register_buffer("course", torch.zeros(n_channels, season))
        self.register_buffer("clarity", torch.ones(n_channels))

    course: Tensor  # (C, season), its mean is 0
    clarity: Tensor  # (C,), the variance of deviations from it, inverted

    def forward(self, x: Tensor) -> Tensor:
        """The course at each step of windows ``x`` and of their horizons."""
        L = x.shape[1]
        # the seasons end with the window
        steps = torch.arange(L + self.horizon, device=x.device) - L % self.season
        at = (self.phase(self._season(x)).unsqueeze(1) + steps) % self.season
        return self.course.T[at]

    def phase(self, seasons: Tensor) -> Tensor:
        """Phase of the first step of mean seasons ``(B, C, season)``, ``(B,)``."""
        # (C, phases, season): the course from each phase on
        turned = torch.cat([self.course, self.course[:, :-1]], 1).unfold(1, self.season, 1)
        return torch.einsum("bcp,csp->bs", seasons * self.clarity[:, None], turned).argmax(1)

    def learn(self, windows: Callable[[], Iterable[Tensor]]) -> None:
        """Learn the course; each call of ``windows`` gives all windows ``(B, context, C)`` once more."""
        steps = torch.arange(self.season, device=self.course.device)
        for number in range(_PASSES):
            total, squares, n = torch.zeros_like(self.course, dtype=torch.float64), 0.0, 0
            for x in windows():
                seasons = self._season(x.to(self.course))
                if number == n == 0:
                    self.course.copy_(seasons[0])
                at = (steps - self.phase(seasons)[:, None]) % self.season
                aligned = seasons.gather(2, at.unsqueeze(1).expand_as(seasons)).double()
                total, squares, n = total + aligned.sum(0), squares + aligned.square().sum((0, 2)), n + len(x)
            if n:
                mean = total / n
                left = (squares / n - mean.square().sum(1)).clamp(min=torch.finfo(torch.float32).tiny)
                self.course.copy_(mean)
                self.clarity.copy_((left.mean() / left).clamp(max=1e6))

    def _season(self, x: Tensor) -> Tensor:
        """The mean of the whole seasons of windows, without its level, ``(B, C, season)``."""
        whole = x.shape[1] - x.shape[1] % self.season
        mean = x[:, -whole:].unflatten(1, (-1, self.season)).mean(1).transpose(1, 2)
        return mean - mean.mean(2, keepdim=True)
