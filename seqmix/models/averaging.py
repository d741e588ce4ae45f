"""Weighted averaging of earlier features (MambaMixer, sec. 3.2)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


class WeightedAveraging(nn.Module):
    """Weighted averaging: the input of a mixer is a learned weighted sum of all earlier mixer outputs.

    ``x = sum_i token[i] * y_token[i] + sum_i channel[i] * y_channel[i]``: free scalars, alpha and beta before a token
    mixer, theta and gamma before a channel mixer. A stack of n layers owns n (2 n + 3) of them.

    Shapes: tensors of one shape to that shape. Cost: one pass over each of them.

    Args:
        n_tokens: number of earlier token mixer outputs, the stack's input included.
        n_channels: number of earlier channel mixer outputs, the stack's input included; 0 without channel mixers.
        last: kind of the latest output, which alone has weight 1 at the start.
        init: ``residual`` starts as a plain stack, ``mean`` as the mean of all earlier outputs.

    Source: Behrouz et al., 2024, arXiv:2403.19888, sec. 3.2. Differs from the original code in: none was released; the
    initial values are our choice.
    """

    def __init__(
        self,
        n_tokens: int,
        n_channels: int,
        *,
        last: Literal["token", "channel"],
        init: Literal["residual", "mean"] = "residual",
    ):
        super().__init__()
        start = 0.0 if init == "residual" else 1 / (n_tokens + n_channels)
        self.token = nn.Parameter(torch.full((n_tokens,), start))
        self.channel = nn.Parameter(torch.full((n_channels,), start)) if n_channels else None
        if init == "residual":
            with torch.no_grad():
                self.get_parameter(last)[-1] = 1

    def forward(self, tokens: Sequence[Tensor], channels: Sequence[Tensor]) -> Tensor:
        """Sum the earlier outputs, oldest first; the input of the stack leads both lists."""
        weights, outputs = self.token, [*tokens]
        if self.channel is not None:
            # the same tensor twice: one pass over it
            first = self.token[:1] + self.channel[:1]
            weights, outputs = torch.cat([first, self.token[1:], self.channel[1:]]), [*tokens, *channels[1:]]
        w, *rest = weights.unbind()
        y, *others = outputs
        y = y * w
        for v, other in zip(rest, others, strict=True):
            y = torch.addcmul(y, other, v)
        return y
