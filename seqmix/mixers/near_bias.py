"""Biases for near keys in the attention of LongVQ."""

import torch
from torch import Tensor, nn

from seqmix.ops.wide import wide


class TableBias(nn.Module):
    """A learned number per distance.

    Args:
        d_qk: unused.
        window: farthest distance in positions.
        causal: distances 0 to ``window`` only.
    """

    def __init__(self, d_qk: int, window: int, causal: bool):
        super().__init__()
        self.table = nn.Parameter(0.02 * torch.randn(window + 1 if causal else 2 * window + 1))

    def forward(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Queries as they are, and the table ``(n,)``."""
        return q, self.table


class SinusoidBias(nn.Module):
    """Projected sinusoids of the distance against the query, ``b = (q + v) W r``, and ``q + u`` for the content.

    Args:
        d_qk: width of queries.
        window: farthest distance in positions.
        causal: distances 0 to ``window`` only.
    """

    def __init__(self, d_qk: int, window: int, causal: bool):
        super().__init__()
        self.lags = (0 if causal else -window, window + 1)
        self.proj = nn.Linear(d_qk, d_qk, bias=False)
        self.u = nn.Parameter(torch.zeros(d_qk))
        self.v = nn.Parameter(torch.zeros(d_qk))

    def forward(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Shifted queries ``(..., P)``, and a row of biases for each ``(..., n)``."""
        P, weight = self.proj.in_features, self.proj.weight
        # not a buffer: one that is not saved would be undefined on a module that was made on the meta device
        lag = torch.arange(*self.lags, device=weight.device)
        angle = torch.outer(lag, 10000.0 ** (-torch.arange(0, P, 2, device=weight.device) / P))
        r = self.proj(torch.cat([angle.sin(), angle.cos()], -1)[:, :P].to(weight.dtype)) * P**-0.25
        return q + self.u, (q + self.v) @ wide(r).T
