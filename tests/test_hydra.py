"""Hydra and Mamba2: the layers written out, their symmetries, packed sequences, initial values, errors."""

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
    {"d_ssm": 16, "D_has_hdim": True, "learnable_init_states": True, "ngroups": 2},
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


def assert_same_map(m, u, want):
    """Output of ``m`` for u and gradients of all it has against the output written out."""
    y, inputs = m(u), [u, *m.parameters()]
    assert_close_ratio("output", y, want, 1e-12)
    g = torch.randn_like(want)
    names = ["the input", *(name for name, _ in m.named_parameters())]
    pairs = zip(*(torch.autograd.grad(t, inputs, g, materialize_grads=True) for t in (y, want)), strict=True)
    for name, (got, expected) in zip(names, pairs, strict=True):
        # rates are rounded to float32 on their way, in the original too
        assert_close_ratio(f"gradient of {name}", got, expected, 1e-6 if name == "A_log" else 1e-10)


@pytest.mark.parametrize("L", [1, 2, 11])
@pytest.mark.parametrize("options", HYDRAS)
def test_hydra_written_out(options, L):
    """Section 3 of the paper with the layout of the original code, one entry of the matrix at a time."""
    m = build(Hydra, **options)
    u = torch.randn(1, L, 16, dtype=torch.float64, requires_grad=True)
    E, H, G, N, P = 16 * options.get("expand", 2), m.D.numel(), options.get("ngroups", 1), 4, 4
    z, xbc, dt = m.in_proj(u)[0].split([E, E + 4 * G * N, 2 * H], -1)
    K = m.conv1d.weight.shape[-1]
    xbc = F.silu(F.conv1d(xbc.T, m.conv1d.weight, m.conv1d.bias, padding=K // 2, groups=xbc.shape[1]).T)
    x, *codes = xbc.split([E, G * N, G * N, G * N, G * N], -1)
    Bf, Cf, Bb, Cb = (c.unflatten(-1, (G, N)) for c in codes)
    dt = F.softplus(dt + m.dt_bias.repeat(2)).clamp(*options.get("dt_limit", (0, torch.inf)))
    A, diagonal = -m.A_log.exp(), x @ m.fc_D.weight.T + m.D
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
    assert_same_map(m, u, m.out_proj(y).unsqueeze(0))


@pytest.mark.parametrize("L", [1, 11])
@pytest.mark.parametrize("options", MAMBAS)
def test_mamba2_written_out(options, L):
    m = build(Mamba2, **options)
    u = torch.randn(1, L, 16, dtype=torch.float64, requires_grad=True)
    H, G, N, P = m.A_log.numel(), options.get("ngroups", 1), 4, 4
    E, beside = H * P, 16 * options.get("expand", 2) - H * P
    gate, value, z, xbc, dt = m.in_proj(u)[0].split([beside, beside, E, E + 2 * G * N, H], -1)
    K = m.conv1d.weight.shape[-1]
    xbc = F.silu(F.conv1d(xbc.T, m.conv1d.weight, m.conv1d.bias, padding=K - 1, groups=xbc.shape[1]).T[:L])
    x, B, C = xbc.split([E, G * N, G * N], -1)
    dt = F.softplus(dt + m.dt_bias).clamp(*options.get("dt_limit", (0, torch.inf)))
    A, ys, skip = -m.A_log.exp(), [], m.D.view(H, -1).expand(H, P)
    for h in range(H):
        own = slice(h * G // H * N, (h * G // H + 1) * N)
        S, xh = torch.zeros(P, N, dtype=torch.float64), x[:, h * P : (h + 1) * P]
        S = m.init_states[h] if "learnable_init_states" in options else S
        y = []
        for t in range(L):
            S = (A[h] * dt[t, h]).exp() * S + dt[t, h] * torch.outer(xh[t], B[t, own])
            y.append(S @ C[t, own] + skip[h] * xh[t])
        ys.append(torch.stack(y))
        if "D_has_hdim" not in options:
            assert_close_ratio("matrix", m.matrix(u)[0, h] @ xh, ys[-1], 1e-12)
    y, open_ = torch.cat(ys, -1), F.silu(z)
    if options.get("rmsnorm", True):
        before = options.get("norm_before_gate", False)
        y = (y if before else y * open_).unflatten(-1, (G, -1))
        y = norm(y, m.norm.weight.unflatten(-1, (G, -1))).flatten(-2) * (open_ if before else 1)
    else:
        y = y * open_
    assert_same_map(m, u, m.out_proj(torch.cat([F.silu(gate) * value, y], -1)).unsqueeze(0))


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


def test_a_skip_for_each_channel_has_a_matrix_for_each_channel():
    m, x = build(Mamba2, D_has_hdim=True), torch.randn(2, 7, 16, dtype=torch.float64)
    shared = build(Mamba2)
    shared.load_state_dict({**m.state_dict(), "D": torch.zeros(8)})
    want = shared.matrix(x).repeat_interleave(4, 1) + torch.diag_embed(m.D.unsqueeze(1).expand(-1, 7))
    assert_close_ratio("matrix", m.matrix(x), want, 1e-12)


@pytest.mark.parametrize("cls", [Hydra, Mamba2])
def test_chunks_change_nothing(cls):
    whole, x = build(cls), torch.randn(2, 19, 16, dtype=torch.float64)
    for chunk_size in (1, 4, 16, 19, 50):
        mixer = build(cls, chunk_size=chunk_size)
        mixer.load_state_dict(whole.state_dict())
        assert_close_ratio(f"chunks of {chunk_size}", mixer(x), whole(x), 1e-12)


def test_the_diagonal_of_hydra_is_its_own():
    m, x = build(Hydra), torch.randn(2, 9, 16, dtype=torch.float64)
    with torch.no_grad():
        m.D.zero_()
        m.fc_D.weight.zero_()
    M = m.matrix(x)
    assert not M.diagonal(dim1=-2, dim2=-1).any()
    # and every other entry is there
    assert (M != 0).sum() == M.numel() - 2 * 8 * 9


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
    if cls is Mamba2:
        for d_ssm in (6, 36):
            with pytest.raises(ValueError, match=f"d_ssm = {d_ssm} is not a multiple of headdim = 4 up to 32; use d_s"):
                cls(16, headdim=4, d_ssm=d_ssm)
    if cls is Hydra:
        with pytest.raises(ValueError, match="d_conv = 4 is even and has no center; use 3 or 5"):
            cls(16, headdim=4, d_conv=4)
