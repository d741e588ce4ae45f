"""``seqmix bench``: time and memory of a mixer at several lengths, and of attention of the same width."""

import csv
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from weakref import WeakSet

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from seqmix.commands._function import call
from seqmix.commands.outputs import check_writable
from seqmix.commands.tables import print_table
from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers import Attention, Mixer, MixerFactory
from seqmix.ops import tune_allocator
from seqmix.whole import whole


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    call(bench, command, argv)


def bench(
    *,
    mixer: MixerFactory,
    lengths: str = "64,256,1024",
    d_model: int = 64,
    batch_size: int = 1,
    device: str = "cpu",
    dtype: Literal["float32", "bfloat16", "float64"] = "float32",
    repeats: int = 5,
    out: str | None = None,
) -> None:
    """Measure time (forward, and forward with backward) and memory of a mixer.

    Times are the median of the repeats, in microseconds per token: of the process on a CPU, all threads together, and
    of the wall clock on a GPU. Memory, in MiB, is that of the activations kept for the backward pass, without weights
    and input: it limits the length that can be trained.

    Args:
        mixer: the mixer, by class name or dotted path; ``--mixer.<option>`` sets its options.
        lengths: sequence lengths L, separated by commas.
        d_model: width D.
        batch_size: sequences B.
        device: a torch device, ``cpu`` or ``cuda``.
        dtype: type of weights and input.
        repeats: measurements of each time, after one warm-up.
        out: CSV file for the rows. Default: none is written.
    """
    check_at_least(1, d_model=d_model, batch_size=batch_size, repeats=repeats)
    if device.partition(":")[0] not in ("cpu", "cuda") or (device != "cpu" and not torch.cuda.is_available()):
        raise ConfigError(f"device = {device!r} is not there; use --device cpu, or cuda on a machine with a GPU")
    if out:
        check_writable("out", Path(out))
    tune_allocator()
    rows = []
    for L in _numbers(lengths):
        for factory in (mixer, Attention):
            torch.manual_seed(0)
            module = factory(d_model, L).to(device, getattr(torch, dtype))
            x = torch.randn(batch_size, L, d_model, device=device, dtype=getattr(torch, dtype), requires_grad=True)
            rows.append({"mixer": type(module).__name__, "length": L, **_measure(module, x, repeats)})
    print_table(f"{device}, {dtype}, width {d_model}, batch {batch_size}, {torch.get_num_threads()} thread(s)", rows)
    if out:
        with whole(Path(out)) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.strip("[]").split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ConfigError(f"lengths should be positive integers separated by commas, got {text!r}; use 64,256,1024")
    return numbers


def _measure(module: Mixer, x: Tensor, repeats: int) -> dict[str, float]:
    def forward() -> None:
        with torch.no_grad():
            module(x)

    def train() -> None:
        module(x).sum().backward()

    tokens = x.shape[0] * x.shape[1]
    return {
        "forward us/token": median_seconds(forward, x.device, repeats) / tokens * 1e6,
        "forward + backward": median_seconds(train, x.device, repeats) / tokens * 1e6,
        "kept MiB": kept_bytes(module, x) / 2**20,
    }


def median_seconds(run: Callable[[], None], device: torch.device, repeats: int) -> float:
    """Median time of ``run``: of the process on a CPU, of the wall clock elsewhere; one call before does not count."""
    on_cpu = device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    times = []
    for _ in range(repeats + 1):
        start = clock()
        run()
        if not on_cpu:
            torch.cuda.synchronize(device)
        times.append(clock() - start)
    return statistics.median(times[1:])


@dataclass(eq=False)
class _Kept:
    """A tensor that a backward pass holds; gone when its part of the graph is."""

    tensor: Tensor


def kept_bytes(module: Mixer, x: Tensor) -> int:
    """Bytes that the forward pass keeps for the backward pass, beside the weights and ``x``."""
    known = {t.untyped_storage().data_ptr() for t in (x, *module.parameters(), *module.buffers())}
    kept: WeakSet[_Kept] = WeakSet()

    def keep(t: Tensor) -> _Kept:
        kept.add(held := _Kept(t))
        return held

    with saved_tensors_hooks(keep, lambda held: held.tensor):
        y = module(x)
    # y is alive here, and with it all that its backward pass needs
    sizes = {s.data_ptr(): s.nbytes() for s in (held.tensor.untyped_storage() for held in kept)}
    return sum(size for address, size in sizes.items() if address not in known) if y.numel() else 0
