"""The Vandermonde matrix mixer: powers of numbers on the unit circle."""

import math

import torch
from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers.mixer import register, require_max_len
from seqmix.mixers.structured import (
    StructuredMixer,
    add_identity,
    apply,
    count_heads,
    split_pair,
)
from seqmix.ops.wide import wide


@register(paper="arXiv:2407.09941", cost="L^2", variants=({"data_dependent": False},), headdim=4, qk_dim=3)
class Vandermonde(StructuredMixer):
    """Vandermonde matrix mixer: row i holds powers of a number on the unit circle, and so does column j.

    Data-dependent ``M_ij = sum_d cos(2 pi e q_id j) - cos(2 pi e k_jd i)`` with e = 1e-3, free
    ``M_ij = sum_d cos(2 pi q_id j) + cos(2 pi k_jd i)``; ``y = x + M x / sqrt(2 max_len qk_dim)``.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L^2 (D + H qk_dim)) time, O(L^1.5 H qk_dim + L^2 H) memory.

    Args:
        d_model: width D.
        max_len: longest sequence; sets the scale, and the number of free angles.
        headdim: width of a head P. Default: D.
        data_dependent: angles from the tokens; otherwise free parameters. With angles from the tokens sequences longer
            than ``max_len`` work too.
        qk_dim: terms of the sum d per head.
        project: own the projection to the angles; False inside ``MatrixMixer``.

    Raises:
        ConfigError: if ``max_len`` is missing or ``d_model`` is not a multiple of ``headdim``.

    Source: Hwang et al., 2024, arXiv:2407.09941, app. E. Differs from the original code in: the cosines are factored by
    angle addition, not stored for every term; free angles start uniform in (0, 1 / max_len), since at the zeros of the
    original their gradients vanish, and mix positions, where the original multiplies row sums. What the released block
    runs as data-independent Vandermonde is ``DFT``.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        headdim: int | None = None,
        data_dependent: bool = True,
        qk_dim: int = 16,
        project: bool = True,
    ):
        check_at_least(1, headdim=headdim, qk_dim=qk_dim)
        size = require_max_len(self, max_len, "a scale and angles for max_len positions")
        H = count_heads(d_model, headdim or d_model)
        super().__init__(
            d_model,
            headdim or d_model,
            project=project,
            n_convolved=2 * H * qk_dim if data_dependent else 0,
            activated=False,
            max_len=None if data_dependent else size,
        )
        self.scale = 1 / math.sqrt(2 * size * qk_dim)
        q, k = (None if data_dependent else nn.Parameter(torch.rand(H, qk_dim, size) / size) for _ in range(2))
        self.q_bias, self.k_bias = q, k  # (H, d, max_len)

    def _multiply(self, v: Tensor, features: Tensor, kept: Tensor | None) -> Tensor:
        return v + self.scale * apply(self._mixing(features, v.shape[1]), v)

    def _matrix(self, x: Tensor, features: Tensor) -> Tensor:
        return add_identity(self._mixing(features, x.shape[1]), self.scale)

    def _mixing(self, features: Tensor, L: int) -> Tensor:
        if self.q_bias is not None and self.k_bias is not None:
            q, k = (angles[..., :L].transpose(1, 2).unsqueeze(0) for angles in (self.q_bias, self.k_bias))
            return _cosines(q) + _cosines(k).transpose(-1, -2)
        q, k = (angles.transpose(1, 2) for angles in split_pair(features, self.n_heads))  # (B, H, L, d)
        # the factor 1e-3 slows the rotation, so that training starts stable
        return _cosines(1e-3 * wide(q)) - _cosines(1e-3 * wide(k)).transpose(-1, -2)


def _cosines(angle: Tensor) -> Tensor:
    """``sum_d cos(2 pi angle_id j)`` for ``angle: (B, H, L, d)`` as ``(B, H, L, L)``.

    With ``j = m J + r`` the addition theorem makes it one product of two factors with sqrt(L) columns for each row i.
    """
    L = angle.shape[2]
    # a symbolic length has no square root
    m = L if isinstance(L, torch.SymInt) else math.isqrt(L - 1) + 1
    turn = 2 * math.pi * angle.unsqueeze(-1)  # (B, H, L, d, 1)
    steps = torch.arange(m, dtype=angle.dtype, device=angle.device)
    fine, coarse = turn * steps, turn * (m * steps[: -(-L // m)])
    left = torch.cat([coarse.cos(), -coarse.sin()], -2)  # (B, H, L, 2d, L/m)
    right = torch.cat([fine.cos(), fine.sin()], -2)  # (B, H, L, 2d, m)
    return (left.transpose(-1, -2) @ right).flatten(-2)[..., :L]
