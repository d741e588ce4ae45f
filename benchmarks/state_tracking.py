"""Which mixers track a state: word problems of groups, trained at length 32 and tested at 128, over seeds.

Two blocks with channel mixers and without positions; steps, learning rate and sizes are the same for all mixers. What
is published: a linear recurrence whose transitions have eigenvalues in [0, 1] only cannot do parity at any length, with
[-1, 1] it can; S3 needs products of two reflections, A5 needs more steps a token or a matrix that is full (Merrill et
al., 2024, arXiv:2404.08819; Grazzi et al., 2024, arXiv:2411.12537; Siems et al., 2025, arXiv:2502.10297). A recurrence
that hears its own output, as sLSTM, does all of them.

python benchmarks/state_tracking.py --mixers DeltaNet "DeltaNet negative" --seeds 0 1 2
"""

from functools import partial
from pathlib import Path
from typing import Any

import recall
from recall import Problem

from seqmix.data import StateTracking
from seqmix.mixers import Attention, DeltaNet, GatedDeltaNet, GatedDeltaProduct, list_mixers, mixer_facts
from seqmix.models import ChannelMLP

# steps that the slowest of those known to solve a group take
PROBLEMS = {
    group: Problem(
        partial(StateTracking, group, n_test=500), steps, convolution=False, channel_mixer=ChannelMLP, lr=2e-3
    )
    for group, steps in (("parity", 1500), ("Z5", 1500), ("S3", 1500), ("A5", 3000))
}
VARIANTS = {
    "Attention causal": partial(Attention, causal=True),
    "DeltaNet negative": partial(DeltaNet, negative=True),
    "GatedDeltaNet negative": partial(GatedDeltaNet, negative=True),
    "GatedDeltaProduct 3": partial(GatedDeltaProduct, n_householder=3),
}


def main() -> None:
    """Train what the CSV lacks, then print the table of all it holds."""
    # those that see the whole sequence would read the answer of a later position off earlier ones
    causal = {name: mixer_facts(name).cls for name in list_mixers() if mixer_facts(name).cls.causal}
    recall.compare(__doc__, PROBLEMS, causal | VARIANTS, Path(__file__).parent / "results" / "state_tracking.csv")


def read(path: Path) -> list[dict[str, str]]:
    """Rows of the CSV that were trained with the present settings."""
    return recall.read(path, PROBLEMS)


def table(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """One line for each mixer: mean and deviation of the accuracy on every group."""
    return recall.table(rows, PROBLEMS)


if __name__ == "__main__":
    main()
