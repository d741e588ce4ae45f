"""Every implementation of every op beside its peers, on one thread: time, peak memory, and what the machine allows.

    python benchmarks/kernels.py [--ops ssd,selective_scan] [--device cuda]

Each row is a process of its own. Times are the least of five runs after one that does not count, milliseconds of the
process on a CPU, of the wall clock on CUDA; reference loops run once, on an eighth of the length, extrapolated. Peak is
what the process (on CUDA: the allocator) held beyond inputs in one forward and backward. Two limits are measured in the
same run: ``x triad`` compares the forward pass with reading its operands and writing its result once at the bandwidth
of ``a + 2 b``, ``x GEMM`` with matrix products of as many operations. Peers that are not installed are left out. The
rows of an op replace its earlier ones in the CSV, the others stay.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix import ops
from seqmix.commands.tables import print_table
from seqmix.environment import environment
from seqmix.ops import dispatch
from seqmix.tasks.rows import read_rows, write_rows

Call = Callable[..., Tensor]

# op -> shapes of its operands; the sizes of the study that the README quotes
SCAN = ((8, 2048, 256), (8, 2048, 256), (256, 16), (8, 2048, 16), (8, 2048, 16))
SSD = ((4, 4096, 8, 64), (4, 4096, 8), (8,), (4, 4096, 1, 64), (4, 4096, 1, 64))
BOTH = ((4, 4096, 8, 64), (4, 4096, 2, 8), (8,), (4, 4096, 2, 1, 64), (4, 4096, 2, 1, 64))
SHAPES = {
    "causal_conv": ((8, 2048, 256), (256, 2048)),
    "depthwise_conv1d": ((8, 2048, 256), (256, 4)),
    "gated_delta": ((2, 2048, 8, 64), (2, 2048, 8, 64), (2, 2048, 8, 64), (2, 2048, 8), (2, 2048, 8)),
    "linear_recurrence": ((8, 2048, 256), (8, 2048, 256)),
    "quasiseparable": BOTH,
    "rms_norm": ((8, 2048, 256), (256,), (8, 2048, 256)),
    "segment_max": ((8, 2048, 256),),
    "selective_scan": SCAN,
    "slstm": ((8, 2048, 4, 256), (4 * 256, 64)),
    "ssd": SSD,
    "vq_attention": ((2, 2048, 64), (2, 2048, 64), (2, 2048, 64), (128, 64), (65,)),
}
SCANS = ("quasiseparable", "selective_scan", "ssd")
# their reference loops grow with the square of the length
QUADRATIC = ("segment_max", "vq_attention")
# multiplications and additions of a forward pass; an exponential counts as 11 of each
FLOPS = {
    # products of blocks of 32, then at each power of two up to 1,024 two real transforms of twice as many positions
    "causal_conv": 8 * 256 * 2048 * (2 * 32 + sum(5 * n for n in range(6, 12))),
    "depthwise_conv1d": 2 * 4 * 8 * 2048 * 256,
    # keys with keys and queries, the triangle, U, and three products with the state, in chunks of 32
    "gated_delta": 2 * 2 * 2048 * 8 * (4 * 16 * 64 + 3 * 64 * 64),
    "linear_recurrence": 2 * 8 * 2048 * 256,
    "quasiseparable": 2 * 16384 * (2 * 64 * 64 + 2 * 128 * 512 + 2 * 64 * 512),
    "rms_norm": 2 * 15 * 8 * 2048 * 256,
    "segment_max": 8 * 2048 * 256,
    "selective_scan": 2 * 14 * 8 * 2048 * 256 * 16,
    "slstm": 2 * 8 * 2048 * 256 * (4 * 64 + 5 * 11),
    "ssd": 16384 * (2 * 64 * 64 + 2 * 128 * 512 + 2 * 64 * 512),
    "vq_attention": 2 * 2 * 2048 * 64 * (2 * 128 + 2 * 192),
}
# implementations that are the code of another one
SAME = (("causal_conv", "reference"), ("slstm", "torch"))
PEERS = {
    "depthwise_conv1d": {"nn.Conv1d": "torch"},
    # without the delta rule, and the op that does the same
    "gated_delta": {"no beta": "seqmix", "ssd": "seqmix"},
    "selective_scan": {"mambapy": "mambapy", "associative_scan": "torch", "mamba-ssm": "mamba_ssm"},
    "ssd": {"ssd_minimal": "torch", "mamba-ssm": "mamba_ssm", "fla": "fla"},
}


def main() -> None:
    """Measure the cases, each in its process, and print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", default=",".join(SHAPES), help="some of them, with commas between")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--allocator", default="tuned", choices=("system", "tuned", "both"), help="of the rows")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "kernels.csv")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.case:
        print(json.dumps(_measure(*options.case, options.device)))
        return
    limits = _limits(options.device)
    rows = []
    for op in options.ops.split(","):
        own = [name for name in dispatch._OPS[op] if (op, name) not in SAME]
        for name in [*own, *PEERS.get(op, {})]:
            for allocator in ("system", "tuned") if options.allocator == "both" else (options.allocator,):
                command = [sys.executable, __file__, "--device", options.device, "--case", op, name, allocator]
                row = {"op": op, "implementation": name, "allocator": allocator}
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    print(*row.values(), "left out:", (done.stderr.strip() or "ended").splitlines()[-1], flush=True)
                    continue
                rows.append(row | json.loads(done.stdout.splitlines()[-1]) | {"x triad": 0.0, "x GEMM": 0.0})
                moved = 4 * sum(torch.Size(shape).numel() for shape in (*SHAPES[op], SHAPES[op][0]))
                rows[-1]["x triad"] = rows[-1]["forward ms"] / (moved / limits["triad GB/s"] / 1e6)
                rows[-1]["x GEMM"] = rows[-1]["forward ms"] / (FLOPS[op] / limits["GEMM GFLOP/s"] / 1e6)
                print(op, name, allocator, f"{rows[-1]['forward ms']:.4g} ms", flush=True)
    facts = environment()
    limit = ", ".join(f"{name} {value:.3g}" for name, value in limits.items())
    known = {key: facts[key] for key in ("cpu", "gpus", "torch", "commit")}
    rows = [{**_rounded(row), **_rounded(limits), **known} for row in rows]
    title = f"float32, {options.device}, one thread of {facts['cpu']}, torch {facts['torch']}; {limit}"
    print_table(title, table(rows))
    measured = {row["op"] for row in rows}
    write_rows(options.out, [*(row for row in read(options.out) if row["op"] not in measured), *rows])


