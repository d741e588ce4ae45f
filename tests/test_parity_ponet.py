"""PoNet against outputs, gradients and segment ids of the original code (goldens/ponet.pt)."""

from pathlib import Path

import pytest
import torch

from seqmix.mixers.ponet import PoNet, segments_from_ids
from seqmix.ops.pooling import global_attention

GOLDENS = torch.load(Path(__file__).parent / "goldens" / "ponet.pt", weights_only=True)


def _build(case):
    config = case["config"]
    if case["variant"] == "base":
        options = {"n_heads": config["num_attention_heads"], "clsgsepg": config.get("clsgsepg", True)}
        return PoNet(config["hidden_size"], **options)
    options = {"n_heads": config["num_head"], "n_segments": config["segment_num"], "original_padding": True}
    return PoNet(config["transformer_dim"], variant="lra", **options)


def _arguments(case):
    mask = case["mask"].bool() if "mask" in case else None
    if case["variant"] == "lra":
        return {"mask": mask}
    index, special = segments_from_ids(case["input_ids"], cls_id=101, sep_id=102)
    return {"mask": mask, "segment_index": case.get("segment_index", index), "special": special}


@pytest.mark.parametrize("name", GOLDENS)
def test_outputs_and_gradients_equal_the_original(name):
    case, result = GOLDENS[name]["case"], GOLDENS[name]["result"]
    mixer = _build(case)
    mixer.load_state_dict(result["state_dict"], strict=True)
    x = case["hidden"].clone().requires_grad_()
    y = mixer(x, **_arguments(case))
    assert (y - result["output"]).abs().max() <= 1e-6 * max(1, float(result["output"].abs().max()))
    y.backward(result["cotangent"])
    grads = {"hidden": x.grad, **{key: p.grad for key, p in mixer.named_parameters()}}
    assert grads.keys() == result["grads"].keys()
    for key, grad in result["grads"].items():
        # relative to the largest entry: sums of up to a hundred float32 terms, in another order
        assert (grads[key] - grad).abs().max() <= 1e-5 * max(1, float(grad.abs().max())), key


@pytest.mark.parametrize("name", [name for name, g in GOLDENS.items() if g["case"]["variant"] == "base"])
def test_segments_and_global_weights_equal_the_original(name):
    case, result = GOLDENS[name]["case"], GOLDENS[name]["result"]
    arguments = _arguments(case)
    assert torch.equal(arguments["segment_index"], result["segment_index"])
    assert torch.equal(arguments["special"], result["token_type_mask"])
    weights, x = result["state_dict"], case["hidden"]
    q, k = (x @ weights[f"dense_{t}.weight"].T + weights[f"dense_{t}.bias"] for t in "qk")
    _, p = global_attention(q, k, k, n_heads=case["config"]["num_attention_heads"], mask=arguments["mask"])
    assert (p - result["att_prob"]).abs().max() <= 1e-6
