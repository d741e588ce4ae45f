"""Autoformer: auto-correlation and series decomposition in every layer, as an encoder and with its decoder."""

import torch
from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers import AutoCorrelation, zero_masked
from seqmix.mixers.auto_correlation import aggregate_lags
from seqmix.mixers.conv import require_odd
from seqmix.models.block import inner_width
from seqmix.models.decoder import start_length
from seqmix.models.dropout import Dropout
from seqmix.models.embed import ValueEmbedding
from seqmix.models.forecast_model import ForecastModel, register_model
from seqmix.models.forecasters import moving_average
from seqmix.models.series_encoder import SeriesEncoder, register_encoder
from seqmix.series import Series


@register_encoder(paper="arXiv:2106.13008", d_model=8, n_layers=1, kernel_size=5)
class Autoformer(SeriesEncoder):
    """Encoder of Autoformer: auto-correlation along time; each layer passes on the seasonal part.

    Shapes: ``(B, L, C) -> (B, L, D)``. Cost: O(L D (log L + D expand)) per layer.

    Args:
        d_model: width of a token D.
        n_layers: number of layers.
        expand: inner width of the feed-forward layers over D.
        factor: number of lags over ln L, see ``AutoCorrelation``.
        kernel_size: length of the moving average that is the trend, in time steps, odd.
        activation: class of the nonlinearity of the feed-forward layers.
        dropout: dropout probability on embeddings and on the output of each layer.

    Raises:
        ConfigError: if ``kernel_size`` is even, or a size is out of range.

    Source: Wu et al., 2021, arXiv:2106.13008, sec. 3.1; parity with thuml/Time-Series-Library. Differs from the
    original code in: what ``AutoCorrelation`` lists; no calendar features, so that tokens do not know their place.
    """

    axis = "time"

    def __init__(
        self,
        n_channels: int,
        length: int,
        *,
        d_model: int = 128,
        n_layers: int = 2,
        expand: float = 4,
        factor: float = 1,
        kernel_size: int = 25,
        activation: type[nn.Module] = nn.GELU,
        dropout: float = 0.1,
    ):
        super().__init__(n_channels, length, d_model)
        check_at_least(1, n_layers=n_layers)
        self.n_tokens = length
        self.embed = ValueEmbedding(d_model, n_channels, length, positions="none", dropout=dropout)
        self.layers = nn.ModuleList(
            _EncoderLayer(d_model, expand, factor, require_odd("kernel_size", kernel_size), activation, dropout)
            for _ in range(n_layers)
        )
        self.norm = SeasonalNorm(d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = zero_masked(self.embed(x), mask)
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x, mask)


