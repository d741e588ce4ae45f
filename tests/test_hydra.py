"""Hydra and Mamba2: the layers written out, their symmetries, packed sequences, sizes, initial values, errors."""

from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from seqmix.mixers.hydra import Hydra
from seqmix.mixers.mamba2 import Mamba2
from seqmix.testing import assert_close_ratio

SMALL = {"d_state": 4, "headdim": 4}
HYDRAS = [
    {},
    {"d_conv": 5, "ngroups": 2, "bias": True, "conv_bias": False, "chunk_size": 4},
    {"learnable_init_states": True, "dt_limit": (0.3, 0.6), "ngroups": 4, "expand": 3, "conv_init": 0.5},
]
MAMBAS = [
    {},
    {"d_conv": 2, "ngroups": 2, "bias": True, "conv_bias": False, "chunk_size": 4, "norm_before_gate": True},
    {"rmsnorm": False, "dt_limit": (0.3, 0.6), "ngroups": 4, "expand": 3, "conv_init": 0.5},
]


def build(cls, **options):
    """A small layer in float64, every parameter moved off its initial value."""
    mixer = cls(16, **SMALL | options).double()
    with torch.no_grad():
        for p in mixer.parameters():
            p.add_(0.3 * torch.randn_like(p))
        # larger steps, so that decays and clamps matter
        mixer.dt_bias.add_(3)
    return mixer


