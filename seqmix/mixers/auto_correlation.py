"""Auto-correlation: a sum of the series shifted by its most likely periods."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.mixers.mask import mix_by_length
from seqmix.mixers.mixer import Mixer, register
from seqmix.ops.wide import wide


@register(paper="arXiv:2106.13008", cost="L log L", variants=({"factor": 3, "bias": False},))
class AutoCorrelation(Mixer):
    """Auto-correlation: a weighted sum of the values, shifted by the lags of largest correlation of queries and keys.

    ``y_t = sum_i w_i v_(t + lag_i)``, circular, over the ``factor * ln L`` lags of largest correlation of q and k,
    ``w`` the softmax of these correlations (eq. 6). Correlations are computed by FFT and averaged over channels, so
    that all channels have the same lags. With a mask each sequence is mixed at its own length, rows of equal length
    together.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D log L) time beside the projections.

    Args:
        d_model: width D.
        max_len: unused, every length works; those with small prime factors are fastest.
        factor: number of lags over ln L, 1 to 3 in the paper.
        bias: bias on all projections.

    Raises:
        ConfigError: if ``factor`` is not positive.

    Source: Wu et al., 2021, arXiv:2106.13008, sec. 3.2. Differs from the original code in: each sequence has its own
    lags in training as in evaluation, where the original in training takes lags of the mean over the batch, so that
    sequences meet; odd lengths have L lags, not L - 1; at least one lag counts; no heads, which change nothing since
    lags are the same for all of them; no dropout, which the original takes and ignores; the values are shifted by a
    product of spectra.
    """

    def __init__(self, d_model: int, max_len: int | None = None, *, factor: float = 1, bias: bool = True):
        super().__init__(d_model, max_len)
        if factor <= 0:
            raise ConfigError(f"factor = {factor} should be above 0; use 1 to 3")
        self.factor = factor
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=bias)
        self.proj = nn.Linear(d_model, d_model, bias=bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return mix_by_length(self._aggregate, x, mask)

    def matrix(self, x: Tensor) -> Tensor:
        """Circulant weights between the projections, ``(B, 1, L, L)``."""
        q, k, _ = self.qkv(x).chunk(3, -1)
        weights = _lag_weights(q, k, self.factor)  # (B, L)
        i = torch.arange(x.shape[1], device=x.device)
        return weights[:, (i - i.unsqueeze(-1)) % x.shape[1]].unsqueeze(1).to(x.dtype)

    def _aggregate(self, x: Tensor) -> Tensor:
        return self.proj(aggregate_lags(*self.qkv(x).chunk(3, -1), factor=self.factor))


def aggregate_lags(q: Tensor, k: Tensor, v: Tensor, *, factor: float) -> Tensor:
    """Weighted sum of circular shifts of ``v`` by the lags at which ``q`` and ``k`` agree most.

    Keys and values are cut to the length of the queries, or filled up with zeros.

    Shapes: ``(B, L, D), (B, S, D), (B, S, P) -> (B, L, P)``.

    Args:
        q: queries.
        k: keys.
        v: values.
        factor: number of lags over ln L.
    """
    L = q.shape[1]
    if not q.numel():
        return q.new_zeros(0, L, v.shape[-1])
    k, v = (F.pad(t, (0, 0, 0, L - t.shape[1])) for t in (k, v))
    weights = _lag_weights(q, k, factor)
    spectrum = torch.fft.rfft(wide(v), dim=1) * torch.fft.rfft(weights.unsqueeze(-1), dim=1).conj()
    return torch.fft.irfft(spectrum, n=L, dim=1).to(v.dtype)


def _lag_weights(q: Tensor, k: Tensor, factor: float) -> Tensor:
    """Softmax of the largest correlations of ``q`` and ``k: (B, L, D)`` at their lags, 0 at all others: ``(B, L)``."""
    L = q.shape[1]
    spectrum = torch.fft.rfft(wide(q), dim=1) * torch.fft.rfft(wide(k), dim=1).conj()  # (B, L // 2 + 1, D)
    correlation = torch.fft.irfft(spectrum.mean(-1), n=L)  # (B, L)
    top, lags = correlation.topk(min(L, max(1, int(factor * math.log(L)))), -1)
    return torch.zeros_like(correlation).scatter(-1, lags, top.softmax(-1))
