"""The compiled scan: every instruction set of this processor against the float64 loop, threads, what can go wrong."""

import ctypes
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_ops_scan import EITHER_WAY, RATIO, assert_same, run, scan, tensors, to

from seqmix.ops import explain, native
from seqmix.ops.native import scan as native_scan

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
    monkeypatch.setattr(native_scan, "instruction_set", lambda: isa)
    x, options = tensors(L), {"reverse": reverse, "discretization": discretization}
    want = run(x, torch.float64, impl="reference", **options)
    assert_same(run(x, torch.float32, impl="native", **options), want, RATIO[torch.float32])


# one lane, lanes left over in every width, several blocks, many states, groups narrower than a block
@compiled
@SETS
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 19, 3, 1), (3, 40, 16, 2), (1, 70, 1, 1), (2, 4, 256, 4)])
def test_shapes(nan_empty, monkeypatch, isa, shape):
    monkeypatch.setattr(native_scan, "instruction_set", lambda: isa)
    Bt, D, N, G = shape
    x = tensors(35, Bt, D, N, G)
    want = run(x, torch.float64, impl="reference")
    assert_same(run(x, torch.float32, impl="native"), want, RATIO[torch.float32])


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


@compiled
def test_nan_is_passed_on():
    x = tensors(10, 1)
    x["u"][0, 4, 2] = torch.nan
    y = scan(x, impl="native")
    assert y[0, 4:, 2].isnan().all() and y[0, :4].isfinite().all() and y[0, :, :2].isfinite().all()


@compiled
@pytest.mark.parametrize(("reverse", "zoh"), [(False, False), (True, True)])
def test_opcheck(reverse, zoh):
    x = tensors(35)
    x = {n: t.requires_grad_() for n, t in {**x, "dt": x["dt"].exp()}.items()}
    args = (*(x[n] for n in ("u", "dt", "A", "B", "C", "initial_state")), zoh, reverse)
    torch.library.opcheck(native_scan._scan, args)


@compiled
def test_compile_and_strides():
    x = tensors(35)
    want = run(x, torch.float32, impl="native")
    assert_same(run(x, torch.float32, f=torch.compile(scan, backend="aot_eager", fullgraph=True)), want, 1e-6)
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
        assert native.library() is None
        assert (native.problem() or "").startswith(message)
        row = next(row for row in explain() if row["op"] == "selective_scan")
        assert row["cpu"] == "torch" and f"native: {message}" in row["others"]
        x = tensors(5)
        assert torch.equal(scan(x), scan(x, impl="torch"))
    finally:
        native._load.cache_clear()


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
        assert message in str(native._load())
    finally:
        native._load.cache_clear()
