"""The classes of matrices: entries against loops over the formulas, structure, cost, initialization, errors."""

import math
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seqmix.errors import ConfigError
from seqmix.mixers import (
    DFT,
    Attention,
    Cauchy,
    Dense,
    FNet,
    Identity,
    LowRank,
    Softmax,
    Toeplitz,
    Unstructured,
    Vandermonde,
)
from seqmix.mixers.hybrid import hybrid_layers
from seqmix.mixers.matrix import MatrixMixer
from seqmix.mixers.quasiseparable import Quasiseparable

D, P, H, Q, SIZE = 6, 3, 2, 2, 9
DEPENDENT = [Toeplitz, Vandermonde, Cauchy, LowRank, Softmax, Quasiseparable]


def _build(cls, data_dependent, **options):
    mixer = cls(D, SIZE, headdim=P, qk_dim=Q, data_dependent=data_dependent, **options).double()
    for p in mixer.parameters():
        p.data.add_(0.3 * torch.randn_like(p))
    return mixer


def _pair(mixer, x, activation=lambda u: u):
    """Queries and keys (L, H, d) of the one sequence in x."""
    if mixer.in_proj is None:
        return mixer.q_matrix[: x.shape[1]], mixer.k_matrix[: x.shape[1]]
    return activation(mixer.in_proj(x[0])).reshape(x.shape[1], 2, H, Q).unbind(1)


def _toeplitz(mixer, x, h, i, j):
    if mixer.in_proj is None:
        m = mixer.conv_params[h, i - j + SIZE - 1]
    else:
        f, r = torch.nn.functional.silu(mixer.in_proj(x[0])).reshape(-1, 2, H).unbind(1)
        m = f[i - j, h] if i >= j else r[j - i, h]
    return (i == j) + 0.5 / math.sqrt(SIZE) * m


def _vandermonde(mixer, x, h, i, j):
    if mixer.in_proj is None:
        q, k = (t[h, :, : x.shape[1]].T for t in (mixer.q_bias, mixer.k_bias))
        m = sum((2 * math.pi * q[i, d] * j).cos() + (2 * math.pi * k[j, d] * i).cos() for d in range(Q))
    else:
        q, k = _pair(mixer, x)
        turn = 2 * math.pi * 1e-3
        m = sum((turn * q[i, h, d] * j).cos() - (turn * k[j, h, d] * i).cos() for d in range(Q))
    return (i == j) + m / math.sqrt(2 * SIZE * Q)


def _cauchy(mixer, x, h, i, j):
    q, k = _pair(mixer, x)
    c = 0 if mixer.bias is None else mixer.bias
    m = sum(1 / (q[i, h, d].exp() + k[j, h, d].exp() + 2 * c + 1e-8) for d in range(Q))
    return (i == j) + m / math.sqrt(SIZE * Q)


def _low_rank(mixer, x, h, i, j):
    q, k = _pair(mixer, x, torch.nn.functional.silu)
    return (i == j) + q[i, h] @ k[j, h] / math.sqrt(SIZE * Q)


def _softmax(mixer, x, h, i, j):
    q, k = _pair(mixer, x)
    return (i == j) + (k[:, h] @ q[i, h] / math.sqrt(Q)).softmax(0)[j]


def _quasiseparable(mixer, x, h, i, j):
    L, N = x.shape[1], H * Q
    if mixer.in_proj is None:
        BC, raw = mixer.BC, torch.zeros(L, 2, H)
    else:
        BC, raw = mixer.in_proj(x[0]).split([2 * N, 2 * H], -1)
        BC, raw = torch.nn.functional.silu(BC), raw.reshape(L, 2, H)
    B, C = BC[:, :N], BC[:, N:]
    if i == j:
        return mixer.D[h] + mixer.fc_D.weight[h] @ x[0, i]
    dt = torch.nn.functional.softplus(raw + mixer.dt_bias)[:, int(i < j), h]
    between = range(j + 1, i) if i > j else range(i + 1, j)
    decay = torch.exp(sum((-mixer.A_log[h].exp() * dt[k] for k in between), torch.zeros(())))
    return decay * dt[j] * (C[i - 1 if i > j else i + 1] @ B[j])


ENTRIES = {
    Toeplitz: _toeplitz,
    Vandermonde: _vandermonde,
    Cauchy: _cauchy,
    LowRank: _low_rank,
    Softmax: _softmax,
    Quasiseparable: _quasiseparable,
}


