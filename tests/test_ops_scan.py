"""Selective scan: every implementation and gradient against the float64 loop, closed forms, and the dispatch."""

import math
from itertools import accumulate

import pytest
import torch
from torch.nn import functional as F

from seqmix.ops import explain, scan_matrix, selective_scan, selective_scan_step
from seqmix.ops.dispatch import pick
from seqmix.ops.native import problem
from seqmix.ops.scan.torch import _scan
from seqmix.testing import assert_close_ratio

NAMES = ("u", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")
# rounding of float32 through 200 steps; bfloat16 inputs have 8 bits, and the arithmetic on them is float32
RATIO = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-3}
compiled = pytest.mark.skipif(problem() is not None, reason=f"the kernels are {problem()}")
BOTH = pytest.mark.parametrize("impl", ["reference", "torch"])
EITHER_WAY = pytest.mark.parametrize("reverse", [False, True])


def tensors(L, Bt=3, D=6, N=4, G=2):
    return {
        "u": torch.randn(Bt, L, D),
        "dt": torch.randn(Bt, L, D) - 1,
        "A": -torch.rand(D, N) * 4 - 0.1,
        "B": torch.randn(Bt, L, G, N),
        "C": torch.randn(Bt, L, G, N),
        "D": torch.randn(D),
        "z": torch.randn(Bt, L, D),
        "dt_bias": torch.randn(D),
        "initial_state": torch.randn(Bt, D, N),
    }


def to(x, dtype):
    return {name: t.to(dtype) for name, t in x.items()}


def scan(x, **options):
    return selective_scan(**x, dt_softplus="dt_bias" in x, **options)


def run(x, dtype, f=scan, **options):
    """Results and every gradient, weighted so that y and the last state both count."""
    x = {name: t.to(dtype).requires_grad_() for name, t in x.items()}
    y, h = f(x, return_state=True, **options)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(t.shape, generator=generator).to(t.dtype) for t in (y, h)]
    grads = torch.autograd.grad([y, h], list(x.values()), weights)
    return {"y": y, "state": h} | {f"d{name}": g for name, g in zip(x, grads, strict=True)}


def assert_same(got, want, ratio):
    for name in want:
        assert_close_ratio(name, got[name], want[name], ratio)


# lengths around the chunk of 32 and its multiples
@pytest.mark.parametrize("L", [1, 2, 7, 31, 32, 33, 63, 64, 65, 200])
@pytest.mark.parametrize("discretization", ["euler", "zoh"])
@EITHER_WAY
def test_torch_is_the_reference(nan_empty, L, reverse, discretization):
    x, options = tensors(L), {"reverse": reverse, "discretization": discretization}
    want = run(x, torch.float64, impl="reference", **options)
    assert_same(run(x, torch.float64, impl="torch", **options), want, RATIO[torch.float64])
    assert_same(run(x, torch.float32, impl="torch", **options), want, RATIO[torch.float32])


@BOTH
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 2, 1), (2, 6, 1, 6), (2, 5, 3, 1)])
def test_shapes(nan_empty, impl, shape, monkeypatch):
    Bt, D, N, G = shape
    # a buffer of two rows, so that the batch is cut
    monkeypatch.setattr("seqmix.ops.scan.torch._CPU_BUFFER", 2 * 32 * D * N)
    x = tensors(40, 3 * Bt, D, N, G)
    want = run(x, torch.float64, impl="reference")
    assert_same(run(x, torch.float32, impl=impl), want, RATIO[torch.float32])


def check_without_states(impl, lengths, reverse):
    """Where no state is given or wanted: result and gradients of a first state of zero."""
    packed = len(lengths) > 1
    x = tensors(sum(lengths), 1 if packed else 3, 12, 8)
    options = {"cu_seqlens": torch.tensor([0, *lengths]).cumsum(0)} if packed else {}
    first = x.pop("initial_state").new_zeros(len(lengths) if packed else 3, 12, 8)
    grad = torch.randn_like(x["u"])
    found = []
    for name, dtype, states in (
        ("reference", torch.float64, {"initial_state": first.double()}),
        (impl, torch.float32, {}),
    ):
        ins = {n: t.to(dtype).requires_grad_() for n, t in x.items()}
        y = scan({**ins, **states}, impl=name, reverse=reverse, **options)
        grads = torch.autograd.grad(y, list(ins.values()), grad.to(dtype))
        found.append({"y": y} | dict(zip(ins, grads, strict=True)))
    assert_same(found[1], found[0], RATIO[torch.float32])


