"""Metrics of anomaly detection: areas under curves, volumes under the surface, F1 of rows and ranges.

Labels and flags are ``(T,)`` of zeros and ones, scores ``(T,)``, higher = more anomalous. A metric is NaN where it is
not defined: all labels are 0, or all are 1.
"""

from typing import NamedTuple

import numpy as np


class Volumes(NamedTuple):
    """Volumes under the precision-recall and the ROC surface."""

    pr: float
    roc: float


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the precision-recall curve (AUC-PR) as average precision: precision times the step of recall."""
    labels, scores = _checked(labels, scores)
    if not _defined(labels):
        return np.nan
    hits, flagged = _counts(labels, scores)
    return float(np.sum(np.diff(hits, prepend=0) * hits / flagged) / hits[-1])


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve (AUC-ROC): an anomalous row scores higher than a normal one, ties count half."""
    labels, scores = _checked(labels, scores)
    if not _defined(labels):
        return np.nan
    hits, flagged = _counts(labels, scores)
    alarms = flagged - hits
    return _trapezoid(np.append(0, alarms) / alarms[-1], np.append(0, hits) / hits[-1])


def volumes(
    labels: np.ndarray, scores: np.ndarray, *, max_buffer: int | None = None, n_thresholds: int | None = 250
) -> Volumes:
    """Volumes under the surfaces over threshold and buffer width (VUS-PR and VUS-ROC).

    With a buffer of width l, rows at a distance d of at most l // 2 before or after an anomaly have the label
    sqrt(1 - d / l). True positives are the labels of flagged rows, their total is the mean of the anomalous rows and of
    these with the flagged buffer; recall is multiplied by the share of anomalies, buffer included, with a flagged row.
    The volume is the mean area over the widths 0, 1, ..., ``max_buffer``.

    Args:
        labels: 1 for an anomalous row, ``(T,)``.
        scores: higher = more anomalous, ``(T,)``.
        max_buffer: largest width, in rows. Default: the median length of the anomalies.
        n_thresholds: thresholds, evenly spaced in the rank of the scores. None: every distinct score.

    Raises:
        ValueError: if labels or scores are not what they should be, or an option is out of range.

    Source: Paparrizos et al., VLDB 2022, doi:10.14778/3551793.3551830, and TSB-AD, NeurIPS 2024, whose code is exact
    on the same widths. Differs from the original code in: TSB-AD takes the period of the series for ``max_buffer``.
    aeon starts the slope after an anomaly one row earlier, uses trapezoids for the precision-recall curve, and counts
    anomalies whose buffers touch as one.
    """
    labels, scores = _checked(labels, scores)
    if n_thresholds is not None and n_thresholds < 2:
        raise ValueError(f"n_thresholds must be at least 2, got {n_thresholds}; use for example 250, or None for all")
    if max_buffer is not None and max_buffer < 0:
        raise ValueError(f"max_buffer must not be negative, got {max_buffer}; use the length of an anomaly, in rows")
    if not _defined(labels):
        return Volumes(np.nan, np.nan)
    starts, ends = ranges(labels)
    widest = int(np.median(ends - starts)) if max_buffer is None else max_buffer
    thresholds = _thresholds(scores, n_thresholds)  # (K,), falling
    flagged = _at_least(scores, thresholds)
    hits = _at_least(scores[labels], thresholds)
    buffer = _Buffer(labels, starts, ends, widest // 2)
    # number of the first threshold that flags a row of the buffer
    first = np.searchsorted(-thresholds, -scores[buffer.rows])
    peaks = _peaks(scores, starts, ends, widest // 2)
    areas = np.zeros((widest + 1, 2))
    for width in range(widest + 1):
        soft = np.bincount(first, buffer.labels(width), minlength=len(thresholds) + 1)[:-1].cumsum()
        found = _found(starts, ends, peaks, width // 2, thresholds)
        true, total = hits + soft, labels.sum() + soft / 2
        recall = np.append(0, np.minimum(true / total, 1) * found)
        alarms = np.append(0, (flagged - true) / (len(labels) - total))
        area = np.sum(np.diff(recall) * true / flagged)
        areas[width] = area, _trapezoid(np.append(alarms, 1), np.append(recall, 1))
    return Volumes(*areas.mean(0).tolist())


def f1(labels: np.ndarray, flags: np.ndarray) -> float:
    """F1 of single rows."""
    labels, flags = _checked(labels, flags, binary=True)
    if not _defined(labels):
        return np.nan
    return float(2 * (labels & flags).sum() / (labels.sum() + flags.sum()))


def best_f1(labels: np.ndarray, scores: np.ndarray) -> float:
    """F1 of single rows at the best threshold. An oracle: the threshold is chosen with the test labels."""
    labels, scores = _checked(labels, scores)
    if not _defined(labels):
        return np.nan
    hits, flagged = _counts(labels, scores)
    return float((2 * hits / (labels.sum() + flagged)).max())


def range_f1(labels: np.ndarray, flags: np.ndarray, *, existence: float = 0.2) -> float:
    """F1 of range-based precision and recall: each anomaly counts once, regardless of its length.

    Recall is the mean over anomalies of ``existence`` for a flagged row in it plus the rest for the flagged share of
    it, divided by the number of flagged ranges that overlap it. Precision is the same over flagged ranges, without
    ``existence``.

    Args:
        labels: 1 for an anomalous row, ``(T,)``.
        flags: 1 for a row that was flagged, ``(T,)``.
        existence: weight of detecting an anomaly at all, 0 to 1.

    Source: Tatbul et al., NeurIPS 2018, arXiv:1803.03639, sec. 4, with flat bias and the reciprocal cardinality
    factor; ``existence`` as in TSB-AD. Differs from the original code in: nothing.
    """
    labels, flags = _checked(labels, flags, binary=True)
    if not 0 <= existence <= 1:
        raise ValueError(f"existence = {existence} is no weight; use 0 to 1")
    if not _defined(labels):
        return np.nan
    if not (labels & flags).any():
        return 0.0
    recall = np.mean(_overlap(labels, flags, existence))
    precision = np.mean(_overlap(flags, labels, 0.0))
    return float(2 * precision * recall / (precision + recall))


def point_adjusted_f1(labels: np.ndarray, flags: np.ndarray) -> float:
    """Point-adjusted F1: one flagged row counts for all rows of its anomaly. Only for comparison with publications.

    It overstates performance: random scores reach values above those of published detectors when
    anomalies are long.

    Source: Xu et al., WWW 2018, arXiv:1802.03903; Kim et al., AAAI 2022, arXiv:2109.05257, for its fault.
    """
    labels, flags = _checked(labels, flags, binary=True)
    flags = flags.copy()
    for start, end in zip(*ranges(labels), strict=True):
        flags[start:end] |= flags[start:end].any()
    return f1(labels, flags)


def ranges(flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row and last + 1 row of every run of ones in ``flags: (T,)``."""
    steps = np.diff(np.concatenate([[0], np.asarray(flags) > 0, [0]]).astype(np.int8))
    return np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)


def _checked(labels: np.ndarray, values: np.ndarray, *, binary: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool and scores as float64, or flags as bool."""
    labels, values = np.asarray(labels), np.asarray(values)
    name = "flags" if binary else "scores"
    if labels.ndim != 1 or labels.shape != values.shape or not len(labels):
        raise ValueError(
            f"labels have shape {labels.shape} and {name} {values.shape}; give one of each per row, (T,), T at least 1"
        )
    labels = _binary("labels", labels)
    if binary:
        return labels, _binary(name, values)
    if not np.isfinite(values).all():
        raise ValueError(f"scores hold {(~np.isfinite(values)).sum()} values that are not finite; score every row")
    return labels, values.astype(np.float64)


def _binary(name: str, values: np.ndarray) -> np.ndarray:
    other = values[~np.isin(values, (0, 1))]
    if len(other):
        raise ValueError(f"{name} hold {other[0]!s}; give 1 for anomalous rows and 0 for the others")
    return values.astype(bool)


def _defined(labels: np.ndarray) -> bool:
    return bool(labels.any() and not labels.all())


def _counts(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Anomalous rows and all rows at or above each distinct score, from the highest to the lowest."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    return labels[order].cumsum()[last], last + 1


def _thresholds(scores: np.ndarray, n: int | None) -> np.ndarray:
    """Thresholds in falling order."""
    falling = np.sort(scores)[::-1]
    if n is None:
        return falling[np.append(True, np.diff(falling) != 0)]
    return falling[np.linspace(0, len(scores) - 1, n).astype(int)]


def _at_least(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Number of scores at or above each threshold."""
    return len(scores) - np.searchsorted(np.sort(scores), thresholds)


class _Buffer:
    """Rows around anomalies, and their labels for every width.

    A row may be near to several anomalies: its label is the sum over them, 1 at most.
    """

    def __init__(self, labels: np.ndarray, starts: np.ndarray, ends: np.ndarray, reach: int):
        steps = np.arange(1, reach + 1)
        near = np.concatenate([(starts[:, None] - steps).ravel(), (ends[:, None] + steps - 1).ravel()])
        distance = np.tile(steps, 2 * len(starts))
        inside = (near >= 0) & (near < len(labels))
        inside[inside] = ~labels[near[inside]]
        # in the order of their distance: a width takes the first of them
        order = np.flatnonzero(inside)[np.argsort(distance[inside], kind="stable")]
        self._distance = distance[order]
        #: rows that are in the widest buffer and in no anomaly
        self.rows, self._row = np.unique(near[order], return_inverse=True)

    def labels(self, width: int) -> np.ndarray:
        """Labels of ``rows`` for a width of the buffer."""
        n = np.searchsorted(self._distance, width // 2, side="right")
        each = np.sqrt(1 - self._distance[:n] / max(width, 1))
        return np.minimum(np.bincount(self._row[:n], each, minlength=len(self.rows)), 1)


def _peaks(scores: np.ndarray, starts: np.ndarray, ends: np.ndarray, reach: int) -> np.ndarray:
    """Highest score of each anomaly and up to ``reach`` rows on both sides; ``(reach + 1, n)``."""
    steps = np.arange(reach + 1)[:, None]
    # beyond the ends of the series: the row of the anomaly itself
    before, after = np.maximum(starts - steps, 0), np.minimum(ends - 1 + steps, len(scores) - 1)
    highest = np.maximum(scores[before], scores[after])
    edges = np.stack([starts, ends], 1).ravel()
    highest[0] = np.maximum.reduceat(scores, edges[edges < len(scores)])[::2]
    return np.maximum.accumulate(highest)


def _found(starts: np.ndarray, ends: np.ndarray, peaks: np.ndarray, reach: int, thresholds: np.ndarray) -> np.ndarray:
    """Share of the anomalies with a row at or above each threshold; those whose buffers overlap are one."""
    apart = np.append(True, ends[:-1] - 1 + reach < starts[1:] - reach)
    highest = np.maximum.reduceat(peaks[reach], np.flatnonzero(apart))
    return _at_least(highest, thresholds) / len(highest)


def _overlap(ours: np.ndarray, theirs: np.ndarray, existence: float) -> np.ndarray:
    """Reward of every range of ``ours`` for its overlap with the ranges of ``theirs``."""
    (starts, ends), (first, last) = ranges(ours), ranges(theirs)
    total = np.append(0, theirs.cumsum())
    share = (total[ends] - total[starts]) / (ends - starts)
    # ranges that begin before the end, less those that end before the start
    number = np.searchsorted(first, ends) - np.searchsorted(last, starts, side="right")
    return existence * (number > 0) + (1 - existence) * share / np.maximum(number, 1)


def _trapezoid(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
