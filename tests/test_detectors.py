"""Detectors in closed form: what they measure, the ends of series, missing values, channels, bad input."""

import numpy as np
import pytest
import torch

from seqmix.data.series.synthetic.anomalies import anomalous
from seqmix.errors import ConfigError, DataError
from seqmix.models import (
    DetectorMean,
    DLinear,
    ForecastErrors,
    RandomScores,
    Ridge,
    SeasonalNaive,
    SpectralResidual,
    SubPCA,
    ZeroShot,
    period_of,
    series_of,
)
from seqmix.series import Series
from seqmix.tasks.detection_metrics import volumes

MEMBERS = {
    "SubPCA": SubPCA,
    "ForecastErrors": ForecastErrors,
    "SeasonalNaive": lambda series: ForecastErrors(series, model=SeasonalNaive),
    "DetectorMean": DetectorMean,
}


def _waves(T: int = 300, C: int = 2, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    waves = np.sin(2 * np.pi * np.arange(T)[:, None] / 20 + np.arange(C)) + 0.1 * rng.standard_normal((T, C))
    return torch.from_numpy(5 + 3 * waves)


def _fitted(make, x: torch.Tensor, n: int = 200):
    detector = make(series_of(x[:n]))
    detector.fit(x[:n])
    return detector


def test_sub_pca_is_that_of_a_plain_loop():
    x = _waves(80, 1)[:, 0]
    detector = SubPCA(Series(1, 10, 1, season=5), floor=0.5)
    detector.fit(x[:50, None])
    z = (x.numpy() - x[:50].numpy().mean()) / x[:50].numpy().std()
    train = np.stack([z[i : i + 5] for i in range(46)])
    variance, components = np.linalg.eigh(np.cov(train.T, bias=True))
    variance = np.maximum(variance, 0.5 * variance.mean())
    of_window = [np.mean(((z[i : i + 5] - train.mean(0)) @ components) ** 2 / variance) for i in range(76)]
    expected = np.array([np.mean(of_window[max(0, t - 4) : t + 1]) for t in range(80)])
    scores = detector.score(x[:, None]).numpy()
    np.testing.assert_allclose(scores * float(detector.largest[0]), expected, rtol=1e-9)


def test_forecast_errors_are_those_of_the_model():
    x = _waves(120, 1)
    detector = ForecastErrors(Series(1, 20, 1, season=20), model=SeasonalNaive, horizon=3)
    train = detector.fit(x[:60])
    unit = detector.unit[0]
    errors = ((x[20:] - x[:-20]).square() / x[:60].std(correction=0) ** 2).squeeze(1)
    # the first forecast is of row 22, three ahead of row 19; earlier rows have the median of the training scores
    scores = detector.score(x)
    largest = errors[2:40].max()
    torch.testing.assert_close(scores[22:], errors[2:] / largest, rtol=1e-5, atol=1e-8)
    assert (scores[:22] == scores[0]).all() and float(scores[0]) == pytest.approx(
        float((errors[2:40] / largest).median())
    )
    torch.testing.assert_close(train * unit, scores[:60])
    assert len(train) == 60 and (train * unit).max() == 1


@pytest.mark.parametrize("name", ["SubPCA", "DetectorMean"])
@pytest.mark.parametrize("size", [0.8, 5])
def test_a_spike_is_above_the_threshold_and_rows_beside_it_are_not(name, size):
    """8 and 50 deviations of the noise; a level shift is above it from its first row on."""
    rng = torch.Generator().manual_seed(0)
    x = torch.sin(torch.arange(2000) * 2 * torch.pi / 50) + 0.1 * torch.randn(2000, generator=rng)
    x[1500] += size
    x[1800:] += 0.8
    detector = MEMBERS[name](series_of(x[:1000, None]))
    threshold = float(torch.quantile(detector.fit(x[:1000, None]), 0.99))
    scores = detector.score(x[:, None], threshold=threshold)
    above = scores > threshold
    assert above[1500] and above[1400:1600].sum() <= 5 and int(scores[:1750].argmax()) == 1500
    # by the errors of windows all 40 rows before the shift are
    assert above[1800:1803].all() and above[1760:1800].sum() <= 10
    assert (detector.score(x[:, None])[1765:1800] > detector.middle[0]).double().mean() > 0.9


@pytest.mark.parametrize("own", [True, False])
def test_parts_of_sub_pca_add_up_to_the_error_of_the_window(own):
    x = _waves(90, 2)
    detector = SubPCA(Series(2, 10, 1, season=3), own=own)
    detector.fit(x[:60])
    rows, mask = detector._rows(x[60:], None)
    windows = rows.unfold(0, 3, 1) - detector.mean
    parts = torch.einsum("ncw,cwk->nck", windows, detector.components).square()
    errors, alone = detector.both_errors(rows, mask)
    torch.testing.assert_close(errors[2], parts.mean(-1)[:3].mean(0))
    torch.testing.assert_close(
        alone[2], torch.stack([parts[i, :, 2 - i] for i in range(3)]).mean(0) if own else errors[2]
    )


@pytest.mark.parametrize("name", MEMBERS)
def test_first_and_last_rows_are_not_anomalous(name):
    ends, inner = [], []
    for seed in range(4):
        x = _waves(seed=seed)
        scores = _fitted(MEMBERS[name], x).score(x)
        assert scores.shape == (300,) and scores.isfinite().all() and (scores >= 0).all()
        ends.append(torch.cat([scores[:5], scores[-5:]]).mean())
        inner.append(scores[230:270].mean())
    assert 0.4 < float(torch.stack(ends).mean() / torch.stack(inner).mean()) < 1.7


@pytest.mark.parametrize("name", MEMBERS)
def test_an_anomaly_in_one_of_many_channels_is_found(name):
    x = _waves(300, 6)
    x[250:253, 4] += 8
    scores = _fitted(MEMBERS[name], x).score(x)
    assert 225 < int(scores.argmax()) < 280 and scores.max() > 1.5
    # rows of the training are as before, whatever comes later
    assert torch.equal(scores[:150], _fitted(MEMBERS[name], _waves(300, 6)).score(_waves(300, 6))[:150])


@pytest.mark.parametrize("name", MEMBERS)
def test_missing_values_are_no_anomalies(name):
    x, rng = _waves(400), np.random.default_rng(0)
    mask = torch.from_numpy(rng.random((400, 2)) > 0.02)
    mask[:, 1], mask[230:250] = False, False
    detector = MEMBERS[name](series_of(x[:200], mask[:200]))
    detector.fit(x[:200].masked_fill(~mask[:200], torch.nan), mask[:200])
    scores = detector.score(x.masked_fill(~mask, torch.nan), mask)
    # rows without any value have the median score; the second channel, never seen, has no part in any
    assert scores.isfinite().all() and (scores[230:250] == scores[230]).all()
    x[:, 1] = 1e6
    assert torch.equal(scores, detector.score(x.masked_fill(~mask, 0), mask))
    mask[:, 1] = True
    assert torch.equal(scores[260:], detector.score(x, mask)[260:])


@pytest.mark.parametrize("name", MEMBERS)
def test_constant_rows_are_normal_until_they_change(name):
    x = torch.full((200, 1), 0.1, dtype=torch.float64)
    x[150] = 0.2
    detector = _fitted(MEMBERS[name], x, 100)
    scores = detector.score(x)
    assert scores.isfinite().all() and scores[:100].max() < 1e-3 and scores[150] > 1


def test_training_scores_are_of_rows_that_were_held_out():
    # a window as long as a fifth of the training rows fits them far too well
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1000, 1)))
    detector = SubPCA(Series(1, 40, 1, season=40), floor=0)
    threshold = torch.quantile(detector.fit(x[:200]), 0.95)
    assert (detector.score(x, threshold=threshold)[200:] > threshold).double().mean() < 0.2
    detector.fit_rows(*detector._rows(x[:200], None))
    inner = detector.errors(*detector._rows(x[:200], None)) / detector.largest[0]
    assert (detector.score(x)[200:] > torch.quantile(inner, 0.95)).double().mean() > 0.6


