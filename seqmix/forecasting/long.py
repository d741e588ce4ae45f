"""Long frames as arrays, and operations on them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from seqmix.errors import DataError
from seqmix.forecasting.clock import Clock, shown
from seqmix.forecasting.kind import Kind
from seqmix.mapped import like, row_blocks, series_blocks


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
    return _taken(long, long.indptr[:-1], lengths)


def picked(long: Long, which: np.ndarray) -> Long:
    """The series at the positions ``which``, in that order."""
    lengths = np.diff(long.indptr)[which]
    return _taken(long, long.indptr[which], lengths)._replace(ids=long.ids[which], first=long.first[which])


def among_first(long: Long, n_rows: np.ndarray) -> np.ndarray:
    """Mask of the first ``n_rows`` rows of each series, ``(T,)``."""
    found = like(long.y, long.y.shape, bool)
    for a, b in series_blocks(long.indptr):
        begin, lengths = long.indptr[a:b], np.diff(long.indptr[a : b + 1])
        at = np.arange(begin[0], long.indptr[b]) - np.repeat(begin, lengths)
        found[begin[0] : long.indptr[b]] = at < np.repeat(n_rows[a:b], lengths)
    return found


def observed(long: Long) -> np.ndarray:
    """Mask of the rows that have a value and a weight above 0, ``(T,)``."""
    found = like(long.y, long.y.shape, bool)
    for cut in row_blocks(len(found)):
        found[cut] = ~np.isnan(long.y[cut]) if long.weight is None else ~np.isnan(long.y[cut]) & (long.weight[cut] > 0)
    return found


def missing_values(long: Long) -> np.ndarray:
    """Number of rows of each series without a value, ``(n,)``."""
    counts = [
        np.add.reduceat(np.isnan(long.y[long.indptr[a] : long.indptr[b]]), long.indptr[a:b] - long.indptr[a], dtype=int)
        for a, b in series_blocks(long.indptr)
    ]
    return np.concatenate(counts)


def unobserved_tail(long: Long) -> np.ndarray:
    """Number of rows at the end of each series without a value or weight, ``(n,)``."""
    seen, tails = observed(long), []
    for a, b in series_blocks(long.indptr):
        begin, end = long.indptr[a:b], long.indptr[a + 1 : b + 1]
        at = np.where(seen[begin[0] : end[-1]], np.arange(begin[0] + 1, end[-1] + 1), 0)
        tails.append(end - np.maximum(np.maximum.reduceat(at, begin - begin[0]), begin))
    return np.concatenate(tails)


def channels(long: Long, ids: pd.Index) -> Long:
    """The series ``ids``, in this order, as rows of the same time stamps: missing rows before those that begin later.

    Raises:
        DataError: if they are other series, or do not end at the same time.
    """
    if set(ids) != set(long.ids):
        raise DataError(
            f"model was fitted on {len(ids)} series {named(list(ids))}, got {len(long.ids)} {named(list(long.ids))}; "
            "give the same, or fit again"
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


def _taken(long: Long, begin: np.ndarray, lengths: np.ndarray) -> Long:
    """The ``lengths`` rows from each row ``begin``."""
    indptr = np.r_[0, np.cumsum(lengths)]

    def taken(rows: np.ndarray) -> np.ndarray:
        found = like(long.y, (int(indptr[-1]),), rows.dtype)
        for a, b in series_blocks(indptr):
            found[indptr[a] : indptr[b]] = rows[_rows(begin[a:b], lengths[a:b])]
        return found

    if isinstance(long.y, np.memmap):
        columns = pd.DataFrame({name: _column(long.columns[name], taken) for name in long.columns}, copy=False)
    else:
        columns = long.columns.iloc[_rows(begin, lengths)].reset_index(drop=True)
    return long._replace(
        indptr=indptr,
        y=taken(long.y),
        present=taken(long.present),
        weight=None if long.weight is None else taken(long.weight),
        columns=columns,
    )


def _column(column: pd.Series, taken: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Rows of a column of numbers or categories, in a mapped file as it is."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return pd.Categorical.from_codes(taken(column.cat.codes.to_numpy()), dtype=column.dtype)
    return taken(column.to_numpy())