def norm(y, weight):
    return y * (y.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight


@pytest.mark.parametrize("L", [1, 2, 11])
@pytest.mark.parametrize("options", HYDRAS)
def test_hydra_written_out(options, L):
    """Section 3 of the paper with the layout of the original code, one entry of the matrix at a time."""
    m = build(Hydra, **options)
    u = torch.randn(1, L, 16, dtype=torch.float64)
    E, H, G, N, P = 16 * options.get("expand", 2), m.D.numel(), options.get("ngroups", 1), 4, 4
    z, xbc, dt = m.in_proj(u)[0].split([E, E + 4 * G * N, 2 * H], -1)
    K = m.conv1d.weight.shape[-1]
    xbc = F.silu(F.conv1d(xbc.T, m.conv1d.weight, m.conv1d.bias, padding=K // 2, groups=xbc.shape[1]).T)
    x, *codes = xbc.split([E, G * N, G * N, G * N, G * N], -1)
    Bf, Cf, Bb, Cb = (c.unflatten(-1, (G, N)) for c in codes)
    dt = F.softplus(dt + m.dt_bias.repeat(2)).clamp(*options.get("dt_limit", (0, torch.inf)))
    A, diagonal = -m.A_log.float().exp(), x @ m.fc_D.weight.T + m.D
    rows = []
    for h in range(H):
        g = h * G // H
        xh, M = x[:, h * P : (h + 1) * P], torch.zeros(L, L, dtype=torch.float64)
        y = torch.zeros(L, P, dtype=torch.float64)
        for i in range(L):
            M[i, i] = diagonal[i, h]
            log_decay = torch.zeros((), dtype=torch.float64)
            for j in range(i - 1, -1, -1):
                M[i, j] = log_decay.exp() * dt[j, h] * (Cf[i - 1, g] @ Bf[j, g])
                log_decay = log_decay + A[h] * dt[j, h]
            if i and "learnable_init_states" in options:
                y[i] += log_decay.exp() * m.init_states[h] @ Cf[i - 1, g]
            log_decay = torch.zeros((), dtype=torch.float64)
            for j in range(i + 1, L):
                M[i, j] = log_decay.exp() * dt[j, H + h] * (Cb[i + 1, g] @ Bb[j, g])
                log_decay = log_decay + A[h] * dt[j, H + h]
            if i < L - 1 and "learnable_init_states" in options:
                y[i] += log_decay.exp() * m.init_states[h] @ Cb[i + 1, g]
        assert_close_ratio("matrix", m.matrix(u)[0, h], M, 1e-12)
        rows.append(y + M @ xh)
    y = norm(torch.cat(rows, -1), m.norm.weight) * F.silu(z)
    assert_close_ratio("output", m(u)[0], m.out_proj(y), 1e-12)


@pytest.mark.parametrize("L", [1, 11])
@pytest.mark.parametrize("options", MAMBAS)
def test_mamba2_written_out(options, L):
    m = build(Mamba2, **options)
    u = torch.randn(1, L, 16, dtype=torch.float64)
    E, H, G, N, P = 16 * options.get("expand", 2), m.D.numel(), options.get("ngroups", 1), 4, 4
    z, xbc, dt = m.in_proj(u)[0].split([E, E + 2 * G * N, H], -1)
    K = m.conv1d.weight.shape[-1]
    xbc = F.silu(F.conv1d(xbc.T, m.conv1d.weight, m.conv1d.bias, padding=K - 1, groups=xbc.shape[1]).T[:L])
    x, B, C = xbc.split([E, G * N, G * N], -1)
    dt = F.softplus(dt + m.dt_bias).clamp(*options.get("dt_limit", (0, torch.inf)))
    A, ys = -m.A_log.float().exp(), []
    for h in range(H):
        own = slice(h * G // H * N, (h * G // H + 1) * N)
        S, xh = torch.zeros(P, N, dtype=torch.float64), x[:, h * P : (h + 1) * P]
        y = []
        for t in range(L):
            S = (A[h] * dt[t, h]).exp() * S + dt[t, h] * torch.outer(xh[t], B[t, own])
            y.append(S @ C[t, own] + m.D[h] * xh[t])
        ys.append(torch.stack(y))
        assert_close_ratio("matrix", m.matrix(u)[0, h] @ xh, ys[-1], 1e-12)
    y, gate = torch.cat(ys, -1), F.silu(z)
    if options.get("rmsnorm", True):
        before = options.get("norm_before_gate", False)
        y = (y if before else y * gate).unflatten(-1, (G, -1))
        y = norm(y, m.norm.weight.unflatten(-1, (G, -1))).flatten(-2) * (gate if before else 1)
    else:
        y = y * gate
    assert_close_ratio("output", m(u)[0], m.out_proj(y), 1e-12)


@pytest.mark.parametrize(
    "factory", [*(partial(build, Hydra, **o) for o in HYDRAS), *(partial(build, Mamba2, **o) for o in MAMBAS)]
)
def test_packed_is_one_by_one(factory):
    mixer, bounds = factory(), [0, 1, 4, 23, 25]
    x = torch.randn(1, 25, 16, dtype=torch.float64)
    alone = torch.cat([mixer(x[:, i:j]) for i, j in pairwise(bounds)], 1)
    y = mixer(x, cu_seqlens=torch.tensor(bounds))
    assert_close_ratio("packed", y, alone, 1e-12)
    x[:, 4:23] = torch.nan
    broken = mixer(x, cu_seqlens=torch.tensor(bounds))
    kept = [0, 1, 2, 3, 23, 24]
    assert_close_ratio("beside NaN", broken[:, kept], y[:, kept], 1e-13)
    with pytest.raises(ValueError, match="both cu_seqlens and mask"):
        mixer(x, torch.ones(1, 25, dtype=torch.bool), cu_seqlens=torch.tensor(bounds))


def test_hydra_reversed():
    # the directions exchanged in every parameter, on reversed time
    m, mirror = build(Hydra), build(Hydra)
    state = m.state_dict()
    E, N, H = 32, 4, 8
    channels = torch.cat([torch.arange(E), E + torch.arange(4 * N).view(2, 2 * N).flip(0).flatten()])
    dts = torch.arange(2 * H).view(2, H).flip(0).flatten()
    state["in_proj.weight"] = state["in_proj.weight"][torch.cat([torch.arange(E), E + channels, 2 * E + 4 * N + dts])]
    state["conv1d.weight"] = state["conv1d.weight"][channels].flip(-1)
    state["conv1d.bias"] = state["conv1d.bias"][channels]
    mirror.load_state_dict(state)
    x = torch.randn(2, 19, 16, dtype=torch.float64)
    assert_close_ratio("mirror", mirror(x.flip(1)).flip(1), m(x), 1e-12)


@pytest.mark.parametrize("way", ["ahead", "back", "both"])
def test_hydra_directions_are_apart(way):
    # dt clamped to zero by its bias where a direction is switched off
    m, t, K = build(Hydra), 9, 7
    with torch.no_grad():
        m.in_proj.weight[-16:] = 0
        m.dt_limit = (0.0, torch.inf)
    x = torch.randn(1, 19, 16, dtype=torch.float64)
    other = x.clone()
    other[:, t] += 1
    run = partial(one_way, m, way)
    changed = (run(x) != run(other)).any(-1)[0]
    want = torch.ones(19, dtype=torch.bool)
    if way == "ahead":
        want[: t - K // 2] = False
    if way == "back":
        want[t + K // 2 + 1 :] = False
    assert torch.equal(changed, want)


def one_way(m, way, x):
    """Hydra whose step sizes of the other direction are exactly zero."""
    hook = m.in_proj.register_forward_hook(partial(_switch_off, way))
    y = m(x)
    hook.remove()
    return y


def _switch_off(way, module, args, out):
    # softplus(-inf) is 0
    H = 8
    out = out.clone()
    if way == "ahead":
        out[..., -H:] = -torch.inf
    if way == "back":
        out[..., -2 * H : -H] = -torch.inf
    return out


@pytest.mark.parametrize(
    ("cls", "options", "size"),
    [
        (Hydra, {}, 3_825_224),
        (Hydra, {"bias": True, "learnable_init_states": True}, 3_825_224 + 3_376 + 768 + 24 * 64 * 64),
        (Mamba2, {"d_state": 64}, 3_665_608),
        (Mamba2, {}, 3_764_552),
    ],
)
def test_published_sizes(cls, options, size):
    with torch.device("meta"):
        assert sum(p.numel() for p in cls(768, **options).parameters()) == size


@pytest.mark.parametrize("cls", [Hydra, Mamba2])
def test_initial_values(cls):
    m = cls(1024, headdim=1)
    dt = F.softplus(m.dt_bias)
    assert 1e-3 <= dt.min() < 1.1e-3 and 0.09 < dt.max() <= 0.1
    # log-uniform
    assert abs(dt.log().mean() - (torch.tensor([1e-3, 0.1]).log().mean())) < 0.1
    assert torch.equal(m.D, torch.ones(2048)) and torch.equal(m.norm.weight, torch.ones(2048))
    if cls is Hydra:
        assert torch.equal(m.A_log, torch.zeros(2048))
    else:
        A = m.A_log.exp()
        assert 1 <= A.min() < 1.1 and 15.9 < A.max() <= 16.0001 and abs(A.mean() - 8.5) < 0.3
    assert cls(8, headdim=4, dt_min=1e-6, dt_max=1e-5, dt_init_floor=0.01).dt_bias.exp().sub(0.01005).abs().max() < 1e-5
    assert Hydra(8, headdim=4, conv_init=0.01).conv1d.weight.abs().max() <= 0.01


@pytest.mark.parametrize("cls", [Hydra, Mamba2])
def test_trains_in_bfloat16(cls):
    m = cls(16, **SMALL)
    x = torch.randn(2, 70, 16)
    want = m(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = m(x)
    y.float().square().mean().backward()
    assert_close_ratio("autocast", y.float(), want, 2e-2)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in m.parameters())


@pytest.mark.parametrize("cls", [Hydra, Mamba2])
def test_errors(cls):
    with pytest.raises(ValueError, match=r"expand \* d_model = 32 is not a multiple of headdim = 64; use a headdim"):
        cls(16)
    with pytest.raises(ValueError, match="ngroups = 3 does not divide the 8 heads; use ngroups=1"):
        cls(16, headdim=4, ngroups=3)
    if cls is Hydra:
        with pytest.raises(ValueError, match="d_conv = 4 is even and has no centre; use 3 or 5"):
            cls(16, headdim=4, d_conv=4)
