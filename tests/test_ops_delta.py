"""gated_delta: chunks against the recurrence and the matrix, values and gradients, packed, masked, extreme."""

from itertools import pairwise

import pytest
import torch
from test_ops_ssd import assert_same, with_grads
from torch.nn import functional as F

from seqmix.ops import delta_matrix, delta_product, delta_product_matrix, dplr_delta, dplr_matrix, gated_delta, native
from seqmix.testing import assert_close_ratio

H, K, V = 4, 5, 3

compiled = pytest.mark.skipif(native.problem() is not None, reason=f"the kernels are {native.problem()}")
IMPLS = ["reference", "torch", pytest.param("native", marks=compiled)]
FAST = pytest.mark.parametrize("impl", IMPLS[1:])
# one decay for each head, or for each channel of a key, or none
DECAYS = pytest.mark.parametrize("decays", ["head", "channel", "none"])
# delta rule, linear attention, replacement of the value of another key
RULES = pytest.mark.parametrize("rule", ["delta", "linear", "erase"])


def operands(L, decays="head", rule="delta", batch=2, groups=H, dtype=torch.float64):
    """What ``gated_delta`` takes, by name; strengths up to 2."""
    q, k, erase = torch.randn(3, batch, L, groups, K, dtype=dtype)
    found = {"q": q, "k": F.normalize(k, dim=-1), "v": torch.randn(batch, L, H, V, dtype=dtype)}
    channels = [K] * (decays == "channel")
    found |= {} if decays == "none" else {"decay": -torch.rand(batch, L, H, *channels, dtype=dtype)}
    found |= {} if rule == "linear" else {"beta": 2 * torch.rand(batch, L, H, dtype=dtype)}
    found |= {"erase": F.normalize(erase, dim=-1)} if rule == "erase" else {}
    return found | {"initial_state": torch.randn(batch, H, K, V, dtype=dtype)}


def run(args, impl="auto", dtype=None, op=gated_delta, **options):
    """Results and gradients, in the order of ``args``."""

    def f(*tensors):
        return op(**dict(zip(args, tensors, strict=True)), return_state=True, impl=impl, **options)

    return with_grads(f, [t.to(dtype or t.dtype) for t in args.values()])


@FAST
@DECAYS
@RULES
@pytest.mark.parametrize(("L", "chunk"), [(1, None), (2, 1), (7, 3), (63, None), (65, 16), (70, 999)])
def test_chunks_are_the_recurrence(impl, decays, rule, L, chunk):
    args, reverse = operands(L, decays, rule, groups=2), L % 2 == 0
    want = run(args, "reference", reverse=reverse)
    got = run(args, impl, torch.float32 if impl == "native" else None, chunk=chunk, reverse=reverse)
    assert_same(got, want, 1e-12 if impl == "torch" else 3e-6)


def test_reference_is_the_formula():
    """Decay, then what the key held is read of the decayed state: the order of the original code."""
    a = operands(9, "channel")
    S, ys = a["initial_state"], []
    for t in range(9):
        S = a["decay"][:, t, :, :, None].exp() * S
        k, beta = a["k"][:, t, :, :, None], a["beta"][:, t, :, None, None]
        S = S - beta * k @ (k.mT @ S) + beta * k @ a["v"][:, t, :, None]
        ys.append((S * a["q"][:, t, :, :, None]).sum(-2) * 0.5)
    y, end = gated_delta(**a, scale=0.5, return_state=True, impl="reference")
    assert_same([y, end], [torch.stack(ys, 1), S], 1e-13)


@DECAYS
@RULES
def test_matrix(decays, rule):
    args = operands(11, decays, rule)
    del args["initial_state"]
    v = args.pop("v")
    M = delta_matrix(**args, scale=0.7)
    assert_close_ratio("M v", torch.einsum("bhij,bjhv->bihv", M, v), gated_delta(v=v, **args, scale=0.7), 1e-12)
    assert torch.equal(M, M.tril())


