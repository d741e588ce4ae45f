"""``seqmix matrix``: draw the mixing matrix of a mixer and describe its structure."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqmix.commands._function import call
from seqmix.commands.outputs import check_picture, save_picture
from seqmix.errors import ConfigError
from seqmix.mixers import Mixer, MixerFactory


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    call(draw, command, argv)


def draw(
    *,
    mixer: MixerFactory,
    length: int = 256,
    d_model: int = 64,
    groups: bool = False,
    seed: int = 0,
    out: str = "matrix.png",
) -> None:
    """Draw the mixing matrix of a mixer with fresh weights on one random input, with its structure and ranks.

    Args:
        mixer: the mixer, by class name or dotted path; ``--mixer.<option>`` sets its options.
        length: sequence length L.
        d_model: width D.
        groups: draw the matrices of the first 16 groups of channels instead of the first only.
        seed: seed of the weights and of the input.
        out: output file; the ending gives the format.
    """
    check_picture("out", Path(out))
    torch.manual_seed(seed)
    module = mixer(d_model, length).double().eval()
    name = type(module).__name__
    if type(module).matrix is Mixer.matrix:
        raise ConfigError(f"{name} has no matrix(); `seqmix list mixers` shows the mixers that have one")
    try:
        with torch.no_grad():
            matrices = module.matrix(torch.randn(1, length, d_model).double())[0]  # (G, L, L)
    except TypeError as e:
        # some mixers have a matrix under some options only, and say which
        raise ConfigError(str(e)) from e
    structure, ranks = describe(matrices[0])
    _save(matrices[: 16 if groups else 1], f"{name}: {structure}\n{ranks}", Path(out))
    print(f"{name}: {structure}; {ranks}\n{len(matrices)} group(s) of {length} x {length}, drawn to {out}")


def show_matrix(axes: Any, matrix: Tensor) -> tuple[float, float]:
    """Draw ``matrix: (L, L)`` so that small entries show: red is positive, blue negative, as square roots.

    White is zero, or the smallest entry if that is positive. Colors saturate at the 99.5th percentile of the distances
    from it off the diagonal: the diagonal, often an identity added to the rest, would hide everything else.

    Returns:
        What is white, and the distance from it that has full color.
    """
    M = matrix.detach().double().numpy()
    white = max(float(M.min()), 0.0)
    M = M - white
    off = np.abs(M - np.diag(np.diag(M)))
    limit = float(np.quantile(off, 0.995) or off.max() or np.abs(M).max()) or 1.0
    shade = np.sign(M) * np.sqrt(np.minimum(np.abs(M) / limit, 1))
    axes.imshow(shade, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    return white, limit


def describe(matrix: Tensor) -> tuple[str, str]:
    """Structure and ranks of ``matrix: (L, L)``, computed from its values.

    Singular values under 1e-6 of the largest count as zero, and an identity that hides a low rank is split off. The
    ranks off the diagonal are those of the blocks below and above it that a cut at the middle leaves. A rank counts as
    low up to L / 4. For example ``quasiseparable``, ``rank 64, off-diagonal 4 | 4``.
    """
    M = matrix.double()
    half, eye = len(M) // 2, torch.eye(len(M)).double()
    whole, rest, below, above = (_rank(m) for m in (M, M - eye, M[half:, :half], M[:half, half:]))
    low = len(M) // 4
    rank = f"I + rank {rest}" if rest < min(whole, half) else f"rank {whole}"
    patterns = _patterns(M)
    if "lower triangular" in patterns and below <= low:
        patterns.append("semiseparable")
    if not patterns:
        patterns = [
            "low rank" if min(whole, rest) <= low else "quasiseparable" if max(below, above) <= low else "dense"
        ]
    return ", ".join(patterns), f"{rank}, off-diagonal {below} | {above}"


def _patterns(M: Tensor) -> list[str]:
    size, i = float(M.abs().max()), torch.arange(len(M))

    def same(a: Tensor, b: Tensor) -> bool:
        return bool(((a - b).abs() <= 1e-6 * size).all())

    width = int((i[:, None] - i).abs()[M != 0].max()) if size else 0
    if width == 0:
        return ["diagonal"]
    along = same(M[1:, 1:], M[:-1, :-1])
    around = along and same(M[1:, 0], M[:-1, -1])
    found = {
        f"banded, {2 * width + 1} wide": 4 * width < len(M),
        "lower triangular": not M.triu(1).any(),
        "upper triangular": not M.tril(-1).any(),
        "symmetric": same(M, M.mT) and not along,
        "circulant": around,
        "Toeplitz": along and not around,
        "stochastic": bool((M >= 0).all() and ((M.sum(1) - 1).abs() < 1e-5).all()),
    }
    return [word for word, holds in found.items() if holds]


def _rank(matrix: Tensor) -> int:
    values = torch.linalg.svdvals(matrix)
    return int((values > 1e-6 * values.max()).sum()) if values.numel() else 0


def _save(matrices: Tensor, title: str, out: Path) -> None:
    # the object interface: no window, no global state
    from matplotlib.figure import Figure

    columns = min(4, len(matrices))
    rows = -(-len(matrices) // columns)
    figure = Figure(figsize=(2 + 3 * columns, 1 + 3 * rows), layout="constrained")
    for g, matrix in enumerate(matrices):
        axes = figure.add_subplot(rows, columns, g + 1)
        white, limit = show_matrix(axes, matrix)
        axes.set(xlabel="from position", ylabel="to position")
        axes.set_title(f"group {g}: white {white:.2g}, full color ±{limit:.2g}", fontsize="small")
    figure.suptitle(title, fontsize="medium")
    save_picture(figure, out)
