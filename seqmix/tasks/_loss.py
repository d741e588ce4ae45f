"""The contract of forecasting losses: model outputs become points, quantiles or parameters of a distribution."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn


class Loss(nn.Module, ABC):
    """Loss of a forecast, with the conversion of model outputs to forecasts.

    Both are ``(B, horizon, C)``, or ``(B, horizon, C, K)`` for K > 1: quantiles or parameters of a distribution.
    """

    #: numbers that the model forecasts per value K
    n_outputs: int = 1
    #: values are counts: windows are divided, never shifted
    counts: ClassVar[bool] = False
    #: quantiles are tensor operations, which an exported graph can hold
    exportable: ClassVar[bool] = True

    @abstractmethod
    def read(self, outputs: Tensor) -> Tensor:
        """Forecast, in the units of the window that the model saw."""

    @abstractmethod
    def score(self, forecast: Tensor, y: Tensor) -> Tensor:
        """Loss of each value of ``y: (B, horizon, C)``, of its shape or with K terms ``(B, horizon, C, K)`` each."""

    @abstractmethod
    def point(self, forecast: Tensor) -> Tensor:
        """The point forecast ``(B, horizon, C)``."""

    @abstractmethod
    def quantiles(self, forecast: Tensor, levels: Sequence[float]) -> Tensor:
        """Quantiles of rising ``levels``, ``(B, horizon, C, len(levels))``."""

    def rescale(self, forecast: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Forecast in the units of the truth, from the units of the window ``(x - shift) / scale``."""
        if forecast.ndim == 4:
            shift, scale = shift.unsqueeze(-1), scale.unsqueeze(-1)
        return forecast * scale + shift

    def moved(self, forecast: Tensor, by: Tensor) -> Tensor:
        """Forecast whose location is moved ``by: (B, horizon, C)``, with the spread that it has."""
        if forecast.ndim == 3:
            return forecast + by
        return torch.cat([forecast[..., :1] + by.unsqueeze(-1), forecast[..., 1:]], -1)

    def check(self, y: Tensor) -> None:
        """Raise ``DataError`` if no such distribution could have given ``y``."""
