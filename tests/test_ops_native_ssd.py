"""The compiled SSD: every instruction set of this processor against the float64 loop, strides, threads, causality."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from itertools import pairwise
from typing import Any

import pytest
import torch
from test_ops_ssd import assert_same, with_grads

from seqmix.ops import native, quasiseparable, ssd
from seqmix.ops.ssd import native as native_ssd

pytestmark = pytest.mark.skipif(native.problem() is not None, reason=f"the kernels are {native.problem()}")
SETS = pytest.mark.parametrize("isa", range(native.instruction_set() + 1))
WAYS = pytest.mark.parametrize("way", ["forward", "reverse", "both"])


def operands(L, way="forward", batch=2, H=4, P=5, N=6, groups=2):
    """x, dt, A, B, C and first states in float32; the steps and codes of two directions stacked for ``"both"``."""
    ways = (2,) if way == "both" else ()
    x, dt, A = torch.randn(batch, L, H, P), torch.rand(batch, L, *ways, H), -torch.rand(H)
    B, C = (torch.randn(batch, L, *ways, groups, N) for _ in range(2))
    return [x, dt, A, B, C, torch.randn(batch, H, P, N)]


def scan(way, impl="native", **options) -> Callable[..., Any]:
    """The op as a function of ``operands``."""

    def both(x, dt, A, B, C, S):
        # a diagonal, as nothing else is there at length 1
        return quasiseparable(x, dt, A, B, C, dt[:, :, 0], initial_state=S, impl=impl, **options)

    def one(x, dt, A, B, C, S):
        return ssd(x, dt, A, B, C, initial_state=S, return_state=True, reverse=way == "reverse", impl=impl, **options)

    return both if way == "both" else one


def check(args, way, ratio=2e-6, **options):
    want = with_grads(scan(way, "reference"), [t.double() for t in args])
    got = with_grads(scan(way, **options), args)
    # the gradient to a rate is one number, what is left of a long sum
    rate = len(got) - 4
    assert_same([got.pop(rate)], [want.pop(rate)], 1e-4)
    assert_same(got, want, ratio)


@SETS
@WAYS
@pytest.mark.parametrize(("L", "chunk"), [(1, None), (2, 1), (7, 3), (63, None), (64, None), (65, None), (200, 33)])
def test_native_is_the_reference(nan_empty, monkeypatch, isa, way, L, chunk):
    monkeypatch.setattr(native.call, "instruction_set", lambda: isa)
    check(operands(L, way), way, chunk=chunk)


# tiles left over in every direction, one group and one per head, states wider than heads and the other way round
@SETS
@WAYS
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 1), (3, 2, 17, 3, 1), (1, 3, 2, 35, 3), (2, 1, 64, 64, 1), (1, 2, 33, 16, 2)]
)
def test_shapes(nan_empty, monkeypatch, isa, way, shape):
    monkeypatch.setattr(native.call, "instruction_set", lambda: isa)
    batch, H, P, N, groups = shape
    check(operands(70, way, batch, H, P, N, groups), way)


@WAYS
def test_slices_are_read_where_they_are(way):
    x, dt, A, B, C, S = operands(70, way)
    # as a projection leaves them, for two directions B, C of one and then B, C of the other
    codes = torch.stack([B, C], 3 if way == "both" else 2)
    wide = torch.cat([x.flatten(2), codes.flatten(2)], -1)
    sliced = [
        wide[..., : x[0, 0].numel()].view_as(x),
        *wide[..., x[0, 0].numel() :].view_as(codes).unbind(3 if way == "both" else 2),
    ]
    for t, axes in zip(sliced, (2, 3, 3), strict=True):
        assert not t.is_contiguous() and native_ssd.readable(t, axes if way == "both" else 2) is t
    got = with_grads(scan(way), [sliced[0], dt, A, *sliced[1:], S])
    assert all(map(torch.equal, got, with_grads(scan(way), [x, dt, A, B, C, S])))


@WAYS
@pytest.mark.parametrize("bounds", [[0, 1, 6, 70, 72, 142], [0, 64, 128], [0, 5]])
def test_packed_sequences_are_separate_ones(nan_empty, way, bounds):
    x, dt, A, B, C, _ = operands(bounds[-1], way, batch=1)
    S = torch.randn(len(bounds) - 1, 4, 5, 6)
    packed = with_grads(scan(way, cu_seqlens=torch.tensor(bounds)), [x, dt, A, B, C, S])
    alone = [
        scan(way)(*(t[:, i:j] for t in (x, dt)), A, *(t[:, i:j] for t in (B, C)), S[k : k + 1])
        for k, (i, j) in enumerate(pairwise(bounds))
    ]
    ys = [t if way == "both" else t[0] for t in alone]
    assert torch.equal(packed[0], torch.cat(ys, 1))
    reference = scan(way, "reference", cu_seqlens=torch.tensor(bounds))
    want = with_grads(reference, [t.double() for t in (x, dt, A, B, C, S)])
    assert_same(packed, want, 1e-5)


@WAYS
def test_vmap_of_packed_sequences_is_a_loop(way):
    bounds = torch.tensor([0, 3, 70])
    samples = [operands(70, way, batch=1)[:5] for _ in range(3)]

    def f(*t):
        y = scan(way, cu_seqlens=bounds)(*t, torch.zeros(2, 4, 5, 6))
        return y if way == "both" else y[0]

    at_once = torch.func.vmap(f)(*map(torch.stack, zip(*samples, strict=True)))
    assert torch.equal(at_once, torch.stack([f(*t) for t in samples]))


@pytest.mark.parametrize("way", ["forward", "reverse"])
def test_what_comes_later_changes_no_bit(way):
    *args, S = operands(130, way)
    y = scan(way)(*args, S)[0]
    for k in (1, 40, 63, 64, 65, 129):
        seen = slice(k, None) if way == "reverse" else slice(k)
        cut = [t if t.ndim == 1 else t[:, seen] for t in args]
        assert torch.equal(scan(way)(*cut, S)[0], y[:, seen])


# one sequence is cut into parts of its heads, one per thread; five go to two threads
@WAYS
@pytest.mark.parametrize("batch", [1, 5])
def test_threads_agree(way, batch):
    args = operands(70, way, batch, H=3, groups=1)
    one = with_grads(scan(way), args)
    torch.set_num_threads(2)
    try:
        two = with_grads(scan(way), args)
        with ThreadPoolExecutor(2) as pool:
            at_once = list(pool.map(lambda _: with_grads(scan(way), args), range(4)))
    finally:
        torch.set_num_threads(1)
    assert_same(two, one, 2e-6)
    assert all(torch.equal(t, w) for found in at_once for t, w in zip(found, two, strict=True))


def test_half_types_run_it_where_products_of_them_are_emulated(monkeypatch):
    monkeypatch.setattr(import_module("seqmix.ops.ssd.prepare"), "_emulated", lambda x: True)
    x, dt, A, B, C, _ = operands(70)
    x, B, C = (t.bfloat16() for t in (x, B, C))
    y, state = ssd(x, dt, A, B, C, return_state=True)
    want = ssd(x.float(), dt, A, B.float(), C.float(), return_state=True, impl="native")
    assert torch.equal(y, want[0].bfloat16()) and torch.equal(state, want[1])


def test_nothing_is_kept_for_a_backward_pass_that_does_not_come():
    x, dt, A, B, C, S = operands(130)
    ways = [t.unsqueeze(2) for t in (dt, dt * A, B, C)]
    for keep, chunks in ((False, 0), (True, 3)):
        marks = native_ssd._scan(x, *ways, S[:, None, None], [0, 130], 64, False, False, keep)[2]
        assert marks.shape[:2] == (2, chunks)