@pytest.mark.parametrize("lengths", [(7,), (33,), (5, 1, 33, 1)])
@EITHER_WAY
def test_without_states_is_from_zero_on(nan_empty, lengths, reverse):
    check_without_states("torch", lengths, reverse)


@BOTH
def test_bfloat16_is_computed_in_float32(impl):
    x = {name: t.bfloat16().float() for name, t in tensors(65).items()}
    want, got = run(x, torch.float64, impl="reference"), run(x, torch.bfloat16, impl=impl)
    assert got["state"].dtype == torch.float32 and got["y"].dtype == torch.bfloat16
    assert_same(got, want, RATIO[torch.bfloat16])
    # the state is never rounded to bfloat16
    assert_close_ratio("state", got["state"], want["state"], RATIO[torch.float32])


@BOTH
def test_autocast_changes_nothing(impl):
    x = tensors(33)
    want = run(x, torch.float32, impl=impl)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(run(x, torch.float32, impl=impl), want, 1e-7)


@pytest.mark.parametrize("discretization", ["euler", "zoh"])
@EITHER_WAY
def test_gradcheck_of_the_reference(reverse, discretization):
    x = {name: t.double().requires_grad_() for name, t in tensors(5, 2, 2, 2, 1).items()}

    def f(*values):
        x = dict(zip(NAMES, values, strict=True))
        return scan(x, return_state=True, reverse=reverse, discretization=discretization, impl="reference")

    assert torch.autograd.gradcheck(f, tuple(x.values()))


@BOTH
@pytest.mark.parametrize("discretization", ["euler", "zoh"])
@EITHER_WAY
def test_matrix(impl, reverse, discretization):
    x = to(tensors(37), torch.float64)
    del x["z"], x["initial_state"]
    mask = torch.rand(3, 37) > 0.3
    options = {"reverse": reverse, "discretization": discretization, "mask": mask}
    u = x.pop("u")
    M = scan_matrix(**x, dt_softplus=True, **options)
    assert_close_ratio("y", scan({"u": u, **x}, impl=impl, **options), torch.einsum("bdts,bsd->btd", M, u), 1e-12)
    assert torch.equal(M, M.triu() if reverse else M.tril())


@BOTH
def test_causality_is_exact(impl):
    x = tensors(40, 1)
    u = x["u"].requires_grad_()
    g = torch.autograd.grad(scan(x, impl=impl)[:, 20].sum(), u)[0]
    assert g[:, 20].all() and not g[:, 21:].any()


@BOTH
@pytest.mark.parametrize("discretization", ["euler", "zoh"])
def test_constant_system_is_a_geometric_kernel(impl, discretization):
    L, dt, A = 50, 0.3, -0.7
    ones = torch.ones(1, L, 1, dtype=torch.float64)
    u = torch.randn_like(ones)
    y = selective_scan(u, dt * ones, A * ones[0, :1], ones, ones, impl=impl, discretization=discretization)
    # phi is the ratio of the exact input map to Euler's
    phi = math.expm1(dt * A) / (dt * A) if discretization == "zoh" else 1.0
    kernel = phi * dt * torch.exp(dt * A * torch.arange(L, dtype=torch.float64))
    want = torch.stack([(kernel[: t + 1].flip(0) * u[0, : t + 1, 0]).sum() for t in range(L)])
    assert_close_ratio("y", y[0, :, 0], want, 1e-13)


@BOTH
def test_step_of_zero_leaves_the_skip(impl):
    x = tensors(9)
    y, h = selective_scan(
        x["u"], torch.zeros_like(x["dt"]), x["A"], x["B"], x["C"], x["D"], impl=impl, return_state=True
    )
    assert torch.equal(y, x["u"] * x["D"]) and not h.any()


