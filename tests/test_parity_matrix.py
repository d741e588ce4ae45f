"""The matrix-mixer block and JustDense's drop-in against outputs and gradients of the original code."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from seqmix.mixers import Dense
from seqmix.mixers.matrix import MatrixMixer
from seqmix.mixers.pairwise import Cauchy, LowRank, Softmax, Unstructured
from seqmix.mixers.quasiseparable import Quasiseparable
from seqmix.mixers.toeplitz import DFT, Toeplitz, Vandermonde

GOLDENS = torch.load(Path(__file__).parent / "goldens/hydra_family.pt", weights_only=True)
# (name in the release, data-dependent) -> the class that is the same; DFT is what it runs as free Vandermonde
RELEASE = {
    ("dense", False): Unstructured,
    ("toeplitz", False): partial(Toeplitz, compat="hydra-release"),
    ("toeplitz", True): partial(Toeplitz, compat="hydra-release"),
    ("vandermonde", False): partial(DFT, compat="hydra-release"),
    ("vandermonde", True): Vandermonde,
    ("cauchy", False): Cauchy,
    ("cauchy", True): Cauchy,
    ("low_rank", False): LowRank,
    ("low_rank", True): LowRank,
    ("attention", True): Softmax,
    ("quasiseparable", False): Quasiseparable,
    ("quasiseparable", True): Quasiseparable,
}


def _block(cfg):
    matrix = RELEASE[cfg["matrix_mixer_type"], cfg["is_data_dependent"]]
    return MatrixMixer(
        cfg["d_model"],
        cfg["max_seq_len"],
        matrix=matrix,
        data_dependent=cfg["is_data_dependent"],
        qk_dim=cfg["qk_dim"],
        headdim=cfg["headdim"],
    )


@pytest.mark.parametrize("name", [name for name, case in GOLDENS.items() if case["kind"] == "matrix_mixer"])
def test_block(name):
    case = GOLDENS[name]
    mixer = _block(case["cfg"]).double()
    mixer.load_state_dict(case["state_dict"], strict=True)
    x = case["x"].double().requires_grad_()
    y = mixer(x)
    y.backward(case["dy"].double())
    # the original transforms Toeplitz in float32
    forward, backward = (1e-6, 1e-6) if "toeplitz" in name else (1e-10, 1e-9)
    torch.testing.assert_close(y, case["y"], rtol=forward, atol=forward)
    grads = {"dx": x.grad} | {n: p.grad for n, p in mixer.named_parameters()}
    assert grads.keys() == case["grads"].keys()
    for parameter, grad in grads.items():
        torch.testing.assert_close(grad, case["grads"][parameter].double(), rtol=backward, atol=backward)


def test_toeplitz_default_is_not_the_release():
    case = GOLDENS["mm_toeplitz_dd"]
    cfg = case["cfg"]
    mixer = MatrixMixer(cfg["d_model"], cfg["max_seq_len"], matrix=Toeplitz, headdim=cfg["headdim"]).double()
    mixer.load_state_dict(case["state_dict"], strict=True)
    assert (mixer(case["x"].double()) - case["y"]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "cls", "names"),
    [
        ("fixed_attention_di", Softmax, ("q_matrix", "k_matrix")),
        ("fixed_vandermonde_di", Vandermonde, ("q_bias", "k_bias")),
    ],
)
def test_corrected_formulas(name, cls, names):
    case = GOLDENS[name]
    mixer = cls(8, 12, headdim=2, data_dependent=False, qk_dim=3).double()
    mixer.load_state_dict({names[0]: case["q"], names[1]: case["k"]}, strict=True)
    torch.testing.assert_close(mixer(case["x"]), case["y"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("key", RELEASE, ids=lambda key: f"{key[0]}-{'dd' if key[1] else 'di'}")
def test_parameter_names(key):
    D, E, H, d, L = 16, 32, 4, 3, 12
    cfg = {"matrix_mixer_type": key[0], "is_data_dependent": key[1], "d_model": D, "qk_dim": d, "max_seq_len": L}
    shapes = {n: tuple(t.shape) for n, t in _block({**cfg, "headdim": 8}).state_dict().items()}
    pairs = 2 * H * d if key[1] and key[0] != "toeplitz" else 2 * H * key[1]
    steps = 2 * H if key == ("quasiseparable", True) else 0
    own = {
        ("dense", False): {"M": (H, L, L)},
        ("toeplitz", False): {"conv_params": (H, 2 * L - 1)},
        ("vandermonde", False): {"dft_matrix": (L, L)},
        ("cauchy", False): {"q_matrix": (L, H, d), "k_matrix": (L, H, d)},
        ("cauchy", True): {"bias": ()},
        ("low_rank", False): {"q_matrix": (L, H, d), "k_matrix": (L, H, d)},
        ("quasiseparable", False): {"BC": (L, 2 * H * d)},
    }.get(key, {})
    if key[0] == "quasiseparable":
        own |= {"dt_bias": (H,), "A_log": (H,), "D": (H,), "fc_D.weight": (H, E)}
    assert shapes == {f"matrix_mixer.{n}": s for n, s in own.items()} | {
        "in_proj.weight": (2 * E + pairs + steps, D),
        "conv1d.weight": (E + pairs, 1, 7),
        "conv1d.bias": (E + pairs,),
        "norm.weight": (E,),
        "out_proj.weight": (D, E),
    }


# sec. 3.9 of the ablation at length 128: size of one layer
@pytest.mark.parametrize(
    ("kind", "data_dependent", "d_model", "qk_dim", "headdim", "size"),
    [
        ("dense", False, 768, 16, 128, 3_749_376),
        ("toeplitz", False, 800, 16, 64, 3_860_775),
        ("toeplitz", True, 800, 16, 64, 3_894_800),
        ("vandermonde", False, 800, 64, 64, 3_854_400),
        ("vandermonde", True, 768, 16, 128, 3_850_752),
        ("cauchy", False, 768, 64, 64, 3_945_984),
        ("cauchy", True, 768, 16, 128, 3_850_753),
        ("low_rank", False, 768, 64, 64, 3_945_984),
        ("low_rank", True, 768, 16, 128, 3_850_752),
        ("attention", True, 768, 16, 128, 3_850_752),
        ("quasiseparable", False, 768, 64, 64, 3_982_920),
        ("quasiseparable", True, 768, 16, 128, 3_887_652),
    ],
)
def test_published_sizes(kind, data_dependent, d_model, qk_dim, headdim, size):
    cfg = {"matrix_mixer_type": kind, "is_data_dependent": data_dependent, "max_seq_len": 128}
    with torch.device("meta"):
        mixer = _block({**cfg, "d_model": d_model, "qk_dim": qk_dim, "headdim": headdim})
    assert sum(p.numel() for p in mixer.parameters()) == size


def test_justdense_attention_drop_in():
    case = GOLDENS["jd_attn_dense"]
    mixer = Dense(16, 12, n_heads=8, residual=True).double()
    mixer.load_state_dict({"weight": case["state_dict"]["matrix_mixer.M"]}, strict=True)
    x = case["x"].double().requires_grad_()
    y = mixer(x)
    y.backward(case["dy"].double())
    torch.testing.assert_close(y, case["y"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(x.grad, case["grads"]["dx"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mixer.weight.grad, case["grads"]["matrix_mixer.M"], rtol=1e-9, atol=1e-9)
    # what the original counts as parameters besides never had a gradient
    assert {n for n, g in case["grads"].items() if g is None} == {
        "in_proj.weight",
        "norm.weight",
        "norm.bias",
        "out_proj.weight",
    }


def test_justdense_mamba_drop_in():
    """Without gate and norm: convolution, SiLU, dense, projection, written out with the weights of the ablation."""
    E, H, L = 32, 4, 12
    case = GOLDENS["mm_dense_di"]
    state = {n: t.double() for n, t in case["state_dict"].items()}
    x = case["x"].double()
    u = F.linear(x, state["in_proj.weight"][E:]).transpose(1, 2)
    v = F.silu(F.conv1d(u, state["conv1d.weight"], state["conv1d.bias"], padding=3, groups=E)).transpose(1, 2)
    mixed = torch.einsum("hij,bjhp->bihp", state["matrix_mixer.M"], v.unflatten(-1, (H, -1))).flatten(2)
    want = F.linear(v + mixed / L**0.5, state["out_proj.weight"])

    mixer = MatrixMixer(16, L, matrix=Unstructured, data_dependent=False, headdim=8, gated=False).double()
    del state["norm.weight"]
    mixer.load_state_dict(state | {"in_proj.weight": state["in_proj.weight"][E:]}, strict=True)
    torch.testing.assert_close(mixer(x), want, rtol=1e-12, atol=1e-12)
