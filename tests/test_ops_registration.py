"""Every public op as the rest of PyTorch sees it: torch.compile, autocast, vmap, opcheck, second derivatives."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from seqmix import ops
from seqmix.testing import assert_close_ratio

B, L, D, G, H, P, N = 2, 7, 4, 2, 2, 3, 2


def _attend(q, k, v, codes, bias):
    return ops.vq_attention(q, k, v, codes, ops.nearest_code(k, codes), bias, window=1, causal=True)


# name: function of float tensors, their shapes
CASES = {
    "depthwise_conv1d": (ops.depthwise_conv1d, [(B, L, D), (D, 3), (D,)]),
    "delta_product": (
        lambda q, k, v, beta: ops.delta_product(q, k, v, None, beta.sigmoid()),
        [(B, L, H, P), (B, L, 2, H, P), (B, L, 2, H, N), (B, L, 2, H)],
    ),
    "dplr_delta": (
        lambda q, k, v, g, a, b: ops.dplr_delta(q, k, v, -g.sigmoid(), a, b),
        [(B, L, H, P)] * 2 + [(B, L, H, N)] + [(B, L, H, P)] * 3,
    ),
    "causal_conv": (ops.causal_conv, [(B, L, D), (D, L)]),
    "fft_conv": (ops.fft_conv, [(B, L, D), (D, L)]),
    "gated_delta": (
        lambda q, k, v, g, beta: ops.gated_delta(q, k, v, -g.exp(), beta.sigmoid()),
        [(B, L, 1, P), (B, L, 1, P), (B, L, H, N), (B, L, H), (B, L, H)],
    ),
    "global_attention": (lambda q, k, v: ops.global_attention(q, k, v, n_heads=2)[0], [(B, L, D)] * 3),
    "linear_recurrence": (
        lambda x, a: ops.linear_recurrence(x, a.sigmoid()),
        [(B, L, D), (B, L, D)],
    ),
    "local_max": (ops.local_max, [(B, L, D)]),
    "masked_mean": (lambda x: ops.masked_mean(x, (torch.arange(L) < 5).expand(B, L)), [(B, L, D)]),
    "quasiseparable": (
        lambda x, dt, A, b, c: ops.quasiseparable(x, dt.exp(), -A.exp(), b, c),
        [(B, L, H, P), (B, L, 2, H), (H,), (B, L, 2, 1, N), (B, L, 2, 1, N)],
    ),
    "rms_norm": (ops.rms_norm, [(B, L, D), (D,), (B, L, D)]),
    "segment_max": (lambda x: ops.segment_max(x, 3), [(B, L, D)]),
    "selective_scan": (
        lambda u, dt, A, b, c: ops.selective_scan(u, dt.exp(), -A.exp(), b, c),
        [(B, L, D), (B, L, D), (D, N), (B, L, N), (B, L, N)],
    ),
    "slstm": (lambda g, r: ops.slstm(g, r.unflatten(0, (H, -1))), [(B, L, 4, H * P), (H * 4 * P, P)]),
    "ssd": (
        lambda x, dt, A, b, c: ops.ssd(x, dt.exp(), -A.exp(), b, c),
        [(B, L, H, P), (B, L, H), (H,), (B, L, 1, N), (B, L, 1, N)],
    ),
    "straight_through": (
        lambda k, codes: ops.straight_through(k, codes, ops.nearest_code(k, codes)),
        [(B, L, P), (4, P)],
    ),
    "vq_attention": (_attend, [(B, L, P)] * 3 + [(4, P), (2,)]),
}
OPERATORS = (
    "depthwise_conv1d",
    "rms_norm",
    "selective_scan",
    "ssd",
    "quasiseparable",
    "linear_recurrence",
    "causal_conv",
    "gated_delta",
    "slstm",
)
OPS = pytest.mark.parametrize("name", CASES)
# by PyTorch itself, at the first derivative in forward mode
FORWARD_MODE = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


def tensors(name, dtype=torch.float32):
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in CASES[name][1]]


def results(f, args):
    """The result and the gradients of what depends on the arguments."""
    y = f(*args)
    return [y, *torch.autograd.grad(y.square().sum(), args, allow_unused=True)]


def assert_same(got, want, ratio):
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        assert (g is None) == (w is None)
        if g is not None:
            assert_close_ratio(f"tensor {i}", g, w, ratio)


def test_all_public_ops_are_here():
    # what remains takes part in others, or does no arithmetic along a sequence
    others = {"explain", "tune_allocator", "smooth_length", "nearest_code", "update_codebook", "selective_scan_step"}
    matrices = {
        "delta_matrix",
        "delta_product_matrix",
        "dplr_matrix",
        "quasiseparable_matrix",
        "recurrence_matrix",
        "scan_matrix",
        "ssd_matrix",
    }
    assert set(ops.__all__) == set(CASES) | others | matrices


@OPS
def test_compiles_into_one_graph(name):
    f, args = CASES[name][0], tensors(name)
    want = results(f, args)
    torch.compiler.reset()
    # gradients of operators of ours are traced too; those of others are up to PyTorch, and slow to trace
    backend = "aot_eager" if name in OPERATORS else "eager"
    assert_same(results(torch.compile(f, backend=backend, fullgraph=True), args), want, 1e-6)


@OPS
def test_autocast_leaves_the_precision(name):
    f, args = CASES[name][0], tensors(name)
    with torch.autocast("cpu", torch.bfloat16):
        y = f(*args)
    if name == "global_attention":
        # a product like any other, which autocast is there for
        assert_close_ratio(name, y, f(*args), 1e-2)
    else:
        assert y.dtype == torch.float32
        assert_close_ratio(name, y, f(*args), 1e-6)


@OPS
def test_vmap_is_a_loop(name):
    f, shapes = CASES[name]
    args = [torch.randn(3, *shape) for shape in shapes]
    y = torch.func.vmap(f)(*args)
    assert_close_ratio(name, y, torch.stack([f(*sample) for sample in zip(*args, strict=True)]), 1e-6)


class _Calls(TorchDispatchMode):
    """Collects the calls of our operators."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "seqmix":
            self.found[str(func)] = (func, args)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", OPERATORS)
