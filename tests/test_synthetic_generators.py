"""Generators of series: each against its formula, or the statistics that follow from it."""

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.special import gammaln

from seqmix.data.series.synthetic import processes
from seqmix.data.series.synthetic._rows import autoregress, spread, standardize, unit_range
from seqmix.data.series.synthetic.composed import composed, intermittent, irregular, profile, trend
from seqmix.data.series.synthetic.daily import daily_cycles
from seqmix.data.series.synthetic.ets import ets, smooth
from seqmix.data.series.synthetic.kernels import KERNELS, gaussian_process, kernel_synth
from seqmix.data.series.synthetic.noise import level_shift, missing, noiser, rounded, spikes
from seqmix.data.series.synthetic.sarima import filtered, hosking_weights, poles, sarima, sarima_pair, sum_of_seasons


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _correlation(y, lag):
    """Autocorrelation of each row at a lag; 0 for constant rows."""
    centered = standardize(y)
    return (centered[:, lag:] * centered[:, :-lag]).mean(1)


def _coefficients(poles, row, step=1):
    """Coefficients of the product of 1 - pole z^step, from the poles of one row."""
    radius, angle, real = (part[row] for part in poles)
    pairs = radius * np.exp(1j * angle)
    product = np.poly(np.concatenate([pairs, pairs.conj(), [real]])).real
    spaced = np.zeros((len(product) - 1) * step + 1)
    spaced[::step] = product
    return spaced


# rows


def test_recursion_of_first_order(rng):
    e, a = rng.standard_normal((3, 50)), np.array([[0.9], [-0.5], [1.0]])
    expected = np.stack([lfilter([1], [1, -float(k[0])], row) for k, row in zip(a, e, strict=True)])
    np.testing.assert_allclose(autoregress(e, a), expected, atol=1e-12)


def test_standardized_rows_leave_out_what_is_not_seen():
    y = np.array([[1.0, 3.0, 100.0], [7.0, 7.0, 7.0]])
    seen = np.array([[True, True, False], [True] * 3])
    assert standardize(y, seen)[:, :2].tolist() == [[-1, 1], [0, 0]]
    assert unit_range(y)[1].tolist() == [0, 0, 0] and unit_range(y)[0, 2] == 1


def test_rows_are_spread_by_share(rng):
    counts = np.array([spread(10, np.array([0.5, 0.25, 0.25]), rng) for _ in range(200)])
    assert (counts.sum(1) == 10).all() and (counts[:, 0] == 5).all() and set(counts[:, 1]) == {2, 3}
    assert abs(counts[:, 1].mean() - 2.5) < 0.15


# SARIMA


def test_poles_are_uniform_in_the_disk(rng):
    radius, angle, real = poles(20_000, 10, 0.9, rng)
    inside = radius[radius > 0]
    assert inside.max() <= 0.9 and np.abs(real).max() <= 0.9
    # uniform in the disk: the square of the radius is uniform
    np.testing.assert_allclose(
        np.quantile(np.square(inside), [0.25, 0.5, 0.75]), 0.81 * np.array([0.25, 0.5, 0.75]), rtol=0.03
    )
    order = 2 * (radius > 0).sum(1) + (real != 0)
    np.testing.assert_allclose(np.bincount(order) / 20_000, 1 / 11, atol=0.01)
    assert angle.min() >= 0 and angle.max() <= np.pi


@pytest.mark.parametrize("period", [0, 7])
def test_impulse_response_of_the_filter(rng, period):
    n, length = 6, 300
    parts = {
        "roots": poles(n, 10, 0.9, rng),
        "zeros": poles(n, 3, 0.9, rng),
        "seasonal_roots": poles(n, 2, 0.5, rng),
        "seasonal_zeros": poles(n, 2, 0.5, rng),
    }
    impulse = np.zeros((n, length))
    impulse[:, 0] = 1
    y = filtered(impulse, **parts, period=np.full(n, period), d=np.linspace(0, 1, n))
    weights = hosking_weights(np.linspace(0, 1, n), length)
    for i in range(n):
        numerator, denominator = _coefficients(parts["zeros"], i), _coefficients(parts["roots"], i)
        if period:
            numerator = np.convolve(numerator, _coefficients(parts["seasonal_zeros"], i, period))
            denominator = np.convolve(denominator, _coefficients(parts["seasonal_roots"], i, period))
        np.testing.assert_allclose(y[i], lfilter(numerator, denominator, weights[i]), atol=1e-8)


