"""S4D: a diagonal state space model."""

import math

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError
from seqmix.mixers.decay import decay_matrix, decay_mix, decay_onward, decay_state
from seqmix.mixers.mixer import Mixer, register
from seqmix.mixers.ssm import check_steps
from seqmix.mixers.state import mix_onward
from seqmix.ops.wide import wide


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

    state_space = ("log_dt", "log_A_real", "A_imag", "C", "D")

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
        super().__init__(d_model, max_len)
        if d_state < 2 or d_state % 2:
            raise ConfigError(f"d_state = {d_state} does not make complex modes; use a positive even number")
        check_steps(dt_min, dt_max)
        self.causal = causal
        E, N = d_model if causal else 2 * d_model, d_state // 2
        self.log_dt = nn.Parameter(torch.empty(E).uniform_(math.log(dt_min), math.log(dt_max)))
        self.log_A_real = nn.Parameter(torch.full((E, N), 0.5).log())
        self.A_imag = nn.Parameter(math.pi * torch.arange(N).repeat(E, 1).float())
        self.C = nn.Parameter(torch.randn(E, N, 2) / 2**0.5)
        self.D = nn.Parameter(torch.randn(d_model))

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, state: Tensor | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        if state is not None or return_state:
            return mix_onward(self, self._advance, x, mask, state, return_state)
        return decay_mix(x, mask, *self._modes(), self.D, self.causal)

    def matrix(self, x: Tensor) -> Tensor:
        """Toeplitz matrix of each channel, D included, that stands before the SiLU: ``(B, D, L, L)``."""
        return decay_matrix(x, *self._modes(), self.D, self.causal)

    def init_state(self, batch_size: int) -> Tensor:
        """Zeros ``(B, D, N / 2)``, complex."""
        return decay_state(self, batch_size, *self._modes())

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self._advance(x.unsqueeze(1), None, state)
        return y.squeeze(1), state

    def _advance(self, x: Tensor, kept: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        return decay_onward(x, kept, state, *self._modes(), self.D)

    def _modes(self) -> tuple[Tensor, Tensor]:
        A = torch.complex(-wide(self.log_A_real).exp(), wide(self.A_imag))  # (E, N / 2)
        log_decay = A * wide(self.log_dt).exp().unsqueeze(1)
        C = torch.view_as_complex(wide(self.C).contiguous())
        return log_decay, 2 * C * (log_decay.exp() - 1) / A
