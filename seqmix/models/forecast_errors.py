"""ForecastErrors: a detector by forecast errors of any model that needs no gradient steps."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from seqmix.errors import ConfigError
from seqmix.models.detector import Detector
from seqmix.models.forecast_model import ForecastModelFactory
from seqmix.models.ridge import Ridge
from seqmix.series import Series

# of standardized rows: how high a window is counts too, and a window with an anomaly is not a kind of its own
_RIDGE = partial(Ridge, level="none", weights="shared")
# windows per forward pass
_BATCH = 4096


class ForecastErrors(Detector):
    """Detector whose errors are the squared errors of forecasts ``horizon`` rows ahead.

    Args:
        model: a forecasting model that is fitted in closed form, comes pretrained or has nothing to fit.
            Default: Ridge on the values themselves, of which no level is taken, one matrix for all.
        horizon: rows ahead. Default: 1.

    Raises:
        ConfigError: if the model needs gradient steps; the task AnomalyDetection trains those.
    """

    def __init__(self, series: Series, *, model: ForecastModelFactory = _RIDGE, horizon: int = 1):
        super().__init__(replace(series, horizon=horizon))
        self.model = model(self.series)
        trained = any(p.requires_grad for p in self.model.parameters())
        if trained and not (self.model.closed_form or self.model.pretrained):
            raise ConfigError(
                f"{self.model.label} needs gradient steps; train it with the task AnomalyDetection, or use a "
                "model with a closed form, for example Ridge"
            )

    def fit_rows(self, x: Tensor, mask: Tensor) -> None:
        """Fit the closed form."""
        context, H = self.series.context, self.series.horizon
        windows = x.float().unfold(0, context + H, 1).transpose(1, 2)
        observed = mask.unfold(0, context + H, 1).transpose(1, 2)
        batches = [
            {"x": w[:, :context], "y": w[:, context:], "x_mask": o[:, :context], "y_mask": o[:, context:]}
            | {"weight": w.new_ones(len(w), w.shape[2])}
            for w, o in zip(windows.split(_BATCH), observed.split(_BATCH), strict=True)
        ]
        self.model.fit_closed_form(batches, ())

    def errors(self, x: Tensor, mask: Tensor) -> Tensor:
        """Squared error of the last step of each forecast, ``(T, C)``; NaN in the rows that have no forecast."""
        context, H = self.series.context, self.series.horizon
        errors = torch.full_like(x, torch.nan)
        if len(x) < context + H:
            return errors
        windows = x.float()[: len(x) - H].unfold(0, context, 1).transpose(1, 2)
        observed = mask[: len(x) - H].unfold(0, context, 1).transpose(1, 2)
        self.model.eval()
        found = [
            self.model(w, mask=o)[:, -1] for w, o in zip(windows.split(_BATCH), observed.split(_BATCH), strict=True)
        ]
        errors[context + H - 1 :] = (x[context + H - 1 :] - torch.cat(found)).square()
        return errors
