"""Heads from tokens to forecasts."""

from einops import rearrange
from torch import Tensor, nn

from seqmix.errors import ConfigError
from seqmix.models.dropout import Dropout


class FlattenHead(nn.Module):
    """Head with one linear layer over all tokens of a channel, shared by the channels.

    Shapes: ``(B, C, N, D) -> (B, H, C)``, or ``(B, H, C, K)`` for ``n_outputs`` K > 1. Cost: O(C N D H K).

    Args:
        n_features: tokens times width, N D.
        horizon: forecast length H, in time steps.
        n_outputs: numbers forecast per value K.
        dropout: dropout probability on the tokens.

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


class TimeHead(nn.Module):
    """Head for tokens of time steps: a linear map along time, then one from features to channels.

    Shapes: ``(B, L, D) -> (B, H, C)``, or ``(B, H, C, K)`` for ``n_outputs`` K > 1. Cost: O(D H (L + C K)).

    Args:
        d_model: width of a token D.
        n_channels: number of channels C.
        length: number of tokens L.
        horizon: forecast length H, in time steps.
        n_outputs: numbers forecast per value K.
        along_time: False leaves out the map along time: each token gives the values of its own step, H = L.

    Raises:
        ConfigError: if there is no map along time and the horizon is not the length.

    Source: Wu et al., 2023, arXiv:2210.02186, sec. 3. Differs from the original code in: the map along time is applied
    to the tokens, not to the embeddings.
    """

    def __init__(
        self, d_model: int, n_channels: int, length: int, horizon: int, n_outputs: int = 1, *, along_time: bool = True
    ):
        super().__init__()
        if not along_time and horizon != length:
            raise ConfigError(
                f"along_time = False gives one step for each of {length} tokens, and horizon = {horizon}; leave it out"
            )
        self.n_outputs = n_outputs
        self.along = nn.Linear(length, horizon) if along_time else None
        self.proj = nn.Linear(d_model, n_channels * n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Forecast from tokens ``x: (B, L, D)``."""
        if self.along is not None:
            x = self.along(x.transpose(1, 2)).transpose(1, 2)  # (B, H, D)
        y = self.proj(x)
        return y if self.n_outputs == 1 else y.unflatten(-1, (-1, self.n_outputs))


def split_outputs(y: Tensor, n_outputs: int) -> Tensor:
    """``(B, C, H K) -> (B, H, C)`` for K = 1, else ``(B, H, C, K)``."""
    if n_outputs == 1:
        return y.transpose(1, 2)
    return rearrange(y, "b c (h k) -> b h c k", k=n_outputs)
