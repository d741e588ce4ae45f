"""Every causal op: later positions change no earlier bit; NaN in them goes back to the start of its chunk at most."""

import pytest
import torch
from torch.nn import functional as F

from seqmix import ops
from seqmix.ops import native

B, L, H, K = 2, 45, 2, 5
# products of matrices of a chunk multiply NaN by the zeros above the diagonal
CHUNK = 16


def _keys():
    q, k, e = torch.randn(3, B, L, H, K)
    return {"q": q, "k": F.normalize(k, dim=-1), "v": torch.randn(B, L, H, 3)}, F.normalize(e, dim=-1)


def _codes(rates):
    return {"dt": torch.rand(B, L, *rates), "B": torch.randn(B, L, 1, 4), "C": torch.randn(B, L, 1, 4)}


def _delta(decays, **options):
    args = _keys()[0] | {"decay": -torch.rand(B, L, H, *decays), "beta": torch.rand(B, L, H)}
    return ops.gated_delta, args, options


def _linear(**options):
    return ops.gated_delta, _keys()[0] | {"decay": -torch.rand(B, L, H)}, options


def _dplr(**options):
    args, a = _keys()
    return ops.dplr_delta, args | {"decay": -torch.rand(B, L, H, K), "a": -a, "b": a * torch.rand(B, L, H, 1)}, options


def _product(**options):
    args, _ = _keys()
    twice = {n: torch.stack([args[n], args[n].flip(1)], 2) for n in "kv"}
    return ops.delta_product, args | twice | {"decay": -torch.rand(B, L, H), "beta": torch.rand(B, L, 2, H)}, options


def _ssd(**options):
    return ops.ssd, {"x": torch.randn(B, L, H, 3), **_codes((H,))}, {"A": -torch.rand(H), **options}


def _scan(**options):
    return ops.selective_scan, {"u": torch.randn(B, L, H), **_codes((H,))}, {"A": -torch.rand(H, 4), **options}


def _recurrence(**options):
    return ops.linear_recurrence, {"x": torch.randn(B, L, H), "decay": torch.rand(B, L, H)}, options


def _slstm(**options):
    return ops.slstm, {"gates": torch.randn(B, L, 4, H * K)}, {"recurrent": torch.randn(H, 4 * K, K), **options}


def _depthwise(**options):
    return ops.depthwise_conv1d, {"x": torch.randn(B, L, H)}, {"weight": torch.randn(H, 4), **options}


def _attention(**options):
    q, k, v = torch.randn(3, B, L, K)
    codes = torch.randn(7, K)
    options |= {"codes": codes, "z": ops.nearest_code(k, codes), "bias": torch.randn(5), "window": 4, "causal": True}
    return ops.vq_attention, {"q": q, "k": k, "v": v}, options


# what is called, and the positions of a chunk by implementation; 1 where no earlier position sees NaN
CASES = {
    "delta": (lambda **o: _delta((), **o), {"reference": 1, "torch": CHUNK, "native": 1}),
    "delta, channels": (lambda **o: _delta((K,), **o), {"reference": 1, "torch": CHUNK, "native": 1}),
    "linear attention": (_linear, {"reference": 1, "torch": CHUNK, "native": 1}),
    "diagonal plus low rank": (_dplr, {"reference": 1, "native": 1}),
    "delta product": (_product, {"reference": 1, "native": 1}),
    "ssd": (_ssd, {"reference": 1, "torch": CHUNK, "native": CHUNK}),
    "selective scan": (_scan, {"reference": 1, "torch": 1, "native": 1}),
    "recurrence": (_recurrence, {"reference": 1, "torch": 1, "native": 1}),
    "slstm": (_slstm, {"reference": 1, "native": 1}),
    "short convolution": (_depthwise, {"reference": 1, "torch": 1, "native": 1}),
    "attention to codes": (_attention, {"torch": L, "reference": L}),
}


@pytest.mark.parametrize(
    ("make", "impl", "chunk"),
    [
        pytest.param(
            make,
            impl,
            chunk,
            id=f"{name}-{impl}",
            marks=[pytest.mark.skipif(native.problem() is not None, reason="no kernels")] if impl == "native" else [],
        )
        for name, (make, chunks) in CASES.items()
        for impl, chunk in chunks.items()
    ],
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.7])
def test_nothing_comes_from_later_positions(make, impl, chunk, value):
    op, along, options = make(impl=impl)
    options |= {"chunk": chunk} if op in (ops.gated_delta, ops.ssd) else {}
    want = op(**along, **options)
    for name in along:
        for p in (20, L - 1):
            spoiled = along | {name: along[name].index_fill(1, torch.arange(p, min(p + 9, L)), value)}
            # what is finite reaches no earlier position at all
            kept = p if value == 0.7 else p // chunk * chunk
            assert torch.equal(op(**spoiled, **options)[:, :kept], want[:, :kept]), (name, p)
