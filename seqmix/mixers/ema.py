"""The damped moving average of Mega."""

import torch
from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers.decay import decay_matrix, decay_mix, decay_onward, decay_state
from seqmix.mixers.mixer import Mixer, register
from seqmix.mixers.state import mix_onward
from seqmix.ops.wide import wide


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

    state_space = ("delta", "alpha", "beta", "gamma", "omega")

    def __init__(self, d_model: int, max_len: int | None = None, *, d_state: int = 16, causal: bool = True):
        super().__init__(d_model, max_len)
        check_at_least(1, d_state=d_state)
        self.causal = causal
        E = d_model if causal else 2 * d_model
        signs = torch.ones(d_state, 1)
        signs[1::2] = -1
        self.delta = nn.Parameter(0.2 * torch.randn(E, d_state, 1))
        self.alpha = nn.Parameter(0.2 * torch.randn(E, d_state, 1))
        self.beta = nn.Parameter(0.02 * torch.randn(E, d_state, 1) + signs)
        self.gamma = nn.Parameter(torch.randn(E, d_state))
        self.omega = nn.Parameter(torch.randn(d_model))

    def no_weight_decay(self) -> set[str]:
        """Return no names: the original code decays every matrix."""
        return set()

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, state: Tensor | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        if state is not None or return_state:
            return mix_onward(self, self._advance, x, mask, state, return_state)
        return decay_mix(x, mask, *self._modes(), self.omega, self.causal)

    def matrix(self, x: Tensor) -> Tensor:
        """Toeplitz matrix of each channel, ω included, that stands before the SiLU: ``(B, D, L, L)``."""
        return decay_matrix(x, *self._modes(), self.omega, self.causal)

    def init_state(self, batch_size: int) -> Tensor:
        """Zeros ``(B, D, N)``."""
        return decay_state(self, batch_size, *self._modes())

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self._advance(x.unsqueeze(1), None, state)
        return y.squeeze(1), state

    def _advance(self, x: Tensor, kept: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        return decay_onward(x, kept, state, *self._modes(), self.omega)

    def _modes(self) -> tuple[Tensor, Tensor]:
        delta, alpha, beta = (wide(p.squeeze(-1)) for p in (self.delta, self.alpha, self.beta))
        share = delta.sigmoid()
        # a saturated product would have an infinite logarithm
        forget = (share * alpha.sigmoid()).clamp(max=1 - torch.finfo(share.dtype).eps)
        log_decay = torch.log1p(-forget)
        return log_decay, share * beta * wide(self.gamma) / beta.shape[1] ** 0.5  # (E, N) twice