def read(path: Path) -> list[dict[str, str]]:
    """Rows of the CSV."""
    return read_rows(path)


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was measured, without what the rows say of the machine."""
    measured = ("forward ms", "forward + backward ms", "peak MiB", "x triad", "x GEMM")
    # numbers as such, so that they are set right
    return [
        {**{key: row[key] for key in ("op", "implementation", "allocator")}, **{k: float(row[k]) for k in measured}}
        for row in rows
    ]


def summary(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Forward and backward of each op on a CPU in milliseconds, allocator tuned, beside the fastest other code."""
    own, found = ("reference", "torch", "native"), {}
    for row in rows:
        if row["allocator"] == "tuned" and row["gpus"] == "[]":
            found.setdefault(row["op"], {})[row["implementation"]] = float(row["forward + backward ms"])
    lines = []
    for op, times in found.items():
        others = sorted((ms, name) for name, ms in times.items() if PEERS.get(op, {}).get(name, "seqmix") != "seqmix")
        line = {name: f"{times[name]:,.0f}" if name in times else "" for name in own}
        lines.append({"op": op, **line, "other code": "".join(f"{ms:,.0f} ({name})" for ms, name in others[:1])})
    return lines


def _measure(op: str, name: str, allocator: str, device: str) -> dict[str, float]:
    """Times in ms and peak memory in MiB of one case, in this process."""
    if allocator == "tuned":
        ops.tune_allocator()
    torch.manual_seed(0)
    module = PEERS.get(op, {}).get(name)
    if module and not find_spec(module):
        raise ModuleNotFoundError(f"{module} is not installed")
    part = 8 if name == "reference" else 1
    shapes = [tuple(n // part if i == 1 and len(s) > 2 else n for i, n in enumerate(s)) for s in SHAPES[op]]
    inputs = [(0.1 * torch.randn(shape)).to(device) for shape in shapes]
    if op in SCANS:
        # step sizes and rates
        inputs[1:3] = 0.1 * inputs[1].exp(), -inputs[2].exp()
    if op == "gated_delta":
        # keys of norm 1, log decays, strengths
        inputs[1] = F.normalize(inputs[1], dim=-1)
        inputs[3:] = -inputs[3].exp(), inputs[4].sigmoid()
    if op == "linear_recurrence":
        inputs[1] = inputs[1].sigmoid()
    run = (peer if module else ours)(op, name)
    repeats = 0 if name == "reference" else 5
    weight = torch.ones(shapes[0], device=device)

    def train() -> None:
        torch.autograd.grad(run(*inputs), inputs, weight, allow_unused=True)

    with torch.no_grad():
        # first touches of libraries are not the op's
        run(*(t[:, :64] if t.ndim > 2 else t for t in inputs))
    inputs = [t.requires_grad_() for t in inputs]
    before = _held(device)
    train()
    peak = _held(device) - before
    with torch.no_grad():
        forward = _best(lambda: run(*inputs), device, repeats)
    both = _best(train, device, repeats)
    scale = part**2 if op in QUADRATIC else part
    return {"forward ms": forward * scale, "forward + backward ms": both * scale, "peak MiB": peak * scale}


def ours(op: str, name: str) -> Call:
    """An implementation of ours, as a function of the tensors of ``SHAPES``."""
    f = getattr(ops, op)
    if op == "causal_conv":
        # the op itself has no choice
        return dispatch.pick(name, dispatch._OPS[op], torch.empty(0))
    if op == "segment_max":
        return lambda x: f(x, 32, impl=name)
    if op == "slstm":
        return lambda gates, maps: f(gates, maps.unflatten(0, (4, -1)), impl=name)
    if op == "vq_attention":
        return lambda q, k, v, codes, bias: f(
            q, k, v, codes, ops.nearest_code(k, codes), bias, window=64, causal=True, impl=name
        )
    return lambda *tensors: f(*tensors, impl=name)


def peer(op: str, name: str) -> Call:
    """What others have for the same tensors."""
    if name == "nn.Conv1d":
        return lambda x, w: F.conv1d(x.mT, w.unsqueeze(1), padding=3, groups=w.shape[0])[..., : x.shape[1]].mT
    if name == "no beta":
        return lambda q, k, v, decay, beta: ops.gated_delta(q, k, v, decay)
    if name == "ssd":
        return lambda q, k, v, decay, beta: ops.ssd(v, -decay, decay.new_full(decay.shape[2:], -1.0), k, q)
    if name == "ssd_minimal":
        return ssd_minimal
    if name == "mambapy":
        from mambapy.pscan import pscan

        return lambda *t: _materialized(pscan, *t)
    if name == "associative_scan":
        from torch._higher_order_ops.associative_scan import associative_scan

        def then(left: Any, right: Any) -> Any:
            return left[0] * right[0], right[0] * left[1] + right[1]

        return lambda *t: _materialized(lambda a, x: associative_scan(then, (a, x), 1, combine_mode="generic")[1], *t)
    if (op, name) == ("selective_scan", "mamba-ssm"):
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        return lambda u, dt, A, B, C: selective_scan_fn(u.mT, dt.mT, A, B.mT, C.mT).mT
    if name == "mamba-ssm":
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

        return lambda *tensors: mamba_chunk_scan_combined(*tensors, 256)
    from fla.ops.simple_gla import chunk_simple_gla

    def simple_gla(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        C, B = (t.expand(-1, -1, x.shape[2], -1) for t in (C, B))
        return chunk_simple_gla(C, B, dt.unsqueeze(-1) * x, dt * A, scale=1.0)[0]

    return simple_gla


def ssd_minimal(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int = 64) -> Tensor:
    """The listing that Mamba-2 was published with: einsums, the decay of every pair (arXiv:2405.21060, listing 1)."""
    B, C = (t.expand(-1, -1, x.shape[2], -1) for t in (B, C))
    x, a, B, C = (t.unflatten(1, (-1, chunk)) for t in (dt.unsqueeze(-1) * x, dt * A, B, C))
    a = a.permute(0, 3, 1, 2)  # (B, H, c, q)
    s = a.cumsum(-1)
    inside = torch.einsum("bclhn,bcshn,bhcls,bcshp->bclhp", C, B, _segment_sums(a).exp(), x)
    states = torch.einsum("bclhn,bhcl,bclhp->bchpn", B, (s[..., -1:] - s).exp(), x)
    states = torch.cat([torch.zeros_like(states[:, :1]), states], 1)
    states = torch.einsum("bhzc,bchpn->bzhpn", _segment_sums(F.pad(s[..., -1], (1, 0))).exp(), states)[:, :-1]
    return (inside + torch.einsum("bclhn,bchpn,bhcl->bclhp", C, states, s.exp())).flatten(1, 2)


def _segment_sums(a: Tensor) -> Tensor:
    keep = torch.ones(a.shape[-1], a.shape[-1], dtype=torch.bool, device=a.device).tril()
    sums = a.unsqueeze(-1).expand(*a.shape, a.shape[-1]).masked_fill(~keep.tril(-1), 0).cumsum(-2)
    return sums.masked_fill(~keep, -torch.inf)


def _materialized(scan: Call, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Selective scan by a scan of all decays and inputs, ``(B, L, D, N)`` each, as the peers have it."""
    h = scan((dt.unsqueeze(-1) * A).exp(), (dt * u).unsqueeze(-1) * B.unsqueeze(2))
    return (h @ C.unsqueeze(-1)).squeeze(-1)


def _limits(device: str) -> dict[str, float]:
    """What the machine reaches now: bandwidth of ``a + 2 b`` into a third array, and rate of a matrix product."""
    ops.tune_allocator()
    a, b, c = (torch.ones(2**25, device=device) for _ in range(3))
    W, X = torch.randn(512, 512, device=device), torch.randn(16384, 512, device=device)
    triad = _best(lambda: torch.add(a, b, alpha=2.0, out=c), device)
    gemm = _best(lambda: X @ W, device)
    return {"triad GB/s": 3 * 4 * a.numel() / triad / 1e6, "GEMM GFLOP/s": 2 * X.numel() * 512 / gemm / 1e6}


def _best(run: Callable[[], object], device: str, repeats: int = 5) -> float:
    """Least milliseconds of so many runs, after one that does not count; of that one if there is no other."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    times = []
    for _ in range(repeats + 1):
        start = clock()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return min(times[1:] or times) * 1e3


def _held(device: str) -> float:
    """The most MiB that were held so far."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    # of this process alone: what getrusage says begins with the peak of the process that started this one
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}


if __name__ == "__main__":
    main()
