"""The compiled scan, and loading the kernels: each instruction set here against the float64 loop, threads, faults."""

import ctypes
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError
from test_ops_scan import (
    EITHER_WAY,
    RATIO,
    assert_same,
    check_packed,
    check_vmap,
    check_without_states,
    run,
    scan,
    tensors,
    to,
)

from seqmix.ops import explain, native, selective_scan
from seqmix.ops.native.build import BuildKernels
from seqmix.ops.scan import native as native_scan

compiled = pytest.mark.skipif(native.problem() is not None, reason=f"the kernels are {native.problem()}")
SETS = pytest.mark.parametrize("isa", range(native.instruction_set() + 1))


@pytest.fixture
def threads():
    """Two threads, put back to one afterwards."""
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(1)


@compiled
@SETS
@pytest.mark.parametrize("L", [1, 2, 31, 32, 33, 65, 200])
@pytest.mark.parametrize("discretization", ["euler", "zoh"])
@EITHER_WAY
def test_native_is_the_reference(nan_empty, monkeypatch, isa, L, reverse, discretization):
    monkeypatch.setattr(native.call, "instruction_set", lambda: isa)
    x, options = tensors(L), {"reverse": reverse, "discretization": discretization}
    want = run(x, torch.float64, impl="reference", **options)
    assert_same(run(x, torch.float32, impl="native", **options), want, RATIO[torch.float32])


# one lane, lanes left over in every width, several blocks, many states; then narrow groups that share blocks of lanes
@compiled
@SETS
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1),
        (2, 19, 3, 1),
        (3, 40, 16, 2),
        (1, 70, 1, 1),
        (2, 4, 256, 4),
        (17, 1, 5, 1),
        (5, 6, 3, 2),
        (7, 4, 4, 2),
    ],
)
@EITHER_WAY
def test_shapes(nan_empty, monkeypatch, isa, shape, reverse):
    monkeypatch.setattr(native.call, "instruction_set", lambda: isa)
    Bt, D, N, G = shape
    x = tensors(35, Bt, D, N, G)
    want = run(x, torch.float64, impl="reference", reverse=reverse)
    got = run(x, torch.float32, impl="native", reverse=reverse)
    # with one channel this is one number, the rest of a sum of 600 numbers of either sign
    assert_same({"ddt_bias": got["ddt_bias"]}, {"ddt_bias": want.pop("ddt_bias")}, 1e-4)
    assert_same(got, want, RATIO[torch.float32])


# one chunk of rows keeps no state at all, more chunks and packed sequences do
@compiled
@SETS
@pytest.mark.parametrize("lengths", [(7,), (32,), (33,), (5, 1, 33, 1)])
@EITHER_WAY
def test_without_states_is_from_zero_on(nan_empty, monkeypatch, isa, lengths, reverse):
    monkeypatch.setattr(native.call, "instruction_set", lambda: isa)
    check_without_states("native", lengths, reverse)


# a batch of one with 64 channels is cut into parts, one per thread; a batch of five into uneven shares
@compiled
@pytest.mark.parametrize("Bt", [1, 5])
def test_threads_agree(nan_empty, threads, Bt):
    x = tensors(70, Bt, 64, 4, 1)
    two = run(x, torch.float32, impl="native")
    torch.set_num_threads(1)
    assert_same(run(x, torch.float32, impl="native"), two, 1e-6)


@compiled
def test_two_python_threads_give_the_same_bits(threads):
    xs = [tensors(300, 4, 32, 8, 1) for _ in range(4)]
    one_by_one = [run(x, torch.float32, impl="native") for x in xs]
    with ThreadPoolExecutor(2) as pool:
        at_once = list(pool.map(lambda x: run(x, torch.float32, impl="native"), xs))
    for got, want in zip(at_once, one_by_one, strict=True):
        assert all(torch.equal(got[name], want[name]) for name in want)


