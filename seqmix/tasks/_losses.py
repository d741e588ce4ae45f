"""Forecasting losses by name: of points, of quantiles, and likelihoods of distributions."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_choice
from seqmix.tasks._distributions import NegativeBinomialLoss, NormalLoss, StudentTLoss
from seqmix.tasks._loss import Loss

LossName = Literal["mse", "mae", "huber", "quantile", "normal", "student_t", "negative_binomial"]
LossFactory = Callable[[], nn.Module]


def make_loss(name: LossName, module: LossFactory | None, quantiles: list[float] | None) -> Loss:
    """The loss of that name, or around a module; raises ``ConfigError`` for options that contradict each other."""
    check_choice("loss", name, (*_POINT, "quantile", *_DISTRIBUTIONS))
    if quantiles is not None and (name != "quantile" or module is not None):
        got = f"loss = {name!r}" if module is None else "a loss_module"
        raise ConfigError(f"quantiles = {quantiles} go with loss = 'quantile', got {got}; drop one of them")
    if module is not None:
        return PointLoss(_checked(module()))
    if name == "quantile":
        return QuantileLoss([0.1, 0.5, 0.9] if quantiles is None else list(quantiles))
    return _DISTRIBUTIONS[name]() if name in _DISTRIBUTIONS else PointLoss(_POINT[name](reduction="none"))


def weighted_mean(losses: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of ``losses: (B, horizon, C)`` or ``(B, horizon, C, K)``; 0 if ``weight: (B, horizon, C)`` is 0 all over."""
    if weight is None:
        return losses.mean()
    losses = losses.mean(-1) if losses.ndim == 4 else losses
    return (losses * weight).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)


class PointLoss(Loss):
    """A loss between a point forecast and the truth.

    Args:
        module: from forecast and truth to losses of the same shape.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def read(self, outputs: Tensor) -> Tensor:
        """Return it unchanged."""
        return outputs

    def score(self, forecast: Tensor, y: Tensor) -> Tensor:
        """Loss of each value, by the module."""
        return self.module(forecast, y)

    def point(self, forecast: Tensor) -> Tensor:
        """Return it unchanged."""
        return forecast

    def quantiles(self, forecast: Tensor, levels: Sequence[float]) -> Tensor:
        """Refuse: a point forecast has no quantiles."""
        raise ConfigError(
            f"a point forecast has no quantiles, got quantiles = {list(levels)}; train with loss='quantile', 'normal', "
            "'student_t' or 'negative_binomial', or put conformal intervals around it"
        )


class Smape(nn.Module):
    """Symmetric absolute percentage error ``200 |f - y| / (|f| + |y|)`` of each value; 0 where both are 0.

    Source: as a loss Oreshkin et al., 2020, arXiv:1905.10437, sec. 3.4: the denominator is a constant for the gradient,
    so that a forecast is not drawn to large values. Differs from the original code in: nothing.
    """

    def forward(self, forecast: Tensor, y: Tensor) -> Tensor:
        """Loss of each value."""
        size = forecast.detach().abs() + y.abs()
        return 200 * (forecast - y).abs() / size.masked_fill(size == 0, 1)


class QuantileLoss(Loss):
    """The pinball loss ``max(q (y - f), (q - 1) (y - f))``, a mean over the levels q.

    Args:
        levels: levels forecast, rising, 0.5 among them.

    Source: Koenker and Bassett, 1978. Differs from the original code in: nothing.
    """

    def __init__(self, levels: list[float]):
        super().__init__()
        if 0.5 not in levels or levels != sorted(set(levels)) or not all(0 < q < 1 for q in levels):
            raise ConfigError(
                f"quantiles must rise between 0 and 1 and hold 0.5, whose forecast is scored, got {levels}; "
                "use for example [0.1, 0.5, 0.9]"
            )
        self.levels, self.n_outputs = levels, len(levels)

    def read(self, outputs: Tensor) -> Tensor:
        """One quantile per output."""
        return outputs.unsqueeze(-1) if self.n_outputs == 1 else outputs

    def score(self, forecast: Tensor, y: Tensor) -> Tensor:
        """One term per level."""
        q = forecast.new_tensor(self.levels)  # (K,)
        error = y.unsqueeze(-1) - forecast  # (B, horizon, C, K)
        return torch.maximum(q * error, (q - 1) * error)

    def moved(self, forecast: Tensor, by: Tensor) -> Tensor:
        """All quantiles alike."""
        return forecast + by.unsqueeze(-1)

    def point(self, forecast: Tensor) -> Tensor:
        """The median."""
        return forecast[..., self.levels.index(0.5)]

    def quantiles(self, forecast: Tensor, levels: Sequence[float]) -> Tensor:
        """Linear between the levels that were trained."""
        if levels[0] < self.levels[0] or levels[-1] > self.levels[-1]:
            raise ConfigError(
                f"quantiles = {list(levels)} reach beyond those trained, {self.levels}; train with quantiles that hold "
                "them, or use loss='student_t'"
            )
        known, wanted = np.array(self.levels), np.array(levels)
        above = np.searchsorted(known, wanted)
        below = np.maximum(above - (known[above] != wanted), 0)
        gap = np.maximum(known[above] - known[below], np.finfo(np.float64).tiny)
        part = forecast.new_tensor(((wanted - known[below]) / gap).tolist())
        return torch.lerp(forecast[..., below.tolist()], forecast[..., above.tolist()], part)


_POINT: dict[str, Callable[..., nn.Module]] = {"mse": nn.MSELoss, "mae": nn.L1Loss, "huber": nn.HuberLoss}
_DISTRIBUTIONS: dict[str, Callable[[], Loss]] = {
    "normal": NormalLoss,
    "student_t": StudentTLoss,
    "negative_binomial": NegativeBinomialLoss,
}


def _checked(module: nn.Module) -> nn.Module:
    """The module, if it gives a loss per value: masks and weights need them apart."""
    shape = tuple(module(torch.zeros(2, 3, 1), torch.zeros(2, 3, 1)).shape)
    if shape != (2, 3, 1):
        raise ConfigError(
            f"loss {type(module).__name__} gives shape {shape} for forecasts of shape (2, 3, 1), a loss for each value "
            "is needed; build it with reduction='none'"
        )
    return module
