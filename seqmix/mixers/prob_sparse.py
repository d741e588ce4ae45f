"""ProbSparse attention: only the queries with the most uneven scores attend."""

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from seqmix.errors import ConfigError, check_at_least, check_fraction
from seqmix.mixers.mask import mix_by_length
from seqmix.mixers.mixer import Mixer, register
from seqmix.ops.wide import wide


@register(
    paper="arXiv:2012.07436",
    cost="L log L",
    variants=({"factor": 1}, {"factor": 2, "sampled": False, "bias": False}),
    n_heads=2,
)
class ProbSparse(Mixer):
    """ProbSparse attention: the queries with the most uneven scores attend, all others take the mean of the values.

    A query is rated by the largest minus the mean of its scores (eq. 4), over a sample of ``factor * ceil(ln L)`` keys;
    the ``factor * ceil(ln L)`` queries with the highest rating attend to all keys. At the default factor 25 of 96
    queries attend, and all of 15 or fewer. With a mask each sequence is mixed at its own length, rows of equal length
    together.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(factor L D log L) time and memory beside the projections.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        n_heads: number of heads, each of width D / n_heads.
        factor: number of attending queries and of sampled keys, each over ceil(ln L).
        sampled: rate queries by a sample of the keys; False rates by all keys, in O(L^2 D) time.
        bias: bias on all projections.
        dropout: fraction of the attention weights dropped in training.

    Raises:
        ConfigError: if ``d_model`` is not a multiple of ``n_heads``.

    Source: Zhou et al., 2021, arXiv:2012.07436, sec. 3.1. Differs from the original code in: the sample of keys is the
    same at every call, spread evenly by the golden ratio, where the original draws anew and so gives another output
    each time, in evaluation too; at least one query attends; q, k and v are one projection. The copy in
    thuml/Time-Series-Library also reads heads as positions (a transpose is missing). The original's masked form ranks
    each query against later ones, so it is not causal: it is ``attend_sparsely(triangular=True)``, for decoders, and
    no option here.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        n_heads: int = 4,
        factor: int = 5,
        sampled: bool = True,
        bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, n_heads=n_heads, factor=factor)
        check_fraction(dropout=dropout)
        if d_model % n_heads:
            raise ConfigError(f"d_model = {d_model} is not a multiple of n_heads = {n_heads}; change one")
        self.n_heads, self.factor, self.sampled, self.dropout = n_heads, factor, sampled, dropout
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=bias)
        self.proj = nn.Linear(d_model, d_model, bias=bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return mix_by_length(self._attend, x, mask)

    def matrix(self, x: Tensor) -> Tensor:
        """Weights between the projections, ``(B, n_heads, L, L)``: 1 / L in the rows of queries that do not attend."""
        q, k, v = self._project(x)
        positions = torch.eye(x.shape[1], dtype=v.dtype, device=v.device).expand(*v.shape[:2], -1, -1)
        return attend_sparsely(q, k, positions, factor=self.factor, sampled=self.sampled)

    def _attend(self, x: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        y = attend_sparsely(*self._project(x), factor=self.factor, sampled=self.sampled, dropout=dropout)
        return self.proj(rearrange(y, "b h l p -> b l (h p)"))

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = rearrange(self.qkv(x), "b l (three h p) -> three b h l p", three=3, h=self.n_heads)
        return q, k, v


def attend_sparsely(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    factor: int,
    sampled: bool = True,
    triangular: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of the most uneven queries; the others take the mean of the values.

    Shapes: ``(B, H, L, E), (B, H, S, E), (B, H, S, P) -> (B, H, L, P)``.

    Args:
        q: queries.
        k: keys.
        v: values.
        factor: number of attending queries over ceil(ln L), and of sampled keys over ceil(ln S).
        sampled: rate queries by a sample of the keys instead of all.
        triangular: no query attends to later positions, L = S, and the others take the sum of the values so far. Which
            queries attend is still decided by all positions.
        dropout: fraction of the attention weights dropped.
    """
    S = k.shape[2]
    chosen = _most_uneven(q, k, factor, sampled)  # (B, H, u)
    at = chosen.unsqueeze(-1)
    seen = torch.arange(S, device=q.device) <= at if triangular else None  # (B, H, u, S)
    y = scaled_dot_product_attention(
        q.gather(2, at.expand(-1, -1, -1, q.shape[-1])), k, v, attn_mask=seen, dropout_p=dropout
    )
    rest = v.cumsum(2) if triangular else v.mean(2, keepdim=True).expand(-1, -1, q.shape[2], -1)
    return rest.scatter(2, at.expand_as(y), y.to(rest.dtype)).to(v.dtype)


@torch.no_grad()
def _most_uneven(q: Tensor, k: Tensor, factor: int, sampled: bool) -> Tensor:
    """Positions of the queries ``(B, H, u)`` whose largest score is furthest over the mean."""
    L, S = q.shape[2], k.shape[2]
    n = _count(factor, S)
    q, k = wide(q), wide(k)
    if not sampled or n == S:
        scores = q @ k.mT  # (B, H, L, S)
    elif n * q.shape[-1] < S:
        scores = torch.einsum("bhle,bhlne->bhln", q, k[:, :, spread_keys(L, S, n, q.device)])
    else:
        # all scores take less memory than a copy of the sampled keys for each query
        scores = (q @ k.mT).gather(-1, spread_keys(L, S, n, q.device).expand(*q.shape[:2], -1, -1))
    # divide by S even where fewer keys are summed, as in the original code
    rating = scores.amax(-1) - scores.sum(-1) / S
    return rating.topk(_count(factor, L), -1, sorted=False).indices


def _count(factor: int, length: int) -> int:
    return min(length, factor * max(1, math.ceil(math.log(length))))


def spread_keys(L: int, S: int, n: int, device: torch.device) -> Tensor:
    """Positions ``(L, n)`` below S, evenly spread for each of L queries and other ones for the next."""
    i = torch.arange(L * n, device=device)
    # the fractional part of i times the golden ratio, in 32 bits
    return ((i * 2654435769 % 2**32 * S) >> 32).view(L, n)
