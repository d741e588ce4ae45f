"""Work counted over all operators, forward and backward, grows with the length as the registry says."""

import csv
import math
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from seqmix.commands.bench import kept_bytes
from seqmix.mixers import list_mixers, mixer_facts

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "mixers.py"
LENGTHS = (128, 256, 512)
# difference over difference: 2 for a + b L, 4 for a + b L + c L^2 with b small, between for L log L; the margin of L is
# for chunks of 5 and windows of 3, which divide no length here, that of L^2 for blocks of sqrt(L) rounded up
GROWTH = {"L": (1.98, 2.02), "L log L": (2.01, 2.3), "L log^2 L": (2.01, 2.6), "L^2": (3.2, 4.1)}

# what is registered is the cost of the plainest instance; these options change it
OTHERWISE = {
    ("DFT", 1): "L^2",  # multiplies by the stored matrix, as released
    ("DenseMLP", 1): "L",  # hidden width fixed
    ("MatrixMixer", 1): "L log L",  # Toeplitz inside
    ("MatrixMixer", 2): "L log L",  # DFT inside
    ("MatrixMixer", 3): "L^2",  # Softmax inside
    ("Mega", 2): "L",  # chunks
    ("Mega", 3): "L",
    ("ProbSparse", 2): "L^2",  # rates queries by all keys
}


def _cost(name, example):
    return OTHERWISE.get((name, example), mixer_facts(name).cost)


CASES = [(name, i) for name in list_mixers() for i in range(len(mixer_facts(name).examples))]


@pytest.mark.parametrize(("name", "example"), CASES)
def test_work_grows_as_registered(name, example):
    a, b, c = (_work(name, example, L) for L in LENGTHS)
    low, high = GROWTH[_cost(name, example)]
    assert low <= (c - b) / (b - a) <= high, f"{name} does {a}, {b}, {c} operations at lengths {LENGTHS}"


@pytest.mark.parametrize(("name", "example"), [case for case in CASES if _cost(*case) != "L^2"])
def test_what_is_kept_for_the_backward_pass_grows_linearly(name, example):
    a, b, c = (kept_bytes(*_build(name, example, L)) for L in LENGTHS)
    # the same margin
    assert c - b <= 2.02 * (b - a), f"{name} keeps {a}, {b}, {c} bytes at lengths {LENGTHS}"


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_benchmark_measures_and_leaves_out(processes, tmp_path, monkeypatch):
    if not processes:
        # one for each mixer, each of which imports PyTorch
        monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", lambda *a, **k: ThreadPoolExecutor(1))
    options = ["--lengths", "4,16", "--mixers", "Dense,Pool", "--d_model", "8", "--gib", "1e-6", "--out"]
    monkeypatch.setattr(sys, "argv", ["mixers.py", *options, str(tmp_path / "new" / "m.csv")])
    runpy.run_path(str(BENCHMARK), run_name="__main__")
    with (tmp_path / "new" / "m.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["mixer"], r["length"]) for r in rows] == [
        (m, n) for m in ("Attention", "Dense", "Pool") for n in ("4", "16")
    ]
    # the output, 8 floats a token, and the gradient to the input are alive together
    assert all(float(r["peak KiB/token"]) >= 2 * 8 * 4 / 1024 for r in rows if r["length"] == "4")
    assert all(r["left out"] == "over 0 GiB" and not r["forward us/token"] for r in rows if r["length"] == "16")


def test_crossover_of_the_benchmark():
    crossover = runpy.run_path(str(BENCHMARK))["crossover"]
    attention = {4: 1.0, 16: 4.0, 64: 16.0}
    # equal to attention in the middle, in logarithms, of 4 and 16
    assert crossover({4: 2.0, 16: 2.0, 64: 2.0}, attention) == "8"
    assert crossover({4: 0.5, 16: 0.5}, attention) == "<= 4"
    # cheaper once and dearer again does not count
    assert crossover({4: 0.5, 16: 5.0, 64: 20.0}, attention) == "-"


class Work(TorchDispatchMode):
    """Counts operations: the exact number in matrix products and attention, n log n for transforms, else elements."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "seqmix":
            # an operator of ours is counted by what its implementation does, so look into it
            with self:
                return OPDEFS[func._name.removesuffix(".default")]._init_fn(*args, **kwargs)
        out = func(*args, **kwargs)
        if not func.is_view:
            self.total += _operations(func, args, kwargs, out)
        return out


def _operations(func, args, kwargs, out):
    name = func.overloadpacket.__name__
    if "attention_for_cpu" in name:
        backward = "backward" in name
        q, k = args[1:3] if backward else args[:2]
        # two products of L x L x P forward, five backward
        return (10 if backward else 4) * q.numel() * k.shape[-2]
    if func.overloadpacket in flop_registry:
        return flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
    sizes = [t.numel() for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
    if "_fft_" in name:
        return round(max(sizes) * sum(math.log2(max(args[0].shape[i], out.shape[i])) for i in args[1]))
    return max(sizes, default=0)


def _build(name, example, L):
    torch.manual_seed(0)
    facts = mixer_facts(name)
    # float64, so that the portable implementations run: a compiled kernel cannot be looked into
    mixer = facts.cls(8, L, **facts.examples[example]).double()
    return mixer, torch.randn(1, L, 8, dtype=torch.float64, requires_grad=True)


def _work(name, example, L):
    mixer, x = _build(name, example, L)
    with Work() as work:
        mixer(x).sum().backward()
    return work.total
