"""Split-conformal intervals: ranks by hand, coverage by simulation, nesting, messages."""

import runpy
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.intervals import (
    conformal_bounds,
    cqr_bounds,
    fit_conformal,
    fit_cqr,
    local_scale,
    margins,
    naive_scores,
    nest,
    series_sizes,
    small_sample,
)


@pytest.mark.parametrize(("n", "level", "rank"), [(9, 80, 8), (9, 90, 9), (10, 80, 9), (19, 95, 19), (99, 29, 29)])
def test_half_width_is_the_score_of_its_rank(n, level, rank):
    """``ceil((n + 1) level / 100)``-th smallest absolute residual, for each step of the horizon apart."""
    residuals = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))[:, None] * [1.0, -10.0]
    lo, hi = conformal_bounds(np.array([[0.0, 5.0]]), fit_conformal(residuals), level)
    np.testing.assert_allclose(hi, [[rank, 5 + 10 * rank]])
    np.testing.assert_allclose(lo, [[-rank, 5 - 10 * rank]])


@pytest.mark.parametrize("n", [9, 40])
@pytest.mark.parametrize("method", ["residuals", "quantiles"])
def test_coverage_is_what_was_asked_for(n, method):
    """Calibration and new value drawn anew 4,000 times: a mean of coverages known to 0.7 points."""
    rng = np.random.default_rng(1)
    y = rng.standard_t(3, (4000, n + 1, 2)) * [1.0, 5.0]
    level = 80
    if method == "residuals":
        lo, hi = conformal_bounds(np.zeros((4000, 2)), fit_conformal(y[:, :n]), level)
    else:
        # far too narrow below, far too wide above
        low, high = np.full_like(y, -0.1), np.full_like(y, 9.0)
        scores = fit_cqr(y[:, :n], low[:, :n], high[:, :n])
        lo, hi = cqr_bounds(low[:, n], high[:, n], scores, level)
    covered = ((lo <= y[:, n]) & (y[:, n] <= hi)).mean(0)
    want = np.ceil((n + 1) * level / 100 - 1e-9) / (n + 1)
    np.testing.assert_allclose(covered, want, atol=0.02)


def test_intervals_are_nested():
    rng = np.random.default_rng(2)
    scores, yhat = fit_conformal(rng.standard_normal((50, 7))), rng.standard_normal((3, 7))
    bounds = [conformal_bounds(yhat, scores, level) for level in (50, 80, 95)]
    for (lo, hi), (wider_lo, wider_hi) in pairwise(bounds):
        assert (wider_lo <= lo).all() and (hi <= wider_hi).all() and (lo <= hi).all()
    # quantiles of their own may be conformalised past one another
    lo, hi = nest(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[4.0, 4.0], [3.0, 5.0]]))
    assert lo.tolist() == [[0, 1], [0, 0]] and hi.tolist() == [[4, 4], [4, 5]]


def test_quantiles_move_together_no_further_than_their_middle():
    scores = fit_cqr(np.zeros((9, 1)), np.full((9, 1), -5.0), np.full((9, 1), 5.0))
    np.testing.assert_allclose(scores, -5)
    lo, hi = cqr_bounds(np.array([[-5.0], [1.0]]), np.array([[5.0], [3.0]]), scores, 80)
    assert lo.tolist() == hi.tolist() == [[0], [2]]
    around = conformal_bounds(np.array([[1.0]]), fit_conformal(np.full((9, 1), -2.0)), 80)
    same = cqr_bounds(np.array([[1.0]]), np.array([[1.0]]), fit_cqr(*np.full((3, 9, 1), [[[2.0]], [[0]], [[0]]])), 80)
    assert around == same == ([[-1]], [[3]])


def test_series_are_kept_apart_and_missing_residuals_do_not_count():
    residuals = np.arange(1.0, 25).reshape(2, 12, 1)
    residuals[0, 9:] = np.nan
    lo, hi = conformal_bounds(np.zeros((2, 1)), fit_conformal(residuals), 80)
    # 9 and 12 windows: ranks 8 and 11
    assert hi.tolist() == [[8], [23]] and (lo == -hi).all()


@pytest.mark.parametrize(("level", "needed"), [(90, 9), (95, 19), (99, 99), (80, 4)])
def test_too_few_windows(level, needed):
    """Student's t takes the place of the score of a rank around a point forecast; calibrated quantiles are refused."""
    residuals, zero = np.ones((needed, 1)), np.zeros((1, 1))
    assert conformal_bounds(zero, fit_conformal(residuals), level)[1] == 1
    wide = conformal_bounds(zero, fit_conformal(2 * residuals[1:]), level)[1].item()
    assert wide == pytest.approx(2 * stats.t.ppf(0.5 + level / 200, needed - 1))
    assert conformal_bounds(zero, fit_conformal(np.array([[0.0], [0], [9]])), 80)[1] >= 9, "the largest is in it"
    with pytest.raises(DataError) as error:
        cqr_bounds(zero, zero, residuals[1:], level)
    assert str(error.value) == (
        f"intervals of level {level} need {needed} calibration windows, got {needed - 1}; "
        "use more windows, pool the series, or lower the level"
    )
    with pytest.raises(DataError, match=r"^intervals need a calibration window, got none; give longer series, or"):
        conformal_bounds(zero, residuals[:0], level)


