"""What text costs: tokens per second of preparing and of serving it, and its share of a training step.

Prepared are the documents of a file, by bytes and by WordPiece; served are batches of 16 pieces of 256 tokens. A step
is forward, backward and AdamW of a small model, Mamba for causal and Hydra for masked pieces. Times are CPU time of the
process on one thread, of batches and steps the median.

python benchmarks/text.py --train tinyshakespeare/input.txt    # writes results/text.csv
"""

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from seqmix.commands.tables import markdown
from seqmix.data import TextFiles
from seqmix.environment import environment
from seqmix.mixers import Hydra, Mamba
from seqmix.models import BidirectionalEncoder, TokenModel
from seqmix.ops import tune_allocator
from seqmix.tasks import CausalLM, MaskedLM
from seqmix.tasks.rows import append_rows

MODELS = {
    "causal": (CausalLM, partial(TokenModel, mixer=Mamba, d_model=128, n_layers=4)),
    "masked": (MaskedLM, partial(BidirectionalEncoder, mixer=Hydra, d_model=128, n_layers=4)),
}
STEPS = 5


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="text file, also below SEQMIX_DATA")
    parser.add_argument("--vocabulary", default="wordpiece/bert-base-uncased-vocab.txt", help="likewise, of WordPiece")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "text.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tune_allocator()
    rows = [_measure(args, tokens, objective) for tokens in ("bytes", "wordpiece") for objective in MODELS]
    args.out.unlink(missing_ok=True)
    append_rows(args.out, rows)
    print(markdown([{k: v for k, v in row.items() if k != "commit"} for row in rows]))


def _measure(args: argparse.Namespace, tokens: str, objective: str) -> dict[str, Any]:
    vocabulary = args.vocabulary if tokens == "wordpiece" else None
    options: dict[str, Any] = {"tokens": tokens, "objective": objective, "vocabulary": vocabulary}
    with tempfile.TemporaryDirectory() as cache:
        data = TextFiles(args.train, max_len=256, batch_size=16, cache=cache, **options)
        started = time.process_time()
        data.setup()
        prepared = time.process_time() - started
        count = sum(int(data.documents(split).bounds[-1]) for split in ("train", "val", "test"))
        first = next(iter(data.train_dataloader()))
        loader, serving, served = iter(data.train_dataloader()), [], 0
        while True:
            started = time.process_time()
            batch = next(loader, None)
            if batch is None:
                break
            serving.append(time.process_time() - started)
            served += batch["tokens"].numel()
    make, model = MODELS[objective]
    step = statistics.median(_steps(make(model, data.vocab_size, data.max_len), first))
    return {
        "tokens": tokens,
        "objective": objective,
        "M tokens": round(count / 1e6, 3),
        "prepared, M/s": round(count / prepared / 1e6, 2),
        "served, M/s": round(served / sum(serving) / 1e6, 2),
        "batch, ms": round(1e3 * statistics.median(serving), 3),
        "step, ms": round(1e3 * step, 1),
        "share of the step, %": round(100 * statistics.median(serving) / step, 3),
        "commit": environment()["commit"],
    }


def _steps(task: CausalLM | MaskedLM, batch: dict[str, torch.Tensor]) -> list[float]:
    """Seconds of each step; the first is not counted."""
    task.log = lambda *args, **kwargs: None
    optimizer, found = torch.optim.AdamW(task.parameters()), []
    for _ in range(STEPS + 1):
        started = time.process_time()
        optimizer.zero_grad()
        task.training_step(batch, 0).backward()
        optimizer.step()
        found.append(time.process_time() - started)
    return found[1:]


if __name__ == "__main__":
    main()
