"""The bidirectional language encoders: published keys, layers written out, padding, initial values."""

from functools import partial

import pytest
import torch

from seqmix.errors import ConfigError
from seqmix.mixers import Attention, FNet, Hydra, Mamba, Mamba2, PoNet, Pool, Toeplitz, segments_between
from seqmix.mixers.hybrid import hybrid_layers
from seqmix.models import ChannelMLP, TokenModel
from seqmix.models.encoder import BidirectionalEncoder, BidirectionalLM, load_published

SMALL = partial(Hydra, d_state=4, headdim=4)


def published_shapes(D, vocab_size, n_layers, *, d_state=64, headdim=64, d_conv=7):
    """Keys and shapes of the original masked language model."""
    E, H, N = 2 * D, 2 * D // headdim, d_state
    mixer = {
        "dt_bias": (H,),
        "A_log": (H,),
        "D": (H,),
        "in_proj.weight": (2 * E + 4 * N + 2 * H, D),
        "conv1d.weight": (E + 4 * N, 1, d_conv),
        "conv1d.bias": (E + 4 * N,),
        "fc_D.weight": (H, E),
        "norm.weight": (E,),
        "out_proj.weight": (D, E),
    }
    shapes = {
        "bert.embeddings.word_embeddings.weight": (vocab_size, D),
        "bert.embeddings.token_type_embeddings.weight": (2, D),
        "bert.embeddings.LayerNorm.weight": (D,),
        "bert.embeddings.LayerNorm.bias": (D,),
        "cls.predictions.transform.dense.weight": (D, D),
        "cls.predictions.transform.dense.bias": (D,),
        "cls.predictions.transform.LayerNorm.weight": (D,),
        "cls.predictions.transform.LayerNorm.bias": (D,),
        "cls.predictions.decoder.weight": (vocab_size, D),
        "cls.predictions.decoder.bias": (vocab_size,),
    }
    for i in range(n_layers):
        layer = f"bert.encoder.layer.{i}.layer."
        shapes |= {layer + "mixer." + key: shape for key, shape in mixer.items()}
        shapes |= {layer + "norm.weight": (D,), layer + "norm.bias": (D,)}
    return shapes


@pytest.mark.parametrize("prefix", ["", "model."])
def test_loads_a_published_checkpoint(prefix, tmp_path):
    state = {k: torch.randn(s) for k, s in published_shapes(16, 40, 3, d_state=4, headdim=4).items()}
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    torch.save({prefix + k: v for k, v in state.items()}, tmp_path / "model.pt")
    model = BidirectionalLM(BidirectionalEncoder(40, 16, 3, mixer=SMALL))
    load_published(model, torch.load(tmp_path / "model.pt", weights_only=True))
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert model.cls["predictions"].decoder.weight is model.bert.embeddings["word_embeddings"].weight
    with pytest.raises(RuntimeError, match="Missing key"):
        load_published(model, {k: v for k, v in state.items() if "A_log" not in k})


def test_written_out():
    model = BidirectionalLM(BidirectionalEncoder(40, 16, 2, mixer=SMALL)).eval()
    w, ids, types = model.state_dict(), torch.randint(40, (2, 9)), torch.randint(2, (2, 9))
    x = w["bert.embeddings.word_embeddings.weight"][ids] + w["bert.embeddings.token_type_embeddings.weight"][types]
    x = torch.layer_norm(x, (16,), eps=1e-12)
    for layer in model.bert.encoder["layer"]:
        x = torch.layer_norm(x + layer["layer"].mixer(x), (16,), eps=1e-5)
    x = torch.nn.functional.gelu(x @ w["cls.predictions.transform.dense.weight"].T)
    want = torch.layer_norm(x, (16,), eps=1e-12) @ w["bert.embeddings.word_embeddings.weight"].T
    torch.testing.assert_close(model(ids, types=types), want)


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("positions", [False, True])
def test_padding_is_exact(pre_norm, positions):
    model = BidirectionalEncoder(40, 16, 2, mixer=SMALL, max_len=12, pre_norm=pre_norm, positions=positions).eval()
    ids, mask = torch.randint(40, (2, 12)), torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    y = model(ids, mask)
    torch.testing.assert_close(y[1:, :7], model(ids[1:, :7]), rtol=1e-5, atol=1e-5)
    assert not y[1, 7:].any()


SMALL2 = partial(Mamba2, d_state=4, headdim=4)


