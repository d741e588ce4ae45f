# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Images with sequence mixers
#
# An image is a grid of tokens, and a sequence mixer mixes tokens: an *adapter* decides in which order it meets them.
# `Raster` reads row after row, `Axial` all rows and then all columns, `CrossScan` four ways at once. Every mixer of
# `seqmix list mixers` works under each of them.

# %%
import csv
import statistics
import time
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

import seqmix
from seqmix.mixers import EMA, Hydra
from seqmix.vision import (
    Axial,
    CrossScan,
    FeaturePyramid,
    MetaFormer,
    Pool2d,
    Raster,
    SepConv2d,
    create_model,
    list_models,
)

torch.manual_seed(0)
torch.set_num_threads(1)
started = time.perf_counter()

# %% [markdown]
# ## What a token hears of
#
# One bright token in the middle of a 9 x 9 grid, and where it is heard after one layer. A causal mixer in raster order
# tells only what comes later; along rows and columns it tells a quarter; scanned four ways it tells all.

# %%
point = torch.zeros(1, 9, 9, 4)
point[0, 4, 4] = 1
reach = {
    "Pool2d: born on a grid": Pool2d(4),
    "Raster(EMA): one order": Raster(4, mixer=EMA),
    "Axial(EMA): rows, then columns": Axial(4, mixer=EMA),
    "CrossScan(EMA): four orders": CrossScan(4, mixer=EMA),
}
figure, axes = plt.subplots(1, 5, figsize=(15, 3.4), layout="constrained", width_ratios=[1, 1, 1, 1, 1.7])
heard = {}
for axis, (name, mixer) in zip(axes, reach.items(), strict=False):
    with torch.no_grad():
        heard[name] = (mixer(point) != 0).any(-1)[0]
        strength = mixer(point).norm(dim=-1)[0]
    axis.imshow(strength.clamp(max=strength.flatten().sort().values[-2]).numpy(), cmap="Blues")
    axis.set(title=name, xticks=[], yticks=[], xlabel=f"{int(heard[name].sum())} of 81 tokens")

assert [int(h.sum()) for h in heard.values()] == [9, 41, 25, 81]

# %% [markdown]
# ## One backbone, eleven mixers
#
# Is it the mixer, or the frame around it? *MetaFormer* (arXiv:2111.11418) says: much of it is the frame. The table asks
# that in our own house: one small backbone of two stages, two epochs over 20,000 images of Fashion-MNIST, the same
# settings for all, three seeds. `benchmarks/fashion_mnist.py` makes it, `benchmarks/results/fashion_mnist.csv` holds
# every run.

# %%
results = Path(seqmix.__file__).parents[1] / "benchmarks" / "results" / "fashion_mnist.csv"
with results.open(newline="") as file:
    runs = list(csv.DictReader(file))
table = []
for name in dict.fromkeys(run["mixer"] for run in runs):
    mine = [run for run in runs if run["mixer"] == name]
    accuracy = [100 * float(run["test_accuracy"]) for run in mine]
    speed = statistics.median(float(run["images_per_second"]) for run in mine)
    table.append((statistics.mean(accuracy), name, len(mine), int(mine[0]["parameters"]), speed))
table.sort(reverse=True)
print(f"{'mixer':22}{'accuracy, %':>12}{'seeds':>7}{'parameters':>12}{'images/s':>10}")
for accuracy, name, seeds, parameters, speed in table:
    print(f"{name:22}{accuracy:12.2f}{seeds:7}{parameters:12,}{speed:10.0f}")
    axes[4].scatter(speed, accuracy, s=parameters / 1200)
    axes[4].annotate(name, (speed, accuracy), xytext=(5, 4), textcoords="offset points", fontsize=8)
axes[4].set(xscale="log", xlabel="images/s in training, one core", ylabel="test accuracy, %", title="Fashion-MNIST")
axes[4].spines[["top", "right"]].set_visible(False)
figure.savefig("images_with_sequence_mixers.png", dpi=150)

# %% [markdown]
# ## Train one
#
# Waves under noise, across or down, and a MetaFormer whose mixer is `Hydra`, a state-space model for sequences. Nothing
# in it knows of images but the adapter and the convolutions between the stages.


