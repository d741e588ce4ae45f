"""PoolFormer and the MetaFormer baselines: outputs of the original code, published sizes, properties of the papers."""

import math
from itertools import pairwise

import pytest
import torch
from goldens import fill
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from seqmix.errors import ConfigError
from seqmix.vision import MetaFormer, Pool2d, PoolFormer, StarReLU, create_model, list_models, model_facts
from seqmix.vision.metaformer import JointNorm, MetaFormerBlock, drop_path_rates
from seqmix.vision.mixers2d import Pointwise
from seqmix.vision.poolformer import PoolFormerBlock

S, M = (64, 128, 320, 512), (96, 192, 384, 768)
LADDER = {"s12": ((2, 2, 6, 2), S), "s24": ((4, 4, 12, 4), S), "s36": ((6, 6, 18, 6), S)}
LADDER |= {"m36": ((6, 6, 18, 6), M), "m48": ((8, 8, 24, 8), M)}
FORMERS = {"s18": ((3, 3, 9, 3), S), "s36": ((3, 12, 18, 3), S)}
FORMERS |= {"m36": ((3, 12, 18, 3), (96, 192, 384, 576)), "b36": ((3, 12, 18, 3), (128, 256, 512, 768))}
# multiply-adds of convolutions and matrix products at 224 pixels, in units of 1e9
MACS = {
    "poolformer": dict(zip(LADDER, (1.8123, 3.3922, 4.9722, 8.7588, 11.5333), strict=True)),
    "identityformer": dict(zip(LADDER, (1.8123, 3.3922, 4.9722, 8.7588, 11.5333), strict=True)),
    "poolformerv2": dict(zip(LADDER, (1.8123, 3.3922, 4.9722, 8.7588, 11.5333), strict=True)),
    "randformer": dict(zip(LADDER, (1.8885, 3.5446, 5.2008, 9.0354, 11.9021), strict=True)),
    "convformer": dict(zip(FORMERS, (3.9410, 7.6397, 12.8423, 22.6294), strict=True)),
    "caformer": dict(zip(FORMERS, (4.1069, 7.9716, 13.2406, 23.1605), strict=True)),
}
NAMES = [(family, size) for family, sizes in MACS.items() for size in sizes]


def _meta(name, **options):
    with torch.device("meta"):
        return create_model(name, **options)