@pytest.mark.parametrize(
    "build",
    [
        partial(BidirectionalEncoder, 40, 8, 2, mixer=SMALL, channel_mixer=ChannelMLP, dropout=0.0, positions=True),
        partial(BidirectionalEncoder, 40, 8, 2, mixer=SMALL, dropout=0.0, pre_norm=True),
        partial(TokenModel, 40, mixer=SMALL2, d_model=8, n_layers=2, positions=True),
        partial(TokenModel, 40, mixer=SMALL2, layers=[SMALL, SMALL2], channel_mixer=None, d_model=8, n_layers=2),
    ],
)
@pytest.mark.parametrize("lengths", [(1, 2, 7), (63, 1, 65), (5,)])
def test_packed_texts_are_those_alone(lengths, build):
    """Values, gradients, and not a bit of one text in another."""
    model = build(max_len=65).double()
    texts = [torch.randint(40, (1, n)) for n in lengths]
    bounds, ids = torch.tensor([0, *lengths]).cumsum(0), torch.cat(texts, 1)
    packed, alone = model(ids, cu_seqlens=bounds), torch.cat([model(text) for text in texts], 1)
    torch.testing.assert_close(packed, alone, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(packed)
    got, want = (torch.autograd.grad(y, [*model.parameters()], cotangent, allow_unused=True) for y in (packed, alone))
    for name, a, b in zip(dict(model.named_parameters()), got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=name)
    first = lengths[0]
    changed = model((ids + (torch.arange(ids.shape[1]) < first)) % 40, cu_seqlens=bounds)
    assert torch.equal(changed[:, first:], packed[:, first:]) and not torch.equal(changed[:, :first], packed[:, :first])


@pytest.mark.parametrize("mixer", [FNet, partial(Attention, alibi=True), PoNet, partial(Toeplitz, headdim=4), Pool])
def test_packed_texts_with_any_mixer(mixer):
    """Those without bounds of their own see each text in a row of its own."""
    model = TokenModel(40, 9, mixer=mixer, d_model=8, n_layers=2).double()
    texts = [torch.randint(40, (1, n)) for n in (2, 9, 4)]
    packed = model(torch.cat(texts, 1), cu_seqlens=torch.tensor([0, 2, 11, 15]))
    torch.testing.assert_close(packed, torch.cat([model(text) for text in texts], 1), rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="should rise from 0 to L = 15"):
        model(torch.cat(texts, 1), cu_seqlens=torch.tensor([0, 2, 11]))


def test_segments_reach_the_mixers_that_pool_over_them():
    model = BidirectionalEncoder(40, 8, 1, mixer=PoNet, channel_mixer=ChannelMLP, dropout=0.0)
    ids, mask = torch.randint(40, (2, 9)), torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    segments, special = torch.randint(4, (2, 9)).sort(1)[0], torch.rand(2, 9) < 0.3
    layer = model.encoder["layer"][0]
    x = model.embeddings["LayerNorm"](
        model.embeddings["word_embeddings"](ids) + model.embeddings["token_type_embeddings"].weight[0]
    )
    x = layer["layer"].norm(x + layer["layer"].mixer(x, mask, segment_index=segments, special=special))
    want = layer["channels"].norm(x + layer["channels"].mixer(x, mask))
    got = model(ids, mask, segments=segments, special=special)
    torch.testing.assert_close(got[mask], want[mask])
    assert not torch.allclose(got[mask], model(ids, mask)[mask])
    # without segments the text between two special tokens is one, the first of which stands before each text
    special[:, 0] = True
    between = segments_between(special)
    want = model(ids, mask, segments=between, special=special)
    assert torch.equal(model(ids, mask, special=special), want)
    row, bounds = mask.flatten(), torch.tensor([0, 9, 15])
    packed = model(ids.flatten()[row][None], special=special.flatten()[row][None], cu_seqlens=bounds)
    torch.testing.assert_close(packed[0], want[mask])


def test_gated_channel_mixer_written_out():
    mlp = ChannelMLP(8, expand=3, gated=True).double()
    x, (gate, value) = torch.randn(2, 5, 8, dtype=torch.float64), mlp.up.weight.split(24)
    want = (torch.nn.functional.gelu(x @ gate.T) * (x @ value.T)) @ mlp.down.weight.T + mlp.down.bias
    torch.testing.assert_close(mlp(x), want, rtol=1e-12, atol=1e-12)
    assert mlp.up.bias is None


def test_initial_values():
    model = BidirectionalLM(BidirectionalEncoder(400, 64, 2, mixer=partial(Hydra, headdim=16, bias=True)))
    first, second = (layer["layer"].mixer for layer in model.bert.encoder["layer"])
    for p in (first.in_proj.weight, first.out_proj.weight, first.fc_D.weight, model.cls["predictions"].decoder.weight):
        assert p.std().item() == pytest.approx(0.02, rel=0.1)
    assert not first.in_proj.bias.any() and not model.bert.embeddings["word_embeddings"].weight[0].any()
    # the original starts all layers with the same steps and convolutions
    assert not torch.equal(first.dt_bias, second.dt_bias)
    # a step whose bias were zero would be the same for all channels, whatever dt_min and dt_max say
    mamba = BidirectionalEncoder(40, 16, 1, mixer=partial(Mamba, dt_min=0.01, dt_max=0.02))
    steps = torch.nn.functional.softplus(mamba.encoder["layer"][0]["layer"].mixer.dt_proj.bias)
    assert steps.min() > 0.0099 and steps.max() < 0.0201


def test_published_keys():
    with torch.device("meta"):
        model = BidirectionalLM(BidirectionalEncoder(30_528, 768, 23, mixer=Hydra))
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == published_shapes(768, 30_528, 23)


def test_fnet_written_out():
    """Section 3.2 of FNet: two residuals a layer, a map after the embeddings, a pooler; one layer is attention."""
    attention = partial(Attention, n_heads=2)
    mlp = partial(ChannelMLP, activation=partial(torch.nn.GELU, approximate="tanh"))
    encoder = BidirectionalEncoder(
        40,
        8,
        2,
        mixer=FNet,
        layers=hybrid_layers(2, 1, attention=attention),
        channel_mixer=mlp,
        max_len=9,
        positions=True,
        n_types=4,
        projection=True,
        pooler=True,
        norm_eps=1e-12,
    )
    model = BidirectionalLM(encoder, n_relations=2, gelu="tanh").double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    w, ids, types = model.state_dict(), torch.randint(40, (2, 7)), torch.randint(4, (2, 7))

    def norm(x, name):
        return torch.layer_norm(x, (8,), w[name + ".weight"], w[name + ".bias"], eps=1e-12)

    def linear(x, name):
        return torch.nn.functional.linear(x, w[name + ".weight"], w[name + ".bias"])

    tables = [w[f"bert.embeddings.{name}_embeddings.weight"] for name in ("word", "token_type", "position")]
    x = norm(tables[0][ids] + tables[1][types] + tables[2][:7], "bert.embeddings.LayerNorm")
    x = linear(x, "bert.embeddings.projection")
    mixers = [lambda x: torch.fft.fft2(x).real, encoder.encoder["layer"][1]["layer"].mixer]
    for i, mix in enumerate(mixers):
        name = f"bert.encoder.layer.{i}."
        x = norm(x + mix(x), name + "layer.norm")
        u = torch.nn.functional.gelu(linear(x, name + "channels.mixer.up"), approximate="tanh")
        x = norm(x + linear(u, name + "channels.mixer.down"), name + "channels.norm")
    u = torch.nn.functional.gelu(linear(x, "cls.predictions.transform.dense"), approximate="tanh")
    words = norm(u, "cls.predictions.transform.LayerNorm") @ tables[0].T + w["cls.predictions.decoder.bias"]
    relation = linear(linear(x[:, 0], "bert.pooler.dense").tanh(), "cls.seq_relationship")
    got = model.score_both(ids, types=types)
    torch.testing.assert_close(got, (words, relation), rtol=1e-10, atol=1e-10)
    assert torch.equal(model(ids, types=types), got[0])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_keeps_the_relation(side):
    model = BidirectionalLM(
        BidirectionalEncoder(40, 8, 2, mixer=FNet, channel_mixer=ChannelMLP, pooler=True), n_relations=3
    )
    model = model.double().eval()
    ids, pad = torch.randint(40, (2, 7)), (2, 0) if side == "left" else (0, 2)
    mask = torch.nn.functional.pad(torch.ones(2, 7, dtype=torch.bool), pad)
    words, relation = model.score_both(torch.nn.functional.pad(ids, pad, value=3), mask)
    want = model.score_both(ids)
    torch.testing.assert_close((words[mask].view(2, 7, 40), relation), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: BidirectionalEncoder(40, 16, 2, mixer=SMALL, positions=True),
            "max_len is needed: positions = True stores one embedding per position; set max_len=512",
        ),
        (
            lambda: BidirectionalEncoder(40, 16, 2, mixer=SMALL, layers=[]),
            "layers is an empty list; name at least one mixer, or leave it out to use mixer",
        ),
        (
            lambda: BidirectionalLM(BidirectionalEncoder(40, 16, 2, mixer=SMALL), n_relations=2),
            "n_relations = 2 needs a summary; build the encoder with pooler=True",
        ),
        (
            lambda: BidirectionalEncoder(40, 16, 2, mixer=SMALL).pool(torch.zeros(1, 3, 16)),
            "pooler = False leaves nothing to make a summary; build the encoder with pooler=True",
        ),
    ],
)
def test_errors(build, message):
    with pytest.raises(ConfigError) as caught:
        build()
    assert str(caught.value) == message
