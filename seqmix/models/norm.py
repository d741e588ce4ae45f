"""Normalization over windows and token grids: RevIN (Kim et al., 2022), joint Norm2D and batch statistics."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RevIN(nn.Module):
    """Reversible instance normalization: window statistics are removed before a model and put back after it.

    ``z = (x - mu) / sqrt(var + eps) * w + b`` with the mean and the biased variance of each window and channel, taken
    as constants; the inverse is ``(y - b) / (w + 1e-10) * sigma + mu``. Nothing is remembered between calls.

    Shapes: ``(B, L, C) -> (B, L, C)`` and back from ``(B, H, C)`` or ``(B, H, C, K)``. Cost: O(L C).

    Args:
        n_channels: number of channels C.
        affine: learn a scale w and a shift b per channel.
        eps: added to the variance, in units of the squared input.

    Source: Kim et al., ICLR 2022. Differs from the original code in: statistics are returned, not stored.
    """

    def __init__(self, n_channels: int, *, affine: bool = True, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(n_channels)) if affine else None  # (C,)
        self.bias = nn.Parameter(torch.zeros(n_channels)) if affine else None  # (C,)

    def normalize(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the normalized window and its ``(mu, sigma)``, each ``(B, 1, C)``."""
        # two passes, as `torch.var_mean` takes five times as long along an axis that is not the last
        mu = x.detach().mean(1, keepdim=True)
        z = x - mu
        sigma = (z.detach().square().mean(1, keepdim=True) + self.eps).sqrt()
        z = z / sigma
        if self.weight is not None and self.bias is not None:
            z = z * self.weight + self.bias
        return z, (mu, sigma)

    def denormalize(self, y: Tensor, stats: tuple[Tensor, Tensor]) -> Tensor:
        """Put the statistics of the window back into ``y``, ``(B, H, C)`` or ``(B, H, C, K)``."""
        mu, sigma = stats
        weight, bias = self.weight, self.bias
        if y.ndim == 4:
            mu, sigma = mu.unsqueeze(-1), sigma.unsqueeze(-1)
        if weight is not None and bias is not None:
            if y.ndim == 4:
                weight, bias = weight.unsqueeze(-1), bias.unsqueeze(-1)
            # the guard of the original, eps^2 there
            y = (y - bias) / (weight + 1e-10)
        return y * sigma + mu


class Norm2D(nn.Module):
    """Normalization over the variate and time axes of one sample together.

    Statistics are joint over ``(M, N, D)``, or over ``(M, N)`` for each feature apart; scale and shift are per feature.

    Shapes: ``(B, M, N, D) -> (B, M, N, D)``. Cost: O(M N D).

    Args:
        d_model: features D.
        per_feature: statistics for each feature apart.
        eps: added to the variance.

    Source: Behrouz et al., 2024, arXiv:2403.19888, sec. 5. Differs from the original code in: none was released, the
    axes of the statistics are our reading.
    """

    def __init__(self, d_model: int, *, per_feature: bool = False, eps: float = 1e-5):
        super().__init__()
        self.groups, self.eps = d_model if per_feature else 1, eps
        self.weight = nn.Parameter(torch.ones(d_model))  # (D,)
        self.bias = nn.Parameter(torch.zeros(d_model))  # (D,)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x: (B, M, N, D)``."""
        # a view: features first in shape, last in memory
        y = F.group_norm(x.permute(0, 3, 1, 2), self.groups, self.weight, self.bias, self.eps)
        return y.permute(0, 2, 3, 1)


class BatchNormLast(nn.BatchNorm2d):
    """Batch normalization of each feature, features last.

    Shapes: ``(B, M, N, D) -> (B, M, N, D)``. Cost: O(B M N D).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize ``input: (B, M, N, D)`` over all axes but the last."""
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
