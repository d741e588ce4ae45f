"""ConvForecaster: a small convolutional forecaster, a strong baseline of anomaly detection."""

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.models.dropout import Dropout
from seqmix.models.forecast_model import ForecastModel, register_model
from seqmix.models.heads import split_outputs
from seqmix.series import Series


@register_model(paper="DeepAnT, doi:10.1109/ACCESS.2018.2886457", widths=(8, 8), d_model=8)
class ConvForecaster(ForecastModel):
    """Small convolutional forecaster: convolutions with max pooling, the mean and the maximum over time, two layers.

    Shapes: ``(B, context, C) -> (B, horizon, C)``, or ``(B, horizon, C, K)`` for ``n_outputs`` K > 1.
    Cost: O(context d^2 kernel_size) for widths d.

    Args:
        widths: channels of the convolutions; after each one the length is halved.
        kernel_size: length of a convolution, in time steps, odd.
        d_model: width between the last two layers.
        dropout: dropout probability, before the last layer.

    Raises:
        ConfigError: if ``kernel_size`` is even, or an option is out of range.

    Source: DeepAnT, Munir et al., 2018, and CNN of TSB-AD, Liu and Paparrizos, NeurIPS 2024. Differs from the original
    code in: convolutions are padded and a window is any length; the maximum over time, where TSB-AD takes the mean
    twice; any horizon.
    """

    mixes_channels = True

    def __init__(
        self,
        series: Series,
        *,
        widths: tuple[int, ...] = (32, 40),
        kernel_size: int = 3,
        d_model: int = 40,
        dropout: float = 0.25,
    ):
        super().__init__(series)
        check_at_least(1, d_model=d_model, kernel_size=kernel_size)
        if not widths or min(widths) < 1:
            raise ConfigError(f"widths = {widths} must be one positive number at least; use for example (32, 40)")
        if kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size must be odd to be centered, got {kernel_size}; use {kernel_size + 1}")
        sizes = (series.n_channels, *widths)
        self.convs = nn.ModuleList(
            nn.Conv1d(a, b, kernel_size, padding=kernel_size // 2) for a, b in zip(sizes, widths, strict=False)
        )
        self.hidden = nn.Linear(2 * sizes[-1], d_model)
        self.drop = Dropout(dropout)
        self.head = nn.Linear(d_model, series.n_channels * series.horizon * series.n_outputs)

    def heads(self) -> list[nn.Module]:
        """The last layer."""
        return [self.head]

    def forward(
        self, x: Tensor, *, future: Tensor | None = None, static: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        z = x.transpose(1, 2)
        for conv in self.convs:
            z = conv(z).relu()
            # a window of one step is left as it is
            z = nn.functional.max_pool1d(z, 2) if z.shape[2] > 1 else z
        z = torch.cat([z.mean(2), z.amax(2)], 1)
        y = self.head(self.drop(self.hidden(z).relu()))
        return split_outputs(y.unflatten(1, (self.series.n_channels, -1)), self.series.n_outputs)
