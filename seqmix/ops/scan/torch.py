"""Selective scan in chunks: portable, fast on a CPU, with its own backward pass.

A state is laid out as ``(rows, G, N, P)`` with the channels of a group last, so that inner loops are contiguous. The
states of a chunk, ``(rows, T, G, N, P)``, live in a buffer that fits into a cache; only the one that enters is stored.
"""

import torch
from torch import Tensor

from seqmix.ops.derivatives import differentiable
from seqmix.ops.scan.reference import reference
from seqmix.ops.scan.rows import either_way
from seqmix.ops.vmap import map_into_channels

# steps in a chunk; elements in a buffer: 2 MB of float32 for the cache of a CPU, enough to occupy a GPU
_CHUNK = 32
_CPU_BUFFER = 2**19
_GPU_BUFFER = 2**24
_LOG2_E = 1.4426950408889634


def scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, zoh: bool, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Return y and the last state; arguments as ``reference``, and the direction."""
    y, h, _ = _differentiable(u, dt, A, B, C, h, zoh, reverse)
    return y, h


@torch.library.custom_op("seqmix::selective_scan", mutates_args=())
def _scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, zoh: bool, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the last state and the state that enters each chunk."""
    y, last, marks = _empty_results(u, dt, B, h)
    A = _lanes(A, B, 0)
    blocks, scratch = _blocks(u, B, 2)
    for rows in blocks:
        state = _lanes(h[rows], B, 1)
        for mark, steps in zip(marks[:, rows].unbind(), _chunks(u, reverse), strict=True):
            state = mark.copy_(state)
            a, x = _discretize(u[rows, steps], dt[rows, steps], A, B[rows, steps], zoh, scratch)
            for a_t, x_t in zip(_walk(a, reverse), _walk(x, reverse), strict=True):
                state = x_t.addcmul_(a_t, state)
            y[rows, steps] = _matmul(C[rows, steps].unsqueeze(-2), x).flatten(2)
        last[rows] = state.mT.flatten(1, 2)
    return y, last, marks


@torch.library.custom_op("seqmix::selective_scan_backward", mutates_args=())
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients to u, dt, A, B, C and the initial state, from the last chunk to the first.

    With ``lam_t = g_t C_t + a_{t+1} lam_{t+1}``, the gradient to the state, and ``q_t = lam_t a_t h_{t-1}``:
    ``dC = sum_p g h``, ``dA = sum_t dt q``, ``ddt = sum_n A q`` and what ``_through_input`` adds.
    """
    du, ddt, dB, dC, dh = (x.new_empty(x.shape) for x in (u, dt, B, C, grad_last))
    A = _lanes(A, B, 0)
    dA = torch.zeros_like(A)
    G, P = A.shape[0], A.shape[-1]
    blocks, scratch = _blocks(u, B, 3)
    for rows in blocks:
        carry = _lanes(grad_last[rows], B, 1)
        for mark, steps in zip(marks[:, rows].unbind()[::-1], reversed(_chunks(u, reverse)), strict=True):
            u_c, dt_c, B_c, C_c, g = (x[rows, steps] for x in (u, dt, B, C, grad_y))
            a, x = _discretize(u_c, dt_c, A, B_c, zoh, scratch)
            q = scratch[2, : a.numel()].view(a.shape)
            state = mark
            for a_t, x_t, q_t in zip(_walk(a, reverse), _walk(x, reverse), _walk(q, reverse), strict=True):
                torch.mul(a_t, state, out=q_t)
                state = x_t.add_(q_t)
            u_c, dt_c, g = (v.unflatten(2, (G, 1, P)) for v in (u_c, dt_c, g))
            dC[rows, steps] = _matmul(g, x.mT).squeeze(-2)
            lam = torch.mul(g, C_c.unsqueeze(-1), out=x)  # the states have served
            a_s, lam_s = _walk(a, not reverse), _walk(lam, not reverse)
            lam_s[0].add_(carry)
            for lam_t, a_next, lam_next in zip(lam_s[1:], a_s, lam_s, strict=False):
                lam_t.addcmul_(a_next, lam_next)
            carry = a_s[-1] * lam_s[-1]
            q.mul_(lam)
            du_c, ddt_c, dA_c, dB[rows, steps] = _through_input(lam, u_c, dt_c, a, A, B_c, zoh)
            du[rows, steps] = du_c.flatten(2)
            ddt[rows, steps] = (torch.mul(q, A, out=a).sum(-2, keepdim=True) + ddt_c).flatten(2)
            dA += q.mul_(dt_c).sum((0, 1)) + dA_c
        dh[rows] = carry.mT.flatten(1, 2)
    return du, ddt, dA.mT.flatten(0, 1).contiguous(), dB, dC, dh


def _discretize(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, zoh: bool, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Fill two buffers with ``exp(dt A)`` and ``B_bar u``, each ``(rows, T, G, N, P)``."""
    G, N, P = A.shape
    shape = (*u.shape[:2], G, N, P)
    a, x = scratch[:2, : u.numel() * N].view(2, *shape)
    u, dt, B = u.unflatten(2, (G, 1, P)), dt.unflatten(2, (G, 1, P)), B.unsqueeze(-1)
    # exp2 is nearly twice as fast as exp on a CPU
    torch.mul(dt, A * _LOG2_E, out=a).exp2_()
    if zoh:
        torch.mul(dt, A, out=x).expm1_().div_(A).mul_(u).mul_(B)
    else:
        torch.mul(dt * u, B, out=x)
    return a, x


