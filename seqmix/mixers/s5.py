"""S5: a multi-input, multi-output diagonal state space model."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least, check_choice
from seqmix.mixers.diagonal import complex_pair, diagonal_state, diagonal_system
from seqmix.mixers.mixer import Mixer, register, zero_masked
from seqmix.mixers.ssm import check_steps
from seqmix.ops.wide import wide

Activation = Literal["none", "gelu", "full_glu", "half_glu1", "half_glu2"]


@register(
    paper="arXiv:2208.04933",
    cost="L",
    variants=(
        {"causal": False, "discretization": "bilinear", "activation": "full_glu"},
        {"n_blocks": 1, "activation": "half_glu2", "clip_eigs": True},
        {"activation": "gelu"},
    ),
    d_state=8,
    n_blocks=2,
)
class S5(Mixer):
    """Simplified state space layer: one system for all channels.

    ``h[t] = A_bar h[t-1] + B_bar x[t]``, ``y = f(2 Re(C h) + D x)``, A diagonal and complex, starting at the
    eigenvalues of the normal part of HiPPO-LegS in ``n_blocks`` blocks, each mode with a step size of its own.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D N) time, O(L (D + N)) memory.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        d_state: real state size N, that is N / 2 pairs of complex modes.
        n_blocks: blocks of HiPPO matrices at initialization.
        discretization: ``"zoh"`` (zero-order hold) or ``"bilinear"``.
        clip_eigs: keep the real parts of A below -1e-4, for sequences without end.
        dt_min: smallest step at initialization, in units of one position.
        dt_max: largest step at initialization, in units of one position.
        activation: f, ``"none"``, ``"gelu"``, or a gate: ``"half_glu1"`` is ``g o sigmoid(W g)`` with ``g = GELU(y)``,
            ``"half_glu2"`` is ``y o sigmoid(W g)``, ``"full_glu"`` is ``V g o sigmoid(W g)``.
        causal: see earlier positions only; otherwise states from both ends meet, each with an output map of its own.

    Raises:
        ConfigError: if the blocks do not divide the modes, or an option is not known.

    Source: Smith et al., 2023, arXiv:2208.04933, and lindermanlab/S5. Differs from the original code in: conjugate
    symmetry always; B and C drawn from the truncated normal distribution; masks and packed sequences.
    """

    state_space = ("Lambda_re", "Lambda_im", "log_step", "B")

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        d_state: int = 256,
        n_blocks: int = 8,
        discretization: Literal["zoh", "bilinear"] = "zoh",
        clip_eigs: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        activation: Activation = "half_glu1",
        causal: bool = True,
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, d_state=d_state, n_blocks=n_blocks)
        check_steps(dt_min, dt_max)
        check_choice("discretization", discretization, ("zoh", "bilinear"))
        check_choice("activation", activation, ("none", "gelu", "full_glu", "half_glu1", "half_glu2"))
        if d_state % (2 * n_blocks):
            raise ConfigError(
                f"d_state = {d_state} does not make complex modes in n_blocks = {n_blocks}; use a multiple of "
                f"{2 * n_blocks}"
            )
        self.causal, self.activation = causal, activation
        self.discretization, self.clip_eigs = discretization, clip_eigs
        N = d_state // 2
        Lambda, V = _hippo_modes(d_state // n_blocks)
        self.Lambda_re = nn.Parameter(Lambda.real.float().repeat(n_blocks))
        self.Lambda_im = nn.Parameter(Lambda.imag.float().repeat(n_blocks))
        self.log_step = nn.Parameter(torch.empty(N).uniform_(math.log(dt_min), math.log(dt_max)))
        V = V.to(torch.complex64)  # (N', N' / 2) for a block of size N'
        drawn = _truncated(n_blocks, len(V), d_model, fan_in=d_state)
        self.B = nn.Parameter(torch.view_as_real(V.mH @ drawn.to(V.dtype)).flatten(0, 1))  # (N, D, 2)
        ways = 1 if causal else 2
        drawn = torch.complex(*_truncated(2, ways, n_blocks, d_model, len(V), fan_in=d_state))
        C = (drawn @ V).permute(2, 0, 1, 3)  # (D, ways, blocks, N' / 2)
        self.C = nn.Parameter(torch.view_as_real(C.reshape(d_model, ways * N)))
        self.D = nn.Parameter(torch.randn(d_model))
        self.out1 = nn.Linear(d_model, d_model) if activation == "full_glu" else None
        self.out2 = nn.Linear(d_model, d_model) if "glu" in activation else None
        for linear in (self.out1, self.out2):
            if linear is not None:
                linear.weight = nn.Parameter(_truncated(d_model, d_model, fan_in=d_model))
                nn.init.zeros_(linear.bias)

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
        decay, B, C = self._system()
        y, last = diagonal_system(
            zero_masked(x, mask),
            decay,
            B,
            C,
            self.D,
            causal=self.causal,
            mask=mask,
            cu_seqlens=cu_seqlens,
            state=state,
        )
        y = zero_masked(self._activate(y), mask)
        return (y, last) if return_state else y

    def init_state(self, batch_size: int) -> Tensor:
        """Zeros ``(B, N / 2)``, complex."""
        return diagonal_state(self, batch_size, self._system()[0])

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self(x.unsqueeze(1), state=state, return_state=True)
        return y.squeeze(1), state

    def _system(self) -> tuple[Tensor, Tensor, Tensor]:
        """The discrete system: eigenvalues ``(N / 2,)``, input map and output map, which counts both conjugates."""
        real = wide(self.Lambda_re)
        A = torch.complex(real.clamp(max=-1e-4) if self.clip_eigs else real, wide(self.Lambda_im))
        step, B = wide(self.log_step).exp(), complex_pair(self.B)
        if self.discretization == "zoh":
            decay = (A * step).exp()
            gain = (decay - 1) / A
        else:
            inverse = 1 / (1 - step / 2 * A)
            decay, gain = inverse * (1 + step / 2 * A), inverse * step
        return decay, gain.unsqueeze(1) * B, 2 * complex_pair(self.C)

    def _activate(self, y: Tensor) -> Tensor:
        if self.activation == "none":
            return y
        # as in the original code, by the tangent
        g = F.gelu(y, approximate="tanh")
        if self.out2 is None:
            return g
        gate = self.out2(g).sigmoid()
        if self.out1 is not None:
            return self.out1(g) * gate
        return (g if self.activation == "half_glu1" else y) * gate


def _hippo_modes(size: int) -> tuple[Tensor, Tensor]:
    """Of the normal part of HiPPO-LegS the eigenvalues below the real axis and their vectors ``(size, size / 2)``."""
    # on the CPU also while a module is made on the meta device
    n = torch.arange(size, dtype=torch.float64, device="cpu")
    root, P = (1 + 2 * n).sqrt(), (n + 0.5).sqrt()
    normal = torch.outer(P, P) - torch.outer(root, root).tril() + torch.diag(n)
    imaginary, V = torch.linalg.eigh(normal * -1j)
    # ascending: the second half are the conjugates
    half = imaginary[: size // 2]
    return torch.complex(torch.full_like(half, -0.5), half), V[:, : size // 2]


def _truncated(*shape: int, fan_in: int) -> Tensor:
    """Normal numbers of variance ``1 / fan_in``, cut off at two standard deviations."""
    # the standard deviation of a truncated normal is smaller by this factor
    std = fan_in**-0.5 / 0.87962566103423978
    return nn.init.trunc_normal_(torch.empty(shape), std=std, a=-2 * std, b=2 * std)
