"""MixerForecaster, a forecasting model with any mixer, and the baselines DLinear and SeasonalNaive."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.errors import ConfigError, check_choice
from seqmix.mixers import Mamba, MixerFactory
from seqmix.models.backbone import Backbone
from seqmix.models.block import ChannelMLP
from seqmix.models.embed import CovariateEmbedding, PatchEmbedding, patch_sizes
from seqmix.models.forecast_model import ForecastModel, register_model
from seqmix.models.heads import FlattenHead, split_outputs
from seqmix.series import Series


@register_model(paper="arXiv:2211.14730", d_model=8, n_layers=1, patch_len=4, patch_stride=2)
class MixerForecaster(ForecastModel):
    """Channel-independent forecasting model: patches, a backbone with any mixer, and one linear head.

    The channels share all weights. Patches of the covariates are added to the tokens of the window;
    those of the horizon are tokens after them, and known-future inputs also reach the forecast of their own step by a
    linear map. Static inputs are added to all tokens.

    Shapes: ``(B, context, C) -> (B, horizon, C)``, or ``(B, horizon, C, K)`` for ``n_outputs`` K > 1.
    Cost: that of the backbone on B C sequences of N patches.

    Args:
        mixer: factory of the sequence mixer of every block.
        layers: sequence mixers of successive blocks, cycled; replaces ``mixer``.
        channel_mixer: factory of the channel mixer of every block. None: blocks with one residual.
        d_model: width of a token.
        n_layers: number of blocks.
        patch_len: patch length, in time steps. Default: 16, or the context where that is shorter.
        patch_stride: time steps between the starts of patches. Default: half of the patch length.
        norm: ``layer`` or ``rms``, in the backbone.
        dropout: dropout probability on the output of each mixer.
        drop_path: probability of stochastic depth in the last block, growing linearly from 0 in the first.
        head_dropout: dropout probability on the input of the head.
        position_embedding: learn a vector per patch position; attention needs it, scans do not.

    Raises:
        ConfigError: if a patch is longer than the context, or ``norm`` is not known.
        ValueError: if covariates are missing that the model was built for.

    Source: the frame of PatchTST, Nie et al., 2023, arXiv:2211.14730. Differs from the original code in: any mixer,
    pre-norm with LayerNorm instead of post-norm with BatchNorm, covariates.
    """

    covariates = "used"
    axis = "patches"

    def __init__(
        self,
        series: Series,
        *,
        mixer: MixerFactory = Mamba,
        layers: list[MixerFactory] | None = None,
        channel_mixer: MixerFactory | None = ChannelMLP,
        d_model: int = 64,
        n_layers: int = 2,
        patch_len: int | None = None,
        patch_stride: int | None = None,
        norm: Literal["layer", "rms"] = "layer",
        dropout: float = 0.1,
        drop_path: float = 0.0,
        head_dropout: float = 0.1,
        position_embedding: bool = False,
    ):
        super().__init__(series)
        patch_len, patch_stride = patch_sizes(series.context, patch_len, patch_stride)
        self.embed = PatchEmbedding(d_model, patch_len=patch_len, patch_stride=patch_stride)
        n_tokens = self.embed.n_patches(series.context)
        self.timed = None
        if series.n_future or series.n_past:
            self.timed = CovariateEmbedding(d_model, series, patch_len=patch_len, patch_stride=patch_stride)
            n_tokens += self.timed.n_ahead
        self.ahead = nn.Linear(series.n_future, series.n_outputs, bias=False) if series.n_future else None
        self.static = nn.Linear(series.n_static, d_model, bias=False) if series.n_static else None
        self.position = nn.Parameter(0.02 * torch.randn(n_tokens, d_model)) if position_embedding else None
        self.backbone = Backbone(
            d_model,
            n_layers,
            max_len=n_tokens,
            mixer=mixer,
            layers=layers,
            channel_mixer=channel_mixer,
            norm=norm,
            dropout=dropout,
            drop_path=drop_path,
        )
        self.head = FlattenHead(n_tokens * d_model, series.horizon, series.n_outputs, dropout=head_dropout)

    @property
    def note(self) -> str:
        """Its mixers."""
        return "+".join(self.backbone.mixer_names)

    def heads(self) -> list[nn.Module]:
        """The head, and the linear map of the known-future inputs."""
        return [self.head] if self.ahead is None else [self.head, self.ahead]

    def forward(
        self, x: Tensor, *, future: Tensor | None = None, static: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        tokens = self._join(self.embed(x.transpose(1, 2)), future, static, past)  # (B, C, N, D)
        if self.position is not None:
            tokens = tokens + self.position
        y = self.head(self.backbone(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2]))
        if self.ahead is not None:
            y = y + _spread(self.ahead(self.given("future", future)[:, self.series.context :]), self.series.n_outputs)
        return y

    def _join(self, tokens: Tensor, future: Tensor | None, static: Tensor | None, past: Tensor | None) -> Tensor:
        """Add the covariates to the tokens of the window ``(B, C, N, D)``, and those of the horizon after them."""
        if self.timed is not None:
            window, ahead = self.timed(
                self.given("future", future) if self.series.n_future else None,
                self.given("past", past) if self.series.n_past else None,
            )
            tokens = tokens + window.unsqueeze(1)
            if ahead is not None:
                tokens = torch.cat([tokens, ahead.unsqueeze(1).expand(-1, self.series.n_channels, -1, -1)], 2)
        if self.static is not None:
            tokens = tokens + self.static(self.given("static", static)).unsqueeze(2)
        return tokens


@register_model(paper="arXiv:2205.13504", kernel_size=5)
class DLinear(ForecastModel):
    """DLinear: one linear map of the trend of the window, one of the remainder, and their sum.

    The trend is a moving average over ``kernel_size`` steps with the first and last value repeated at the ends. It is
    computed from a running sum of the window less its first value: rounding error about 1e-6 of the window's range.
    Known-future inputs enter as a regression: a linear map of each step is taken from the window, one of each step of
    the horizon is added to the forecast. Past inputs are mapped to the horizon by one more layer, static inputs shift
    the forecast of their channel.

    Shapes: ``(B, context, C) -> (B, horizon, C)``, or ``(B, horizon, C, K)`` for ``n_outputs`` K > 1.
    Cost: O(C context horizon K).

    Args:
        kernel_size: length of the moving average, in time steps, odd; 25 in the paper.
        individual: separate layers for each channel; those of covariates stay shared.
        init: ``default`` is that of PyTorch; ``mean`` starts every weight at 1 / context, as the original code can.

    Raises:
        ConfigError: if ``kernel_size`` is even, or ``init`` is not known.
        ValueError: if covariates are missing that the model was built for.

    Source: Zeng et al., 2023, arXiv:2205.13504, sec. 4. Differs from the original code in: the moving average by a
    running sum; individual layers in one product; covariates.
    """

    covariates = "used"
    linear = True

    def __init__(
        self,
        series: Series,
        *,
        kernel_size: int = 25,
        individual: bool = False,
        init: Literal["default", "mean"] = "default",
    ):
        super().__init__(series)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size must be odd to be centered, got {kernel_size}; use {kernel_size + 1}")
        check_choice("init", init, ("default", "mean"))
        self.kernel_size = kernel_size
        copies, width = series.n_channels if individual else 1, series.horizon * series.n_outputs
        self.seasonal = _ChannelLinear(copies, series.context, width)
        self.trend = _ChannelLinear(copies, series.context, width)
        if init == "mean":
            nn.init.constant_(self.seasonal.weight, 1 / series.context)
            nn.init.constant_(self.trend.weight, 1 / series.context)
        self.effect = nn.Linear(series.n_future, 1, bias=False) if series.n_future else None
        self.ahead = nn.Linear(series.n_future, series.n_outputs, bias=False) if series.n_future else None
        self.static = nn.Linear(series.n_static, series.n_outputs, bias=False) if series.n_static else None
        self.past = nn.Linear(series.context * series.n_past, width, bias=False) if series.n_past else None

    def heads(self) -> list[nn.Module]:
        """All linear maps to the horizon."""
        found = [self.seasonal, self.trend, self.ahead, self.static, self.past]
        return [each for each in found if each is not None]

    def forward(
        self, x: Tensor, *, future: Tensor | None = None, static: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        if self.effect is not None:
            x = x - self.effect(self.given("future", future)[:, : self.series.context])
        x = x.transpose(1, 2)  # (B, C, L)
        trend = moving_average(x, self.kernel_size)
        y = split_outputs(self.seasonal(x - trend) + self.trend(trend), self.series.n_outputs)
        if self.ahead is not None:
            y = y + _spread(self.ahead(self.given("future", future)[:, self.series.context :]), self.series.n_outputs)
        if self.static is not None:
            y = y + split_outputs(self.static(self.given("static", static)), self.series.n_outputs)
        if self.past is not None:
            y = y + _spread(self.past(self.given("past", past).flatten(1)), self.series.n_outputs)
        return y


@register_model(paper="none: the last season, repeated", season=7)
class SeasonalNaive(ForecastModel):
    """Seasonal naive forecast: the last season of the window, repeated over the horizon.

    Where the last season has a missing value, the last observed value of its phase takes its place.

    Shapes: ``(B, context, C) -> (B, horizon, C)``, or ``(B, horizon, C, K)``, all K equal. Cost: a copy.

    Args:
        season: length of the season, in time steps; 1 repeats the last value. Default: that of the data.

    Raises:
        ConfigError: if the season is longer than the context.

    Source: Hyndman and Athanasopoulos, Forecasting: Principles and Practice, sec. 5.2. Differs from the original code
    in: there is none.
    """

    linear = True
    repeats_season = True
    by_steps = False
    masked = True

    def __init__(
        self,
        series: Series,
        *,
        season: int | None = None,
    ):
        super().__init__(series)
        context, season = series.context, series.season if season is None else season
        if not 1 <= season <= context:
            raise ConfigError(f"season = {season} does not fit context = {context}; use a longer context, or season=1")
        self.season = season

    @property
    def note(self) -> str:
        """Its season, where it is not that of the data."""
        return f"season {self.season}" if self.season != self.series.season else ""

    def forward(
        self,
        x: Tensor,
        *,
        future: Tensor | None = None,
        static: Tensor | None = None,
        past: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Forecast from ``x: (B, context, C)``; ``mask``, of its shape, is True where a value was observed."""
        y = repeat_season(x, self.season, self.series.horizon, mask)
        return y if self.series.n_outputs == 1 else y.unsqueeze(-1).expand(-1, -1, -1, self.series.n_outputs)