def test_state_of_a_detector_is_all_it_knows():
    x = _waves()
    fitted, other = _fitted(DetectorMean, x), DetectorMean(series_of(x[:200]))
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other.score(x), fitted.score(x))


def test_the_default_finds_more_than_its_parts():
    found = {"DetectorMean": [], "SubPCA": [], "ForecastErrors": []}
    for i, kind in enumerate(("spike", "flat", "frequency")):
        rng = np.random.default_rng((9, i))
        series = anomalous(kind, 1000, 1, n_train=400, n_anomalies=3, rng=rng)
        for name, values in found.items():
            scores = _fitted(MEMBERS[name], torch.from_numpy(series.values), 400).score(torch.from_numpy(series.values))
            values.append(volumes(series.labels[400:], scores[400:].numpy()).pr)
    mean = {name: np.mean(values) for name, values in found.items()}
    assert mean["DetectorMean"] > max(mean["SubPCA"], mean["ForecastErrors"]) and mean["DetectorMean"] > 0.6


def test_a_pretrained_model_detects_without_a_fit_of_its_own():
    x = _waves(200, 1)
    x[180] += 15
    detector = ForecastErrors(Series(1, 64, 1, season=20), model=ZeroShot)
    detector.fit(x[:120])
    assert int(detector.score(x).argmax()) == 180


