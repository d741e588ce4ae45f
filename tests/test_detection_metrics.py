"""Metrics of anomaly detection, against loops that are written as the papers define them."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from seqmix.tasks import detection_metrics as metrics


def _case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels with up to five ranges, some at the ends of the series, scores with ties in every third case, flags."""
    rng = np.random.default_rng(seed)
    T = int(rng.integers(20, 200))
    labels = np.zeros(T, int)
    for _ in range(rng.integers(1, 6)):
        start = int(rng.integers(0, T - 5))
        labels[start : start + int(rng.integers(1, 20))] = 1
    labels[rng.integers(1, 4)] = 0
    labels[[0, -1]] |= seed % 2
    scores = rng.normal(size=T) + labels * rng.random()
    scores = np.round(scores, 1) if seed % 3 == 0 else scores
    return labels, scores, (scores > np.quantile(scores, 0.8)).astype(int)


def _segments(labels: np.ndarray) -> list[tuple[int, int]]:
    """First and last row of each range."""
    rows = [i for i, label in enumerate(labels) if label]
    firsts = [i for i in rows if i - 1 not in rows]
    return [(i, next(j for j in range(i, len(labels)) if j + 1 not in rows)) for i in firsts]


def _area(labels: np.ndarray, scores: np.ndarray, width: int, n: int | None) -> tuple[float, float]:
    """Areas under both curves for one width of the buffer, threshold by threshold."""
    T, segments = len(labels), _segments(labels)
    soft = labels.astype(float)
    for first, last in segments:
        for d in range(1, width // 2 + 1):
            for row in (first - d, last + d):
                if 0 <= row < T:
                    soft[row] += np.sqrt(1 - d / width)
    soft = np.minimum(soft, 1)
    merged = [list(segments[0])]
    for first, last in segments[1:]:
        if merged[-1][1] + width // 2 < first - width // 2:
            merged.append([first, last])
        merged[-1][1] = last
    falling = np.sort(scores)[::-1]
    thresholds = sorted(set(scores), reverse=True) if n is None else falling[np.linspace(0, T - 1, n).astype(int)]
    curve = [(0.0, 0.0, 1.0)]
    for threshold in thresholds:
        flags = scores >= threshold
        true = (soft * flags).sum()
        total = labels.sum() + (soft * flags * (1 - labels)).sum() / 2
        found = [flags[max(a - width // 2, 0) : b + width // 2 + 1].any() for a, b in merged]
        alarms = (flags.sum() - true) / (T - total)
        curve.append((min(true / total, 1) * np.mean(found), alarms, true / flags.sum()))
    pr = sum((b[0] - a[0]) * b[2] for a, b in pairwise(curve))
    curve.append((1.0, 1.0, 0.0))
    return pr, sum((b[1] - a[1]) * (a[0] + b[0]) / 2 for a, b in pairwise(curve))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n", [None, 50])
def test_volumes_are_those_of_a_plain_loop(seed, n):
    labels, scores, _ = _case(seed)
    width = [0, 1, 2, 3, 7, 12, 25, None][seed]
    widest = int(np.median([b - a + 1 for a, b in _segments(labels)])) if width is None else width
    expected = np.mean([_area(labels, scores, each, n) for each in range(widest + 1)], 0)
    found = metrics.volumes(labels, scores, max_buffer=width, n_thresholds=n)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_areas_and_f1_are_those_of_scikit_learn(seed):
    labels, scores, flags = _case(seed)
    assert metrics.average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores))
    assert metrics.roc_auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert metrics.f1(labels, flags) == pytest.approx(f1_score(labels, flags))
    best = max(2 * labels[scores >= t].sum() / (labels.sum() + (scores >= t).sum()) for t in scores)
    assert metrics.best_f1(labels, scores) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(8))
def test_range_f1_is_that_of_a_plain_loop(seed):
    labels, _, flags = _case(seed)

    def reward(ours: np.ndarray, theirs: np.ndarray, existence: float) -> float:
        found = []
        for first, last in _segments(ours):
            share = theirs[first : last + 1].mean()
            number = sum(a <= last and b >= first for a, b in _segments(theirs))
            found.append(existence * (number > 0) + (1 - existence) * share / max(number, 1))
        return float(np.mean(found))

    recall, precision = reward(labels, flags, 0.2), reward(flags, labels, 0)
    assert metrics.range_f1(labels, flags) == pytest.approx(2 * recall * precision / (recall + precision))


def test_what_each_metric_says_of_a_small_case():
    labels = np.array([0, 0, 1, 1, 1, 1, 0, 0, 0, 0])
    scores = np.array([0, 0, 0, 0, 9, 0, 0, 0, 0, 1.0])
    flags = (scores > 5).astype(int)
    # one of four rows is found: points say 2 * 1 / (4 + 1), ranges .2 + .8 / 4 of the only anomaly
    assert metrics.f1(labels, flags) == pytest.approx(0.4)
    assert metrics.range_f1(labels, flags) == pytest.approx(2 * 0.4 / 1.4)
    assert metrics.point_adjusted_f1(labels, flags) == 1
    # a score that is one row late loses all of AUC-PR and less of VUS-PR
    point = np.eye(1, 101, 50, dtype=int)[0]
    late = np.eye(1, 101, 51)[0]
    assert metrics.volumes(point, late, max_buffer=20).pr > 10 * metrics.average_precision(point, late)
    assert metrics.volumes(point, point, max_buffer=20).pr == pytest.approx(1)
    # a score that says nothing has the share of anomalous rows
    assert metrics.average_precision(labels, np.ones(10)) == pytest.approx(0.4)
    assert metrics.roc_auc(labels, np.ones(10)) == pytest.approx(0.5)


def test_scale_of_the_scores_does_not_matter():
    labels, scores, _ = _case(1)
    assert metrics.volumes(labels, 1e3 * scores + 7) == metrics.volumes(labels, scores)


@pytest.mark.parametrize("label", [0, 1])
def test_what_is_not_defined_is_nan(label):
    labels, scores = np.full(9, label), np.arange(9)
    flags = scores > 4
    values = [
        metrics.average_precision(labels, scores),
        metrics.roc_auc(labels, scores),
        *metrics.volumes(labels, scores),
        metrics.best_f1(labels, scores),
        *(each(labels, flags) for each in (metrics.f1, metrics.range_f1, metrics.point_adjusted_f1)),
    ]
    assert np.isnan(values).all()
    assert metrics.f1([0, 1], [0, 0]) == metrics.range_f1([0, 1], [0, 0]) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.roc_auc([0, 1], [0.5]), "labels have shape (2,) and scores (1,)"),
        (lambda: metrics.roc_auc([[0, 1]], [[0.5, 1]]), "labels have shape (1, 2)"),
        (lambda: metrics.roc_auc([], []), "T at least 1"),
        (lambda: metrics.f1([0, 2], [0, 1]), "labels hold 2; give 1 for anomalous rows and 0 for the others"),
        (lambda: metrics.f1([0, 1], [0, 0.5]), "flags hold 0.5"),
        (lambda: metrics.volumes(["a", "b"], [0, 1]), "labels hold a"),
        (lambda: metrics.volumes([0, 1], [0, np.nan]), "scores hold 1 values that are not finite"),
        (lambda: metrics.volumes([0, 1], [0, 1], max_buffer=-1), "max_buffer must not be negative, got -1"),
        (lambda: metrics.volumes([0, 1], [0, 1], n_thresholds=1), "n_thresholds must be at least 2, got 1"),
        (lambda: metrics.range_f1([0, 1], [0, 1], existence=2), "existence = 2 is no weight"),
    ],
)
def test_input_that_is_not_meant(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)
