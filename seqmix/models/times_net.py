"""TimesNet: series folded by their periods, and convolutions over the grids."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers import zero_masked
from seqmix.models.block import inner_width
from seqmix.models.embed import ValueEmbedding
from seqmix.models.series_encoder import SeriesEncoder, register_encoder
from seqmix.ops.wide import wide


@register_encoder(paper="arXiv:2210.02186", d_model=8, n_layers=1, n_periods=2, n_kernels=2)
class TimesNet(SeriesEncoder):
    """TimesNet: 2-D convolutions over windows folded at each of their strongest periods.

    The periods are L / f for the frequencies f of largest amplitude; the results are summed by the softmax of the
    amplitudes. It has no sequence mixer, so there is nothing to ``densify``.

    Shapes: ``(B, L, C) -> (B, L, D)``. Cost: O(n_periods L D^2 expand n_kernels^2) per layer.

    Args:
        d_model: width of a token D.
        n_layers: number of layers.
        n_periods: periods that a window is folded at, fewer in windows that have not as many.
        expand: inner width of the convolutions over D.
        n_kernels: kernels of sizes 1, 3, 5, ... in each convolution, which are averaged.
        dropout: dropout probability on the embeddings.

    Raises:
        ConfigError: if the window has one step only, or a size is out of range.

    Source: Wu et al., 2023, arXiv:2210.02186, sec. 3; parity with thuml/Time-Series-Library. Differs from the original
    code in: each window has its own periods, where the original takes those of the mean over the batch, so that
    windows meet; averaged kernels are one kernel, cut to what it reaches on a grid; no calendar features; the head, not
    a map of the embeddings, goes from window to horizon.
    """

    axis = "time"

    def __init__(
        self,
        n_channels: int,
        length: int,
        *,
        d_model: int = 32,
        n_layers: int = 2,
        n_periods: int = 5,
        expand: float = 1,
        n_kernels: int = 6,
        dropout: float = 0.1,
    ):
        super().__init__(n_channels, length, d_model)
        check_at_least(1, n_layers=n_layers, n_periods=n_periods, n_kernels=n_kernels)
        if length < 2:
            raise ConfigError("TimesNet folds a window at its periods, and length = 1 has none; use 2 steps or more")
        self.n_tokens = length
        self.embed = ValueEmbedding(d_model, n_channels, length, dropout=dropout)
        inner = inner_width(d_model, expand)
        self.layers = nn.ModuleList(_TimesBlock(d_model, inner, n_periods, n_kernels) for _ in range(n_layers))
        # one for all layers, as in the original code
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = zero_masked(self.embed(x), mask)
        for layer in self.layers:
            x = zero_masked(self.norm(layer(x)), mask)
        return x


class _TimesBlock(nn.Module):
    """``x`` and the weighted sum over its periods of two convolutions of the folded ``x``, ``(B, L, D)``."""

    def __init__(self, d_model: int, inner: int, n_periods: int, n_kernels: int):
        super().__init__()
        self.n_periods = n_periods
        self.up, self.down = _Inception(d_model, inner, n_kernels), _Inception(inner, d_model, n_kernels)

    def forward(self, x: Tensor) -> Tensor:
        B, L, _ = x.shape
        if not B:
            return x
        amplitudes = torch.fft.rfft(wide(x), dim=1).abs().mean(-1)[:, 1:]  # (B, L // 2)
        top, at = amplitudes.topk(min(self.n_periods, L // 2), -1)
        n = at.shape[1]
        # windows with the same period are folded together, whatever the rank of the period in each window
        periods, order = (L // (at + 1)).flatten().sort(stable=True)  # (B n)
        values, counts = periods.unique_consecutive(return_counts=True)
        up, down = self.up.merged(), self.down.merged()
        folded = [
            _unfold(_convolve(F.gelu(_convolve(_fold(part, period), *up)), *down), L)
            for part, period in zip(x[order // n].split(counts.tolist()), values.tolist(), strict=True)
        ]
        y = torch.cat(folded)[order.argsort()].unflatten(0, (B, n))  # (B, n, L, D)
        return x + torch.einsum("bnld,bn->bld", y, top.softmax(-1).to(y.dtype))


class _Inception(nn.Module):
    """The mean of convolutions over grids, with kernels of sizes 1, 3, 5, ..."""

    def __init__(self, d_in: int, d_out: int, n_kernels: int):
        super().__init__()
        convs = [nn.Conv2d(d_in, d_out, 2 * i + 1, padding=i) for i in range(n_kernels)]
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, conv.bias))
        self.kernels = nn.ModuleList(convs)

    def merged(self) -> tuple[Tensor, Tensor]:
        """Kernel and bias of the one convolution that is the mean of all."""
        convs = cast(list[nn.Conv2d], list(self.kernels))
        weights = [F.pad(conv.weight, (len(convs) - 1 - i,) * 4) for i, conv in enumerate(convs)]
        return torch.stack(weights).mean(0), torch.stack([cast(Tensor, conv.bias) for conv in convs]).mean(0)


def _fold(x: Tensor, period: int) -> Tensor:
    """Windows ``x: (B, L, D)`` as grids ``(B, D, L / period rounded up, period)``, zeros after the end."""
    return F.pad(x, (0, 0, 0, -x.shape[1] % period)).unflatten(1, (-1, period)).permute(0, 3, 1, 2)


def _unfold(x: Tensor, length: int) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(1, 2)[:, :length]


def _convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolution that keeps the size of the grid ``x: (B, D, rows, columns)``, by the taps that can reach into it."""
    half = weight.shape[-1] // 2
    h, w = min(half, x.shape[2] - 1), min(half, x.shape[3] - 1)
    weight = weight[:, :, half - h : half + h + 1, half - w : half + w + 1]
    return F.conv2d(x, weight, bias, padding=(h, w))
