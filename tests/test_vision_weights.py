"""Published checkpoints: original and timm's names, channels, classes, files that are wrong, and no network."""

import argparse
import re

import pytest
import torch
from safetensors.torch import save_file
from typing_extensions import Unpack

from seqmix.errors import DataError
from seqmix.vision import (
    Attention2d,
    Dense2d,
    FFNet,
    MetaFormer,
    PoolFormer,
    SepConv2d,
    create_model,
    load_weights,
    register_model,
)
from seqmix.vision import _registry as registry
from seqmix.vision.mixers2d import Pool2d
from seqmix.vision.poolformer import PoolFormerOptions

CFG = {"first_conv": "downsample_layers.0.conv", "num_classes": 6}


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    """Two small models under names of their own, forgotten after the test."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

    @register_model(paper="arXiv:0", parameters=0, default_cfg=CFG)
    def tinyformer(**options):
        mixers = [SepConv2d, SepConv2d, Attention2d, Attention2d]
        return MetaFormer(depths=(1, 1, 2, 1), dims=(8, 16, 32, 32), mixers=mixers, mlp_head=True, **options)

    @register_model(paper="arXiv:0", parameters=0, default_cfg={**CFG, "first_conv": "patch_embed.proj"})
    def tinypool(**options: Unpack[PoolFormerOptions]):
        return PoolFormer(depths=(1, 1, 2, 1), dims=(8, 8, 16, 16), mixers=[Pool2d] * 4, **options)


def _weights(name, seed=1, **options):
    """A state dict off its initial values."""
    g = torch.Generator().manual_seed(seed)
    state = create_model(name, **options).state_dict()
    return {key: t + 0.3 * torch.randn(t.shape, generator=g) for key, t in state.items()}


# timm's names of the tiny models, written out for one block of each kind; $ stands for any rest of a name
TIMM = {
    "tinyformer": {
        "downsample_layers.0.conv.$": "stem.conv.$",
        "downsample_layers.0.post_norm.$": "stem.norm.$",
        "downsample_layers.1.pre_norm.$": "stages.1.downsample.norm.$",
        "downsample_layers.1.conv.$": "stages.1.downsample.conv.$",
        "downsample_layers.2.pre_norm.$": "stages.2.downsample.norm.$",
        "downsample_layers.2.conv.$": "stages.2.downsample.conv.$",
        "downsample_layers.3.pre_norm.$": "stages.3.downsample.norm.$",
        "downsample_layers.3.conv.$": "stages.3.downsample.conv.$",
        "stages.0.0.$": "stages.0.blocks.0.$",
        "stages.1.0.$": "stages.1.blocks.0.$",
        "stages.2.0.$": "stages.2.blocks.0.$",
        "stages.2.1.$": "stages.2.blocks.1.$",
        "stages.3.0.$": "stages.3.blocks.0.$",
        "norm.$": "head.norm.$",
        "head.fc1.$": "head.fc.fc1.$",
        "head.norm.$": "head.fc.norm.$",
        "head.fc2.$": "head.fc.fc2.$",
    },
    "tinypool": {
        "patch_embed.proj.$": "stem.conv.$",
        "network.1.proj.$": "stages.1.downsample.conv.$",
        "network.3.proj.$": "stages.2.downsample.conv.$",
        "network.5.proj.$": "stages.3.downsample.conv.$",
        "network.0.0.$": "stages.0.blocks.0.$",
        "network.2.0.$": "stages.1.blocks.0.$",
        "network.4.0.$": "stages.2.blocks.0.$",
        "network.4.1.$": "stages.2.blocks.1.$",
        "network.6.0.$": "stages.3.blocks.0.$",
        "norm.$": "head.norm.$",
        "head.$": "head.fc.$",
    },
}


def _as_timm(name, state):
    """Names of timm, and its 1 x 1 convolutions in the stages it runs channels first."""
    renamed = {}
    for key, tensor in state.items():
        (start,) = (s for s in TIMM[name] if key.startswith(s.removesuffix("$")))
        new = TIMM[name][start].removesuffix("$") + key.removeprefix(start.removesuffix("$"))
        new = re.sub(r"layer_scale_(\d)", r"layer_scale\1.scale", new)
        if re.search(r"stages\.[01]\..*(pwconv\d|fc\d)\.weight", new):
            tensor = tensor.reshape(*tensor.shape[:2], 1, 1)
        renamed[new] = tensor.contiguous()
    return renamed


def _save(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("layout", ["original", "timm"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["tinyformer", "tinypool"])
def test_both_layouts_and_formats(tmp_path, name, suffix, layout):
    state = _weights(name)
    path = _save(state if layout == "original" else _as_timm(name, state), tmp_path / f"weights{suffix}")
    model = create_model(name, weights=path)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(t, state[key]) for key, t in model.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        lambda s: {"model": s, "optimizer": {}},
        lambda s: {"state_dict": {f"module.{k}": t for k, t in s.items()}},
        # ours, ours compiled, a model compiled block by block, a detector, a pyramid or ensemble around it
        lambda s: {"state_dict": {f"model.{k}": t for k, t in s.items()}, "hyper_parameters": {"lr": 0.1}},
        lambda s: {"state_dict": {f"model._orig_mod.{k}": t for k, t in s.items()}},
        lambda s: {f"_orig_mod.{k}": t for k, t in s.items()},
        lambda s: {k.replace("network.0.", "network.0._orig_mod."): t for k, t in s.items()},
        lambda s: {**{f"backbone.{k}": t for k, t in s.items()}, "neck.conv.weight": torch.zeros(1)},
        lambda s: {"n_averaged": torch.tensor(3), **{f"module.model.{k}": t for k, t in s.items()}},
        lambda s: {"state_dict": {k: t + 1 for k, t in s.items()}, "state_dict_ema": s},
    ],
)
def test_checkpoints_of_training_scripts(tmp_path, wrap):
    state = _weights("tinypool")
    model = create_model("tinypool", weights=_save(wrap(state), tmp_path / "model.pth.tar"))
    assert all(torch.equal(t, state[key]) for key, t in model.state_dict().items())


@pytest.mark.parametrize("name", ["tinyformer", "tinypool"])
def test_other_channels_see_the_same(tmp_path, name):
    """A gray image in one channel, or a constant spread over many, gives what it gives in three."""
    path = _save(_weights(name), tmp_path / "weights.pth")
    gray = torch.randn(2, 1, 32, 32)
    want = create_model(name, weights=path).eval()(gray.expand(-1, 3, -1, -1))
    torch.testing.assert_close(create_model(name, weights=path, in_chans=1).eval()(gray), want, rtol=1e-4, atol=1e-4)
    six = create_model(name, weights=path, in_chans=6).eval()
    torch.testing.assert_close(six(gray.expand(-1, 6, -1, -1)), want, rtol=1e-4, atol=1e-4)
    one = _save(create_model(name, weights=path, in_chans=1).state_dict(), tmp_path / "one.pth")
    torch.testing.assert_close(
        create_model(name, weights=one).eval()(gray.expand(-1, 3, -1, -1)), want, rtol=1e-4, atol=1e-4
    )
    five = create_model(name, weights=path, in_chans=5)
    key = f"{five.default_cfg['first_conv']}.weight"
    first, three = five.state_dict()[key], torch.load(path)[key]
    torch.testing.assert_close(first[:, 3:], three[:, :2] * 0.6)


@pytest.mark.parametrize("name", ["tinyformer", "tinypool"])
def test_other_classes(tmp_path, name):
    path = _save(_weights(name), tmp_path / "weights.pth")
    x = torch.randn(1, 3, 32, 32)
    full = create_model(name, weights=path).eval()
    features = full.forward_features(x)
    for num_classes in (0, 4):
        model = create_model(name, num_classes=num_classes, weights=path).eval()
        assert torch.equal(model.forward_features(x), features)
        assert torch.equal(model.forward_head(features, pre_logits=True), full.forward_head(features, pre_logits=True))
        assert model(x).shape == (1, num_classes or model.head_hidden_size)
    assert torch.equal(create_model(name, num_classes=6, weights=path).eval()(x), full(x))
    with pytest.raises(DataError, match=r"here \(4, \d+\).*Please pass num_classes=6 for the classes of the file"):
        load_weights(create_model(name, num_classes=4), path)
    pyramid = create_model(name, features_only=True, weights=path).eval()
    assert torch.equal(pyramid(x)[-1], features)


@pytest.mark.parametrize("name", ["tinyformer", "tinypool"])
def test_file_without_a_classifier(tmp_path, name):
    """It is enough for other classes, for none, and for maps; a detector's has no head at all."""
    state = _weights(name)
    classifier = create_model(name).classifier_name
    body = {key: t for key, t in state.items() if not key.startswith(classifier)}
    path = _save(body, tmp_path / "body.pth")
    for num_classes in (0, 4, 6):
        model = create_model(name, num_classes=num_classes, weights=path)
        assert all(torch.equal(model.state_dict()[key], t) for key, t in body.items())
    with pytest.raises(DataError, match=r"Please pass num_classes for a fresh classifier, or 0 for none: the file"):
        create_model(name, weights=path)
    bare = {f"backbone.{key}": t for key, t in state.items() if not key.startswith(("norm.", "head."))}
    pyramid = create_model(name, features_only=True, weights=_save(bare, tmp_path / "bare.pth"))
    assert {f"backbone.{key}" for key in pyramid.model.state_dict()} == bare.keys()


