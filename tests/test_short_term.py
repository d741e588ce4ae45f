"""M4: Naive2 by hand and as published, ragged windows, and metrics beside Naive2."""

import os
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from stand_ins import stand_in

from seqmix.data import M4
from seqmix.data.series.naive2 import is_seasonal, naive2
from seqmix.errors import ConfigError
from seqmix.models import DLinear, MixerForecaster, Ridge
from seqmix.tasks import ShortTerm
from seqmix.tasks._losses import Smape
from seqmix.testing import check_data, check_task

SMALL = partial(MixerForecaster, d_model=4, n_layers=1)


@pytest.fixture
def data(monkeypatch):
    found = M4("Hourly", context=170, batch_size=64, recent=2, root="nowhere")
    stand_in(found, monkeypatch)
    return found


@pytest.mark.parametrize("season", [4, 5])
def test_naive2_is_exact_on_a_constant_level_with_a_season(season):
    figure = np.linspace(0.5, 1.5, season)
    y = np.resize(figure, 6 * season + 2)
    assert is_seasonal(y, season)
    np.testing.assert_allclose(naive2(y, season, 7), np.resize(figure, 6 * season + 9)[-7:])


def test_naive2_without_a_season_is_the_last_value():
    noise = np.random.default_rng(0).uniform(1, 2, 100)
    assert not is_seasonal(noise, 7)
    for y, season in ((noise, 7), (noise, 1), (np.resize(noise[:24], 71), 24), (np.ones(90), 5)):
        assert not is_seasonal(y, season) and (naive2(y, season, 3) == y[-1]).all()


@pytest.mark.parametrize(
    ("name", "n", "season", "smape", "mase"), [("Hourly", 414, 24, 18.383, 2.395), ("Weekly", 359, 1, 9.161, 2.777)]
)
def test_naive2_has_its_published_errors(name, n, season, smape, mase):
    if not (root := os.environ.get("SEQMIX_DATA")):
        pytest.skip("SEQMIX_DATA is not set")
    data = M4(name, root=root, eval_batch_size=1000)
    data.setup()
    (batch,) = data.test_dataloader()
    y, ahead = batch["y"].double(), batch["naive2"].double()
    error, size = (ahead - y).abs(), ahead.abs() + y.abs()
    assert len(y) == n and data.series.season == season
    assert float(200 * (error / size).mean()) == pytest.approx(smape, abs=5e-4)
    assert float(error.mean()) == pytest.approx(mase, abs=5e-4)
    # series are divided, so that the mean absolute error of the seasonal naive forecast is 1
    name, (train, test) = next(iter(data._read().items()))
    np.testing.assert_allclose(y[0, :, 0] * data.scale[0], test, rtol=1e-5)
    np.testing.assert_allclose(data.scale[0], np.abs(train[season:] - train[:-season]).mean(), rtol=1e-6)


def test_every_series_is_validated_and_tested_once_and_short_ones_are_padded(data):
    check_data(data)
    (val,), (test,) = list(data.val_dataloader()), list(data.test_dataloader())
    assert len(val["x"]) == len(test["x"]) == 3 and "naive2" not in next(iter(data.train_dataloader()))
    for (train, ahead), unit, v, t, seen in zip(
        data._read().values(), data.scale, val["y"], test["y"], test["x_mask"], strict=True
    ):
        np.testing.assert_allclose(t[:, 0] * unit, ahead, rtol=1e-5)
        np.testing.assert_allclose(v[:, 0] * unit, train[-48:], rtol=1e-5)
        assert int(seen.sum()) == min(len(train), 170)
    # 3 x 48 rows: one horizon is first seen, one is validation; elsewhere two horizons are training
    windows = data._splits["train"]
    assert windows._counts.tolist() == [1, 49, 49]
    last = windows.gather(torch.tensor([0]))
    np.testing.assert_allclose(last["y"][0, :, 0] * data.scale[0], data._read()["S0"][0][48:96], rtol=1e-5)
    assert last["x_mask"].sum() == 48 and not last["x"][~last["x_mask"]].any()


def test_the_task_keeps_its_contract_and_ignores_what_is_before_a_series(data):
    task = ShortTerm(SMALL, data.series)
    check_task(task, data)
    batch = next(iter(data.test_dataloader()))
    task.eval()
    other = {**batch, "x": torch.where(batch["x_mask"], batch["x"], 1e6)}
    torch.testing.assert_close(task(batch), task(other))
    # a forecast of units is one of the data: the loss does not know how a series was divided
    torch.testing.assert_close(Smape()(3 * task(batch), 3 * batch["y"]), Smape()(task(batch), batch["y"]))


def test_smape_draws_to_the_truth_from_both_sides():
    forecast = torch.tensor([1.0, 3.0, 0.0], requires_grad=True)
    loss = Smape()(forecast, torch.tensor([2.0, 2.0, 0.0]))
    torch.testing.assert_close(loss, torch.tensor([200 / 3, 200 / 5, 0.0]))
    loss.sum().backward()
    # with the denominator in the gradient it would be smaller where the forecast is too large
    torch.testing.assert_close(forecast.grad, torch.tensor([-200 / 3, 200 / 5, 0.0]))


def test_a_run_is_scored_beside_naive2_and_forecasts_are_in_units_of_the_data(data):
    pl.seed_everything(0, verbose=False)
    task = ShortTerm(Ridge, data.series, normalize="none", loss="mae")
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=1
    )
    trainer.fit(task, data)
    assert trainer.global_step == 0
    trainer.test(task, data, verbose=False)
    naive, known = task.baselines(data, None, 0)[:2]
    score = task.score()
    assert naive.model == "Naive2" and naive.metrics["owa"] == 1 and naive.count == score.count == 3
    ratios = [score.metrics[name] / naive.metrics[name] for name in ("smape", "mase")]
    assert score.metrics["owa"] == pytest.approx(sum(ratios) / 2, rel=1e-5) and score.metrics["owa"] < 1
    assert known.model == "SeasonalNaive" and known.metrics["mase"] > 0
    (batch,) = trainer.predict(task, data)
    rows = task.prediction_rows(batch, 0, data)
    assert rows.columns.tolist() == ["unique_id", "step", "y", "yhat"] and len(rows) == 3 * 48
    np.testing.assert_allclose(rows["y"][48:96], data._read()["S1"][1], rtol=1e-5)
    assert task.baselines(data, [DLinear], 0)[0].model == "DLinear"


def test_errors():
    with pytest.raises(ConfigError, match="Hourly"):
        M4("Daily")
    with pytest.raises(ConfigError, match="recent must be at least 1"):
        M4("Weekly", recent=0)
