"""One chunk of SSD, forward and backward, in two forms that give the same.

``factored`` splits the decay between two positions into a factor for each: products only, no (q, q) tensor per head.
``masked`` forms the decay of every pair of positions, for chunks where such factors would leave the range of floats.
States lie as ``(b G, N, R P)``: the R heads of a group side by side are the columns of one matrix.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# gradients to the state before the chunk, to dt, a, B and C
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class Chunk(NamedTuple):
    """The positions of a chunk.

    Args:
        x: values ``(b, q, G, R, P)``.
        dt: step sizes ``(b, q, G, R)``.
        a: log decays, likewise.
        B: what is written ``(b G, q, N)``.
        C: what is read, likewise; already shifted by one step if ``strict``.
        scale: inverse of the decay from the beginning to each position as a writer ``(b, q, G, R)``.
        read: decay from the beginning to each position as a reader, likewise.
        total: decay of the whole chunk ``(b G, 1, R P)``.
        reverse: from the last position to the first.
        strict: position i reads the state after i - 1.
    """

    x: Tensor
    dt: Tensor
    a: Tensor
    B: Tensor
    C: Tensor
    scale: Tensor
    read: Tensor
    total: Tensor
    reverse: bool
    strict: bool

    def flip(self) -> "Chunk":
        """The same in the order of the scan."""
        flipped = {name: getattr(self, name).flip(1) for name in ("x", "dt", "a", "B", "C")}
        return self._replace(reverse=False, **flipped)


def factored_forward(c: Chunk, state: Tensor, y: Tensor) -> Tensor:
    """Write the result into ``y: (b, q, G, R, P)`` and return the state after the chunk."""
    xe = _columns(c.x, c.dt * c.scale, c)  # (b G, q, R P)
    u = (_triangle(c.C @ c.B.mT, c) @ xe).baddbmm_(c.C, state.to(c.C.dtype))
    torch.mul(_by_head(u, c), c.read.unsqueeze(-1), out=y)
    return _plus(state, c.B, xe).mul_(c.total)


def factored_backward(
    c: Chunk, before: Tensor, after: Tensor, carry: Tensor, y: Tensor, grad: Tensor, dx: Tensor
) -> Gradients:
    """Write the gradient to x into ``dx``, return the others.

    Args:
        c: the chunk.
        before: state before it ``(b G, N, R P)``.
        after: state after it.
        carry: gradient to ``after``.
        y: the result ``(b, q, G, R, P)``.
        grad: gradient to it.
        dx: where the gradient to x goes.
    """
    write = c.dt * c.scale
    xe, ge = _columns(c.x, write, c), _columns(grad, c.read, c)
    left, right = before.to(c.C.dtype), carry * c.total
    scores, dscores = _triangle(c.C @ c.B.mT, c), _triangle(ge @ xe.mT, c)
    dxe = _by_head((scores.mT @ ge).baddbmm_(c.B, right.to(c.B.dtype)), c)
    dC = (ge @ left.mT).baddbmm_(dscores, c.B)
    dB = (xe @ right.to(c.B.dtype).mT).baddbmm_(dscores.mT, c.C)
    torch.mul(dxe, write.unsqueeze(-1), out=dx)
    dwrite = (c.x * dxe).sum(-1, dtype=c.dt.dtype)
    # contribution of each position to the gradient of the cumulative log decay
    drow = (y * grad).sum(-1)
    drow = shift(drow, not c.reverse, 1) if c.strict else drow
    da = running_sum(drow - dwrite * write, not c.reverse) + _per_head(after * carry, c)
    return _plus(right, c.C, ge), dwrite * c.scale, da, dB, dC


def masked_forward(c: Chunk, state: Tensor, y: Tensor) -> Tensor:
    """Write the result into ``y: (b, q, G, R, P)`` and return the state after the chunk."""
    if c.reverse:
        state = masked_forward(c.flip(), state, flipped := torch.empty_like(y))
        y.copy_(flipped.flip(1))
        return state
    row, rest, total = _decays(c)
    M = _between(c) * _steps(c) * _scores(c)  # (b, G, R, q, q)
    torch.mul(_by_head(c.C @ state.to(c.C.dtype), c), row.unsqueeze(-1), out=y)
    y += _pairwise(M, c.x, c)
    return _plus(state * total, c.B, _columns(c.x, c.dt * rest, c))


def masked_backward(
    c: Chunk, before: Tensor, after: Tensor, carry: Tensor, y: Tensor, grad: Tensor, dx: Tensor
) -> Gradients:
    """The same in the masked form; arguments as ``factored_backward``."""
    if c.reverse:
        flipped = torch.empty_like(dx)
        state, *found = masked_backward(c.flip(), before, after, carry, y.flip(1), grad.flip(1), flipped)
        dx.copy_(flipped.flip(1))
        ddt, da, dB, dC = (t.flip(1) for t in found)
        return state, ddt, da, dB, dC
    row, rest, total = _decays(c)
    write = c.dt * rest
    xe, ge = _columns(c.x, write, c), _columns(grad, row, c)
    left, right = before.to(c.B.dtype), carry.to(c.B.dtype)
    scores, decay, steps = _scores(c), _between(c), _steps(c)
    dM = torch.einsum("bigrp,bjgrp->bgrij", grad.to(c.x.dtype), c.x).to(decay.dtype)
    dxe = _by_head(c.B @ right, c)
    torch.mul(dxe, write.unsqueeze(-1), out=dx)
    dx += _pairwise((decay * steps * scores).mT, grad, c)
    dscores = (dM * decay * steps).sum(2).flatten(0, 1).to(c.C.dtype)
    dC = (ge @ left.mT).baddbmm_(dscores, c.B)
    dB = (xe @ right.mT).baddbmm_(dscores.mT, c.C)
    dpair = dM * scores * decay
    dwrite = (c.x * dxe).sum(-1, dtype=c.dt.dtype)
    ddt = _first(dpair.sum(-2)) + dwrite * rest
    # a_k acts between j and i of a pair, before i on the incoming state, after j on the outgoing one
    pairs = shift((dpair * steps).cumsum(-1), False, -1).tril(-int(c.strict)).sum(-2)
    drow = (_by_head(c.C @ left, c) * row.unsqueeze(-1) * grad).sum(-1, dtype=c.dt.dtype)
    drow = shift(drow, True, 1) if c.strict else drow
    leaving = shift((dwrite * write).cumsum(1), False, 1)
    da = _first(pairs) + running_sum(drow, True) + leaving + _per_head(before * total * carry, c)
    return _plus(carry * total, c.C, ge), ddt, da, dB, dC


def factors(a: Tensor, reverse: bool, strict: bool) -> tuple[Tensor, Tensor, Tensor]:
    """``scale, read, total`` of chunks ``a: (..., q, G, R)``, the last as ``(..., G, R)``.

    Measured from the beginning: from the middle twice as much would fit into the range of floats, but results would
    change in the last bit with positions that they must not depend on.
    """
    s = running_sum(a, reverse, -3)
    row = shift(s, reverse, -3) if strict else s
    return (-s).exp(), row.exp(), (s[..., 0, :, :] if reverse else s[..., -1, :, :]).exp()


def running_sum(a: Tensor, reverse: bool, dim: int = 1) -> Tensor:
    """Sum of ``a`` along ``dim`` from the first position on, or from the last one back."""
    return a.flip(dim).cumsum(dim).flip(dim) if reverse else a.cumsum(dim)


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


def _decays(c: Chunk) -> tuple[Tensor, Tensor, Tensor]:
    """Decay from the beginning to each position, from each to the end ``(b, q, G, R)``, and of the state."""
    s = c.a.cumsum(1)
    rest = running_sum(shift(c.a, True, 1), True)
    total = s[:, -1].exp().flatten(0, 1).repeat_interleave(c.x.shape[-1], -1).unsqueeze(1)  # (b G, 1, R P)
    return (shift(s, False, 1) if c.strict else s).exp(), rest.exp(), total


def _between(c: Chunk) -> Tensor:
    return log_decays(_last(c.a), False, c.strict).exp()


def _steps(c: Chunk) -> Tensor:
    return _last(c.dt).unsqueeze(-2)


def _scores(c: Chunk) -> Tensor:
    """Products of codes for each head ``(b, G, 1, q, q)``."""
    return (c.C @ c.B.mT).unflatten(0, (len(c.x), -1)).unsqueeze(2).to(c.dt.dtype)


def _pairwise(M: Tensor, x: Tensor, c: Chunk) -> Tensor:
    """``(b, G, R, q, q)`` times ``(b, q, G, R, P)``."""
    return torch.einsum("bgrij,bjgrp->bigrp", M.to(c.x.dtype), x.to(c.x.dtype))


def _last(t: Tensor) -> Tensor:
    """``(b, q, G, R) -> (b, G, R, q)``."""
    return t.movedim(1, -1)


def _first(t: Tensor) -> Tensor:
    """``(b, G, R, q) -> (b, q, G, R)``."""
    return t.movedim(-1, 1)


def _columns(x: Tensor, scale: Tensor, c: Chunk) -> Tensor:
    """``x: (b, q, G, R, P)`` times a number per head as ``(b G, q, R P)``, in the dtype of the products."""
    b, q, G, R, P = x.shape
    out = c.x.new_empty(b, G, q, R, P)
    torch.mul(x.transpose(1, 2), scale.transpose(1, 2).unsqueeze(-1), out=out)
    return out.view(b * G, q, R * P)


def _by_head(u: Tensor, c: Chunk) -> Tensor:
    b, q, G, R, P = c.x.shape
    return u.view(b, G, q, R, P).transpose(1, 2)


def _per_head(state: Tensor, c: Chunk) -> Tensor:
    b, _, G, R, P = c.x.shape
    return state.sum(1).view(b, 1, G, R, P).sum(-1)


def _plus(state: Tensor, codes: Tensor, values: Tensor) -> Tensor:
    """``state + codes^T values`` in the precision of ``state``."""
    if values.dtype == state.dtype:
        return torch.baddbmm(state, codes.mT, values)
    return state + codes.mT @ values


def _triangle(scores: Tensor, c: Chunk) -> Tensor:
    return scores.triu_(int(c.strict)) if c.reverse else scores.tril_(-int(c.strict))
