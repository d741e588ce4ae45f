"""SSD in chunks, either direction: matrix products inside a chunk, one state passed from chunk to chunk.

Tensors are cut into (B, c, G, q, ...): c chunks of q positions, heads in G groups of R. The factored form needs no
(q, q) tensor per head: ``y = e^s * ([tril(C B^T) | C] @ [e^-s * dt * x ; S])`` with s the running sum of log decays and
S the state on entry. Where e^-s could overflow, the decay between each pair of positions is formed instead.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from seqmix.ops.packed import gather, slots, spread

# largest log decay over a chunk in factored form: e^60 times data and e^-60 times gradients are normal float32 numbers
_LIMIT = 60.0


class Chunks(NamedTuple):
    """How a row of sequences is cut into chunks that never cross a boundary.

    Args:
        bounds: bounds of the sequences in the row.
        starts: where each begins in the padded row, a multiple of ``size``.
        length: length of the padded row.
        size: positions per chunk q.
        groups: groups of heads G.
        factored: use the factored form.
    """

    bounds: list[int]
    starts: list[int]
    length: int
    size: int
    groups: int
    factored: bool

    def cut_heads(self, x: Tensor) -> Tensor:
        """``(B, L, H, ...) -> (B, c, G, q, R, ...)``."""
        x = spread(x, self.bounds, self.starts, self.length)
        return rearrange(x, "b (c q) (g r) ... -> b c g q r ...", q=self.size, g=self.groups)

    def cut_groups(self, x: Tensor) -> Tensor:
        """``(B, L, G, N) -> (B, c, G, q, N)``."""
        return rearrange(spread(x, self.bounds, self.starts, self.length), "b (c q) g n -> b c g q n", q=self.size)

    def join(self, y: Tensor) -> Tensor:
        """``(B, c, G, q, R, P) -> (B, L, H, P)``."""
        return gather(rearrange(y, "b c g q r p -> b (c q) (g r) p"), self.bounds, self.starts)


def plan(x: Tensor, a: Tensor, groups: int, bounds: list[int], size: int | None) -> Chunks:
    """Choose the form and the chunks for values ``x`` and log decays ``a: (B, L, ...)``."""
    longest = min(size or (128 if x.dtype == torch.bfloat16 else 64), max(j - i for i, j in pairwise(bounds)))
    for size in (longest, -(-longest // 2), -(-longest // 4)):
        starts, length = slots(bounds, multiple=size)
        # looking at the decays would break a compiled graph
        if torch.compiler.is_compiling():
            break
        total = spread(a.detach().abs(), bounds, starts, length).unflatten(1, (-1, size)).sum(2)
        if bool((total < _LIMIT).all()):
            return Chunks(bounds, starts, length, size, groups, factored=True)
    return Chunks(bounds, starts, length, size, groups, factored=False)


def scan_chunks(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    S: Tensor,
    chunks: Chunks,
    reverse: bool,
    strict: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run one direction over tensors cut into chunks.

    Args:
        x: values ``(B, c, G, q, R, P)``.
        dt: step sizes ``(B, c, G, q, R)``.
        a: log decays, likewise.
        B: what is written ``(B, c, G, q, N)``.
        C: what is read, likewise; already shifted by one step if ``strict``.
        S: first states ``(B, H, P, N)``, packed ``(S, H, P, N)``.
        chunks: how they were cut.
        reverse: from the last position to the first.
        strict: leave out the diagonal: position i reads the state after i - 1.

    Returns:
        ``(B, c, G, q, R, P)`` and the last states, shaped like ``S``.
    """
    R, P = x.shape[-2:]
    s = running_sum(a, reverse)
    row = shift(s, reverse, -2) if strict else s
    total = s[..., :1, :] if reverse else s[..., -1:, :]
    decay = total.exp().repeat_interleave(P, -1)  # (B, c, G, 1, R P)
    scores = C @ B.mT  # (B, c, G, q, q)
    if chunks.factored:
        scores = scores.triu(int(strict)) if reverse else scores.tril(-int(strict))
        xe = (x * (dt * (-s).exp()).unsqueeze(-1)).to(x.dtype).flatten(-2)  # (B, c, G, q, R P)
        entering, S = _pass_on(B.mT @ xe, decay, S, chunks, reverse)
        y = torch.cat([scores, C], -1) @ torch.cat([xe, entering.to(x.dtype)], -2)
        return y.unflatten(-1, (R, P)) * row.exp().unsqueeze(-1), S
    after = shift(running_sum(a, not reverse), not reverse, -2)
    xe = (x * (dt * after.exp()).unsqueeze(-1)).to(x.dtype).flatten(-2)
    entering, S = _pass_on(B.mT @ xe, decay, S, chunks, reverse)
    M = log_decays(a.mT, reverse, strict).exp() * dt.mT.unsqueeze(-2) * scores.unsqueeze(3)  # (B, c, G, R, q, q)
    y = rearrange(M.to(x.dtype) @ x.transpose(-2, -3), "b c g r q p -> b c g q r p")
    return y + (C @ entering.to(x.dtype)).unflatten(-1, (R, P)) * row.exp().unsqueeze(-1), S


