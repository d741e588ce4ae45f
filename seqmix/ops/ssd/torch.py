"""SSD in chunks, either direction: the loop over chunks, forward and backward, as one op.

A chunk is a few matrix products for all heads of a group at once (Dao and Gu, 2024, sec. 6, in factored form):
``y = e^s * ([tril(C B^T) | C] @ [e^-s * dt * x ; S])``, s the running sum of log decays and S the state on entry. What
a chunk needs stays in the cache; the backward pass keeps the state that enters each chunk and recomputes the rest.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from seqmix.ops.derivatives import differentiable
from seqmix.ops.packed import shift_within, slots, spread
from seqmix.ops.ssd._chunk_forms import (
    Chunk,
    factored_backward,
    factored_forward,
    factors,
    masked_backward,
    masked_forward,
)
from seqmix.ops.ssd.rows import one_way
from seqmix.ops.vmap import map_into_batch

# largest log decay over a chunk in factored form: e^60 times data and e^-60 times gradients are normal float32 numbers
_LIMIT = 60.0
# largest log decay of a step there: its gradient is found as a difference of numbers e^20 times as large
_STEP_LIMIT = 20.0
# elements of values per block on a CPU: 1 MB in float32
_BLOCK = 2**18


def scan_chunks(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    S: Tensor,
    bounds: list[int],
    *,
    chunk: int | None,
    reverse: bool,
    strict: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run one direction.

    Args:
        x: values ``(B, L, H, P)``.
        dt: step sizes ``(B, L, H)``.
        a: log decays, likewise.
        B: what is written ``(B, L, G, N)``.
        C: what is read, likewise; already shifted by one step if ``strict``.
        S: first states ``(B, H, P, N)``, packed ``(S, H, P, N)``.
        bounds: bounds of the sequences along L.
        chunk: positions per chunk, 64 by default, in bfloat16 128.
        reverse: from the last position to the first.
        strict: leave out the diagonal: position i reads the state after i - 1.

    Returns:
        ``(B, L, H, P)`` in the dtype of ``dt``, and the last states, shaped like ``S``.
    """
    chunk = min(chunk or (128 if x.dtype == torch.bfloat16 else 64), max(j - i for i, j in pairwise(bounds)))
    S = S.unflatten(0, (x.shape[0], len(bounds) - 1))  # (B, sequences, H, P, N)
    y, S, _ = _differentiable(x, dt, a, B, C, S, bounds, chunk, reverse, strict, torch.is_grad_enabled())
    return y, S.flatten(0, 1)


@torch.library.custom_op("seqmix::ssd", mutates_args=())
def _scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    S: Tensor,
    bounds: list[int],
    chunk: int,
    reverse: bool,
    strict: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the last states and, if ``keep``, the states on entry to the chunks ``(B, c, G, N, R P)``."""
    y, last, marks = _empty_results(x, dt, a, B, C, S, bounds, chunk, reverse, strict, keep)
    G = B.shape[2]
    y_heads = y.unflatten(2, (G, -1))
    for rows in _row_blocks(x, chunk):
        cut = _Cut(x[rows], dt[rows], a[rows], B[rows], C[rows], bounds, chunk, reverse, strict)
        for k, pieces in enumerate(cut.sequences()):
            state = _columns(S[rows, k], G)
            for i, t in reversed(pieces) if reverse else pieces:
                if keep:
                    marks[rows, i] = state.view_as(marks[rows, i])
                run = factored_forward if cut.mild[i] else masked_forward
                state = run(cut.chunk(i, t), state, y_heads[rows, t])
            last[rows, k] = _states(state, S)
    return y, last, marks


@torch.library.custom_op("seqmix::ssd_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    S: Tensor,
    y: Tensor,
    last: Tensor,
    marks: Tensor,
    bounds: list[int],
    chunk: int,
    reverse: bool,
    strict: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients to x, dt, a, B, C and the first states, from the last chunk to the first."""
    dx, ddt, da, dB, dC, dS = (t.new_empty(t.shape) for t in (x, dt, a, B, C, last))
    G = B.shape[2]
    y, grad_y, dx_heads, ddt_heads, da_heads = (t.unflatten(2, (G, -1)) for t in (y, grad_y, dx, ddt, da))
    with torch.autocast(x.device.type, enabled=False):
        for rows in _row_blocks(x, chunk):
            cut = _Cut(x[rows], dt[rows], a[rows], B[rows], C[rows], bounds, chunk, reverse, strict)
            for k, pieces in enumerate(cut.sequences()):
                carry, after = (_columns(t[rows, k], G) for t in (grad_last, last))
                for i, t in pieces if reverse else reversed(pieces):
                    run = factored_backward if cut.mild[i] else masked_backward
                    before, results = marks[rows, i].flatten(0, 1), (v[rows, t] for v in (y, grad_y, dx_heads))
                    carry, ddt_heads[rows, t], da_heads[rows, t], *codes = run(
                        cut.chunk(i, t), before, after, carry, *results
                    )
                    dB[rows, t], dC[rows, t] = (v.unflatten(0, (-1, G)).transpose(1, 2) for v in codes)
                    after = before
                dS[rows, k] = _states(carry, last)
    return dx, ddt, da, dB, dC, dS


