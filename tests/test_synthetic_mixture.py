"""The mixture that pretrained models are trained on: what a batch holds, that its seed decides it, and its shares."""

import numpy as np
import pytest
import torch

from seqmix.data import SyntheticSeries
from seqmix.data.series.synthetic.mixture import (
    ABSENT,
    ANY,
    HOURLY,
    KINDS,
    MISSING,
    UNANNOUNCED,
    _mixed,
    _periods,
    draw,
)
from seqmix.errors import ConfigError
from seqmix.testing import check_data

CONTEXT, HORIZON = 256, 32


@pytest.fixture(scope="module")
def batch():
    return draw(3000, CONTEXT, HORIZON, seed=(0, 0))


def test_values_are_finite_and_standardized_over_what_is_seen(batch):
    x, mask, periods = batch
    assert (x.dtype, mask.dtype, periods.dtype) == (np.float32, bool, np.int64)
    assert x.shape == mask.shape == (3000, CONTEXT + HORIZON) and periods.shape == (3000, 2)
    count = mask.sum(1)
    assert np.isfinite(x).all() and not x[~mask].any() and np.abs(x).max() <= np.sqrt(CONTEXT + HORIZON)
    deviation = np.sqrt(np.square(x).sum(1) / count)
    np.testing.assert_allclose(x.sum(1) / count, 0, atol=1e-4)
    assert (np.isclose(deviation, 1, atol=1e-3) | ~x.any(1)).all() and 0 < (~x.any(1)).mean() < 0.03


def test_a_seed_decides_the_batch_alone():
    state = np.random.get_state()[1]
    first = draw(20, 64, 16, seed=(0, 7))
    others = [draw(20, 64, 16, seed=seed) for seed in ((0, 6), (1, 7))]
    again = draw(20, 64, 16, seed=(0, 7))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(first.x, other.x) for other in others)
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_small_batches_and_contexts(n):
    x, mask, periods = draw(n, 2, 1, seed=0)
    assert x.shape == mask.shape == (n, 3) and periods.shape == (n, 2) and np.isfinite(x).all()


def test_data_keeps_its_contract():
    check_data(SyntheticSeries(32, 8, 4, steps_per_epoch=3, n_val=10, seed=0))


def test_batches_of_training_depend_on_seed_and_number():
    data = SyntheticSeries(32, 8, 4, steps_per_epoch=2, n_val=10, seed=3)
    loader = data.train_dataloader()
    epochs = [*loader, *loader]
    for k, batch in enumerate(epochs):
        expected = draw(4, 32, 8, seed=(3, 0, k))
        assert all(torch.equal(batch[name], torch.from_numpy(part)) for name, part in expected._asdict().items())
    assert (data.series.context, data.series.horizon, data.series.n_channels) == (32, 8, 1)
    assert not torch.equal(next(iter(data.val_dataloader()))["x"], next(iter(data.test_dataloader()))["x"])


def test_sizes_out_of_range_are_refused():
    with pytest.raises(ConfigError) as error:
        SyntheticSeries(steps_per_epoch=0)
    assert (
        str(error.value) == "steps_per_epoch must be at least 1, got 0; set data.steps_per_epoch to a positive number"
    )


def test_seasons_are_absent_or_unannounced_in_their_share():
    true, announced = _periods(HOURLY, 20_000, np.random.default_rng(0))
    assert (true[:, 0] == 0).mean() == pytest.approx(ABSENT, rel=0.1)
    assert (announced[:, 0] == 0).mean() == pytest.approx(UNANNOUNCED, rel=0.1)
    both = (true[:, 0] > 0) & (announced[:, 0] > 0)
    assert (true == announced)[both].all() and not ((true[:, 0] == 0) & (announced[:, 0] == 0)).any()
    true, announced = _periods(ANY, 1000, np.random.default_rng(0))
    assert (np.abs(true - announced)[(true > 0) & (announced > 0)] < 0.5).all()


def test_series_are_mixed_with_those_of_their_season():
    rng = np.random.default_rng(0)
    season = rng.integers(0, 3, 3000)
    # rows are a cosine of the frequency of their season: a mean of them contains no other frequency
    waves = np.cos(2 * np.pi * (season[:, None] + 1) * np.arange(24) / 24 + 6.28 * rng.random((3000, 1)))
    mixed = _mixed(waves, season[:, None], rng)
    spectrum = np.abs(np.fft.rfft(mixed))[np.arange(3000), season + 1] / np.linalg.norm(mixed, axis=1)
    np.testing.assert_allclose(spectrum, np.sqrt(12))
    assert (np.abs(mixed - waves).max(1) > 1e-6).mean() == pytest.approx(0.2, rel=0.1)


def test_shares_are_those_of_the_table(batch):
    assert sum(kind.share for kind in KINDS.values()) == pytest.approx(1)
    assert sum(kind.share for name, kind in KINDS.items() if name.startswith("low")) == pytest.approx(0.37)
    assert sum(kind.share for name, kind in KINDS.items() if name.startswith("hourly")) == pytest.approx(0.28)
    # hourly and the like come from the kinds of that name, and from those of any season
    days = np.isin(batch.periods[:, 0], (24, 48, 96, 144)) & (batch.periods[:, 1] > 0)
    assert 0.2 < days.mean() < 0.36
    # 30 % of the series, fewer of the low-frequency ones, miss values after their first
    inner = np.arange(CONTEXT + HORIZON) >= batch.mask.argmax(1)[:, None]
    gaps = (~batch.mask & inner).sum(1)
    assert gaps.sum() / inner.sum() == pytest.approx(0.3 * 0.7 * MISSING, rel=0.3) and 0.1 < (gaps > 0).mean() < 0.3
    history = batch.mask[:, :CONTEXT].argmax(1)
    assert 0.4 < (history > 0).mean() < 0.85
