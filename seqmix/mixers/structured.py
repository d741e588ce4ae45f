"""Matrix mixers: one structured L x L matrix per head, free or computed from the tokens.

Hwang et al., 2024, arXiv:2407.09941, sec. 2 and app. E. This file has the common base; the block around them is
``MatrixMixer``.
"""

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from seqmix.errors import ConfigError
from seqmix.mixers.mask import mix_aligned
from seqmix.mixers.mixer import Mixer, check_length, zero_masked


class StructuredMixer(Mixer, ABC):
    """Base of matrix mixers: ``y = M x`` for each head, with M from a class of structured matrices.

    A data-dependent M is made from features of the tokens (queries and keys, taps, steps). A mixer that stands alone
    projects its input to them; inside a block that projects anyway, it is handed ``features``. Positions are counted
    from the first position that the mask keeps.

    Args:
        d_model: width D.
        headdim: width of a head P; all channels of a head share one matrix.
        project: own a linear map from the input to the features.
        n_convolved: features that a block convolves along with the values.
        n_direct: further features that it does not.
        activated: the convolved features go through SiLU.
        max_len: longest sequence if something is stored per position. None: every length works.

    Raises:
        ConfigError: if ``d_model`` is not a multiple of ``headdim``.
    """

    pure = True

    def __init__(
        self,
        d_model: int,
        headdim: int,
        *,
        project: bool,
        n_convolved: int = 0,
        n_direct: int = 0,
        activated: bool = True,
        max_len: int | None = None,
    ):
        super().__init__(d_model, max_len)
        self.n_heads = count_heads(d_model, headdim)
        self.headdim, self.max_len = headdim, max_len
        self.n_convolved, self.n_direct, self.activated = n_convolved, n_direct, activated
        n_features = n_convolved + n_direct
        self.in_proj = nn.Linear(d_model, n_features, bias=False) if project and n_features else None

    def forward(self, x: Tensor, mask: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        """Mix ``x: (B, L, D)`` along L, with ``features: (B, L, F)`` if the mixer has no projection of its own."""
        if self.max_len is not None:
            check_length(self, x, self.max_len)
        x = zero_masked(x, mask)
        D = x.shape[-1]
        # kept positions are in front below, so their number per row says which they are
        kept = None if mask is None else torch.arange(x.shape[1], device=x.device) < mask.sum(1, keepdim=True)

        def mix(wide: Tensor) -> Tensor:
            v = rearrange(wide[..., :D], "b l (h p) -> b l h p", p=self.headdim)
            return rearrange(self._multiply(v, wide[..., D:], kept), "b l h p -> b l (h p)")

        return mix_aligned(mix, torch.cat([x, self._features(x, features)], -1), mask)

    def matrix(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """Mixing matrix of each head, residual and scale included, as ``(B, H, L, L)``."""
        B, L, _ = x.shape
        return self._matrix(x, self._features(x, features)).expand(B, -1, L, L)

    @abstractmethod
    def _multiply(self, v: Tensor, features: Tensor, kept: Tensor | None) -> Tensor:
        """``M v`` for ``v: (B, L, H, P)`` and ``features: (B, L, F)``; ``kept: (B, L)`` marks the leading real rows."""

    @abstractmethod
    def _matrix(self, x: Tensor, features: Tensor) -> Tensor:
        """M as ``(B, H, L, L)``, or ``(1, H, L, L)`` if it does not depend on the data."""

    def _features(self, x: Tensor, features: Tensor | None) -> Tensor:
        if self.in_proj is None:
            return x[..., :0] if features is None else features
        convolved, direct = self.in_proj(x).split([self.n_convolved, self.n_direct], -1)
        return torch.cat([nn.functional.silu(convolved) if self.activated else convolved, direct], -1)


class StructuredFactory(Protocol):
    """Factory of the matrix of a block, with one signature for every class."""

    def __call__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        headdim: int | None,
        data_dependent: bool,
        qk_dim: int,
        project: bool,
    ) -> StructuredMixer:
        """Build a matrix over ``d_model`` channels that is handed its features."""
        ...


def count_heads(d_model: int, headdim: int) -> int:
    """Number of heads of width ``headdim``, or ``ConfigError`` if they do not fill ``d_model``."""
    if d_model % headdim:
        raise ConfigError(f"width {d_model} is not a multiple of headdim = {headdim}; use a headdim that divides it")
    return d_model // headdim


def refuse_data_dependence(mixer: str, data_dependent: bool) -> None:
    """Raise ``ConfigError`` for a class of matrices that has no data-dependent form."""
    if data_dependent:
        raise ConfigError(f"data_dependent = True has no meaning for {mixer}; use data_dependent=False")


def free_pair(max_len: int, n_heads: int, qk_dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Queries and keys that are parameters, one per position and head, each ``(max_len, H, d)``."""
    q, k = (nn.Parameter(nn.init.xavier_normal_(torch.empty(max_len, n_heads, qk_dim))) for _ in range(2))
    return q, k


def split_pair(features: Tensor, n_heads: int) -> tuple[Tensor, Tensor]:
    """Queries and keys of ``features: (B, L, 2 H d)``, each ``(B, L, H, d)``."""
    q, k = rearrange(features, "b l (two h d) -> two b l h d", two=2, h=n_heads)
    return q, k


def pair(q: Tensor | None, k: Tensor | None, features: Tensor, n_heads: int, L: int) -> tuple[Tensor, Tensor]:
    """Queries and keys: the free ones of the first L positions ``(1, L, H, d)``, or those in ``features``."""
    if q is None or k is None:
        return split_pair(features, n_heads)
    return q[None, :L], k[None, :L]


def add_identity(M: Tensor, scale: float) -> Tensor:
    """``I + scale M``."""
    return torch.eye(M.shape[-1], dtype=M.dtype, device=M.device) + scale * M


def apply(M: Tensor, v: Tensor) -> Tensor:
    """``M v`` for ``M: (B or 1, H, L, L)`` and ``v: (B, L, H, P)``."""
    return (M.to(v.dtype) @ v.transpose(1, 2)).transpose(1, 2)