@BOTH
@EITHER_WAY
@pytest.mark.parametrize("cut", [1, 31, 32, 50])
def test_two_parts_with_the_state_are_one_pass(impl, reverse, cut):
    x = to(tensors(65), torch.float64)
    want, last = scan(x, impl=impl, reverse=reverse, return_state=True)
    along = ("u", "dt", "B", "C", "z")
    parts = [{n: t[:, s] if n in along else t for n, t in x.items()} for s in (slice(cut), slice(cut, None))]
    first, second = parts[::-1] if reverse else parts
    y1, h = scan(first, impl=impl, reverse=reverse, return_state=True)
    y2, h = scan({**second, "initial_state": h}, impl=impl, reverse=reverse, return_state=True)
    assert_close_ratio("y", torch.cat([y2, y1] if reverse else [y1, y2], 1), want, 1e-13)
    assert_close_ratio("state", h, last, 1e-13)


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("discretization", ["euler", "zoh"])
def test_step(groups, discretization):
    x = to(tensors(7, G=groups or 1), torch.float64)
    if groups is None:
        x["B"], x["C"] = x["B"].squeeze(2), x["C"].squeeze(2)
    want, last = scan(x, return_state=True, discretization=discretization)
    state = x.pop("initial_state")
    fixed = {name: x.pop(name) for name in ("A", "D", "dt_bias")}
    for t in range(7):
        now = {name: v[:, t] for name, v in x.items()}
        y, state = selective_scan_step(state, **now, **fixed, dt_softplus=True, discretization=discretization)
        assert_close_ratio(f"y[{t}]", y, want[:, t], 1e-13)
    assert_close_ratio("state", state, last, 1e-13)


@BOTH
@pytest.mark.parametrize("L", [1, 7, 65])
def test_reverse_is_the_mirror_image(impl, L):
    x = tensors(L)
    mirrored = {n: t.flip(1) if n in ("u", "dt", "B", "C", "z") else t for n, t in x.items()}
    got = run(x, torch.float64, impl=impl, reverse=True)
    want = scan(to(mirrored, torch.float64), impl=impl)
    assert_close_ratio("y", got["y"], want.flip(1), 1e-13)


@BOTH
@EITHER_WAY
@pytest.mark.parametrize("left", [False, True])
def test_mask(impl, reverse, left):
    L, lengths = 40, (40, 33, 1)
    x = tensors(L)
    kept = torch.arange(L) < torch.tensor(lengths)[:, None]
    kept = kept.flip(1) if left else kept
    # garbage of every kind where masked
    for name in ("u", "dt", "B", "C", "z"):
        x[name][~kept] = float("nan")
    x = {n: t.double().requires_grad_() for n, t in x.items()}
    y, h = scan(x, impl=impl, reverse=reverse, mask=kept, return_state=True)
    assert not y[~kept].any()
    grads = torch.autograd.grad(y.sum() + h.sum(), list(x.values()))
    summed = dict.fromkeys(("A", "D", "dt_bias"), 0.0)
    for i in range(3):
        alone = {
            n: (t[i : i + 1, kept[i]] if n in ("u", "dt", "B", "C", "z") else t[i : i + 1] if n[0] == "i" else t)
            for n, t in x.items()
        }
        y_i, h_i = scan(alone, impl=impl, reverse=reverse, return_state=True)
        assert_close_ratio("y", y[i, kept[i]], y_i[0], 1e-13)
        assert_close_ratio("state", h[i], h_i[0], 1e-13)
        grads_i = torch.autograd.grad(y_i.sum() + h_i.sum(), list(x.values()))
        for name, got, want in zip(x, grads, grads_i, strict=True):
            if name in summed:
                summed[name] = summed[name] + want
            else:
                assert_close_ratio(f"d{name}", got[i], want[i], 1e-12)
    for name, want in summed.items():
        assert_close_ratio(f"d{name}", grads[NAMES.index(name)], want, 1e-12)


@BOTH
@pytest.mark.parametrize("used", ["y", "state"])
def test_gradient_through_one_result_alone(impl, used):
    x = {name: t.double().requires_grad_() for name, t in tensors(40).items()}
    want = scan(x, impl="reference", return_state=True)[used == "state"].square().sum()
    got = scan(x, impl=impl, return_state=True)[used == "state"].square().sum()
    names = [n for n in NAMES if used == "y" or n not in ("C", "D", "z")]
    inputs = [x[n] for n in names]
    for name, a, b in zip(names, torch.autograd.grad(got, inputs), torch.autograd.grad(want, inputs), strict=True):
        assert_close_ratio(f"d{name}", a, b, 1e-12)