@compiled
@pytest.mark.parametrize("isa", range(native.instruction_set() + 1))
@DECAYS
@RULES
# tiles left over in every direction, keys wider than values and the other way round
@pytest.mark.parametrize(
    ("shape", "chunk"),
    [((1, 1, 1, 1, 1), 7), ((2, 70, 1, 17, 9), None), ((1, 41, 2, 6, 35), 17), ((1, 33, 1, 64, 2), 99)],
)
def test_every_instruction_set(nan_empty, monkeypatch, isa, decays, rule, shape, chunk):
    monkeypatch.setattr(native.call, "instruction_set", lambda: isa)
    B, L, H, K, V = shape
    keys, decay = torch.randn(3, B, L, H, K), -torch.rand(B, L, H, *[K] * (decays == "channel"))
    args = {"q": keys[0], "k": F.normalize(keys[1], dim=-1), "v": torch.randn(B, L, H, V)}
    args |= {} if decays == "none" else {"decay": decay}
    args |= {} if rule == "linear" else {"beta": 2 * torch.rand(B, L, H)}
    args |= {"erase": F.normalize(keys[2], dim=-1)} if rule == "erase" else {}
    args["initial_state"] = torch.randn(B, H, K, V)
    assert_same(run(args, "native", chunk=chunk), run(args, "reference", torch.float64), 3e-6)


@compiled
def test_threads_agree():
    args = {n: t.float() for n, t in operands(70, "channel", "erase").items()}
    one = run(args, "native")
    torch.set_num_threads(2)
    try:
        two = run(args, "native")
    finally:
        torch.set_num_threads(1)
    assert all(map(torch.equal, one, two))


@FAST
@pytest.mark.parametrize("decays", ["head", "channel"])
def test_what_comes_later_changes_no_bit(impl, decays):
    args = {n: t.float() for n, t in operands(70, decays).items()}
    y = gated_delta(**args, impl=impl)
    for k in (1, 31, 33, 69):
        changed = {n: torch.cat([t[:, :k], 3 * t[:, k:]], 1) for n, t in args.items() if n != "initial_state"}
        assert torch.equal(gated_delta(**(args | changed), impl=impl)[:, :k], y[:, :k]), k


@FAST
@DECAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("log_decay", [-6.5e-12, -1.0, -30.0, -1e4, -1e30, -torch.inf])
def test_any_decay(impl, decays, dtype, log_decay):
    """Almost 1 at most positions, as small as can be at some: products of decays over a chunk leave every range."""
    args = operands(70, decays)
    if decays != "none":
        args["decay"] *= 1e-3
        args["decay"][:, [3, 31, 32, 40]] = log_decay
    args = {name: t.to(dtype) for name, t in args.items()}
    want, got = run(args, "reference", torch.float64), run(args, impl)
    assert all(t.isfinite().all() for t in got)
    # the order of the results: y, state, then gradients to the operands; that to decays is what is left of long sums
    rates = list(args).index("decay") + 2 if decays != "none" else -1
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        # gradients to decays of 0 are 0 times infinity in no form
        assert_close_ratio(f"tensor {i}", g, w, 1e-2 if dtype == torch.bfloat16 else 1e-4 if i == rates else 5e-6)


@FAST
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 2.5])
def test_one_key_again_and_again(impl, beta):
    """Without decay the triangle is as far from the identity as it can be; keys of zero write nothing."""
    args = operands(65, "none")
    args["k"] = args["k"][:, :1].expand_as(args["k"]).clone()
    args["k"][:, 5] = 0
    args["beta"] = torch.full_like(args["beta"], beta)
    # over 2 the recurrence itself grows by (beta - 1)^L, and so does what float32 rounds
    cut = {n: t if n == "initial_state" else t[:, : 65 if beta <= 2 else 20] for n, t in args.items()}
    assert_same(run(cut, impl, torch.float32), run(cut, "reference"), 2e-5)


@FAST
@pytest.mark.parametrize("cut", [1, 32, 40])
def test_continues_from_a_state(impl, cut):
    args = {n: t.float() for n, t in operands(70, "channel").items()}
    S = args.pop("initial_state")
    y, end = gated_delta(**args, initial_state=S, return_state=True, impl=impl)
    one, S = gated_delta(**{n: t[:, :cut] for n, t in args.items()}, initial_state=S, return_state=True, impl=impl)
    two, S = gated_delta(**{n: t[:, cut:] for n, t in args.items()}, initial_state=S, return_state=True, impl=impl)
    assert_same([torch.cat([one, two], 1), S], [y, end], 2e-6)


PACKED = [0, 1, 6, 70, 72, 105]


