"""Softmax attention as a matrix mixer."""

import math

import torch
from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers.mixer import register, require_max_len
from seqmix.mixers.structured import (
    StructuredMixer,
    add_identity,
    count_heads,
    free_pair,
    pair,
)


@register(paper="arXiv:2407.09941", cost="L^2", variants=({"data_dependent": False},), headdim=4, qk_dim=3)
class Softmax(StructuredMixer):
    """Softmax attention as a matrix mixer.

    ``M_ij = softmax_j(q_i^T k_j / sqrt(qk_dim))``, ``y = x + M x``.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L^2 (D + H qk_dim)) time, O(L^2 H) memory where the kernel needs it.

    Args:
        d_model: width D.
        max_len: longest sequence for free queries and keys; else unused.
        headdim: width of a head P. Default: D.
        data_dependent: queries and keys from the tokens; otherwise free parameters, one per position.
        qk_dim: width of queries and keys d per head.
        project: own the projection to queries and keys; False inside ``MatrixMixer``.

    Raises:
        ConfigError: if ``max_len`` is needed and missing, or ``d_model`` is not a multiple of ``headdim``.

    Source: Hwang et al., 2024, arXiv:2407.09941, app. E. Differs from the original code in: the data-independent form
    works, there it raises; shorter sequences are accepted.
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
        check_at_least(1, max_len=max_len, headdim=headdim, qk_dim=qk_dim)
        free = 0 if data_dependent else require_max_len(self, max_len, "a query and a key per position")
        H = count_heads(d_model, headdim or d_model)
        super().__init__(
            d_model,
            headdim or d_model,
            project=project,
            n_convolved=2 * H * qk_dim if data_dependent else 0,
            activated=False,
            max_len=free or None,
        )
        self.q_matrix, self.k_matrix = free_pair(free, H, qk_dim) if free else (None, None)  # (max_len, H, d)

    def _multiply(self, v: Tensor, features: Tensor, kept: Tensor | None) -> Tensor:
        q, k = (t.to(v.dtype).expand(v.shape[0], -1, -1, -1) for t in self._pair(features, v.shape[1]))
        seen = None if kept is None else kept[:, None, None, :]
        y = nn.functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=seen
        )
        return v + y.transpose(1, 2)

    def _matrix(self, x: Tensor, features: Tensor) -> Tensor:
        q, k = self._pair(features, x.shape[1])
        scores = torch.einsum("blhd,bmhd->bhlm", q, k) / math.sqrt(q.shape[-1])
        return add_identity(scores.softmax(-1), 1.0)

    def _pair(self, features: Tensor, L: int) -> tuple[Tensor, Tensor]:
        return pair(self.q_matrix, self.k_matrix, features, self.n_heads, L)
