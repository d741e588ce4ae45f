"""State in and out of forward: sequences in parts, prompts of several lengths, packed texts, gradients."""

from copy import deepcopy
from functools import partial

import pytest
import torch

from seqmix.mixers import (
    MLSTM,
    S4D,
    Attention,
    FNet,
    LongVQ,
    Mamba,
    Mamba2,
    Mamba3,
    Mixer,
    RetNet,
    detach_state,
    list_mixers,
    mixer_facts,
)
from seqmix.models import Backbone, TokenModel
from seqmix.testing import assert_close_ratio

CAUSAL = [
    pytest.param(partial(mixer_facts(name).cls, **example), id=f"{name}-{k}")
    for name in list_mixers()
    for k, example in enumerate(mixer_facts(name).examples)
    if mixer_facts(name).cls(8, 16, **example).causal
]
MODELS = [
    Mamba,
    partial(Mamba2, headdim=4, d_state=3),
    partial(Attention, causal=True, alibi=True),
    partial(LongVQ, causal=True, d_qk=4, n_codes=8, window=3, ssm="s4d"),
]
TYPES = [(torch.float64, 1e-11), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]


@pytest.mark.parametrize("factory", CAUSAL)
@pytest.mark.parametrize(("dtype", "ratio"), TYPES, ids=["float64", "float32", "bfloat16"])
def test_long_parts_equal_the_whole(factory, dtype, ratio):
    """Parts that end inside chunks, at their ends and after one position; in the precision of the module."""
    mixer, x = factory(8, 150).to(dtype).eval(), torch.randn(2, 150, 8, dtype=dtype)
    state, ys = None, []
    for part in x.split([64, 1, 0, 70, 15], 1):
        y, state = mixer(part, state=state, return_state=True)
        ys.append(y)
    got, want = torch.cat(ys, 1), mixer(x)
    assert got.dtype == dtype
    assert_close_ratio("parts", got, want, ratio)


def _with(mixer, **values):
    with torch.no_grad():
        for name, value in values.items():
            mixer.get_parameter(name.replace("__", ".")).copy_(value)
    return mixer


@pytest.mark.parametrize(
    ("build", "before"),
    [
        # exponents that fall by .13 a position; angles of up to 4 radians a position
        (lambda: _with(MLSTM(8, n_heads=2), fgate__bias=2.0, igate__weight=torch.randn(2, 48)), None),
        (lambda: _with(Mamba3(8, d_state=4, headdim=4), dt_bias=1.0), None),
        (lambda: RetNet(8, n_heads=2), 1_000_000),
    ],
    ids=["MLSTM", "Mamba3", "RetNet"],
)
def test_digits_do_not_fade_with_the_length(build, before):
    """Exponents, angles and positions that grow with the length round off nothing in float32."""
    mixer, L = build(), 2000 if before is None else 20
    x = torch.randn(1, L, 8)
    # retention sees distances only
    state = None if before is None else (torch.tensor([before]), mixer.init_state(1)[1])
    want = deepcopy(mixer).double()(x.double())
    assert_close_ratio("whole", mixer(x, state=state, return_state=True)[0], want, 2e-6)


class Steps(Mixer):
    """A causal mean whose forward takes no state."""

    causal = True

    def forward(self, x, mask=None):
        return x.cumsum(1)

    def init_state(self, batch_size):
        return torch.zeros(batch_size, 1)

    def step(self, x, state):
        return x + state, x + state


def _model(mixer, **options):
    model = TokenModel(30, 40, mixer=mixer, d_model=8, n_layers=2, norm="rms", **options).double().eval()
    return model, torch.randint(1, 30, (3, 21))


@pytest.mark.parametrize("mixer", MODELS)
@pytest.mark.parametrize("positions", [False, True])
def test_prompts_of_several_lengths(mixer, positions):
    model, tokens = _model(mixer, positions=positions)
    lengths = [12, 5, 1]
    for left in (True, False):
        mask = torch.arange(12) < torch.tensor(lengths)[:, None]
        mask = mask.flip(1) if left else mask
        prompts = torch.zeros(3, 12, dtype=torch.long)
        prompts[mask] = torch.cat([row[:n] for row, n in zip(tokens, lengths, strict=True)])
        first, state = model.prefill(prompts, mask)
        second, state = model.prefill(tokens[:, 12:15], state=state)
        third, _ = model.step(tokens[:, 15], state)
        for i, n in enumerate(lengths):
            alone = model(torch.cat([tokens[i, :n], tokens[i, 12:16]])[None])[0]
            got = torch.stack([first[i], second[i], third[i]])
            assert_close_ratio(f"length {n}", got, alone[[n - 1, n + 2, n + 3]], 1e-11)


