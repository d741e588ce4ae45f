"""The Cauchy matrix mixer: inverse distances between queries and keys."""

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seqmix.errors import check_at_least
from seqmix.mixers.mixer import register, require_max_len
from seqmix.mixers.structured import (
    StructuredMixer,
    add_identity,
    apply,
    count_heads,
    free_pair,
    pair,
)
from seqmix.ops.wide import wide


@register(paper="arXiv:2407.09941", cost="L^2", variants=({"data_dependent": False},), headdim=4, qk_dim=3)
class Cauchy(StructuredMixer):
    """Cauchy matrix mixer: entries are inverse distances between queries and keys.

    ``M_ij = sum_d 1 / (exp(q_id) + exp(k_jd) + 2c + 1e-8)``, ``y = x + M x / sqrt(max_len qk_dim)``, with one learned
    number c, 0.5 at first, or c = 0 for free queries and keys.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L^2 (D + H qk_dim)) time; rows are done in blocks, and again in the
    backward pass, so that memory stays at ``BLOCK`` numbers beyond O(L D).

    Args:
        d_model: width D.
        max_len: longest sequence; sets the scale, and the number of free queries and keys.
        headdim: width of a head P. Default: D.
        data_dependent: queries and keys from the tokens; otherwise free parameters. With the former sequences longer
            than ``max_len`` work too.
        qk_dim: terms of the sum d per head.
        project: own the projection to queries and keys; False inside ``MatrixMixer``.

    Raises:
        ConfigError: if ``max_len`` is missing or ``d_model`` is not a multiple of ``headdim``.

    Source: Hwang et al., 2024, arXiv:2407.09941, app. E. Differs from the original code in: nothing but the order of
    computation, and that shorter sequences are accepted. The paper writes ``1 / (q_id - k_jd + c)``.
    """

    #: numbers held at once
    BLOCK = 2**24

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
            activated=False,
            max_len=None if data_dependent else size,
        )
        self.scale = 1 / math.sqrt(size * qk_dim)
        self.bias = nn.Parameter(torch.tensor(0.5)) if data_dependent else None
        self.q_matrix, self.k_matrix = (None, None) if data_dependent else free_pair(size, H, qk_dim)  # (max_len, H, d)

    def _multiply(self, v: Tensor, features: Tensor, kept: Tensor | None) -> Tensor:
        q, k = self._poles(features, v.shape[1])
        blocks = q.split(max(1, self.BLOCK // k.numel()), 2)
        if len(blocks) == 1:
            return v + self.scale * apply(_inverse_distances(q, k), v)
        y = [checkpoint(_mix_rows, rows, k, v, use_reentrant=False, preserve_rng_state=False) for rows in blocks]
        return v + self.scale * torch.cat(y, 1)

    def _matrix(self, x: Tensor, features: Tensor) -> Tensor:
        return add_identity(_inverse_distances(*self._poles(features, x.shape[1])), self.scale)

    def _poles(self, features: Tensor, L: int) -> tuple[Tensor, Tensor]:
        """``exp(q) + c`` and ``exp(k) + c``, each ``(B or 1, H, L, d)``."""
        c = 0.0 if self.bias is None else self.bias
        q, k = pair(self.q_matrix, self.k_matrix, features, self.n_heads, L)
        return wide(q).transpose(1, 2).exp() + c, wide(k).transpose(1, 2).exp() + c


def _inverse_distances(q: Tensor, k: Tensor) -> Tensor:
    """``sum_d 1 / (q_id + k_jd)`` for ``q: (B, H, R, d)``, ``k: (B, H, L, d)`` as ``(B, H, R, L)``."""
    return (q.unsqueeze(3) + k.unsqueeze(2) + 1e-8).reciprocal().sum(-1)


def _mix_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return apply(_inverse_distances(q, k), v)
