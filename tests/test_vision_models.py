"""What every image model promises: shapes, pyramids, classifiers, options and errors, as timm's users know them."""

import inspect
import re
from functools import partial

import pytest
import torch
from torch import fx, nn

from seqmix.errors import ConfigError
from seqmix.mixers import Hydra, LongVQ, auxiliary_loss
from seqmix.vision import (
    SS2D,
    AFF2d,
    Attention2d,
    FeaturePyramid,
    FFNet,
    FFNetSegHead,
    FFNetSR,
    HydraViT,
    ImageModel,
    Inception2d,
    MetaFormer,
    Pool2d,
    RaftMLP,
    Raster,
    SepConv2d,
    ViM2,
    create_model,
    list_models,
    model_facts,
)
from seqmix.vision.batch_norm import BatchNorm2d
from seqmix.vision.image_model import stage_indices

# transforms have no shapes without data in this torch: these run on small images
NOT_ON_META = ("affnet", "hydra_vit")
SMALL = ("poolformer_s12", "caformer_s18", "raftmlp_s", "ffnet_1", "iformer_small", "affnet_et", "vim2_tiny")
SLOW = ("raftmlp_s", "vim2_tiny", "hydra_vit_base")
# the slow ones have a small twin
TWINS = {
    "vim2": partial(ViM2, dims=(4, 6), depths=(2, 4), channel_widths=(6, 8)),
    "vmamba": partial(ViM2, dims=(4, 6), depths=(2, 2), channel_widths=None),
    "hydra_vit": partial(HydraViT, d_model=8, n_layers=2, patch_size=4, mixer=partial(Hydra, d_state=4, headdim=4)),
    "raftmlp": partial(RaftMLP, dims=(4, 8), depths=(2, 1), patch_sizes=(4, 2), kernels=((4, 8), (2, 4)), img_size=32),
    "longvq": partial(
        MetaFormer,
        depths=(1, 1),
        dims=(8, 8),
        mixers=[partial(Raster, mixer=partial(LongVQ, d_qk=8, d_state=2, n_codes=4, window=4))],
    ),
}
FAMILIES = [pytest.param(n, marks=pytest.mark.slow if n in SLOW else []) for n in dict.fromkeys(SMALL + SLOW)]
FAMILIES += TWINS


def _meta(name, **options):
    with torch.device("meta"):
        return create_model(name, **options)


@pytest.fixture(scope="module", params=FAMILIES)
def small(request):
    """A model with 42 classes, its parameters off their initial values, and two small images."""
    torch.manual_seed(0)
    name = request.param
    model = (TWINS[name](num_classes=42) if name in TWINS else create_model(name, num_classes=42)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.02 * torch.randn_like(p)
    # two cells in the last map: of one, all pools are the same, and two patches of Hydra-ViT meet no decay
    side = max(model.min_size, 32)
    return model, torch.randn(2, 3, side, 2 * side)


def _tiny(**options):
    return MetaFormer(depths=(1, 2), dims=(8, 16), mixers=[Pool2d], num_classes=5, **options).eval()


# a variant is the same network under the same function
@pytest.mark.parametrize("name", [n for n in list_models() if n == model_facts(n).build.__name__])
def test_published_parameters(name):
    facts = model_facts(name)
    model = _meta(name)
    assert sum(p.numel() for p in model.parameters()) == facts.parameters
    state, cfg = model.state_dict(), model.default_cfg
    assert state[f"{cfg['classifier']}.weight"].shape == (cfg["num_classes"], model.head_hidden_size)
    assert "first_conv" not in cfg or state[f"{cfg['first_conv']}.weight"].shape[1] == 3
    assert model.feature_info.reduction() == sorted(model.feature_info.reduction())
    assert all(model.get_submodule(module) for module in model.feature_info.module_name())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in SMALL else pytest.mark.slow)
        for n in list_models()
        if not n.startswith(NOT_ON_META)
    ],
)
def test_map_of_the_published_size(name):
    model = _meta(name)
    x = torch.empty(1, *model.default_cfg["input_size"], device="meta")
    assert model.forward_features(x).shape == (1, model.num_features, *model.default_cfg["pool_size"])


