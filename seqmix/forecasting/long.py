"""A long frame as arrays, and what can be done with it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from seqmix.errors import DataError
from seqmix.forecasting.clock import Clock, shown
from seqmix.forecasting.kind import Kind


class Long(NamedTuple):
    """A long frame as arrays: series one after another, sorted by time, no step left out."""

    ids: pd.Index  # (n,), in order of first appearance
    indptr: np.ndarray  # (n + 1,), first row of each series, then T
    first: np.ndarray  # (n,), stamp of the first row of each series
    clock: Clock
    y: np.ndarray  # (T,), NaN where missing
    weight: np.ndarray | None  # (T,)
    columns: pd.DataFrame  # covariates, T rows
    present: np.ndarray  # (T,), False for steps that the frame leaves out
    ignored: list[str]  # columns that are not used
    kind: Kind  # library and types of the frame

    @property
    def aligned(self) -> bool:
        """All series have the same time stamps."""
        lengths = np.diff(self.indptr)
        return bool((lengths == lengths[0]).all() and (self.first == self.first[0]).all())

    @property
    def last(self) -> np.ndarray:
        """Stamp of the last row of each series, ``(n,)``."""
        return self.clock.after(self.first, np.diff(self.indptr) - 1)


def head(long: Long, lengths: np.ndarray) -> Long:
    """The first ``lengths`` rows of each series, ``(n,)``."""
    return _taken(long, _rows(long.indptr[:-1], lengths), lengths)


def picked(long: Long, which: np.ndarray) -> Long:
    """The series at the positions ``which``, in that order."""
    lengths = np.diff(long.indptr)[which]
    rows = _rows(long.indptr[which], lengths)
    return _taken(long, rows, lengths)._replace(ids=long.ids[which], first=long.first[which])


def observed(long: Long) -> np.ndarray:
    """Which rows have a value and a weight above 0, ``(T,)``."""
    return ~np.isnan(long.y) if long.weight is None else ~np.isnan(long.y) & (long.weight > 0)


def unobserved_tail(long: Long) -> np.ndarray:
    """How many rows at the end of each series have no value, or no weight, ``(n,)``."""
    seen = observed(long)
    at = np.where(seen, np.arange(1, len(seen) + 1), 0)
    return long.indptr[1:] - np.maximum(np.maximum.reduceat(at, long.indptr[:-1]), long.indptr[:-1])


def channels(long: Long, ids: pd.Index) -> Long:
    """The series ``ids``, in this order, as rows of the same time stamps: missing rows before those that begin later.

    Raises:
        DataError: if they are other series, or do not end at the same time.
    """
    if set(ids) != set(long.ids):
        raise DataError(
            f"model was fitted on {len(ids)} series {named(list(ids))}; got {len(long.ids)} {named(list(long.ids))}"
        )
    long = picked(long, long.ids.get_indexer(ids))
    last, lengths = long.last, np.diff(long.indptr)
    odd = np.flatnonzero(last != last[0])
    if len(odd):
        first, other = (shown(t) for t in long.clock.column(last[[0, odd[0]]]))
        raise DataError(
            f"the models forecast all series together, and these end at different times: {ids[0]!r} at {first}, "
            f"{ids[odd[0]]!r} at {other}; cut them to a common end, or fit with mode='global'"
        )
    if (lengths == lengths[0]).all():
        return long
    n, longest = len(ids), int(lengths.argmax())
    total = n * lengths[longest]
    at = _rows(np.arange(1, n + 1) * lengths[longest] - lengths, lengths)
    y, present = np.full(total, np.nan), np.zeros(total, bool)
    y[at], present[at] = long.y, long.present
    weight = None
    if long.weight is not None:
        weight = np.zeros(total)
        weight[at] = long.weight
    return long._replace(
        indptr=np.arange(n + 1) * lengths[longest],
        first=np.repeat(long.first[longest], n),
        y=y,
        present=present,
        weight=weight,
        columns=long.columns.set_axis(at).reindex(range(total)),
    )


def named(ids: Sequence[Any], limit: int = 5) -> str:
    """Ids in a message, the first few of them."""
    more = f", ... ({len(ids)})" if len(ids) > limit else ""
    return f"[{', '.join(str(i) for i in ids[:limit])}{more}]"


def _rows(begin: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers of the ``lengths`` rows from each row ``begin``."""
    return np.arange(lengths.sum()) + np.repeat(begin - (np.cumsum(lengths) - lengths), lengths)


def _taken(long: Long, rows: np.ndarray, lengths: np.ndarray) -> Long:
    return long._replace(
        indptr=np.r_[0, np.cumsum(lengths)],
        y=long.y[rows],
        present=long.present[rows],
        weight=None if long.weight is None else long.weight[rows],
        columns=long.columns.iloc[rows].reset_index(drop=True),
    )
