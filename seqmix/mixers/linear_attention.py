"""Base of mixers on ``gated_delta``: heads with a state of outer products, short convolutions, a gated norm."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers.mixer import Mixer, zero_masked
from seqmix.mixers.norm import RMSNorm
from seqmix.mixers.ssm import dt_bias, rates
from seqmix.mixers.state import last_inputs, mix_onward, with_last
from seqmix.ops import delta_matrix, gated_delta
from seqmix.ops.packed import packed_conv1d, sequence_bounds
from seqmix.ops.wide import wide

#: what the projections keep of the past, None if nothing, and state of the heads ``(B, H, K, V)``
State = tuple[Any, Tensor]


class LinearAttention(Mixer, ABC):
    """Base of linear attention: projections to q, k and v, ``gated_delta`` on a state ``(K, V)`` of each head, a norm.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        heads: number of heads H, width of a key K, width of a value V.
        key_heads: heads of queries and keys, which divide H. Default: H.
        writes: keys and values of a position.
        d_conv: positions seen by causal convolutions of q, k and v, which SiLU follows. Default: no convolution.
        gate: multiply the normalized result by a projection of the input, after SiLU.
    """

    causal = True

    def __init__(
        self,
        d_model: int,
        max_len: int | None,
        heads: tuple[int, int, int],
        *,
        key_heads: int | None = None,
        writes: int = 1,
        d_conv: int | None = None,
        gate: bool = True,
    ):
        super().__init__(d_model, max_len)
        self.heads = heads
        (H, K, V), G = heads, key_heads or heads[0]
        self.q_proj = nn.Linear(d_model, G * K, bias=False)
        self.k_proj = nn.Linear(d_model, writes * G * K, bias=False)
        self.v_proj = nn.Linear(d_model, writes * H * V, bias=False)
        if d_conv is not None:
            self.q_conv1d, self.k_conv1d, self.v_conv1d = (
                nn.Conv1d(n, n, d_conv, groups=n, bias=False) for n in (G * K, writes * G * K, writes * H * V)
            )
        self.convolved = d_conv is not None
        self.g_proj = nn.Linear(d_model, H * V, bias=False) if gate else None
        self.o_norm = RMSNorm(V)
        self.o_proj = nn.Linear(H * V, d_model, bias=False)

    @abstractmethod
    def _operands(self, x: Tensor, bounds: list[int], past: Any, kept: Tensor | None) -> tuple[dict[str, Any], Any]:
        """Return the operands of ``gated_delta`` for ``x: (B, L, D)``, and the past that later positions need.

        ``past`` is None in a forward pass without state; ``kept: (B, L)`` marks the positions that count.
        """

    def _close(self, y: Tensor, x: Tensor, operands: dict[str, Any]) -> Tensor:
        """Normalize and gate the results of the heads, ``y: (B, L, H, V) -> (B, L, H V)``; ``x`` is the input."""
        return self.o_norm(y, None if self.g_proj is None else self.g_proj(x).view_as(y)).flatten(2)

    def _advance_heads(self, **options: Any) -> Any:
        return gated_delta(**options)

    def _project(
        self, x: Tensor, bounds: list[int], window: Tensor | None, kept: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]:
        """``q, k, v: (B, L, ·)``, convolved and after SiLU, and the window that later positions see."""
        inputs = torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], -1)
        weight = torch.cat([conv.weight.squeeze(1) for conv in (self.q_conv1d, self.k_conv1d, self.v_conv1d)])
        behind = 0
        if window is not None:
            behind, bounds = window.shape[1], [0, window.shape[1] + x.shape[1]]
            inputs = with_last(window, inputs)
        y = packed_conv1d(inputs, weight, None, bounds, padding="causal", activation="silu")[:, behind:]
        q, k, v = y.split([p.out_features for p in (self.q_proj, self.k_proj, self.v_proj)], -1)
        return (q, k, v), None if window is None else last_inputs(inputs, behind, kept)

    def _empty_past(self, batch_size: int) -> Any:
        """Past before the first position: zero inputs of the convolutions, or nothing."""
        if not self.convolved:
            return None
        width = self.q_proj.out_features + self.k_proj.out_features + self.v_proj.out_features
        return self.q_conv1d.weight.new_zeros(batch_size, self.q_conv1d.kernel_size[0] - 1, width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        state: State | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, State]:
        if state is not None or return_state:
            return mix_onward(self, self._advance, x, mask, state, return_state, cu_seqlens)
        bounds = sequence_bounds(x, cu_seqlens, mask)
        x = zero_masked(x, mask)
        operands, _ = self._operands(x, bounds, None, mask)
        y = self._advance_heads(**operands, cu_seqlens=cu_seqlens, mask=mask)
        return zero_masked(self.o_proj(self._close(y.to(x.dtype), x, operands)), mask)

    def matrix(self, x: Tensor) -> Tensor:
        """Mixing matrix of each head, between projections and norm: ``(B, H, L, L)``."""
        operands, _ = self._operands(x, [0, x.shape[1]], None, None)
        return delta_matrix(**{name: t for name, t in operands.items() if name != "v"})

    def init_state(self, batch_size: int) -> State:
        """Empty past of the projections, and zero state of the heads ``(B, H, K, V)``."""
        weight = self.o_proj.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return self._empty_past(batch_size), weight.new_zeros(batch_size, *self.heads, dtype=dtype)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self._advance(x.unsqueeze(1), None, state)
        return y.squeeze(1), state

    def _advance(self, x: Tensor, kept: Tensor | None, state: State) -> tuple[Tensor, State]:
        past, S = state
        operands, past = self._operands(x, [0, x.shape[1]], past, kept)
        y, S = self._advance_heads(**operands, initial_state=S, return_state=True, mask=kept)
        return self.o_proj(self._close(y.to(x.dtype), x, operands)), (past, S)


def unit(x: Tensor) -> Tensor:
    """``x: (..., K)`` over its norm in float32 at least; a key of zero stays zero."""
    x = wide(x)
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


def strengths(logits: Tensor, negative: bool) -> Tensor:
    """Strengths of writes from 0 to 1, or to 2 if the transition may have ``negative`` eigenvalues."""
    beta = wide(logits).sigmoid()
    return 2 * beta if negative else beta


def draw_rates(n_heads: int, slowest: float) -> nn.Parameter:
    """Logarithm of decay rates from ``slowest`` to 16 per unit of step."""
    return nn.Parameter(torch.empty(n_heads).uniform_(slowest, 16).log())


def draw_steps(width: int) -> nn.Parameter:
    """Draw values that softplus maps to steps of 0.001 to 0.1 positions."""
    return nn.Parameter(dt_bias(width, 1e-3, 0.1, 1e-4))


def log_decay(dt: Tensor, bias: Tensor, A_log: Tensor) -> Tensor:
    """``-exp(A_log) softplus(dt + bias)`` in float32 at least; rates of heads, on the last axis or before it."""
    # softplus; of its own gradient torch.compile expects other strides than it has
    return -rates(A_log) * nn.functional.logsigmoid(-wide(dt) - wide(bias))


def head_sizes(d_model: int, share: float, headdim: int | None, n_heads: int | None, published: int) -> tuple[int, int]:
    """Number of heads and width of a key, for keys ``share`` as wide as the model in heads of ``published``.

    Raises:
        ConfigError: if sizes are below 1.
    """
    check_at_least(1, headdim=headdim, n_heads=n_heads)
    width = max(1, round(share * d_model))
    headdim = headdim or min(published, width)
    return n_heads or max(1, width // headdim), headdim


def divide(name: str, width: float, n_heads: int) -> int:
    """Width of each of so many heads.

    Raises:
        ConfigError: if they do not divide the ``width`` called ``name``.
    """
    if width < 1 or width % n_heads:
        raise ConfigError(f"{name} = {width:g} does not divide into {n_heads} heads; use n_heads=1, or another d_model")
    return int(width) // n_heads


def value_heads(n_heads: int, n_v_heads: int | None) -> int:
    """Number of heads of values, by default as many as of keys.

    Raises:
        ConfigError: if it is below 1 or not a multiple of ``n_heads``.
    """
    check_at_least(1, n_v_heads=n_v_heads)
    if n_v_heads is not None and n_v_heads % n_heads:
        raise ConfigError(f"n_v_heads = {n_v_heads} is not a multiple of n_heads = {n_heads}; use n_v_heads={n_heads}")
    return n_v_heads or n_heads