def test_head(small):
    model, x = small
    with torch.no_grad():
        last = model.forward_features(x)
        logits = model(x)
        assert logits.shape == (2, 42) and logits.isfinite().all()
        assert torch.equal(model.forward_head(last), logits)
        before = model.forward_head(last, pre_logits=True)
        assert before.shape == (2, model.head_hidden_size)
        torch.testing.assert_close(model.get_classifier()(before), logits)
        # images of a batch do not see each other
        torch.testing.assert_close(model(x[1:]), logits[1:], rtol=1e-3, atol=1e-4)
        kept = model.get_classifier()
        model.reset_classifier(0)
        assert model.num_classes == 0 and torch.equal(model(x), before)
        model.reset_classifier(0, "")
        cells = model(x)
        assert cells.shape == (2, model.head_hidden_size, *last.shape[2:])
        model.reset_classifier(7, "max")
        assert model(x).shape == (2, 7) and not torch.allclose(model.forward_head(last, pre_logits=True), before)
        # back as it was, for the tests that follow
        model.reset_classifier(42, "avg")
        parent, _, leaf = model.classifier_name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, kept)
        assert torch.equal(model(x), logits)


def test_features(small):
    model, x = small
    with torch.no_grad():
        maps = model.features(x)
        assert len(maps) == len(model.feature_info)
        for out, info in zip(maps, model.feature_info, strict=True):
            assert out.shape == (2, info["num_chs"], x.shape[2] // info["reduction"], x.shape[3] // info["reduction"])
            assert out.isfinite().all()
        model.out_indices = stage_indices([-1, 0], len(maps))
        last, first = model.features(x)
        model.out_indices = stage_indices(None, len(maps))
    assert torch.equal(last, maps[-1]) and torch.equal(first, maps[0])


def test_hooks_and_intermediates(small):
    """The module of a stage gives its map; what is asked for by index is what ``features`` has."""
    model, x = small
    seen, names = {}, model.feature_info.module_name()
    handles = [
        model.get_submodule(name).register_forward_hook(lambda *a, name=name: seen.setdefault(name, a[2]))
        for name in names
    ]
    with torch.no_grad():
        maps = model.features(x)
        for handle in handles:
            handle.remove()
        assert len(seen) == len(names) and all(torch.equal(seen[n], m) for n, m in zip(names, maps, strict=True))
        last, chosen = model.forward_intermediates(x, [0, -1])
        assert torch.equal(last, model.forward_features(x))
        assert torch.equal(chosen[0], maps[0]) and torch.equal(chosen[1], maps[-1])
        (only,) = model.forward_intermediates(x, 1, stop_early=True, intermediates_only=True)
    assert torch.equal(only, maps[-1])


def test_gradients_and_checkpointing(small):
    """Every trainable parameter has a gradient, and the same one where blocks are computed again."""
    model, x = small
    grads = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        y = model(x)
        y.square().mean().backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    model.set_grad_checkpointing(False)
    model.zero_grad()
    for key, grad in grads[0].items():
        assert grad is not None and grad.isfinite().all() and grad.any(), key
        torch.testing.assert_close(grads[1][key], grad, rtol=1e-4, atol=1e-5)
    names = {n for n, _ in model.named_parameters()}
    spared = model.no_weight_decay()
    assert spared <= names and {n for n, p in model.named_parameters() if p.ndim < 2} <= spared
    assert f"{model.classifier_name}.weight" not in spared


def test_checkpointing_is_on_where_it_is_asked_for(monkeypatch):
    model = _tiny()
    calls = []
    monkeypatch.setattr("seqmix.models.recompute.checkpoint", lambda block, x, **k: calls.append(k) or block(x))
    model.set_grad_checkpointing()
    model(torch.randn(1, 3, 32, 32))
    assert [call["use_reentrant"] for call in calls] == [False] * 3
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    assert len(calls) == 3


@pytest.mark.parametrize("kind", ["avg", "max", "avgmax"])
def test_global_pool(kind):
    model = _tiny(global_pool=kind)
    maps = model.forward_features(torch.randn(2, 3, 33, 47))
    avg, top = maps.mean((2, 3)), maps.flatten(2).max(-1).values
    want = {"avg": avg, "max": top, "avgmax": 0.5 * (avg + top)}[kind]
    torch.testing.assert_close(model.forward_head(maps), model.head(model.norm(want)))


def test_pyramid():
    """The head is gone, the maps are those of the model; a list, negatives or a number choose the stages."""
    model = create_model("poolformer_s12").eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        want = model.features(x)
        for out_indices, chosen in ((None, [0, 1, 2, 3]), ([0, -1], [0, 3]), (2, [2, 3]), ((1,), [1])):
            pyramid = FeaturePyramid(model, out_indices=out_indices).eval()
            assert all(torch.equal(g, want[i]) for g, i in zip(pyramid(x), chosen, strict=True))
            assert pyramid.feature_info.channels() == [[64, 128, 320, 512][i] for i in chosen]
            assert pyramid.feature_info.reduction() == [[4, 8, 16, 32][i] for i in chosen]
            assert pyramid.feature_info.module_name() == [f"network.{2 * i}" for i in chosen]
    names = [n for n, _ in pyramid.named_parameters()]
    assert not [n for n in names if "head" in n or n.startswith(("model.norm", "model.network.4", "model.network.3"))]
    pyramid = _meta("caformer_s18", features_only=True, out_indices=(1, 2), in_chans=1)
    assert isinstance(pyramid, FeaturePyramid)
    assert [f.shape[1] for f in pyramid(torch.empty(1, 1, 64, 64, device="meta"))] == [128, 320]
    assert _meta("caformer_s18", out_indices=-1 % 4).out_indices == (1, 2, 3)
    for wrong in ([4], [-5], [], 5, 0):
        with pytest.raises(ConfigError, match=r"out_indices = .* of 4 stages; use numbers from 0 to 3"):
            _meta("caformer_s18", features_only=True, out_indices=wrong)


@pytest.mark.parametrize("name", [*SMALL, "ffnet_seg", "hydra_vit_base"])
def test_depths_of_blocks(name):
    """Every family counts its blocks, and a pyramid keeps no parameter that its maps do not need."""
    model = _meta(name)
    depths = [2, 2, 6, 2] if name in ("raftmlp_s", "poolformer_s12") else [24] if name == "hydra_vit_base" else None
    depths = (
        depths
        or {
            "caformer_s18": [3, 3, 9, 3],
            # a downsampling stands first in the later stages
            "ffnet_1": [2, 3, 9, 3],
            "ffnet_seg": [3, 5, 19, 6],
            "iformer_small": [3, 3, 9, 3],
            "affnet_et": [3, 3, 5, 4],
            "vim2_tiny": [1, 1, 3, 1],
        }[name]
    )
    assert [len(model.block_names(i)) for i in range(len(depths))] == depths
    matcher = model.group_matcher()
    names = {n for n, _ in model.named_parameters()}
    head = {n for n in names if n.startswith(model.head_names)}
    stem = {n for n in names if re.match(matcher["stem"], n)}
    # the first pattern that matches wins
    blocks = {n for n in names - stem if any(re.match(pattern, n) for pattern, _ in matcher["blocks"])}
    assert stem and not head & (stem | blocks) and stem | blocks | head == names
    places = {place for pattern, place in matcher["blocks"] if any(re.match(pattern, n) for n in names)}
    assert places == {(i, j) for i, n in enumerate(depths) for j in range(n)}
    assert {place for _, place in model.group_matcher(coarse=True)["blocks"]} == {(i, 0) for i in range(len(depths))}
    # the pyramid of the first stage: everything before its end, nothing after
    pyramid = FeaturePyramid(_meta(name), out_indices=(0,))
    first = tuple(f"{n}." for n in (*model.before[0], model.feature_info[0]["module"]))
    kept = {n.removeprefix("model.") for n, _ in pyramid.named_parameters()}
    assert kept == {n for n in names if f"{n}.".startswith(first)}


@pytest.mark.parametrize(
    ("build", "out_indices"),
    [
        *((partial(create_model, name), (1,)) for name in ("affnet_et", "ffnet_1", "iformer_small", "caformer_s18")),
        *((TWINS[name], None) for name in ("vim2", "vmamba", "hydra_vit", "raftmlp")),
        *((TWINS[name], (0,)) for name in ("vim2", "vmamba", "raftmlp")),
        (partial(create_model, "poolformer_s12", feature_norms=(0, 1, 2, 3)), (1,)),
        (partial(FFNet, dims=(8, 16), depths=(1, 1), token_kernels=(3, 3), feature_norms=True), (1,)),
    ],
)
def test_a_pyramid_trains_all_that_it_has(build, out_indices):
    pyramid = FeaturePyramid(build(num_classes=3), out_indices=out_indices)
    maps = pyramid(torch.randn(2, 3, 32, 64))
    sum(x.square().sum() for x in maps).backward()
    assert [n for n, p in pyramid.named_parameters() if p.requires_grad and p.grad is None] == []


def test_config_of_the_model():
    """``default_cfg`` is what the model takes, ``pretrained_cfg`` what published weights expect."""
    model = _meta("metaformer_ppaa_s12_224", num_classes=7, in_chans=1, img_size=160)
    cfg = model.default_cfg
    assert (cfg["num_classes"], cfg["input_size"], cfg["pool_size"]) == (7, (1, 160, 160), (5, 5))
    assert cfg["mean"] == pytest.approx((0.449,), abs=1e-3) and cfg["classifier"] == "head"
    assert model.pretrained_cfg["num_classes"] == 1000 and model.pretrained_cfg["input_size"] == (3, 224, 224)
    model.reset_classifier(3)
    assert model.default_cfg["num_classes"] == 3
    assert _meta("iformer_small_384").default_cfg["input_size"] == (3, 384, 384)
    assert _meta("caformer_s18", in_chans=4).default_cfg["std"] == (0.229, 0.224, 0.225, 0.229)
    assert _tiny(img_size=(32, 48), in_chans=2).default_cfg["input_size"] == (2, 32, 48)


def _normed(**options):
    return FFNet(dims=(8, 16), depths=(1, 1), token_kernels=(3, 3), num_classes=4, **options)


@pytest.mark.parametrize(
    ("build", "compiled"),
    [
        (_normed, False),
        pytest.param(_normed, True, marks=pytest.mark.slow),
        (TWINS["longvq"], False),
    ],
)
def test_buffers_count_a_batch_once(build, compiled):
    """A pass that is computed again leaves running statistics and codebooks alone, and sees them as they were."""
    x, states, grads = torch.randn(3, 3, 16, 16), [], []
    for enable in (False, True):
        torch.manual_seed(0)
        model = build()
        model.set_grad_checkpointing(enable)
        run = torch.compile(model, backend="aot_eager") if compiled and enable else model
        for _ in range(2):
            (run(x).square().sum() + auxiliary_loss(model)).backward()
        states.append(dict(model.named_buffers()))
        grads.append({n: p.grad for n, p in model.named_parameters()})
    assert states[0].keys() == states[1].keys() and len(states[0]) > 5
    for key, tensor in states[0].items():
        torch.testing.assert_close(states[1][key], tensor, msg=key)
    for key, tensor in grads[0].items():
        torch.testing.assert_close(grads[1][key], tensor, rtol=1e-3, atol=1e-4, msg=key)


def test_frozen_parts_stay_as_they_are():
    model = _normed()
    model.freeze(*model.stage_names(1))
    before = {key: t.clone() for key, t in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model.eval().train()(torch.randn(3, 3, 16, 16)).square().sum().backward()
    optimizer.step()
    moved = {key for key, t in model.state_dict().items() if not torch.equal(t, before[key])}
    assert moved and not [key for key in moved if key.startswith(("patch_embed.", "stages.0."))]
    assert {key for key in before if key.startswith("stages.1.") and "weight" in key} <= moved
    assert model.training and not model.stages[0].training and model.stages[1].training
    pos = _meta("iformer_small")
    pos.freeze(*pos.stage_names(4))
    assert {n for n, p in pos.named_parameters() if p.requires_grad} == {
        "norm.weight", "norm.bias", "head.weight", "head.bias",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="the model has 4 stages, 5 are to be frozen; use 0 to 4"):
        pos.stage_names(5)


def test_names_and_options():
    assert "caformer_s18" in list_models("caformer*") and all(
        n.startswith("caformer") for n in list_models("caformer*")
    )
    assert list_models() == sorted(list_models()) and not list_models("resnet*")
    wanted = {f"poolformer{v}_{s}" for v in ("", "v2") for s in ("s12", "s24", "s36", "m36", "m48")}
    wanted |= {f"{f}_{s}" for f in ("convformer", "caformer") for s in ("s18", "s36", "m36", "b36")}
    assert wanted <= set(list_models())
    for name in list_models():
        build = model_facts(name).build
        # a variant is a function's name with an ending
        assert name.startswith(build.__name__) and build.__doc__
        assert model_facts(name).paper.startswith("arXiv:")
        kinds = {p.kind for p in inspect.signature(build).parameters.values()}
        assert kinds <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}
    model = _meta("caformer_s18", in_chans=5, drop_path_rate=0.1, drop_rate=0.2, global_pool="max")
    assert model.head.drop.p == 0.2 and model.stages[3][2].drop_path.p == pytest.approx(0.1)
    assert model.downsample_layers[0].conv.weight.shape == (64, 5, 7, 7)
    assert isinstance(model, ImageModel) and model.global_pool == "max"
    assert _meta("poolformer_s12", num_classes=0, head_order="pool_norm").get_classifier().__class__ is nn.Identity


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: create_model("caformer_s81"),
            r"no image model 'caformer_s81'; did you mean caformer_s18, .* has all \d+",
        ),
        (lambda: create_model("CAFormer_S18"), "no image model 'CAFormer_S18'; did you mean caformer_s18"),
        (lambda: create_model("zzz"), "no image model 'zzz'; seqmix.vision.list_models"),
        (
            lambda: create_model("randformer_s12", image_size=64),
            "randformer_s12 has no option 'image_size'; did you mean 'img_size'\\? It takes img_size, num_classes",
        ),
        (lambda: create_model("caformer_s18", qqq=1), "caformer_s18 has no option 'qqq'; it takes num_classes"),
        (
            lambda: create_model("caformer_s18", pretrained=True),
            "weights='<file or hub id>' loads a checkpoint. It takes",
        ),
        (lambda: create_model("affnet_et", activation="torch.nn.ReLU"), "activation = 'torch.nn.ReLU' is not a class"),
        (lambda: create_model("hydra_vit_base", mixer="Mamba"), "mixer = 'Mamba' is not a class; pass a class, or in"),
    ],
)
def test_errors_of_create_model(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: create_model("caformer_s18", in_chans=0), "in_chans = 0 is below 1; use in_chans=1 or more"),
        (lambda: create_model("caformer_s18", num_classes=-1), "num_classes = -1 is negative"),
        *(
            (lambda name=name: create_model(name, drop_path_rate=1.0), "1.0 should be at least 0 and below 1")
            for name in (*SMALL, "hydra_vit_base")
        ),
        (lambda: _tiny(drop_path_rate=-0.1), "drop_path_rate = -0.1 should be at least 0 and below 1"),
        (lambda: create_model("raftmlp_s", img_size=16), "img_size = 16 is below 32"),
        (lambda: MetaFormer(depths=(1,), dims=(8, 8), mixers=[Pool2d]), "1 depths, 2 dims for the stages"),
        (lambda: MetaFormer(depths=(1, 0), dims=(8, 8), mixers=[Pool2d]), r"depths\[1\] = 0 is below 1"),
        (lambda: MetaFormer(depths=(1,), dims=(8,), mixers=[]), "mixers is an empty list"),
        (lambda: FFNet(dims=(8,), depths=(1,), token_kernels=(4,)), r"token_kernels\[0\] = 4 has no middle"),
        (lambda: HydraViT(patch_size=0), "patch_size = 0 is below 1"),
        (lambda: ViM2(dims=(8,), depths=(2,), channel_widths=(8, 8)), "1 dims, 1 depths, 2 channel_widths for"),
        (lambda: RaftMLP(dims=(8,), depths=(1,), patch_sizes=(4,), n_rafts=0), "n_rafts = 0 is below 1"),
        (lambda: Attention2d(8, head_dim=0), "head_dim = 0 is below 1"),
        (lambda: SepConv2d(8, expand=0), "expand = 0 is below 1"),
        (lambda: Inception2d(8, stride=0), "stride = 0 is below 1"),
        (lambda: AFF2d(8, n_blocks=0), "n_blocks = 0 is below 1"),
        (lambda: SS2D(8, d_state=0), "d_state = 0 is below 1"),
        (lambda: SS2D(8, d_conv=4), "d_conv = 4 has no middle"),
        (lambda: FFNetSegHead(num_classes=0), "num_classes = 0 is below 1"),
        (lambda: FFNetSR(scale=0), "scale = 0 is below 1"),
    ],
)
def test_options_out_of_range(build, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize("name", ["ffnet_1", "affnet_et", "iformer_small"])
def test_a_last_batch_of_one(name):
    """One value per channel has no variance: the running statistics stand in for it."""
    model = create_model(name, num_classes=3).train()
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    norm = BatchNorm2d(2)
    with torch.no_grad():
        norm.running_mean += 1
    x = torch.randn(1, 2, 1, 1)
    torch.testing.assert_close(norm(x), (x - 1) / (1 + norm.eps) ** 0.5)
    assert norm.num_batches_tracked == 0 and norm.running_mean.eq(1).all()


def test_segmentation_of_other_sizes():
    """Strides round sides up: maps that are not halves of each other meet on the finest grid."""
    head = FFNetSegHead(in_dims=(4, 6, 8), num_classes=3, d_model=8, n_layers=1).eval()
    maps = [torch.randn(1, C, *size) for C, size in ((4, (10, 8)), (6, (5, 4)), (8, (3, 2)))]
    assert head(maps).shape == (1, 3, 10, 8)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 64, 64), "x should be (B, C, H, W), got (3, 64, 64); add an axis with x.unsqueeze(0)"),
        (
            (1, 1, 64, 64),
            "x has 1 channels, the model was built for in_chans = 3; convert the images, or build it with in_chans=1",
        ),
        (
            (1, 3, 64, 31),
            "images of 64 x 31 pixels are too small for the strides of this model; resize them to at least 32 x 32",
        ),
    ],
)
@pytest.mark.parametrize("method", ["__call__", "forward_features", "features"])
def test_errors_of_images(method, shape, message):
    model = _meta("poolformer_s12")
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(model, method)(torch.empty(shape, device="meta"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_fresh_classifier_follows_the_model(dtype):
    model = _tiny().to(dtype)
    model.reset_classifier(3)
    y = model(torch.randn(1, 3, 32, 32, dtype=dtype))
    assert y.dtype == dtype and y.shape == (1, 3)
    assert abs(model.head.weight.std() - 0.02) < 0.01 and not model.head.bias.any()


@pytest.mark.parametrize("name", ["caformer_s18", "poolformer_s12", "ffnet_1", "iformer_small"])
def test_fx_follows(name):
    model, x = create_model(name, num_classes=3).eval(), torch.randn(1, 3, 32, 64)
    traced = fx.symbolic_trace(model)
    with torch.no_grad():
        torch.testing.assert_close(traced(x), model(x))
    # the names of stages are in the graph: their maps can be taken out of it
    places = {str(node.meta.get("nn_module_stack", "")) for node in traced.graph.nodes}
    assert all(any(name in place for place in places) for name in model.feature_info.module_name())


def test_compiles_to_one_graph():
    model, x = _tiny(), torch.randn(2, 3, 32, 48)
    want = model(x)
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), want)
