"""Selective scan on a GPU: a program walks along a sequence with a block of channels, a chunk of positions at a time.

Inside a chunk positions are scanned in parallel. The state that enters each chunk is stored; the backward pass starts
from it, recomputes the others, and keeps sums over channels apart by block, so that results do not vary between runs.
"""

# Triton is not installed where types are checked
# pyright: reportMissingImports=false, reportIndexIssue=false, reportAttributeAccessIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.ops.derivatives import differentiable
from seqmix.ops.scan.reference import reference
from seqmix.ops.scan.rows import all_states, either_way, on_rows, skip_and_gate, step_sizes
from seqmix.ops.vmap import map_into_channels

# positions in a chunk, elements (positions x channels x states) in a tile, and most channels in a block
_CHUNK = 16
_TILE = 2048
_CHANNELS = 16
# with 16 states the backward pass fits its registers, as compiled for sm_90; never timed on a GPU
_WARPS = 8


def scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    h: Tensor,
    bias: Tensor,
    skip: Tensor,
    z: Tensor,
    zoh: bool,
    reverse: bool,
    bounds: list[int],
) -> tuple[Tensor, Tensor]:
    """Return y and the last states; arguments as all implementations have them."""
    y, h, _ = _differentiable(u, step_sizes(dt, bias), A, B, C, all_states(h, u, bounds), zoh, reverse, bounds)
    return skip_and_gate(y, u, skip, z), h