def _count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "name",
    ["poolformer_s12", "identityformer_s12", "randformer_s12", "poolformerv2_s12", "convformer_s18", "caformer_s18"],
)
def test_logits_of_the_original(name):
    golden = fill.load(name)
    model = create_model(name).eval()
    model.load_state_dict(golden["state_dict"], strict=True)
    assert _count(model) == golden["parameters"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == golden["trainable"]
    for x, want in zip(golden["inputs"], golden["outputs"], strict=True):
        with torch.no_grad():
            got = model(x)
        assert (got - want).abs().max() < 1e-4 * want.std()


@pytest.mark.parametrize(("family", "size"), NAMES)
def test_published_size(family, size):
    """The closed form of the parameter count."""
    depths, C = (FORMERS if family in ("convformer", "caformer") else LADDER)[size]
    between = sum(9 * a * b + b for a, b in pairwise(C))
    if family == "poolformer":
        blocks = sum(n * (8 * c * c + 11 * c) for n, c in zip(depths, C, strict=True))
        want = 148 * C[0] + between + blocks + 2 * C[3] + 1001 * C[3] - C[3] + 1000
    else:
        convolution = [4 * c * c + 98 * c + 2 for c in C]
        mixer = {
            "convformer": convolution,
            "caformer": convolution[:2] + [4 * c * c for c in C[2:]],
            "randformer": [0, 0, 196**2, 49**2],
        }.get(family, [0] * 4)
        scales = [0, 0, 2 * C[2], 2 * C[3]]
        blocks = sum(depths[i] * (8 * C[i] ** 2 + 2 * C[i] + 2 + scales[i] + mixer[i]) for i in range(4))
        hidden = 4 * C[3] if family in ("convformer", "caformer") else 0
        head = hidden * (C[3] + 3 + 1000) + 1000 if hidden else 1000 * C[3] + 1000
        want = 149 * C[0] + sum(C[:3]) + between + blocks + 2 * C[3] + head
    assert _count(_meta(f"{family}_{size}")) == want


# counting takes a second for the large ones
@pytest.mark.parametrize(
    ("family", "size"), [pytest.param(f, s, marks=[] if s in ("s12", "s18") else pytest.mark.slow) for f, s in NAMES]
)
def test_published_multiply_adds(family, size):
    model = _meta(f"{family}_{size}")
    with torch.device("meta"), FlopCounterMode(display=False) as flops:
        model(torch.empty(1, 3, 224, 224))
    assert round(flops.get_total_flops() / 2e9, 4) == MACS[family][size]


@pytest.mark.parametrize("size", FORMERS)
@pytest.mark.parametrize("family", ["convformer", "caformer"])
def test_the_other_published_weights(family, size):
    name = f"{family}_{size}"
    counts = {n.removeprefix(name): model_facts(n).parameters for n in list_models(f"{name}*")}
    plain = counts[""]
    more = plain + 20_841 * (4 * FORMERS[size][1][3] + 1)
    assert counts == {"": plain, "_384": plain, "_in21k": more, "_in21ft1k": plain, "_384_in21ft1k": plain}
    assert name != "caformer_s18" or more == 69_044_865
    assert model_facts(f"{name}_384").default_cfg["input_size"] == (3, 384, 384)
    large = _meta(f"{name}_in21k")
    assert large.num_classes == 21_841 and _count(large) == more


@pytest.mark.parametrize(
    ("name", "count", "indices", "own"),
    [
        ("metaformer_id_s12", 11_915_176, [0, 2, 4, 6], {}),
        ("metaformer_pppf_s12_224", 11_919_978, [0, 2, 4, 6], {"network.6.1.token_mixer.fc.weight": (49, 49)}),
        ("metaformer_ppff_s12_224", 12_150_474, [0, 2, 4, 6], {"network.4.5.token_mixer.fc.weight": (196, 196)}),
        ("metaformer_pppa_s12_224", 14_038_440, [0, 2, 4, 7], {"network.6.pos_embed": (1, 512, 7, 7)}),
        (
            "metaformer_ppaa_s12_224",
            16_535_592,
            [0, 2, 5, 7],
            {
                "network.4.pos_embed": (1, 320, 14, 14),
                "network.6.proj.weight": (512, 320, 3, 3),
                "network.7.1.token_mixer.qkv.weight": (1536, 512),
                "network.7.1.token_mixer.proj.bias": (512,),
            },
        ),
    ],
)
def test_hybrids_of_poolformer(name, count, indices, own):
    model = _meta(name)
    assert _count(model) == count
    shapes = {key: tuple(t.shape) for key, t in model.state_dict().items()}
    assert own.items() <= shapes.items()
    assert model.feature_info.module_name() == [f"network.{i}" for i in indices]
    assert ("network.0.0.norm1.weight" in shapes) and isinstance(model.norm, nn.LayerNorm) == ("a_s12" in name)
    x = torch.empty(2, 3, 224, 224, device="meta")
    assert model(x).shape == (2, 1000)
    if name != "metaformer_id_s12":
        with pytest.raises(ValueError, match="was built for"):
            model(x[..., :192])
        assert _meta(name, img_size=192)(x[..., :192, :192]).shape == (2, 1000)


def _tiny(cls=MetaFormer, **options):
    """All parameters off their initial values."""
    model = cls(**{"depths": (1, 2), "dims": (8, 16), "mixers": [Pool2d] * 2, "num_classes": 5, **options}).eval()
    for p in model.parameters():
        nn.init.normal_(p, 0.3, 0.4)
    return model


def test_relation_of_the_two_head_orders():
    """Pooling before or after the joint norm: the same direction, shrunk by a ratio of deviations."""
    x = torch.randn(2, 3, 64, 96)
    paper, timm = _tiny(PoolFormer, num_classes=0), _tiny(PoolFormer, num_classes=0, head_order="pool_norm")
    timm.load_state_dict(paper.state_dict())
    F_ = paper.forward_features(x)
    assert torch.equal(F_, timm.forward_features(x))
    z = F_.mean((2, 3))
    ratio = ((z.var(1, correction=0) + 1e-6) / (F_.var((1, 2, 3), correction=0) + 1e-5)).sqrt()
    beta = paper.norm.bias
    assert (ratio < 1).all()
    torch.testing.assert_close(paper(x) - beta, ratio[:, None] * (timm(x) - beta), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(33, 32), (75, 90), (63, 129)])
