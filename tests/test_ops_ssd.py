"""ssd and quasiseparable: chunked against recurrence and matrix, values and gradients, packed, masked, extreme."""

from importlib import import_module
from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from seqmix.ops import native
from seqmix.ops.quasiseparable import quasiseparable, quasiseparable_matrix
from seqmix.ops.ssd import ssd, ssd_matrix
from seqmix.ops.ssd import torch as _chunks
from seqmix.testing import assert_close_ratio

H, P, N = 4, 3, 5

compiled = pytest.mark.skipif(native.problem() is not None, reason=f"the kernels are {native.problem()}")
FAST = pytest.mark.parametrize("impl", ["torch", pytest.param("native", marks=compiled)])


def operands(L, batch=2, groups=2, two_way=False, dtype=torch.float64):
    """x, dt, A, B, C and an initial state; the steps and codes of two directions stacked if ``two_way``."""
    ways = (2,) if two_way else ()
    x = torch.randn(batch, L, H, P, dtype=dtype)
    dt = torch.rand(batch, L, *ways, H, dtype=dtype)
    A = -torch.rand(H, dtype=dtype)
    B, C = (torch.randn(batch, L, *ways, groups, N, dtype=dtype) for _ in range(2))
    return [x, dt, A, B, C], torch.randn(batch, H, P, N, dtype=dtype)


def with_grads(f, args, seed=1):
    """Outputs of ``f`` and gradients of ``args`` for a fixed cotangent."""
    args = [t.detach().requires_grad_() for t in args]
    ys = f(*args)
    ys = ys if isinstance(ys, tuple) else (ys,)
    generator = torch.Generator().manual_seed(seed)
    cotangents = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in ys]
    return [*ys, *torch.autograd.grad(ys, args, cotangents, materialize_grads=True)]


def assert_same(got, want, ratio):
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        assert_close_ratio(f"tensor {i}", g, w, ratio)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("L", "chunk"), [(1, None), (2, 1), (7, 3), (63, None), (64, 16), (65, None), (65, 999)])
# factored, factored in smaller chunks, and pair by pair
@pytest.mark.parametrize("rate", [1.0, 5.0, 200.0])
def test_chunks_are_the_recurrence(L, chunk, groups, reverse, rate):
    args, S = operands(L, groups=groups)
    args[2] *= rate

    def run(impl):
        def f(x, dt, A, B, C, S):
            return ssd(x, dt, A, B, C, initial_state=S, return_state=True, reverse=reverse, chunk=chunk, impl=impl)

        return with_grads(f, [*args, S])

    assert_same(run("torch"), run("reference"), 1e-12)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("L", "chunk"), [(1, None), (2, 1), (7, 3), (63, None), (64, 16), (65, None), (65, 999)])
@pytest.mark.parametrize("rate", [1.0, 5.0, 200.0])
def test_both_triangles_are_the_recurrences(L, chunk, groups, rate):
    args, S = operands(L, groups=groups, two_way=True)
    args[2] *= rate
    diagonal = torch.randn(2, L, H, dtype=torch.float64)

    def run(impl):
        def f(*t):
            return quasiseparable(*t[:6], initial_state=t[6], chunk=chunk, impl=impl)

        return with_grads(f, [*args, diagonal, S])

    assert_same(run("torch"), run("reference"), 1e-12)


def test_triangles_are_shifted_scans():
    # proposition 3.7 as it is printed, with its flips and shifts
    (x, dt, A, B, C), S = operands(20, two_way=True)

    def shifted_scan(i, flip):
        t = [v.flip(1) if flip else v for v in (x, dt[:, :, i], B[:, :, i], C[:, :, i])]
        y = ssd(t[0], t[1], A, t[2], t[3], initial_state=S, impl="reference").roll(1, 1)
        y[:, 0] = 0
        return y.flip(1) if flip else y

    want = shifted_scan(0, False) + shifted_scan(1, True)
    assert_close_ratio("two scans", quasiseparable(x, dt, A, B, C, initial_state=S), want, 1e-13)