def repeat_season(x: Tensor, season: int, horizon: int, mask: Tensor | None = None) -> Tensor:
    """Seasonal naive forecast ``(B, horizon, C)`` from ``x: (B, context, C)``.

    With ``mask``, True where a value was observed, each phase repeats its last observed value; one without any repeats
    what stands in ``x``.
    """
    last = x[:, -season:]
    if mask is not None:
        missing = -x.shape[1] % season  # rows that the first season lacks
        seasons, seen = (F.pad(rows, (0, 0, missing, 0)).unflatten(1, (-1, season)) for rows in (x, mask))
        # the first of the reversed seasons that was observed, or the last
        back = seen.flip(1).int().argmax(1, keepdim=True)  # (B, 1, season, C)
        last = seasons.flip(1).gather(1, back).squeeze(1)
    return last.repeat(1, -(-horizon // season), 1)[:, :horizon]


def _spread(y: Tensor, n_outputs: int) -> Tensor:
    """Outputs per step that all channels share, K H numbers per sample, as ``(B, H, 1)``, or ``(B, H, 1, K)``."""
    return split_outputs(y.flatten(1).unsqueeze(1), n_outputs)


def moving_average(x: Tensor, kernel_size: int) -> Tensor:
    """Centered moving average of ``x: (..., L)`` with the end values repeated, in float32 at least."""
    half = kernel_size // 2
    first, L = x[..., :1], x.shape[-1]
    dtype = torch.promote_types(x.dtype, torch.float32)
    # relative to the first value, so that the level does not use up the digits; its repeats at the start are zeros
    d = (x - first).to(dtype)
    sums = torch.cat([d, d[..., -1:].expand(*d.shape[:-1], half)], -1).cumsum(-1)  # (..., L + half)
    zeros = sums.new_zeros(*sums.shape[:-1], half + 1)
    sums = torch.cat([zeros, sums], -1)  # (..., L + 2 half + 1)
    return first + ((sums[..., kernel_size:] - sums[..., :L]) / kernel_size).to(x.dtype)


class _ChannelLinear(nn.Module):
    """Linear layers for ``x: (B, C, L)``: one for each channel, or one for all when ``copies`` is 1."""

    def __init__(self, copies: int, d_in: int, d_out: int):
        super().__init__()
        bound = 1 / math.sqrt(d_in)
        self.weight = nn.Parameter(torch.empty(copies, d_out, d_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(copies, d_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        if len(self.weight) == 1:
            return F.linear(x, self.weight[0], self.bias[0])
        return torch.einsum("bcl,chl->bch", x, self.weight) + self.bias
