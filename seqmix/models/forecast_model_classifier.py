"""ForecastModelClassifier: a classifier of series with any forecasting model."""

from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.models.dropout import Dropout
from seqmix.models.forecast_model import ForecastModelFactory
from seqmix.models.forecasters import DLinear
from seqmix.models.series_classifier import SeriesClassifier, register_classifier
from seqmix.models.tsm2 import TSM2
from seqmix.series import Series


@register_classifier(paper="none: a linear layer on the outputs of a forecasting model", model=DLinear, horizon=4)
class ForecastModelClassifier(SeriesClassifier):
    """Classifier of series with any forecasting model: its outputs are features of a linear head.

    The model is built for windows as long as the longest series and a short horizon; shorter series are filled up with
    zeros at the end.

    Shapes: ``(B, L, C) -> (B, n_classes)``. Cost: that of the model.

    Args:
        model: factory of the forecasting model.
        horizon: number of outputs of each channel, which are the features.
        dropout: dropout probability on the features.

    Raises:
        ConfigError: if the model is not trained by gradient steps.

    Source: none. Differs from the original code in: there is none.
    """

    def __init__(
        self,
        n_channels: int,
        n_classes: int,
        max_len: int,
        *,
        model: ForecastModelFactory = TSM2,
        horizon: int = 16,
        dropout: float = 0.1,
    ):
        super().__init__(n_channels, n_classes, max_len)
        self.model = model(Series(n_channels, context=max_len, horizon=horizon))
        if self.model.pretrained or self.model.closed_form:
            raise ConfigError(f"{self.label} is not trained by gradient steps: it learns no features; use TSM2")
        self.head = nn.Sequential(Dropout(dropout), nn.Linear(horizon * n_channels, n_classes))

    @property
    def label(self) -> str:
        """Name of the forecasting model, with its note."""
        return self.model.label

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        missing = self.max_len - x.shape[1]
        observed = None
        if self.model.masked and mask is not None:
            observed = F.pad(mask, (0, missing)).unsqueeze(-1).expand(-1, -1, self.n_channels)
        return self.head(self.model(F.pad(x, (0, 0, 0, missing)), mask=observed).flatten(1))