@pytest.mark.parametrize("data_dependent", [True, False])
@pytest.mark.parametrize("cls", ENTRIES)
def test_entries(cls, data_dependent):
    mixer = _build(cls, data_dependent)
    for L in (SIZE, 5):
        x = torch.randn(1, L, D, dtype=torch.float64)
        with torch.no_grad():
            M = [[[float(ENTRIES[cls](mixer, x, h, i, j)) for j in range(L)] for i in range(L)] for h in range(H)]
        torch.testing.assert_close(mixer.matrix(x)[0], torch.tensor(M, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("L", [SIZE, 5])
@pytest.mark.parametrize("data_dependent", [True, False])
def test_toeplitz_structure_and_release(L, data_dependent):
    x = torch.randn(2, L, D, dtype=torch.float64)
    mixer = _build(Toeplitz, data_dependent)
    M = mixer.matrix(x)
    assert torch.equal(M[..., 1:, 1:], M[..., :-1, :-1])

    released = _build(Toeplitz, data_dependent, compat="hydra-release")
    released.load_state_dict(mixer.state_dict())
    eye = torch.eye(L, dtype=torch.float64)
    M, displaced = M - eye, released.matrix(x) - eye
    # m_{i-j+1}: one lag further everywhere; the identity taken off leaves rounding
    torch.testing.assert_close(displaced[..., :-1, :], M[..., 1:, :], rtol=0, atol=1e-15)
    if L == SIZE:
        # the corner wraps around to the farthest lag ahead
        torch.testing.assert_close(displaced[..., -1, 0], M[..., 0, -1], rtol=0, atol=1e-15)


def test_dft():
    L = SIZE
    x = torch.randn(2, L, D, dtype=torch.float64)
    mixer = DFT(D, L, headdim=P)
    want = x + torch.fft.fft(x, dim=1).real / math.sqrt(L)
    torch.testing.assert_close(mixer(x), want, rtol=1e-12, atol=1e-12)
    C = mixer.matrix(x)[0, 0] - torch.eye(L, dtype=torch.float64)
    flip = torch.eye(L, dtype=torch.float64)[:, (-torch.arange(L)) % L]
    # the transform is unitary, so its real part squares to the mean of identity and reversal
    torch.testing.assert_close(C @ C, (torch.eye(L, dtype=torch.float64) + flip) / 2, rtol=0, atol=1e-12)
    torch.testing.assert_close(C, C.T, rtol=0, atol=1e-12)
    stored = DFT(D, L, headdim=P, compat="hydra-release").double()
    # its matrix is made in float32
    torch.testing.assert_close(stored(x), want, rtol=0, atol=1e-5)
    assert stored.dft_matrix.shape == (L, L) and not DFT(D, L).state_dict()


@pytest.mark.parametrize("data_dependent", [True, False])
def test_ranks(data_dependent):
    x = torch.randn(1, SIZE, D, dtype=torch.float64)
    eye = torch.eye(SIZE, dtype=torch.float64)
    assert torch.linalg.matrix_rank(_build(LowRank, data_dependent).matrix(x) - eye, rtol=1e-10).max() == Q
    M = _build(Quasiseparable, data_dependent).matrix(x)
    off_diagonal = [block for k in range(1, SIZE) for block in (M[..., k:, :k], M[..., :k, k:])]
    assert max(torch.linalg.matrix_rank(block, rtol=1e-10).max() for block in off_diagonal) == H * Q
    assert torch.linalg.matrix_rank(M, rtol=1e-10).min() == SIZE


@pytest.mark.parametrize(
    ("cls", "equivariant"), [(c, c in (Softmax, Cauchy, LowRank)) for c in DEPENDENT], ids=lambda v: str(v)
)
def test_permutation(cls, equivariant):
    mixer = _build(cls, True)
    x = torch.randn(2, SIZE, D, dtype=torch.float64)
    order = torch.randperm(SIZE)
    error = (mixer(x[:, order]) - mixer(x)[:, order]).abs().max()
    assert error < 1e-12 if equivariant else error > 1e-4


def test_unstructured_is_dense():
    x = torch.randn(2, SIZE, D, dtype=torch.float64)
    mixer = Unstructured(D, SIZE, headdim=P).double()
    dense = Dense(D, SIZE, n_heads=H, residual=True).double()
    dense.load_state_dict({"weight": mixer.M})
    torch.testing.assert_close(mixer(x), dense(x), rtol=1e-12, atol=1e-12)
    g = torch.randn_like(x)
    mixer(x).backward(g)
    assert mixer.M.grad is not None
    want = torch.einsum("bihp,bjhp->hij", g.unflatten(-1, (H, P)), x.unflatten(-1, (H, P))) / math.sqrt(SIZE)
    torch.testing.assert_close(mixer.M.grad, want, rtol=1e-12, atol=1e-12)


def test_block_convolves_and_gates():
    """One-wide kernel, identity convolution, open gate: what is left is the bare matrix between the projections."""
    block = MatrixMixer(D, SIZE, matrix=LowRank, headdim=P, qk_dim=Q, d_conv=1, conv_init=0.5).double()
    assert block.conv1d.weight.abs().max() <= 0.5
    x = torch.randn(2, SIZE, D, dtype=torch.float64)
    w = torch.nn.functional.silu(block.in_proj(x)[..., 2 * D :] * block.conv1d.weight.flatten() + block.conv1d.bias)
    v, features = w[..., : 2 * D], w[..., 2 * D :]
    M = block.matrix(x)
    torch.testing.assert_close(M, block.matrix_mixer.matrix(v, features), rtol=1e-12, atol=1e-12)
    y = torch.einsum("bhij,bjhp->bihp", M, v.unflatten(-1, (-1, P))).flatten(2)
    y = (
        y
        * (y.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        * torch.nn.functional.silu(block.in_proj(x)[..., : 2 * D])
    )
    torch.testing.assert_close(block(x), block.out_proj(y), rtol=1e-12, atol=1e-12)


class _Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor))])
        return out


