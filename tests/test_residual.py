"""Models on the residual of ridge regression, and the gate that a validation chooses."""

import re
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch

from seqmix import Forecaster
from seqmix.commands.train import main
from seqmix.data import Cycles
from seqmix.data.series.windows import Windows
from seqmix.errors import ConfigError
from seqmix.forecasting.exporting import Graph
from seqmix.mixers import Dense, Hydra
from seqmix.models import (
    TSM2,
    DLinear,
    MixerForecaster,
    Residual,
    ResidualForecaster,
    Ridge,
    SeasonalNaive,
    list_models,
    model_facts,
)
from seqmix.series import Series
from seqmix.tasks import AdamW, Forecasting
from seqmix.tasks._gate import BLOCKS, GateSums
from seqmix.tasks.rows import read_rows
from seqmix.testing import check_model

CONTEXT, HORIZON, C = 32, 8, 3
SMALL = partial(TSM2, d_model=8, n_layers=1, patch_len=8, patch_stride=8, d_state=4, dropout=0.0, head_dropout=0.0)


def cycles(**options) -> Cycles:
    data = Cycles(CONTEXT, HORIZON, 32, n_channels=C, n_steps=1500, lag=8, **options)
    data.setup()
    return data


def trainer(max_steps: int, period: int = 20) -> pl.Trainer:
    return pl.Trainer(
        max_steps=max_steps,
        max_epochs=-1,
        val_check_interval=period,
        check_val_every_n_epoch=None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accelerator="cpu",
    )


@pytest.mark.parametrize("loss", ["mse", "quantile", "student_t"])
@pytest.mark.parametrize("name", list_models())
def test_training_starts_at_the_ridge(name, loss):
    """Every registered model either has heads that are 0 at the start, or is refused by name."""
    cls, _, example = model_facts(name)
    series = Series(C, CONTEXT, HORIZON, season=4)
    if not cls(series, **example).heads():
        with pytest.raises(ConfigError, match=rf"{name} has no heads\(\) that are 0"):
            Residual(partial(cls, **example))(series)
        return
    task = Forecasting(partial(cls, **example), series, residual=True, loss=loss).train()
    torch.nn.init.normal_(task.model.ridge.weight)
    batch = {"x": torch.randn(4, CONTEXT, C) + 3, "y": torch.randn(4, HORIZON, C)}
    base = task._base(batch)
    assert base.std() > 1
    for mode in (True, False):
        assert torch.equal(task.train(mode).point(task(batch)), base)
    if loss == "student_t":
        assert (task(batch)[..., 1] > 0).all()
    task.train().loss_of(batch).backward()
    assert all(p.grad is None for p in task.model.ridge.parameters())
    assert any(p.grad.any() for head in task.model.model.heads() for p in head.parameters())


def sums(error, correction, *, each=False, weight=None, place=None):
    found = GateSums(error.shape[-1], each=each)
    place = torch.arange(len(error)) / len(error) if place is None else place
    for k in range(0, len(error), 7):
        part = slice(k, k + 7)
        found.add(error[part], correction[part], None if weight is None else weight[part], place[part])
    return found


def test_gate_by_least_squares_of_a_correction_that_helps():
    torch.manual_seed(0)
    correction = torch.randn(200, 4, 2)
    noise = 0.5 * torch.randn(200, 4, 2)
    for true, want in ((1.0, 1.0), (0.3, 0.3), (5.0, 1.0)):
        gate, t = sums(true * correction + noise, correction).choose()
        assert torch.allclose(gate, torch.full((2,), want, dtype=torch.float64)) and (t > 5).all()
    assert sums(-correction, correction).choose()[0].tolist() == [0, 0]


def test_gate_is_closed_to_noise():
    """Least squares alone would take every second correction that is noise."""
    torch.manual_seed(0)
    found = [sums(torch.randn(200, 4, 2), torch.randn(200, 4, 2)) for _ in range(40)]
    taken = [bool(each.choose()[0].any()) for each in found]
    helped = [bool(each.squares[1].sum() > 0) for each in found]
    assert sum(helped) > 12 and sum(taken) <= 4


