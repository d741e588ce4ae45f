"""Embeddings of windows as tokens: time steps, patches of channels, patches of covariates."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.errors import ConfigError, check_at_least
from seqmix.models.dropout import Dropout
from seqmix.models.positions import Place, Positions
from seqmix.series import Series


def patch_sizes(context: int, patch_len: int | None, patch_stride: int | None, longest: int = 16) -> tuple[int, int]:
    """Length and stride of patches; by default ``longest``, or the context where that is shorter, and half of it."""
    length = min(longest, context) if patch_len is None else patch_len
    return length, max(1, length // 2) if patch_stride is None else patch_stride


class ValueEmbedding(nn.Module):
    """A token for each time step: a convolution over three steps of all channels, circular at the ends, and positions.

    Shapes: ``(B, L, C) -> (B, L, D)``. Cost: O(L C D).

    Args:
        d_model: width of a token D.
        n_channels: number of channels C.
        length: time steps of a window L.
        positions: vectors added to the tokens: ``none``, ``learned``, or ``sinusoidal``.
        dropout: dropout probability on the tokens.

    Raises:
        ConfigError: if ``positions`` is not known or ``dropout`` is out of range.

    Source: Zhou et al., 2021, arXiv:2012.07436, app. B. Differs from the original code in: no calendar features.
    """

    def __init__(
        self,
        d_model: int,
        n_channels: int,
        length: int,
        *,
        positions: Positions = "sinusoidal",
        dropout: float = 0.0,
    ):
        super().__init__()
        self.conv = nn.Conv1d(n_channels, d_model, 3, padding=1, padding_mode="circular", bias=False)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="leaky_relu")
        self.place = Place(positions, length, d_model)
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``x: (B, L, C)``."""
        return self.drop(self.place(self.conv(x.transpose(1, 2)).transpose(1, 2)))


class PatchEmbedding(nn.Module):
    """Overlapping patches of every channel, each mapped to a token by one shared linear layer.

    The last value is repeated ``patch_stride`` times at the end: ``(T - patch_len) // patch_stride + 2`` patches.

    Shapes: ``(B, C, T) -> (B, C, N, D)``. Cost: O(C N D patch_len).

    Args:
        d_model: width D of a token.
        patch_len: patch length, in time steps.
        patch_stride: time steps between the starts of patches.

    Raises:
        ConfigError: if a size is not positive.

    Source: Nie et al., 2023, arXiv:2211.14730, sec. 3.1. Differs from the original code in: no position embedding.
    """

    def __init__(self, d_model: int, *, patch_len: int, patch_stride: int):
        super().__init__()
        check_at_least(1, d_model=d_model, patch_len=patch_len, patch_stride=patch_stride)
        self.patch_len, self.patch_stride = patch_len, patch_stride
        self.proj = nn.Linear(patch_len, d_model)

    def n_patches(self, length: int) -> int:
        """Number of patches of a window of ``length`` time steps; raises ``ConfigError`` if none fits."""
        if length < self.patch_len:
            raise ConfigError(f"patch_len = {self.patch_len} does not fit context = {length}; use a shorter patch")
        return (length - self.patch_len) // self.patch_stride + 2

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``x: (B, C, T)``."""
        return self.proj(_patches(x, self.patch_stride, self.patch_len, self.patch_stride))  # (B, C, N, D)

    def kept(self, mask: Tensor) -> Tensor:
        """Patches that hold a kept time step ``(B, N)`` bool, of ``mask: (B, T)`` bool."""
        return _patches(mask.float(), self.patch_stride, self.patch_len, self.patch_stride).any(-1)


class CovariateEmbedding(nn.Module):
    """Patches of all covariates together: tokens to add to those of the window, and tokens of the horizon after them.

    Covariates of the window, past and known-future ones, are cut as ``PatchEmbedding`` cuts the window; known-future
    ones of the horizon into patches that do not overlap, the last value repeated where the last patch is not full.

    Shapes: ``(B, context + horizon, F), (B, context, P) -> (B, N, D), (B, M, D)``, M = 0 without known-future ones.
    Cost: O((F + P) D patch_len) per patch.

    Args:
        d_model: width D of a token.
        series: the facts of the data.
        patch_len: patch length, in time steps.
        patch_stride: time steps between the starts of patches of the window.

    Source: ours, after the patches of Nie et al., 2023, arXiv:2211.14730. Differs from the original code in: PatchTST
    takes no covariates.
    """

    def __init__(self, d_model: int, series: Series, *, patch_len: int, patch_stride: int):
        super().__init__()
        self.context, self.patch_len, self.patch_stride = series.context, patch_len, patch_stride
        #: number of tokens of the horizon M
        self.n_ahead = -(-series.horizon // patch_len) if series.n_future else 0
        self.fill = self.n_ahead * patch_len - series.horizon
        self.window = nn.Linear((series.n_future + series.n_past) * patch_len, d_model)
        self.ahead = nn.Linear(series.n_future * patch_len, d_model) if series.n_future else None

    def forward(self, future: Tensor | None, past: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Embed ``future: (B, context + horizon, F)`` and ``past: (B, context, P)``; None for those there are not."""
        parts = [] if future is None else [future[:, : self.context]]
        z = torch.cat(parts if past is None else [*parts, past], -1).transpose(1, 2)  # (B, F + P, context)
        window = _patches(z, self.patch_stride, self.patch_len, self.patch_stride)
        window = self.window(rearrange(window, "b f n p -> b n (f p)"))  # (B, N, D)
        if self.ahead is None or future is None:
            return window, None
        z = future[:, self.context :].transpose(1, 2)  # (B, F, horizon)
        ahead = _patches(z, self.fill, self.patch_len, self.patch_len)
        return window, self.ahead(rearrange(ahead, "b f n p -> b n (f p)"))  # (B, M, D)


def _patches(x: Tensor, fill: int, length: int, stride: int) -> Tensor:
    """Patches of ``x: (B, C, T)``, ``fill`` last values after it: ``(B, C, N, length)``."""
    x = F.pad(x, (0, fill), mode="replicate")
    if length % stride:
        return x.unfold(-1, length, stride)
    # concatenate strided slices, since the gradient of `unfold` is a slow loop on a CPU
    n, parts = (x.shape[-1] - length) // stride + 1, length // stride
    strides = x[..., : (n - 1 + parts) * stride].unflatten(-1, (-1, stride))
    return torch.cat([strides[..., i : i + n, :] for i in range(parts)], -1)