@register_model(paper="arXiv:2106.13008", d_model=8, n_layers=1, kernel_size=5)
class AutoformerForecaster(ForecastModel):
    """Autoformer with its decoder, which forecasts the seasonal part and adds up the trend layer by layer.

    The decoder starts from the last ``label_len`` steps of the window, split into seasonal part and trend, followed by
    zeros and by the mean of the window. ``Autoformer`` under ``EncoderForecaster`` has a linear head instead.

    Shapes: ``(B, context, C) -> (B, horizon, C)``, or ``(B, horizon, C, K)`` for ``n_outputs`` K > 1.
    Cost: O((context + horizon) D (log context + D expand)) per layer.

    Args:
        label_len: time steps of the window that the decoder starts from. Default: half of them.
        d_model: width of a token D.
        n_layers: number of encoder layers.
        n_decoder_layers: number of decoder layers.
        expand: inner width of the feed-forward layers over D.
        factor: number of lags over ln L, see ``AutoCorrelation``.
        kernel_size: length of the moving average that is the trend, in time steps, odd.
        activation: class of the nonlinearity of the feed-forward layers.
        dropout: dropout probability on embeddings and on the output of each layer.

    Raises:
        ConfigError: if ``label_len`` is over the context, ``kernel_size`` is even, or a size is out of range.

    Source: Wu et al., 2021, arXiv:2106.13008, sec. 3.1; parity with thuml/Time-Series-Library. Differs from the
    original code in: what ``Autoformer`` lists.
    """

    mixes_channels = True

    def __init__(
        self,
        series: Series,
        *,
        label_len: int | None = None,
        d_model: int = 128,
        n_layers: int = 2,
        n_decoder_layers: int = 1,
        expand: float = 4,
        factor: float = 1,
        kernel_size: int = 25,
        activation: type[nn.Module] = nn.GELU,
        dropout: float = 0.1,
    ):
        super().__init__(series)
        check_at_least(1, n_decoder_layers=n_decoder_layers)
        self.label_len = start_length(label_len, series)
        self.kernel_size = require_odd("kernel_size", kernel_size)
        C, K = series.n_channels, series.n_outputs
        self.encoder = Autoformer(
            C,
            series.context,
            d_model=d_model,
            n_layers=n_layers,
            expand=expand,
            factor=factor,
            kernel_size=kernel_size,
            activation=activation,
            dropout=dropout,
        )
        length = self.label_len + series.horizon
        self.embed = ValueEmbedding(d_model, C, length, positions="none", dropout=dropout)
        self.layers = nn.ModuleList(
            _DecoderLayer(d_model, C * K, expand, factor, kernel_size, activation, dropout)
            for _ in range(n_decoder_layers)
        )
        self.norm = SeasonalNorm(d_model)
        self.proj = nn.Linear(d_model, C * K)

    @property
    def label(self) -> str:
        """Name of encoder and decoder in results."""
        return f"{self.encoder.label} (decoder)"

    def forward(
        self, x: Tensor, *, future: Tensor | None = None, static: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        H, K = self.series.horizon, self.series.n_outputs
        tokens = self.encoder(x)
        seasonal, trend = decompose(x, self.kernel_size)
        start = [part[:, -self.label_len :] for part in (seasonal, trend)]
        z = self.embed(torch.cat([start[0], x.new_zeros(x.shape[0], H, x.shape[-1])], 1))
        trend = torch.cat([start[1], x.mean(1, keepdim=True).expand(-1, H, -1)], 1)
        trend = trend.repeat_interleave(K, -1)  # (B, label_len + H, C K)
        for layer in self.layers:
            z, more = layer(z, tokens)
            trend = trend + more
        y = (trend + self.proj(self.norm(z)))[:, -H:]
        return y if K == 1 else y.unflatten(-1, (-1, K))


class SeasonalNorm(nn.Module):
    """Layer normalization minus the mean over time.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D).

    Args:
        d_model: width D.

    Source: thuml/Autoformer, ``my_Layernorm``. Differs from the original code in: masks; no bias, which is lost with
    the mean.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.norm = nn.LayerNorm(d_model, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize ``x: (B, L, D)``; masked steps come out as zero."""
        x = self.norm(x)
        if mask is None:
            return x - x.mean(1, keepdim=True)
        x = zero_masked(x, mask)
        return zero_masked(x - x.sum(1, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None], mask)


def decompose(x: Tensor, kernel_size: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Seasonal part and trend, a centered moving average, of ``x: (B, L, D)``; masked steps are zero and do not count.

    The first and the last step are repeated at the ends.
    """
    trend = moving_average(x.transpose(1, 2), kernel_size).transpose(1, 2)
    if mask is not None:
        share = moving_average(mask.to(x.dtype), kernel_size).unsqueeze(-1)  # (B, L, 1)
        trend = zero_masked(trend / share.clamp(min=0.5 / kernel_size), mask)
    return x - trend, trend


class _EncoderLayer(nn.Module):
    def __init__(
        self,
        d_model: int,
        expand: float,
        factor: float,
        kernel_size: int,
        activation: type[nn.Module],
        dropout: float,
    ):
        super().__init__()
        self.kernel_size = kernel_size
        self.mixer = AutoCorrelation(d_model, factor=factor)
        self.mlp = _mlp(d_model, expand, activation, dropout)
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x, _ = decompose(x + self.drop(self.mixer(x, mask)), self.kernel_size, mask)
        return decompose(x + self.mlp(x), self.kernel_size, mask)[0]


class _DecoderLayer(nn.Module):
    def __init__(
        self,
        d_model: int,
        n_outputs: int,
        expand: float,
        factor: float,
        kernel_size: int,
        activation: type[nn.Module],
        dropout: float,
    ):
        super().__init__()
        self.kernel_size = kernel_size
        self.own, self.cross = _Lags(d_model, factor), _Lags(d_model, factor)
        self.mlp = _mlp(d_model, expand, activation, dropout)
        self.drop = Dropout(dropout)
        self.trend = nn.Conv1d(d_model, n_outputs, 3, padding=1, padding_mode="circular", bias=False)

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Seasonal part ``(B, S, D)``, and the increment of the trend ``(B, S, n_outputs)``."""
        x, first = decompose(x + self.drop(self.own(x, x)), self.kernel_size)
        x, second = decompose(x + self.drop(self.cross(x, tokens)), self.kernel_size)
        x, third = decompose(x + self.mlp(x), self.kernel_size)
        return x, self.trend((first + second + third).transpose(1, 2)).transpose(1, 2)


class _Lags(nn.Module):
    """Auto-correlation of queries with the keys and values of another sequence."""

    def __init__(self, d_model: int, factor: float):
        super().__init__()
        self.factor = factor
        # a bias of the queries would raise the correlation at all lags alike
        self.q, self.kv = nn.Linear(d_model, d_model, bias=False), nn.Linear(d_model, 2 * d_model)
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.proj(aggregate_lags(self.q(x), *self.kv(z).chunk(2, -1), factor=self.factor))


def _mlp(d_model: int, expand: float, activation: type[nn.Module], dropout: float) -> nn.Sequential:
    """Two layers without biases, dropout after each."""
    inner = inner_width(d_model, expand)
    up, down = nn.Linear(d_model, inner, bias=False), nn.Linear(inner, d_model, bias=False)
    return nn.Sequential(up, activation(), Dropout(dropout), down, Dropout(dropout))
