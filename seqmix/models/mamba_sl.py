"""MambaSL: one Mamba layer for the classification of series."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.errors import check_at_least
from seqmix.mixers import zero_masked
from seqmix.mixers.ssm import make_branch, rates
from seqmix.models.dropout import Dropout
from seqmix.models.pooling import Pooling
from seqmix.models.positions import places
from seqmix.models.series_classifier import SeriesClassifier, register_classifier
from seqmix.ops import depthwise_conv1d, selective_scan
from seqmix.ops.wide import wide


@register_classifier(paper="arXiv:2604.15174", d_model=8, d_state=4)
class MambaSL(SeriesClassifier):
    """MambaSL: a convolution, one Mamba layer with optional selectivity of each part, and learned pooling over time.

    Tokens are a convolution of all channels around each time step, plus sinusoidal positions. In the layer each of step
    size dt, input map B and output map C either depends on the token, as in Mamba, or is learned as a constant. A layer
    norm and SiLU follow; the scores of the classes are a linear map of the mean over time, whose weights are the
    softmax of the largest of ``n_heads`` learned scores of a time step.

    Shapes: ``(B, L, C) -> (B, n_classes)``. Cost: O(L E (D + N)) time, E = expand D; O(L E N) memory where B or C is
    constant.

    Args:
        d_model: width D of a token.
        d_state: state size per channel N.
        d_conv: positions seen by the short convolution of the layer.
        expand: inner width of the layer over D.
        kernel_size: time steps seen by the convolution into tokens. Default: a fiftieth of ``max_len``, 3 at least, as
            in the published runs.
        vary_dt: dt depends on the token.
        vary_b: B depends on the token.
        vary_c: C depends on the token.
        skip: learn a skip D around the state space, as Mamba has.
        n_heads: learned scores of a time step.
        dropout: dropout probability on the tokens and on the mean.

    Raises:
        ConfigError: if a size is below 1.

    Source: MambaSL, ICLR 2026, arXiv:2604.15174; ``MambaSingleLayer`` of thuml/Time-Series-Library. Differs from the
    original code in: padding has no part in the mean, and the last value of a shorter series is repeated into it;
    dropout on the mean instead of on each time step. The published figures choose size and switches for each data set
    by the test series.
    """

    def __init__(
        self,
        n_channels: int,
        n_classes: int,
        max_len: int,
        *,
        d_model: int = 64,
        d_state: int = 8,
        d_conv: int = 4,
        expand: int = 1,
        kernel_size: int | None = None,
        vary_dt: bool = True,
        vary_b: bool = False,
        vary_c: bool = True,
        skip: bool = False,
        n_heads: int = 8,
        dropout: float = 0.1,
    ):
        super().__init__(n_channels, n_classes, max_len)
        kernel_size = max(3, -(-max_len // 50)) if kernel_size is None else kernel_size
        check_at_least(1, d_model=d_model, d_state=d_state, d_conv=d_conv, expand=expand, kernel_size=kernel_size)
        self.embed = nn.Conv1d(n_channels, d_model, kernel_size, bias=False)
        nn.init.kaiming_normal_(self.embed.weight, mode="fan_in", nonlinearity="leaky_relu")
        self.drop = Dropout(dropout)
        self.layer = _SwitchedMamba(d_model, d_state, d_conv, expand, (vary_dt, vary_b, vary_c), skip)
        self.norm = nn.LayerNorm(d_model)
        self.pool = Pooling(d_model, "attention", n_heads=n_heads)
        self.head = nn.Linear(d_model, n_classes, bias=False)
        nn.init.xavier_uniform_(self.head.weight)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        kernel_size, L = self.embed.kernel_size[0], x.shape[1]
        if mask is not None:
            # repeat the last value, as beyond the end of the longest
            last = torch.where(mask, torch.arange(L, device=x.device), 0).amax(1)
            x = torch.where(mask.unsqueeze(-1), x, x[torch.arange(len(x), device=x.device), last].unsqueeze(1))
        left = (kernel_size - 1) // 2
        x = F.pad(x.transpose(1, 2), (left, kernel_size - 1 - left), mode="replicate")
        x = self.embed(x).transpose(1, 2)  # (B, L, D)
        x = self.drop(x + _waves(places(x[..., 0], mask), x.shape[2]).to(x.dtype))
        x = F.silu(self.norm(self.layer(x, mask)))
        return self.head(self.drop(self.pool(x, mask)))


class _SwitchedMamba(nn.Module):
    """Mamba whose dt, B and C are constants where ``vary`` says so, ``(B, L, D) -> (B, L, D)``."""

    def __init__(self, d_model: int, d_state: int, d_conv: int, expand: int, vary: tuple[bool, bool, bool], skip: bool):
        super().__init__()
        E, dt_rank = expand * d_model, math.ceil(d_model / 16)
        self.in_proj = nn.Linear(d_model, 2 * E, bias=False)
        branch = make_branch(E, d_state=d_state, d_conv=d_conv, dt_rank=dt_rank)
        self.conv1d, self.dt_proj, self.A_log = branch.conv1d, branch.dt_proj, branch.A_log
        self.D = branch.D if skip else None
        self.sizes = [size * on for size, on in zip((dt_rank, d_state, d_state), vary, strict=True)]
        self.x_proj = nn.Linear(E, sum(self.sizes), bias=False) if any(vary) else None
        # a constant dt is the bias alone
        self.dt_proj.weight.requires_grad_(vary[0])
        self.B = None if vary[1] else nn.Parameter(torch.rand(E, d_state))
        self.C = None if vary[2] else nn.Parameter(torch.rand(E, d_state))
        self.out_proj = nn.Linear(E, d_model, bias=False)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay."""
        return {"A_log", "D", "B", "C", "dt_proj.bias"}

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        u, z = self.in_proj(zero_masked(x, mask)).chunk(2, -1)  # (B, L, E)
        weight = self.conv1d.weight.squeeze(1)
        u = zero_masked(depthwise_conv1d(u, weight, self.conv1d.bias, padding="causal", activation="silu"), mask)
        found = u.new_zeros(*u.shape[:2], 0) if self.x_proj is None else self.x_proj(u)
        dt, B, C = found.split(self.sizes, -1)
        dt = F.linear(dt, self.dt_proj.weight) if self.sizes[0] else torch.zeros_like(u)
        if self.B is not None or self.C is not None:
            B, C = (_each_channel(*part, u.shape) for part in ((B, self.B), (C, self.C)))
        skip = None if self.D is None else wide(self.D)
        bias = wide(self.dt_proj.bias)
        y = selective_scan(u, dt, rates(self.A_log), B, C, skip, z, dt_bias=bias, dt_softplus=True)
        return zero_masked(self.out_proj(y), mask)


def _each_channel(varying: Tensor, constant: Tensor | None, shape: torch.Size) -> Tensor:
    """An input or output map of each channel ``(B, L, E, N)`` from that of all ``(B, L, N)`` or a constant."""
    if constant is not None:
        return constant.expand(*shape[:2], -1, -1)
    return varying.unsqueeze(2).expand(-1, -1, shape[2], -1)


def _waves(place: Tensor, d_model: int) -> Tensor:
    """Sines and cosines of positions, one after the other, ``(..., L) -> (..., L, D)``."""
    rate = torch.exp(torch.arange(0, d_model, 2, device=place.device) * (-math.log(10_000) / d_model))
    angle = place.unsqueeze(-1) * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[..., :d_model]