@compiled
@pytest.mark.parametrize("discretization", ["euler", "zoh"])
@pytest.mark.parametrize("rate", [1e-4, 1e4])
@pytest.mark.parametrize("step", [0.0, 1e-6, 10.0])
def test_extremes(rate, step, discretization):
    x = {n: t for n, t in tensors(70).items() if n != "dt_bias"}
    x["dt"], x["A"] = torch.full_like(x["dt"], step), x["A"] * rate
    want = run(x, torch.float64, impl="reference", discretization=discretization)
    got = run(x, torch.float32, impl="native", discretization=discretization)
    for name in want:
        assert got[name].isfinite().all(), name
    # the two results alone: a gradient may be the rest of a cancellation where a decay is practically 0 or 1
    assert_same({n: got[n] for n in ("y", "state")}, {n: want[n] for n in ("y", "state")}, RATIO[torch.float32])


# one position from a state of zero with u = B = C = 1: the result is the step size
@compiled
@SETS
def test_softplus_of_steps(monkeypatch, isa):
    monkeypatch.setattr(native.call, "instruction_set", lambda: isa)
    raw = torch.cat([torch.linspace(-87, 100, 40_001), torch.tensor([-88, -1e30, -torch.inf, 1e30])]).requires_grad_()
    one = torch.ones(len(raw), 1, 1)
    y = selective_scan(one, raw.view(-1, 1, 1), -torch.ones(1, 1), one, one, dt_softplus=True, impl="native").flatten()
    (grad,) = torch.autograd.grad(y.sum(), raw)
    want = torch.nn.functional.softplus(raw.detach().double(), threshold=1e9)
    assert y[-4:-1].eq(0).all() and grad[-4:-1].eq(0).all()
    torch.testing.assert_close(y[:-4].double(), want[:-4], rtol=1e-6, atol=0)
    torch.testing.assert_close(grad[:-4].double(), raw[:-4].detach().double().sigmoid(), rtol=1e-6, atol=0)
    assert y[-1] == raw[-1] and grad[-1] == 1


# one position, whose result before the gate is 1; then what the gate and the product with its slope are
@compiled
@SETS
def test_gate(monkeypatch, isa):
    monkeypatch.setattr(native.call, "instruction_set", lambda: isa)
    z = torch.cat([torch.linspace(-80, 100, 40_001), torch.tensor([-1e30, 1e30, torch.nan])]).requires_grad_()
    one = torch.ones(len(z), 1, 1)
    y = selective_scan(one, one, -one[0], one, one, z=z.view(-1, 1, 1), impl="native").flatten()
    (grad,) = torch.autograd.grad(y.sum(), z)
    wide = z.detach().double().requires_grad_()
    want = torch.nn.functional.silu(wide)
    torch.testing.assert_close(y[:-2].double(), want[:-2], rtol=1e-6, atol=0)
    # near -1.28 the slope is a difference of equals
    torch.testing.assert_close(grad[:-3].double(), torch.autograd.grad(want.sum(), wide)[0][:-3], rtol=1e-6, atol=2e-7)
    assert y[-2] == z[-2] and y[-1].isnan()


@compiled
def test_nan_is_passed_on():
    x = tensors(10, 1)
    x["u"][0, 4, 2] = torch.nan
    y = scan(x, impl="native")
    assert y[0, 4:, 2].isnan().all() and y[0, :4].isfinite().all() and y[0, :, :2].isfinite().all()


@compiled
@pytest.mark.parametrize("with_all", [False, True])
@pytest.mark.parametrize(("zoh", "reverse", "bounds"), [(False, False, [0, 35]), (True, True, [0, 2, 35])])
def test_opcheck(zoh, reverse, bounds, with_all):
    x = tensors(35, 1 if len(bounds) > 2 else 2)
    x["initial_state"] = torch.randn(2, 6, 4)
    x = {n: t.requires_grad_() for n, t in {**x, "dt": x["dt"].exp()}.items()}
    more = (
        (x["dt_bias"], x["D"], x["z"])
        if with_all
        else (torch.empty(0), torch.empty(0), torch.empty(*x["u"].shape[:2], 0))
    )
    args = (*(x[n] for n in ("u", "dt", "A", "B", "C", "initial_state")), *more, zoh, reverse, bounds, True)
    torch.library.opcheck(native_scan._scan, args)


@compiled
@SETS
@EITHER_WAY
@pytest.mark.parametrize("lengths", [(1,), (5, 1, 33, 1), (1, 64, 2, 65)])
def test_packed_sequences_are_separate_ones(nan_empty, monkeypatch, isa, reverse, lengths):
    monkeypatch.setattr(native.call, "instruction_set", lambda: isa)
    check_packed("native", torch.float32, RATIO[torch.float32], lengths, reverse=reverse)


