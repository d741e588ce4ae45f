"""LRU: the linear recurrent unit."""

import math

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers.diagonal import complex_pair, diagonal_state, diagonal_system
from seqmix.mixers.mixer import Mixer, register, zero_masked
from seqmix.ops.wide import wide


@register(paper="arXiv:2303.06349", cost="L", variants=({"causal": False, "r_min": 0.9, "max_phase": 0.3},), d_state=4)
class LRU(Mixer):
    """Linear recurrent unit: a complex diagonal recurrence with a stable exponential parameterization.

    ``h[t] = lambda h[t-1] + gamma B x[t]``, ``y[t] = Re(C h[t]) + D x[t]``, ``lambda = exp(-exp(nu) + i exp(theta))``,
    gamma starting at ``sqrt(1 - |lambda|^2)`` (sec. 3.4). It is linear: the nonlinearity is left to the channel mixer.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D N) time, O(L (D + N)) memory.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        d_state: complex states N.
        r_min: smallest ``|lambda|`` at initialization.
        r_max: largest ``|lambda|`` at initialization.
        max_phase: largest phase of lambda at initialization, in radians per position.
        causal: see earlier positions only; otherwise states from both ends meet, each with an output map of its own.

    Raises:
        ConfigError: if not ``0 <= r_min < r_max <= 1``, or ``max_phase`` is not above 0.

    Source: Orvieto et al., 2023, arXiv:2303.06349, fig. 1 and appendix A. No code was published: this follows the
    listing of the paper, from which it differs in masks, packed sequences and both directions.
    """

    state_space = ("nu_log", "theta_log", "gamma_log", "B")

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        d_state: int = 64,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        causal: bool = True,
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, d_state=d_state)
        if not 0 <= r_min < r_max <= 1 or max_phase <= 0:
            raise ConfigError(
                f"r_min = {r_min}, r_max = {r_max} and max_phase = {max_phase} are not 0 <= r_min < r_max <= 1 and a "
                "phase above 0; use r_min=0.9, r_max=0.999 for long memories"
            )
        self.causal, N = causal, d_state
        # uniform by area in the ring, excluding its ends, whose logarithms are infinite
        squares = torch.empty(N).uniform_(r_min**2, r_max**2).clamp(1e-12, 1 - 1e-6)
        self.nu_log = nn.Parameter((-squares.log() / 2).log())
        self.theta_log = nn.Parameter((max_phase * torch.rand(N).clamp(min=1e-6)).log())
        self.gamma_log = nn.Parameter((1 - squares).log() / 2)
        self.B = nn.Parameter(torch.randn(N, d_model, 2) * (2 * d_model) ** -0.5)
        self.C = nn.Parameter(torch.randn(d_model, N if causal else 2 * N, 2) * N**-0.5)
        self.D = nn.Parameter(torch.randn(d_model))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        state: Tensor | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        if return_state if state is None else not self.causal:
            state = self.init_state(x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1)
        decay, B = self._modes()
        y, last = diagonal_system(
            zero_masked(x, mask),
            decay,
            B,
            complex_pair(self.C),
            self.D,
            causal=self.causal,
            mask=mask,
            cu_seqlens=cu_seqlens,
            state=state,
        )
        y = zero_masked(y, mask)
        return (y, last) if return_state else y

    def init_state(self, batch_size: int) -> Tensor:
        """Zeros ``(B, N)``, complex."""
        return diagonal_state(self, batch_size, self._modes()[0])

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self(x.unsqueeze(1), state=state, return_state=True)
        return y.squeeze(1), state

    def _modes(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues ``(N,)`` and the scaled input map ``(N, D)``."""
        decay = torch.complex(-wide(self.nu_log).exp(), wide(self.theta_log).exp()).exp()
        return decay, complex_pair(self.B) * wide(self.gamma_log).exp().unsqueeze(1)
