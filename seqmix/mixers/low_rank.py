"""The low-rank matrix mixer: linear attention without a normalizer."""

import math

import torch
from torch import Tensor

from seqmix.errors import check_at_least
from seqmix.mixers.mixer import register, require_max_len
from seqmix.mixers.structured import (
    StructuredMixer,
    add_identity,
    count_heads,
    free_pair,
    pair,
)


@register(paper="arXiv:2407.09941", cost="L", variants=({"data_dependent": False},), headdim=4, qk_dim=3)
class LowRank(StructuredMixer):
    """Low-rank matrix mixer: linear attention without a normalizer.

    ``M_ij = q_i^T k_j``, ``y = x + M x / sqrt(max_len qk_dim)``; queries and keys from tokens go through SiLU.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L qk_dim D) time, O(L D) memory.

    Args:
        d_model: width D.
        max_len: longest sequence; sets the scale, and the number of free queries and keys.
        headdim: width of a head P. Default: D.
        data_dependent: queries and keys from the tokens; otherwise free parameters. With the former sequences longer
            than ``max_len`` work too.
        qk_dim: width of queries and keys d per head, and bound on the rank.
        project: own the projection to queries and keys; False inside ``MatrixMixer``.

    Raises:
        ConfigError: if ``max_len`` is missing or ``d_model`` is not a multiple of ``headdim``.

    Source: Hwang et al., 2024, arXiv:2407.09941, app. E. Differs from the original code in: keys meet values first,
    so that nothing is L x L; shorter sequences are accepted.
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
        size = require_max_len(self, max_len, "a scale for max_len positions")
        H = count_heads(d_model, headdim or d_model)
        super().__init__(
            d_model,
            headdim or d_model,
            project=project,
            n_convolved=2 * H * qk_dim if data_dependent else 0,
            max_len=None if data_dependent else size,
        )
        self.scale = 1 / math.sqrt(size * qk_dim)
        self.q_matrix, self.k_matrix = (None, None) if data_dependent else free_pair(size, H, qk_dim)  # (max_len, H, d)

    def _multiply(self, v: Tensor, features: Tensor, kept: Tensor | None) -> Tensor:
        q, k = (t.to(v.dtype).expand(v.shape[0], -1, -1, -1) for t in self._pair(features, v.shape[1]))
        state = torch.einsum("blhd,blhp->bhdp", k, v)
        return v + self.scale * torch.einsum("blhd,bhdp->blhp", q, state)

    def _matrix(self, x: Tensor, features: Tensor) -> Tensor:
        return add_identity(torch.einsum("blhd,bmhd->bhlm", *self._pair(features, x.shape[1])), self.scale)

    def _pair(self, features: Tensor, L: int) -> tuple[Tensor, Tensor]:
        return pair(self.q_matrix, self.k_matrix, features, self.n_heads, L)
