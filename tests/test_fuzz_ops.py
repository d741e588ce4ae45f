"""Any call of an op or a mixer gives tensors of its shape, finite for finite input, or an error of ours."""

import inspect
from collections.abc import Callable

import torch
from hypothesis import strategies as st
from strategies import fuzz, one_of
from test_ops_random import CALLS, Draw

from seqmix.mixers import Mixer, list_mixers
from seqmix.mixers.mixer import mixer_facts

# what an operand may be turned into
CHANGES: dict[str, Callable[[torch.Tensor], object]] = {
    "half": lambda t: t.real.bfloat16(),
    "double": lambda t: t.real.double(),
    "whole": lambda t: t.real.long(),
    "complex": lambda t: t.to(torch.complex64),
    "meta": lambda t: t.to("meta"),
    "turned": lambda t: t.mT if t.ndim > 1 else t,
    "strided": lambda t: t.repeat_interleave(2, -1)[..., ::2] if t.ndim else t,
    "expanded": lambda t: t[:1].expand_as(t) if t.ndim and len(t) else t,
    "one axis more": lambda t: t[None],
    "one axis less": lambda t: t[0] if t.ndim and len(t) else t,
    "shorter": lambda t: t[..., :-1] if t.ndim else t,
    "empty": lambda t: t[..., :0] if t.ndim else t,
    "longer": lambda t: torch.cat([t, t], -1) if t.ndim else t,
    "nothing": lambda t: None,
    "a number": lambda t: 1.0,
    "a list": lambda t: t.tolist() if t.device.type == "cpu" else t,
}
VALUES = one_of(
    0, -1, 1, 2, 3, 64, 0.0, -0.5, 1.0, 2.5, float("nan"), float("inf"), None, True, False, "x", "", "causal"
)


@fuzz(
    120,
    20000,
    *(
        {"name": name, "seed": seed, "changes": [(at, change)], "option": None}
        for name, seed, at, change in [
            ("vq_attention", 0, -1, "nothing"),
            ("vq_attention", 0, -1, "complex"),
            ("segment_max", 2, 0, "a list"),
            ("segment_max", 2, 0, "meta"),
        ]
    ),
    name=st.sampled_from(sorted(CALLS)),
    seed=st.integers(0, 10**6),
    changes=st.lists(st.tuples(st.integers(0, 20), one_of(*CHANGES)), max_size=2),
    option=st.none() | st.tuples(st.integers(0, 20), one_of(0, -1, 3, -0.5, "x")),
)
def test_an_op_computes_or_refuses(name, seed, changes, option):
    op, operands, options = CALLS[name][0](Draw(seed))
    given = {**operands, **{k: v for k, v in options.items() if isinstance(v, torch.Tensor)}}
    plain = {k: v for k, v in options.items() if k not in given}
    for at, change in changes:
        which = sorted(given)[at % len(given)]
        if isinstance(given[which], torch.Tensor):
            given[which] = CHANGES[change](given[which])
    # values of another type are the TypeError of Python
    alike = [k for k, v in sorted(plain.items()) if option is not None and type(v) is type(option[1])]
    if alike:
        plain[alike[option[0] % len(alike)]] = option[1]
    try:
        found = op(**given, **plain)
    except ValueError as e:
        assert str(e), e
        return
    for y in found if isinstance(found, tuple) else (found,):
        assert isinstance(y, torch.Tensor)
    # numbers that a mask or an option hides or makes are not finite
    inputs = [t for t in given.values() if isinstance(t, torch.Tensor) and t.is_floating_point()]
    y = found[0] if isinstance(found, tuple) else found
    if option is None and y.device.type == "cpu" and all(bool(t.isfinite().all()) for t in inputs):
        assert bool(y.isfinite().all()), (name, seed, changes)


@st.composite
def mixers(draw: Callable) -> tuple[str, dict, int, int | None]:
    """A mixer by name, with options of which one may be any value of its type; width and length."""
    name = draw(st.sampled_from(list_mixers()))
    facts = mixer_facts(name)
    options = dict(draw(st.sampled_from(facts.examples)))
    parameters = list(inspect.signature(facts.cls).parameters.values())[2:]
    if parameters and draw(st.booleans()):
        chosen = draw(st.sampled_from(parameters))
        value = draw(VALUES)
        kind = inspect.signature(facts.cls, eval_str=True).parameters[chosen.name].annotation
        if _fits(value, kind):
            options[chosen.name] = value
    return name, options, draw(one_of(8, 8, 16, 1, 3, 0)), draw(one_of(12, 12, 1, None, 0))


def _fits(value: object, kind: object) -> bool:
    """Whether a config could hold the value: others are refused before anything is built."""
    # of a tuple the arguments are those of its members
    members = (kind,) if isinstance(kind, type) else getattr(kind, "__args__", ())
    return any(isinstance(m, type) and type(value) is m for m in members)


@fuzz(
    40,
    5000,
    {
        **{"mixer": ("Mamba2", {"d_state": 4, "headdim": 4, "conv_init": float("nan")}, 8, None), "shape": (1, 7, 8)},
        **{"dtype": torch.float32, "mask": None, "scale": 1.0, "strided": False},
    },
    mixer=mixers(),
    shape=one_of(
        (2, 12, 8), (2, 12, 8), (1, 1, 8), (1, 7, 16), (0, 5, 8), (2, 0, 8), (2, 13, 8), (12, 8), (2, 3, 4, 8)
    ),
    dtype=one_of(torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.int64),
    mask=one_of(None, None, "some", "none kept", "float", "short"),
    scale=one_of(1.0, 1.0, 0.0, 1e-30, 1e4),
    strided=st.booleans(),
)
def test_a_mixer_mixes_or_refuses(mixer, shape, dtype, mask, scale, strided):
    name, options, d_model, max_len = mixer
    generator = torch.Generator().manual_seed(0)
    x = (scale * torch.randn(shape, generator=generator)).to(dtype)
    x = x.repeat_interleave(2, 0)[::2] if strided else x
    kept = torch.rand(shape[:2], generator=generator) < 0.7
    masks = {None: None, "some": kept, "none kept": kept & False, "float": kept.float(), "short": kept[:, :-1]}
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made: Mixer = mixer_facts(name).cls(d_model, max_len, **options)
        if dtype.is_floating_point:
            made = made.to(dtype)
        with torch.no_grad():
            y = made(x, masks[mask])
    except ValueError as e:
        assert str(e), e
        return
    assert y.shape == x.shape and y.dtype == x.dtype
    assert bool(y.isfinite().all()), (name, options)
