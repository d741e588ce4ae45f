"""Throughput of image models on one core: channels-last, batches of 16, 224 pixels; FLOPs and share of a GEMM's rate.

FLOPs are counted by ``torch.utils.flop_counter``, two for a multiply-add, those of convolutions and matrix products.
The rate of a GEMM is that of one float32 product of 2048 x 2048 matrices, measured beside each model. Times are CPU
time of the process, the best of the rounds, with models taking turns, so that a busy machine hits all alike. timm's
model stands beside ours where timm can be imported; ``x timm`` is the median over the rounds of its time over ours.
``fused`` is FFNet's form for inference.

python benchmarks/vision.py                          # writes results/vision.csv
python benchmarks/vision.py --models caformer_s18 --profile
"""

import argparse
import importlib
import importlib.util
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from seqmix.commands.tables import markdown
from seqmix.environment import environment
from seqmix.ops import tune_allocator
from seqmix.tasks.rows import append_rows
from seqmix.vision import create_model
from seqmix.vision.ffnet import FFNet

MODELS = ("poolformer_s12", "caformer_s18", "ffnet_1", "raftmlp_s")


def main() -> None:
    """Measure and print the table; write it unless a profile is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="NAME")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="where the time of each model goes, and no table")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "vision.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    tune_allocator()
    x = torch.randn(args.batch_size, 3, args.size, args.size).to(memory_format=torch.channels_last)
    runs = {name: model for asked in args.models for name, model in _variants(asked).items()}
    if args.profile:
        for (name, _), model in runs.items():
            print(f"{name}\n{_profile(model, x)}")
        return
    rows = _measure(runs, x, args.rounds)
    args.out.unlink(missing_ok=True)
    append_rows(args.out, rows)
    print(markdown([{k: v for k, v in row.items() if k != "commit"} for row in rows]))


def _variants(name: str) -> dict[tuple[str, str], torch.nn.Module]:
    """A model by name and form: ours, fused if it can be, and timm's."""
    model = create_model(name).eval().to(memory_format=torch.channels_last)
    found = {(name, "seqmix"): model}
    if isinstance(model, FFNet):
        fused = deepcopy(model).reparameterize()
        found[name, "seqmix, fused"] = fused.to(memory_format=torch.channels_last)
    if importlib.util.find_spec("timm"):
        timm = importlib.import_module("timm")
        if name in timm.list_models():
            found[name, "timm"] = timm.create_model(name).eval().to(memory_format=torch.channels_last)
    return found


def _measure(runs: dict[tuple[str, str], torch.nn.Module], x: torch.Tensor, rounds: int) -> list[dict[str, Any]]:
    a = torch.randn(2048, 2048)
    taken: dict[Any, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for key, model in runs.items():
            taken[key].append(_seconds(lambda model=model: model(x)))
            taken["gemm"].append(_seconds(lambda: a @ a))
    gemm = 2 * 2048**3 / min(taken["gemm"])
    rows = []
    for (name, form), model in runs.items():
        # the products inside the fused attention of a CPU are not counted
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(x[:1])
        flops = counter.get_total_flops()
        rate = len(x) / min(taken[name, form])
        beside = zip(taken[name, "timm"], taken[name, form], strict=True) if (name, "timm") in runs else ()
        rows.append(
            {
                "model": name,
                "code": form,
                "batch": len(x),
                "pixels": x.shape[-1],
                "images/s": round(rate, 2),
                "x timm": round(statistics.median(theirs / ours for theirs, ours in beside), 3) if beside else "",
                "GFLOP/image": round(flops / 1e9, 3),
                "GFLOP/s": round(flops * rate / 1e9, 1),
                "share of GEMM": round(flops * rate / gemm, 3),
                "parameters": sum(p.numel() for p in model.parameters()),
                "torch": torch.__version__,
                "commit": environment()["commit"],
            }
        )
    return rows


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _profile(model: torch.nn.Module, x: torch.Tensor) -> str:
    model(x)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        model(x)
    return found.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40)


if __name__ == "__main__":
    main()
