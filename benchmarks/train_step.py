"""A training step of ``configs/tsm2_etth1.yaml``: what convolution, allocator and compiled kernels give.

    python benchmarks/train_step.py [--steps 30] [--threads 1]

Each row is a process of its own, since the allocator cannot be set back. Times are CPU milliseconds of the process, or
with several threads milliseconds of the clock, the median over the steps; ``data`` is the share of making the batch.
``seqmix fit`` tunes the allocator: its gain from the kernels is the last row beside the one before. Needs ETTh1 in
``$SEQMIX_DATA`` or ``./data``.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

VARIANTS = ("nn.Conv1d, scan in chunks", "channels-last convolution", "allocator", "compiled kernels")
CONFIG = Path(__file__).parent.parent / "configs" / "tsm2_etth1.yaml"


def measure(variant: int, steps: int, threads: int) -> None:
    """Print milliseconds of step and of batch, with the first ``variant`` measures on."""
    import torch
    from torch.nn import functional as F

    import seqmix.mixers.ssm as ssm
    from seqmix.data import Benchmark
    from seqmix.models import TSM2
    from seqmix.ops import depthwise_conv1d, packed, selective_scan, tune_allocator
    from seqmix.tasks import Forecasting

    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    torch.manual_seed(0)
    if variant < 3:
        packed.depthwise_conv1d = partial(depthwise_conv1d, impl="torch") if variant else _conv1d
        ssm.selective_scan = partial(selective_scan, impl="torch")
    if variant >= 2:
        tune_allocator()

    def _step() -> None:
        optimizer.zero_grad()
        F.mse_loss(model(batch), batch["y"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    config = yaml.safe_load(CONFIG.read_text())
    data = Benchmark(**config["data"]["init_args"], seed=0)
    build = partial(TSM2, **config["model"]["init_args"]["model"]["init_args"])
    model = Forecasting(build, data.series, normalize="window", normalize_affine=True)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config["model"]["init_args"]["optim"]["init_args"]["lr"], fused=True
    )
    batches = iter(data.train_dataloader())
    batch = next(batches)
    for _ in range(3):
        _step()
    loads, runs = [], []
    for _ in range(steps):
        batch, seconds = _timed(lambda: next(batches), clock)
        loads.append(seconds)
        runs.append(_timed(_step, clock)[1])
    print(statistics.median(runs) * 1e3, statistics.median(loads) * 1e3)


def _conv1d(x, weight, bias=None, *, padding="causal", activation=None):
    """``nn.Conv1d(groups=D)`` on the transpose, as every port of Mamba has it."""
    from torch.nn import functional as F

    K, L = weight.shape[1], x.shape[1]
    weight = weight.flip(-1) if padding == "anticausal" else weight
    y = F.conv1d(x.mT, weight.unsqueeze(1), bias, padding=K - 1, groups=weight.shape[0])
    y = (y[..., :L] if padding == "causal" else y[..., -L:]).mT
    return F.silu(y) if activation else y


def _timed(run: Callable, clock: Callable[[], float]) -> tuple:
    start = clock()
    result = run()
    return result, clock() - start


def main() -> None:
    """Measure each variant in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variant", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant is not None:
        return measure(options.variant, options.steps, options.threads)
    print(f"{'with':28} {'ms/step':>8} {'ms/batch':>9} {'data':>6}")
    for variant, name in enumerate(VARIANTS):
        command = [sys.executable, __file__, "--variant", str(variant)]
        command += ["--steps", str(options.steps), "--threads", str(options.threads)]
        step, load = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        print(f"{'+ ' * (variant > 0) + name:28} {step:8.1f} {load:9.3f} {load / (load + step):6.2%}")


if __name__ == "__main__":
    main()
