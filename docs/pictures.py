"""The pictures of the README, each for a light and a dark page: ``python docs/pictures.py``.

The forecast is that of the first Python block of the README. The matrices are those of mixers with fresh weights.
"""

import os
import re
import tempfile
from functools import partial
from pathlib import Path

import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from seqmix.commands.matrix import show_matrix
from seqmix.mixers import (
    EMA,
    Attention,
    FNet,
    GatedDeltaNet,
    Hydra,
    LongVQ,
    Mamba,
    Pool,
    RetNet,
    SlidingWindow,
    Toeplitz,
)

DOCS = Path(__file__).parent
# colors on white, and in their place on the dark page of a code host
DARK = {
    "#ffffff": "#0d1117",
    "#222222": "#e6edf3",
    "#8a8a8a": "#9198a1",
    "#e6e6e6": "#2a313c",
    "#bbbbbb": "#59616b",
    "#0072b2": "#56b4e9",
}
L, D, N = 64, 16, 4


def main() -> None:
    """Draw both pictures twice."""
    for name, figure in {"forecast": forecast(), "mixing_matrices": matrices()}.items():
        figure.savefig(DOCS / f"{name}.png", dpi=144)
        darken(figure)
        figure.savefig(DOCS / f"{name}_dark.png", dpi=144)


def forecast() -> Figure:
    """The picture that the first Python block of the README draws."""
    (block, *_) = re.findall(r"```python\n(.*?)```", (DOCS.parent / "README.md").read_text(), re.DOTALL)
    names = {}
    with tempfile.TemporaryDirectory() as folder:
        here = Path.cwd()
        os.chdir(folder)
        try:
            exec(block, names)
        finally:
            os.chdir(here)
    return names["forecaster"].plot(names["df"], names["forecast"])


def matrices() -> Figure:
    """An input and the mixing matrices of eleven mixers on it: four segments, A B A C, plus noise."""
    torch.manual_seed(0)
    tokens = torch.randn(3, D)
    x = 1.5 * (tokens[[0, 1, 0, 2]].repeat_interleave(L // 4, 0) + 0.3 * torch.randn(L, D)).double()[None]
    factories = {
        "FNet": partial(FNet, hidden=False),
        "Pool": partial(Pool, pool_size=9),
        "EMA": EMA,
        "Toeplitz": partial(Toeplitz, headdim=4, qk_dim=N),
        "Attention": partial(Attention, n_heads=4),
        "SlidingWindow": partial(SlidingWindow, window=12),
        "LongVQ": partial(LongVQ, d_qk=N, n_codes=8, window=4),
        "Mamba": partial(Mamba, d_state=N),
        "Hydra": partial(Hydra, headdim=4, d_state=N),
        "RetNet": partial(RetNet, n_heads=2),
        "GatedDeltaNet": partial(GatedDeltaNet, n_heads=4, headdim=N),
    }
    figure = Figure(figsize=(10, 3.9), facecolor="white")
    panels = figure.subplots(2, 6, gridspec_kw={"hspace": 0.22, "wspace": 0.08})
    figure.subplots_adjust(left=0.03, right=0.99, top=0.93, bottom=0.02)
    inner, *others = panels.flat
    show_matrix(inner, x[0] @ x[0].T)
    inner.set_yticks([8, 24, 40, 56], list("ABAC"), fontsize=9, color="#8a8a8a")
    inner.tick_params(length=0)
    inner.set_title("the input", fontsize=10, color="#8a8a8a")
    for axes, (name, factory) in zip(others, factories.items(), strict=True):
        torch.manual_seed(0)
        mixer = factory(D, L).double().eval()
        with torch.no_grad():
            show_matrix(axes, mixer.matrix(x)[0, 0])
        axes.set_title(name, fontsize=10, color="#222222")
        axes.set_yticks([])
    for axes in panels.flat:
        axes.set_xticks([])
        for spine in axes.spines.values():
            spine.set_color("#bbbbbb")
    return figure


def darken(figure: Figure) -> None:
    """Replace each color of a figure by that for a dark page."""
    for artist in figure.findobj():
        kinds = ("color",) if isinstance(artist, Text) else ("color", "facecolor", "edgecolor")
        for kind in kinds:
            get, put = getattr(artist, f"get_{kind}", None), getattr(artist, f"set_{kind}", None)
            if get is None or put is None:
                continue
            try:
                found = to_hex(get())
            except ValueError:
                continue
            if found in DARK:
                put(DARK[found])


if __name__ == "__main__":
    main()
