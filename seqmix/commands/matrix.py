"""``seqmix matrix``: a picture of the operator that a mixer applies along the sequence."""

from pathlib import Path

import torch

from seqmix.commands._function import call
from seqmix.errors import ConfigError
from seqmix.mixers import Mixer, MixerFactory


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    call(draw, command, argv)


def draw(
    *,
    mixer: MixerFactory,
    length: int = 64,
    d_model: int = 16,
    groups: bool = False,
    seed: int = 0,
    out: str = "matrix.png",
) -> None:
    """Draw the mixing matrix of a mixer with fresh weights on one random input.

    Args:
        mixer: the mixer, by class name or dotted path; ``--mixer.<option>`` sets its options.
        length: length L of the sequence, so of the rows and columns.
        d_model: width D.
        groups: draw the matrix of every group of channels (the first 16), not their mean.
        seed: seed of the weights and of the input.
        out: file of the picture; its ending chooses the format.
    """
    torch.manual_seed(seed)
    module = mixer(d_model, length).eval()
    name = type(module).__name__
    if type(module).matrix is Mixer.matrix:
        raise ConfigError(f"{name} has no matrix(); `seqmix list mixers` shows the mixers that have one")
    with torch.no_grad():
        matrices = module.matrix(torch.randn(1, length, d_model))[0].float()  # (G, L, L)
    shown = matrices[:16] if groups else matrices.mean(0, keepdim=True)
    _plot(shown, f"{name}, {'each group' if groups else f'mean of {len(matrices)} group(s)'}", Path(out))
    print(f"{name}: {len(matrices)} group(s) of {length} x {length}, drawn to {out}")


def _plot(matrices: torch.Tensor, title: str, out: Path) -> None:
    # the object interface: no window, no global state
    from matplotlib.figure import Figure

    columns = min(4, len(matrices))
    rows = -(-len(matrices) // columns)
    figure = Figure(figsize=(1 + 3 * columns, 0.6 + 3 * rows), layout="constrained")
    top = float(matrices.abs().max()) or 1.0
    image = None
    for g, matrix in enumerate(matrices):
        axes = figure.add_subplot(rows, columns, g + 1)
        image = axes.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
        axes.set(xlabel="from position", ylabel="to position")
    if image is not None:
        figure.colorbar(image, ax=figure.axes, shrink=0.8)
    figure.suptitle(title)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