def test_weights_of_fractional_integration():
    d, k = np.array([0.0, 0.3, 1.0]), np.arange(50)
    w = hosking_weights(d, 50)
    assert w[0].tolist() == [1] + 49 * [0] and w[2].tolist() == 50 * [1]
    np.testing.assert_allclose(w[1], np.exp(gammaln(k + 0.3) - gammaln(0.3) - gammaln(k + 1)))


def test_seasonal_sums(rng):
    y = rng.standard_normal((2, 23))
    expected = y.copy()
    for t in range(5, 23):
        expected[:, t] += expected[:, t - 5]
    np.testing.assert_allclose(sum_of_seasons(y, 5), expected)


def test_sarima_repeats_its_season_and_only_where_there_is_one(rng):
    period = np.repeat([12, 0], 200)
    y = sarima(400, 240, period=period, orders=(0, 0), integrated=0, seasonally_integrated=1, rng=rng)
    lag = _correlation(y[:200], 12)
    assert np.median(lag) > 0.85 and np.abs(np.median(_correlation(y[:200], 7))) < 0.2
    # without a season: white noise (d = 0) in half, a random walk (d = 1) in the others
    lag = _correlation(y[200:], 1)
    assert 0.35 < (lag > 0.8).mean() < 0.65 and 0.35 < (np.abs(lag) < 0.4).mean() < 0.65


# exponential smoothing


def test_recursion_of_exponential_smoothing(rng):
    length, m = 20, 4
    e, season = rng.standard_normal((1, length)), rng.standard_normal((1, m))
    one = {"alpha": 0.4, "beta": 0.1, "gamma": 0.2, "phi": 0.9, "slope": 0.5, "drift": 0.05}
    level, slope, seasons, expected = 0.0, one["slope"], list(season[0]), []
    for t in range(length):
        forecast = level + 0.9 * slope + seasons[t]
        expected.append(forecast + e[0, t])
        level, slope = level + 0.9 * slope + 0.05 + 0.4 * e[0, t], 0.9 * slope + 0.1 * e[0, t]
        seasons.append(seasons[t] + 0.2 * e[0, t])
    y = smooth(e, season, np.array([m]), **{name: np.array([value]) for name, value in one.items()})
    np.testing.assert_allclose(y[0], expected)


def test_draws_of_ets_have_their_season_and_trends(rng):
    y = standardize(ets(600, 120, period=np.repeat([12, 1], 300), rng=rng))
    change = np.diff(y, axis=1)
    assert np.median(_correlation(change[:300], 12)) > 0.25 > 0.1 > np.median(_correlation(change[300:], 12))
    # more than half of the low-frequency series end far from where they began
    assert (np.abs(y[300:, -10:].mean(1) - y[300:, :10].mean(1)) > 1.5).mean() > 0.5


# trend, season and noise


def test_trends_have_deviation_one_and_many_shapes(rng):
    y = trend(400, 200, rng=rng)
    flat = ~y.any(1)
    np.testing.assert_allclose(y[~flat].std(1), 1)
    straight = np.abs(np.diff(y, 2, axis=1)).max(1) < 1e-9
    assert 0.08 < flat.mean() < 0.18 and 0.08 < (straight & ~flat).mean() < 0.18


@pytest.mark.parametrize("period", [4, 7, 24, 168])
def test_profiles_repeat_and_differ(rng, period):
    y = profile(100, 3 * period, period=np.full(100, period), rng=rng)
    np.testing.assert_allclose(y[:, period:], y[:, :-period], atol=1e-9)
    assert (np.ptp(y, axis=1) > 1).mean() > 0.9
    assert np.abs(np.corrcoef(y)[np.triu_indices(100, 1)]).mean() < 0.6


def test_noise_is_white_or_of_first_order(rng):
    lag = _correlation(irregular(500, 400, rng=rng), 1)
    assert 0.3 < (lag > 0.2).mean() < 0.5 and (lag > -0.2).all()