def test_without_gradients_the_kernel_itself_is_called(name):
    """The values are the same, and what collects operators sees them all the same."""
    f, args = CASES[name][0], tensors(name)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        with _Calls() as calls:
            want = f(*args)
        assert calls.found and torch.equal(f(*args), want)


# float64 takes the portable implementation, which for these is made of PyTorch's operators; float32 the compiled one
PORTABLE = ("rms_norm", "gated_delta", "slstm")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, t) for n in OPERATORS for t in (torch.float32, torch.float64) if n not in PORTABLE or t == torch.float32],
)
def test_operators_are_registered_as_they_should_be(name, dtype):
    with _Calls() as calls:
        results(CASES[name][0], tensors(name, dtype))
    # forward and backward
    assert len(calls.found) >= 2
    for func, args in calls.found.values():
        args = [a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args]
        torch.library.opcheck(func, args)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_empty_batch_gives_its_parameters_zero(nan_empty, name, dtype):
    f, shapes = CASES[name]
    # sequences have three axes or more, parameters one or two
    shapes = [(0, *shape[1:]) if len(shape) > 2 else shape for shape in shapes]
    args = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    y, *grads = results(f, args)
    assert y.shape[0] == 0 and all(g.shape == shape for g, shape in zip(grads, shapes, strict=True))
    assert all(g.eq(0).all() for g in grads)


# what goes straight through a code is no derivative
@pytest.mark.parametrize("name", [name for name in CASES if name != "vq_attention"])
def test_second_derivatives(name):
    f, args = CASES[name][0], tensors(name, torch.float64)
    assert torch.autograd.gradgradcheck(f, args, fast_mode=True)


# PyTorch checkpoints recompute the saved tensors and hand them out once
@OPS
def test_activation_checkpointing(name):
    f, args = CASES[name][0], tensors(name)
    again = lambda *args: checkpoint(f, *args, use_reentrant=False)  # noqa: E731
    assert_same(results(again, args), results(f, args), 1e-6)


