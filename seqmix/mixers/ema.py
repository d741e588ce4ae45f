"""Sums of decaying modes per channel: the damped moving average of Mega, and S4D; one chunked scan computes both."""

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from seqmix.errors import ConfigError
from seqmix.mixers.mixer import Mixer, register, zero_masked
from seqmix.ops.wide import wide

# positions summed by one product; longer reaches go through the state, so that cost is linear in the length
_CHUNK = 64


@register(paper="arXiv:2209.10655", cost="L", variants=({"causal": False},))
class EMA(Mixer):
    """Multi-dimensional damped exponential moving average of Mega.

    ``h[t] = (α β) x[t] + (1 - α δ) h[t-1]`` with N dimensions per channel, ``y = SiLU(N^-1/2 Σ_n γ_n h_n + ω x)``
    (eq. 4); α and δ in (0, 1). Both directions have parameters of their own and both take x[t].

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D N) time, O(L D) memory.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        d_state: dimensions per channel N, 16 in the paper.
        causal: average earlier positions only; otherwise both directions are summed.

    Raises:
        ConfigError: if ``d_state`` is below 1.

    Source: Ma et al., 2022, arXiv:2209.10655, sec. 3.1. Differs from the original code in: a scan over chunks instead
    of a Fourier transform, exactly causal; no truncation of the kernel. Names are the original ones, where ``delta``
    holds α and ``alpha`` holds δ.
    """

    def __init__(self, d_model: int, max_len: int | None = None, *, d_state: int = 16, causal: bool = True):
        super().__init__()
        if d_state < 1:
            raise ConfigError(f"d_state = {d_state} leaves nothing to average; use 1 or more")
        self.causal = causal
        E = d_model if causal else 2 * d_model
        signs = torch.ones(d_state, 1)
        signs[1::2] = -1
        self.delta = nn.Parameter(0.2 * torch.randn(E, d_state, 1))
        self.alpha = nn.Parameter(0.2 * torch.randn(E, d_state, 1))
        self.beta = nn.Parameter(0.02 * torch.randn(E, d_state, 1) + signs)
        self.gamma = nn.Parameter(torch.randn(E, d_state))
        self.omega = nn.Parameter(torch.randn(d_model))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Average ``x: (B, L, D)`` along L."""
        return _mix(x, mask, *self._modes(), self.omega, self.causal)

    def matrix(self, x: Tensor) -> Tensor:
        """Toeplitz matrix of each channel, ω included, that stands before the SiLU: ``(B, D, L, L)``."""
        return _matrix(x, *self._modes(), self.omega, self.causal)

    def init_state(self, batch_size: int) -> Tensor:
        """Zeros ``(B, D, N)``."""
        return _init_state(self, batch_size, *self._modes())

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by one position ``x: (B, D)``."""
        return _step(x, state, *self._modes(), self.omega)

    def _modes(self) -> tuple[Tensor, Tensor]:
        delta, alpha, beta = (wide(p.squeeze(-1)) for p in (self.delta, self.alpha, self.beta))
        share = delta.sigmoid()
        # a saturated product would forget all at once, and its logarithm be infinite
        forget = (share * alpha.sigmoid()).clamp(max=1 - torch.finfo(share.dtype).eps)
        log_decay = torch.log1p(-forget)
        return log_decay, share * beta * wide(self.gamma) / beta.shape[1] ** 0.5  # (E, N) twice


