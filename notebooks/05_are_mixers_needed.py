# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Are sequence mixers needed?
#
# JustDense (Park et al., 2025, arXiv:2508.09153) asks whether attention and scans earn their place in time-series
# models: replace each by a dense layer, one free matrix along the same axis, keep everything else, and compare. Here
# is the question on one generated data set, live, and the answer of the recorded study beside it.

# %%
import logging
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.lines import Line2D

import seqmix
from seqmix.commands.justdense import pairs_of, read, verdicts
from seqmix.commands.report import all_tasks
from seqmix.commands.tables import markdown
from seqmix.data import Cycles
from seqmix.mixers import Dense
from seqmix.models import Densify, EncoderForecaster, PatchTST, Transformer, iTransformer
from seqmix.tasks import AdamW, Forecasting

# %% [markdown]
# ## Data where the axis matters
#
# Six channels follow the first one a day later: what they do next stands in the window of the first channel and nowhere
# in their own. A model in which channels meet can find it.

# %%
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
data = Cycles(context=48, horizon=12, batch_size=48, eval_batch_size=256, n_steps=1200, seed=0)
MODELS = {
    "PatchTST": partial(PatchTST, d_model=32, n_layers=1, n_heads=4, expand=2),
    "iTransformer": partial(iTransformer, d_model=32, n_layers=1, n_heads=4, expand=2),
    "Transformer": partial(Transformer, d_model=32, n_layers=1, n_heads=4, expand=2),
}

# %% [markdown]
# ## A model and its twin
#
# `task.densify` runs the model once to see what each mixer mixes, and puts a dense layer of the same size in its place.
# The command line has the same as `--densify true`.

# %%
for name, encoder in MODELS.items():
    for place in Densify(n_heads=4)(
        EncoderForecaster(data.series, encoder=encoder), {"x": torch.zeros(1, 48, data.n_channels)}
    ):
        print(f"{name}: {place.mixer} along {place.axis} becomes 4 matrices of {place.length} x {place.length}")


# %%
def train(encoder, *, dense: bool) -> tuple[Forecasting, float]:
    """The trained task and its test error; the same seed, steps and learning rate for all."""
    pl.seed_everything(0, verbose=False)
    task = Forecasting(
        partial(EncoderForecaster, encoder=encoder), data.series, optim=AdamW(lr=1e-2, warmup=0.1), patience=None
    )
    if dense:
        task.densify(Densify(n_heads=4))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=4,
        logger=False,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, data)
    (metrics,) = trainer.test(task, data, verbose=False)
    return task, metrics["test_mse"]


tasks, errors = {}, {}
for name, encoder in MODELS.items():
    for dense in (False, True):
        tasks[name, dense], errors[name, dense] = train(encoder, dense=dense)
    print(f"{name:>12}: test MSE {errors[name, False]:.3f}, densified {errors[name, True]:.3f}")

# %% [markdown]
# Where channels do not meet, in PatchTST, neither attention nor a dense layer can find the lag: which axis is mixed
# comes before what mixes it. Then the mixers differ. Along time the twin of the Transformer is as good as attention;
# across variates four matrices, the same for every window, do not reach what attention finds in the same few epochs.

# %%
apart, *together = MODELS
assert max(errors[name, True] for name in together) < min(errors[apart, False], errors[apart, True])

# %% [markdown]
# ## The recorded study
#
# `benchmarks/justdense.py` trains seven models and their twins on five tasks; `seqmix report justdense` prints all of
# it. A change above zero says that the dense layer is worse.

# %%
study = Path(seqmix.__file__).parents[1] / "configs" / "results" / "study"
pairs = pairs_of(read(study), [], all_tasks())
print(markdown(verdicts(pairs)))

# %%
figure, axes = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained", width_ratios=(1, 1.1, 1.5))
matrix = next(m for m in tasks["Transformer", True].modules() if isinstance(m, Dense)).weight.detach()[0].numpy()
limit = abs(matrix).max()
axes[0].imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit)
axes[0].set(title="What stands in place of attention:\na matrix along time", xlabel="from hour", ylabel="to hour")
for y, name in enumerate(MODELS):
    before, after = errors[name, False], errors[name, True]
    axes[1].plot([before, after], [y, y], color="0.7", zorder=0)
    axes[1].scatter([before, after], [y, y], s=70, c=["C0", "C1"])
    axes[1].annotate(name, (max(before, after), y), (10, 0), textcoords="offset points", va="center")
axes[1].set(title="Live: test error with the mixer\nand with a dense layer", xlabel="MSE", yticks=[], ylim=(-0.6, 2.6))
axes[1].set_xlim(0, 1.5 * max(errors.values()))
dots = [Line2D([], [], marker="o", ls="", color=color) for color in ("C0", "C1")]
axes[1].legend(dots, ["mixer", "dense layer"], frameon=False)
spread, studies = np.random.default_rng(0), sorted({pair.study for pair in pairs})
for y, name in enumerate(studies):
    changes = np.array([100 * pair.change for pair in pairs if pair.study == name])
    better = changes < 0
    heights = y + spread.uniform(-0.22, 0.22, len(changes))
    axes[2].scatter(changes.clip(-20, 20), heights, s=14, c=np.where(better, "C1", "C0"), clip_on=False)
    axes[2].plot(2 * [np.median(changes)], [y - 0.35, y + 0.35], color="0.2")
    axes[2].annotate(f"{better.sum()} of {len(changes)}", (21, y), va="center", annotation_clip=False)
axes[2].axvline(0, color="0.6", linewidth=1, zorder=0)
axes[2].set_yticks(range(len(studies)), [name.replace("_", " ") for name in studies])
axes[2].set_title("Recorded: each model on each data set;\norange, and counted, where the dense layer is better")
axes[2].set(xlabel="change of the error in percent", xlim=(-20, 20))
for each in axes[1:]:
    each.spines[["top", "right", "left"]].set_visible(False)
    each.tick_params(axis="y", length=0)
figure.savefig("are_mixers_needed.png", dpi=110)
