"""FFNet for time series: FFN-ified attention in time, grouped layers across channels and features.

From Yun et al., 2024, arXiv:2406.02021. The names of parameters are those of ysj9909/FFNet.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers.conv import convolve, require_odd
from seqmix.models.dropout import Dropout
from seqmix.models.embed import patch_sizes
from seqmix.models.forecast_model import ForecastModel, register_model
from seqmix.models.forecasters import moving_average
from seqmix.models.heads import split_outputs
from seqmix.models.norm import BatchNormLast, window_moments
from seqmix.series import Series

# present in the published state dicts, and never used
_UNUSED = ("te_patch.", "lat_layer.", "smooth_layer.", "up_sample_conv.")


@register_model(paper="arXiv:2406.02021", dims=(4,), kernel_size=5, small_kernel=3, ffn_ratio=2, dropout=0.1)
class FFNetTS(ForecastModel):
    """MetaMixer for forecasting: each variate in patches, long convolutions in time, grouped layers across variates.

    Blocks of a token mixer ``V * gelu(K * W_q x)`` and a channel mixer, each with a residual; the star is a depthwise
    convolution over time. One linear head is shared by the variates.

    Shapes: ``(B, context, C) -> (B, horizon, C)``, or ``(B, horizon, C, K)`` for ``n_outputs`` K > 1.
    Cost: O(N C D (C + D) ffn_ratio) for N = context / patch_stride tokens of width D.

    Args:
        dims: features D of each stage; each stage after the first halves the number of tokens.
        depths: blocks of each stage.
        patch_len: patch length, in time steps. Default: 4, or the context where that is shorter.
        patch_stride: time steps between the starts of patches. Default: half of the patch length.
        kernel_size: tokens that the convolutions see, odd.
        small_kernel: tokens that the convolution beside the channel mixer's sees in training, odd.
        merged: build the channel mixers with one convolution, as ``reparameterize`` leaves them.
        ffn_ratio: inner width of the channel mixer over D, 2 to 12 in the paper.
        dropout: dropout probability, after the first layer of the channel mixer, 0.6 to 0.9 in the paper.
        head_dropout: dropout probability on the forecast.
        decomposition: two networks, for the moving average of the window and for what remains, each normalized by its
            own mean and deviation.
        trend_kernel: length of the moving average, in time steps, odd.

    Raises:
        ConfigError: if a kernel is even, the small one is over the large one, the patches do not
            cover the series, or ``dims`` and ``depths`` differ in length.

    Source: Yun et al., 2024, arXiv:2406.02021; weights of ysj9909/FFNet load under their own keys, less those
    of its modules that are never used. Differs from the original code in: no multi-scale head and no head per variate,
    which do not run there; kernels are merged correctly.
    """

    mixes_channels = True

    def __init__(
        self,
        series: Series,
        *,
        dims: Sequence[int] = (64,),
        depths: Sequence[int] = (1,),
        patch_len: int | None = None,
        patch_stride: int | None = None,
        kernel_size: int = 51,
        small_kernel: int = 5,
        merged: bool = False,
        ffn_ratio: int = 2,
        dropout: float = 0.7,
        head_dropout: float = 0.0,
        decomposition: bool = False,
        trend_kernel: int = 25,
    ):
        super().__init__(series)
        patch_len, patch_stride = patch_sizes(series.context, patch_len, patch_stride, longest=4)
        check_at_least(1, ffn_ratio=ffn_ratio, dims=min(dims, default=0), depths=min(depths, default=0))
        if not 1 <= patch_stride <= min(patch_len, series.context):
            most = min(patch_len, series.context)
            raise ConfigError(f"patch_stride = {patch_stride} leaves steps between patches out; use 1 to {most}")
        if len(dims) != len(depths):
            raise ConfigError(f"dims has {len(dims)} stages and depths has {len(depths)}; give one number for each")
        kernels = {"kernel_size": kernel_size, "small_kernel": small_kernel, "trend_kernel": trend_kernel}
        for name, kernel in kernels.items():
            require_odd(name, kernel)
        if small_kernel > kernel_size:
            raise ConfigError(
                f"small_kernel = {small_kernel} is over kernel_size = {kernel_size}; make it at most that"
            )
        self.trend_kernel = trend_kernel
        for part in ("model_res", "model_trend") if decomposition else ("model",):
            stages = [
                [
                    _Block(series.n_channels, D, (kernel_size, small_kernel), ffn_ratio, dropout, merged=merged)
                    for _ in range(depth)
                ]
                for D, depth in zip(dims, depths, strict=True)
            ]
            network = _Network(
                series,
                dims=dims,
                stages=stages,
                patch=(patch_len, patch_stride),
                head_dropout=head_dropout,
            )
            self.add_module(part, network)
        self.register_load_state_dict_pre_hook(_from_published)

    def forward(
        self, x: Tensor, *, future: Tensor | None = None, static: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        networks = list(self.children())
        if len(networks) == 1:
            return networks[0](x)
        trend = moving_average(x.transpose(1, 2), self.trend_kernel).transpose(1, 2)
        return _normalized(networks[0], x - trend) + _normalized(networks[1], trend)

    def heads(self) -> list[nn.Module]:
        """The head; none with ``decomposition``, whose parts are added to the means of their windows."""
        networks = list(self.children())
        return [each.head for each in networks if isinstance(each, _Network)] if len(networks) == 1 else []

    def reparameterize(self) -> Self:
        """Merge the two kernels of each channel mixer into one, in place, and return the model.

        The outputs in evaluation stay the same to rounding; load weights before, for the keys change.
        """
        for module in self.modules():
            if isinstance(module, _LongConv):
                module.merge()
        return self


def _normalized(network: nn.Module, x: Tensor) -> Tensor:
    """Forecast of one part of a window, normalized by its own mean and deviation."""
    mean, scale = window_moments(x)
    y = network((x - mean) / scale)
    return y * scale.unsqueeze(-1) + mean.unsqueeze(-1) if y.ndim == 4 else y * scale + mean


class _Network(nn.Module):
    """Patches, stages and head, from one window to one forecast; tokens are ``(B, N, C, D)`` in between."""

    def __init__(
        self,
        series: Series,
        *,
        dims: Sequence[int],
        stages: Sequence[Sequence[nn.Module]],
        patch: tuple[int, int],
        head_dropout: float,
    ):
        super().__init__()
        self.n_outputs, self.patch = series.n_outputs, patch
        layers = [nn.Sequential(nn.Conv1d(1, dims[0], patch[0], stride=patch[1]), BatchNormLast(dims[0]))]
        layers += [
            nn.Sequential(BatchNormLast(before), nn.Conv1d(before, D, 2, stride=2)) for before, D in pairwise(dims)
        ]
        self.downsample_layers = nn.ModuleList(layers)
        self.stages = nn.ModuleList(nn.ModuleDict({"blocks": nn.Sequential(*blocks)}) for blocks in stages)
        N = series.context // patch[1]
        for _ in dims[1:]:
            N = (N + 1) // 2
        self.head = nn.ModuleDict({"linear": nn.Linear(dims[-1] * N, series.horizon * series.n_outputs)})
        self.drop = Dropout(head_dropout)

    def forward(self, x: Tensor) -> Tensor:
        for i, (layers, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            assert isinstance(layers, nn.Sequential) and isinstance(stage, nn.ModuleDict)
            x = stage["blocks"](self._halve(layers, x) if i else self._embed(layers, x))
        y = self.head["linear"](rearrange(x, "b n c d -> b c (d n)"))
        return split_outputs(self.drop(y), self.n_outputs)

    def _embed(self, layers: nn.Sequential, x: Tensor) -> Tensor:
        """Patches of every channel ``(B, L, C) -> (B, N, C, D)``, the last value repeated at the end."""
        conv, norm = layers
        assert isinstance(conv, nn.Conv1d)
        length, stride = self.patch
        x = torch.cat([x, x[:, -1:].expand(-1, length - stride, -1)], 1)
        patches = x.unfold(1, length, stride)  # (B, N, C, length)
        return norm(F.linear(patches, conv.weight.squeeze(1), conv.bias))

    def _halve(self, layers: nn.Sequential, x: Tensor) -> Tensor:
        """Two tokens become one, the last one repeated if it has no partner."""
        norm, conv = layers
        assert isinstance(conv, nn.Conv1d)
        if x.shape[1] % 2:
            x = torch.cat([x, x[:, -1:]], 1)
        pairs = rearrange(norm(x), "b (n k) c d -> b n c (d k)", k=2)
        return F.linear(pairs, conv.weight.flatten(1), conv.bias)


class _Block(nn.Module):
    def __init__(
        self, n_channels: int, d_model: int, kernels: tuple[int, int], ratio: int, dropout: float, *, merged: bool
    ):
        super().__init__()
        self.token_mixer = _TokenMixer(n_channels, d_model, kernels[0])
        self.channel_mixer = _ChannelMixer(n_channels, d_model, kernels, ratio, dropout, merged=merged)

    def forward(self, x: Tensor) -> Tensor:
        return self.channel_mixer(self.token_mixer(x))


class _TokenMixer(nn.Module):
    """Layers across channels for each feature and across features for each channel, then keys and values in time."""

    def __init__(self, n_channels: int, d_model: int, kernel_size: int):
        super().__init__()
        C, D = n_channels, d_model
        self.ffnpw1 = nn.Conv1d(D * C, 2 * D * C, 1, groups=D)
        self.ffnpw2 = nn.Conv1d(2 * C * D, C * D, 1, groups=C)
        self.norm = BatchNormLast(D)
        self.dw1 = nn.Conv1d(C * D, C * D, kernel_size, groups=C * D)
        self.dw2 = nn.Conv1d(C * D, C * D, kernel_size, groups=C * D)
        self.drop1, self.drop2 = Dropout(0.3), Dropout(0.15)

    def forward(self, x: Tensor) -> Tensor:
        _, _, C, D = x.shape
        weight, bias = _grouped(self.ffnpw1, (D, 2 * C, C), (D, 2 * C))
        u = F.gelu(self.drop1(torch.einsum("bncd,duc->bndu", x, weight) + bias))
        # units 2 c and 2 c + 1 of every feature belong to channel c
        weight, bias = _grouped(self.ffnpw2, (C, D, 2, D), (C, D))
        u = torch.einsum("bndcu,coud->bnco", u.unflatten(-1, (C, 2)), weight) + bias
        # the compiler takes the strides of a batch norm for those of a contiguous one
        u = self.norm(self.drop2(u).contiguous())
        u = convolve(self.dw2, F.gelu(convolve(self.dw1, u.flatten(2))))
        return x + u.unflatten(-1, (C, D))


class _ChannelMixer(nn.Module):
    """A convolution in time, layers across features for each channel and across channels for each feature."""

    def __init__(
        self,
        n_channels: int,
        d_model: int,
        kernels: tuple[int, int],
        ratio: int,
        dropout: float,
        *,
        merged: bool,
    ):
        super().__init__()
        C, D = n_channels, d_model
        self.ratio = ratio
        self.dw = _LongConv(C * D, kernels, merged=merged)
        self.norm = BatchNormLast(D)
        self.ffnpw1 = nn.Conv1d(C * D, ratio * C * D, 1, groups=C)
        self.ffnpw2 = nn.Conv1d(ratio * D * C, D * C, 1, groups=D)
        self.drop1, self.drop2 = Dropout(dropout), Dropout(0.15)

    def forward(self, x: Tensor) -> Tensor:
        _, _, C, D = x.shape
        u = self.norm(self.dw(x.flatten(2)).unflatten(-1, (C, D)))
        weight, bias = _grouped(self.ffnpw1, (C, self.ratio * D, D), (C, self.ratio * D))
        u = F.gelu(self.drop1(torch.einsum("bncd,cud->bncu", u, weight) + bias))
        # units d ratio ... d ratio + ratio - 1 of every channel belong to feature d
        weight, bias = _grouped(self.ffnpw2, (D, C, self.ratio, C), (D, C))
        u = torch.einsum("bncdr,dorc->bndo", u.unflatten(-1, (D, self.ratio)), weight) + bias
        return x + self.drop2(u).transpose(2, 3)


class _LongConv(nn.Module):
    """A long depthwise convolution over ``(B, N, E)`` and a short one beside it, which ``merge`` makes one."""

    def __init__(self, width: int, kernels: tuple[int, int], *, merged: bool):
        super().__init__()
        K, small = kernels
        self.lkb_reparam = nn.Conv1d(width, width, K, padding=K // 2, groups=width) if merged else None
        self.lkb_origin = None if merged else _NormedConv(width, K)
        self.small_conv = None if merged else _NormedConv(width, small)

    def forward(self, x: Tensor) -> Tensor:
        if self.lkb_reparam is not None:
            return convolve(self.lkb_reparam, x)
        assert self.lkb_origin is not None and self.small_conv is not None
        return self.lkb_origin(x) + self.small_conv(x)

    def merge(self) -> None:
        if self.lkb_origin is None or self.small_conv is None:
            return
        weight, bias = self.lkb_origin.fused()
        small, shift = self.small_conv.fused()
        E, _, K = weight.shape
        margin = (K - small.shape[-1]) // 2
        conv = nn.Conv1d(E, E, K, padding=K // 2, groups=E)
        conv.weight = nn.Parameter((weight + F.pad(small, (margin, margin))).detach())
        conv.bias = nn.Parameter((bias + shift).detach())
        self.lkb_reparam, self.lkb_origin, self.small_conv = conv, None, None


class _NormedConv(nn.Module):
    def __init__(self, width: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv1d(width, width, kernel_size, padding=kernel_size // 2, groups=width, bias=False)
        self.bn = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = convolve(self.conv, x)
        return self.bn(y.flatten(0, 1)).unflatten(0, y.shape[:2])

    def fused(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution this is in evaluation."""
        norm = self.bn
        assert norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return self.conv.weight * scale[:, None, None], norm.bias - norm.running_mean * scale


def _grouped(conv: nn.Conv1d, weight: tuple[int, ...], bias: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Weight and bias of a grouped convolution of one position, the group first."""
    assert conv.bias is not None
    return conv.weight.view(weight), conv.bias.view(bias)


def _from_published(model: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Drop unused parameters of the original from a published state dict."""
    for part, network in model.named_children():
        assert isinstance(network, _Network)
        used, own = len(network.downsample_layers), f"{prefix}{part}."
        unused = (*_UNUSED, *(f"downsample_layers.{i}." for i in range(used, 4)))
        for key in [k for k in state_dict if k.startswith(own)]:
            if key.removeprefix(own).startswith(unused):
                del state_dict[key]
