"""Which mixers track a state: word problems of groups, trained up to length 32 and tested at 128, over seeds.

One block: a norm, the mixer without its short convolution, a residual; no channel mixer and no positions. Training goes
through lengths 2, 4, 8, 16 and 32 (A5: nine stages) with an answer asked at every position, so that short products are
known before long ones are asked for; for a group steps, tokens of a batch, learning rate and sizes are the same for all
mixers. What is published: a linear recurrence whose transitions have eigenvalues in [0, 1] only cannot do parity at any
length, with [-1, 1] it can; one layer needs products of two reflections for rotations, as in Z5, S3 and A5 (Merrill et
al., 2024, arXiv:2404.08819; Grazzi et al., 2024, arXiv:2411.12537; Siems et al., 2025, arXiv:2502.10297). A recurrence
that hears its own output, as sLSTM, does all of them.

python benchmarks/state_tracking.py --mixers DeltaNet "DeltaNet negative" --seeds 0 1 2
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import recall
from recall import Problem

from seqmix.data import StateTracking
from seqmix.mixers import Attention, DeltaNet, GatedDeltaNet, GatedDeltaProduct, list_mixers, mixer_facts
from seqmix.tasks import AdamW

LENGTHS = (2, 4, 8, 16, 32)
# 60 elements take longer, and smaller steps from one length to the next
SLOWLY = (2, 3, 4, 6, 8, 12, 16, 32, 32)
# a short convolution would see the last elements at once
SIZES = {**recall.SIZES, "n_heads": 2, "d_conv": 1}


def _problem(
    group: str,
    *,
    lengths: Sequence[int] = LENGTHS,
    steps: int = 1000,
    d_model: int = 32,
    headdim: int = 8,
    tokens: int = 2048,
    lr: float = 1e-2,
) -> Problem:
    """Stages of equal numbers of steps and of tokens in a batch; no sequence is seen twice."""
    stages = []
    for length in lengths:
        options = {"test_length": 4 * lengths[-1], "n_train": steps * tokens // len(lengths) // length, "n_test": 500}
        stages.append(partial(StateTracking, group, length, batch_size=tokens // length, **options))
    return Problem(
        tuple(stages),
        steps,
        convolution=False,
        tied=False,
        d_model=d_model,
        batch_size=tokens // lengths[-1],
        optim=AdamW(lr=lr, weight_decay=0.0, warmup=0.1),
        sizes={**SIZES, "headdim": headdim},
    )


PROBLEMS = {
    "parity": _problem("parity"),
    "Z5": _problem("Z5"),
    "S3": _problem("S3"),
    "A5": _problem("A5", lengths=SLOWLY, steps=4050, d_model=128, headdim=32, lr=5e-3),
}
VARIANTS = {
    "Attention causal": partial(Attention, causal=True),
    "DeltaNet negative": partial(DeltaNet, negative=True),
    "GatedDeltaNet negative": partial(GatedDeltaNet, negative=True),
    "DeltaProduct": partial(GatedDeltaProduct, forget=False),
    "GatedDeltaProduct 3": partial(GatedDeltaProduct, n_householder=3),
}


def main() -> None:
    """Train what the CSV lacks, then print the table of all it holds."""
    facts = {name: mixer_facts(name) for name in list_mixers()}
    # those that see the whole sequence would read the answer of a later position off earlier ones
    causal = {name: f.cls for name, f in facts.items() if f.cls(8, 8, **f.examples[0]).causal}
    recall.compare(__doc__, PROBLEMS, causal | VARIANTS, Path(__file__).parent / "results" / "state_tracking.csv")


def read(path: Path) -> list[dict[str, str]]:
    """Rows of the CSV that were trained with the present settings."""
    return recall.read(path, PROBLEMS)


def table(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """One line for each mixer: mean and deviation of the accuracy on every group."""
    return recall.table(rows, PROBLEMS)


if __name__ == "__main__":
    main()