@pytest.mark.parametrize("reverse", [False, True])
def test_ssd_matrix(reverse):
    (x, dt, A, B, C), _ = operands(12)
    D = torch.randn(H, dtype=torch.float64)
    M = ssd_matrix(dt, A, B, C, D, reverse=reverse)
    y = ssd(x, dt, A, B, C, D, reverse=reverse)
    assert_close_ratio("M x", torch.einsum("bhlm,bmhp->blhp", M, x), y, 1e-13)
    assert torch.equal(M, M.triu() if reverse else M.tril())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_quasiseparable_matrix(dtype):
    (x, dt, A, B, C), _ = operands(24, two_way=True, dtype=dtype)
    diagonal = torch.randn(2, 24, H, dtype=dtype)
    M = quasiseparable_matrix(dt, A, B, C, diagonal)
    y = quasiseparable(x, dt, A, B, C, diagonal)
    assert_close_ratio("M x", torch.einsum("bhlm,bmhp->blhp", M, x), y, 1e-13 if dtype == torch.float64 else 1e-6)
    assert torch.equal(M.diagonal(dim1=-2, dim2=-1), diagonal.transpose(1, 2))
    if dtype == torch.float64:
        for k in range(1, 24):
            for block in (M[..., k:, :k], M[..., :k, k:]):
                assert (torch.linalg.matrix_rank(block, rtol=1e-10) == min(*block.shape[-2:], N)).all()


def test_entries_of_the_matrix():
    # the three lines of the definition, one entry at a time
    (_, dt, A, B, C), _ = operands(6, batch=1, groups=1, two_way=True)
    M = quasiseparable_matrix(dt, A, B, C)[0]
    dt, B, C = dt[0], B[0, :, :, 0], C[0, :, :, 0]
    for h in range(H):
        for i in range(6):
            for j in range(6):
                way, before = (0, i - 1) if i > j else (1, i + 1)
                between = (A[h] * dt[min(i, j) + 1 : max(i, j), way, h]).sum().exp()
                want = between * dt[j, way, h] * (C[before, way] @ B[j, way]) if i != j else torch.zeros(())
                torch.testing.assert_close(M[h, i, j], want.to(M.dtype), rtol=1e-13, atol=1e-15)


@FAST
@pytest.mark.parametrize("total", [-1.0, -59.0, -100.0, -170.0, -400.0, -1e4])
@pytest.mark.parametrize("two_way", [False, True])
def test_any_decay(total, two_way, impl):
    """Float32 against the float64 recurrence, for the log decay that a chunk of 64 sums to."""
    args, _ = operands(150, two_way=two_way)
    args[1] = args[1] * (1 - args[1])
    args[2] = args[2] * total / -64 * 6
    op = quasiseparable if two_way else ssd
    want = with_grads(lambda *t: op(*t, impl="reference"), [t.double() for t in args])
    got = with_grads(lambda *t: op(*t, impl=impl), [t.float() for t in args])
    assert_same(got[:1], want[:1], 2e-6)
    assert_same(got[1:], want[1:], 1e-5)


@FAST
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("strong", [1e3, 1e9, 1e30])
def test_a_single_step_that_forgets_all(reverse, strong, impl):
    # decay exactly 0 at one step, almost 1 at the others: a difference of running sums would lose their digits
    (x, dt, A, B, C), _ = operands(100)
    dt *= 0.01
    A[1] = -strong
    dt[:, :, 1] = 0
    dt[:, 40, 1] = 1
    A[2], A[3] = 0, -torch.inf

    def run(impl, dtype):
        def f(x, B, C):
            return ssd(x, dt.to(dtype), A.to(dtype), B, C, reverse=reverse, impl=impl)

        return with_grads(f, [t.to(dtype) for t in (x, B, C)])

    assert_same(run(impl, torch.float32), run("reference", torch.float64), 1e-6)


def test_each_chunk_has_its_form(monkeypatch):
    # a chunk of 64 with much decay among others with little, forward and backward
    used = []
    for name in ("factored_forward", "masked_forward", "factored_backward", "masked_backward"):
        run = getattr(_chunks, name)
        monkeypatch.setattr(_chunks, name, lambda *args, name=name, run=run: used.append(name) or run(*args))
    args, _ = operands(256, batch=1)
    args[1][:, 64:128] *= 100
    with_grads(ssd, args)
    want = ["factored_forward", "masked_forward", "factored_forward", "factored_forward"]
    assert used == want + [name.replace("forward", "backward") for name in reversed(want)]


@pytest.mark.parametrize("two_way", [False, True])
def test_gradients_stay_finite(two_way):
    # exp before the mask would overflow above the diagonal and give 0 * inf in the backward pass
    for rate, step in ((1.0, 1.0), (16.0, 20.0)):
        args, _ = operands(300, batch=1, two_way=two_way, dtype=torch.float32)
        args[1], args[2] = torch.full_like(args[1], step), torch.full_like(args[2], -rate)
        for t in with_grads(quasiseparable if two_way else ssd, args):
            assert t.isfinite().all()