@pytest.mark.parametrize(("kind", "season"), [("walk", 1), ("noise", 1), ("season", 4)])
@pytest.mark.parametrize("n", [5, 15])
def test_a_naive_forecast_of_few_rows_is_covered(kind, season, n):
    """500 series of each kind, at the last step of a horizon of 6: at least 80 percent, known to 1.8 points."""
    rng = np.random.default_rng(0)
    y = rng.standard_normal((500, n + 6))
    y = {"walk": y.cumsum(1), "noise": y, "season": 9 * np.sin(np.arange(n + 6) * np.pi / 2) + y}[kind]
    half = np.stack([margins(naive_scores(x[None, :n], season, 6), 80) for x in y])
    k = -(-6 // season) * season
    covered = np.abs(y[:, n + 5] - y[:, n + 5 - k]) <= half[:, 5]
    assert covered.mean() > 0.76 and (np.diff(half, axis=1) >= 0).all()


def test_sizes_of_errors_are_shrunk_where_windows_are_few():
    """Series of sizes 1, 4 and 1 in 99, 99 and 3 windows of 2 steps, one without a window, one without an error."""
    series = np.repeat([0, 1, 2, 4], [99, 99, 3, 5])
    scores = np.where(series == 4, 0.0, np.where(series == 1, 4.0, 1.0))[:, None] * [1.0, 10.0]
    scores[::7, 1], scores[5, 0] = np.nan, np.inf
    sizes = series_sizes(scores, series, 5)
    typical = sizes[3]
    assert sizes[4] == typical and sizes[0] < sizes[2] < typical < sizes[1]
    assert sizes[1] / typical == pytest.approx((4 / 4 ** (1 / 3)) ** (50 / 52), rel=0.05)
    assert sizes[2] / typical == pytest.approx((1 / 4 ** (1 / 3)) ** (2 / 4), rel=0.05)


def test_a_naive_forecast_of_no_differences():
    assert not naive_scores(np.array([[1.0, np.nan, 2.0]]), 1, 3).shape[0]
    assert naive_scores(np.array([[1.0, 2.0, np.nan]]), 2, 3).shape == (199, 3), "by step where no season is known"
    assert not naive_scores(np.full((2, 9), 3.0), 1, 3).any(), "a constant series does not vary"


@pytest.mark.parametrize("level", [0.9, 1, 0, 100, -5])
def test_levels_are_percentages(level):
    with pytest.raises(ConfigError) as error:
        conformal_bounds(np.zeros((1, 1)), np.ones((50, 1)), level)
    assert str(error.value) == f"a level is a percentage between 1 and 100, got {level}; use for example 90"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "loss"), [("DLinear", "mse"), ("DLinear", "quantile"), ("patches", "student_t")], ids=lambda v: v
)
def test_intervals_hold_on_data_never_seen(model, loss, real_data, monkeypatch):
    """M4 Hourly, 80 and 95 percent to within 5 points, averaged over the series; 300 steps of training."""
    real_data("m4")
    folder = Path(__file__).parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    calibration = runpy.run_path(str(folder / "calibration.py"))
    with warnings.catch_warnings():
        # the trainer of the benchmark validates nothing
        warnings.filterwarnings("ignore", message=".*no `val_dataloader`")
        rows = calibration["measure"](calibration["read_m4"](), model, loss, 0, 300)
    final = [row for row in rows if row["intervals"] != "none" or loss == "student_t"]
    assert {row["level"] for row in final} == {80, 95}
    for row in final:
        assert abs(row["coverage"] - row["level"]) <= 5, row


@pytest.mark.parametrize(("differences", "without", "found"), [(2, 0.70, 0.83), (4, 0.75, 0.81), (8, 0.775, 0.80)])
def test_windows_of_few_values_have_wider_intervals(differences, without, found):
    """80 % intervals by the scores of long windows, around forecasts of series that have hardly begun."""
    draw, n, length = np.random.default_rng(0), 20_000, 41
    scores = np.abs(draw.normal(size=n)) / local_scale(draw.normal(size=(n, length, 1)), 1)[:, 0]
    x, error = draw.normal(size=(n, length, 1)), np.abs(draw.normal(size=n))
    x[:, : length - 1 - differences] = np.nan
    width = np.quantile(scores, 0.8) * local_scale(x, 1)[:, 0]
    assert (error <= width).mean() == pytest.approx(found, abs=0.01)
    plain = width / small_sample(differences, 1, length)
    assert (error <= plain).mean() == pytest.approx(without, abs=0.01)
