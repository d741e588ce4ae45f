"""The matrix-mixer block and JustDense's drop-in against outputs and gradients of the original code."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from seqmix.mixers import DFT, Cauchy, Dense, LowRank, Softmax, Toeplitz, Unstructured, Vandermonde
from seqmix.mixers.matrix import MatrixMixer
from seqmix.mixers.quasiseparable import Quasiseparable

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
        # the release writes -1 where there are no queries and keys
        qk_dim=max(cfg["qk_dim"], 1),
        headdim=cfg["headdim"],
    )


@pytest.mark.usefixtures("original_rates")
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


def _entries(kind, made, mixer, v, codes, dt, H, d, size):
    """M for one sequence, ``(H, L, L)``, by the formulas of the release; identity and scale are added by the caller."""
    L, i = len(v), torch.arange(len(v))
    if kind == "dense":
        return mixer.M
    if kind == "toeplitz":
        f, r = codes.split(H, -1) if made else (None, None)
        taps = torch.cat([r[1:].flip(0), f]).T if made else mixer.conv_params  # (H, 2 size - 1), from lag 1 - size on
        # the first outputs of a circular convolution with size - 1 zeros before the values
        return taps[:, (i[:, None] - i - (size - 1)) % (2 * size - 1)]
    if kind == "vandermonde" and not made:
        return mixer.dft_matrix.expand(H, L, L)
    if kind == "quasiseparable":
        B, C = (codes if made else mixer.BC).split(H * d, -1)
        dt = F.softplus((dt if made else torch.zeros(L, 2 * H)) + mixer.dt_bias.repeat(2)).view(L, 2, H)
        a, M = -mixer.A_log.exp() * dt, torch.zeros(H, L, L, dtype=v.dtype)
        for row in range(L):
            for col in range(L):
                way, step = (0, 1) if col < row else (1, -1)
                if row != col:
                    between = a[min(row, col) + 1 : max(row, col), way].sum(0)
                    M[:, row, col] = between.exp() * dt[col, way] * (C[row - step] @ B[col])
        return M + torch.diag_embed((v @ mixer.fc_D.weight.T + mixer.D).T)
    pair = codes.unflatten(-1, (2, H, d)).unbind(1) if made else (mixer.q_matrix, mixer.k_matrix)
    q, k = (t.transpose(0, 1) for t in pair)  # (H, L, d)
    if kind == "vandermonde":
        turn = 2 * torch.pi * 1e-3
        rows = (turn * q.unsqueeze(-1) * i).cos().sum(2)  # (H, L, L)
        return rows - (turn * k.unsqueeze(-1) * i).cos().sum(2).mT
    if kind == "cauchy":
        c = mixer.bias if made else 0
        return (1 / (q.exp().unsqueeze(2) + c + k.exp().unsqueeze(1) + c + 1e-8)).sum(-1)
    scores = q @ k.mT
    return (scores / d**0.5).softmax(-1) if kind == "attention" else scores


@pytest.mark.parametrize("options", [{}, {"d_conv": 3, "expand": 3, "bias": True}, {"conv_bias": False, "d_conv": 1}])
@pytest.mark.parametrize("key", RELEASE, ids=lambda key: f"{key[0]}-{'dd' if key[1] else 'di'}")
def test_block_written_out(key, options):
    """Every class of the release with every option of the block, values and gradients; few of them are recorded."""
    (kind, made), D, d, P, size = key, 4, 3, 2, 6
    E = D * options.get("expand", 2)
    H, K = E // P, options.get("d_conv", 7)
    block = MatrixMixer(D, size, matrix=RELEASE[key], data_dependent=made, qk_dim=d, headdim=P, **options).double()
    mixer = block.matrix_mixer
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = torch.randn(2, size, D, dtype=torch.float64, requires_grad=True)
    scale = {
        "dense": size**-0.5,
        "toeplitz": 0.5 * size**-0.5,
        "attention": 1,
        "vandermonde": (2 * size * d) ** -0.5 if made else size**-0.5,
    }.get(kind, (size * d) ** -0.5)
    rows = []
    for u in x:
        wide = block.in_proj(u)
        dt = wide[:, len(block.conv1d.weight) + E :]
        w = wide[:, E : E + len(block.conv1d.weight)]
        w = F.conv1d(w.T, block.conv1d.weight, block.conv1d.bias, padding=K // 2, groups=w.shape[1]).T
        v, codes = F.silu(w[:, :E]), w[:, E:]
        codes = codes if kind in ("vandermonde", "cauchy", "attention") else F.silu(codes)
        M = _entries(kind, made, mixer, v, codes, dt, H, d, size)
        M = M if kind == "quasiseparable" else torch.eye(size) + scale * M
        y = torch.einsum("hij,jhp->ihp", M, v.unflatten(-1, (H, P))).flatten(1)
        y = y * (y.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * block.norm.weight * F.silu(wide[:, :E])
        rows.append(block.out_proj(y))
    want, y = torch.stack(rows), block(x)
    torch.testing.assert_close(y, want, rtol=1e-11, atol=1e-11)
    g, inputs = torch.randn_like(y), [x, *block.parameters()]
    for got, grad in zip(*(torch.autograd.grad(t, inputs, g) for t in (y, want)), strict=True):
        torch.testing.assert_close(got, grad, rtol=1e-9, atol=1e-11)


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