@BOTH
@pytest.mark.parametrize("discretization", ["euler", "zoh"])
@pytest.mark.parametrize("rate", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("step", [0.0, 1e-6, 10.0])
def test_extremes_are_finite(impl, rate, step, discretization):
    x = {n: t.requires_grad_() for n, t in tensors(70).items() if n not in ("dt_bias",)}
    x["dt"] = torch.full_like(x["dt"], step).requires_grad_()
    x["A"] = (x["A"].detach() * rate).requires_grad_()
    y = scan(x, impl=impl, discretization=discretization)
    for name, g in zip(x, torch.autograd.grad(y.sum(), list(x.values())), strict=True):
        assert g.isfinite().all(), name
    assert y.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("step", [1e-3, 10.0])
def test_a_hundred_thousand_steps_are_finite(step):
    x = {n: t for n, t in tensors(100_000, 1, 2, 2, 1).items() if n != "dt_bias"}
    x["dt"] = step * torch.rand(1, 100_000, 2)
    for name, t in run(x, torch.float32, impl="torch").items():
        assert t.isfinite().all(), name


@BOTH
def test_empty_batch_and_strided_input(impl):
    empty = run(tensors(9, 0), torch.float32, impl=impl)
    assert empty["y"].shape == (0, 9, 6) and not empty["dA"].any()
    x = tensors(40)
    strided = {n: t.mT.contiguous().mT if t.ndim > 1 else t for n, t in x.items()}
    strided["u"] = torch.cat([x["u"], x["u"]], -1)[..., :6]
    assert_same(run(strided, torch.float32, impl=impl), run(x, torch.float32, impl=impl), 1e-6)


@pytest.mark.parametrize(("reverse", "zoh"), [(False, False), (True, True)])
def test_opcheck(reverse, zoh):
    x = tensors(35)
    x = {n: t.requires_grad_() for n, t in {**x, "dt": x["dt"].exp()}.items()}
    args = (*(x[n] for n in ("u", "dt", "A", "B", "C", "initial_state")), zoh, reverse)
    torch.library.opcheck(_scan, args)


@BOTH
@EITHER_WAY
@pytest.mark.parametrize("lengths", [(1,), (5, 1, 33, 1), (40, 40), (1, 64, 2, 65)])
def test_packed_sequences_are_separate_ones(impl, reverse, lengths):
    check_packed(impl, torch.float64, 1e-12, lengths, reverse=reverse)


def check_packed(impl, dtype, ratio, lengths, **options):
    """Results and gradients of packed sequences: what follows from each alone in the float64 loop."""
    bounds = list(accumulate((0, *lengths)))
    x = tensors(bounds[-1], 1)
    x["initial_state"] = torch.randn(len(lengths), 6, 4)
    got = run(x, dtype, impl=impl, cu_seqlens=torch.tensor(bounds), **options)

    def separately(cu_seqlens, return_state, **x):
        along = ("u", "dt", "B", "C", "z")
        cut = lambda n, t, k: t[:, bounds[k] : bounds[k + 1]] if n in along else t[k : k + 1] if n[0] == "i" else t  # noqa: E731
        parts = [
            scan({n: cut(n, t, k) for n, t in x.items()}, impl="reference", return_state=True, **options)
            for k in range(len(lengths))
        ]
        return torch.cat([y for y, _ in parts], 1), torch.cat([h for _, h in parts])

    want = run(x, torch.float64, f=lambda x, **o: separately(cu_seqlens=None, **x, **o))
    assert_same(got, want, ratio)


@BOTH
def test_packed_sequences_do_not_leak(impl):
    x = tensors(12, 1)
    del x["initial_state"]
    x["u"][:, 5] = torch.nan
    for reverse in (False, True):
        y = scan(x, impl=impl, cu_seqlens=torch.tensor([0, 4, 7, 12]), reverse=reverse)
        assert y[:, 5].isnan().all() and y[:, :4].isfinite().all() and y[:, 7:].isfinite().all()


def test_cu_seqlens_and_mask_exclude_each_other():
    x, bounds = tensors(6, 1), torch.tensor([0, 6])
    with pytest.raises(ValueError, match="got both cu_seqlens and mask; drop the masked positions from x and keep"):
        scan(x, cu_seqlens=bounds, mask=torch.ones(1, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match="cu_seqlens needs a batch of one, got 2"):
        scan(tensors(6, 2), cu_seqlens=bounds)


@BOTH
@pytest.mark.parametrize("own", [False, True])
def test_vmap_is_a_loop(impl, own):
    check_vmap(impl, torch.float64, 1e-12, own)


def check_vmap(impl, dtype, ratio, own):
    """Values and gradients with parameters shared or each sample's own, and gradients of many weights at once."""
    xs = [to(tensors(7, 2), dtype) for _ in range(3)]
    shared = () if own else ("A", "D", "dt_bias")
    x = {n: xs[0][n] if n in shared else torch.stack([x[n] for x in xs], 1) for n in NAMES}
    x = {n: t.requires_grad_() for n, t in x.items()}
    axes = {n: None if n in shared else 1 for n in NAMES}
    ys, hs = torch.func.vmap(lambda x: scan(x, impl=impl, return_state=True), in_dims=(axes,))(x)
    alone = [
        scan({n: t if n in shared else t[:, i] for n, t in x.items()}, impl=impl, return_state=True) for i in range(3)
    ]
    want = torch.stack([y for y, _ in alone]), torch.stack([h for _, h in alone])
    weights = torch.randn(2, *ys.shape, dtype=dtype), torch.randn(2, *hs.shape, dtype=dtype)
    inputs = list(x.values())
    got = torch.autograd.grad([ys, hs], inputs, weights, is_grads_batched=True)
    for i in range(2):
        grads = torch.autograd.grad(want, inputs, [w[i] for w in weights], retain_graph=True)
        for name, g, w in zip(NAMES, got, grads, strict=True):
            assert_close_ratio(f"d{name}", g[i], w, ratio)
    assert_same({"y": ys, "h": hs}, dict(zip("yh", want, strict=True)), ratio)


@EITHER_WAY
def test_compile(reverse):
    x = to(tensors(35), torch.float64)
    mask = torch.rand(3, 35) > 0.2
    options = {"impl": "torch", "reverse": reverse, "mask": mask}
    compiled = torch.compile(scan, backend="aot_eager", fullgraph=True)
    assert_same(run(x, torch.float64, f=compiled, **options), run(x, torch.float64, **options), 1e-13)


@pytest.mark.parametrize(("impl", "ratio"), [("torch", 1e-12), pytest.param("native", 1e-4, marks=compiled)])
@pytest.mark.parametrize("packed", [False, True])
def test_second_derivatives(impl, ratio, packed):
    x = {n: t.requires_grad_() for n, t in tensors(7, 1, 2, 1, 1).items()}
    options = {"cu_seqlens": torch.tensor([0, 3, 7])} if packed else {}
    x.pop("initial_state")

    def penalty(impl, dtype):
        wide = [t.detach().to(dtype).requires_grad_() for t in x.values()]
        y, h = scan(dict(zip(x, wide, strict=True)), impl=impl, return_state=True, reverse=True, **options)
        gradients = torch.autograd.grad(y.square().sum() + h.square().sum(), wide, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), wide)

    want = penalty("reference", torch.float64)
    for got, w in zip(penalty(impl, torch.float64 if impl == "torch" else torch.float32), want, strict=True):
        assert_close_ratio("second derivative", got, w, ratio)


def test_memory_does_not_hold_every_state():
    x = {n: t.requires_grad_() for n, t in tensors(512, 1, 32, 32, 1).items()}
    saved = 0

    def count(t):
        nonlocal saved
        saved += t.numel()
        return t

    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        scan(x, impl="torch")
    assert saved < 512 * 32 * 32 / 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"impl": "cuda"}, "no implementation 'cuda' here; use one of reference, torch, native, triton, or 'auto'"),
        ({"discretization": "bilinear"}, "discretization = 'bilinear' is not known; use 'euler' or 'zoh'"),
    ],
)
def test_wrong_options_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        scan(tensors(2), **change)


def test_groups_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="D = 6 does not divide into 4 groups"):
        scan(tensors(2, G=4))


def test_dispatch():
    assert pick("auto", {"reference": F.relu, "torch": "torch.nn.functional:silu"}, torch.zeros(1)) is F.silu
    row = next(row for row in explain() if row["op"] == "selective_scan")
    assert row["cpu"] == ("native" if problem() is None else "torch") and row["others"].startswith("reference: ")
    assert row["cuda"] in ("torch", "no CUDA device")
    # without a GPU the kernel for one is no slower path, it is none
    if row["cuda"] == "no CUDA device":
        assert (
            "; triton: runs on a CUDA device" in row["others"] or "; triton: Triton is not installed" in row["others"]
        )
