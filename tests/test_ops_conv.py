"""Depthwise convolution against ``F.conv1d``, FFT convolution against the sum, smooth lengths, the allocator."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from seqmix.ops import causal_conv, depthwise_conv1d, fft_conv, native, smooth_length
from seqmix.ops.conv import native as native_conv
from seqmix.ops.conv.torch import _backward, _channels_last
from seqmix.testing import assert_close_ratio

compiled = pytest.mark.skipif(native.problem() is not None, reason=f"the kernels are {native.problem()}")
SETS = pytest.mark.parametrize("isa", range(native.instruction_set() + 1))
BOTH = pytest.mark.parametrize("impl", ["reference", "torch"])
ACTIVATION = pytest.mark.parametrize("activation", [None, "silu"])
PADDING = pytest.mark.parametrize("padding", ["causal", "anticausal", "same"])
RATIO = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 5e-3}


def tensors(L, K, Bt=2, D=3):
    return {"x": torch.randn(Bt, L, D), "weight": torch.randn(D, K), "bias": torch.randn(D)}


def run(x, dtype, f=depthwise_conv1d, **options):
    x = {name: t.to(dtype).requires_grad_() for name, t in x.items()}
    y = f(**x, **options)
    assert y.dtype == dtype
    # above zero, so that the sum for the bias does not cancel, and the same in every dtype
    weight = torch.rand(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    grads = torch.autograd.grad(y, list(x.values()), weight.to(dtype))
    return {"y": y} | {f"d{name}": g for name, g in zip(x, grads, strict=True)}


def by_conv1d(x, weight, bias=None, *, padding):
    """The way every port writes it: transposes, and flips for the mirror image."""
    D, K = weight.shape
    conv = {"causal": F.pad(x, (0, 0, K - 1, 0)), "anticausal": F.pad(x.flip(1), (0, 0, K - 1, 0)), "same": x}[padding]
    y = F.conv1d(conv.mT, weight.unsqueeze(1), bias, padding="same" if padding == "same" else 0, groups=D).mT
    return y.flip(1) if padding == "anticausal" else y


@BOTH
@PADDING
@pytest.mark.parametrize("K", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("L", [1, 2, 7, 65])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
def test_conv1d_and_gradients(nan_empty, impl, padding, K, L):
    x = tensors(L, K)
    want = run(x, torch.float64, by_conv1d, padding=padding)
    for dtype in (torch.float64, torch.float32):
        got = run(x, dtype, impl=impl, padding=padding)
        for name in want:
            assert_close_ratio(name, got[name], want[name], RATIO[dtype])


@compiled
@SETS
@PADDING
@pytest.mark.parametrize(("L", "K"), [(1, 1), (2, 4), (7, 4), (63, 2), (65, 31), (130, 3)])
# one channel, fewer than two vectors of them, lanes left over in every width
@pytest.mark.parametrize("D", [1, 5, 37])
@ACTIVATION
def test_native_is_the_reference(nan_empty, monkeypatch, isa, padding, L, K, D, activation):
    monkeypatch.setattr(native.call, "instruction_set", lambda: isa)
    x = {name: t.bfloat16().float() for name, t in tensors(L, K, 3, D).items()}
    want = run(x, torch.float64, impl="reference", padding=padding, activation=activation)
    for dtype in (torch.float32, torch.bfloat16):
        got = run(x, dtype, impl="native", padding=padding, activation=activation)
        for name in want:
            assert_close_ratio(name, got[name], want[name], RATIO[dtype])


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_silu_comes_after(impl):
    x = tensors(9, 4)
    want = run(x, torch.float64, lambda **x: F.silu(by_conv1d(**x, padding="causal")))
    for name, got in run(x, torch.float64, impl=impl, activation="silu").items():
        assert_close_ratio(name, got, want[name], RATIO[torch.float64])


@compiled
@ACTIVATION
@pytest.mark.parametrize("D", [3, 40])
def test_native_threads_and_strides(D, activation):
    x = tensors(200, 4, 3, D)
    want = run(x, torch.float64, impl="reference", activation=activation)
    wide = torch.cat([x["x"], x["x"]], -1)
    torch.set_num_threads(2)
    try:
        got = run(x, torch.float32, impl="native", activation=activation)
        y = depthwise_conv1d(wide[..., D:], x["weight"], x["bias"], activation=activation, impl="native")
    finally:
        torch.set_num_threads(1)
    assert torch.equal(y, got["y"])
    for name in want:
        assert_close_ratio(name, got[name], want[name], RATIO[torch.float32])


@compiled
def test_native_rounds_bfloat16_to_even_and_passes_nan():
    # products that lie between two numbers of bfloat16, and what is not a number
    x = torch.cat([1 + torch.arange(0, 64) / 128, torch.tensor([torch.inf, -torch.inf, torch.nan, 3e38, 1e-40])])
    x = x.bfloat16().view(1, -1, 1).expand(1, -1, 33)
    w = torch.full((33, 1), 1.00390625)
    y, want = (depthwise_conv1d(x, w, impl=impl) for impl in ("native", "reference"))
    assert torch.equal(y.nan_to_num(7.0), want.nan_to_num(7.0))


@compiled
@ACTIVATION
def test_native_second_derivatives(activation):
    x = {name: t.requires_grad_() for name, t in tensors(9, 3).items()}

    def penalty(impl):
        y = depthwise_conv1d(**x, activation=activation, impl=impl)
        grads = torch.autograd.grad(y.square().sum(), list(x.values()), create_graph=True)
        return torch.autograd.grad(sum((g.square().sum() for g in grads), y.sum()), list(x.values()))

    for got, want in zip(penalty("native"), penalty("reference"), strict=True):
        assert_close_ratio("second derivative", got, want, 1e-5)


@pytest.mark.parametrize("impl", ["torch", pytest.param("native", marks=compiled)])
@pytest.mark.parametrize("own", [False, True])
@ACTIVATION
def test_vmap_is_a_loop(impl, own, activation):
    x, w, b = torch.randn(4, 2, 9, 3), torch.randn(4, 3, 5), torch.randn(4, 3)
    axis = 0 if own else None
    w, b = (w, b) if own else (w[0], b[0])
    inputs = [t.requires_grad_() for t in (x, w, b)]
    options = {"activation": activation, "impl": impl}
    ys = torch.func.vmap(lambda x, w, b: depthwise_conv1d(x, w, b, **options), (0, axis, axis))(*inputs)
    each = zip(x, w, b, strict=True) if own else ((x_i, w, b) for x_i in x)
    want = torch.stack([depthwise_conv1d(*one, **options) for one in each])
    weights = torch.randn(2, *ys.shape)
    got = torch.autograd.grad(ys, inputs, weights, is_grads_batched=True)
    assert_close_ratio("y", ys, want, 1e-6)
    for i, weight in enumerate(weights):
        for g, e in zip(got, torch.autograd.grad(want, inputs, weight, retain_graph=True), strict=True):
            assert_close_ratio("gradient", g[i], e, 1e-6)


@BOTH
@PADDING
def test_bfloat16_is_computed_in_float32(impl, padding):
    x = {name: t.bfloat16().float() for name, t in tensors(65, 5).items()}
    want = run(x, torch.float64, by_conv1d, padding=padding)
    got = run(x, torch.bfloat16, impl=impl, padding=padding)
    for name in want:
        assert_close_ratio(name, got[name], want[name], RATIO[torch.bfloat16])


@PADDING
def test_blocks_of_time(monkeypatch, padding):
    # blocks of four steps: the weight gradient is cut, the last block is shorter
    monkeypatch.setattr("seqmix.ops.conv.torch._BLOCK", 4 * 2 * 3)
    x = tensors(27, 5)
    want, got = (run(x, torch.float64, impl=impl, padding=padding) for impl in ("reference", "torch"))
    for name in want:
        assert_close_ratio(name, got[name], want[name], 1e-13)


@BOTH
def test_strided_input_empty_batch_and_no_bias(impl):
    x = torch.randn(2, 9, 6)
    w = torch.randn(3, 4)
    for view in (x[..., ::2], x.chunk(2, -1)[1], x.permute(1, 2, 0)[:2, :, :].repeat(1, 1, 2)[..., :3]):
        y = depthwise_conv1d(view, w, impl=impl)
        assert_close_ratio("y", y, by_conv1d(view, w, padding="causal"), 1e-6)
        assert y.is_contiguous()
    assert run(tensors(9, 4, Bt=0), torch.float32, impl=impl)["y"].shape == (0, 9, 3)


def test_autocast_changes_nothing():
    x = tensors(33, 4)
    want = run(x, torch.float32, impl="torch")
    with torch.autocast("cpu", torch.bfloat16):
        got = run(x, torch.float32, impl="torch")
    for name in want:
        assert torch.equal(got[name], want[name])


@BOTH
@PADDING
def test_gradcheck_of_both_orders(impl, padding):
    x, w, b = (t.double().requires_grad_() for t in tensors(5, 3).values())

    def f(x, w, b):
        return depthwise_conv1d(x, w, b, padding=padding, impl=impl)

    assert torch.autograd.gradcheck(f, (x, w, b))
    # of a square, because second derivatives of a bilinear function in one argument alone are zero
    assert torch.autograd.gradgradcheck(lambda *a: f(*a).square(), (x, w, b))


def test_opcheck():
    x, w, b = (t.requires_grad_() for t in tensors(9, 4).values())
    torch.library.opcheck(_channels_last, (x, w, b, 1))
    torch.library.opcheck(_channels_last, (x, w, torch.empty(0), 3))
    torch.library.opcheck(_backward, (torch.randn(2, 9, 3), x.detach(), w.detach(), b.detach(), 1))


@compiled
def test_opcheck_of_native():
    """Beside what test_ops_registration.py checks: SiLU, no bias, bfloat16 and another padding."""
    x, w, b = (t.requires_grad_() for t in tensors(9, 4).values())
    torch.library.opcheck(native_conv._convolve, (x.detach().bfloat16(), w, torch.empty(0), 3, True))
    torch.library.opcheck(native_conv._backward, (torch.randn(2, 9, 3), x, w, b, 1, True))


@PADDING
@pytest.mark.parametrize(("dtype", "activation"), [(torch.float64, None), (torch.float32, "silu")])
def test_compile(padding, dtype, activation):
    x, options = tensors(9, 4), {"padding": padding, "activation": activation}
    compiled = torch.compile(depthwise_conv1d, backend="aot_eager", fullgraph=True)
    want, got = run(x, dtype, **options), run(x, dtype, compiled, **options)
    for name in want:
        assert_close_ratio(name, got[name], want[name], RATIO[dtype])


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match="activation = 'relu' is not known; use 'silu' or None"):
        depthwise_conv1d(**tensors(4, 2), activation="relu")
    with pytest.raises(ValueError, match="padding = 'valid' is not known; use 'causal', 'anticausal' or 'same'"):
        depthwise_conv1d(**tensors(4, 2), padding="valid")


@pytest.mark.parametrize("dtype", RATIO)
@pytest.mark.parametrize(("L", "K"), [(1, 1), (7, 3), (63, 63), (65, 100)])
def test_fft_conv_is_the_sum(L, K, dtype):
    x, kernel = torch.randn(2, L, 3).to(dtype), torch.randn(3, K).to(dtype)
    want = depthwise_conv1d(x.double(), kernel.double().flip(-1), impl="reference")
    assert_close_ratio("y", fft_conv(x, kernel), want, max(RATIO[dtype], 1e-12))


def test_smooth_length_is_the_next_one():
    def is_smooth(n):
        for p in (2, 3, 5):
            while n % p == 0:
                n //= p
        return n == 1

    smooth = [n for n in range(1, 5000) if is_smooth(n)]
    assert [smooth_length(n) for n in range(1, 4096)] == [next(s for s in smooth if s >= n) for n in range(1, 4096)]
    assert smooth_length(2053) == 2160 and smooth_length(10**6 + 1) == 1_012_500


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_allocator_keeps_freed_memory():
    # in a process of its own, since it cannot be undone
    code = """