@register(paper="arXiv:2206.11893", cost="L", variants=({"causal": False},))
class S4D(Mixer):
    """Diagonal state space model with complex modes.

    ``y = SiLU(k * x + D x)``, ``k[t] = 2 Re Σ_n C_n (exp(Δ A_n) - 1) / A_n exp(Δ A_n t)``, zero-order hold (eq. 5),
    ``A_n = -exp(a_n) + i ω_n`` starting at ``-1/2 + i π n`` (S4D-Lin).

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D N) time, O(L D) memory.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        d_state: real state size per channel N, that is N / 2 complex modes.
        causal: see earlier positions only; otherwise both directions are summed, with parameters of their own.
        dt_min: smallest step Δ at initialization, in units of one position.
        dt_max: largest step Δ at initialization, in units of one position.

    Raises:
        ConfigError: if ``d_state`` is not a positive even number, or not ``0 < dt_min <= dt_max``.

    Source: Gu et al., 2022, arXiv:2206.11893, sec. 4. Differs from the original code in: SiLU instead of GELU and an
    output projection; both directions have modes of their own, where the original shares A and Δ.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        d_state: int = 64,
        causal: bool = True,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
    ):
        super().__init__()
        if d_state < 2 or d_state % 2:
            raise ConfigError(f"d_state = {d_state} does not make complex modes; use a positive even number")
        if not 0 < dt_min <= dt_max:
            raise ConfigError(f"dt_min = {dt_min} and dt_max = {dt_max} are not 0 < dt_min <= dt_max; change them")
        self.causal = causal
        E, N = d_model if causal else 2 * d_model, d_state // 2
        self.log_dt = nn.Parameter(torch.empty(E).uniform_(math.log(dt_min), math.log(dt_max)))
        self.log_A_real = nn.Parameter(torch.full((E, N), 0.5).log())
        self.A_imag = nn.Parameter(math.pi * torch.arange(N).repeat(E, 1).float())
        self.C = nn.Parameter(torch.randn(E, N, 2) / 2**0.5)
        self.D = nn.Parameter(torch.randn(d_model))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Filter ``x: (B, L, D)`` along L."""
        return _mix(x, mask, *self._modes(), self.D, self.causal)

    def matrix(self, x: Tensor) -> Tensor:
        """Toeplitz matrix of each channel, D included, that stands before the SiLU: ``(B, D, L, L)``."""
        return _matrix(x, *self._modes(), self.D, self.causal)

    def init_state(self, batch_size: int) -> Tensor:
        """Zeros ``(B, D, N / 2)``, complex."""
        return _init_state(self, batch_size, *self._modes())

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by one position ``x: (B, D)``."""
        return _step(x, state, *self._modes(), self.D)

    def _modes(self) -> tuple[Tensor, Tensor]:
        A = torch.complex(-wide(self.log_A_real).exp(), wide(self.A_imag))  # (E, N / 2)
        log_decay = A * wide(self.log_dt).exp().unsqueeze(1)
        C = torch.view_as_complex(wide(self.C).contiguous())
        return log_decay, 2 * C * (log_decay.exp() - 1) / A


def decay_kernel(log_decay: Tensor, weight: Tensor, length: int) -> Tensor:
    """``k[t] = Re Σ_n weight_n exp(t log_decay_n)`` for t = 0, ..., length - 1: ``(D, N), (D, N) -> (D, length)``."""
    t = torch.arange(length, device=weight.device)
    return torch.einsum("dn,dnt->dt", weight, (log_decay.unsqueeze(-1) * t).exp()).real


def decay_scan(x: Tensor, log_decay: Tensor, weight: Tensor) -> Tensor:
    """Causal convolution of ``x: (B, L, D)`` with ``decay_kernel``, in chunks that hand a state on.

    Cost: O(L D (N + chunk)) time, O(L D (1 + N / chunk)) memory.
    """
    B, L, D = x.shape
    C = min(_CHUNK, L)
    if L % C:
        x = nn.functional.pad(x, (0, 0, 0, -L % C))
    # a transpose of two axes keeps to the cache, one of three would not
    x = x.flatten(0, 1).t().contiguous().view(D, -1, C)  # (D, B n, C)
    t = torch.arange(C, device=x.device)
    lag = t - t.unsqueeze(1)  # (C, C), from row to column
    # what lies before the present has to be an exact zero
    inside = decay_kernel(log_decay, weight, C)[:, lag.clamp(min=0)].triu()  # (D, C, C)
    if L <= C:
        return _transpose(x @ inside, B)
    powers = (log_decay.unsqueeze(-1) * t).exp()  # (D, N, C)
    gains = x.to(powers.dtype) @ powers.flip(-1).mT  # (D, B n, N)
    over_chunk = (log_decay * C).exp().unsqueeze(1)
    state = torch.zeros_like(gains[:, :B])
    states = []
    for gain in rearrange(gains, "d (b n) m -> n d b m", b=B).contiguous().unbind():
        states.append(state)
        state = over_chunk * state + gain
    reach = weight.unsqueeze(-1) * powers * log_decay.exp().unsqueeze(-1)  # (D, N, C)
    far = rearrange(states, "n d b m -> d (b n) m") @ reach
    return _transpose(x @ inside + far.real, B)[:, :L]


def _transpose(y: Tensor, B: int) -> Tensor:
    """``(D, B n, C) -> (B, n C, D)``."""
    return y.flatten(1).t().contiguous().unflatten(0, (B, -1))


def _mix(x: Tensor, mask: Tensor | None, log_decay: Tensor, weight: Tensor, skip: Tensor, causal: bool) -> Tensor:
    x = zero_masked(x, mask)
    u = wide(x)
    with torch.autocast(x.device.type, enabled=False):
        if causal:
            y = decay_scan(u, log_decay, weight)
        else:
            ahead, back = decay_scan(torch.cat([u, u.flip(1)], -1), log_decay, weight).chunk(2, -1)
            y = ahead + back.flip(1)
        y = nn.functional.silu(torch.addcmul(y, wide(skip), u))
    return zero_masked(y.to(x.dtype), mask)


def _matrix(x: Tensor, log_decay: Tensor, weight: Tensor, skip: Tensor, causal: bool) -> Tensor:
    B, L, D = x.shape
    kernel = decay_kernel(log_decay, weight, L)
    t = torch.arange(L, device=x.device)
    lag = t.unsqueeze(1) - t
    M = kernel[:D, lag.clamp(min=0)].tril() + torch.diag_embed(wide(skip).unsqueeze(1).expand(D, L))  # (D, L, L)
    if not causal:
        M = M + kernel[D:, (-lag).clamp(min=0)].triu()
    return M.to(x.dtype).expand(B, D, L, L)


def _init_state(mixer: Mixer, batch_size: int, log_decay: Tensor, weight: Tensor) -> Tensor:
    if not mixer.causal:
        raise TypeError(f"{type(mixer).__name__} has no step() in both directions; build it with causal=True")
    return weight.new_zeros(batch_size, *weight.shape)


def _step(x: Tensor, state: Tensor, log_decay: Tensor, weight: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
    u = wide(x)
    state = log_decay.exp() * state + u.unsqueeze(-1)  # (B, D, N)
    y = (weight * state).sum(-1).real + wide(skip) * u
    return nn.functional.silu(y).to(x.dtype), state
