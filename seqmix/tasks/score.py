"""Score of one model on the test set, and the table of ``seqmix report`` in which the scores of a task stand."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Table(NamedTuple):
    """Table of ``seqmix report``: its name, the facts that tell two data sets of one name apart, and their title."""

    name: str
    facts: tuple[str, ...]
    size: str


@dataclass(frozen=True)
class Score:
    """Score of one model or baseline on the test set.

    Args:
        model: what results call the model.
        metrics: metrics by name.
        count: number of examples that the metrics are means over.
        parameters: number of trained parameters.
        seconds: training time.
    """

    model: str
    metrics: Mapping[str, float]
    count: int
    parameters: int = 0
    seconds: float = 0.0