def test_composed_series_peak_at_their_periods(rng):
    y = composed(300, 700, periods=np.tile([[24, 0]], (300, 1)), rng=rng)
    without = composed(300, 700, periods=np.zeros((300, 2)), rng=rng)
    gain = [np.median(_correlation(np.diff(part, axis=1), 24)) for part in (y, without)]
    assert gain[0] > 0.3 > 0.05 > gain[1]


def test_intermittent_demand_is_rare_counts(rng):
    y = intermittent(400, 300, period=np.zeros(400), rng=rng)
    assert (y >= 0).all() and (y == np.round(y)).all()
    share = (y > 0).mean(1)
    assert 0.01 < np.quantile(share, 0.1) < 0.06 and 0.3 < np.quantile(share, 0.9) < 0.7


# day and week


def test_daily_cycles_depend_on_the_day_of_the_week(rng):
    y = daily_cycles(300, 24 * 7 * 4, periods=np.tile([[24, 168]], (300, 1)), rng=rng)
    daily = daily_cycles(300, 24 * 7 * 4, periods=np.tile([[24, 0]], (300, 1)), rng=rng)
    week, other = _correlation(y, 168), _correlation(y, 96)
    assert np.median(_correlation(y, 24)) > 0.4 and np.mean(week - other > 0.05) > 0.3
    assert np.mean(_correlation(daily, 168) - _correlation(daily, 96) > 0.05) < 0.15
    # part of them are counts, part are 0 at night
    assert 0.1 < (y == np.round(y)).all(1).mean() < 0.4 and 0.05 < ((y == 0).mean(1) > 0.25).mean() < 0.35


def test_daily_cycles_without_a_day_have_none(rng):
    y = daily_cycles(200, 240, periods=np.zeros((200, 2)), rng=rng)
    assert np.isfinite(y).all() and np.abs(np.median(_correlation(np.diff(y, axis=1), 24))) < 0.05


# kernels


def _kernel(kind, a, b, scale, period, length, center):
    """Covariance of two times ``a`` and ``b``, by the textbook."""
    lag = np.abs(a - b)
    return {
        "periodic": np.exp(-2 * np.sin(np.pi * lag / period) ** 2 / (2 * scale) ** 2),
        "rbf": np.exp(-((lag / (scale * length)) ** 2) / 2),
        "rational_quadratic": 1 / (1 + (lag / (scale * length)) ** 2 / 2),
        "linear": (a - center) * (b - center) / length**2,
        "white": 1.0 * (lag == 0),
        "constant": np.ones_like(lag),
    }[kind]


@pytest.mark.parametrize(
    "expression", ["periodic", "rational_quadratic", "white", "rbf + constant", "rbf + linear * periodic"]
)
def test_covariance_of_gaussian_processes_is_the_kernel(rng, expression):
    n, length, period, scale = 2000, 24, 6.0, 0.3
    words = expression.split()
    kinds, joins = words[::2], ["+", *words[1::2]]
    numbers = np.tile([KERNELS.index(kind) for kind in kinds], (n, 1))
    times = np.tile([join == "*" for join in joins], (n, 1))
    y = gaussian_process(
        length,
        numbers,
        times,
        np.ones_like(times),
        np.full(times.shape, scale),
        np.full(n, period),
        np.full(n, 0.5),
        rng,
    )
    a, b = np.meshgrid(np.arange(length), np.arange(length), indexing="ij")
    expected = np.zeros((length, length))
    for kind, join in zip(kinds, joins, strict=True):
        k = _kernel(kind, a, b, scale, period, length, length / 2)
        expected = expected + k if join == "+" else expected * k
    # five standard errors of a product of two values
    np.testing.assert_allclose(y.T @ y / n, expected, atol=5 * np.sqrt(2) * expected.max() / np.sqrt(n))


def test_kernel_synth_has_a_period_where_one_is_given(rng):
    y = kernel_synth(60, 240, period=np.repeat([24, 0], 30), rng=rng)
    lag = [np.median(_correlation(np.diff(part, axis=1), 24)) for part in (y[:30], y[30:])]
    assert lag[0] > 0.2 and abs(lag[1]) < 0.1


# processes


