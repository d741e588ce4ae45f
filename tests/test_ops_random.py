"""Random calls of every op: each implementation and gradient against the float64 reference, and faulty operands.

A call is drawn from its seed alone, so that a failure, which names op and seed, can be repeated:
``python tests/test_ops_random.py selective_scan 17``.
"""

import random
import sys

import pytest
import torch

from seqmix import ops
from seqmix.ops import native

FIRST_SEED = 20_261_129
HALF = (torch.bfloat16, torch.float16)
# rounding of the arithmetic and of the result, with room for sums of either sign
RATIO = {torch.float64: 1e-9, torch.float32: 2e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# in bfloat16 their gradients are what is left of hundreds of products of numbers of 8 bits
SUMMED = ("A", "dt_bias")


class Draw:
    """What a call is made of, drawn from a seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = self.pick(*[torch.float32] * 4, torch.float64, *HALF)

    def pick(self, *choices):
        return self.random.choice(choices)

    def often(self):
        return self.random.random() < 0.5

    def size(self, *choices):
        """One of the choices, now and then 0."""
        return 0 if self.random.random() < 0.04 else self.pick(*choices)

    def groups(self, n):
        return self.pick(*[g for g in range(1, n + 1) if n % g == 0] or [1])

    def tensor(self, *shape, first=False, form=lambda t: t):
        """Numbers of the type of the call, or now and then of another, with strides of any kind."""
        dtype = self.dtype if first or self.random.random() < 0.7 else self.pick(*RATIO)
        x = form(torch.randn(shape, generator=self.generator)).to(dtype)
        kind = self.random.randrange(4)
        if kind == 1 and x.ndim > 1:
            i, j = self.random.sample(range(x.ndim), 2)
            x = x.transpose(i, j).contiguous().transpose(i, j)
        elif kind == 2 and x.ndim:
            x = torch.cat([x, x], -1)[..., : x.shape[-1]]
        elif kind == 3 and x.ndim > 1:
            x = x.repeat_interleave(2, 1)[:, ::2]
        return x

    def mask(self, B, L):
        return torch.rand(B, L, generator=self.generator) < 0.7

    def sequences(self, L):
        """Bounds of packed sequences."""
        cuts = sorted(self.random.sample(range(1, L), min(L - 1, self.random.randrange(4))))
        return torch.tensor([0, *cuts, L])


def steps(t):
    return t.abs() * 0.3


def rates(t):
    return -t.abs()


def _around(d, B, L, along, options):
    """Either a mask, with garbage where it hides, or packed sequences; their number."""
    if d.often() and L and B:
        options["mask"] = d.mask(B, L)
        if d.often():
            for name in along:
                along[name][~options["mask"]] = torch.nan
    elif B == 1 and L > 1 and d.often():
        options["cu_seqlens"] = d.sequences(L)
        return len(options["cu_seqlens"]) - 1
    return B


def _selective_scan(d):
    B, L, D, N = d.size(1, 1, 2, 3), d.size(1, 2, 7, 33, 40), d.size(1, 3, 4, 8, 40), d.size(1, 2, 4, 5)
    codes = (B, L, N) if d.often() else (B, L, d.groups(D), N)
    along = {"u": d.tensor(B, L, D, first=True), "dt": d.tensor(B, L, D, form=steps)}
    along |= {"B": d.tensor(*codes), "C": d.tensor(*codes)}
    options = {"reverse": d.often(), "discretization": d.pick("euler", "zoh"), "dt_softplus": d.often()}
    along |= {"z": d.tensor(B, L, D)} if d.often() else {}
    items = _around(d, B, L, along, options)
    operands = along | {"A": d.tensor(D, N, form=lambda t: rates(t) - 0.1)}
    operands |= {name: d.tensor(D, form=steps) for name in ("D", "dt_bias") if d.often()}
    operands |= {"initial_state": d.tensor(items, D, N)} if d.often() else {}
    return ops.selective_scan, operands, options | {"return_state": d.often()}


def _linear_recurrence(d):
    B, L, D = d.size(1, 1, 2, 3), d.size(1, 2, 7, 33, 70), d.size(1, 3, 8, 70)
    along = {"x": d.tensor(B, L, D, first=True), "decay": d.tensor(B, L, D, form=torch.sigmoid)}
    options = {"reverse": d.often(), "return_state": d.often()}
    items = _around(d, B, L, along, options)
    operands = along | ({"initial_state": d.tensor(items, D)} if d.often() else {})
    return ops.linear_recurrence, operands, options


def _slstm(d):
    B, L, H, P = d.size(1, 1, 2, 5), d.size(1, 2, 7, 33), d.size(1, 2), d.size(1, 3, 8, 17)
    operands = {"gates": d.tensor(B, L, 4, H * P, first=True), "recurrent": d.tensor(H, 4 * P, P)}
    # a normalizer is above zero
    state = lambda t: torch.cat([t[:, :2], t[:, 2:3].abs() + 0.5, t[:, 3:]], 1)  # noqa: E731
    return ops.slstm, operands | ({"initial_state": d.tensor(B, 4, H * P, form=state)} if d.often() else {}), {}


def _ssd(d, ways=()):
    B, L, H = d.size(1, 1, 2), d.size(1, 2, 7, 65), d.size(1, 2, 4)
    P, N = d.size(1, 3, 8), d.size(1, 3, 16)
    codes = (B, L, *ways, d.groups(H), N)
    along = {"x": d.tensor(B, L, H, P, first=True), "dt": d.tensor(B, L, *ways, H, form=steps)}
    along |= {"B": d.tensor(*codes), "C": d.tensor(*codes)}
    options = {"dt_softplus": d.often(), "chunk": d.pick(None, 1, 3, 16, 99)}
    options |= {"dt_limit": (0.01, 0.4)} if d.often() else {}
    if ways:
        along |= {"diagonal": d.tensor(B, L, H)} if d.often() else {}
    else:
        along |= {"z": d.tensor(B, L, H, P)} if d.often() else {}
        options |= {"reverse": d.often(), "return_state": d.often()}
    items = _around(d, B, L, along, options)
    each = (*ways, H) if d.often() else (H,)
    operands = along | {"A": d.tensor(*each, form=rates)}
    operands |= {"dt_bias": d.tensor(*each, form=steps)} if d.often() else {}
    operands |= {"D": d.tensor(*(H, P)[: d.pick(1, 2)])} if not ways and d.often() else {}
    operands |= {"initial_state": d.tensor(items, H, P, N)} if d.often() else {}
    return ops.quasiseparable if ways else ops.ssd, operands, options


def _depthwise_conv1d(d):
    B, L, D = d.size(1, 2, 3), d.size(1, 2, 7, 65, 130), d.size(1, 3, 5, 40)
    operands = {"x": d.tensor(B, L, D, first=True), "weight": d.tensor(D, d.pick(1, 2, 4, 7))}
    operands |= {"bias": d.tensor(D)} if d.often() else {}
    options = {"padding": d.pick("causal", "anticausal", "same"), "activation": d.pick(None, "silu")}
    return ops.depthwise_conv1d, operands, options


def _rms_norm(d):
    D = d.size(1, 4, 6, 37)
    shape = (*(d.size(1, 2, 5) for _ in range(d.random.randrange(4))), D)
    operands = {"x": d.tensor(*shape, first=True), "weight": d.tensor(D)}
    operands |= {"z": d.tensor(*shape)} if d.often() else {}
    return ops.rms_norm, operands, {"gate_first": d.often(), "groups": d.groups(D), "eps": d.pick(1e-5, 1e-1)}


def _vq_attention(d):
    B, L, P, V, S = d.size(1, 2), d.size(1, 3, 20, 40), d.size(1, 3), d.size(1, 4), d.pick(1, 3, 6)
    window, causal = d.pick(0, 1, 4), d.often()
    n = window + 1 if causal else 2 * window + 1
    operands = {name: d.tensor(B, L, P, first=name == "q") for name in ("q", "k")} | {"v": d.tensor(B, L, V)}
    operands |= {"bias": d.tensor(B, L, n) if d.often() else d.tensor(n)}
    options = {"window": window, "causal": causal, "kind": d.pick("softmax", "laplace"), "block": d.pick(None, 1, 3, 8)}
    options |= {"z": torch.randint(S, (B, L), generator=d.generator), "codes": d.tensor(S, P)}
    return ops.vq_attention, operands, options | ({"mask": d.mask(B, L)} if d.often() else {})


def _segment_max(d):
    B, L, D = d.size(1, 2, 3), d.size(1, 2, 7, 20), d.size(1, 3)
    options = {"segments": torch.randint(4, (B, L), generator=d.generator) if d.often() else d.pick(1, 3, 50)}
    return (
        ops.segment_max,
        {"x": d.tensor(B, L, D, first=True)},
        options | ({"mask": d.mask(B, L)} if d.often() else {}),
    )


def _gated_delta(d):
    B, L, H = d.size(1, 1, 2), d.size(1, 2, 7, 40), d.size(1, 2, 4)
    G, K, V = d.groups(H), d.size(1, 3, 8, 17), d.size(1, 3, 16)
    unit = lambda t: torch.nn.functional.normalize(t, dim=-1)  # noqa: E731
    along = {"q": d.tensor(B, L, G, K, first=True), "k": d.tensor(B, L, G, K, form=unit), "v": d.tensor(B, L, H, V)}
    along |= {"decay": d.tensor(B, L, H, *[K] * d.often(), form=rates)} if d.often() else {}
    along |= {"beta": d.tensor(B, L, H, form=lambda t: 2 * t.sigmoid())} if d.often() else {}
    along |= {"erase": d.tensor(B, L, G, K, form=unit)} if d.often() and "beta" in along else {}
    options = {"reverse": d.often(), "chunk": d.pick(None, 1, 3, 16, 99), "return_state": d.often()}
    items = _around(d, B, L, along, options)
    operands = along | ({"initial_state": d.tensor(items, H, K, V)} if d.often() else {})
    return ops.gated_delta, operands, options


CALLS = {
    "selective_scan": (_selective_scan, ("torch", "native")),
    "gated_delta": (_gated_delta, ("torch", "native")),
    "linear_recurrence": (_linear_recurrence, ("torch", "native")),
    "slstm": (_slstm, ("torch", "native")),
    "ssd": (_ssd, ("torch", "native")),
    "quasiseparable": (lambda d: _ssd(d, (2,)), ("torch", "native")),
    "depthwise_conv1d": (_depthwise_conv1d, ("torch", "native")),
    "rms_norm": (_rms_norm, ("torch", "native")),
    "vq_attention": (_vq_attention, ("torch",)),
    "segment_max": (_segment_max, ("torch",)),
}
OPS = pytest.mark.parametrize("name", CALLS)


def results(f, operands, options, dtype=None):
    """Results and gradients for fixed cotangents, which all types hold exactly."""
    inputs = {n: (t if dtype is None else t.to(dtype)).detach().requires_grad_() for n, t in operands.items()}
    options = {n: v.to(dtype) if dtype and n == "codes" else v for n, v in options.items()}
    ys = f(**inputs, **options)
    ys = ys if isinstance(ys, tuple) else (ys,)
    generator = torch.Generator().manual_seed(0)
    cotangents = [(torch.randint(-4, 5, y.shape, generator=generator) / 4).to(y.dtype) for y in ys]
    # of an empty sequence the last state is the first one, which may be a constant
    used, weights = zip(*((y, w) for y, w in zip(ys, cotangents, strict=True) if y.requires_grad), strict=True)
    return [*ys, *torch.autograd.grad(used, list(inputs.values()), weights)]


def check(name, seed):
    d = Draw(seed)
    draw, impls = CALLS[name]
    f, operands, options = draw(d)
    want = results(f, operands, options | {"impl": "reference"}, torch.float64)
    names = ["y", "state"][: len(want) - len(operands)] + list(operands)
    for impl in ("auto", *impls):
        if impl == "native" and (d.dtype != torch.float32 or native.problem()):
            continue
        for n, got, w in zip(names, results(f, operands, options | {"impl": impl}), want, strict=True):
            ratio = max(RATIO[d.dtype], RATIO[got.dtype])
            ratio *= 10 if n in SUMMED and d.dtype == torch.bfloat16 else 1
            error = (got.double() - w).square().mean().sqrt() if w.numel() else 0.0
            size = w.square().mean().sqrt() if w.numel() else 0.0
            shapes = {k: (tuple(t.shape), t.stride(), t.dtype) for k, t in operands.items()}
            said = f"{name}, seed {seed}, impl={impl!r}: {n} is off by {error} of {size}; {shapes}, {options}"
            assert got.shape == w.shape, said
            # numbers are about 1: what is left of sums that cancel is measured beside that
            assert error <= ratio * (size + 1), said


@OPS
def test_random_calls_are_the_reference(nan_empty, name):
    for seed in range(FIRST_SEED, FIRST_SEED + 60):
        check(name, seed)


@pytest.mark.slow
@OPS
def test_many_random_calls_are_the_reference(nan_empty, name):
    for seed in range(3000):
        check(name, seed)


# axes that no other operand shares
FREE = {
    ("slstm", "gates"): (0, 1),
    ("depthwise_conv1d", "x"): (0, 1),
    ("depthwise_conv1d", "weight"): (1,),
    ("rms_norm", "x"): (0, 1, 2),
    ("gated_delta", "v"): (2, 3),
    ("ssd", "x"): (3,),
    ("quasiseparable", "x"): (3,),
    ("vq_attention", "v"): (2,),
    ("segment_max", "x"): (0, 1, 2),
}
OPTIONAL = {"decay", "beta", "erase", "D", "z", "dt_bias", "bias", "initial_state", "diagonal"}


# operands that may be complex
COMPLEX = {("linear_recurrence", "x"), ("linear_recurrence", "decay")}


def _spoiled(name, operand, t):
    """What does not fit in the place of ``t``, by what is wrong with it."""
    yield "device", t.to("meta")
    yield "integers", t.long()
    if (name, operand) not in COMPLEX:
        yield "complex", t.to(torch.complex64)
    yield "no tensor", t.tolist()
    if operand not in OPTIONAL:
        yield "None", None
    if name != "rms_norm" and t.numel() > 1:
        yield "one axis more", t.unsqueeze(0)
    for i in range(t.ndim):
        if i not in FREE.get((name, operand), ()):
            yield f"axis {i} longer", torch.cat([t, t], i)
            yield f"axis {i} shorter", t.narrow(i, 0, t.shape[i] - 1)


@OPS
def test_operands_that_do_not_fit_are_refused(name):
    """Never a crash, never memory that nobody wrote."""
    for seed in range(FIRST_SEED, FIRST_SEED + 30):
        f, operands, options = CALLS[name][0](Draw(seed))
        for operand, t in operands.items():
            if not t.numel():
                continue
            for fault, spoiled in _spoiled(name, operand, t):
                if fault == "device" and len(operands) == 1 and not options.keys() & {"mask", "codes"}:
                    continue
                with pytest.raises(ValueError):
                    f(**(operands | {operand: spoiled}), **options)
                    raise AssertionError(f"{name}, seed {seed}: {operand} was taken in spite of its {fault}")


if __name__ == "__main__":
    check(sys.argv[1], int(sys.argv[2]))