def test_what_is_not_fitted():
    x = _waves()
    x[250, 1] += 10
    scores = _fitted(SpectralResidual, x).score(x)
    assert int(scores.argmax()) == 250 and scores.shape == (300,) and (scores >= 0).all()
    assert _fitted(SpectralResidual, torch.ones(200, 2)).score(torch.ones(150, 2)).isfinite().all()
    random = _fitted(RandomScores, x)
    assert torch.equal(random.score(x), random.score(-x)) and 0.4 < random.score(x).mean() < 0.9


def test_period_of_a_series():
    t = torch.arange(600.0)[:, None]
    assert period_of(torch.sin(2 * torch.pi * t / 48)) == 48
    # of two channels the one that has a period decides; constant ones and noise have none
    assert period_of(torch.cat([torch.sin(2 * torch.pi * t / 30), torch.ones_like(t)], 1)) == 30
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((600, 1)))
    assert period_of(noise) == period_of(torch.ones(600, 1)) == period_of(torch.ones(2, 1)) == 125
    assert series_of(torch.ones(60, 3)) == Series(3, 30, 1, season=30)
    assert series_of(torch.sin(2 * torch.pi * t / 48)) == Series(1, 96, 1, season=48)
    assert series_of(noise, window=10) == Series(1, 20, 1, season=10)
    seen = torch.from_numpy(np.random.default_rng(1).random((600, 1))) > 0.1
    assert period_of((10 + torch.sin(2 * torch.pi * t / 48)).masked_fill(~seen, torch.nan), seen) == 48


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda d: d.fit(torch.ones(20, 2)), ValueError, "20 training rows are fewer than 21"),
        (lambda d: d.fit(torch.ones(50, 3)), ValueError, "shapes ((50, 3),), SubPCA was built for (T, 2)"),
        (lambda d: d.fit(torch.ones(50)), ValueError, "SubPCA was built for (T, 2)"),
        (lambda d: d.score(torch.ones(5, 2), torch.ones(5, 1, dtype=torch.bool)), ValueError, "(5, 1)"),
        (lambda d: d.score(torch.full((5, 2), torch.inf)), ValueError, "not finite; leave them out of the mask"),
        (lambda d: SubPCA(Series(1, 5, 1), window=0), ConfigError, "window = 0 is below 1"),
        (lambda d: ForecastErrors(Series(1, 30, 1), model=DLinear), ConfigError, "DLinear needs gradient steps"),
    ],
)
def test_input_that_is_not_meant(call, error, message):
    with pytest.raises(error) as raised:
        call(SubPCA(Series(2, 20, 1, season=10)))
    assert message in str(raised.value)


@pytest.mark.parametrize("name", MEMBERS)
def test_windows_longer_than_what_is_scored(name):
    x = _waves()
    with pytest.raises(DataError, match="none of 3 rows can be scored: "):
        _fitted(MEMBERS[name], x).score(x[:3])


def test_ridge_of_the_default_sees_levels():
    # a window that is far from all training windows, and goes on as they do
    assert ForecastErrors(Series(1, 20, 1)).model.level == "none" and Ridge(Series(1, 20, 1)).level == "last"
