"""The unstructured matrix mixer: a free dense matrix."""

import math

import torch
from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers.mixer import register, require_max_len
from seqmix.mixers.structured import (
    StructuredMixer,
    add_identity,
    apply,
    refuse_data_dependence,
)


@register(paper="arXiv:2407.09941", cost="L^2", headdim=4)
class Unstructured(StructuredMixer):
    """Unstructured matrix mixer: a free dense matrix per head.

    ``y = x + M x / sqrt(max_len)``. ``Dense`` is the same map with its residual, scale and bias as options.

    Shapes: ``(B, L, D) -> (B, L, D)``, ``L <= max_len``; shorter sequences use the top-left block. Cost: O(L^2 D) time,
    O(L D) memory.

    Args:
        d_model: width D.
        max_len: longest sequence, and size of the matrices.
        headdim: width of a head P. Default: D.
        data_dependent: False, there is no such form.
        qk_dim: unused, there are no queries and keys.
        project: unused, there are no features.

    Raises:
        ConfigError: if ``max_len`` is missing, ``data_dependent`` set, or ``d_model`` not a multiple of ``headdim``.

    Source: Hwang et al., 2024, arXiv:2407.09941, app. E. Differs from the original code in: shorter sequences are
    accepted.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        headdim: int | None = None,
        data_dependent: bool = False,
        qk_dim: int = 16,
        project: bool = True,
    ):
        check_at_least(1, headdim=headdim, qk_dim=qk_dim)
        refuse_data_dependence("Unstructured", data_dependent)
        size = require_max_len(self, max_len, "an L x L matrix")
        super().__init__(d_model, headdim or d_model, project=project, max_len=size)
        self.scale = 1 / math.sqrt(size)
        self.M = nn.Parameter(nn.init.xavier_normal_(torch.empty(self.n_heads, size, size)))  # (H, L, L)

    def _multiply(self, v: Tensor, features: Tensor, kept: Tensor | None) -> Tensor:
        L = v.shape[1]
        return v + self.scale * apply(self.M[None, :, :L, :L], v)

    def _matrix(self, x: Tensor, features: Tensor) -> Tensor:
        L = x.shape[1]
        return add_identity(self.M[None, :, :L, :L], self.scale)
