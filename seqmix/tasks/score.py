"""Score of one model on the test set, and tables of ``seqmix report``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Table(NamedTuple):
    """Table of ``seqmix report``: its name, the facts that distinguish data sets of one name, and their title."""

    name: str
    facts: tuple[str, ...]
    size: str


@dataclass(frozen=True)
class Score:
    """Score of one model or baseline on the test set.

    Args:
        model: name of the model in results.
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