def test_poolformer_by_its_formulas(size):
    """Odd sizes too, channels first and in the words of the paper, of one block and the head."""
    model = _tiny(PoolFormer, depths=(1,), dims=(8,), mixers=[Pool2d])
    x = torch.randn(2, 3, *size)
    weights = dict(model.named_parameters())
    block = {n.removeprefix("network.0.0."): p for n, p in weights.items() if n.startswith("network.0.0.")}

    def norm(x, name, source):
        mean, var = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), correction=0, keepdim=True)
        gain, bias = (source[f"{name}.{n}"][:, None, None] for n in ("weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * gain + bias

    y = F.conv2d(x, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=4, padding=2)
    u = norm(y, "norm1", block)
    u = F.avg_pool2d(u, 3, 1, 1, count_include_pad=False) - u
    y = y + block["layer_scale_1"][:, None, None] * u
    u = F.gelu(F.conv2d(norm(y, "norm2", block), block["mlp.fc1.weight"], block["mlp.fc1.bias"]))
    y = y + block["layer_scale_2"][:, None, None] * F.conv2d(u, block["mlp.fc2.weight"], block["mlp.fc2.bias"])
    want = F.linear(norm(y, "norm", weights).mean((2, 3)), weights["head.weight"], weights["head.bias"])
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-4)


def test_scales_of_zero_switch_branches_off():
    x = torch.randn(2, 5, 6, 8)
    block = PoolFormerBlock(8, mixer=Pool2d, layer_scale=0.0)
    assert torch.equal(block(x), x)
    scaled = MetaFormerBlock(8, mixer=Pool2d, res_scale=0.0)
    plain = MetaFormerBlock(8, mixer=Pool2d)
    assert hasattr(scaled.res_scale1, "scale") and not list(plain.res_scale1.parameters())
    plain.load_state_dict(scaled.state_dict(), strict=False)
    # the scale is on the skip: without it only the last branch is left, of the first branch alone
    u = plain.token_mixer(plain.norm1(x))
    torch.testing.assert_close(scaled(x), plain.mlp(plain.norm2(u)))


def test_feature_norms():
    """Each map through a norm of its own, at first without effect; the head still sees the map without it."""
    plain = _tiny(PoolFormer)
    normed = _tiny(PoolFormer, feature_norms=(0, 1))
    for name in ("norm0", "norm2"):
        nn.init.ones_(normed.get_submodule(name).weight), nn.init.zeros_(normed.get_submodule(name).bias)
    missing, unknown = normed.load_state_dict(plain.state_dict(), strict=False)
    assert sorted(missing) == ["norm0.bias", "norm0.weight", "norm2.bias", "norm2.weight"] and not unknown
    assert all(key.startswith(normed.unpublished) for key in missing)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(normed(x), plain(x))
    for got, raw in zip(normed.features(x), plain.features(x), strict=True):
        torch.testing.assert_close(got, F.group_norm(raw, 1), rtol=1e-4, atol=1e-5)


def test_starrelu():
    x = torch.randn(1_000_000)
    y = StarReLU(scale=0.8944, bias=-0.4472)(x)
    # means of a million draws, whose own deviation is a thousandth
    assert abs(y.mean()) < 4e-3 and abs(y.var() - 1) < 2e-2
    torch.testing.assert_close(StarReLU()(3 * x), 9 * StarReLU()(x))
    assert [p.tolist() for p in StarReLU().parameters()] == [[1.0], [0.0]]


def test_joint_norm_forgets_the_scale_of_an_image():
    x = torch.randn(2, 5, 6, 8)
    norm = JointNorm(8)
    torch.testing.assert_close(norm(7 * x), norm(x), rtol=1e-4, atol=1e-5)
    assert abs(norm(x)[0].mean()) < 1e-6 and abs(norm(x)[0].std() - 1) < 1e-2


def test_initial_weights():
    model = create_model("caformer_s18")
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert all(abs(w.std() - 0.02) < 0.002 for w in weights if w.numel() > 4000)
    assert not any(m.bias.any() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m.bias is not None)
    # the convolutions of PoolFormer keep the default, uniform in +-1/sqrt(fan in), its dense layers do not
    pool = PoolFormer(depths=(1,), dims=(64,), mixers=[Pool2d])
    assert pool.patch_embed.proj.weight.abs().max() <= 1 / math.sqrt(147)
    assert abs(pool.patch_embed.proj.weight.std() - 1 / math.sqrt(3 * 147)) < 0.002
    assert abs(pool.network[0][0].mlp.fc1.weight.std() - 0.02) < 0.002


def test_drop_path():
    assert drop_path_rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3]) and drop_path_rates(0.3, 1) == [0.0]
    for cls in (MetaFormer, PoolFormer):
        model = _tiny(cls, drop_path_rate=0.4)
        rates = [m.drop_path.p for m in model.modules() if isinstance(m, MetaFormerBlock | PoolFormerBlock)]
        assert rates == pytest.approx([0.0, 0.2, 0.4])
        x = torch.randn(4, 3, 32, 32)
        assert not torch.equal(model.train()(x), model(x)) and torch.equal(model.eval()(x), model(x))