@torch.library.custom_op("seqmix::selective_scan_triton", mutates_args=())
def _scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    h: Tensor,
    zoh: bool,
    reverse: bool,
    bounds: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the last states and those that enter the chunks."""
    y, last, marks = _empty_results(u, dt, B, h, bounds)
    u, dt, A, B, C, h = (t.contiguous() for t in (u, dt, A, B, C, h))
    grid, sizes = _layout(u, B, h)
    with torch.cuda.device_of(u):
        _forward[grid](
            u, dt, A, B, C, h, _ends(u, bounds), y, last, marks, **sizes, zoh=zoh, reverse=reverse, num_warps=_WARPS
        )
    return y, last, marks


@torch.library.custom_op("seqmix::selective_scan_triton_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    h: Tensor,
    marks: Tensor,
    zoh: bool,
    reverse: bool,
    bounds: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients to u, dt, A, B, C and the initial states."""
    du, ddt, dh = (t.new_empty(t.shape) for t in (u, dt, grad_last))
    grid, sizes = _layout(u, B, grad_last)
    dA = grad_last.new_empty(grad_last.shape)
    dB, dC = dt.new_empty(2, grid[1] // B.shape[2], *B.shape).unbind()
    inputs = (t.contiguous() for t in (grad_y, grad_last, u, dt, A, B, C, marks))
    with torch.cuda.device_of(u):
        _backward[grid](
            *inputs, _ends(u, bounds), du, ddt, dA, dB, dC, dh, **sizes, zoh=zoh, reverse=reverse, num_warps=_WARPS
        )
    return du, ddt, dA.sum(0), dB.sum(0).to(B.dtype), dC.sum(0).to(C.dtype), dh


@triton.jit
def _forward(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, h_ptr, ends_ptr, y_ptr, last_ptr, marks_ptr,
    D, G, P,
    N: tl.constexpr, T: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, zoh: tl.constexpr, reverse: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(0).to(tl.int64)
    g, d, n, inside = _place(P, N, BD, BN)
    first, end, chunk = _sequence(ends_ptr, item, T)
    A = tl.load(A_ptr + d[:, None] * N + n[None, :], mask=inside, other=0.0)  # (BD, BN)
    of_item = item * D * N + d[:, None] * N + n[None, :]
    state = tl.load(h_ptr + of_item, mask=inside, other=0.0)
    t = tl.arange(0, T)
    for i in range(0, end - first, T):
        at_mark = ((chunk + i // T) * N + n[None, :]) * D + d[:, None]
        tl.store(marks_ptr + at_mark, state, mask=inside)
        pos = end - 1 - i - t if reverse else first + i + t
        dt, u, B = _inputs(dt_ptr, u_ptr, B_ptr, pos, i + t < end - first, d, n, g, D, G, N, P, BD)
        C = _codes(C_ptr, pos, i + t < end - first, n, g, G, N)
        a = tl.exp(dt[:, :, None] * A[None, :, :])  # (T, BD, BN)
        x = _write(dt, A, zoh) * u[:, :, None] * B[:, None, :]
        kept, h = tl.associative_scan((a, x), 0, _then)
        h += kept * state[None, :, :]
        y = tl.sum(h * C[:, None, :], 2)
        channels = (i + t < end - first)[:, None] & (d < (g + 1) * P)[None, :]
        tl.store(y_ptr + pos[:, None] * D + d[None, :], y, mask=channels)
        state = tl.sum(tl.where((t == T - 1)[:, None, None], h, 0.0), 0)
    tl.store(last_ptr + of_item, state, mask=inside)


@triton.jit
def _backward(
    grad_ptr, grad_last_ptr, u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, marks_ptr, ends_ptr,
    du_ptr, ddt_ptr, dA_ptr, dB_ptr, dC_ptr, dh_ptr,
    D, G, P,
    N: tl.constexpr, T: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, zoh: tl.constexpr, reverse: tl.constexpr,
):  # fmt: skip
    """From the last chunk to the first, with ``lam_t = g_t C_t + a_{t+1} lam_{t+1}``, the gradient to the state.

    States and their gradients are scanned with the decay of the neighbor, as each is needed before the own decay.
    """
    item = tl.program_id(0).to(tl.int64)
    g, d, n, inside = _place(P, N, BD, BN)
    first, end, chunk = _sequence(ends_ptr, item, T)
    positions = tl.load(ends_ptr + tl.num_programs(0))
    part = tl.program_id(1) // G
    A = tl.load(A_ptr + d[:, None] * N + n[None, :], mask=inside, other=0.0)
    of_item = item * D * N + d[:, None] * N + n[None, :]
    carry = tl.load(grad_last_ptr + of_item, mask=inside, other=0.0)
    dA = tl.zeros((BD, BN), dtype=tl.float32)
    t = tl.arange(0, T)
    for back in range(0, end - first, T):
        i = (end - first - 1) // T * T - back
        valid = i + t < end - first
        step = -1 if reverse else 1
        pos = end - 1 - i - t if reverse else first + i + t
        channels = valid[:, None] & (d < (g + 1) * P)[None, :]
        at = pos[:, None] * D + d[None, :]
        dt, u, B = _inputs(dt_ptr, u_ptr, B_ptr, pos, valid, d, n, g, D, G, N, P, BD)
        C = _codes(C_ptr, pos, valid, n, g, G, N)
        grad = tl.load(grad_ptr + at, mask=channels, other=0.0)
        after = (i + t + 1 < end - first)[:, None] & (d < (g + 1) * P)[None, :]
        dt_next = tl.load(dt_ptr + at + step * D, mask=after, other=0.0)
        kept, lam = tl.associative_scan(
            (tl.exp(dt_next[:, :, None] * A[None, :, :]), grad[:, :, None] * C[:, None, :]), 0, _then, reverse=True
        )
        lam += kept * carry[None, :, :]
        carry = tl.sum(tl.where((t == 0)[:, None, None], lam, 0.0), 0)

        before = valid & (t > 0)
        dt_b, u_b, B_b = _inputs(dt_ptr, u_ptr, B_ptr, pos - step, before, d, n, g, D, G, N, P, BD)
        x = _write(dt_b, A, zoh) * u_b[:, :, None] * B_b[:, None, :]
        kept, h = tl.associative_scan((tl.exp(dt_b[:, :, None] * A[None, :, :]), x), 0, _then)
        at_mark = ((chunk + i // T) * N + n[None, :]) * D + d[:, None]
        h += kept * tl.load(marks_ptr + at_mark, mask=inside, other=0.0)[None, :, :]

        a = tl.exp(dt[:, :, None] * A[None, :, :])
        w = _write(dt, A, zoh)
        q = lam * a * h
        v = lam * B[:, None, :]
        du, ddt = tl.sum(v * w, 2), tl.sum(q * A[None, :, :], 2)
        dA += tl.sum(q * dt[:, :, None], 0)
        v *= u[:, :, None]
        if zoh:
            ddt += tl.sum(v * a, 2)
            dA += tl.sum(v * (dt * dt)[:, :, None] * _slope(dt[:, :, None] * A[None, :, :]), 0)
        else:
            ddt += tl.sum(v, 2)
        tl.store(du_ptr + at, du, mask=channels)
        tl.store(ddt_ptr + at, ddt, mask=channels)
        at_code = ((part * positions + pos)[:, None] * G + g) * N + n[None, :]
        states = valid[:, None] & (n < N)[None, :]
        tl.store(dB_ptr + at_code, tl.sum(lam * w * u[:, :, None], 1), mask=states)
        h = a * h + w * u[:, :, None] * B[:, None, :]
        tl.store(dC_ptr + at_code, tl.sum(grad[:, :, None] * h, 1), mask=states)
        if i == 0:
            a_first = tl.sum(tl.where((t == 0)[:, None, None], a, 0.0), 0)
            tl.store(dh_ptr + of_item, carry * a_first, mask=inside)
    tl.store(dA_ptr + of_item, dA, mask=inside)


@triton.jit
def _place(P, N: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr):
    """Group, channels and states of this program, and which of them there are."""
    groups = tl.num_programs(1) // tl.cdiv(P, BD)
    g = (tl.program_id(1) % groups).to(tl.int64)
    d = g * P + tl.program_id(1) // groups * BD + tl.arange(0, BD)
    n = tl.arange(0, BN)
    return g, d, n, (d < (g + 1) * P)[:, None] & (n < N)[None, :]


@triton.jit
def _sequence(ends_ptr, item, T: tl.constexpr):
    """First position of a sequence, the one after its last, and the number of its first chunk."""
    first = tl.load(ends_ptr + item)
    return first, tl.load(ends_ptr + item + 1), first // T + item


@triton.jit
def _inputs(dt_ptr, u_ptr, B_ptr, pos, valid, d, n, g, D, G, N: tl.constexpr, P, BD: tl.constexpr):
    """``dt, u (T, BD)`` and ``B (T, BN)``; a step of size zero changes nothing."""
    mask = valid[:, None] & (d < (g + 1) * P)[None, :]
    at = pos[:, None] * D + d[None, :]
    dt = tl.load(dt_ptr + at, mask=mask, other=0.0)
    u = tl.load(u_ptr + at, mask=mask, other=0.0).to(tl.float32)
    return dt, u, _codes(B_ptr, pos, valid, n, g, G, N)


@triton.jit
def _codes(ptr, pos, valid, n, g, G, N: tl.constexpr):
    mask = valid[:, None] & (n < N)[None, :]
    return tl.load(ptr + (pos[:, None] * G + g) * N + n[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _write(dt, A, zoh: tl.constexpr):
    """Factor of u B: ``(T, BD, BN)``, or 1 where it does not depend on the state."""
    w = dt[:, :, None]
    if zoh:
        x = w * A[None, :, :]
        small = 1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720 + x * (1 / 5040))))))
        near = tl.abs(x) < 0.5
        w = w * tl.where(near, small, (tl.exp(x) - 1) / tl.where(near, 1.0, x))
    return w


@triton.jit
def _slope(x):
    """Derivative of ``(e^x - 1) / x``."""
    small = 1 / 2 + x * (1 / 3 + x * (1 / 8 + x * (1 / 30 + x * (1 / 144 + x * (1 / 840 + x * (1 / 5760))))))
    near = tl.abs(x) < 0.5
    z = tl.where(near, 1.0, x)
    return tl.where(near, small, (tl.exp(x) * (x - 1) + 1) / (z * z))


@triton.jit
def _then(a1, x1, a2, x2):
    return a1 * a2, a2 * x1 + x2


def _layout(u: Tensor, B: Tensor, h: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    D, (G, N) = u.shape[2], B.shape[2:]
    P, BN = D // G, triton.next_power_of_2(N)
    BD = min(_CHANNELS, triton.next_power_of_2(P), max(1, _TILE // _CHUNK // BN))
    sizes = {"D": D, "G": G, "P": P, "N": N, "T": _CHUNK, "BD": BD, "BN": BN}
    return (len(h), G * triton.cdiv(P, BD)), sizes


def _ends(u: Tensor, bounds: list[int]) -> Tensor:
    """Bounds of all sequences of the batch, one row after another."""
    if len(bounds) > 2:
        return torch.tensor(bounds, device=u.device)
    return torch.arange(len(u) + 1, device=u.device) * u.shape[1]


def _empty_results(u: Tensor, dt: Tensor, B: Tensor, h: Tensor, bounds: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    chunks = u.shape[0] * u.shape[1] // _CHUNK + h.shape[0]
    return dt.new_empty(u.shape), h.new_empty(h.shape), h.new_zeros(chunks, B.shape[3], u.shape[2])


def _definition(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    h: Tensor,
    zoh: bool,
    reverse: bool,
    bounds: list[int],
) -> tuple[Tensor, Tensor]:
    nothing = dt.new_empty(0)
    absent = (nothing, nothing, dt.new_empty(*dt.shape[:2], 0))
    return on_rows(either_way(reference))(u, dt, A, B, C, h, *absent, zoh, reverse, bounds)


_scan.register_fake(lambda u, dt, A, B, C, h, zoh, reverse, bounds: _empty_results(u, dt, B, h, bounds))
map_into_channels(_scan, (2, 2, 0, 2, 2, 1), (2, 1, 2))
map_into_channels(_scan_backward, (2, 1, 2, 2, 0, 2, 2, 1, 2), (2, 2, 0, 2, 2, 1))
_differentiable = differentiable(_scan, _scan_backward, _definition, tensors=6, results=2, kept=(2,))