@compiled
@pytest.mark.parametrize("own", [False, True])
def test_vmap_is_a_loop(own):
    check_vmap("native", torch.float32, RATIO[torch.float32], own)


@compiled
@SETS
@pytest.mark.parametrize("shape", [(2, 6, 4, 2), (9, 1, 3, 1), (2, 40, 5, 2)])
def test_bfloat16_is_read_as_it_is_and_computed_in_float32(nan_empty, monkeypatch, isa, shape):
    monkeypatch.setattr(native.call, "instruction_set", lambda: isa)
    Bt, D, N, G = shape
    x = {name: t.bfloat16().float() for name, t in tensors(65, Bt, D, N, G).items()}
    want, got = run(x, torch.float64, impl="reference"), run(x, torch.bfloat16, impl="native")
    assert got["state"].dtype == torch.float32 and got["y"].dtype == torch.bfloat16
    assert_same(got, want, RATIO[torch.bfloat16])
    # the state is never rounded to bfloat16
    assert_same({"state": got["state"]}, {"state": want["state"]}, RATIO[torch.float32])


@compiled
@pytest.mark.parametrize("L", [5, 70])
def test_without_gradients_nothing_is_kept(nan_empty, L):
    x = tensors(L)
    want = scan(x, impl="native", return_state=True)
    with torch.no_grad():
        got = scan(x, impl="native", return_state=True)
    assert all(torch.equal(g, w) for g, w in zip(got, want, strict=True))
    args = [x[n] for n in ("u", "dt", "A", "B", "C", "initial_state", "dt_bias", "D", "z")]
    kept, dropped = (native_scan._scan(*args, False, False, [0, L], keep)[2:] for keep in (True, False))
    assert kept[1].shape == x["z"].shape and not any(t.numel() for t in dropped)


@compiled
@pytest.mark.parametrize("L", [1, 2, 7, 63, 64, 65, 1000])
def test_accuracy(L):
    x = tensors(L, 1)
    want, got = run(x, torch.float64, impl="reference"), run(x, torch.float32, impl="native")
    for name in want:
        assert_same({name: got[name]}, {name: want[name]}, 2e-6 if name in ("y", "state") else 1e-5)


@compiled
def test_masked_garbage_is_not_read():
    x = tensors(40)
    kept = torch.rand(3, 40) > 0.3
    for name in ("u", "dt", "B", "C", "z"):
        x[name][~kept] = float("nan")
    want = run(x, torch.float64, impl="reference", mask=kept)
    assert_same(run(x, torch.float32, impl="native", mask=kept), want, RATIO[torch.float32])


@compiled
def test_autocast_changes_nothing():
    x = tensors(33)
    want = run(x, torch.float32, impl="native")
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(run(x, torch.float32, impl="native"), want, 1e-7)