@pytest.mark.parametrize("two_way", [False, True])
@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_gradcheck(two_way, impl):
    args, S = operands(5, two_way=two_way, batch=1)
    args = [t.requires_grad_() for t in (*args, S)]
    op = quasiseparable if two_way else ssd
    assert torch.autograd.gradcheck(lambda *t: op(*t[:5], initial_state=t[5], chunk=2, impl=impl), args, fast_mode=True)


@pytest.mark.parametrize("emulated", [False, True])
@pytest.mark.parametrize("two_way", [False, True])
def test_bfloat16(two_way, emulated, monkeypatch):
    monkeypatch.setattr(import_module("seqmix.ops.ssd.prepare"), "_emulated", lambda x: emulated)
    ways = (2,) if two_way else ()
    x, dt = torch.randn(2, 140, H, 64).bfloat16(), 0.1 * torch.rand(2, 140, *ways, H)
    B, C = (torch.randn(2, 140, *ways, 1, 64).bfloat16() for _ in range(2))
    rounded = [x, dt, -torch.rand(H), B, C]
    op = quasiseparable if two_way else ssd
    want = with_grads(lambda *t: op(*t, impl="reference"), [t.double() for t in rounded])
    got = with_grads(lambda *t: op(*t, impl="torch"), rounded)
    assert [t.dtype for t in got] == [torch.bfloat16, *(t.dtype for t in rounded)]
    # products of numbers of 8 bits; the gradient of a rate is what is left of large sums of them
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        assert_close_ratio(f"tensor {i}", g, w, 5e-2 if i == 3 else 5e-3)