def running_sum(a: Tensor, reverse: bool) -> Tensor:
    """Sum of ``a: (..., q, R)`` from the first position on, or from the last one back."""
    return a.flip(-2).cumsum(-2).flip(-2) if reverse else a.cumsum(-2)


def shift(x: Tensor, reverse: bool, dim: int) -> Tensor:
    """Move ``x`` one step later along ``dim`` (earlier if ``reverse``), zero where nothing moves in."""
    behind = (0, 0) * (-dim - 1 if dim < 0 else x.ndim - dim - 1)
    return F.pad(x, (*behind, -1, 1) if reverse else (*behind, 1, -1))


def log_decays(a: Tensor, reverse: bool, strict: bool) -> Tensor:
    """Sum of log decays ``a: (..., q)`` between two positions ``(..., q, q)``, -inf outside the triangle.

    Row i, column j sums a_k over j < k <= i, or j < k < i if ``strict``; mirrored if ``reverse``. Nothing is
    subtracted, so that a decay of exactly 0 (-inf) is fine and small decays next to large ones keep their digits.
    """
    if reverse or strict:
        a = shift(a, False, -1)
    q = a.shape[-1]
    outside = torch.ones(q, q, dtype=torch.bool, device=a.device).triu(int(not strict))
    steps = a.unsqueeze(-1).expand(*a.shape, q).tril(-1 - strict).cumsum(-2)
    steps = steps.masked_fill(outside, -torch.inf)
    return steps.mT if reverse else steps


def _pass_on(local: Tensor, decay: Tensor, S: Tensor, chunks: Chunks, reverse: bool) -> tuple[Tensor, Tensor]:
    """Carry the state over the chunks in the precision of ``decay``; return what enters each chunk, and the end."""
    states = rearrange(S.to(decay.dtype), "b (g r) p n -> b g n (r p)", g=chunks.groups).chunk(len(chunks.starts))
    writes, keeps = local.to(decay.dtype).unbind(1), decay.unbind(1)
    entering: dict[int, Tensor] = {}
    ends = []
    for (first, last), state in zip(pairwise((*chunks.starts, chunks.length)), states, strict=True):
        order = range(first // chunks.size, last // chunks.size)
        for c in reversed(order) if reverse else order:
            entering[c] = state
            # the factored form writes on the scale of the chunk's beginning, the other on that of its end
            state = keeps[c] * (state + writes[c]) if chunks.factored else keeps[c] * state + writes[c]
        ends.append(state)
    S = rearrange(torch.cat(ends), "b g n (r p) -> b (g r) p n", p=S.shape[2])
    return torch.stack([entering[c] for c in range(len(writes))], 1), S
