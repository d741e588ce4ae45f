"""Decoders, Informer, Autoformer and TimesNet give the numbers of the original code: whole models."""

from functools import partial

import pytest
import torch
from series_parity import case

from seqmix.models import (
    AutoformerForecaster,
    DecoderForecaster,
    EncoderForecaster,
    Informer,
    TimesNet,
    Transformer,
)
from seqmix.series import Series
from seqmix.tasks import Forecasting

# our name of what the originals call; where two fit, the first counts
COMMON = {
    "enc_embedding.value_embedding.tokenConv.": "encoder.embed.conv.",
    "dec_embedding.value_embedding.tokenConv.": "embed.conv.",
    "decoder.projection.": "proj.",
    ".query_projection.": ".q.",
    ".out_projection.": ".proj.",
}
DECODER = {
    "decoder.norm.": "norm.",
    "decoder.layers.": "layers.",
    ".self_attention.": ".own.",
    ".cross_attention.": ".cross.",
    ".norm1.": ".norms.0.",
    ".norm2.": ".norms.1.",
    ".norm3.": ".norms.2.",
    ".conv1.": ".mlp.up.",
    ".conv2.": ".mlp.down.",
}
BLOCK = {
    ".attention.": ".residuals.0.mixer.",
    ".norm1.": ".residuals.0.norm.",
    ".norm2.": ".residuals.1.norm.",
    ".conv1.": ".residuals.1.mixer.up.",
    ".conv2.": ".residuals.1.mixer.down.",
}
KEYS = {
    "Transformer": {
        "encoder.attn_layers.": "encoder.frame.backbone.blocks.",
        "encoder.norm.": "encoder.frame.backbone.norm.",
        "encoder.embed.": "encoder.frame.embed.",
    },
    "Informer": {
        "encoder.attn_layers.": "encoder.blocks.",
        "encoder.conv_layers.": "encoder.halvings.",
        ".downConv.": ".conv.",
        "projection.": "proj.",
    },
    "Autoformer": {
        "encoder.attn_layers.": "encoder.layers.",
        "decoder.layers.": "layers.",
        ".attention.": ".mixer.",
        ".self_attention.": ".own.",
        ".cross_attention.": ".cross.",
        "norm.layernorm.": "norm.norm.",
        "decoder.norm": "norm",
        ".conv1.": ".mlp.0.",
        ".conv2.": ".mlp.3.",
        ".projection.": ".trend.",
    },
    "TimesNet": {
        "model.": "encoder.layers.",
        ".conv.0.": ".up.",
        ".conv.2.": ".down.",
        "layer_norm.": "encoder.norm.",
        "projection.": "head.proj.",
    },
}


def renamed(name, key):
    names = dict(COMMON)
    if name in ("Transformer", "Informer"):
        names |= DECODER if key.startswith("decoder.layers.") or key.startswith("decoder.norm.") else BLOCK
    for old, new in {**names, **KEYS[name]}.items():
        if old in key:
            key = key.replace(old, new, 1)
    return key


def ours(name, weights):
    """State dict of our model from that of the original: projections that are one here, put together."""
    state = {}
    for key, value in weights.items():
        if "key_projection" in key or "value_projection" in key:
            continue
        if "conv1.weight" in key or "conv2.weight" in key:
            value = value.squeeze(-1)
        if "query_projection" in key:
            kv = torch.cat([weights[key.replace("query", kind)] for kind in ("key", "value")])
            new = renamed(name, key)
            if key.startswith("encoder."):
                new, value = new.replace(".q.", ".qkv."), torch.cat([value, kv])
            else:
                state[new.replace(".q.", ".kv.")] = kv
            state[new] = value
            continue
        state[renamed(name, key)] = value
    return state


def build(name, c):
    """Our model with the options of the original."""
    horizon = c.get("out_len") or c["pred_len"] or c["seq_len"]
    series = Series(c["enc_in"], c["seq_len"], horizon)
    options = {"d_model": c["d_model"], "n_layers": c["e_layers"], "expand": c["d_ff"] / c["d_model"]}
    if name == "TimesNet":
        made = partial(TimesNet, **options, n_periods=c["top_k"], n_kernels=c["num_kernels"])
        # the window is normalized inside the original
        model = partial(EncoderForecaster, encoder=made, along_time=False)
        return Forecasting(model, series, normalize="window").double().eval()
    if name == "Autoformer":
        options |= {"factor": c["factor"], "kernel_size": c["moving_avg"], "label_len": c["label_len"]}
        model = partial(AutoformerForecaster, **options, n_decoder_layers=c["d_layers"])
    else:
        sparse = {"factor": c["factor"]} if name == "Informer" else {}
        made = partial(
            {"Informer": Informer, "Transformer": Transformer}[name], **options, n_heads=c["n_heads"], **sparse
        )
        decoder = {"n_layers": c["d_layers"], "n_heads": c["n_heads"], "expand": options["expand"], **sparse}
        model = partial(DecoderForecaster, encoder=made, label_len=c["label_len"], **decoder)
    return Forecasting(model, series, normalize="none").double().eval()


@pytest.mark.parametrize("name", list(KEYS))
def test_outputs_of_the_original(name):
    meta, weights, tensors = case("series_decoders.npz", name)
    task = build(name, meta["config"])
    state, own = ours(name, weights), task.model.state_dict()
    # biases that have no effect on the original's output have no place in ours
    lost = {key for key in state if key not in own}
    assert all(key.endswith(("norm.norm.bias", "q.bias")) for key in lost) and (name == "Autoformer" or not lost)
    constant = {key: value for key, value in own.items() if key.endswith(("vectors", "num_batches_tracked"))}
    task.model.load_state_dict({**constant, **{key: state[key] for key in state.keys() - lost}})
    y = task({"x": tensors["x"]})
    torch.testing.assert_close(y, tensors["y"], rtol=1e-9, atol=1e-9)
    y.backward(tensors["dy"])
    first = task.model.get_parameter(renamed(name, meta["first"]))
    torch.testing.assert_close(first.grad, tensors["grad"], rtol=1e-8, atol=1e-9)
