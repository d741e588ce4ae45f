"""Matrices whose entries compare queries with keys: Softmax, LowRank, Cauchy; and Unstructured, where all are free.

Hwang et al., 2024, arXiv:2407.09941, sec. 2.3 and app. E.
"""

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seqmix.mixers.mixer import register, require_max_len
from seqmix.mixers.structured import (
    StructuredMixer,
    add_identity,
    apply,
    count_heads,
    free_pair,
    refuse_data_dependence,
    split_pair,
)
from seqmix.ops.wide import wide


@register(paper="arXiv:2407.09941", cost="L^2", variants=({"data_dependent": False},), headdim=4, qk_dim=3)
class Softmax(StructuredMixer):
    """Softmax attention as a matrix mixer.

    ``M_ij = softmax_j(q_i^T k_j / sqrt(qk_dim))``, ``y = x + M x``.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L^2 (D + H qk_dim)) time, O(L^2 H) memory where the kernel needs it.

    Args:
        d_model: width D.
        max_len: longest sequence for free queries and keys; else unused.
        headdim: width of a head P; D if not given.
        data_dependent: queries and keys from the tokens; else free ones, one per position.
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
        return _pair(self.q_matrix, self.k_matrix, features, self.n_heads, L)


@register(paper="arXiv:2407.09941", cost="L", variants=({"data_dependent": False},), headdim=4, qk_dim=3)
class LowRank(StructuredMixer):
    """Low-rank matrix mixer: linear attention without a normalizer.

    ``M_ij = q_i^T k_j``, ``y = x + M x / sqrt(max_len qk_dim)``; queries and keys from tokens go through SiLU.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L qk_dim D) time, O(L D) memory.

    Args:
        d_model: width D.
        max_len: longest sequence; sets the scale, and the number of free queries and keys.
        headdim: width of a head P; D if not given.
        data_dependent: queries and keys from the tokens; else free ones. With the former sequences longer than
            ``max_len`` work too.
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
        return _pair(self.q_matrix, self.k_matrix, features, self.n_heads, L)


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
        headdim: width of a head P; D if not given.
        data_dependent: queries and keys from the tokens; else free ones. With the former sequences longer than
            ``max_len`` work too.
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
        q, k = _pair(self.q_matrix, self.k_matrix, features, self.n_heads, L)
        return wide(q).transpose(1, 2).exp() + c, wide(k).transpose(1, 2).exp() + c


@register(paper="arXiv:2407.09941", cost="L^2", headdim=4)
class Unstructured(StructuredMixer):
    """Free matrix per head: the dense row of the ablation.

    ``y = x + M x / sqrt(max_len)``. ``Dense`` is the same map with its residual, scale and bias as options.

    Shapes: ``(B, L, D) -> (B, L, D)``, ``L <= max_len``; shorter sequences use the top-left block. Cost: O(L^2 D) time,
    O(L D) memory.

    Args:
        d_model: width D.
        max_len: longest sequence, and size of the matrices.
        headdim: width of a head P; D if not given.
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


def _pair(q: Tensor | None, k: Tensor | None, features: Tensor, n_heads: int, L: int) -> tuple[Tensor, Tensor]:
    """Queries and keys: the free ones of the first L positions ``(1, L, H, d)``, or those in ``features``."""
    if q is None or k is None:
        return split_pair(features, n_heads)
    return q[None, :L], k[None, :L]


def _inverse_distances(q: Tensor, k: Tensor) -> Tensor:
    """``sum_d 1 / (q_id + k_jd)`` for ``q: (B, H, R, d)``, ``k: (B, H, L, d)`` as ``(B, H, R, L)``."""
    return (q.unsqueeze(3) + k.unsqueeze(2) + 1e-8).reciprocal().sum(-1)


def _mix_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return apply(_inverse_distances(q, k), v)