import resource, torch
from seqmix.ops import tune_allocator
assert tune_allocator() is True
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(4_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
assert faults() < 4_000_000 * 4 / 4096, faults()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("length", [1, 5, 33, 64, 300])
def test_an_exactly_causal_convolution_is_that_by_fourier_transforms(length):
    """Values and gradients; and a change leaves all before it as it was, bit by bit."""
    x, kernel = torch.randn(2, length, 3, dtype=torch.float64), torch.randn(3, length, dtype=torch.float64)
    cotangent, found = torch.randn_like(x), []
    for conv in (causal_conv, fft_conv):
        given = x.clone().requires_grad_(), kernel.clone().requires_grad_()
        y = conv(*given)
        found.append([y, *torch.autograd.grad(y, given, cotangent)])
    for got, want in zip(*found, strict=True):
        assert_close_ratio("causal_conv", got, want, 1e-12)
    changed = x.clone()
    changed[:, length // 2 :] += 1
    kept = slice(0, length // 2)
    assert torch.equal(causal_conv(changed, kernel)[:, kept], causal_conv(x, kernel)[:, kept])
    with pytest.raises(ValueError, match=f"kernel has {length} taps for {length + 1} positions; pad it with zeros"):
        causal_conv(torch.zeros(1, length + 1, 3), kernel.float())