def test_one_lucky_block_opens_no_gate():
    error, correction = torch.zeros(100, 4, 1), torch.ones(100, 4, 1)
    error[:10] = 10
    gate, t = sums(error, correction).choose()
    assert gate.item() == 0 and 0 < t.item() < 2


@pytest.mark.parametrize(("blocks", "opened"), [(1, False), (2, False), (3, True), (BLOCKS, True)])
def test_fewer_blocks_of_time_ask_for_a_larger_t(blocks, opened):
    """Gains of 1 and 2 in turn: their t-statistic is 3 for two blocks, where the critical value is 8."""
    block = torch.arange(blocks).repeat_interleave(2)
    error = (1 + block % 2 / 2).view(-1, 1, 1).expand(-1, 4, 1)
    gate, _ = sums(error, torch.ones_like(error), place=block / BLOCKS).choose()
    assert bool(gate.item()) == opened


def test_gates_of_channels_are_their_own():
    torch.manual_seed(0)
    correction = torch.randn(200, 4, 2)
    error = correction + 0.5 * torch.randn(200, 4, 2)
    error[..., 1] -= 3 * correction[..., 1]
    assert sums(error, correction).choose()[0].tolist() == [0, 0]
    assert sums(error, correction, each=True).choose()[0].tolist() == [1, 0]


def test_errors_are_those_of_the_gated_forecast():
    torch.manual_seed(0)
    error, correction = torch.randn(50, 4, 2), torch.randn(50, 4, 2)
    weight = (torch.rand(50, 4, 2) > 0.3).float()
    found = sums(error, correction, weight=weight)
    for gate in ([0.0, 0.0], [0.3, 1.0]):
        gate = torch.tensor(gate, dtype=torch.float64)
        left = (error - gate * correction) * weight
        want = (left.square().sum() / weight.sum(), left.abs().sum() / weight.sum())
        assert found.errors(gate) == pytest.approx([float(x) for x in want], rel=1e-5)
    correction[3] = torch.nan
    assert all(np.isnan(sums(error, correction).errors(torch.zeros(2).double())))


def test_places_are_those_in_the_windows_of_a_series():
    indptr = torch.tensor([0, 12, 40])
    windows = Windows(torch.zeros(40, 1), indptr, 4, 4, placed=True)
    place = windows.gather(torch.arange(len(windows)))["place"]
    assert torch.allclose(place, torch.cat([torch.arange(5) / 5, torch.arange(21) / 21]))
    assert "place" not in Windows(torch.zeros(40, 1), indptr, 4, 4).gather(torch.arange(2))


def test_a_correction_is_learned_and_validation_is_never_worse_than_the_ridge():
    data = cycles()
    task = Forecasting(SMALL, data.series, residual=True, normalize="none", optim=AdamW(lr=1e-2), patience=None)
    found = []
    task.on_validation_end = lambda: found.append(
        (float(task.trainer.callback_metrics["val_mse"]), task.model.gate.clone(), task.remarks())
    )
    run = trainer(80)
    run.fit(task, data)
    ridge = Forecasting(Ridge, data.series, normalize="none")
    ridge.model.load_state_dict(task.model.ridge.state_dict())
    (base,) = run.validate(ridge, data, verbose=False)
    assert len(found) == 4 and all(mse <= base["val_mse"] + 1e-6 for mse, _, _ in found)
    # the last channel follows the first one, which the ridge does not see
    assert found[-1][0] < 0.9 * base["val_mse"] and found[-1][1].min() > 0.5 and found[-1][2]["gate_t"] > 2
    # a validation on its own keeps the gate, and measures what it had said
    (again,) = run.validate(task, data, verbose=False)
    assert again["val_mse"] == pytest.approx(found[-1][0], rel=1e-5)
    twin = Forecasting(SMALL, data.series, residual=True, normalize="none")
    twin.load_state_dict(task.state_dict())
    batch = next(iter(data.test_dataloader()))
    assert torch.equal(twin.eval()(batch), task.eval()(batch))
    assert not torch.equal(twin(batch), task._base(batch))