@pytest.mark.parametrize("impl", IMPLS)
@DECAYS
@pytest.mark.parametrize("reverse", [False, True])
def test_packed_is_one_by_one(impl, decays, reverse):
    args = {n: t.float() if impl == "native" else t for n, t in operands(PACKED[-1], decays, batch=1).items()}
    S = torch.randn(len(PACKED) - 1, H, K, V, dtype=args["q"].dtype)
    args = args | {"initial_state": S}
    packed = run(args, impl, cu_seqlens=torch.tensor(PACKED), reverse=reverse)
    alone = [
        gated_delta(
            **{n: S[k : k + 1] if n == "initial_state" else t[:, i:j] for n, t in args.items()},
            return_state=True,
            reverse=reverse,
            impl=impl,
        )
        for k, (i, j) in enumerate(pairwise(PACKED))
    ]
    ratio = 2e-6 if impl == "native" else 1e-12
    assert_same(packed[:2], [torch.cat(t, d) for t, d in zip(zip(*alone, strict=True), (1, 0), strict=True)], ratio)
    want = run({n: t.double() for n, t in args.items()}, "reference", cu_seqlens=torch.tensor(PACKED), reverse=reverse)
    assert_same(packed, want, 5 * ratio)
    # nothing crosses, not even NaN
    args["v"][:, 6:70] = torch.nan
    kept = torch.tensor([not 6 <= t < 70 for t in range(PACKED[-1])])
    y = gated_delta(**args, cu_seqlens=torch.tensor(PACKED), reverse=reverse, impl=impl)
    assert torch.equal(y[:, kept], packed[0][:, kept])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("rule", ["linear", "erase"])
@pytest.mark.parametrize("reverse", [False, True])
def test_masked_is_shorter(impl, rule, reverse):
    dtype = torch.float32 if impl == "native" else torch.float64
    args = operands(70, "channel", rule, dtype=dtype)
    mask = torch.zeros(2, 70, dtype=torch.bool)
    # padding on both sides of the second sequence
    mask[0, :41], mask[1, 9:50] = True, True
    S = args.pop("initial_state")
    short = {n: torch.stack([t[0, :41], t[1, 9:50]]) for n, t in args.items()}
    padded = {n: t.masked_fill(~mask.view(2, 70, *[1] * (t.ndim - 2)), torch.nan) for n, t in args.items()}
    want = run(short | {"initial_state": S}, impl, reverse=reverse)
    got = run(padded | {"initial_state": S}, impl, reverse=reverse, mask=mask)
    assert not got[0][~mask].any()
    ratio = 3e-6 if impl == "native" else 1e-12
    assert_close_ratio("kept", got[0][mask].view(2, 41, H, V), want[0], ratio)
    assert_close_ratio("state", got[1], want[1], ratio)
    assert all(g.isfinite().all() for g in got)


def _by_loop(q, S, steps):
    """Read ``q / sqrt(K)`` after each of the steps, which take the state on."""
    ys = []
    for t in range(q.shape[1]):
        S = steps(t, S)
        ys.append(torch.einsum("bhk,bhkv->bhv", q[:, t], S) / K**0.5)
    return torch.stack(ys, 1), S


@pytest.mark.parametrize("impl", IMPLS)
def test_delta_product_is_householder_after_householder(impl):
    S, q = torch.randn(2, H, K, V).double(), torch.randn(2, 9, H, K).double()
    k, v = F.normalize(torch.randn(2, 9, 3, H, K).double(), dim=-1), torch.randn(2, 9, 3, H, V).double()
    decay, beta = -torch.rand(2, 9, H).double(), 2 * torch.rand(2, 9, 3, H).double()

    def step(t, S):
        S = decay[:, t, :, None, None].exp() * S
        for i in range(3):
            read = torch.einsum("bhkv,bhk->bhv", S, k[:, t, i])
            S = S + torch.einsum("bhk,bhv->bhkv", k[:, t, i], beta[:, t, i, :, None] * (v[:, t, i] - read))
        return S

    dtype = torch.float32 if impl == "native" else torch.float64
    given = (t.to(dtype) for t in (q, k, v, decay, beta))
    got = delta_product(*given, initial_state=S.to(dtype), return_state=True, impl=impl)
    assert_same(got, _by_loop(q, S, step), 2e-6 if impl == "native" else 1e-12)
    M = delta_product_matrix(q, k, decay, beta)
    want = delta_product(q, k, v, decay, beta)
    assert_close_ratio("M v", torch.einsum("brhij,bjrhv->bihv", M, v), want, 1e-12)


