"""``seqmix matrix``: structure and ranks are read off right, and the diagonal does not hide the rest."""

import pytest
import torch
from matplotlib.figure import Figure

from seqmix.cli import run
from seqmix.commands.matrix import describe, show_matrix

L = 16
I = torch.eye(L).double()  # noqa: E741  the identity
LAG = torch.arange(L)[:, None] - torch.arange(L)
SHORT = torch.randn(2, L, 2, generator=torch.Generator().manual_seed(0)).double()
THIN = SHORT[0] @ SHORT[1].T  # rank 2
DENSE = torch.randn(L, L, generator=torch.Generator().manual_seed(1)).double()
TAPS = DENSE[0]


@pytest.mark.parametrize(
    ("matrix", "structure", "ranks"),
    [
        (0 * I, "diagonal", "rank 0, off-diagonal 0 | 0"),
        (3 * I, "diagonal", "rank 16, off-diagonal 0 | 0"),
        (THIN, "low rank", "rank 2, off-diagonal 2 | 2"),
        (I + THIN, "low rank", "I + rank 2, off-diagonal 2 | 2"),
        (THIN.tril() - 2 * THIN.mT.triu(1) + DENSE.diag().diag(), "quasiseparable", "rank 16, off-diagonal 2 | 2"),
        (THIN.tril() + 2 * I, "lower triangular, semiseparable", "rank 16, off-diagonal 2 | 0"),
        (DENSE.tril(), "lower triangular", "rank 16, off-diagonal 8 | 0"),
        (DENSE.triu(), "upper triangular", "rank 16, off-diagonal 0 | 8"),
        (DENSE + DENSE.mT, "symmetric", "rank 16, off-diagonal 8 | 8"),
        (TAPS[LAG % L], "circulant", "rank 16, off-diagonal 8 | 8"),
        (torch.cat([TAPS, 2 * TAPS])[LAG + L], "Toeplitz", "rank 16, off-diagonal 8 | 8"),
        (0.5 ** LAG.clamp(0) * (LAG >= 0), "lower triangular, Toeplitz, semiseparable", "rank 16, off-diagonal 1 | 0"),
        (DENSE.tril(1).triu(-1), "banded, 3 wide", "rank 16, off-diagonal 1 | 1"),
        (DENSE.softmax(1), "stochastic", "rank 16, off-diagonal 8 | 8"),
        (DENSE, "dense", "rank 16, off-diagonal 8 | 8"),
        (DENSE[:1, :1], "diagonal", "rank 1, off-diagonal 0 | 0"),
    ],
)
def test_describe(matrix, structure, ranks):
    assert describe(matrix) == (structure, ranks)


def test_colors_saturate_off_the_diagonal():
    axes = Figure().add_subplot()
    M = 1e6 * I
    M[3, :4], M[7, 0] = -0.2, 0.05
    white, limit = show_matrix(axes, M)
    shade = torch.as_tensor(axes.images[0].get_array().data)
    # three of 256 entries are -0.2, one is 0.05
    assert white == 0 and 0.05 < limit <= 0.2
    assert shade[0, 0] == 1 and shade[3, 0] == -1 and shade[5, 0] == 0
    torch.testing.assert_close(shade[7, 0].item(), (0.05 / limit) ** 0.5)


def test_white_is_the_smallest_entry_of_a_positive_matrix():
    axes = Figure().add_subplot()
    M = 5 + torch.rand(L, L)
    white, limit = show_matrix(axes, M)
    shade = axes.images[0].get_array()
    assert white == M.min() and 0.9 < limit < 1 and shade.min() == 0 and shade.max() == 1


def test_a_mixer_with_a_matrix_under_some_options_only(tmp_path, capsys):
    argv = ["matrix", "--mixer", "FNet", "--length", "8", "--d_model", "4", "--out", str(tmp_path / "f.png")]
    assert run(argv) == 1
    assert (
        capsys.readouterr().err
        == "seqmix: FNet mixes the width too, so no L x L matrix does it; build it with hidden=False\n"
    )
    assert run([*argv, "--mixer.hidden", "false"]) == 0
    assert capsys.readouterr().out.startswith(
        "FNet: symmetric; rank 5, off-diagonal 4 | 4\n1 group(s) of 8 x 8, drawn to "
    )
