"""Forecasting losses, with the conversion of model outputs to points, quantiles or distribution parameters.

A parameter other than the location is read from its difference to the location: a model that moves and stretches all of
its outputs with the window then moves the location, and stretches the scale.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import NegativeBinomial, Normal, StudentT
from torch.nn import functional as F

from seqmix.errors import ConfigError, DataError, check_choice

LossName = Literal["mse", "mae", "huber", "quantile", "normal", "student_t", "negative_binomial"]
LossFactory = Callable[[], nn.Module]


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


class NormalLoss(Loss):
    """Negative log-likelihood of a normal distribution: location, scale.

    Source: Salinas et al., 2017, arXiv:1704.04110, eq. 3. Differs from the original code in: the scale is
    ``softplus(o_1 - o_0)``, at least 0.001 of the window's unit.
    """

    n_outputs = 2

    def read(self, outputs: Tensor) -> Tensor:
        """Location and scale."""
        location, scale = _wide(outputs).unbind(-1)
        return torch.stack([location, _positive(scale - location)], -1)

    def rescale(self, forecast: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Both move with the window."""
        location, spread = forecast.unbind(-1)
        return torch.stack([location * scale + shift, spread * scale], -1)

    def score(self, forecast: Tensor, y: Tensor) -> Tensor:
        """Negative log-likelihood."""
        return -Normal(*forecast.unbind(-1), validate_args=False).log_prob(y)

    def point(self, forecast: Tensor) -> Tensor:
        """The mean."""
        return forecast[..., 0]

    def quantiles(self, forecast: Tensor, levels: Sequence[float]) -> Tensor:
        """Exact."""
        location, scale = forecast.unsqueeze(-2).unbind(-1)
        return location + scale * forecast.new_tensor([NormalDist().inv_cdf(level) for level in levels])


class StudentTLoss(Loss):
    """Negative log-likelihood of Student's t: location, scale, degrees of freedom over 2, so that there is a variance.

    Source: Salinas et al., 2017, arXiv:1704.04110, sec. 3.1, with another likelihood. Differs from the original code
    in: scale and degrees of freedom are ``softplus(o_k - o_0)``, the scale at least 0.001 of the window's unit.
    """

    n_outputs = 3
    exportable = False

    def read(self, outputs: Tensor) -> Tensor:
        """Location, scale and degrees of freedom."""
        location, scale, df = _wide(outputs).unbind(-1)
        return torch.stack([location, _positive(scale - location), 2 + _positive(df - location)], -1)

    def rescale(self, forecast: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Location and scale move with the window, degrees of freedom do not."""
        location, spread, df = forecast.unbind(-1)
        return torch.stack([location * scale + shift, spread * scale, df], -1)

    def score(self, forecast: Tensor, y: Tensor) -> Tensor:
        """Negative log-likelihood."""
        location, scale, df = forecast.unbind(-1)
        return -StudentT(df, location, scale, validate_args=False).log_prob(y)

    def point(self, forecast: Tensor) -> Tensor:
        """The mean, which is the median."""
        return forecast[..., 0]

    def quantiles(self, forecast: Tensor, levels: Sequence[float]) -> Tensor:
        """Exact."""
        from scipy.special import stdtrit

        location, scale, df = forecast.double().cpu().unsqueeze(-2).unbind(-1)
        return (location + scale * torch.from_numpy(stdtrit(df.numpy(), list(levels)))).to(forecast)


class NegativeBinomialLoss(Loss):
    """Negative log-likelihood of counts with mean m and variance ``m + a m^2``: mean m, dispersion a.

    The window is divided by ``v = 1 + mean(x)``; then ``m = v softplus(o_0)``, ``a = softplus(o_1 - o_0) / sqrt(v)``.

    Source: Salinas et al., 2017, arXiv:1704.04110, sec. 3.1 and 3.3. Differs from the original code in: the dispersion
    is read from a difference.
    """

    n_outputs = 2
    counts = True
    exportable = False

    def read(self, outputs: Tensor) -> Tensor:
        """Mean and dispersion."""
        mean, dispersion = _wide(outputs).unbind(-1)
        return torch.stack([F.softplus(mean) + 1e-6, F.softplus(dispersion - mean) + 1e-6], -1)

    def rescale(self, forecast: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """The mean grows with the window, the dispersion shrinks with its root."""
        mean, dispersion = forecast.unbind(-1)
        return torch.stack([mean * scale, dispersion / scale.sqrt()], -1)

    def score(self, forecast: Tensor, y: Tensor) -> Tensor:
        """Negative log-likelihood."""
        # differences of log-gammas of large counts need the digits
        mean, dispersion = forecast.double().unbind(-1)
        law = NegativeBinomial(1 / dispersion, logits=(mean * dispersion).log(), validate_args=False)
        return -law.log_prob(y.double()).to(y.dtype)

    def point(self, forecast: Tensor) -> Tensor:
        """The mean."""
        return forecast[..., 0]

    def quantiles(self, forecast: Tensor, levels: Sequence[float]) -> Tensor:
        """Exact, whole numbers."""
        from scipy.stats import nbinom

        mean, dispersion = forecast.double().cpu().unsqueeze(-2).unbind(-1)
        counts = nbinom.ppf(list(levels), (1 / dispersion).numpy(), (1 / (1 + mean * dispersion)).numpy())
        return torch.from_numpy(counts).to(forecast)

    def check(self, y: Tensor) -> None:
        """Counts are whole and not negative."""
        odd = y[(y < 0) | (y != y.round())]
        if len(odd):
            raise DataError(
                f"loss = 'negative_binomial' is for counts, got {float(odd[0]):.6g}; leave the data unscaled, or use "
                "loss='student_t'"
            )


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


def _wide(outputs: Tensor) -> Tensor:
    """At least float32: likelihoods have no digits to spare."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def _positive(x: Tensor) -> Tensor:
    return F.softplus(x) + 1e-3