@pytest.mark.parametrize("impl", IMPLS)
def test_dplr_is_the_recurrence_of_rwkv7(impl):
    S = torch.randn(2, H, K, V).double()
    q, k, a, b, decay = torch.randn(5, 2, 9, H, K).double()
    a, v, decay = F.normalize(a, dim=-1), torch.randn(2, 9, H, V).double(), -0.6 * decay.sigmoid()

    def step(t, S):
        read = torch.einsum("bhk,bhkv->bhv", a[:, t], S)
        wrote = torch.einsum("bhk,bhv->bhkv", b[:, t], read) + torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
        return decay[:, t, :, :, None].exp() * S + wrote

    dtype = torch.float32 if impl == "native" else torch.float64
    given = (t.to(dtype) for t in (q, k, v, decay, a, b))
    got = dplr_delta(*given, initial_state=S.to(dtype), return_state=True, impl=impl)
    assert_same(got, _by_loop(q, S, step), 2e-6 if impl == "native" else 1e-12)
    M = dplr_matrix(q, k, decay, a, b)
    assert_close_ratio("M v", torch.einsum("bhij,bjhv->bihv", M, v), dplr_delta(q, k, v, decay, a, b), 1e-12)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("log_decay", [-59.0, -1e4, -torch.inf])
def test_dplr_with_any_decay(impl, log_decay):
    q, k, v, a, b = torch.randn(5, 1, 40, H, K)
    decay = torch.full(q.shape, -0.1)
    decay[:, 7] = decay[:, 20:23, :, 1:] = log_decay

    def step(t, S):
        wrote = b[:, t, :, :, None] * torch.einsum("bhk,bhkv->bhv", a[:, t].double(), S).unsqueeze(2)
        return decay[:, t, :, :, None].double().exp() * S + wrote + k[:, t, :, :, None] * v[:, t].unsqueeze(2)

    a, b = 0.3 * F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    want, _ = _by_loop(q.double(), torch.zeros(1, H, K, K).double(), step)
    got, *grads = run({"q": q, "k": k, "v": v, "decay": decay, "a": a, "b": b}, impl, op=dplr_delta)
    assert_close_ratio("y", got, want, 1e-5)
    assert all(g.isfinite().all() for g in grads)


def test_gradients_of_all_operands():
    args = {n: t.requires_grad_() for n, t in operands(5, "channel", "erase", batch=1).items()}
    for impl in ("reference", "torch"):

        def f(*t, impl=impl):
            return gated_delta(**dict(zip(args, t, strict=True)), chunk=2, impl=impl)

        assert torch.autograd.gradcheck(f, tuple(args.values()), fast_mode=True)


def test_empty_axes_and_single_positions():
    for B, L in ((0, 5), (2, 0), (0, 0)):
        q, v, beta = torch.ones(B, L, H, K), torch.ones(B, L, H, V), torch.ones(B, L, H)
        y, S = gated_delta(q, q, v, -beta, beta, return_state=True)
        assert y.shape == (B, L, H, V) and not S.any()
        assert delta_matrix(q, q, -beta, beta).shape == (B, H, L, L)


def test_errors():
    args = operands(6, batch=1)
    mask, cu = torch.ones(1, 6, dtype=torch.bool), torch.tensor([0, 2, 6])
    for message, given in (
        ("got both cu_seqlens and mask; drop the masked positions", {"cu_seqlens": cu, "mask": mask}),
        (r"initial_state should have shape \(2, 4, 5, 3\), got \(1, 4, 5, 3\)", {"cu_seqlens": cu}),
        ("chunk should be at least 1, got 0", {"chunk": 0}),
        (r"k should have shape \(1, 6, 4, 5\), got \(1, 6, 4, 4\)", {"k": args["k"][..., :4]}),
        (r"decay should have shape \(1, 6, 4\), got \(1, 6, 1\)", {"decay": args["decay"][..., :1]}),
        (r"decay should have shape \(1, 6, 4, 5\), got \(1, 6, 4, 1\)", {"decay": args["decay"].unsqueeze(-1)}),
        (r"beta should have shape \(1, 6, 4\), got \(1, 6, 4, 5\)", {"beta": args["k"]}),
        ("beta should be a tensor of real floating-point numbers, got float", {"beta": 0.5}),
        (r"v should have the axes \(B, L, H, V\)", {"v": args["v"][0]}),
        ("H = 3 does not divide into 4 groups", {"v": args["v"][:, :, :3], "beta": None, "decay": None}),
        ("use one of reference, torch", {"impl": "cuda"}),
    ):
        with pytest.raises(ValueError, match=message):
            gated_delta(**(args | given))
    q, k = args["q"], args["k"]
    with pytest.raises(ValueError, match=r"k should have shape \(1, 6, 2, 4, 5\)"):
        delta_product(q, k, args["v"].unsqueeze(2).expand(-1, -1, 2, -1, -1), None, args["beta"])
    with pytest.raises(ValueError, match=r"decay should have shape \(1, 6, 4, 5\), got \(1, 6, 4\)"):
        dplr_delta(q, k, args["v"], args["decay"], k, k)