def test_remedies(tmp_path):
    """The message names the option that differs."""
    size = {"mixers": [Dense2d], "depths": (1,), "dims": (8,)}
    large, small = (MetaFormer(img_size=s, num_classes=2, **size) for s in (32, 16))
    with pytest.raises(DataError, match=r"Please pass the img_size that the file was trained for"):
        load_weights(small, _save(large.state_dict(), tmp_path / "large.pth"))
    five = _save(_weights("tinypool", in_chans=5, num_classes=7), tmp_path / "five.pth")
    with pytest.raises(DataError, match=r"Please pass num_classes=7 for the classes of the file, and in_chans=5 for"):
        create_model("tinypool", weights=five)
    plain = {"dims": (4,), "depths": (1,), "token_kernels": (3,), "num_classes": 2}
    whole, folded = FFNet(**plain), FFNet(**plain).reparameterize()
    with pytest.raises(DataError, match=r"Please load it into create_model\(...\).reparameterize\(\): batch norms of"):
        load_weights(whole, _save(folded.state_dict(), tmp_path / "folded.pth"))
    with pytest.raises(DataError, match=r"Please load the weights before reparameterize\(\)"):
        load_weights(folded, _save(whole.state_dict(), tmp_path / "whole.pth"))
    load_weights(FFNet(**plain).reparameterize(), tmp_path / "folded.pth")


