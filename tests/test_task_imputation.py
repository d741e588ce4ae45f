"""Imputation: hidden cells, errors on them alone, simple baselines, bad input."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from test_task_contract import quiet_trainer

from seqmix.data import Gaps, GapsCSV
from seqmix.errors import ConfigError, DataError
from seqmix.models import (
    DLinear,
    GaussianImputer,
    LastValue,
    LinearInterpolation,
    MixerForecaster,
    SeasonalInterpolation,
    WindowMean,
)
from seqmix.series import Series
from seqmix.tasks import Forecasting, Imputation
from seqmix.tasks._hidden import PATTERNS, Hiding
from seqmix.testing import check_data, check_task

SERIES = Series(2, 24, 24, season=6)


def gaps_csv(tmp_path, rows=240, holes=((5, 3, 0), (60, 40, 1)), **options):
    """Two channels of a noisy cycle with gaps: first row, rows, channel."""
    values = np.sin(np.arange(rows)[:, None] * 2 * np.pi / 6 + [0, 1]) + np.random.default_rng(0).normal(size=(rows, 2))
    for first, n, channel in holes:
        values[first : first + n, channel] = np.nan
    path = tmp_path / "gaps.csv"
    index = pd.date_range("2026-01-01", periods=rows, freq="4h", name="time")
    pd.DataFrame(values, index, ["a", "b"]).to_csv(path)
    return GapsCSV(str(path), 24, 16, **options), values


@pytest.mark.parametrize("pattern", PATTERNS)
def test_hidden_cells(pattern):
    observed = torch.rand(600, 24, 3) < 0.9
    window = torch.arange(600)
    hiding = Hiding(pattern, 0.25, 4, 0)
    found = hiding.hidden(observed, window, 0)
    assert not (found & ~observed).any()
    assert found.sum() / observed.sum() == pytest.approx(0.25, abs=0.02)
    # a function of seed, epoch and number of the window alone
    assert torch.equal(hiding.hidden(observed[7:9], window[7:9], 0), found[7:9])
    for other in (hiding.hidden(observed, window, 1), hiding._replace(seed=1).hidden(observed, window, 0)):
        assert not torch.equal(other, found)
    whole = hiding.hidden(torch.ones_like(observed), window, 0)
    # each step as often as any other, the ends too
    assert (whole.float().mean((0, 2)) - 0.25).abs().max() < 0.08
    if pattern == "block":
        assert (whole.all(2) == whole.any(2)).all()
    if pattern in ("block", "subsequence"):
        # no run inside a window is shorter than 4
        edges = torch.nn.functional.pad(whole.int(), (0, 0, 1, 1)).diff(dim=1)
        for b, _, c in (edges[:40] == 1).nonzero().tolist():
            first = int((edges[b, :, c] == 1).nonzero()[0])
            length = int((edges[b, first:, c] == -1).nonzero()[0])
            assert length >= 4 or first == 0 or first + length == 24


def test_errors_are_those_of_hidden_cells_only(tmp_path):
    """A value that was never observed, or that is seen, does not count, whatever the model says of it."""
    data, _ = gaps_csv(tmp_path, eval_batch_size=7)
    task = Imputation(WindowMean, data.series, rate=0.3, normalize="none")
    (found,) = quiet_trainer(tmp_path).test(task, data, verbose=False)
    squared, cells = 0.0, 0
    for batch in data.test_dataloader():
        left, hidden = task.hide(batch, 0)
        assert torch.equal(left["x_mask"] | hidden, batch["x_mask"]) and not (left["x_mask"] & hidden).any()
        assert not left["x"][~left["x_mask"]].any()
        mean = left["x"].sum(1, keepdim=True) / left["x_mask"].sum(1, keepdim=True)
        squared += float((mean - batch["x"]).square()[hidden].sum())
        cells += int(hidden.sum())
    assert found["test_cells"] == cells
    assert found["test_mse"] == pytest.approx(squared / cells, rel=1e-5)
    # planted values in cells that are missing change nothing
    for windows in data._splits.values():
        windows.values[~windows.mask] = 1e6
    assert quiet_trainer(tmp_path).test(task, data, verbose=False) == [found]


@pytest.mark.parametrize("model", [DLinear, partial(MixerForecaster, d_model=8, n_layers=1, patch_len=4)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fill": "zero", "loss": "hidden", "normalize": "none"},
        {"fill": "mean", "normalize": "none", "pattern": "mixed", "rate": 0.5},
    ],
)
def test_the_contract_of_tasks(model, options, tmp_path):
    data, _ = gaps_csv(tmp_path)
    check_task(Imputation(model, data.series, **options), data)


def test_the_contract_of_data(tmp_path):
    check_data(gaps_csv(tmp_path)[0])
    data, values = gaps_csv(tmp_path, eval_stride=5)
    data.setup()
    (batch,) = list(data.test_dataloader())
    # the last window ends with the series, whatever the stride
    assert batch["window"].tolist() == [0, 1, 2, 3, 4, 5] and data._splits["test"].starts.tolist() == [
        0,
        5,
        10,
        15,
        20,
        24,
    ]
    back = batch["x"] * data.std + data.mean
    np.testing.assert_allclose(back[-1], np.where(np.isnan(values[-24:]), back[-1], values[-24:]), atol=1e-5)
    train = values[:168]
    np.testing.assert_allclose(data.mean, np.nanmean(train, 0), rtol=1e-5)
    np.testing.assert_allclose(data.std, np.nanstd(train, 0), rtol=1e-5)


def test_simple_imputation_by_hand():
    x = torch.tensor([0.0, 1, 0, 0, 4, 0, 9, 0])[None, :, None].expand(2, -1, 2).clone()
    mask = (x != 0) & torch.tensor([True, False])
    want = {
        WindowMean: [14 / 3, 1, 14 / 3, 14 / 3, 4, 14 / 3, 9, 14 / 3],
        LastValue: [1, 1, 1, 1, 4, 4, 9, 9],
        LinearInterpolation: [1, 1, 2, 3, 4, 6.5, 9, 9],
        # phases of a season of 3: (., ., 9), (1, 4, .), (., ., nothing observed)
        SeasonalInterpolation: [9, 1, 2, 9, 4, 6.5, 9, 4],
    }
    for cls, values in want.items():
        y = cls(Series(2, 8, 8, season=3))(x, mask=mask)
        torch.testing.assert_close(y[0, :, 0], torch.tensor(values).float(), msg=cls.__name__)
        # a channel without an observed value is at the mean of the data
        assert not y[..., 1].any()


def test_interpolation_agrees_with_numpy():
    x, mask = torch.randn(5, 31, 3), torch.rand(5, 31, 3) < 0.4
    y = LinearInterpolation(Series(3, 31, 31))(x.masked_fill(~mask, float("nan")), mask=mask)
    for b in range(5):
        for c in range(3):
            at = mask[b, :, c].nonzero()[:, 0]
            want = np.interp(np.arange(31), at, x[b, at, c])
            np.testing.assert_allclose(y[b, :, c], want, atol=1e-5)


def test_training_learns_and_baselines_stand_beside(tmp_path):
    data, _ = gaps_csv(tmp_path)
    task = Imputation(DLinear, data.series, rate=0.25)
    trainer = quiet_trainer(tmp_path, max_epochs=3)
    trainer.fit(task, data)
    (found,) = trainer.test(task, data, verbose=False)
    scores = task.baselines(data, None, 0)
    assert [s.model for s in scores] == ["WindowMean", "LastValue", "LinearInterpolation", "SeasonalInterpolation"]
    assert {s.count for s in scores} == {found["test_cells"]}
    with torch.no_grad():
        rows = task.prediction_rows(task.predict_step(next(iter(data.test_dataloader())), 0), 0, data)
    assert list(rows) == ["window", "step", "channel", "y", "yhat"] and set(rows["channel"]) == {"a", "b"}


@pytest.mark.parametrize("base", [True, partial(GaussianImputer, span=8)])
def test_a_correction_starts_at_its_base_and_is_taken_where_it_helps(base, tmp_path):
    data, _ = gaps_csv(tmp_path)
    task = Imputation(DLinear, data.series, rate=0.25, residual=base, loss="hidden")
    batch = next(iter(data.val_dataloader()))
    left, _ = task.hide(batch, 0)
    torch.testing.assert_close(task(left), task.base(left["x"], mask=left["x_mask"]))
    trainer = quiet_trainer(tmp_path, max_epochs=3)
    trainer.fit(task, data)
    gates = task.gate.clone()
    found = trainer.callback_metrics
    # the metrics of a validation are those of the gated values
    (again,) = quiet_trainer(tmp_path).validate(task, data, verbose=False)
    assert float(found["val_mse"]) == pytest.approx(again["val_mse"], rel=1e-5)
    assert float(found["gate"]) == pytest.approx(float(gates.mean()))
    assert torch.equal(task.gate, gates)
    task.eval().gate.zero_()
    torch.testing.assert_close(task(left), task.base(left["x"], mask=left["x_mask"]))
    task.gate.fill_(1)
    assert (task(left) - task.base(left["x"], mask=left["x_mask"])).abs().amax() > 0
    with pytest.raises(ConfigError, match="WindowMean has no heads"):
        Imputation(WindowMean, data.series, residual=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "rate = 0.0 is not between 0 and 1; use for example rate=0.25"),
        ({"rate": 1.0}, "rate = 1.0 is not between 0 and 1; use for example rate=0.25"),
        ({"run": 25}, "run = 25 is longer than the window of 24 steps; use a shorter one"),
        ({"run": 0}, "run = 0 is below 1; use run=1 or more"),
        ({"pattern": "blocks"}, "pattern = 'blocks' is not known; use one of point, subsequence, block, mixed"),
        (
            {"mask_input": True},
            "mask_input gives the mask as further channels, and channels do not meet in DLinear; leave it out, or use "
            "a model in which they do",
        ),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError) as error:
        Imputation(DLinear, SERIES, **options)
    assert str(error.value) == message


def test_fillers_are_for_this_task():
    with pytest.raises(ConfigError, match="WindowMean fills the window it is given, got context = 24 and horizon = 8"):
        WindowMean(Series(2, 24, 8))
    with pytest.raises(ConfigError, match="LastValue fills gaps of its window; use it with the Imputation task"):
        Forecasting(LastValue, SERIES)
    with pytest.raises(ConfigError, match="a window of 24 steps does not hold two seasons of 13; use a longer context"):
        SeasonalInterpolation(Series(2, 24, 24, season=13))


@pytest.mark.parametrize(
    ("holes", "message"),
    [
        (((0, 240, 1),), "gaps.csv has no observed value of 'b' in its 168 training rows; leave the channel out"),
        ((), "gaps.csv has 24 validation rows, fewer than context = 40; give more rows, or a smaller context"),
    ],
)
def test_data_that_cannot_be_used(holes, message, tmp_path):
    data, _ = gaps_csv(tmp_path, holes=holes)
    data.context = 24 if holes else 40
    with pytest.raises(DataError) as error:
        data.setup()
    assert str(error.value) == message


def test_a_csv_with_gaps_names_what_is_no_number(tmp_path):
    data, _ = gaps_csv(tmp_path)
    path = tmp_path / "gaps.csv"
    lines = path.read_text().splitlines()
    lines[9] = lines[9].split(",")[0] + ",inf,1"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"gaps.csv, line 10, column 'a': infinite value 'inf'"):
        data.setup()


def test_beijing(real_data):
    real_data("beijing_pm25")
    data = Gaps("BeijingPM25")
    data.setup()
    missing = [int((~windows.mask).sum()) for windows in data._splits.values()]
    assert sum(missing) == 2067 and data.channels[0] == "pm2.5" and data.n_channels == 7
    assert [len(windows.values) for windows in data._splits.values()] == [30676, 4384, 8764]
