"""Normalization over windows and token grids: moments of a window, joint Norm2D and batch statistics."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def window_moments(x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and deviation ``(B, 1, C)`` of the observed values of windows ``x: (B, L, C)``, constants for the gradient.

    The deviation is biased and guarded as in RevIN, ``sqrt(var + 1e-5)``.
    """
    x = x.detach()
    # two passes, as `torch.var_mean` takes five times as long along an axis that is not the last
    if mask is None:
        mean = x.mean(1, keepdim=True)
        return mean, ((x - mean).square().mean(1, keepdim=True) + 1e-5).sqrt()
    weight = mask.to(x.dtype)
    count = weight.sum(1, keepdim=True).clamp(min=1)
    mean = (weight * x).sum(1, keepdim=True) / count
    return mean, ((weight * (x - mean).square()).sum(1, keepdim=True) / count + 1e-5).sqrt()


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


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalization of each feature of tokens, features last; masked tokens do not count and come out as zero.

    Fewer than two tokens have no statistics: they are normalized as in evaluation.

    Shapes: ``(B, N, D) -> (B, N, D)``. Cost: O(B N D).
    """

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize ``input: (B, N, D)`` over kept tokens; ``mask: (B, N)`` bool, True = keep."""
        if mask is None:
            return self._normalize(input.flatten(0, 1)).view_as(input)
        y = torch.zeros_like(input)
        y[mask] = self._normalize(input[mask])
        return y

    def _normalize(self, tokens: Tensor) -> Tensor:
        if len(tokens) > 1:
            return super().forward(tokens)
        return F.batch_norm(tokens, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
