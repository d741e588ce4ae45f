"""Histories of series as rows of one array, for models that are fitted to each series alone."""

import numpy as np


def histories(y: np.ndarray, indptr: np.ndarray, after: np.ndarray, most: int) -> np.ndarray:
    """The last ``most`` values of each series before each cutoff, aligned at the end, ``(n, K, T)`` in float64.

    NaN stands before series that begin later. Missing values between observed ones are interpolated, those at the end
    repeat the last value, those at the start are left out. A series without a value is all NaN.

    Args:
        y: values of all series, NaN where missing, ``(rows,)``.
        indptr: first row of each series, then the number of rows.
        after: rows after each cutoff, at the end of each series, ``(K,)``.
        most: the longest history.
    """
    end = indptr[1:, None] - after  # (n, K)
    begin = np.maximum(indptr[:-1, None], end - most)
    T = int(max(1, (end - begin).max()))
    found = np.full((*end.shape, T), np.nan)
    for i in np.ndindex(end.shape):
        rows = y[begin[i] : end[i]]
        seen = np.flatnonzero(~np.isnan(rows))
        if len(seen) == len(rows):
            found[i][T - len(rows) :] = rows
        elif len(seen):
            at = np.arange(seen[0], len(rows))
            found[i][T - len(at) :] = np.interp(at, seen, rows[seen])
    return found
