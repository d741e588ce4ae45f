"""The Triton kernels in Triton's interpreter, on a CPU, against the float64 loops: values and gradients.

The interpreter has to be chosen before Triton is imported, so one process runs all cases and reports their errors.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from seqmix.ops import dispatch, explain, gated_delta
from seqmix.ops.quasiseparable import quasiseparable
from seqmix.ops.scan import selective_scan
from seqmix.ops.ssd import ssd

# (B, L, channels, N, G, bounds): a length of 1, several chunks, uneven channels and states, groups, packed sequences
SCANS = {
    "one step": (2, 1, 3, 1, 1, None),
    "chunks, groups": (1, 35, 6, 3, 2, None),
    "packed": (1, 20, 3, 4, 1, [0, 1, 18, 20]),
}
SCAN_FORMS = (("forward", "zoh"), ("reverse", "euler"))
# (B, L, H, P, N, G, bounds)
SSDS = {
    "two steps": (2, 2, 2, 3, 1, 1, None),
    "chunks, groups": (1, 19, 2, 3, 5, 2, None),
    "packed, blocks of states": (1, 18, 2, 17, 70, 1, [0, 1, 18]),
}
# (B, L, H, K, V, bounds), decays of a head or of the channels of its keys, and what is replaced
DELTAS = {
    "one step": ((2, 1, 1, 3, 2, None), "head", "delta"),
    "masked chunks": ((1, 33, 1, 3, 5, None), "head", "delta"),
    "channels, another key": ((1, 19, 1, 5, 3, None), "channel", "erase"),
    "packed, linear": ((1, 18, 2, 4, 3, [0, 1, 18]), "channel", "linear"),
    "packed, blocks of values": ((1, 5, 1, 17, 130, [0, 1, 5]), "head", "delta"),
    "no decay, no first state": ((1, 4, 2, 3, 3, None), "none", "delta"),
    "forgets all": ((1, 18, 1, 3, 3, None), "channel", "delta"),
}
NAMES = [
    *(f"scan, {case}, {way}, {form}" for case in SCANS for way, form in SCAN_FORMS),
    *(f"ssd, {case}, {way}" for case in SSDS for way in ("forward", "reverse", "both")),
    *(f"delta, {case}" for case in DELTAS),
    "scan, softplus, no states, rows",
    "scan, softplus, no states, packed",
    "strong decay, forward",
    "strong decay, both",
    "bfloat16",
]


@pytest.fixture(scope="module")
def errors():
    """RMS error over RMS of each result and gradient, by case."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed")
    folder = Path(__file__).parent
    path = os.pathsep.join([str(folder), str(folder.parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    code = "import test_ops_triton; test_ops_triton.report()"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_the_loops(errors, name):
    found = errors[name]
    assert len(found) >= 6
    # products of numbers of 8 bits; a decay after a sum of decays of 100 has lost two digits of the sum
    limit = 1e-2 if name == "bfloat16" else 1e-5 if "strong" in name else 2e-6
    # NaN is no success
    assert all(error < limit for error in found), found


def test_on_cuda_the_kernel_runs_and_without_triton_the_reason_is_said(monkeypatch):
    choose = lambda: [  # noqa: E731  a table of two rows
        dispatch._fastest(dispatch._OPS[op], "cuda", dtype)
        for op in ("ssd", "quasiseparable", "selective_scan", "gated_delta")
        for dtype in (torch.float32, torch.bfloat16, torch.float64)
    ]
    monkeypatch.setattr(dispatch, "_triton_problem", lambda: None)
    assert choose() == ["triton", "triton", "torch"] * 4
    monkeypatch.setattr(dispatch, "_triton_problem", lambda: "Triton is not installed: pip install triton")
    assert choose() == ["torch"] * 12
    row = next(row for row in explain() if row["op"] == "ssd")
    assert "triton: Triton is not installed: pip install triton" in row["others"]
    with pytest.raises(ValueError, match=r"impl='triton' cannot run: the Triton kernel takes .* got float32 on cpu"):
        ssd(torch.ones(1, 2, 1, 1), *map(torch.ones, ((1, 2, 1), 1, (1, 2, 1, 1), (1, 2, 1, 1))), impl="triton")


def report():
    """Run all cases and print their errors; called in a process that has the interpreter."""
    torch.set_num_threads(1)
    dispatch._obstacle = lambda *_: None
    _multiply_bfloat16()
    found = {}
    for case, shape in SCANS.items():
        for way, form in SCAN_FORMS:
            torch.manual_seed(0)
            found[f"scan, {case}, {way}, {form}"] = _scan(*shape, way == "reverse", form)
    for case, shape in {"rows": (2, 20, None), "packed": (1, 20, [0, 1, 18, 20])}.items():
        torch.manual_seed(0)
        found[f"scan, softplus, no states, {case}"] = _scan_without_states(*shape)
    for case, shape in SSDS.items():
        for way in ("forward", "reverse", "both"):
            torch.manual_seed(0)
            found[f"ssd, {case}, {way}"] = _ssd(*shape, way)
    for way in ("forward", "both"):
        # one step in twenty forgets all
        found[f"strong decay, {way}"] = _ssd(1, 20, 2, 2, 2, 1, None, way, forget=7)
    found["bfloat16"] = _ssd(1, 33, 1, 16, 16, 1, None, "forward", dtype=torch.bfloat16)
    for case, (shape, decays, rule) in DELTAS.items():
        torch.manual_seed(0)
        found[f"delta, {case}"] = _delta(*shape, decays, rule, case)
    print(json.dumps(found))


def _multiply_bfloat16():
    """Let the interpreter widen bfloat16 before a product: Triton 3.9 multiplies the bits as if they were integers."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    dot = InterpreterBuilder.create_dot

    def widened(self, a, b, *others):
        a, b = (self.create_fp_ext(t, tl.float32) if t.dtype.scalar == tl.bfloat16 else t for t in (a, b))
        return dot(self, a, b, *others)

    InterpreterBuilder.create_dot = widened


def _scan(B, L, D, N, G, bounds, reverse, form):
    items = B if bounds is None else len(bounds) - 1
    tensors = [
        torch.randn(B, L, D),
        torch.rand(B, L, D),
        -torch.rand(D, N) * 2,
        *(torch.randn(B, L, G, N) for _ in range(2)),
        torch.randn(items, D, N),
    ]
    options = {"reverse": reverse, "discretization": form, "return_state": True}
    if bounds is None:
        options["mask"] = (torch.arange(L) != 2).expand(B, L)
    else:
        options["cu_seqlens"] = torch.tensor(bounds)
    return _errors(lambda impl, *t: selective_scan(*t[:5], initial_state=t[5], impl=impl, **options), tensors)


def _scan_without_states(B, L, bounds):
    tensors = [
        torch.randn(B, L, 3),
        torch.randn(B, L, 3),
        -torch.rand(3, 4) * 2,
        *torch.randn(2, B, L, 4),
        torch.randn(3),
    ]
    options = {"dt_softplus": True, "cu_seqlens": None if bounds is None else torch.tensor(bounds)}
    return _errors(lambda impl, *t: selective_scan(*t[:5], dt_bias=t[5], impl=impl, **options), tensors)


def _ssd(B, L, H, P, N, G, bounds, way, forget=None, dtype=torch.float32):
    ways = (2,) if way == "both" else ()
    dt = torch.rand(B, L, *ways, H)
    if forget is not None:
        dt[:, forget] = 1e4
    tensors = [
        torch.randn(B, L, H, P).to(dtype),
        dt,
        -torch.rand(H) * 2,
        *(torch.randn(B, L, *ways, G, N).to(dtype) for _ in range(2)),
        torch.randn(B if bounds is None else len(bounds) - 1, H, P, N),
    ]
    options = {} if bounds is None else {"cu_seqlens": torch.tensor(bounds)}
    options |= {} if ways else {"reverse": way == "reverse", "return_state": True}
    options |= {"chunk": 16}
    op = quasiseparable if ways else ssd
    return _errors(lambda impl, *t: op(*t[:5], initial_state=t[5], impl=impl, **options), tensors)


def _delta(B, L, H, K, V, bounds, decays, rule, case):
    q, k, e = torch.randn(3, B, L, H, K)
    args = {"q": q, "k": torch.nn.functional.normalize(k, dim=-1), "v": torch.randn(B, L, H, V)}
    args |= {} if decays == "none" else {"decay": -torch.rand(B, L, H, *[K] * (decays == "channel"))}
    args |= {} if rule == "linear" else {"beta": 2 * torch.rand(B, L, H)}
    args |= {"erase": torch.nn.functional.normalize(e, dim=-1)} if rule == "erase" else {}
    items = B if bounds is None else len(bounds) - 1
    args |= {} if decays == "none" else {"initial_state": torch.randn(items, H, K, V)}
    if case == "forgets all":
        args["decay"][:, [7, 16]] = -torch.inf
    options = {"return_state": True, "reverse": case == "channels, another key"}
    options |= {"mask": (torch.arange(L) % 9 != 2).expand(B, L)} if case == "masked chunks" else {}
    options |= {} if bounds is None else {"cu_seqlens": torch.tensor(bounds)}
    return _errors(
        lambda impl, *t: gated_delta(**dict(zip(args, t, strict=True)), impl=impl, **options), list(args.values())
    )


def _errors(op, tensors):
    def run(impl, tensors):
        tensors = [t.detach().requires_grad_() for t in tensors]
        ys = op(impl, *tensors)
        ys = ys if isinstance(ys, tuple) else (ys,)
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(y.shape, generator=generator).to(y.dtype) for y in ys]
        return [*ys, *torch.autograd.grad(ys, tensors, weights)]

    got, want = run("triton", tensors), run("reference", [t.double() for t in tensors])
    return [
        # a gradient that is zero throughout has to be zero
        float((g.detach() - w.detach()).norm() / (w.detach().norm() or 1.0))
        for g, w in zip(got, want, strict=True)
    ]
