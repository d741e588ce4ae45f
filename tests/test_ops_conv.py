"""Depthwise convolution against ``F.conv1d``, FFT convolution against the sum, smooth lengths, the allocator."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from seqmix.ops import depthwise_conv1d, fft_conv, smooth_length
from seqmix.ops.conv import _channels_last, _weight_grad
from seqmix.testing import assert_close_ratio

BOTH = pytest.mark.parametrize("impl", ["reference", "torch"])
PADDING = pytest.mark.parametrize("padding", ["causal", "anticausal", "same"])
RATIO = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 5e-3}


def tensors(L, K, Bt=2, D=3):
    return {"x": torch.randn(Bt, L, D), "weight": torch.randn(D, K), "bias": torch.randn(D)}


def run(x, dtype, f=depthwise_conv1d, **options):
    x = {name: t.to(dtype).requires_grad_() for name, t in x.items()}
    y = f(**x, **options)
    assert y.dtype == dtype
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
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
    monkeypatch.setattr("seqmix.ops.conv._BLOCK", 4 * 2 * 3)
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


@pytest.mark.parametrize("left", [0, 1, 3])
def test_opcheck(left):
    x, w, b = (t.requires_grad_() for t in tensors(9, 4).values())
    torch.library.opcheck(_channels_last, (x, w, b, left))
    torch.library.opcheck(_channels_last, (x, w, None, left))
    torch.library.opcheck(_weight_grad, (torch.randn(2, 9, 3, requires_grad=True), x, left, 4))


@PADDING
def test_compile(padding):
    x = tensors(9, 4)
    compiled = torch.compile(depthwise_conv1d, backend="aot_eager", fullgraph=True)
    want, got = run(x, torch.float64, padding=padding), run(x, torch.float64, compiled, padding=padding)
    for name in want:
        assert_close_ratio(name, got[name], want[name], 1e-13)


def test_unknown_padding_is_named():
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
