"""Series in memory as data of tasks: scaling by the training series, and examples."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from seqmix.data.loader import Gathered
from seqmix.data.series.panel import LARGEST, moments
from seqmix.data.served import Served, Split
from seqmix.errors import DataError


class Scaling(NamedTuple):
    """Offset and divisor of each channel, each ``(C,)``."""

    loc: np.ndarray
    scale: np.ndarray

    def apply(self, values: Sequence[np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """Scaled series ``(T_i, C)`` in float32, NaN where missing; ``names`` are those of the series.

        Raises:
            DataError: for a value that is not a number of float32 any more.
        """
        found = []
        for x, name in zip(values, names, strict=True):
            z = (x - self.loc) / self.scale
            check_range(z, name)
            found.append(z.astype(np.float32))
        return found


def check_range(scaled: np.ndarray, name: str) -> None:
    """Raise ``DataError`` if scaled values ``(T, C)`` of a series are no numbers of float32 whose square is one."""
    if (np.abs(scaled) > LARGEST).any():
        step, channel = np.argwhere(np.abs(scaled) > LARGEST)[0]
        raise DataError(
            f"{name} holds a value in step {step} that is {abs(scaled[step, channel]):.0e} times the spread of the "
            "training values; correct it, or make it missing (NaN)"
        )


def learn_scaling(values: Sequence[np.ndarray]) -> Scaling:
    """Mean and deviation of each channel over all series; a channel that does not vary is only centered."""
    rows = np.concatenate(values)
    loc, scale = (m[0] for m in moments(rows, np.array([0, len(rows)]), np.array([len(rows)])))
    return Scaling(loc, np.where(np.isnan(scale), 1.0, scale))


class InMemory(Served):
    """Examples of splits that are given as they are.

    Args:
        splits: the examples.
        batch_size: examples per training batch.
        eval_batch_size: examples per validation batch.
        seed: starting point of the shuffles.
    """

    def __init__(self, splits: Mapping[Split, Gathered], batch_size: int, *, eval_batch_size: int, seed: int):
        super().__init__("InMemory", batch_size, eval_batch_size=eval_batch_size, seed=seed)
        self._given = splits

    def _make(self) -> Mapping[Split, Gathered]:
        return self._given
