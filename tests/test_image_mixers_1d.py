"""Mixers born on images, on a sequence: each against its two-dimensional formula on an image of height one."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seqmix.errors import ConfigError
from seqmix.mixers.aff import AFF
from seqmix.mixers.ffnified import FFNifiedAttention
from seqmix.mixers.inception import InceptionMixer
from seqmix.mixers.raft import Raft
from seqmix.mixers.rand import Rand
from seqmix.ops.spectral import adaptive_filter

LENGTHS = [1, 2, 7, 12]
D, MAX = 16, 12


def _image(x):
    return x.transpose(1, 2).unsqueeze(2)  # (B, D, 1, L)


def _sequence(image):
    return image.squeeze(2).transpose(1, 2)


def _depthwise(image, conv):
    """A square kernel whose middle row is ours: on height one the other rows meet only padding."""
    channels, _, K = conv.weight.shape
    kernel = torch.randn(channels, 1, K, K)
    kernel[:, :, K // 2] = conv.weight
    return F.conv2d(image, kernel, conv.bias, padding=K // 2, groups=channels)


def _pointwise(image, linear):
    return F.conv2d(image, linear.weight[..., None, None], linear.bias)


def _close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("L", LENGTHS)
def test_ffnified_attention(L):
    for options in ({}, {"kernel_size": 3, "bias": False}):
        mixer = FFNifiedAttention(D, **options)
        x = torch.randn(2, L, D)
        hidden = F.gelu(_depthwise(_pointwise(_image(x), mixer.fc), mixer.conv1))
        _close(mixer(x), _sequence(_depthwise(hidden, mixer.conv2)))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("L", LENGTHS)
def test_inception(L, stride):
    heads, low = 2, 8
    mixer = InceptionMixer(D, n_heads=heads, head_dim=low // heads, stride=stride)
    x = torch.randn(2, L, D) - 1
    conv, pool, image = _image(x).split([4, 4, low], 1)
    conv = F.gelu(_depthwise(_pointwise(conv, mixer.conv1), mixer.proj1))
    pool = F.gelu(_pointwise(F.max_pool2d(pool, 3, stride=1, padding=1), mixer.proj2))
    # on height one, and at the end of an odd length, a cell averages what there is of it
    cells = F.avg_pool2d(image, stride, ceil_mode=True, count_include_pad=False)
    q, k, v = mixer.qkv(_sequence(cells)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    y = (q @ k.transpose(-1, -2) / (low / heads) ** 0.5).softmax(-1) @ v  # (B, H, M, P)
    image = F.interpolate(_image(y.transpose(1, 2).flatten(2)), scale_factor=(1, stride), mode="nearest")[..., :L]
    u = torch.cat([conv, pool, image], 1)
    _close(mixer(x), _sequence(_pointwise(u + _depthwise(u, mixer.conv_fuse), mixer.proj)))
    if stride == 2:
        assert torch.equal(image[..., : L - L % 2 : 2], image[..., 1::2])


def test_inception_pools_over_minus_infinity():
    """Padding never wins the maximum: with all inputs negative the border keeps its own."""
    mixer = InceptionMixer(4, n_heads=1, head_dim=2)
    x = -torch.rand(1, 5, 1) - 1
    kept = torch.tensor([[True, True, True, False, False]]).unsqueeze(-1)
    y = mixer._max_pool(x, kept)[0, :, 0]
    want = torch.stack([x[0, max(i - 1, 0) : min(i + 2, 3), 0].max() for i in range(3)])
    assert torch.equal(y, torch.cat([want, torch.zeros(2)]))


@pytest.mark.parametrize("r", [1, 2, 4])
def test_raft(r):
    """Horizontal mixing of the paper, index by index, on an image of height one."""
    mixer = Raft(D, MAX, n_rafts=r)
    x = torch.randn(2, MAX, D)
    want = torch.empty_like(x)
    for j in range(D // r):
        u = torch.cat([_image(x)[:, g * (D // r) + j, 0] for g in range(r)], -1)  # (B, r L)
        u = F.gelu(u @ mixer.fc1.weight.T + mixer.fc1.bias) @ mixer.fc2.weight.T + mixer.fc2.bias
        for g in range(r):
            want[:, :, g * (D // r) + j] = u[:, g * MAX : (g + 1) * MAX]
    _close(mixer(x), want)
    short = torch.cat([x[:, :7], torch.zeros(2, MAX - 7, D)], 1)
    _close(mixer(x[:, :7]), mixer(short)[:, :7])


@pytest.mark.parametrize("L", LENGTHS)
def test_aff(L):
    mixer = AFF(D, n_blocks=4)
    for p in mixer.parameters():
        p.data.normal_()
    x = torch.randn(2, L, D)
    U = torch.fft.rfft2(_image(x), norm="ortho").permute(0, 2, 3, 1)  # (B, 1, F, D)
    real, imag = U.real.unflatten(-1, (4, -1)), U.imag.unflatten(-1, (4, -1))

    def layer(real, imag, w, b):
        def product(x, w):
            return torch.einsum("...gi,gio->...go", x, w)

        return product(real, w[0]) - product(imag, w[1]) + b[0], product(imag, w[0]) + product(real, w[1]) + b[1]

    real, imag = (F.silu(t) for t in layer(real, imag, mixer.w1, mixer.b1))
    real, imag = (F.softshrink(t, 0.01).flatten(-2) for t in layer(real, imag, mixer.w2, mixer.b2))
    filtered = (torch.complex(real, imag) * U).permute(0, 3, 1, 2)
    y = torch.fft.irfft2(filtered, s=(1, L), norm="ortho")
    _close(mixer(x), x + _sequence(y))


def test_aff_against_the_original_in_two_dimensions():
    case = torch.load(Path(__file__).parent / "goldens/affnet_mixer_swish.pt", weights_only=True)
    x = case["input"]
    U = torch.fft.rfft2(x, norm="ortho").permute(0, 2, 3, 1)
    y = adaptive_filter(U, **case["state_dict"]).permute(0, 3, 1, 2)
    # the original's own float32 transform
    _close(x + torch.fft.irfft2(y, s=x.shape[-2:], norm="ortho"), case["output"])
    AFF(x.shape[1]).load_state_dict(case["state_dict"], strict=True)


def test_aff_extremes():
    mixer = AFF(D)
    x = torch.randn(2, 9, D)
    for p in (mixer.w2, mixer.b2):
        nn.init.zeros_(p)
    _close(mixer(x), x)
    nn.init.constant_(mixer.b2[0], 0.5)
    _close(mixer(x), 1.49 * x)
    assert sum(p.numel() for p in mixer.parameters()) == D**2 // 2 + 4 * D


def test_rand():
    mixer = Rand(D, MAX)
    assert list(mixer.state_dict()) == ["random_matrix"] and not list(mixer.parameters())
    R = mixer.random_matrix
    x = torch.randn(2, MAX, D)
    _close(mixer(x), _sequence(torch.einsum("mn,bchn->bchm", R, _image(x))))
    # the softmax of numbers in (0, 1)
    assert (R.max(1).values / R.min(1).values).max() < torch.e
    for L in LENGTHS:
        constant = torch.randn(2, 1, D).expand(2, L, D)
        torch.testing.assert_close(mixer(constant), constant, rtol=1e-6, atol=1e-6)
    assert not torch.equal(Rand(D, MAX).random_matrix, R)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FFNifiedAttention(D, kernel_size=4), "kernel_size = 4 has no middle; use a positive odd number"),
        (lambda: InceptionMixer(D, kernel_size=2, n_heads=1, head_dim=8), "kernel_size = 2 has no middle"),
        (
            lambda: InceptionMixer(D),
            "n_heads * head_dim = 32 leaves -16 of 16 channels for convolution and pooling",
        ),
        (lambda: InceptionMixer(D, head_dim=3), "n_heads * head_dim = 3 leaves 13 of 16 channels"),
        (lambda: Raft(D, MAX, n_rafts=3), "d_model = 16 is not a multiple of n_rafts = 3; change one of them"),
        (lambda: AFF(D, n_blocks=3), "d_model = 16 is not a multiple of n_blocks = 3; change one of them"),
        (lambda: Rand(D), "max_len is needed: Rand stores an L x L matrix"),
        (lambda: Raft(D), "max_len is needed: Raft stores layers as wide as the sequence"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(message)