@pytest.mark.parametrize("mixer", MODELS)
def test_packed_texts_go_on(mixer):
    model, tokens = _model(mixer, positions=True)
    head, state = model(tokens[:1, :9], cu_seqlens=torch.tensor([0, 2, 9]), return_state=True)
    tail = model(tokens[:1, 9:15], cu_seqlens=torch.tensor([0, 5, 6]), state=state)
    texts = [tokens[0, [0, 1, *range(9, 14)]], tokens[0, [*range(2, 9), 14]]]
    one, two = (model(text[None])[0] for text in texts)
    assert_close_ratio("first texts", head[0], torch.cat([one[:2], two[:7]]), 1e-11)
    assert_close_ratio("their ends", tail[0], torch.cat([one[2:], two[7:]]), 1e-11)


def test_gradients_flow_through_states_and_stop_where_they_are_detached():
    model, tokens = _model(S4D)
    scores, state = model(tokens[:, :10], return_state=True)
    whole = torch.autograd.grad(model(tokens)[:, 10:].square().sum(), model.parameters())
    states = (state, detach_state(state))
    kept = [model(tokens[:, 10:], state=s).square().sum() for s in states]
    through, cut = (torch.autograd.grad(y, model.parameters(), retain_graph=True) for y in kept)
    for a, b in zip(through, whole, strict=True):
        assert_close_ratio("gradient", a, b, 1e-9)
    assert any(not torch.allclose(a, b) for a, b in zip(cut, whole, strict=True)) and scores.shape == (3, 10, 30)


def test_a_mixer_that_only_steps():
    model, tokens = _model(lambda d_model, max_len: Steps())
    head, state = model(tokens[:, :4], return_state=True)
    got = torch.cat([head, model(tokens[:, 4:], state=state)], 1)
    assert_close_ratio("parts", got, model(tokens), 1e-12)
    with pytest.raises(TypeError, match=r"Steps has a state in step\(\) alone, which takes no mask"):
        model.prefill(tokens, torch.ones_like(tokens).bool())


def test_a_model_made_on_the_meta_device_is_drawn_as_another():
    build = partial(TokenModel, 300, 40, mixer=Mamba, d_model=32, n_layers=2, positions=True, norm="rms")
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu").reset_parameters()
    for (name, p), q in zip(model.named_parameters(), build().parameters(), strict=True):
        # the smallest tensors have 64 numbers; steps and rates would be off by orders of magnitude
        assert 0.75 * q.abs().mean() <= p.abs().mean() <= 1.3 * q.abs().mean(), name


def test_refusals():
    x = torch.randn(1, 5, 8)
    with pytest.raises(TypeError, match=r"Attention with causal=False has no step\(\)"):
        Attention(8)(x, return_state=True)
    with pytest.raises(TypeError, match=r"FNet has no step\(\); `seqmix list` shows the mixers that have one"):
        Backbone(8, 1, mixer=FNet)(x, return_state=True)
    with pytest.raises(ValueError, match=r"length 41 is over max_len = 40, .* or build it with max_len=41"):
        model, tokens = _model(Mamba, positions=True)
        model.prefill(tokens, state=model.prefill(tokens[:, :20])[1])
    with pytest.raises(ValueError, match=r"tokens should be \(B, L\), got \(21,\)"):
        model(tokens[0])


@pytest.mark.parametrize("factory", [pytest.param(c.values[0], id=c.id) for c in CAUSAL if c.id.endswith("-0")])
def test_checkpointing_changes_nothing(factory):
    """Nor do states under it."""
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = Backbone(8, 2, max_len=6, mixer=factory, checkpointing=checkpointing, dropout=0.1).double()
        y, state = model(x[:, :4], return_state=True)
        z = model(x[:, 4:], state=state)
        (y.square().sum() + z.square().sum()).backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    for name, grad in grads[0].items():
        assert_close_ratio(name, grads[1][name], grad, 1e-12)