def test_a_useless_model_leaves_the_ridge():
    """With a learning rate that ruins the correction every validation has the ridge's error, to the bit."""
    data = cycles()
    task = Forecasting(partial(DLinear, kernel_size=5), data.series, residual=True, optim=AdamW(lr=3.0), patience=None)
    run = trainer(10, period=5)
    run.fit(task, data)
    assert not task.model.gate.any()
    batch = next(iter(data.val_dataloader()))
    assert torch.equal(task.eval()(batch), task._base(batch))
    ridge = Forecasting(Ridge, data.series, normalize="none")
    ridge.model.load_state_dict(task.model.ridge.state_dict())
    (base,) = run.validate(ridge, data, verbose=False)
    assert float(run.callback_metrics["val_mse"]) == pytest.approx(base["val_mse"], rel=1e-6)


@pytest.mark.parametrize("loss", ["quantile", "normal"])
def test_the_gate_moves_the_location_and_leaves_the_spread(loss):
    series = Series(C, CONTEXT, HORIZON)
    task = Forecasting(SMALL, series, residual=True, loss=loss).eval()
    for p in task.model.model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    batch = {"x": torch.randn(4, CONTEXT, C)}
    task.model.gate.fill_(1)
    full, base = task(batch), task._base(batch)
    task.model.gate.fill_(0.25)
    gated = task(batch)
    torch.testing.assert_close(task.point(gated), base + 0.25 * (task.point(full) - base))
    if loss == "normal":
        assert torch.equal(gated[..., 1], full[..., 1])
    else:
        torch.testing.assert_close(gated.diff(dim=-1), full.diff(dim=-1))


def test_options_that_do_not_fit_are_refused():
    series = Series(C, CONTEXT, HORIZON)
    with pytest.raises(ConfigError) as error:
        Forecasting(SMALL, series, residual=True, loss="negative_binomial")
    assert str(error.value) == (
        "ResidualForecaster adds a correction, and counts have none (loss = 'negative_binomial'); use "
        "loss='student_t', or the model without residual"
    )
    with pytest.raises(ConfigError, match="no model, encoder or mixer 'TSM3'; did you mean 'TSM2'"):
        Residual("TSM3")
    with pytest.raises(ConfigError) as error:
        Residual(SeasonalNaive)(series)
    assert str(error.value) == (
        "SeasonalNaive has no heads() that are 0 at the start of a correction; use DLinear, MixerForecaster or TSM2, "
        "or give it that method"
    )


def test_names_mixers_classes_and_partials_are_taken():
    series = Series(C, CONTEXT, HORIZON)
    for model, note in (
        ("TSM2", "TSM2"),
        (Hydra, "MixerForecaster (Hydra)"),
        ("Transformer", "Transformer"),
        ("Mamba", "MixerForecaster (Mamba)"),
        (partial(MixerForecaster, mixer=Hydra), "MixerForecaster (Hydra)"),
    ):
        built = Residual(model)(series)
        assert isinstance(built, ResidualForecaster) and built.note == note
    assert ResidualForecaster.channels_meet({"model": SMALL})
    assert not ResidualForecaster.channels_meet({"model": MixerForecaster})


def test_covariates_reach_the_model_that_uses_them():
    series = Series(C, CONTEXT, HORIZON, n_future=2)
    task = Forecasting(DLinear, series, residual=True).eval()
    torch.nn.init.normal_(task.model.model.ahead.weight)
    task.model.gate.fill_(1)
    batch = {"x": torch.randn(2, CONTEXT, C), "future": torch.randn(2, CONTEXT + HORIZON, 2)}
    assert not torch.equal(task(batch), task({**batch, "future": batch["future"] + 1}))


