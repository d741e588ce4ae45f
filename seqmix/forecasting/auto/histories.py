"""Histories of series as rows of one array, for models that are fitted to each series alone."""

import numpy as np


def histories(y: np.ndarray, indptr: np.ndarray, after: np.ndarray, most: int) -> np.ndarray:
    """The last ``most`` values of each series as rows that end together, ``(n, T)`` in float64.

    NaN stands before series that begin later. Missing values between observed ones are interpolated, those at the end
    repeat the last value, those at the start are left out. A series without a value is all NaN.

    Args:
        y: values of all series, NaN where missing, ``(rows,)``.
        indptr: first row of each series, then the number of rows.
        after: rows at the end of each series to ignore, ``(n,)``.
        most: the longest history.
    """
    end = indptr[1:] - after
    begin = np.maximum(indptr[:-1], end - most)
    found = np.full((len(end), int(max(1, (end - begin).max()))), np.nan)
    T = found.shape[1]
    for i, (a, b) in enumerate(zip(begin, end, strict=True)):
        rows = y[a:b]
        seen = np.flatnonzero(~np.isnan(rows))
        if len(seen) == len(rows):
            found[i, T - len(rows) :] = rows
        elif len(seen):
            at = np.arange(seen[0], len(rows))
            found[i, T - len(at) :] = np.interp(at, seen, rows[seen])
    return found
