"""The bidirectional language encoder: published sizes and keys, padding, initial values."""

from functools import partial

import pytest
import torch

from seqmix.mixers.hydra import Hydra
from seqmix.mixers.mamba2 import Mamba2
from seqmix.models.encoder import BidirectionalEncoder, BidirectionalLM, load_published

SMALL = partial(Hydra, d_state=4, headdim=4)


@pytest.mark.parametrize(
    ("mixer", "n_layers", "size"),
    [(Hydra, 23, 112_086_712), (Hydra, 12, 69_992_352), (partial(Mamba2, d_state=64), 12, 68_076_960)],
)
def test_published_sizes(mixer, n_layers, size):
    with torch.device("meta"):
        model = BidirectionalLM(30_528, 768, n_layers, mixer=mixer)
    assert sum(p.numel() for p in model.parameters()) == size
    if n_layers == 23:
        assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == published_shapes(768, 30_528, 23)


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
    model = BidirectionalLM(40, 16, 3, mixer=SMALL)
    load_published(model, torch.load(tmp_path / "model.pt", weights_only=True))
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert model.cls["predictions"].decoder.weight is model.bert.embeddings["word_embeddings"].weight
    with pytest.raises(RuntimeError, match="Missing key"):
        load_published(model, {k: v for k, v in state.items() if "A_log" not in k})


def test_written_out():
    model = BidirectionalLM(40, 16, 2, mixer=SMALL).eval()
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


def test_initial_values():
    model = BidirectionalLM(400, 64, 2, mixer=partial(Hydra, headdim=16, bias=True))
    first, second = (layer["layer"].mixer for layer in model.bert.encoder["layer"])
    for p in (first.in_proj.weight, first.out_proj.weight, first.fc_D.weight, model.cls["predictions"].decoder.weight):
        assert p.std().item() == pytest.approx(0.02, rel=0.1)
    assert not first.in_proj.bias.any() and not model.bert.embeddings["word_embeddings"].weight[0].any()
    # the original starts all layers with the same steps and convolutions
    assert not torch.equal(first.dt_bias, second.dt_bias)
    with pytest.raises(ValueError, match="max_len is needed"):
        BidirectionalEncoder(40, 16, 2, mixer=SMALL, positions=True)
