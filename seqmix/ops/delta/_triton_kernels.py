"""The two kernels of the gated delta rule: a program has a head, a block of its values, and a state ``(K, V)``.

It walks along a sequence, C positions at a time. Layouts: ``q, e, w (rows, L, H, K)``, ``v, y (rows, L, H, V)``, log
decays ``g (rows, L, H, 1 or K)``, states ``(rows, sequences, H, K, V)``, of chunks ``(rows, chunks, H, K, V)``. The
decay of a pair of positions is the product of those of single steps.
"""

# Triton is not installed where types are checked
# pyright: reportMissingImports=false, reportIndexIssue=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl


@triton.jit
def forward_kernel(
    q_ptr, e_ptr, w_ptr, v_ptr, g_ptr, S_ptr, bounds_ptr, y_ptr, last_ptr, marks_ptr,
    L, H, K, V, sequences, chunks,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, channels: tl.constexpr, erases: tl.constexpr,
    keep: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Results, last states and, if ``keep``, the states that enter the chunks."""
    item, h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c, k, v = tl.arange(0, C), tl.arange(0, BK), tl.program_id(2) * BV + tl.arange(0, BV)
    first, length, mark = _sequence(bounds_ptr, item, L, sequences, chunks, C)
    at_item, inside = _state(item, h, k, v, H, K, V)
    state = tl.load(S_ptr + at_item, mask=inside, other=0.0)
    for i in range(0, length, C):
        pos, valid, count = first + i + c, i + c < length, tl.minimum(C, length - i)
        if keep:
            tl.store(marks_ptr + _state(mark + i // C, h, k, v, H, K, V)[0], state, mask=inside)
        A, M, writes = _pairs(q_ptr, e_ptr, w_ptr, g_ptr, first + i, count, h, k, H, K, C, BK, channels, erases)
        g = _decays(g_ptr, pos[:, None], valid[:, None], h, k[None, :], H, K, channels)
        since = tl.exp(tl.cumsum(g, 0))
        u = _load(v_ptr, pos[:, None], valid[:, None], h, v[None, :], H, V)
        if erases:
            e = _load(e_ptr, pos[:, None], valid[:, None], h, k[None, :], H, K)
            u = _solve(A, u - tl.dot(e * since, state, input_precision=precision), count, C, False)
        q = _load(q_ptr, pos[:, None], valid[:, None], h, k[None, :], H, K)
        y = tl.dot(q * since, state, input_precision=precision) + tl.dot(M, u, input_precision=precision)
        _store(y_ptr, y, pos, valid, h, v, H, V)
        state = tl.exp(tl.sum(g, 0))[:, None] * state + tl.dot(tl.trans(writes), u, input_precision=precision)
    tl.store(last_ptr + at_item, state, mask=inside)


@triton.jit
def backward_kernel(
    grad_ptr, grad_last_ptr, q_ptr, e_ptr, w_ptr, v_ptr, g_ptr, marks_ptr, bounds_ptr,
    dq_ptr, de_ptr, dw_ptr, dv_ptr, dg_ptr, dS_ptr,
    L, H, K, V, sequences, chunks, positions,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, channels: tl.constexpr, erases: tl.constexpr,
    precision: tl.constexpr,
):  # fmt: skip
    """Gradients, from the last chunk to the first; those to ``q, e, w, g`` come from a block of values each."""
    item, h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c, k, v = tl.arange(0, C), tl.arange(0, BK), tl.program_id(2) * BV + tl.arange(0, BV)
    first, length, mark = _sequence(bounds_ptr, item, L, sequences, chunks, C)
    part = tl.program_id(2).to(tl.int64) * positions
    at_item, inside = _state(item, h, k, v, H, K, V)
    carry = tl.load(grad_last_ptr + at_item, mask=inside, other=0.0)
    lower, strict = c[:, None] >= c[None, :], c[:, None] > c[None, :]
    for back in range(0, length, C):
        i = (length - 1) // C * C - back
        pos, valid, count = first + i + c, i + c < length, tl.minimum(C, length - i)
        state = tl.load(marks_ptr + _state(mark + i // C, h, k, v, H, K, V)[0], mask=inside, other=0.0)
        A, M, writes = _pairs(q_ptr, e_ptr, w_ptr, g_ptr, first + i, count, h, k, H, K, C, BK, channels, erases)
        g = _decays(g_ptr, pos[:, None], valid[:, None], h, k[None, :], H, K, channels)
        since, total = tl.exp(tl.cumsum(g, 0)), tl.exp(tl.sum(g, 0))
        read = _load(q_ptr, pos[:, None], valid[:, None], h, k[None, :], H, K) * since
        u = _load(v_ptr, pos[:, None], valid[:, None], h, v[None, :], H, V)
        grad = _load(grad_ptr, pos[:, None], valid[:, None], h, v[None, :], H, V)
        du = tl.dot(tl.trans(M), grad, input_precision=precision) + tl.dot(writes, carry, input_precision=precision)
        dread = tl.dot(grad, tl.trans(state), input_precision=precision)
        through = dread * read
        dA, derased = tl.zeros((C, C), dtype=tl.float32), tl.zeros((C, BK), dtype=tl.float32)
        before = total[:, None] * carry + tl.dot(tl.trans(read), grad, input_precision=precision)
        if erases:
            erased = _load(e_ptr, pos[:, None], valid[:, None], h, k[None, :], H, K) * since
            u = _solve(A, u - tl.dot(erased, state, input_precision=precision), count, C, False)
            du = _solve(tl.trans(A), du, count, C, True)
            dA -= tl.where(strict, tl.dot(du, tl.trans(u), input_precision=precision), 0.0)
            derased -= tl.dot(du, tl.trans(state), input_precision=precision)
            through += derased * erased
            before -= tl.dot(tl.trans(erased), du, input_precision=precision)
        dM = tl.where(lower, tl.dot(grad, tl.trans(u), input_precision=precision), 0.0)
        dwrites = tl.dot(u, tl.trans(carry), input_precision=precision)
        dq, de, dw, dg = _pairs_backward(
            q_ptr, e_ptr, w_ptr, g_ptr, dA, dM, dwrites, first + i, count, h, k, H, K, C, BK, channels, erases
        )
        dg += tl.cumsum(through, 0, reverse=True) + (total * tl.sum(state * carry, 1))[None, :]
        _store(dv_ptr, du, pos, valid, h, v, H, V)
        _store(dq_ptr, dq + dread * since, part + pos, valid, h, k, H, K)
        _store(dw_ptr, dw, part + pos, valid, h, k, H, K)
        if erases:
            _store(de_ptr, de + derased * since, part + pos, valid, h, k, H, K)
        if channels:
            _store(dg_ptr, dg, part + pos, valid, h, k, H, K)
        else:
            tl.store(dg_ptr + (part + pos) * H + h, tl.sum(dg, 1), mask=valid)
        carry = before
    tl.store(dS_ptr + at_item, carry, mask=inside)


@triton.jit
def _pairs(
    q_ptr, e_ptr, w_ptr, g_ptr, start, count, h, k, H, K,
    C: tl.constexpr, BK: tl.constexpr, channels: tl.constexpr, erases: tl.constexpr,
):  # fmt: skip
    """``A, M`` of ``torch.py``, and the keys written as they are at the end of the chunk ``(C, BK)``."""
    c, there = tl.arange(0, C), k < K
    w = _load(w_ptr, (start + c)[:, None], (c < count)[:, None], h, k[None, :], H, K)
    A, M = tl.zeros((C, C), dtype=tl.float32), tl.zeros((C, C), dtype=tl.float32)
    writes = tl.zeros((C, BK), dtype=tl.float32)
    for t in range(0, count):
        g = _decays(g_ptr, start + t, there, h, k, H, K, channels)
        writes = tl.where((c == t)[:, None], w, writes * tl.exp(g)[None, :])
        q = _load(q_ptr, start + t, there, h, k, H, K)
        M = tl.where((c == t)[:, None], tl.sum(writes * q[None, :], 1)[None, :], M)
        if erases:
            e = _load(e_ptr, start + t, there, h, k, H, K)
            products = tl.where(c < t, tl.sum(writes * e[None, :], 1), 0.0)
            A = tl.where((c == t)[:, None], products[None, :], A)
    return A, M, writes


@triton.jit
def _pairs_backward(
    q_ptr, e_ptr, w_ptr, g_ptr, dA, dM, dwrites, start, count, h, k, H, K,
    C: tl.constexpr, BK: tl.constexpr, channels: tl.constexpr, erases: tl.constexpr,
):  # fmt: skip
    """Gradients ``(C, BK)`` to what ``_pairs`` reads, from those to what it returns; to decays as sums over pairs."""
    c, there = tl.arange(0, C), k < K
    w = _load(w_ptr, (start + c)[:, None], (c < count)[:, None], h, k[None, :], H, K)
    dq, de = tl.zeros((C, BK), dtype=tl.float32), tl.zeros((C, BK), dtype=tl.float32)
    dw, dg = tl.zeros((C, BK), dtype=tl.float32), tl.zeros((C, BK), dtype=tl.float32)
    writes = tl.zeros((C, BK), dtype=tl.float32)
    for t in range(0, count):
        here = (c == t)[:, None]
        g = _decays(g_ptr, start + t, there, h, k, H, K, channels)
        writes = tl.where(here, w, writes * tl.exp(g)[None, :])
        dpairs = _row(dM, c, t)[:, None] * _load(q_ptr, start + t, there, h, k, H, K)[None, :]
        dq = tl.where(here, tl.sum(_row(dM, c, t)[:, None] * writes, 0)[None, :], dq)
        if erases:
            dpairs += _row(dA, c, t)[:, None] * _load(e_ptr, start + t, there, h, k, H, K)[None, :]
            de = tl.where(here, tl.sum(_row(dA, c, t)[:, None] * writes, 0)[None, :], de)
        dpairs += tl.where(t == count - 1, dwrites, 0.0)
        # a pair decays at the positions after its write, up to and including its read
        dg += tl.where((c <= t)[:, None], _sum_before(dpairs * writes, C), 0.0)
    dwritten = dwrites
    for back in range(0, count):
        t = count - 1 - back
        dwritten += _row(dM, c, t)[:, None] * _load(q_ptr, start + t, there, h, k, H, K)[None, :]
        if erases:
            dwritten += _row(dA, c, t)[:, None] * _load(e_ptr, start + t, there, h, k, H, K)[None, :]
        dw = tl.where((c == t)[:, None], dwritten, dw)
        dwritten *= tl.exp(_decays(g_ptr, start + t, there, h, k, H, K, channels))[None, :]
    return dq, de, dw, dg


@triton.jit
def _solve(A, X, count, C: tl.constexpr, back: tl.constexpr):
    """``(I + A)^-1 X`` by substitution; A is zero on and above the diagonal, ``back`` on and below it."""
    c = tl.arange(0, C)
    for i in range(0, count):
        t = count - 1 - i if back else i
        column = tl.sum(tl.where((c == t)[None, :], A, 0.0), 1)
        X -= column[:, None] * _row(X, c, t)[None, :]
    return X


@triton.jit
def _sum_before(x, C: tl.constexpr):
    """Sum over the rows before each."""
    c = tl.arange(0, C)
    return tl.dot((c[:, None] > c[None, :]).to(tl.float32), x, input_precision="ieee")


@triton.jit
def _row(x, c, t):
    return tl.sum(tl.where((c == t)[:, None], x, 0.0), 0)


@triton.jit
def _sequence(bounds_ptr, item, L, sequences, chunks, C: tl.constexpr):
    """First position of a sequence, its length, and the number of its first chunk."""
    row, i = item // sequences, item % sequences
    first, end = tl.load(bounds_ptr + i), tl.load(bounds_ptr + i + 1)
    return row * L + first, end - first, row * chunks + first // C + i


@triton.jit
def _state(item, h, k, v, H, K, V):
    """Where a state lies, and which of its elements there are."""
    at = ((item * H + h) * K + k[:, None]) * V + v[None, :]
    return at, (k < K)[:, None] & (v < V)[None, :]


@triton.jit
def _load(ptr, pos, valid, h, n, H, N):
    return tl.load(ptr + (pos * H + h) * N + n, mask=valid & (n < N), other=0.0)


@triton.jit
def _decays(ptr, pos, valid, h, k, H, K, channels: tl.constexpr):
    """Log decays of keys, one for all of a head without ``channels``."""
    at = (pos * H + h) * K + k if channels else pos * H + h + 0 * k
    return tl.load(ptr + at, mask=valid & (k < K), other=0.0)


@triton.jit
def _store(ptr, x, pos, valid, h, n, H, N):
    at = (pos[:, None] * H + h) * N + n[None, :]
    tl.store(ptr + at, x, mask=valid[:, None] & (n < N)[None, :])
