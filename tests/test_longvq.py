"""LongVQ: its equations, decoding, and its codebook through training."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from seqmix.errors import ConfigError
from seqmix.mixers import Identity, auxiliary_loss
from seqmix.mixers.longvq import LongVQ
from seqmix.models import Block
from seqmix.testing import assert_close_ratio, check_causality, check_step


def _mixer(**options):
    return LongVQ(8, **{"d_qk": 4, "n_codes": 6, "window": 3, "d_state": 4, **options})


@pytest.mark.parametrize("local_bias", ["table", "sinusoid"])
@pytest.mark.parametrize("attention", ["softmax", "laplace"])
def test_causal_mixer_decodes_beyond_its_window(local_bias, attention):
    def build(d_model, max_len):
        return _mixer(causal=True, local_bias=local_bias, attention=attention, block=5)

    check_causality(build, max_len=37)
    check_step(build, max_len=37)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("local_bias", ["table", "sinusoid"])
@pytest.mark.parametrize("attention", ["softmax", "laplace"])
def test_block_with_a_residual_connection_is_the_gate_of_mega(attention, local_bias, causal):
    mixer = _mixer(norm="layer", attention=attention, local_bias=local_bias, causal=causal).double().eval()
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    with torch.no_grad():
        for p in mixer.parameters():
            p.add_(0.2 * torch.randn_like(p))
        normed = mixer.norm(x)
        phi, zeta, gate, eta = mixer.mx_proj(mixer.move(normed)).split([8, 4, 16, 8], -1)
        u = nn.functional.silu(zeta)
        q, k = (mixer.gamma[i] * u + mixer.beta[i] for i in (0, 1))
        q, k = (t / (t.square().mean(-1, keepdim=True) + 1e-6).sqrt() / 4**0.25 for t in (q, k))
        codes = mixer.codebook.sums / mixer.codebook.counts.unsqueeze(1)
        hard = codes[torch.cdist(k, codes.expand(2, -1, -1)).argmin(-1)]
        lag = torch.arange(9).unsqueeze(1) - torch.arange(9)
        first = 0 if causal else -3
        place = (lag - first).clamp(0, 3 - first)
        if local_bias == "table":
            bias = mixer.bias.table[place].expand(2, -1, -1)
        else:
            turn = torch.arange(first, 4).double().outer(torch.tensor([1.0, 10000**-0.5], dtype=torch.float64))
            # keys have the norm of sqrt(sqrt(4)), so distances get it too
            r = torch.cat([turn.sin(), turn.cos()], -1) @ mixer.bias.proj.weight.T / 4**0.25
            bias = ((q + mixer.bias.v) @ r.T).gather(-1, place.expand(2, -1, -1))
            q = q + mixer.bias.u
        bias = torch.where(lag.abs() <= 3, bias, 0)
        seen = (lag >= 0) if causal else torch.ones(9, 9, dtype=torch.bool)
        if attention == "softmax":
            weights = (q @ hard.mT + bias).masked_fill(~seen, -torch.inf).softmax(-1)
        else:
            # scores over the number of keys in sight, then the integral of a normal density
            scores = q @ hard.mT / seen.sum(1, keepdim=True) + bias
            normal = torch.distributions.Normal(*torch.tensor([0.5**0.5, (4 * torch.pi) ** -0.5], dtype=torch.float64))
            weights = normal.cdf(scores) * seen
        o = weights @ nn.functional.silu(mixer.v_proj(normed))
        h = nn.functional.silu(eta + mixer.h_proj(nn.functional.silu(gate) * o))
        want = x + phi.sigmoid() * (h - x)
        # the sinusoids are kept in float32
        assert_close_ratio("block", x + mixer(x), want, 1e-12 if local_bias == "table" else 1e-7)


@pytest.mark.parametrize("norm", ["layer", "scale", "batch"])
def test_padding_stays_out_of_the_norm_and_the_codebook_in_training(norm):
    # codes drawn from the data would depend on where the kept keys lie
    mixer = _mixer(norm=norm, codebook_init="normal").double()
    x = torch.randn(1, 7, 8, dtype=torch.float64)
    padded = torch.cat([torch.full((1, 2, 8), float("nan"), dtype=torch.float64), x], 1)
    mask = torch.arange(9).unsqueeze(0) >= 2
    other = copy.deepcopy(mixer)
    y, got = mixer(x), other(padded, mask)
    assert_close_ratio("output", got[:, 2:], y, 1e-12)
    for m, out in ((mixer, y), (other, got)):
        (out.sum() + auxiliary_loss(m)).backward()
    for (name, want), value in zip(mixer.named_buffers(), other.buffers(), strict=True):
        assert_close_ratio(name, value, want, 1e-12)
    assert mixer.codebook.updates == 1


def test_pre_norm_block_with_the_norm_in_the_mixer():
    """With the gate above it is ``x + phi (h - x)`` of the raw x; the channel mixer has a norm of its own."""
    block = Block(8, mixer=lambda d_model, max_len: _mixer(norm="layer"), norm="none", channel_norm="layer").eval()
    (mixer, mlp), x = block.mixers, 2 + 3 * torch.randn(2, 12, 8)
    y = x + mixer(x)
    assert_close_ratio("block", block(x), y + mlp(nn.functional.layer_norm(y, (8,))), 1e-6)
    with pytest.raises(ConfigError, match="channel_norm = 'no' is not known; use one of layer, rms, none"):
        Block(8, mixer=Identity, channel_norm="no")


def test_commitment_loss_reaches_the_loss_of_the_task():
    model = nn.Sequential(_mixer(commitment=0.5), nn.Linear(8, 8), _mixer(commitment=2.0))
    assert auxiliary_loss(model) == 0
    x = torch.randn(2, 9, 8)
    model(x)
    assert auxiliary_loss(model) == model[0].auxiliary() + model[2].auxiliary() > 0
    copy.deepcopy(model)
    auxiliary_loss(model).backward()
    assert model[0].gamma.grad.all()
    # the queries of the last mixer have no part in the loss of its keys
    assert model[2].gamma.grad[1].all() and not model[2].gamma.grad[0].any()
    model.eval()(x)
    assert auxiliary_loss(model) == 0


def test_a_training_loop_without_the_auxiliary_loss_is_warned_once():
    model, x = nn.Sequential(_mixer(), nn.Linear(8, 8)), torch.randn(2, 9, 8)
    model(x).sum().backward()
    with pytest.warns(UserWarning, match=r"codebook of LongVQ does not learn.*add seqmix.mixers.auxiliary_loss"):
        model(x).sum().backward()
    model(x).sum().backward()


def test_codebook_moves_once_per_backward_and_never_in_forward():
    mixer, x = _mixer(), torch.randn(2, 9, 8)
    before = mixer.codebook.codes()
    first, second = mixer(x), mixer(x)
    assert torch.equal(first, second) and torch.equal(mixer.codebook.codes(), before)
    (second.sum() + auxiliary_loss(mixer)).backward()
    # the first update takes the codes from the keys
    codes = mixer.codebook.codes()
    assert mixer.codebook.updates == 1 and (mixer.codebook.counts == 1).all()
    k = mixer._project(mixer.move(x))[2].flatten(0, 1)
    assert (codes.unsqueeze(1) - k).abs().sum(-1).min(1).values.max() < 1e-6
    mixer.eval()(x).sum().backward()
    assert mixer.codebook.updates == 1


def test_activation_checkpointing_recomputes_with_the_codes_of_the_forward():
    plain = _mixer()
    other, x = copy.deepcopy(plain), torch.randn(2, 9, 8)
    for _ in range(2):
        for p in (*plain.parameters(), *other.parameters()):
            p.grad = None
        (plain(x).square().sum() + auxiliary_loss(plain)).backward()
        y = checkpoint(other, x, use_reentrant=False)
        (y.square().sum() + auxiliary_loss(other)).backward()
        for (name, p), q in zip(plain.named_parameters(), other.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad), name
    for want, got in zip(plain.buffers(), other.buffers(), strict=True):
        assert torch.equal(want, got)


def test_a_resumed_run_equals_an_uninterrupted_one():
    def train(mixer, optimizer, steps):
        for i in steps:
            x = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(i))
            optimizer.zero_grad()
            (mixer(x).square().sum() + auxiliary_loss(mixer)).backward()
            optimizer.step()

    mixer = _mixer(restart=0.9)
    optimizer = torch.optim.AdamW(mixer.parameters(), lr=0.01)
    train(mixer, optimizer, range(2))
    resumed = _mixer(restart=0.9)
    resumed.load_state_dict(copy.deepcopy(mixer.state_dict()))
    second = torch.optim.AdamW(resumed.parameters(), lr=0.01)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(mixer, optimizer, range(2, 5))
    torch.rand(100)
    train(resumed, second, range(2, 5))
    for name, want in mixer.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], want), name


def test_counts_stay_wide_in_a_half_precision_model():
    mixer = _mixer(codebook_init="normal", decay=0.0).bfloat16()
    assert mixer.codebook.sums.dtype == mixer.codebook.counts.dtype == torch.float32
    x = torch.zeros(1, 301, 8, dtype=torch.bfloat16)
    (mixer(x).sum() + auxiliary_loss(mixer)).backward()
    assert mixer.codebook.counts.max() == 301


@pytest.mark.parametrize(
    "options, message",
    [
        ({"ssm": "s5"}, "there is no ssm = 's5'; use 'ema' or 's4d'"),
        ({"norm": "rms"}, "there is no norm = 'rms'; use 'none' or 'layer' or 'scale' or 'batch'"),
        ({"n_codes": 0}, "n_codes = 0 is below 1; use n_codes=1 or more"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ConfigError, match="^" + message):
        _mixer(**options)
