"""Likelihoods as forecasting losses: the parameters of a distribution are forecast.

A parameter other than the location is read from its difference to the location: a model that moves and stretches all of
its outputs with the window then moves the location, and stretches the scale.
"""

from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor
from torch.distributions import NegativeBinomial, Normal, StudentT
from torch.nn import functional as F

from seqmix.errors import DataError
from seqmix.tasks._loss import Loss


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


def _wide(outputs: Tensor) -> Tensor:
    """At least float32: likelihoods have no digits to spare."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def _positive(x: Tensor) -> Tensor:
    return F.softplus(x) + 1e-3
