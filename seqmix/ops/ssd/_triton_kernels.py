"""The five kernels of SSD: a program has a chunk of Q positions and a head, and walks over blocks of the state.

Layouts: ``x, y, g (positions, H, P)``, ``B, C (positions, W, G, N)``, steps and decays ``(c, W, H, Q)``, states
``(c, W, H, P, N)``, ``table (c, 2)`` first position and length of a chunk. Of two ways the second is reversed and both
leave out the diagonal. Only decays of at most 1 are formed.
"""

# Triton is not installed where types are checked
# pyright: reportMissingImports=false, reportIndexIssue=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl


@triton.jit
def states_kernel(
    x_ptr, weights_ptr, B_ptr, table_ptr, out_ptr,
    H, G, P, N,
    W: tl.constexpr, Q: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """``sum_j weights_j x_j B_j^T`` of a chunk and head."""
    c, w, h = tl.program_id(0).to(tl.int64), tl.program_id(1) // H, tl.program_id(1) % H
    first, length = tl.load(table_ptr + 2 * c), tl.load(table_ptr + 2 * c + 1)
    p, n = tl.arange(0, BP), tl.program_id(2) * BN + tl.arange(0, BN)
    x = _values(x_ptr, first, length, h, H, P, Q, BP)
    B = _codes(B_ptr, first, length, w, h // (H // G), n, W, G, N, Q)
    weights = tl.load(weights_ptr + ((c * W + w) * H + h) * Q + tl.arange(0, Q))
    xe = (x * weights[:, None]).to(B.dtype)
    out = tl.dot(tl.trans(xe), B, input_precision=precision)
    at = (((c * W + w) * H + h) * P + p[:, None]) * N + n[None, :]
    tl.store(out_ptr + at, out, mask=(p < P)[:, None] & (n < N)[None, :])


@triton.jit
def passing_kernel(
    writes_ptr, total_ptr, items_ptr, start_ptr, entering_ptr, end_ptr,
    H, PN, sequences,
    W: tl.constexpr, BLOCK: tl.constexpr, reverse: tl.constexpr, back: tl.constexpr,
):  # fmt: skip
    """Pass states along the chunks of a sequence, ``back`` against the order of the scan."""
    item, w, h = tl.program_id(0).to(tl.int64), tl.program_id(1) // H, tl.program_id(1) % H
    first, end = tl.load(items_ptr + item), tl.load(items_ptr + item + 1)
    k = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    at_item = (((item // sequences * W + w) * sequences + item % sequences) * H + h) * PN + k
    state = tl.load(start_ptr + at_item, mask=k < PN, other=0.0)
    downwards = ((reverse or w == 1) and not back) or (back and not (reverse or w == 1))
    for i in range(0, end - first):
        c = end - 1 - i if downwards else first + i
        at = ((c * W + w) * H + h) * PN + k
        tl.store(entering_ptr + at, state, mask=k < PN)
        decay = tl.exp(tl.load(total_ptr + (c * W + w) * H + h))
        state = decay * state + tl.load(writes_ptr + at, mask=k < PN, other=0.0)
    tl.store(end_ptr + at_item, state, mask=k < PN)


@triton.jit
def result_kernel(
    x_ptr, B_ptr, C_ptr, dt_ptr, s_ptr, row_ptr, states_ptr, table_ptr, y_ptr,
    H, G, P, N,
    W: tl.constexpr, Q: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    reverse: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """``y``: what comes from inside the chunk, both triangles in one product, and from the states that enter it."""
    c, h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first, length = tl.load(table_ptr + 2 * c), tl.load(table_ptr + 2 * c + 1)
    p = tl.arange(0, BP)
    x = _values(x_ptr, first, length, h, H, P, Q, BP)
    M = tl.zeros((Q, Q), dtype=tl.float32)
    y = tl.zeros((Q, BP), dtype=tl.float32)
    for w in tl.static_range(W):
        scores = tl.zeros((Q, Q), dtype=tl.float32)
        entered = tl.zeros((Q, BP), dtype=tl.float32)
        for block in range(0, N, BN):
            n = block + tl.arange(0, BN)
            B = _codes(B_ptr, first, length, w, h // (H // G), n, W, G, N, Q)
            C = _codes(C_ptr, first, length, w, h // (H // G), n, W, G, N, Q)
            S = _state(states_ptr, c, w, h, p, n, W, H, P, N)
            scores += tl.dot(C, tl.trans(B), input_precision=precision)
            entered += tl.dot(C, tl.trans(S).to(C.dtype), input_precision=precision)
        dt, s, row = _steps(dt_ptr, s_ptr, row_ptr, c, w, h, W, H, Q)
        M += scores * _decays(s, row, reverse or w == 1, W, Q) * dt[None, :]
        y += entered * tl.exp(row)[:, None]
    y += tl.dot(M.to(x.dtype), x, input_precision=precision)
    at, mask = _places(first, length, h, H, P, Q, BP)
    tl.store(y_ptr + at, y, mask=mask)


@triton.jit
def values_kernel(
    x_ptr, B_ptr, C_ptr, dt_ptr, s_ptr, row_ptr, states_ptr, carries_ptr, g_ptr, table_ptr,
    dx_ptr, drow_ptr, ddt_ptr, through_ptr,
    H, G, P, N,
    W: tl.constexpr, Q: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    reverse: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Gradients to x and dt, to the decay up to each row, and to that of the whole chunk."""
    c, h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first, length = tl.load(table_ptr + 2 * c), tl.load(table_ptr + 2 * c + 1)
    p, q = tl.arange(0, BP), tl.arange(0, Q)
    x = _values(x_ptr, first, length, h, H, P, Q, BP)
    g = _values(g_ptr, first, length, h, H, P, Q, BP)
    dM = tl.dot(g, tl.trans(x), input_precision=precision)
    M = tl.zeros((Q, Q), dtype=tl.float32)
    dx = tl.zeros((Q, BP), dtype=tl.float32)
    for w in tl.static_range(W):
        scores = tl.zeros((Q, Q), dtype=tl.float32)
        entered = tl.zeros((Q, BP), dtype=tl.float32)
        leaving = tl.zeros((Q, BP), dtype=tl.float32)
        kept = 0.0
        for block in range(0, N, BN):
            n = block + tl.arange(0, BN)
            B = _codes(B_ptr, first, length, w, h // (H // G), n, W, G, N, Q)
            C = _codes(C_ptr, first, length, w, h // (H // G), n, W, G, N, Q)
            S = _state(states_ptr, c, w, h, p, n, W, H, P, N)
            carry = _state(carries_ptr, c, w, h, p, n, W, H, P, N)
            scores += tl.dot(C, tl.trans(B), input_precision=precision)
            entered += tl.dot(C, tl.trans(S).to(C.dtype), input_precision=precision)
            leaving += tl.dot(B, tl.trans(carry).to(B.dtype), input_precision=precision)
            kept += tl.sum(S * carry)
        dt, s, row = _steps(dt_ptr, s_ptr, row_ptr, c, w, h, W, H, Q)
        at_end = tl.where(q == (0 if (reverse or w == 1) else Q - 1), s, 0.0)
        total = tl.sum(at_end)
        rest = tl.exp(total - s)
        E = scores * _decays(s, row, reverse or w == 1, W, Q)
        M += E * dt[None, :]
        dx += leaving * (dt * rest)[:, None]
        K = dM * E
        left = rest * tl.sum(x * leaving, 1)
        at = ((c * W + w) * H + h) * Q + q
        tl.store(ddt_ptr + at, tl.sum(K, 0) + left)
        tl.store(drow_ptr + at, tl.sum(K * dt[None, :], 1) + tl.exp(row) * tl.sum(g * entered, 1))
        tl.store(through_ptr + (c * W + w) * H + h, kept * tl.exp(total) + tl.sum(left * dt))
    dx += tl.dot(tl.trans(M).to(g.dtype), g, input_precision=precision)
    at, mask = _places(first, length, h, H, P, Q, BP)
    tl.store(dx_ptr + at, dx, mask=mask)


@triton.jit
def codes_kernel(
    x_ptr, B_ptr, C_ptr, dt_ptr, s_ptr, row_ptr, states_ptr, carries_ptr, g_ptr, table_ptr, dB_ptr, dC_ptr,
    H, G, P, N,
    W: tl.constexpr, Q: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    reverse: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Gradients to a block of B and C, summed over the heads of a group."""
    c, w, group = tl.program_id(0).to(tl.int64), tl.program_id(1) // G, tl.program_id(1) % G
    first, length = tl.load(table_ptr + 2 * c), tl.load(table_ptr + 2 * c + 1)
    p, q, n = tl.arange(0, BP), tl.arange(0, Q), tl.program_id(2) * BN + tl.arange(0, BN)
    dscores = tl.zeros((Q, Q), dtype=tl.float32)
    dB = tl.zeros((Q, BN), dtype=tl.float32)
    dC = tl.zeros((Q, BN), dtype=tl.float32)
    for h in range(group * (H // G), (group + 1) * (H // G)):
        x = _values(x_ptr, first, length, h, H, P, Q, BP)
        g = _values(g_ptr, first, length, h, H, P, Q, BP)
        dt, s, row = _steps(dt_ptr, s_ptr, row_ptr, c, w, h, W, H, Q)
        total = tl.sum(tl.where(q == tl.where(reverse or w == 1, 0, Q - 1), s, 0.0))
        S = _state(states_ptr, c, w, h, p, n, W, H, P, N).to(x.dtype)
        carry = _state(carries_ptr, c, w, h, p, n, W, H, P, N).to(x.dtype)
        dM = tl.dot(g, tl.trans(x), input_precision=precision)
        dscores += dM * _decays(s, row, reverse or w == 1, W, Q) * dt[None, :]
        dC += tl.dot((g * tl.exp(row)[:, None]).to(x.dtype), S, input_precision=precision)
        dB += tl.dot((x * (dt * tl.exp(total - s))[:, None]).to(x.dtype), carry, input_precision=precision)
    B = _codes(B_ptr, first, length, w, group, n, W, G, N, Q)
    C = _codes(C_ptr, first, length, w, group, n, W, G, N, Q)
    dC += tl.dot(dscores.to(B.dtype), B, input_precision=precision)
    dB += tl.dot(tl.trans(dscores).to(C.dtype), C, input_precision=precision)
    at = (((first + q)[:, None] * W + w) * G + group) * N + n[None, :]
    mask = (q < length)[:, None] & (n < N)[None, :]
    tl.store(dB_ptr + at, dB, mask=mask)
    tl.store(dC_ptr + at, dC, mask=mask)


@triton.jit
def _places(first, length, h, H, P, Q: tl.constexpr, BP: tl.constexpr):
    q, p = tl.arange(0, Q), tl.arange(0, BP)
    return ((first + q)[:, None] * H + h) * P + p[None, :], (q < length)[:, None] & (p < P)[None, :]


@triton.jit
def _values(ptr, first, length, h, H, P, Q: tl.constexpr, BP: tl.constexpr):
    at, mask = _places(first, length, h, H, P, Q, BP)
    return tl.load(ptr + at, mask=mask, other=0.0)


@triton.jit
def _codes(ptr, first, length, w, group, n, W: tl.constexpr, G, N, Q: tl.constexpr):
    q = tl.arange(0, Q)
    at = (((first + q)[:, None] * W + w) * G + group) * N + n[None, :]
    return tl.load(ptr + at, mask=(q < length)[:, None] & (n < N)[None, :], other=0.0)


@triton.jit
def _state(ptr, c, w, h, p, n, W: tl.constexpr, H, P, N):
    at = (((c * W + w) * H + h) * P + p[:, None]) * N + n[None, :]
    return tl.load(ptr + at, mask=(p < P)[:, None] & (n < N)[None, :], other=0.0)


@triton.jit
def _steps(dt_ptr, s_ptr, row_ptr, c, w, h, W: tl.constexpr, H, Q: tl.constexpr):
    at = ((c * W + w) * H + h) * Q + tl.arange(0, Q)
    return tl.load(dt_ptr + at), tl.load(s_ptr + at), tl.load(row_ptr + at)


@triton.jit
def _decays(s, row, reverse, W: tl.constexpr, Q: tl.constexpr):
    """Decay from the writer j to the reader i ``(Q, Q)``, zero outside the triangle."""
    i, j = tl.arange(0, Q)[:, None], tl.arange(0, Q)[None, :]
    ahead = tl.where(reverse, j - i, i - j)
    # rounding may leave a sum of decays just above zero
    decay = tl.exp(tl.minimum(row[:, None] - s[None, :], 0.0))
    return tl.where(ahead >= W - 1, decay, 0.0)
