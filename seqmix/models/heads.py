"""From tokens to forecasts."""

from einops import rearrange
from torch import Tensor, nn

from seqmix.models.dropout import Dropout


class FlattenHead(nn.Module):
    """All tokens of a channel in one linear layer, shared by the channels.

    Shapes: ``(B, C, N, D) -> (B, H, C)``, or ``(B, H, C, K)`` for ``n_outputs`` K > 1. Cost: O(C N D H K).

    Args:
        n_features: tokens times width, N D.
        horizon: forecast length H, in time steps.
        n_outputs: numbers forecast per value K.
        dropout: probability, on the tokens.

    Source: Nie et al., 2023, arXiv:2211.14730, sec. 3.1. Differs from the original code in: dropout before the layer.
    """

    def __init__(self, n_features: int, horizon: int, n_outputs: int = 1, *, dropout: float = 0.0):
        super().__init__()
        self.n_outputs = n_outputs
        self.drop = Dropout(dropout)
        self.proj = nn.Linear(n_features, horizon * n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Forecast from tokens ``x: (B, C, N, D)``."""
        return split_outputs(self.proj(self.drop(x.flatten(2))), self.n_outputs)


def split_outputs(y: Tensor, n_outputs: int) -> Tensor:
    """``(B, C, H K) -> (B, H, C)`` for K = 1, else ``(B, H, C, K)``."""
    if n_outputs == 1:
        return y.transpose(1, 2)
    return rearrange(y, "b c (h k) -> b h c k", k=n_outputs)