def test_contract():
    check_model(Residual(partial(DLinear, kernel_size=5)))


def test_mixers_of_the_model_can_be_dense():
    task = Forecasting(SMALL, Series(C, CONTEXT, HORIZON), residual=True).train()
    task.densify()
    batch = {"x": torch.randn(2, CONTEXT, C), "y": torch.randn(2, HORIZON, C)}
    assert torch.equal(task(batch), task._base(batch))
    task.loss_of(batch).backward()
    assert any(isinstance(module, Dense) for module in task.model.model.modules())


def panel(n: int = 3, rows: int = 200) -> pd.DataFrame:
    rng, t = np.random.default_rng(0), np.arange(rows)
    y = [np.sin(2 * np.pi * t / 24 + i) + 0.1 * rng.standard_normal(rows) for i in range(n)]
    ds = pd.date_range("2024-01-01", periods=rows, freq="h")
    return pd.concat([pd.DataFrame({"unique_id": f"s{i}", "ds": ds, "y": y[i]}) for i in range(n)])


@pytest.mark.parametrize(("loss", "joint"), [("mse", False), ("quantile", True)])
def test_forecaster_round_trip(loss, joint, tmp_path):
    model = Residual(SMALL if joint else "DLinear")
    df = panel()
    df.loc[df.index[20:25], "y"] = np.nan
    forecaster = Forecaster(model, horizon=8, max_steps=6, loss=loss, levels=[80], context_length=CONTEXT)
    forecast = forecaster.fit(df).predict()
    assert forecaster.plan_.joint == joint
    assert np.isfinite(forecast.drop(columns=["unique_id", "ds"]).to_numpy()).all()
    if loss == "quantile":
        low, high = (forecast[f"ResidualForecaster-{side}-80"] for side in ("lo", "hi"))
        assert (low < high).all()
    forecaster.save(tmp_path / "saved")
    pd.testing.assert_frame_equal(Forecaster.load(tmp_path / "saved").predict(), forecast)


def test_a_graph_holds_ridge_gate_and_correction():
    forecaster = Forecaster(Residual("DLinear"), horizon=8, max_steps=4, context_length=CONTEXT).fit(panel(n=1))
    member = forecaster.fitted_.members[0].predictor.model
    with torch.no_grad():
        member.gate.fill_(0.5)
        for p in member.model.parameters():
            p.normal_(std=0.1)
    x = torch.from_numpy(forecaster.fitted_.ends.values.astype(np.float32))
    y, *_ = Graph(forecaster.fitted_, forecaster.fitted_.members[0]).eval()(x, torch.ones_like(x, dtype=torch.bool))
    want = forecaster.predict()["ResidualForecaster"]
    np.testing.assert_allclose(y[0, :, 0].detach(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [["true"], ["Ridge", "--model.residual.weights", "own"]])
def test_one_word_on_the_command_line(value, monkeypatch, tmp_path, capsys):
    """The gate and its t-statistic stand in the printed lines, the metrics and the row of results."""
    monkeypatch.chdir(tmp_path)
    always = ["--config", "demo", "--model.residual", *value, "--data.n_steps", "700", "--baselines", "[Ridge]"]
    main("fit", [*always, "--trainer.max_steps", "4", "--trainer.val_check_interval", "2"])
    printed = capsys.readouterr().out
    assert re.search(r"gate [01]\.\d{4} gate_t \d", printed) and "ResidualForecaster (TSM2)" in printed
    (run,) = (tmp_path / "runs/demo").iterdir()
    row, ridge = read_rows(run / "results.csv")
    assert ridge["model"].startswith("Ridge") and not ridge["gate"]
    assert row["model"] == "ResidualForecaster (TSM2)" and row["gate"] and row["gate_t"]
    assert all(row["gate"] for row in read_rows(run / "metrics.csv"))
    main("test", [*always, "--ckpt_path", str(run / "best.ckpt")])
    assert f"{float(row['mse']):.4f}" in capsys.readouterr().out
