"""EncoderForecaster: a forecasting model of any encoder and a linear head."""

from collections.abc import Mapping
from functools import partial
from inspect import signature
from typing import Any

from torch import Tensor, nn

from seqmix.errors import ConfigError
from seqmix.models.dropout import Dropout
from seqmix.models.forecast_model import ForecastModel, class_of, register_model
from seqmix.models.heads import FlattenHead, TimeHead
from seqmix.models.series_encoder import SeriesEncoder, SeriesEncoderFactory
from seqmix.models.time_encoder import TimeEncoder
from seqmix.series import Series


@register_model(paper="arXiv:1706.03762", encoder=partial(TimeEncoder, d_model=8, n_layers=1))
class EncoderForecaster(ForecastModel):
    """Forecasting model of an encoder and a linear head; in results it has the name of the encoder.

    The head goes with the axis of the tokens. Time steps: a linear map along time from the window to the horizon, then
    one of the features to the channels. Patches: all patches of a variate in one linear layer that the variates share.
    Variates: one linear layer from the token of a variate to its horizon.

    Shapes: ``(B, context, C) -> (B, horizon, C)``, or ``(B, horizon, C, K)`` for ``n_outputs`` K > 1.
    Cost: that of the encoder, and of the head.

    Args:
        encoder: factory of the encoder.
        dropout: dropout probability on the tokens that the head reads.
        along_time: for tokens that are time steps: False reads the value of a step off its own token, so that the
            horizon has to be as long as the context, as in reconstruction.

    Raises:
        ConfigError: if ``along_time`` is off for other tokens, or for another horizon than the context.

    Source: the heads of PatchTST, arXiv:2211.14730, iTransformer, arXiv:2310.06625, and TimesNet, arXiv:2210.02186.
    Differs from the original code in: the map along time is after the encoder and not before it.
    """

    mixes_channels = True

    def __init__(
        self,
        series: Series,
        *,
        encoder: SeriesEncoderFactory = TimeEncoder,
        dropout: float = 0.1,
        along_time: bool = True,
    ):
        super().__init__(series)
        self.encoder = encoder(series.n_channels, series.context)
        self.mixes_channels = self.encoder.mixes_channels  # pyright: ignore[reportAttributeAccessIssue]
        self.drop = Dropout(dropout)
        D, K = self.encoder.d_model, series.n_outputs
        if self.encoder.axis == "time":
            self.head = TimeHead(D, series.n_channels, self.encoder.n_tokens, series.horizon, K, along_time=along_time)
            return
        if not along_time:
            raise ConfigError(
                f"along_time = False is for tokens that are time steps, those of {self.label} are "
                f"{self.encoder.axis}; leave it out"
            )
        self.head = FlattenHead(self.encoder.n_tokens // series.n_channels * D, series.horizon, K)

    @classmethod
    def channels_meet(cls, options: Mapping[str, Any]) -> bool:
        """Whether the encoder mixes channels; True if its factory is a function."""
        inner = class_of(options.get("encoder", TimeEncoder))
        return not isinstance(inner, type) or not issubclass(inner, SeriesEncoder) or inner.mixes_channels

    @classmethod
    def takes(cls, options: Mapping[str, Any]) -> list[str]:
        """Names of the options of the encoder."""
        given = signature(class_of(options.get("encoder", TimeEncoder))).parameters
        return [name for name, p in given.items() if p.kind is p.KEYWORD_ONLY]

    @property
    def label(self) -> str:
        """Name of the encoder in results."""
        return self.encoder.label

    def heads(self) -> list[nn.Module]:
        """The last layer of the head."""
        return [self.head.proj]

    def forward(
        self, x: Tensor, *, future: Tensor | None = None, static: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        tokens = self.drop(self.encoder(x))  # (B, N, D)
        if self.encoder.axis == "time":
            return self.head(tokens)
        return self.head(tokens.unflatten(1, (self.series.n_channels, -1)))
