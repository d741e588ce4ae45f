"""DecoderForecaster: any encoder of series with a Transformer decoder that forecasts the whole horizon at once."""

from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from seqmix.errors import ConfigError, check_at_least, check_fraction
from seqmix.mixers.prob_sparse import attend_sparsely
from seqmix.models.block import ChannelMLP
from seqmix.models.dropout import Dropout
from seqmix.models.embed import ValueEmbedding
from seqmix.models.forecast_model import ForecastModel, register_model
from seqmix.models.series_encoder import SeriesEncoderFactory
from seqmix.models.time_encoder import Transformer
from seqmix.series import Series


@register_model(paper="arXiv:2012.07436", encoder=partial(Transformer, d_model=8, n_layers=1, n_heads=2), n_heads=2)
class DecoderForecaster(ForecastModel):
    """Forecasting model of an encoder and the decoder of Informer: all steps of the horizon in one pass.

    The decoder starts from the last ``label_len`` steps of the window followed by zeros for the horizon. Each layer
    attends to earlier steps among these, then to the tokens of the encoder.

    Shapes: ``(B, context, C) -> (B, horizon, C)``, or ``(B, horizon, C, K)`` for ``n_outputs`` K > 1.
    Cost: that of the encoder, and O(S D (S + N + D expand)) per layer for S = label_len + horizon.

    Args:
        encoder: factory of the encoder; its width is that of the decoder.
        label_len: time steps of the window that the decoder starts from. Default: half of them.
        n_layers: number of decoder layers.
        n_heads: heads of the attention.
        expand: inner width of the feed-forward layers over D.
        factor: ProbSparse attention among the decoder's own steps with this factor, as in Informer. Default: softmax
            attention, as in the Transformer.
        activation: class of the nonlinearity of the feed-forward layers.
        dropout: dropout probability on embeddings, attention weights, and the output of each layer.

    Raises:
        ConfigError: if ``label_len`` is over the context, or the width of the encoder is not a multiple of ``n_heads``.

    Source: Zhou et al., 2021, arXiv:2012.07436, sec. 3.3; parity with zhouhaoyi/Informer2020. Differs from the original
    code in: what ``ProbSparse`` lists; no calendar features; the heads of its ProbSparse attention are not mixed up
    with positions, as ``mix=True`` does there.
    """

    mixes_channels = True

    def __init__(
        self,
        series: Series,
        *,
        encoder: SeriesEncoderFactory = Transformer,
        label_len: int | None = None,
        n_layers: int = 1,
        n_heads: int = 8,
        expand: float = 4,
        factor: int | None = None,
        activation: type[nn.Module] = nn.GELU,
        dropout: float = 0.1,
    ):
        super().__init__(series)
        check_at_least(1, n_layers=n_layers, n_heads=n_heads, factor=factor)
        check_fraction(dropout=dropout)
        self.label_len = start_length(label_len, series)
        self.encoder = encoder(series.n_channels, series.context)
        D, K = self.encoder.d_model, series.n_outputs
        self.embed = ValueEmbedding(D, series.n_channels, self.label_len + series.horizon, dropout=dropout)
        self.layers = nn.ModuleList(_Layer(D, n_heads, expand, factor, activation, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(D)
        self.proj = nn.Linear(D, series.n_channels * K)

    @property
    def label(self) -> str:
        """Name of encoder and decoder in results."""
        return f"{self.encoder.label} (decoder)"

    def heads(self) -> list[nn.Module]:
        """The last layer."""
        return [self.proj]

    def forward(
        self, x: Tensor, *, future: Tensor | None = None, static: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        H, K = self.series.horizon, self.series.n_outputs
        tokens = self.encoder(x)
        z = self.embed(torch.cat([x[:, -self.label_len :], x.new_zeros(x.shape[0], H, x.shape[-1])], 1))
        for layer in self.layers:
            z = layer(z, tokens)
        y = self.proj(self.norm(z[:, -H:]))
        return y if K == 1 else y.unflatten(-1, (-1, K))


def start_length(label_len: int | None, series: Series) -> int:
    """Time steps of the window that a decoder starts from, by default half of them; ``ConfigError`` beyond it."""
    length = -(-series.context // 2) if label_len is None else label_len
    if not 1 <= length <= series.context:
        raise ConfigError(f"label_len = {length} does not fit context = {series.context}; use 1 to {series.context}")
    return length


class _Layer(nn.Module):
    def __init__(
        self,
        d_model: int,
        n_heads: int,
        expand: float,
        factor: int | None,
        activation: type[nn.Module],
        dropout: float,
    ):
        super().__init__()
        self.own = _Attend(d_model, n_heads, dropout, triangular=True, factor=factor)
        self.cross = _Attend(d_model, n_heads, dropout)
        self.mlp = ChannelMLP(d_model, expand=expand, activation=activation, dropout=dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(3))
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        x = self.norms[0](x + self.drop(self.own(x, x)))
        x = self.norms[1](x + self.drop(self.cross(x, tokens)))
        return self.norms[2](x + self.drop(self.mlp(x)))


class _Attend(nn.Module):
    """Attention of queries to the keys and values of another sequence; no mixer, so that ``densify`` leaves it."""

    def __init__(
        self, d_model: int, n_heads: int, dropout: float, *, triangular: bool = False, factor: int | None = None
    ):
        super().__init__()
        if d_model % n_heads:
            raise ConfigError(f"d_model = {d_model} is not a multiple of n_heads = {n_heads}; change one")
        self.n_heads, self.dropout, self.triangular, self.factor = n_heads, dropout, triangular, factor
        self.q, self.kv = nn.Linear(d_model, d_model), nn.Linear(d_model, 2 * d_model)
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Attend from ``x: (B, L, D)`` to ``z: (B, S, D)``."""
        dropout = self.dropout if self.training else 0.0
        q, k, v = (rearrange(t, "b l (h p) -> b h l p", h=self.n_heads) for t in (self.q(x), *self.kv(z).chunk(2, -1)))
        if self.factor is None:
            y = scaled_dot_product_attention(q, k, v, is_causal=self.triangular, dropout_p=dropout)
        else:
            y = attend_sparsely(q, k, v, factor=self.factor, triangular=self.triangular, dropout=dropout)
        return self.proj(rearrange(y, "b h l p -> b l (h p)"))
