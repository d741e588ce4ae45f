"""Encoders of series give the numbers of the original code: whole models, with their heads and normalization."""

from functools import partial

import pytest
import torch
from series_parity import case

from seqmix.models import EncoderForecaster, encoder_facts, iTransformer
from seqmix.series import Series
from seqmix.tasks import Forecasting

# our name of what the originals call
KEYS = {
    "encoder.attn_layers.": "frame.backbone.blocks.",
    ".attention_r.": ".residuals.0.mixer.back.",
    ".attention.": ".residuals.0.mixer.",
    ".out_projection.": ".proj.",
    ".conv1.": ".residuals.1.mixer.up.",
    ".conv2.": ".residuals.1.mixer.down.",
    ".norm1.": ".residuals.0.norm.",
    ".norm2.": ".residuals.1.norm.",
    "encoder.norm.1.": "norm.",
    "encoder.norm.": "frame.backbone.norm.",
    "enc_embedding.value_embedding.tokenConv.": "frame.embed.conv.",
    "enc_embedding.value_embedding.": "frame.embed.",
    "patch_embedding.value_embedding.": "frame.embed.proj.",
}
CONSTANTS = ("embed.place.vectors", "place.vectors", "num_batches_tracked")
HEADS = ("projection.", "projector.", "head.linear.")


def ours(name, weights, d_model):
    """State dict of our model from that of the original."""
    state = {}
    for key, value in weights.items():
        if key.startswith(HEADS):
            end = key.rpartition(".")[2]
            if key == "head.linear.weight":
                # features before patches in the original, patches before features here
                value = value.unflatten(1, (d_model, -1)).transpose(1, 2).flatten(1)
            state[f"head.proj.{end}"] = value
            continue
        if "key_projection" in key or "value_projection" in key:
            continue
        if "query_projection" in key:
            parts = [weights[key.replace("query", kind)] for kind in ("query", "key", "value")]
            key, value = key.replace("query_projection", "qkv"), torch.cat(parts)
        elif key.endswith((".conv1.weight", ".conv2.weight")):
            value = value.squeeze(-1)
        direction = "onward." if name == "SMamba" else ""
        for old, new in KEYS.items():
            if old in key:
                key = key.replace(old, new + direction * (old == ".attention."))
        state[f"encoder.{key}"] = value
    return state


@pytest.mark.parametrize("name", ["Transformer", "PatchTST", "iTransformer", "SMamba"])
def test_outputs_of_the_original(name):
    meta, weights, tensors = case("series_encoders.npz", name)
    c = meta["config"]
    options = {"d_model": c["d_model"], "n_layers": c["e_layers"], "expand": c["d_ff"] / c["d_model"]}
    options |= {"d_state": c["d_state"]} if name == "SMamba" else {"n_heads": c["n_heads"]}
    options |= {"patch_len": 8} if name == "PatchTST" else {}
    steps = name == "Transformer"
    # the original reconstructs windows with it, as they are; it forecasts with a decoder
    series = Series(c["enc_in"], c["seq_len"], c["seq_len"] if steps else c["pred_len"])
    build = partial(EncoderForecaster, encoder=partial(encoder_facts(name)[0], **options), along_time=not steps)
    task = Forecasting(build, series, normalize="none" if steps else "window").double().eval()
    state = ours(name, weights, c["d_model"])
    missing = {key: value for key, value in task.model.state_dict().items() if key not in state}
    assert {key.split(".", 2)[2] for key in missing} <= {*CONSTANTS, "embed.proj.bias"}
    # the embedding of patches has no bias in the original
    zeros = {key: torch.zeros_like(value) for key, value in missing.items() if key.endswith("bias")}
    task.model.load_state_dict({**missing, **zeros, **state})
    y = task({"x": tensors["x"]})
    torch.testing.assert_close(y, tensors["y"], rtol=1e-9, atol=1e-9)
    y.backward(tensors["dy"])
    (first,) = ours(name, {meta["first"]: tensors["grad"]}, c["d_model"])
    torch.testing.assert_close(task.model.get_parameter(first).grad, tensors["grad"], rtol=1e-8, atol=1e-9)


def test_as_many_parameters_as_the_original():
    """Counted in thuml/Time-Series-Library for ETTh1, 96 -> 96."""
    encoder = partial(iTransformer, d_model=256, expand=1)
    with torch.device("meta"):
        assert sum(p.numel() for p in EncoderForecaster(Series(7, 96, 96), encoder=encoder).parameters()) == 841_568