def test_errors():
    for options, message in (
        ({"dims": (8,)}, "2 depths, 1 dims for the stages; give one of each per stage"),
        ({"norm": "batch"}, "norm = 'batch' is not known; use one of layer, joint"),
        ({"global_pool": "mean"}, "global_pool = 'mean' is not known; use one of avg, max, avgmax, "),
        ({"num_classes": -1}, "num_classes = -1 is negative; use 0 for a model without a classifier"),
    ):
        with pytest.raises(ConfigError, match=message):
            _tiny(**options)
    with pytest.raises(ConfigError, match="head_order = 'timm' is not known"):
        _tiny(PoolFormer, head_order="timm")
    with pytest.raises(ValueError, match="a grid of 16 x 14, Rand2d was built for 14 x 14"):
        _meta("randformer_s12")(torch.empty(1, 3, 256, 224, device="meta"))
    assert _meta("randformer_s12", img_size=256)(torch.empty(1, 3, 256, 256, device="meta")).shape == (1, 1000)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 13, 15), (2, 14, 14), (1, 7, 40), (200,)])
def test_pointwise_is_linear_on_every_grid(shape, bias):
    """As a convolution, from 14 x 14 cells on, and as a product below: the same map, and the same gradients."""
    layer = Pointwise(5, 3, bias=bias).double()
    x = torch.randn(*shape, 5, dtype=torch.float64, requires_grad=True)
    parameters = (x, *layer.parameters())
    results = [layer(x), F.linear(x, layer.weight, layer.bias)]
    torch.testing.assert_close(*results)
    got, want = (torch.autograd.grad(y.square().sum(), parameters) for y in results)
    torch.testing.assert_close(got, want)
