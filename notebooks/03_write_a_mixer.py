# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Write a mixer
#
# A mixer is one class in one file. This notebook writes one, an exponential moving average with a decay per channel,
# and then uses what comes with the contract: tests, picture, benchmark, command line, training.

# %%
import importlib
import os
import sys
import tempfile
from pathlib import Path

os.chdir(tempfile.mkdtemp())  # a folder of its own for the file and the results
sys.path.insert(0, os.getcwd())

# %% [markdown]
# ## The file
#
# `y[t] = a y[t-1] + (1 - a) x[t]` with a learned `a` in (0, 1) for each channel. `forward` has the recurrence in
# parallel, `step` has it as it stands, and `matrix` writes out what both compute. Two class attributes are promises
# that the tests hold it to: `causal`, and `pure`, that the matrix is all there is.

# %%
Path("smoothing.py").write_text('''\
"""Exponential smoothing as a sequence mixer."""

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError
from seqmix.mixers import Mixer, zero_masked
from seqmix.mixers.decay import decay_kernel, decay_scan


class Smoothing(Mixer):
    """Exponential moving average with a learned decay per channel.

    ``y[t] = a y[t-1] + (1 - a) x[t]`` with ``a`` in (0, 1).

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D) time, O(L D) memory.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        init_halflife: positions after which an input has lost half of its weight, at initialization.

    Raises:
        ConfigError: if ``init_halflife`` is not positive.
    """

    causal = True
    pure = True

    def __init__(self, d_model: int, max_len: int | None = None, *, init_halflife: float = 4.0):
        super().__init__()
        if init_halflife <= 0:
            raise ConfigError(f"init_halflife = {init_halflife} is not a number of positions; use one above 0")
        decay = torch.full((d_model,), 0.5 ** (1 / init_halflife))
        self.logit = nn.Parameter(decay.logit())  # (D,)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = zero_masked(x, mask)
        log_decay, share = self._mode()
        y = decay_scan(x.to(share.dtype), log_decay, share).to(x.dtype)
        return zero_masked(y, mask)

    def matrix(self, x: Tensor) -> Tensor:
        B, L, D = x.shape
        t = torch.arange(L, device=x.device)
        lag = t.unsqueeze(1) - t
        kernel = decay_kernel(*self._mode(), L)[:, lag.clamp(min=0)].tril()  # (D, L, L)
        return kernel.to(x.dtype).expand(B, D, L, L)

    def init_state(self, batch_size: int) -> Tensor:
        return self.logit.new_zeros(batch_size, *self.logit.shape)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        a = self.logit.sigmoid()
        y = a * state + (1 - a) * x
        return y, y

    def _mode(self) -> tuple[Tensor, Tensor]:
        # powers of the decay need more digits than bfloat16 has
        logit = self.logit.to(torch.promote_types(self.logit.dtype, torch.float32)).unsqueeze(1)
        return nn.functional.logsigmoid(logit), (-logit).sigmoid()  # (D, 1) twice
''')
Smoothing = importlib.import_module("smoothing").Smoothing

# %% [markdown]
# ## Its tests
#
# `check_mixer` runs the contract that every mixer of the package passes: shapes and dtypes, gradients to every
# parameter, masks on either side filled with NaN, causality to the last bit, `step` against `forward`, `matrix` against
# `forward`, saved state, odd lengths, strides, `torch.compile`, and a docstring with a line for every option.

# %%
from seqmix.testing import CHECKS, check_mixer

check_mixer(Smoothing)
print(", ".join(check.__name__.removeprefix("check_") for check in CHECKS))

# %% [markdown]
# They can fail. Without the line that clears masked inputs, the message says what leaks, and where:

# %%
source = Path("smoothing.py").read_text()
Path("careless.py").write_text(source.replace("        x = zero_masked(x, mask)\n", ""))
try:
    check_mixer(importlib.import_module("careless").Smoothing)
except AssertionError as e:
    message = str(e)
print(message)
assert message.startswith("mask: Smoothing leaks padding on the left")

# %% [markdown]
# ## On the command line
#
# No registration is needed: its dotted path, from the folder it is in, names it, and its options are options. `seqmix`
# here is the function behind the command `seqmix`.

# %%
from seqmix.cli import run