# %%
def waves(B: int, size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of a wave of any length and phase under noise, and whether it runs across or down."""
    labels = torch.arange(B) % 2
    place = torch.arange(size) * (0.6 + 0.6 * torch.rand(B, 1)) + 2 * torch.pi * torch.rand(B, 1)
    across = place.sin()[:, None, None].expand(B, 1, size, size)
    return torch.where(labels[:, None, None, None] == 1, across.mT, across) + 0.5 * torch.randn(across.shape), labels


hydra = partial(Raster, mixer=partial(Hydra, d_state=8, headdim=16, expand=1))
tiny = MetaFormer(depths=(1, 1), dims=(16, 32), stem=(3, 2, 1), mixers=[hydra], num_classes=2, in_chans=1)
optimizer = torch.optim.AdamW(tiny.parameters(), lr=5e-3)
for _ in range(40):
    images, labels = waves(16)
    loss = F.cross_entropy(tiny(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
tiny.eval()
images, labels = waves(100)
with torch.no_grad():
    accuracy = (tiny(images).argmax(1) == labels).float().mean()
print(f"across or down: {accuracy:.0%} of 100 new images")
assert accuracy > 0.9

# %% [markdown]
# ## Dense tasks
#
# `FeaturePyramid` takes the head off and gives the maps of the stages; `create_model(..., features_only=True)` does
# the same to a published model. `feature_info` says how many channels they have and how many pixels a cell covers,
# which is all a head needs to know: here a plain feature pyramid network that finds discs and squares, pixel by pixel.


# %%
def shapes(B: int, size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Images with a gray disc or a bright square, and the class of each pixel: 0 for neither."""
    grid = torch.arange(size)
    images, labels = 0.3 * torch.rand(B, 1, size, size), torch.zeros(B, size, size, dtype=torch.long)
    for b in range(B):
        kind = b % 2 + 1
        row, column = torch.randint(7, size - 7, (2,))
        dy, dx = (grid - row)[:, None], (grid - column)[None]
        inside = dy**2 + dx**2 <= 36 if kind == 1 else (dy.abs() <= 5) & (dx.abs() <= 5)
        labels[b][inside] = kind
        images[b, 0][inside] = 0.2 + 0.3 * kind + 0.1 * torch.rand(())
    return images, labels


class FPN(nn.Module):
    """Lateral 1 x 1 convolutions, added from coarse to fine, and one convolution to the classes."""

    def __init__(self, channels: list[int], width: int, n_classes: int):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(C, width, 1) for C in channels)
        self.out = nn.Conv2d(width, n_classes, 3, padding=1)

    def forward(self, maps: list[torch.Tensor], size: torch.Size) -> torch.Tensor:
        y = self.lateral[-1](maps[-1])
        for lateral, finer in zip(self.lateral[-2::-1], maps[-2::-1], strict=True):
            y = lateral(finer) + F.interpolate(y, finer.shape[2:], mode="nearest")
        return F.interpolate(self.out(y), size, mode="bilinear")


pyramid = FeaturePyramid(MetaFormer(depths=(1, 1), dims=(16, 32), mixers=[SepConv2d], stem=(5, 2, 2), in_chans=1))
head = FPN(pyramid.feature_info.channels(), 16, 3)
optimizer = torch.optim.AdamW([*pyramid.parameters(), *head.parameters()], lr=5e-3)
for _ in range(60):
    images, pixels = shapes(8)
    loss = F.cross_entropy(head(pyramid(images), images.shape[2:]), pixels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
images, pixels = shapes(50)
with torch.no_grad():
    found = head(pyramid(images), images.shape[2:]).argmax(1)
for kind, name in enumerate(("background", "disc", "square")):
    overlap = ((found == kind) & (pixels == kind)).sum() / ((found == kind) | (pixels == kind)).sum()
    print(f"{name}: intersection over union {overlap:.2f}")
    assert overlap > 0.4

with torch.device("meta"):
    published = create_model("caformer_s18", features_only=True)
    maps = published(torch.empty(1, 3, 256, 320))
print("caformer_s18:", [tuple(m.shape[1:]) for m in maps], "at strides", published.feature_info.reduction())
assert published.feature_info.reduction() == [4, 8, 16, 32]

# %% [markdown]
# `list_models()` names the published models; `seqmix predict --model caformer_s18 --weights FILE --images FOLDER` names
# what images show.

# %%
print(len(list_models()), "image models, among them", ", ".join(list_models("caformer*")[:4]))
print(f"{time.perf_counter() - started:.0f} s in all")