# float32 takes the compiled kernels, float64 the portable forms
@FORWARD_MODE
@pytest.mark.parametrize("name", [n for n in CASES if n != "vq_attention"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_transforms_of_functions(name, dtype):
    f, args = CASES[name][0], [t.detach() for t in tensors(name, dtype)]
    loss = lambda *args: f(*args).square().sum()  # noqa: E731
    everything = tuple(range(len(args)))
    want = results(f, [t.clone().requires_grad_() for t in args])[1:]
    want = [torch.zeros_like(t) if w is None else w for w, t in zip(want, args, strict=True)]
    assert_same(torch.func.grad(loss, everything)(*args), want, 1e-5)
    # a gradient for each sample, all at once
    batch = [torch.stack([t, 2 * t]) for t in args]
    each = torch.func.vmap(torch.func.grad(loss, everything))(*batch)
    twice = torch.func.grad(loss, everything)(*(2 * t for t in args))
    assert_same([g[0] for g in each], want, 1e-5)
    assert_same([g[1] for g in each], twice, 1e-5)
    # forward mode, and over reverse mode as for a product with a Hessian
    tangents = [torch.randn_like(t) for t in args]
    _, along = torch.func.jvp(loss, tuple(args), tuple(tangents))
    assert_close_ratio("jvp", along, sum((g * t).sum() for g, t in zip(want, tangents, strict=True)), 1e-4)
    _, hessian_vector = torch.func.jvp(torch.func.grad(loss, everything), tuple(args), tuple(tangents))
    leaves = [t.clone().requires_grad_() for t in args]
    first = torch.autograd.grad(loss(*leaves), leaves, create_graph=True, materialize_grads=True)
    slope = sum((g * t).sum() for g, t in zip(first, tangents, strict=True))
    second = torch.autograd.grad(slope, leaves, materialize_grads=True)
    assert_same(hessian_vector, second, 1e-3 if dtype == torch.float32 else 1e-9)


@FORWARD_MODE
def test_forward_mode_is_refused_by_name():
    f, args = CASES["ssd"][0], [t.detach() for t in tensors("ssd")]
    with pytest.raises(ValueError, match="impl='torch' has no derivatives in forward mode; use impl='auto'"):
        torch.func.jvp(lambda x: ops.ssd(x, *args[1:], impl="torch"), (args[0],), (args[0],))
    assert torch.func.jvp(lambda x: f(x, *args[1:]), (args[0],), (args[0],))[1].isfinite().all()


def direct_calls():
    """Call every operator directly with an operand of each kind that does not fit; a crash ends the process."""
    calls = {}
    for name in OPERATORS:
        for dtype in (torch.float32, torch.float64):
            with _Calls() as found:
                results(CASES[name][0], tensors(name, dtype))
            calls |= found.found
    refused = 0
    for func, args in calls.values():
        for i, t in enumerate(args):
            if isinstance(t, torch.Tensor):
                spoiled = [t.to("meta"), t.double(), t.unsqueeze(0), t.new_empty(0), t.flatten()]
                spoiled += [t.narrow(axis, 0, 0) for axis in range(t.ndim) if t.numel()]
            elif isinstance(t, list):
                spoiled = [[], [0], [0, L + 1], [0, 5, 3, L], [-1, L], [0, 3, 3, L], [0, 3, L]]
            else:
                spoiled = [0, -1, 2**40] if type(t) is int else []
            for bad in spoiled:
                try:
                    func(*args[:i], bad, *args[i + 1 :])
                except Exception:
                    refused += 1
    assert len(calls) >= 14 and refused > 300, (len(calls), refused)


def test_direct_calls_do_not_crash():
    code = "import test_ops_registration; test_ops_registration.direct_calls()"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


X, W = torch.ones(B, L, D), torch.ones(D, 3)
HEADS, CODES = torch.ones(B, L, H, P), torch.ones(B, L, 1, N)


def _ssd(**options):
    return ops.ssd(HEADS, HEADS[..., 0], -torch.ones(H), CODES, CODES, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _ssd(chunk=0), "chunk should be at least 1, got 0"),
        (lambda: _ssd(chunk=-3), "chunk should be at least 1, got -3"),
        (lambda: _ssd(dt_limit=(1, 0)), r"dt_limit should be (lowest, highest), got (1, 0)"),
        (lambda: _ssd(mask=torch.ones(B, L)), "mask should be a boolean tensor, True = keep, got torch.float32"),
        (lambda: _ssd(mask=torch.ones(L, dtype=torch.bool)), "mask should have shape (2, 7), got (7,)"),
        (lambda: _ssd(z=HEADS.to("meta")), "z is on meta, the first operand on cpu; move all to one device"),
        (lambda: ops.depthwise_conv1d(X, W[:, :0]), "weight of shape (4, 0) has no taps; use a kernel of at least one"),
        (lambda: ops.depthwise_conv1d(X, W[:3]), "weight should have shape (4, 3), got (3, 3); nothing is broadcast"),
        (lambda: ops.depthwise_conv1d(X[0], W), "x should have the axes (B, L, D), got shape (7, 4)"),
        (
            lambda: ops.depthwise_conv1d(X.long(), W),
            "x should be a tensor of real floating-point numbers, got torch.int",
        ),
        (lambda: ops.rms_norm(X, W[:, 0], groups=3), "D = 4 does not divide into 3 groups; use a divisor of 4"),
        (lambda: ops.local_max(X, 2), "window should be odd and at least 1, got 2"),
        (lambda: ops.segment_max(X, 0), "segments should be at least 1, got 0"),
        (
            lambda: ops.segment_max(X, torch.ones(B, L)),
            "segments should be integers, one id per position, got torch.float",
        ),
        (lambda: ops.global_attention(X, X, X, n_heads=3), "D = 4 does not divide into 3 groups"),
        (lambda: ops.nearest_code(X, X[0, :0]), "codes should be at least 1, got 0"),
    ],
)
def test_what_makes_no_sense_is_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