def seqmix(command: str) -> None:
    print(f"$ seqmix {command}")
    assert run(command.split()) == 0


seqmix("matrix --mixer smoothing.Smoothing --mixer.init_halflife 8 --length 64 --out smoothing.png")
seqmix("bench --mixer smoothing.Smoothing --lengths 256,512,1024,2048 --repeats 3 --out bench.csv")

# %% [markdown]
# In a config it stands where any mixer stands. The training below is one batch, to show that it runs: drop
# `fast_dev_run` to train, and the table at the end becomes a result beside two baselines.

# %%
Path("smoothing.yaml").write_text("""\
seed_everything: 0
model:
  class_path: Forecasting
  init_args:
    model:
      class_path: MixerForecaster
      init_args:
        d_model: 32
        mixer:
          class_path: smoothing.Smoothing
          init_args: {init_halflife: 8}
data:
  class_path: Cycles
  init_args: {context: 96, horizon: 24}
""")
seqmix("fit --config smoothing.yaml --trust smoothing --trainer.fast_dev_run true")

# %% [markdown]
# ## In Python
#
# The same model in a loop of one's own, for three passes over the training windows. The loss falls, and the half-lives
# leave the common value they started from: some channels learn to forget faster, others to remember longer.

# %%
import math
from functools import partial

import torch

from seqmix.data import Cycles
from seqmix.models import MixerForecaster

torch.manual_seed(0)
data = Cycles(context=96, horizon=24, batch_size=32)
model = MixerForecaster(data.series, mixer=partial(Smoothing, init_halflife=4.0), d_model=32, n_layers=1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
losses = []
batches = data.train_dataloader()
for batch in (batch for _ in range(3) for batch in batches):
    loss = torch.nn.functional.mse_loss(model(batch["x"]), batch["y"])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
(mixer,) = (m for m in model.modules() if isinstance(m, Smoothing))
halflife = (-math.log(2) / torch.nn.functional.logsigmoid(mixer.logit)).detach().sort().values
print(f"{len(losses)} steps, loss {first:.3f} -> {last:.3f}, half-lives {halflife[0]:.2g} to {halflife[-1]:.2g}")
assert last < 0.8 * first
assert halflife[0] < 3.5 and halflife[-1] > 4.5

# %% [markdown]
# ## The picture

# %%
import csv

import matplotlib.pyplot as plt

from seqmix.commands.matrix import describe, show_matrix

M = Smoothing(1, init_halflife=8.0).double().matrix(torch.zeros(1, 64, 1).double())[0, 0].detach()
structure, ranks = describe(M)
assert structure == "lower triangular, Toeplitz, semiseparable" and ranks == "rank 64, off-diagonal 1 | 0"

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
show_matrix(left, M)
left.set(title="its matrix, half-life 8", xlabel=f"{structure}\n{ranks}", xticks=[], yticks=[])

with open("bench.csv", newline="") as file:
    rows = list(csv.DictReader(file))
for name in ("Smoothing", "Attention"):
    mine = [row for row in rows if row["mixer"] == name]
    middle.semilogx(
        [int(row["length"]) for row in mine], [float(row["forward + backward"]) for row in mine], marker="o", label=name
    )
middle.set(title="forward and backward, width 64", xlabel="length", ylabel="µs per token")
middle.set_ylim(bottom=0)
middle.set_xticks([256, 512, 1024, 2048], ["256", "512", "1,024", "2,048"])
middle.minorticks_off()
middle.legend(frameon=False)

right.plot(halflife, marker=".", linestyle="none", markersize=9)
right.axhline(4, color="0.6", linewidth=1)
right.annotate("at the start", (0, 4), xytext=(0, 3), textcoords="offset points", color="0.4")
right.set(title="half-lives after training", xlabel="channel, sorted", ylabel="patches")
for axes in (middle, right):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig("write_a_mixer.png", dpi=150)
print(Path("write_a_mixer.png").resolve())

# %% [markdown]
# ## Into the package
#
# Put the file into `seqmix/mixers/`, add `@register(paper="...", cost="L")` above the class and one line to
# `seqmix/mixers/__init__.py`. The contract tests, the count of operations against `cost`, `seqmix list`, the table in
# the README and `benchmarks/mixers.py` then find it by themselves.