def test_half_precision_and_autocast_keep_the_range():
    (x, dt, A, B, C), _ = operands(130, dtype=torch.float32)
    A = torch.full_like(A, -0.9)
    want = ssd(x, dt, A, B, C, impl="reference")
    assert_close_ratio("float16", ssd(x.half(), dt, A, B.half(), C.half()), want, 2e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close_ratio("autocast", ssd(x, dt, A, B, C), want, 1e-6)


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_options_in_order(impl):
    (x, dt, A, B, C), S = operands(9)
    D, z, bias = torch.randn(H, P), torch.randn_like(x), torch.tensor([-1.0, -0.5, 0, 0.5])
    y = ssd(x, dt, A, B, C, D, z, dt_bias=bias, dt_softplus=True, dt_limit=(0.5, 0.9), initial_state=S, impl=impl)
    steps = torch.nn.functional.softplus(dt + bias).clamp(0.5, 0.9)
    assert (steps == 0.9).any() and (steps == 0.5).any()
    want = (ssd(x, steps, A, B, C, initial_state=S, impl="reference") + D * x) * torch.nn.functional.silu(z)
    assert_close_ratio("options", y, want, 1e-13)


@pytest.mark.parametrize("cut", [1, 30, 64, 99])
def test_continues_from_a_state(cut):
    (x, dt, A, B, C), S = operands(100)

    def run(sl, S):
        return ssd(x[:, sl], dt[:, sl], A, B[:, sl], C[:, sl], initial_state=S, return_state=True)

    y, end = run(slice(None), S)
    first, middle = run(slice(cut), S)
    second, last = run(slice(cut, None), middle)
    assert_same([torch.cat([first, second], 1), last], [y, end], 1e-13)


def test_is_simple_gated_linear_attention():
    # q = C, k = B, v = dt x, g = dt A; their state is the transpose
    (x, dt, A, B, C), _ = operands(11, groups=H)
    y, S = ssd(x, dt, A, B, C, return_state=True)
    q, k, v, g = C, B, dt.unsqueeze(-1) * x, dt * A
    state, want = torch.zeros(2, H, N, P, dtype=torch.float64), []
    for t in range(11):
        state = g[:, t, :, None, None].exp() * state + torch.einsum("bhn,bhp->bhnp", k[:, t], v[:, t])
        want.append(torch.einsum("bhn,bhnp->bhp", q[:, t], state))
    assert_same([y, S], [torch.stack(want, 1), state.mT], 1e-12)


PACKED = [0, 1, 6, 70, 72, 142]


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize("rate", [1.0, 200.0])
@pytest.mark.parametrize("way", ["forward", "reverse", "both"])
def test_packed_is_one_by_one(impl, rate, way):
    (x, dt, A, B, C), _ = operands(PACKED[-1], batch=1, two_way=way == "both")
    A = A * rate
    S = torch.randn(len(PACKED) - 1, H, P, N, dtype=torch.float64)

    def op(x, dt, B, C, S, cu_seqlens=None):
        if way == "both":
            return quasiseparable(x, dt, A, B, C, initial_state=S, cu_seqlens=cu_seqlens, impl=impl), S
        options = {"reverse": way == "reverse", "return_state": True, "impl": impl}
        return ssd(x, dt, A, B, C, initial_state=S, cu_seqlens=cu_seqlens, **options)

    packed = op(x, dt, B, C, S, torch.tensor(PACKED))
    alone = [op(*(t[:, i:j] for t in (x, dt, B, C)), S[k : k + 1]) for k, (i, j) in enumerate(pairwise(PACKED))]
    assert_same(packed, [torch.cat(t, d) for t, d in zip(zip(*alone, strict=True), (1, 0), strict=True)], 1e-13)
    # nothing crosses, not even NaN
    broken = x.clone()
    broken[:, 6:70] = torch.nan
    kept = torch.tensor([not 6 <= t < 70 for t in range(PACKED[-1])])
    y = op(broken, dt, B, C, S, torch.tensor(PACKED))[0]
    assert torch.equal(y[:, kept], packed[0][:, kept])


@pytest.mark.parametrize("two_way", [False, True])
@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize("reverse", [False, True])
def test_masked_is_shorter(two_way, impl, reverse):
    args, S = operands(70, two_way=two_way)
    op = quasiseparable if two_way else ssd
    options = {"initial_state": S, "impl": impl, "dt_bias": torch.randn(H), "dt_softplus": True}
    options |= {} if two_way else {"reverse": reverse}
    mask = torch.zeros(2, 70, dtype=torch.bool)
    # padding on both sides of the second sequence
    mask[0, :41], mask[1, 9:50] = True, True
    short = [t if t.ndim == 1 else torch.stack([t[0, :41], t[1, 9:50]]) for t in args]
    padded = [t if t.ndim == 1 else t.masked_fill(~mask.reshape(2, 70, *[1] * (t.ndim - 2)), torch.nan) for t in args]
    y = op(*padded, mask=mask, **options)
    assert torch.equal(y[~mask], torch.zeros_like(y[~mask]))
    assert_close_ratio("kept", y[mask].view(2, 41, H, P), op(*short, **options), 1e-13)
    for name, g in zip(
        ("x", "dt", "A", "B", "C"), with_grads(lambda *t: op(*t, mask=mask, **options), padded)[1:], strict=True
    ):
        assert g.isfinite().all(), name


@pytest.mark.parametrize("two_way", [False, True])
@pytest.mark.parametrize("L", [128, 192])
def test_operations_grow_with_the_length(monkeypatch, two_way, L):
    def count(L):
        args, _ = operands(L, two_way=two_way)
        chunked = _chunks._scan._init_fn  # the counter sees an op of ours as one node
        with FlopCounterMode(display=False) as counter, monkeypatch.context() as patch:
            patch.setattr(_chunks, "_differentiable", chunked)
            (quasiseparable if two_way else ssd)(*args, impl="torch")
        return counter.get_total_flops()

    assert count(2 * L) == 2 * count(L) > 0


def test_errors():
    (x, dt, A, B, C), S = operands(6, batch=1)
    cu = torch.tensor([0, 2, 6])
    mask = torch.ones(1, 6, dtype=torch.bool)
    for message, kwargs in (
        ("got both cu_seqlens and mask; drop the masked positions", {"cu_seqlens": cu, "mask": mask}),
        (r"should rise from 0 to L = 6, got \[0, 2\]", {"cu_seqlens": cu[:2]}),
        (r"got \[0, 2, 2, 6\]; drop empty", {"cu_seqlens": torch.tensor([0, 2, 2, 6])}),
        ("vector of integers, got torch.float32", {"cu_seqlens": cu.float()}),
        ("use one of reference, torch", {"impl": "cuda"}),
        (r"initial_state should have shape \(2, 4, 3, 5\), got \(1, 4, 3, 5\)", {"cu_seqlens": cu, "initial_state": S}),
    ):
        with pytest.raises(ValueError, match=message):
            ssd(x, dt, A, B, C, **kwargs)
    with pytest.raises(ValueError, match=r"batch of one, got 2; use x.flatten"):
        ssd(*operands(6)[0], cu_seqlens=cu)
    with pytest.raises(ValueError, match=r"dt should have shape \(1, 6, 4\), got \(1, 5, 4\)"):
        ssd(x, dt[:, :5], A, B, C)
    with pytest.raises(ValueError, match=r"H = 4 does not divide into 3 groups"):
        ssd(x, dt, A, *(t.repeat(1, 1, 3, 1)[:, :, :3] for t in (B, C)))
    with pytest.raises(ValueError, match=r"B should have the axes \(B, L, 2, G, N\)"):
        quasiseparable(x, dt, A, B, C)
