"""What is specific to one mixer: algebra, formulas by hand, errors."""

from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from seqmix.mixers import (
    EMA,
    LRU,
    RWKV7,
    S4D,
    S5,
    SLSTM,
    Attention,
    Dense,
    DenseMLP,
    FNet,
    FourierFilter,
    Hyena,
    LongVQ,
    Mamba,
    Mamba2,
    Pool,
    SelectiveChannel,
    SelectiveToken,
    SepConv,
    spared_parameters,
)
from seqmix.models import Block
from seqmix.testing import assert_close_ratio


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def perturbed(mixer):
    """In float64, with every parameter off its initial value."""
    mixer = mixer.double()
    with torch.no_grad():
        for p in mixer.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return mixer


def size(mixer):
    return sum(p.numel() for p in mixer.parameters())


def test_pool_by_hand():
    x = torch.tensor([9.0, 1.0, 2.0, 4.0, 8.0, 9.0]).view(1, 6, 1)
    mask = torch.tensor([[False, True, True, True, True, False]])
    want = torch.tensor([0.0, 1.5 - 1, 7 / 3 - 2, 14 / 3 - 4, 6 - 8, 0.0])
    torch.testing.assert_close(Pool(1)(x, mask).flatten(), want)
    torch.testing.assert_close(Pool(1)(x[:, 1:5]).flatten(), want[1:5])


def test_pool_of_a_constant_is_zero():
    assert not Pool(3, pool_size=5)(torch.full((2, 7, 3), 2.0)).any()


@pytest.mark.parametrize("kernel_size", [1, 7])
def test_sepconv_formula(kernel_size):
    mixer = perturbed(SepConv(4, expand=3, kernel_size=kernel_size))
    x = normal(2, 9, 4)
    u = x @ mixer.pwconv1.weight.T
    u = mixer.scale * u.clamp(min=0) ** 2 + mixer.bias
    u = F.conv1d(u.mT, mixer.dwconv.weight, padding=kernel_size // 2, groups=12).mT
    assert_close_ratio("SepConv", mixer(x), u @ mixer.pwconv2.weight.T, 1e-12)
    assert size(mixer) == 2 * 4 * 12 + 12 * kernel_size + 2


def test_star_relu_starts_standardized():
    mixer = SepConv(1)
    y = mixer.scale * torch.randn(200_000).relu().square() + mixer.bias
    # three standard errors of mean and variance at this sample size
    assert abs(y.mean()) < 0.01 and abs(y.var() - 1) < 0.06


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_torch(causal):
    mixer = perturbed(Attention(12, n_heads=3, causal=causal, qkv_bias=True, bias=True))
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    keys = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    theirs.load_state_dict(dict(zip(keys, mixer.state_dict().values(), strict=True)))
    x = normal(2, 7, 12)
    later = torch.ones(7, 7, dtype=torch.bool).triu(1) if causal else None
    want, weights = theirs(x, x, x, attn_mask=later, average_attn_weights=False)
    assert_close_ratio("output", mixer(x), want, 1e-12)
    assert_close_ratio("weights", mixer.matrix(x), weights, 1e-12)


def test_rotary_formula():
    mixer = perturbed(Attention(8, n_heads=1, head_dim=6, rotary=True, rope_base=100.0))
    x = normal(1, 5, 8)
    q, k, _ = mixer.qkv(x)[0].split(6, -1)
    q, k = torch.complex(q[:, :3], q[:, 3:]), torch.complex(k[:, :3], k[:, 3:])
    lag = torch.arange(5.0)[:, None] - torch.arange(5.0)
    turn = torch.exp(1j * lag[..., None].double() * 100.0 ** (-torch.arange(3) / 3))
    scores = torch.einsum("ip,jp,ijp->ij", q, k.conj(), turn).real
    assert_close_ratio("weights", mixer.matrix(x)[0, 0], (scores / 6**0.5).softmax(-1), 1e-6)


def test_rotary_sees_distances_only():
    mixer = perturbed(Attention(8, n_heads=2, rotary=True))
    M = mixer.matrix(normal(1, 1, 8).expand(1, 7, 8))[0]  # (H, L, L)
    ratio = M / M.diagonal(dim1=1, dim2=2).unsqueeze(-1)
    assert_close_ratio("shifted weights", ratio[:, 1:, 1:], ratio[:, :-1, :-1], 1e-12)
    assert (ratio[:, 0, 1:] - 1).abs().min() > 1e-4


@pytest.mark.parametrize(
    ("n_heads", "slopes"),
    [(4, [2**-2, 2**-4, 2**-6, 2**-8]), (3, [2**-4, 2**-8, 2**-2]), (6, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])],
)
def test_alibi_lowers_scores_by_the_slopes_of_the_paper(n_heads: int, slopes: list[float]) -> None:
    plain = perturbed(Attention(12, n_heads=n_heads, head_dim=2))
    biased = Attention(12, n_heads=n_heads, head_dim=2, alibi=True).double()
    biased.load_state_dict(plain.state_dict())
    x = normal(2, 7, 12)
    ratio = biased.matrix(x) / plain.matrix(x)
    ratio = (ratio / ratio.diagonal(dim1=-2, dim2=-1)[..., None]).log()  # (B, H, L, L)
    distance = (torch.arange(7)[:, None] - torch.arange(7)).abs()
    expected = -torch.tensor(slopes, dtype=torch.float64)[:, None, None] * distance
    torch.testing.assert_close(ratio, expected.expand_as(ratio))