def _through_input(
    lam: Tensor, u: Tensor, dt: Tensor, a: Tensor, A: Tensor, B: Tensor, zoh: bool
) -> tuple[Tensor, Tensor, Tensor | float, Tensor]:
    """Gradients to u, dt, A and B through the term ``B_bar u`` of the recurrence."""
    if not zoh:
        s = _matmul(B.unsqueeze(-2), lam)
        return dt * s, u * s, 0.0, _matmul(dt * u, lam.mT).squeeze(-2)
    w = torch.expm1(dt * A).div_(A)
    s = lam * B.unsqueeze(-1)
    v = s * u
    return (
        (s * w).sum(-2, keepdim=True),
        (v * a).sum(-2, keepdim=True),
        (v * (dt * a - w)).sum((0, 1)) / A,
        (lam * w * u).sum(-1),
    )


def _lanes(x: Tensor, B: Tensor, axis: int) -> Tensor:
    """Turn ``(.., D, N)`` into ``(.., G, N, P)``."""
    return x.unflatten(axis, (B.shape[2], -1)).mT.contiguous()


def _matmul(x: Tensor, y: Tensor) -> Tensor:
    # autocast would lower the product to half precision
    with torch.autocast(x.device.type, enabled=False):
        return x @ y


def _chunks(u: Tensor, reverse: bool) -> list[slice]:
    """Slices of time in the order of the scan."""
    chunks = [slice(t, min(t + _CHUNK, u.shape[1])) for t in range(0, u.shape[1], _CHUNK)]
    return chunks[::-1] if reverse else chunks


def _walk(x: Tensor, reverse: bool) -> tuple[Tensor, ...]:
    """Positions of a chunk in the order of the scan."""
    return x.unbind(1)[::-1] if reverse else x.unbind(1)


def _blocks(u: Tensor, B: Tensor, n: int) -> tuple[list[slice], Tensor]:
    """Slices of the batch whose chunks fit into the buffer, and n such buffers."""
    Bt, L, D = u.shape
    row = min(L, _CHUNK) * D * B.shape[-1]
    rows = max(1, min(Bt, (_CPU_BUFFER if u.device.type == "cpu" else _GPU_BUFFER) // max(1, row)))
    return [slice(i, i + rows) for i in range(0, Bt, rows)], u.new_empty(n, rows * row)


def _empty_results(u: Tensor, dt: Tensor, B: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    Bt, L, D = u.shape
    G, N = B.shape[2:]
    return u.new_empty(u.shape), u.new_empty(h.shape), u.new_empty(-(-L // _CHUNK), Bt, G, N, D // G)


_scan.register_fake(lambda u, dt, A, B, C, h, zoh, reverse: _empty_results(u, dt, B, h))
map_into_channels(_scan, (2, 2, 0, 2, 2, 1), (2, 1, 2))
map_into_channels(_scan_backward, (2, 1, 2, 2, 0, 2, 2, 1, 2), (2, 2, 0, 2, 2, 1))
_differentiable = differentiable(_scan, _scan_backward, either_way(reference), tensors=6, results=2, kept=(2,))
