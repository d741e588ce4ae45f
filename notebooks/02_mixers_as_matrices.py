# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Sequence mixers as matrices
#
# A sequence mixer turns `(B, L, D)` into `(B, L, D)`, and most of them do it with one matrix per group of channels:
# `y = M(x) x`, where entry `M[i, j]` says how much of position `j` arrives at position `i`. Mixers differ in three
# things: who decides the entries (fixed, learned, or made from the tokens), which structure the matrix has, and so how
# fast the product is. All of them have a `matrix()` method; here they meet on the same input.

# %%
from functools import partial

import matplotlib.pyplot as plt
import torch

from seqmix.commands.matrix import describe, show_matrix
from seqmix.mixers import (
    DFT,
    EMA,
    GLA,
    HGRN2,
    KDA,
    MLSTM,
    RGLRU,
    RWKV7,
    S4D,
    Attention,
    AutoCorrelation,
    Based,
    Cauchy,
    DeltaNet,
    Dense,
    FNet,
    FourierFilter,
    GatedDeltaNet,
    GatedDeltaProduct,
    Hydra,
    Hyena,
    Identity,
    LongVQ,
    LowRank,
    Mamba,
    Mamba2,
    Mamba3,
    MatrixMixer,
    Mega,
    MinGRU,
    MinLSTM,
    Mixer,
    Pool,
    ProbSparse,
    Quasiseparable,
    Rand,
    RetNet,
    SlidingWindow,
    Softmax,
    Toeplitz,
    Unstructured,
    Vandermonde,
    list_mixers,
    mixer_facts,
)

# %% [markdown]
# ## The input
#
# 64 positions in four segments. The first and the third hold the same token, plus noise: **A B A C**. A matrix that is
# made from the tokens shows these segments as blocks, one that is not cannot.

# %%
L, D, N = 64, 16, 4