def test_attention_without_positions_is_permutation_equivariant():
    mixer, x, order = perturbed(Attention(8, n_heads=2)), normal(2, 7, 8), torch.randperm(7)
    assert_close_ratio("permuted", mixer(x[:, order]), mixer(x)[:, order], 1e-12)


def test_dropout_only_in_training():
    mixer, x = perturbed(Attention(8, n_heads=2, dropout=0.5)), normal(2, 7, 8)
    assert not torch.equal(mixer(x), mixer(x))
    assert torch.equal(mixer.eval()(x), mixer(x))


@pytest.mark.parametrize(("L", "D"), [(1, 4), (7, 5), (8, 6), (63, 4)])
def test_fnet_algebra(L, D):
    def angles(n):
        return 2 * torch.pi * torch.outer(torch.arange(n), torch.arange(n)).double() / n

    def negated(x):
        return x[:, -torch.arange(L) % L][:, :, -torch.arange(D) % D]

    mix, x = FNet(D), normal(2, L, D)
    y = mix(x)
    want = angles(L).cos() @ x @ angles(D).cos() - angles(L).sin() @ x @ angles(D).sin()
    assert_close_ratio("dense transform", y, want, 1e-12)
    assert_close_ratio("symmetry", y, negated(y), 1e-12)
    assert_close_ratio("applied twice", mix(y), L * D / 2 * (x + negated(x)), 1e-12)


def test_fnet_is_the_plain_two_dimensional_transform():
    x = torch.randn(3, 7, 6)
    assert torch.equal(FNet(6)(x), torch.fft.fft2(x, dim=(1, 2)).real)


def test_fnet_matrix_is_exact_at_long_lengths():
    # 2 pi i j / L in float32 loses the angle when i j is large
    M = FNet(1, hidden=False).matrix(torch.zeros(1, 4001, 1))[0, 0]
    assert_close_ratio("last column", M[:, -1], M[:, 1], 1e-5)