@pytest.mark.parametrize("data_dependent", [True, False])
@pytest.mark.parametrize(
    ("cls", "bound"),
    [
        # nothing is L x L: projections, values and padded transforms
        (Toeplitz, lambda L: 2 * 4 * L * D),
        (LowRank, lambda L: 2 * 4 * L * D),
        (partial(DFT, data_dependent=False), lambda L: 2 * 4 * L * D),
        # one L x L matrix per head, or its factors; d of them would be four times the bound
        (Vandermonde, lambda L: 2 * 2 * H * L * L),
        (Softmax, lambda L: 2 * H * L * L),
        # blocks of rows
        (Cauchy, lambda L: 2 * 8 * L * H * 16),
    ],
    ids=["Toeplitz", "LowRank", "DFT", "Vandermonde", "Softmax", "Cauchy"],
)
def test_memory(cls, bound, data_dependent, monkeypatch):
    L, d = 256, 16
    monkeypatch.setattr(Cauchy, "BLOCK", 2 * 4 * L * H * d)
    options = {} if isinstance(cls, partial) else {"data_dependent": data_dependent}
    mixer = cls(D, L, headdim=P, qk_dim=d, **options)
    x = torch.randn(2, L, D, requires_grad=True)
    with _Largest() as largest:
        mixer(x).sum().backward()
    assert largest.numel <= max(bound(L), 2 * L * (D + 2 * H * d))