torch.manual_seed(0)
tokens = torch.randn(3, D)
x = 1.5 * (tokens[[0, 1, 0, 2]].repeat_interleave(L // 4, 0) + 0.3 * torch.randn(L, D))
x = x.double().unsqueeze(0)  # (B, L, D), B = 1

# %% [markdown]
# ## The family
#
# Fresh weights, and `N = 4` wherever a state, or queries and keys, have a width.

# %%
head = {"headdim": 4, "qk_dim": N}
state = {"headdim": 4, "d_state": N}
FAMILY = {
    "Fixed or free: the same matrix for every input": [
        DFT,
        partial(FNet, hidden=False),
        Rand,
        Dense,
        partial(Unstructured, **head),
    ],
    "One number per lag i − j: convolutions": [
        Identity,
        Pool,
        EMA,
        S4D,
        FourierFilter,
        AutoCorrelation,
        partial(Hyena, filter_order=16),
        partial(Toeplitz, **head),
    ],
    "Queries meet keys: one entry for each pair of tokens": [
        partial(Attention, n_heads=4),
        partial(ProbSparse, n_heads=4, factor=2),
        partial(Softmax, **head),
        partial(LongVQ, d_qk=N, n_codes=8, window=4),
        partial(Mega, d_qk=N),
        partial(SlidingWindow, window=12),
        partial(LowRank, **head),
        partial(Cauchy, **head),
        partial(Vandermonde, **head),
    ],
    "State spaces: N numbers cross every cut": [
        partial(Mamba, d_state=N),
        partial(Mamba2, **state),
        partial(Quasiseparable, headdim=D, qk_dim=N),
        partial(MatrixMixer, headdim=2 * D, qk_dim=N),
        partial(Hydra, **state),
        partial(Mamba3, **state),
    ],
    "Gates: each channel, or each key, forgets at a rate of its own": [
        MinGRU,
        MinLSTM,
        RGLRU,
        partial(RetNet, n_heads=2),
        partial(GLA, n_heads=2),
        partial(HGRN2, headdim=N),
        partial(MLSTM, n_heads=2),
        partial(Based, n_heads=2, feature_dim=N),
    ],
    "Delta rules: a write replaces what its key held": [
        partial(DeltaNet, n_heads=4),
        partial(GatedDeltaNet, n_heads=4, headdim=N),
        partial(KDA, n_heads=4, headdim=N),
        partial(GatedDeltaProduct, n_heads=4, headdim=N),
        partial(RWKV7, headdim=N),
    ],
}


def build(factory) -> Mixer:
    torch.manual_seed(0)
    return factory(D, L).double().eval()


mixers = [build(factory) for factories in FAMILY.values() for factory in factories]
with_matrix = {name for name in list_mixers() if mixer_facts(name).cls.matrix is not Mixer.matrix}
assert {type(mixer).__name__ for mixer in mixers} == with_matrix, "the picture shows every mixer that has a matrix"

# %% [markdown]
# The matrix is no illustration. For the pure mixers it is all there is: multiplying by it gives what `forward` gives,
# also where `forward` never forms it. The others put it between projections, convolutions and gates.

# %%
with torch.no_grad():
    for mixer in (m for m in mixers if m.pure):
        M = mixer.matrix(x)  # (B, G, L, L)
        y = torch.einsum("bgij,bjgp->bigp", M, x.unflatten(-1, (M.shape[1], -1))).flatten(2)
        torch.testing.assert_close(y, mixer(x), atol=1e-9, rtol=0)
print("y = M x exactly:", ", ".join(type(m).__name__ for m in mixers if m.pure))

# %% [markdown]
# ## The picture
#
# Red entries are positive, blue ones negative, as square roots, full color at the largest entries off the diagonal;
# white is zero, or the smallest entry where all are positive.
# Under the matrix of the first group of channels stands what its numbers show: its pattern, its rank (singular values
# above 1e-6 of the largest), and the ranks of the blocks that a cut at the middle leaves below and above the diagonal.

# %%
figure, rows = plt.subplots(len(FAMILY), 9, figsize=(22.5, 20))
figure.subplots_adjust(left=0.025, right=0.965, top=0.95, bottom=0.045, hspace=0.58, wspace=0.12)
matrices, found = {}, {}


def label(axes, name: str, note: str) -> None:
    axes.set_title(name, fontsize=12, fontweight="bold")
    axes.set_xlabel(note, fontsize=9, color="0.25", linespacing=1.3)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color("0.75")


for row, (title, factories) in zip(map(list, rows), FAMILY.items(), strict=True):
    row[0].text(0, 1.21, title, transform=row[0].transAxes, fontsize=14, color="#2f4b7c")
    if len(matrices) == 0:
        axes = row.pop(0)
        show_matrix(axes, x[0] @ x[0].T)
        label(axes, "the input", "inner products\nof its tokens")
        axes.set_yticks([8, 24, 40, 56], list("ABAC"), fontsize=10, color="0.25")
        axes.tick_params(length=0)
    for axes, factory in zip(row[: len(factories)], factories, strict=True):
        mixer = build(factory)
        name = type(mixer).__name__
        with torch.no_grad():
            matrices[name] = mixer.matrix(x)[0, 0]
        found[name] = describe(matrices[name])
        show_matrix(axes, matrices[name])
        label(axes, name, "\n".join(found[name]).replace(", semi", ",\nsemi").replace(", lower", ",\nlower"))

spectra = rows[-1, -1]
for name, place in {"Toeplitz": (17, 4e-2), "Attention": (17, 5e-4), "Cauchy": (10, 2e-5), "Hydra": (5, 3e-8)}.items():
    values = torch.linalg.svdvals(matrices[name][L // 2 :, : L // 2])
    (line,) = spectra.semilogy(range(1, L // 2 + 1), values / values[0], marker=".", markersize=4, linewidth=1)
    spectra.text(*place, name, color=line.get_color(), fontsize=10)
spectra.set(ylim=(1e-8, 3), yticks=[1, 1e-3, 1e-6], xticks=[1, N, 16, 32], box_aspect=1)
spectra.tick_params(labelsize=9, labelcolor="0.25")
spectra.spines[["top", "left"]].set_visible(False)
spectra.yaxis.tick_right()
spectra.set_title("what crosses the middle", fontsize=12, fontweight="bold")
spectra.set_xlabel("relative singular values of\nthe block below the diagonal", fontsize=9, color="0.25")

for axes in figure.axes:
    if not axes.has_data():
        axes.remove()
figure.savefig("mixing_matrices.png", dpi=150)

# %% [markdown]
# ## How to read it
#
# - **Fixed or free.** `DFT` is the cosine matrix of `FNet` with an identity added, `Unstructured` is `Dense` with one.
#   Nothing of A B A C is in them, and the product costs O(L²) unless the entries have a law, as a Fourier transform.
# - **Convolutions.** `M[i, j]` depends on i − j: constant along diagonals, for `Pool` except at the ends.
#   `FourierFilter` and `AutoCorrelation` wrap around (circulant). `EMA` and `S4D` are sums of decaying modes, so they
#   are state spaces too. Only `AutoCorrelation`, which keeps the few lags at which the tokens repeat, and `Toeplitz`
#   read the tokens. An FFT gives the product in O(L log L).
# - **Queries and keys.** The blocks of A B A C appear. Softmax makes the rows sum to 1 and lifts a rank of `N` far
#   up; without it (`LowRank`) the matrix is an identity plus rank `N`, and the product is O(L N). `LongVQ` has as many
#   different columns as codes, but for the band near the diagonal where distance counts. `ProbSparse` has equal
#   entries in the rows of all queries but those whose scores are most uneven.
# - **State spaces.** The matrix has full rank, yet each block off the diagonal has rank `N`: what crosses from one side
#   of a position to the other fits into a state of `N` numbers. That is what makes the product O(L N). `Mamba` and
#   `Mamba2` fill one triangle (semiseparable), `Hydra` both (quasiseparable), with a diagonal of its own.
# - **Gates and delta rules.** One triangle each, of low rank below every cut. With a gate the entries of a column fade
#   along its rows, at rates that the tokens between decide; a delta rule also takes back what its key held before, so
#   that entries change sign.
#
# The last panel says the same in numbers: the spectrum of `Hydra`'s block ends after `N` values, `Toeplitz` has no end,
# and `Attention` and `Cauchy` fade.

# %%
for factory in FAMILY["State spaces: N numbers cross every cut"]:
    name = type(build(factory)).__name__
    below = torch.linalg.svdvals(matrices[name][L // 2 :, : L // 2])
    assert below[N] < 1e-6 * below[0], f"{name} hands on more than N numbers"

reads_tokens = []
with torch.no_grad():
    for mixer in mixers:
        if not torch.allclose(mixer.matrix(x), mixer.matrix(x.flip(1))):
            reads_tokens.append(type(mixer).__name__)
print("made from the tokens:", ", ".join(reads_tokens))
assert not {"DFT", "FNet", "Rand", "Dense", "Unstructured", "EMA", "S4D", "FourierFilter"} & set(reads_tokens)
assert {"AutoCorrelation", "Toeplitz", "Attention", "LongVQ", "LowRank", "Mamba", "Hydra"} <= set(reads_tokens)
assert found["LowRank"][1].startswith(f"I + rank {N},") and found["FourierFilter"][0] == "circulant"
torch.testing.assert_close(matrices["DFT"], torch.eye(L).double() + matrices["FNet"] / L**0.5)