@pytest.mark.parametrize(("L", "max_len"), [(8, 8), (7, 7), (5, 8), (1, 7)])
def test_fourier_filter_is_circular_convolution(L, max_len):
    mixer, x = perturbed(FourierFilter(3, max_len)), normal(2, L, 3)
    kernel = torch.fft.irfft(torch.view_as_complex(mixer.weight), n=max_len, dim=0)
    want = torch.stack([sum(kernel[(i - j) % max_len] * x[:, j] for j in range(L)) for i in range(L)], 1)
    assert_close_ratio("circular convolution", mixer(x), want, 1e-12)
    assert mixer.weight.shape == (max_len // 2 + 1, 3, 2)


def test_dense_equals_the_original():
    goldens = torch.load(Path(__file__).parent / "goldens" / "hydra_family.pt", weights_only=True)
    case = goldens["jd_attn_dense"]
    mixer = Dense(16, 12, n_heads=8, residual=True).double()
    mixer.load_state_dict({"weight": case["state_dict"]["matrix_mixer.M"]})
    x = case["x"].double().requires_grad_()
    y = mixer(x)
    y.backward(case["dy"].double())
    assert_close_ratio("y", y, case["y"], 1e-10)
    assert_close_ratio("gradient of x", x.grad, case["grads"]["dx"], 1e-9)
    assert_close_ratio("gradient of M", mixer.weight.grad, case["grads"]["matrix_mixer.M"], 1e-9)


def test_dense_bias_is_one_number_per_head_and_position():
    mixer, x = perturbed(Dense(6, 8, n_heads=2, bias=True)), normal(2, 7, 6)
    bias = mixer.bias[:, :7].T.repeat_interleave(3, 1)
    want = torch.einsum("bgij,bjgp->bigp", mixer.matrix(x), x.view(2, 7, 2, 3)).reshape(2, 7, 6) + bias
    assert_close_ratio("y", mixer(x), want, 1e-12)


def test_dense_initialization():
    L, H = 96, 4
    mixer = Dense(8, L, n_heads=H)
    # fan-in L L, fan-out H L; 3 % is ten standard errors of the sample standard deviation
    assert abs(mixer.weight.std() / (2 / (L * (L + H))) ** 0.5 - 1) < 0.03
    assert mixer.scale == L**-0.5 and size(mixer) == H * L * L


def test_dense_mlp_formula():
    mixer, x = perturbed(DenseMLP(3, 8, hidden=5)), normal(2, 8, 3)
    assert_close_ratio("y", mixer(x), mixer.fc2(F.gelu(mixer.fc1(x.mT))).mT, 1e-12)
    padded = torch.cat([x[:, :6], torch.zeros(2, 2, 3).double()], 1)
    assert_close_ratio("short", mixer(x[:, :6]), mixer(padded)[:, :6], 1e-12)
    assert DenseMLP(3, 8).fc1.out_features == 16


def naive_scan(u, source, conv, x_proj, dt_proj, A_log, D, zoh):
    """Convolution, SiLU and S6 written out position by position; ``source`` None reads B, C and dt from u."""
    (R, N), (B, L, E) = (dt_proj.in_features, A_log.shape[1]), u.shape
    u = F.silu(conv(F.pad(u.mT, (conv.kernel_size[0] - 1, 0)))).mT
    # rates, skip and bias of the step are kept in float32, as in state-spaces/mamba
    A, D, bias = (x.double() for x in (-A_log.exp(), D, dt_proj.bias))
    h, ys = torch.zeros(B, E, N).double(), []
    for t in range(L):
        r, b, c = x_proj((u if source is None else source)[:, t]).split([R, N, N], -1)
        dt = F.softplus(r @ dt_proj.weight.T + bias).unsqueeze(-1)
        b = ((dt * A).exp() - 1) / A * b.unsqueeze(1) if zoh else dt * b.unsqueeze(1)
        h = (dt * A).exp() * h + b * u[:, t].unsqueeze(-1)
        ys.append((h @ c.unsqueeze(-1)).squeeze(-1) + D * u[:, t])
    return torch.stack(ys, 1)


def ahead(m):
    return m.conv1d, m.x_proj, m.dt_proj, m.A_log, m.D


def back(m):
    return m.conv1d_b, m.x_proj_b, m.dt_proj_b, m.A_b_log, m.D_b


@pytest.mark.parametrize("discretization", ["euler", "zoh"])
@pytest.mark.parametrize("bcdt_from", ["conv", "input"])
@pytest.mark.parametrize("L", [1, 2, 65])
def test_selective_token_formula(L, bcdt_from, discretization):
    mixer = perturbed(SelectiveToken(17, d_state=3, bcdt_from=bcdt_from, discretization=discretization))
    x = normal(2, L, 17)
    u, z = mixer.in_proj(x).chunk(2, -1)
    y = naive_scan(u, x if bcdt_from == "input" else None, *ahead(mixer), zoh=discretization == "zoh")
    assert_close_ratio("y", mixer(x), mixer.out_proj(y * F.silu(z)), 1e-10)


@pytest.mark.parametrize(
    "options",
    [{}, {"d_conv": 2, "expand": 3, "dt_rank": 3, "bias": True, "d_state": 1}, {"conv_bias": False, "d_state": 5}],
)
def test_mamba_formula(options):
    """With gradients: the recorded outputs of the original have its default options."""
    mixer, x = perturbed(Mamba(8, **options)), normal(2, 7, 8).requires_grad_()
    u, z = mixer.in_proj(x).chunk(2, -1)
    y = mixer(x)
    want = mixer.out_proj(naive_scan(u, None, *ahead(mixer), zoh=False) * F.silu(z))
    assert_close_ratio("y", y, want, 1e-12)
    inputs, g = {"x": x, **dict(mixer.named_parameters())}, torch.randn_like(y)
    got, expected = (torch.autograd.grad(t, list(inputs.values()), g) for t in (y, want))
    for name, a, b in zip(inputs, got, expected, strict=True):
        # what is kept in float32 has gradients rounded to it
        ratio = 1e-6 if name in ("A_log", "D", "dt_proj.bias") else 1e-10
        assert_close_ratio(f"gradient of {name}", a, b, ratio)


def test_mamba_matrix():
    mixer, x = perturbed(Mamba(8, d_state=3)), normal(2, 7, 8)
    u, z = mixer.in_proj(x).chunk(2, -1)
    u = F.silu(mixer.conv1d(F.pad(u.mT, (3, 0))))  # (B, E, L)
    y = (mixer.matrix(x) @ u.unsqueeze(-1)).squeeze(-1).mT
    assert_close_ratio("y", mixer.out_proj(y * F.silu(z)), mixer(x), 1e-10)


def test_selective_token_is_mamba():
    mamba = perturbed(Mamba(8))
    mixer = SelectiveToken(8).double()
    mixer.load_state_dict(mamba.state_dict())
    x = normal(2, 7, 8)
    assert torch.equal(mixer(x), mamba(x))


@pytest.mark.parametrize("bcdt_from", ["conv", "input"])
@pytest.mark.parametrize(("merge", "factor"), [("sum", 1.0), ("mean", 0.5)])
def test_bidirectional_is_two_mixers_and_two_flips(bcdt_from, merge, factor):
    both = perturbed(SelectiveToken(8, bidirectional=True, bcdt_from=bcdt_from, merge=merge))
    state, one = both.state_dict(), SelectiveToken(8, bcdt_from=bcdt_from).double()
    x = normal(2, 9, 8)
    one.load_state_dict({k: state[k] for k in one.state_dict()})
    want = one(x)
    backward_name = {"conv1d": "conv1d_b", "x_proj": "x_proj_b", "dt_proj": "dt_proj_b", "A_log": "A_b_log", "D": "D_b"}
    for key in one.state_dict():
        part, _, leaf = key.partition(".")
        one.state_dict()[key].copy_(state[".".join(filter(None, (backward_name.get(part, part), leaf)))])
    want = want + one(x.flip(1)).flip(1)
    assert_close_ratio("y", both(x), factor * want, 1e-12)


@pytest.mark.parametrize("mixer", [SelectiveToken(8, bidirectional=True), SelectiveChannel(8, 9, reading="transposed")])
def test_flip_equivariance_with_tied_directions(mixer):
    mixer = perturbed(mixer)
    for a, b in zip(ahead(mixer), back(mixer), strict=True):
        b.load_state_dict(a.state_dict()) if isinstance(a, torch.nn.Module) else b.data.copy_(a)
    axis = 1 if isinstance(mixer, SelectiveToken) else 2
    x = normal(2, 9, 8)
    assert_close_ratio("flipped", mixer(x.flip(axis)), mixer(x).flip(axis), 1e-12)


@pytest.mark.parametrize("options", [{}, {"group": 4}, {"reading": "lifted", "group": 3}])
def test_selective_channel_scans_the_channels_of_each_token(options):
    mixer = perturbed(SelectiveChannel(6, width=8, d_state=3, **options))
    x = normal(2, 5, 6)
    u, g = mixer.in_proj(x).reshape(10, 16).chunk(2, -1)
    u = mixer.lift(u.unsqueeze(-1)) if mixer.lift else u.reshape(10, -1, mixer.group)
    y = naive_scan(u, None, *ahead(mixer), zoh=False)
    y = y + naive_scan(u.flip(1), None, *back(mixer), zoh=False).flip(1)
    y = mixer.lower(y).squeeze(-1) if mixer.lower else y.reshape(10, 8)
    assert_close_ratio("y", mixer(x), mixer.out_proj(y * F.silu(g)).view(2, 5, 6), 1e-10)


def test_transposed_channel_mixer_is_a_token_mixer_of_the_transpose():
    mixer = perturbed(SelectiveChannel(8, 17, reading="transposed"))
    token = SelectiveToken(17, bidirectional=True).double()
    token.load_state_dict(mixer.state_dict())
    x = normal(2, 17, 8)
    assert_close_ratio("y", mixer(x), token(x.mT).mT, 1e-12)


def test_initial_steps_and_rates():
    mixer = Mamba(64, d_state=5, dt_min=0.01, dt_max=0.05)
    dt = F.softplus(mixer.dt_proj.bias)
    # the drawn range to rounding, and spread over it
    assert 0.00999 < dt.min() < 0.012 and 0.042 < dt.max() < 0.05001
    assert torch.allclose(mixer.A_log.exp(), torch.arange(1.0, 6).expand(128, 5))
    assert mixer.dt_proj.weight.abs().max() <= 0.5 and bool((mixer.D == 1).all())
    assert 0.9 < 2 * Mamba(64, dt_scale=0.5).dt_proj.weight.abs().max() / 0.5 <= 1
    assert torch.equal(Mamba(64, dt_init="constant").dt_proj.weight, torch.full((128, 4), 0.5))
    floored = F.softplus(Mamba(64, dt_init_floor=0.03).dt_proj.bias)
    assert floored.min() > 0.0299


def test_state_spaces_are_spared_weight_decay_and_stay_wide():
    names = {"A_log", "A_b_log", "D", "D_b", "dt_proj.bias", "dt_proj_b.bias"}
    assert spared_parameters(SelectiveToken(8, bidirectional=True)) == names
    assert spared_parameters(Mamba2(8, headdim=4)) == {"A_log", "D", "dt_bias"}
    assert spared_parameters(SLSTM(8)) == {"recurrent", "bias"}
    assert spared_parameters(RWKV7(8)) == {"x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "r_k"}
    kernel = {f"implicit.{i}.{name}" for i in range(3) for name in ("weight", "bias")}
    assert spared_parameters(Hyena(8, 4)) == kernel | {"implicit_out.weight", "freq"}
    # Mega, the source of EMA, decays every matrix of it
    assert spared_parameters(EMA(8)) == set()
    # inside another mixer, and in a copy
    block = deepcopy(Block(8, mixer=partial(LongVQ, d_qk=4, n_codes=4, window=2, ssm="s4d")))
    spared = {f"residuals.0.mixer.move.{n}" for n in ("log_dt", "log_A_real", "A_imag", "C", "D")}
    assert spared_parameters(block) == spared
    before = {n: block.get_parameter(n).detach().clone() for n in spared}
    block.to(torch.bfloat16)
    for name, p in block.named_parameters():
        assert p.dtype == (torch.float32 if name in spared else torch.bfloat16), name
    assert all(torch.equal(block.get_parameter(n), p) for n, p in before.items())
    assert block.double().get_parameter("residuals.0.mixer.move.C").dtype == torch.float64


def test_half_precision_keeps_slow_modes():
    x = torch.randn(1, 2048, 16)
    for mixer in (S4D(16), Mamba(16), EMA(16), Mamba2(16, headdim=4)):
        y = mixer(x)
        z = mixer.bfloat16()(x.bfloat16())
        # eight bits of mantissa in the values and in the other weights
        assert_close_ratio(type(mixer).__name__, z, y, 0.015)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Dense(8),
            "max_len is needed: Dense stores an L x L matrix; set it in the backbone (max_len: 96)",
        ),
        (
            lambda: FourierFilter(8),
            "max_len is needed: FourierFilter stores one number per frequency; set it in the backbone (max_len: 96)",
        ),
        (
            lambda: DenseMLP(8),
            "max_len is needed: DenseMLP stores layers as wide as the sequence; set it in the backbone (max_len: 96)",
        ),
        (
            lambda: SelectiveChannel(8, reading="transposed"),
            "max_len is needed: SelectiveChannel stores layers as wide as the sequence; "
            "set it in the backbone (max_len: 96)",
        ),
        (
            lambda: Dense(8, 12)(torch.zeros(1, 13, 8)),
            "length 13 is over max_len = 12 of Dense; shorten x, or build it with max_len=13",
        ),
        (
            lambda: Dense(8, 12, n_heads=3),
            "d_model = 8 is not a multiple of n_heads = 3; change one of them",
        ),
        (
            lambda: Attention(8, n_heads=3),
            "d_model = 8 is not a multiple of n_heads = 3; change one, or set head_dim",
        ),
        (
            lambda: Attention(6, n_heads=2, rotary=True),
            "rotary turns pairs of channels, head_dim = 3 is odd; use an even head_dim",
        ),
        (lambda: Pool(8, pool_size=4), "pool_size = 4 has no middle; use a positive odd number"),
        (lambda: SepConv(8, kernel_size=0), "kernel_size = 0 has no middle; use a positive odd number"),
        (lambda: Mamba(8, dt_init="zero"), "dt_init = 'zero' is not known; use one of random, constant"),
        (lambda: Mamba(8, discretization="exact"), "discretization = 'exact' is not known; use one of euler, zoh"),
        (lambda: SelectiveToken(8, merge="max"), "merge = 'max' is not known; use one of sum, mean"),
        (lambda: SelectiveToken(8, bcdt_from="x"), "bcdt_from = 'x' is not known; use one of conv, input"),
        (
            lambda: SelectiveChannel(8, reading="cross"),
            "reading = 'cross' is not known; use one of dense, lifted, transposed",
        ),
        (
            lambda: SelectiveChannel(8, width=10, group=4),
            "width = 10 is not a multiple of group = 4; change one of them",
        ),
        (
            lambda: SelectiveChannel(8, 12, group=2, reading="transposed"),
            "group = 2 has no meaning for reading='transposed'; leave it out",
        ),
        (
            lambda: Pool(8)(torch.zeros(2, 3, 8), torch.ones(2, 3)),
            "mask should be bool (True = keep), got torch.float32; use mask.bool()",
        ),
        (
            lambda: Pool(8)(torch.zeros(2, 3, 8), torch.ones(3, 2).bool()),
            "mask should be (B, L) = (2, 3) to go with x, got (3, 2)",
        ),
    ],
)
def test_errors(build, message):
    with pytest.raises(ValueError) as caught:
        build()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Attention(8).init_state(1),
            "Attention with causal=False has no step(); build it with causal=True",
        ),
        *(
            (
                lambda mixer=mixer: mixer(8, d_state=16, causal=False)(torch.zeros(1, 3, 8), state=torch.zeros(1, 8)),
                f"{mixer.__name__} has no step() in both directions; build it with causal=True",
            )
            for mixer in (S5, LRU)
        ),
        (
            lambda: SelectiveToken(8, bidirectional=True).init_state(1),
            "SelectiveToken with bidirectional=True has no step(); build it with bidirectional=False",
        ),
        (
            lambda: SelectiveChannel(8, 4, reading="transposed").init_state(1),
            "SelectiveChannel has no step(); `seqmix list` shows the mixers that have one",
        ),
        (
            lambda: FNet(8).matrix(torch.zeros(1, 3, 8)),
            "FNet mixes the width too, so no L x L matrix does it; build it with hidden=False",
        ),
        (
            lambda: SepConv(8).matrix(torch.zeros(1, 3, 8)),
            "SepConv has no matrix(); `seqmix list` shows the mixers that have one",
        ),
    ],
)
def test_what_a_mixer_lacks(call, message):
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == message