def test_feature_norms_are_not_in_the_file(tmp_path):
    path = _save(_weights("tinypool"), tmp_path / "weights.pth")
    pyramid = create_model("tinypool", features_only=True, feature_norms=(0, 2), weights=path)
    assert pyramid.model.norm0.weight.eq(1).all() and pyramid.model.norm4.bias.eq(0).all()
    state = _weights("tinypool")
    del state["network.2.0.norm2.weight"]
    with pytest.raises(DataError, match=r"1 missing in the file: network\.2\.0\.norm2\.weight"):
        create_model("tinypool", weights=_save(state, tmp_path / "short.pth"))


def test_checkpoint_of_another_model(tmp_path):
    path = _save(_weights("tinypool"), tmp_path / "pool.pth")
    with pytest.raises(DataError) as error:
        create_model("tinyformer", weights=path)
    message = str(error.value)
    assert message.startswith(f"{path} does not fit tinyformer, it differs in ")
    assert re.search(r"\d+ missing in the file: downsample_layers\.0\.conv\.weight, ", message)
    assert re.search(r"\d+ not in the model: patch_embed\.proj\.weight, ", message)
    state = _weights("tinypool")
    state["network.0.0.mlp.fc1.weight"] = state["network.0.0.mlp.fc1.weight"][:16]
    with pytest.raises(DataError, match=re.escape("network.0.0.mlp.fc1.weight (16, 8, 1, 1), here (32, 8, 1, 1)")):
        create_model("tinypool", weights=_save(state, tmp_path / "narrow.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_file(tmp_path, suffix, keep):
    path = tmp_path / f"weights{suffix}"
    _save(_weights("tinypool"), path)
    whole = path.read_bytes()
    size = keep if isinstance(keep, int) else int(keep * len(whole))
    path.write_bytes(whole[:size])
    with pytest.raises(DataError, match=rf"\({size:,} bytes\) cannot be read as weights \(.*may be cut short"):
        create_model("tinypool", weights=str(path))


def test_files_that_are_no_weights(tmp_path):
    for content in ([1, 2], {"lr": 0.1}, {}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(DataError, match=r"holds no state dict of tensors; save it with torch\.save"):
            create_model("tinypool", weights=str(tmp_path / "other.pth"))
    for missing in ("nothing.pth", "folder/nothing.safetensors", "a/b/c/d", "caformer"):
        with pytest.raises(
            DataError, match=re.escape(f"no weights at {missing!r}; give a file that exists, or a hub id")
        ):
            create_model("tinypool", weights=missing)


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("timm/caformer_s18.sail_in1k", ("timm/caformer_s18.sail_in1k", "model.safetensors")),
        ("hf-hub:timm/poolformer_s12", ("timm/poolformer_s12", "model.safetensors")),
        ("hf-hub:owner/many/folder/small.pth", ("owner/many", "folder/small.pth")),
    ],
)
def test_hub(tmp_path, monkeypatch, source, want):
    state = _weights("tinypool")
    path = _save(_as_timm("tinypool", state), tmp_path / "model.safetensors")
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a: asked.append(a) or path)
    model = create_model("tinypool", weights=source)
    assert asked == [want] and torch.equal(model.head.weight, state["head.weight"])


def test_hub_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as error:
        create_model("tinypool", weights="timm/caformer_s18.sail_in1k")
    message = str(error.value)
    assert message.startswith("weights 'timm/caformer_s18.sail_in1k' cannot be fetched from the hub (")
    assert message.endswith(
        "download its model.safetensors where there is a network, and pass the path: weights='model.safetensors'"
    )