def test_steps_hold_and_sawtooth_rises(rng):
    y = processes.steps(200, 300, rng=rng)
    still = (np.diff(y, axis=1) == 0).mean(1)
    assert 0.4 < (still > 0.9).mean() < 0.65
    y = processes.sawtooth(200, 96, period=np.full(200, 12), rng=rng)
    assert np.median(_correlation(y, 12)) > 0.75
    assert np.median(_correlation(processes.sawtooth(200, 96, period=np.zeros(200), rng=rng), 12)) < 0.6


def test_regimes_are_stationary_and_revert(rng):
    y = processes.regimes(2000, 400, rng=rng)
    early, late = y[:, 100:200].var(), y[:, 300:].var()
    assert 0.8 < early / late < 1.25
    # the level of a walk of these steps would be much wider
    assert y.std() < 0.5 * np.diff(y, axis=1).std() * np.sqrt(400)


def test_walks_have_increments_without_memory_but_volatility_with_it(rng):
    y = processes.walks(500, 600, rng=rng)
    change = np.diff(y, axis=1)
    assert np.abs(np.median(_correlation(change, 1))) < 0.03 < 0.05 < np.mean(_correlation(np.abs(change), 1))


def test_shots_rise_at_once_and_decay(rng):
    y = processes.shots(500, 400, period=np.zeros(500), rng=rng)
    change = np.diff(y, axis=1)
    assert (y >= 0).all() and (change.max(1) > -change.min(1)).mean() > 0.8 and np.median(_correlation(y, 1)) > 0.5
    # in one part of the period more often than in the other
    y = processes.shots(500, 4000, period=np.full(500, 40), rng=rng)
    by_phase = y.reshape(500, 100, 40).mean(1)
    assert np.median(by_phase.max(1) / by_phase.min(1)) > 1.5


def test_flat_series_have_few_other_values(rng):
    y = processes.flat(500, 200, rng=rng)
    other = (y != np.median(y, axis=1, keepdims=True)).sum(1)
    assert 0.3 < (other == 0).mean() < 0.6 and other.max() < 20


# noise


def test_noisers_keep_the_rate_as_mean(rng):
    ramp = np.tile(np.linspace(-3, 5, 50), (20_000, 1))
    y = noiser(ramp, rng=rng)
    assert (y >= 0).all()
    counts = (y == np.round(y)).all(1)
    assert 0.31 < counts.mean() < 0.36
    level = y.mean(1)
    # half of the largest rate, which is log-uniform in [0.1, 100]
    assert np.median(level) == pytest.approx(0.5 * np.sqrt(0.1 * 100), rel=0.1)
    assert y.mean(0)[-1] / y.mean(0)[25] == pytest.approx(49 / 25, rel=0.05)


def test_spikes_shifts_and_rounding(rng):
    y = rng.standard_normal((400, 100))
    struck = spikes(y, rng=rng) - y
    assert (struck != 0).mean() == pytest.approx(0.01, rel=0.15) and struck[struck != 0].std() == pytest.approx(
        4, rel=0.15
    )
    moved = level_shift(y, rng=rng) - y
    assert ((np.abs(np.diff(moved, axis=1)) > 1e-9).sum(1) == 1).all() and not moved[:, :25].any()
    coarse = rounded(y, rng=rng)
    assert np.abs(coarse - y).max() <= 0.25 and all(len(np.unique(row)) < 100 for row in coarse[:20].round(9)[:, :60])


def test_share_of_missing_values(rng):
    gone = missing(4000, 600, share=0.05, rng=rng)
    assert gone.mean() == pytest.approx(0.05, rel=0.05)
    # pairs of neighbors: rare where single values are missing, common in blocks
    together = (gone[:, 1:] & gone[:, :-1]).sum(1) / np.maximum(gone.sum(1), 1)
    assert 0.4 < (together > 0.3).mean() < 0.6


def test_pairs_are_of_their_two_periods(rng):
    y = sarima_pair(100, 400, periods=np.tile([[12, 0]], (100, 1)), rng=rng)
    without = sarima_pair(100, 400, periods=np.zeros((100, 2)), rng=rng)
    lags = [np.mean(_correlation(np.diff(part, axis=1), 12)) for part in (y, without)]
    assert lags[0] > lags[1] + 0.15