@compiled
def test_forked_children_do_not_hang():
    # in a process of its own, as a hanging child cannot be helped; two threads, which do not survive the fork
    code = """
import os, sys, torch
from torch.utils.data import DataLoader
from seqmix.ops import depthwise_conv1d, selective_scan, ssd
torch.set_num_threads(2)
x = torch.randn(8, 40, 16)
def work(_=None):
    heads, codes = x.unflatten(2, (4, 4)), x.unsqueeze(2)
    return (
        selective_scan(x, x.abs(), -torch.ones(16, 4), x[..., :4], x[..., 4:8], impl="native")
        + depthwise_conv1d(x, torch.ones(16, 3), impl="native")
        + ssd(heads, x[..., :4].abs(), -torch.ones(4), codes, codes, impl="native").flatten(2)
    )
class Data:
    __len__ = lambda self: 2
    __getitem__ = lambda self, i: work()
want = work()
assert all(torch.equal(y[0], want) for y in DataLoader(Data(), num_workers=1, multiprocessing_context="fork"))
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(work(), want) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    # no limit of speed: only a child that hangs takes ten minutes, however busy the machine is
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


@compiled
def test_compile_and_strides():
    x = tensors(35)
    want = run(x, torch.float32, impl="native")
    assert_same(run(x, torch.float32, f=torch.compile(scan, backend="aot_eager", fullgraph=True)), want, 1e-6)
    # slices of one wider tensor, as a projection leaves them, are read where they are
    wide = torch.cat([x["u"], x["dt"], x["z"]], -1)
    sliced = x | dict(zip(("u", "dt", "z"), wide.chunk(3, -1), strict=True))
    assert_same(run(sliced, torch.float32, impl="native"), want, 1e-7)
    strided = {n: t.mT.contiguous().mT if t.ndim > 1 else t for n, t in x.items()}
    assert_same(run(strided, torch.float32, impl="native"), want, 1e-6)


@compiled
def test_other_dtypes_go_to_torch_and_are_refused_by_name():
    x = to(tensors(5), torch.float64)
    assert torch.equal(scan(x), scan(x, impl="torch"))
    message = (
        "impl='native' cannot run: the compiled kernel takes float32 on a CPU, got float64 on cpu; use impl='auto'"
    )
    with pytest.raises(ValueError, match=message):
        scan(x, impl="native")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not compiled: install a C++ compiler (Debian: apt install g++) and run pip install again"),
        (b"no library", "_kernels.so cannot be loaded ("),
    ],
)
def test_without_kernels_the_next_path_runs_and_the_reason_is_said(monkeypatch, tmp_path, content, message):
    if content is not None:
        (tmp_path / "_kernels.so").write_bytes(content)
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    native._load.cache_clear()
    try:
        # none at all is a choice; one that does not work is said, once
        with pytest.warns(RuntimeWarning, match="others run: ") if content else nullcontext():
            assert native.library() is None
        assert (native.problem() or "").startswith(message)
        row = next(row for row in explain() if row["op"] == "selective_scan")
        assert row["cpu"] == "torch" and f"native: {message}" in row["others"]
        x = tensors(5)
        assert torch.equal(scan(x), scan(x, impl="torch"))
    finally:
        native._load.cache_clear()


@compiled
def test_the_build_that_fits_is_found_among_others(monkeypatch, tmp_path):
    # of a Python that came first, of one that came last, and what both would hide
    for name in ("_kernels.abi3.so", "_kernels.cpython-39.so", "_kernels.so"):
        (tmp_path / name).write_bytes(b"no library")
    (tmp_path / "_kernels.cpython-310.so").symlink_to(native.library()._name)
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    native._load.cache_clear()
    try:
        assert native.problem() is None
    finally:
        native._load.cache_clear()


def test_a_failed_build_leaves_its_reason(monkeypatch, tmp_path):
    (tmp_path / native.REASON).write_text("the C++ compiler failed (no such header)")
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    native._load.cache_clear()
    try:
        want = "not compiled: the C++ compiler failed (no such header); mend that and run pip install again"
        assert native.problem() == want
    finally:
        native._load.cache_clear()


@pytest.mark.parametrize("broken", [False, True])
def test_a_compiler_without_openmp_is_asked_again(monkeypatch, tmp_path, broken):
    tried = []

    def compile_(self, ext):
        tried.append((*ext.extra_compile_args, *ext.extra_link_args))
        if broken or "-fopenmp" in tried[-1]:
            raise CompileError("unsupported option '-fopenmp'")

    monkeypatch.setattr(build_ext, "build_extension", compile_)
    command = BuildKernels(Distribution())
    command.get_ext_fullpath = lambda name: str(tmp_path / "_kernels.so")
    ext = Extension("_kernels", [], extra_compile_args=["-O3", "-fopenmp"], extra_link_args=["-fopenmp"])
    command.build_extension(ext)
    assert tried == [("-O3", "-fopenmp", "-fopenmp"), ("-O3",)]
    assert (tmp_path / native.REASON).exists() == broken


class _OfAnotherVersion:
    """What ctypes would load after an update without a new install."""

    def __getattr__(self, name):
        function = lambda *args: native.ABI + 1  # noqa: E731  a named function would hide the attributes set on it
        setattr(self, name, function)
        return function


@pytest.mark.parametrize(
    ("loaded", "message"), [(object(), "cannot be loaded"), (_OfAnotherVersion(), "is of another version of seqmix")]
)
def test_a_foreign_library_is_refused(monkeypatch, tmp_path, loaded, message):
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "_kernels.so").touch()
    monkeypatch.setattr(ctypes, "CDLL", lambda path: loaded)
    native._load.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=message):
            assert message in str(native._load())
    finally:
        native._load.cache_clear()