NOTHING = {
    "fft_conv": lambda B, L, D, N: ops.fft_conv(torch.ones(B, L, D), torch.ones(D, N)),
    "global_attention": lambda B, L, D, N: ops.global_attention(*[torch.ones(B, L, D)] * 3, n_heads=1)[0],
    "local_max": lambda B, L, D, N: ops.local_max(torch.ones(B, L, D)),
    "masked_mean": lambda B, L, D, N: ops.masked_mean(torch.ones(B, L, D)),
    "quasiseparable_matrix": lambda B, L, D, N: ops.quasiseparable_matrix(
        torch.ones(B, L, 2, D), torch.ones(D), *[torch.ones(B, L, 2, 1, N)] * 2, torch.ones(B, L, D)
    ),
    "scan_matrix": lambda B, L, D, N: ops.scan_matrix(torch.ones(B, L, D), torch.ones(D, N), *torch.ones(2, B, L, N)),
    "segment_max": lambda B, L, D, N: ops.segment_max(torch.ones(B, L, D), torch.ones(B, L, dtype=torch.long)),
    "selective_scan_step": lambda B, L, D, N: ops.selective_scan_step(
        torch.ones(B, D, N), *torch.ones(2, B, D), torch.ones(D, N), *torch.ones(2, B, N)
    )[0],
    "ssd_matrix": lambda B, L, D, N: ops.ssd_matrix(
        torch.ones(B, L, D), torch.ones(D), *torch.ones(2, B, L, 1, N), torch.ones(D), reverse=True
    ),
    "update_codebook": lambda B, L, D, N: ops.update_codebook(
        torch.ones(4, N), torch.ones(4), torch.ones(B, L, N), torch.ones(B, L).long(), decay=0.9, restart=2.0
    )[0],
}


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("axis", range(4))
def test_an_empty_axis_is_no_fault(name, axis):
    sizes = [2, 5, 2, 3]
    sizes[axis] = 0
    assert NOTHING[name](*sizes).isfinite().all()


# float64 parameters beside float32 values, as a mixer converted by half has them
@pytest.mark.parametrize("name", OPERATORS)
def test_operands_of_several_types(name):
    f, args = CASES[name][0], [t.detach() for t in tensors(name)]
    want = f(*args)
    for i in range(1, len(args)):
        y = f(*args[:i], args[i].double(), *args[i + 1 :])
        assert y.dtype == torch.float32
        assert_close_ratio(name, y, want, 1e-6)


def test_both_directions_of_both_maps_are_wanted():
    f, shapes = CASES["quasiseparable"]
    *args, C = (torch.randn(s) for s in shapes)
    with pytest.raises(ValueError, match="C should have shape"):
        f(*args, C[:, :, :1])