class _Cut:
    """Some rows of the batch, cut into chunks that never cross the boundary of a sequence; arguments as ``_scan``."""

    def __init__(
        self,
        x: Tensor,
        dt: Tensor,
        a: Tensor,
        B: Tensor,
        C: Tensor,
        bounds: list[int],
        chunk: int,
        reverse: bool,
        strict: bool,
    ) -> None:
        self.heads = tuple(t.unflatten(2, (B.shape[2], -1)) for t in (x, dt, a))
        self.codes = tuple(t.transpose(1, 2) for t in (B, C))
        self.bounds, self.size, self.reverse, self.strict = bounds, chunk, reverse, strict
        starts, length = slots(bounds, multiple=chunk)
        # padding has no decay and changes nothing, so the last chunk may be padded
        a = spread(self.heads[2], bounds, starts, length).unflatten(1, (-1, chunk))  # (b, c, q, G, R)
        scale, read, total = factors(a, reverse, strict)
        self.factors = tuple(t.unbind(1) for t in (scale, read))
        self.total = total.repeat_interleave(x.shape[-1], -1).transpose(0, 1).flatten(1, 2).unsqueeze(-2)
        a = a.abs()
        # NaN compares false, so that it takes the masked form
        mild = (a.sum(2) < _LIMIT) & (a.amax(2) < _STEP_LIMIT)
        self.mild: list[bool] = mild.flatten(2).all(-1).all(0).tolist()

    def sequences(self) -> Iterator[list[tuple[int, slice]]]:
        """For each sequence its chunks, numbered through, and their positions."""
        n = 0
        for first, last in pairwise(self.bounds):
            starts = range(first, last, self.size)
            yield [(n + i, slice(t, min(t + self.size, last))) for i, t in enumerate(starts)]
            n += len(starts)

    def chunk(self, i: int, t: slice) -> Chunk:
        """Chunk ``i``, which has the positions ``t``."""
        x, dt, a = (v[:, t] for v in self.heads)
        B, C = (v[:, :, t].flatten(0, 1) for v in self.codes)
        scale, read = (v[i][:, : t.stop - t.start] for v in self.factors)
        return Chunk(x, dt, a, B, C, scale, read, self.total[i], self.reverse, self.strict)


def _columns(S: Tensor, G: int) -> Tensor:
    return rearrange(S, "b (g r) p n -> (b g) n (r p)", g=G).contiguous()


def _states(state: Tensor, like: Tensor) -> Tensor:
    return rearrange(
        state, "(b g) n (r p) -> b (g r) p n", g=like.shape[2] * like.shape[3] // state.shape[-1], p=like.shape[3]
    )


def _row_blocks(x: Tensor, chunk: int) -> list[slice]:
    B, L, H, P = x.shape
    rows = max(1, _BLOCK // (min(chunk, L) * H * P)) if x.device.type == "cpu" else max(1, B)
    return [slice(i, i + rows) for i in range(0, B, rows)]


def _empty_results(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    S: Tensor,
    bounds: list[int],
    chunk: int,
    reverse: bool,
    strict: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    n = sum(-(-(last - first) // chunk) for first, last in pairwise(bounds)) if keep else 0
    G, N = B.shape[2:]
    marks = dt.new_empty(x.shape[0], n, G, N, x.shape[2] // G * x.shape[3])
    return dt.new_empty(x.shape), dt.new_empty(S.shape), marks


def _definition(*args: Any) -> tuple[Tensor, Tensor]:
    x, dt, a, B, C, S, bounds, _, reverse, strict, _ = args
    C = shift_within(C, bounds, reverse=not reverse) if strict else C
    y, last = one_way(x, dt, a, B, C, S.flatten(0, 1), bounds, reverse)
    return shift_within(y, bounds, reverse=reverse) if strict else y, last.view(S.shape)


_scan.register_fake(_empty_results)
map_into_batch(_scan)
map_into_batch(_scan_backward)
_differentiable = differentiable(_scan, _scan_backward, _definition, tensors=6, results=2, kept=(0, 1, 2))