@pytest.mark.parametrize("data_dependent", [True, False])
def test_cauchy_in_blocks(data_dependent, monkeypatch):
    mixer = _build(Cauchy, data_dependent)
    x = torch.randn(2, SIZE, D, dtype=torch.float64)
    g = torch.randn_like(x)
    inputs = [x.requires_grad_(), *mixer.parameters()]
    whole = mixer(x)
    grads = torch.autograd.grad(whole, inputs, g)
    monkeypatch.setattr(Cauchy, "BLOCK", 2 * 2 * SIZE * H * Q)
    rows = mixer(x)
    torch.testing.assert_close(rows, whole, rtol=1e-12, atol=1e-12)
    for got, want in zip(torch.autograd.grad(rows, inputs, g), grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_initial_values():
    L, n, d = 64, 8, 16
    free = {"headdim": 4, "qk_dim": d, "data_dependent": False}
    build = {cls: cls(4 * n, L, **free) for cls in (Unstructured, LowRank, Cauchy, Softmax, Toeplitz, Quasiseparable)}
    assert build[Unstructured].M.std().item() == pytest.approx(math.sqrt(2 / (L * (L + n))), rel=0.03)
    for cls in (LowRank, Cauchy, Softmax):
        for t in (build[cls].q_matrix, build[cls].k_matrix):
            assert t.std().item() == pytest.approx(math.sqrt(2 / (d * (L + n))), rel=0.03)
    assert build[Quasiseparable].BC.std().item() == pytest.approx(math.sqrt(2 / (L + 2 * n * d)), rel=0.03)
    assert build[Toeplitz].conv_params.abs().max().item() == pytest.approx(math.sqrt(6 / (n + 2 * L - 1)), rel=0.03)
    dt = torch.nn.functional.softplus(build[Quasiseparable].dt_bias)
    assert dt.min() >= 0.999e-3 and dt.max() <= 0.1001 and not build[Quasiseparable].A_log.any()
    angles = Vandermonde(4 * n, L, **free).q_bias
    assert (
        angles.min() >= 0 and angles.max() <= 1 / L and angles.std().item() == pytest.approx(1 / L / 12**0.5, rel=0.03)
    )
    assert Cauchy(D, SIZE).bias.item() == 0.5


def test_vandermonde_free_angles_learn():
    """At the zeros of the released code every cosine is at its top and nothing would move."""
    mixer = Vandermonde(D, SIZE, headdim=P, data_dependent=False)
    mixer(torch.randn(2, SIZE, D)).square().sum().backward()
    assert mixer.q_bias.grad.abs().max() > 1e-3 and mixer.k_bias.grad.abs().max() > 1e-3


@pytest.mark.parametrize("cls", DEPENDENT)
def test_token_made_matrices_extend(cls):
    x = torch.randn(1, 3 * SIZE, D, dtype=torch.float64)
    mixer = _build(cls, True)
    y = torch.einsum("bhij,bjhp->bihp", mixer.matrix(x), x.unflatten(-1, (H, P))).flatten(2)
    torch.testing.assert_close(mixer(x), y, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Toeplitz(6, 9, headdim=4),
            "width 6 is not a multiple of headdim = 4; use a headdim that divides it",
        ),
        (
            lambda: Toeplitz(6),
            "max_len is needed: Toeplitz stores a scale and taps for max_len positions; "
            "set it in the backbone (max_len: 96)",
        ),
        (
            lambda: MatrixMixer(6, 9, matrix=DFT, headdim=3),
            "data_dependent = True has no meaning for DFT; use data_dependent=False",
        ),
        (
            lambda: Toeplitz(6, 9, compat="release"),
            "compat = 'release' is not known; use one of hydra-release",
        ),
        (
            lambda: MatrixMixer(6, 9, headdim=3, d_conv=4),
            "d_conv = 4 has no middle; use a positive odd number",
        ),
        (
            lambda: Unstructured(6, 9)(torch.zeros(1, 10, 6)),
            "length 10 is over max_len = 9 of Unstructured; shorten x, or build it with max_len=10",
        ),
        (
            lambda: Toeplitz(6, 9, compat="hydra-release")(torch.zeros(1, 10, 6)),
            "length 10 is over max_len = 9 of Toeplitz; shorten x, or build it with max_len=10",
        ),
        (
            lambda: hybrid_layers(12, 13),
            "n_attention = 13 of n_layers = 12 is not possible; use 0 to 12",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("k", "bottom", "top", "middle", "mixed"),
    [
        (0, [], [], [], []),
        (1, [0], [11], [6], [0]),
        (2, [0, 1], [10, 11], [5, 6], [0, 6]),
        (3, [0, 1, 2], [9, 10, 11], [5, 6, 7], [0, 4, 8]),
        (4, [0, 1, 2, 3], [8, 9, 10, 11], [4, 5, 6, 7], [0, 3, 6, 9]),
        (6, [0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11], [3, 4, 5, 6, 7, 8], [0, 2, 4, 6, 8, 10]),
    ],
)
def test_hybrid_layers(k, bottom, top, middle, mixed):
    for layout, places in {"bottom": bottom, "top": top, "middle": middle, "mixed": mixed}.items():
        assert [i for i, make in enumerate(hybrid_layers(12, k, layout)) if make is Attention] == places
    assert hybrid_layers(2, 1, mixer=Identity, attention=FNet) == [Identity, FNet]
    with pytest.raises(ConfigError, match=r"layout = 'left' is not known; use one of bottom, middle, mixed, top"):
        hybrid_layers(12, k, "left")
