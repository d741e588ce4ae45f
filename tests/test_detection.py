"""Anomaly detection: data of series with labels, the task, its threshold, and its baselines."""

import io
import json
import tarfile
from functools import partial
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from seqmix.data import NAB, AnomalyCSV, AnomalySeries, DetectionData, GeneratedAnomalies
from seqmix.data.series.synthetic.anomalies import KINDS, anomalous, normal
from seqmix.errors import ConfigError, DataError
from seqmix.models import TSM2, ConvForecaster, DLinear, MixerForecaster, RandomScores, Ridge
from seqmix.series import Series
from seqmix.tasks import AnomalyDetection
from seqmix.tasks.detection import METRICS, assess, means
from seqmix.tasks.score import Score

SMALL = partial(MixerForecaster, d_model=8, n_layers=1, patch_len=4)


class Arrays(DetectionData):
    """Series that are given."""

    def __init__(self, *loaded, window=16, n_channels=1, val_share=0.2):
        super().__init__(
            "arrays", n_channels, window, 8, eval_batch_size=None, stride=1, val_share=val_share, seed=None
        )
        self.loaded = loaded

    def _load(self):
        return list(self.loaded)


def _series(name="a", T=120, C=1, n_train=60, seed=0, at=90) -> AnomalySeries:
    values = 3 + np.random.default_rng(seed).standard_normal((T, C)).cumsum(0)
    labels = np.zeros(T, int)
    labels[at : at + 5] = 1
    values[at : at + 5] += 20
    return AnomalySeries(name, values, labels, n_train)


def test_windows_are_of_training_rows_and_tests_of_whole_series():
    first, second = _series(T=120), _series("b", T=200, n_train=100, seed=1)
    first.values[3, 0] = np.nan
    data = Arrays(first, second)
    (batch,) = data.test_dataloader()
    assert batch["x"].shape == (2, 200, 1) and batch["length"].tolist() == [120, 200]
    assert not batch["x_mask"][0, 120:].any() and not batch["x_mask"][0, 3] and batch["x"][0, 3] == 0
    assert batch["labels"].sum(1).tolist() == [5, 5] and batch["n_train"].tolist() == [60, 100]
    # standardized by the training rows, each series by its own
    for i, n in enumerate((60, 100)):
        seen = batch["x"][i, :n][batch["x_mask"][i, :n]]
        assert seen.mean().abs() < 1e-5 and seen.std(correction=0) == pytest.approx(1)
    train, val = (torch.cat([b["x"] for b in loader]) for loader in (data._loader("train", 8), data.val_dataloader()))
    # 60 rows: 16 of validation; 100 rows: 20
    assert len(train) == 44 - 15 + 80 - 15 and len(val) == 1 + 5
    assert torch.equal(val[0], batch["x"][0, 44:60]) and torch.equal(train[29], batch["x"][1, :16])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.full(120, 2)}, "a has the label 2; give 1 for anomalous rows"),
        ({"labels": np.zeros(100)}, "labels (100,); give (T, C) and (T,)"),
        ({"values": np.zeros(120)}, "values (120,)"),
        ({"values": np.full((120, 1), np.inf)}, "infinite values, first in row 0"),
        ({"n_train": 10}, "10 training rows of 120, window = 16 needs 16"),
        ({"n_train": 120}, "120 training rows of 120"),
        ({"n_train": 20}, "at most 20 training rows in a series, window = 16 needs two windows"),
    ],
)
def test_series_that_cannot_be_used(change, message):
    with pytest.raises(DataError) as error:
        Arrays(_series()._replace(**change)).setup()
    assert message in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_generated_anomalies_are_what_their_kind_says(kind):
    found = []
    for seed in range(20):
        made = anomalous(kind, 1200, 3, n_train=400, n_anomalies=2, rng=np.random.default_rng((seed, 1)))
        clean = normal(1200, 3, rng=np.random.default_rng((seed, 1)))
        inside = made.labels.astype(bool)
        assert not inside[:400].any() and (np.diff(np.r_[0, made.labels, 0]) == 1).sum() == 2
        assert np.array_equal(made.values[~inside], clean[~inside])
        changed = (made.values != clean).any(0)
        assert changed.any()
        for channel in np.flatnonzero(changed):
            edges = np.flatnonzero(np.diff(np.r_[0, made.labels, 0]))
            for start, end in edges.reshape(2, 2):
                y, x = made.values[start:end, channel], clean[start:end, channel]
                if (y != x).any():
                    found.append((y, x))
    length = np.array([len(y) for y, _ in found])
    assert length.min() >= KINDS[kind].shortest and length.max() <= KINDS[kind].longest
    gap = [y - x for y, x in found]
    if kind in ("spike", "level"):
        assert all(np.ptp(d) < 1e-9 and abs(d[0]) >= (3 if kind == "spike" else 1) - 1e-9 for d in gap)
        assert len({np.sign(d[0]) for d in gap}) == 2
    elif kind == "trend":
        assert all(d[0] == 0 and np.allclose(np.diff(d, 2), 0, atol=1e-9) and 2 <= abs(d[-1]) <= 4 for d in gap)
    elif kind == "noise":
        assert 0.5 < np.concatenate(gap).std() < 1.2 and abs(np.concatenate(gap).mean()) < 0.1
    elif kind == "flat":
        assert all(np.ptp(y) == 0 for y, _ in found)
    else:
        # values that the series has had, in another time
        assert all(y[0] == x[0] and np.abs(y).max() < 8 for y, x in found)


def test_generated_series_do_not_depend_on_the_kinds_beside_them():
    alone, among = GeneratedAnomalies(kinds=["flat"], n_series=1), GeneratedAnomalies(n_series=1)
    assert np.array_equal(alone._load()[0].values, among._load()[-1].values)
    assert alone.name == "Generated-flat" and among.name == "Generated"
    other = GeneratedAnomalies(kinds=["flat"], n_series=1, data_seed=1)
    assert not np.array_equal(alone._load()[0].values, other._load()[0].values)
    with pytest.raises(ConfigError, match="kinds = 'wave' is not known"):
        GeneratedAnomalies(kinds=["wave"])
    with pytest.raises(ConfigError, match=r"train_share = 1\.5 must be above 0"):
        GeneratedAnomalies(train_share=1.5)


def _archive(folder, files):
    (folder / "nab").mkdir()
    with tarfile.open(folder / "nab" / "nab.tar.gz", "w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))


def test_nab_is_read_with_a_warning(tmp_path):
    times = np.datetime64("2014-01-01") + np.arange(200) * np.timedelta64(5, "m")
    rows = "\n".join(f"{str(t).replace('T', ' ')},{i % 7}" for i, t in enumerate(times))
    windows = {"real/x.csv": [[str(times[150]), str(times[159])]], "art/y.csv": []}
    files = {f"data/{name}": f"timestamp,value\n{rows}\n" for name in windows}
    _archive(tmp_path, files | {"labels/combined_windows.json": json.dumps(windows)})
    data = NAB(window=8, root=str(tmp_path))
    with pytest.warns(UserWarning, match="known flaws"):
        (batch,) = data.test_dataloader()
    assert data.name == "NAB" and batch["labels"].sum(1).tolist() == [0, 10] and batch["n_train"].tolist() == [30, 30]
    with pytest.warns(UserWarning, match="known flaws"), pytest.raises(ConfigError, match="such as art, real"):
        NAB(select="z", root=str(tmp_path)).setup()


@pytest.mark.filterwarnings("ignore:NAB has known flaws")
def test_nab_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"git clone https://github\.com/numenta/NAB"):
        NAB(root=str(tmp_path)).setup()
    _archive(tmp_path, {"labels/combined_windows.json": '{"art/y.csv": []}'})
    with pytest.raises(DataError, match=r"data/art/y\.csv is missing"):
        NAB(root=str(tmp_path)).setup()
    (tmp_path / "nab" / "nab.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read"):
        NAB(root=str(tmp_path)).setup()


def test_a_csv_with_a_column_of_labels(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("t,a,b,odd\n" + "\n".join(f"{i},{i % 5},{i % 3},{int(i == 70)}" for i in range(100)))
    data = AnomalyCSV(str(path), window=8, label_col="odd")
    (batch,) = data.test_dataloader()
    assert data.n_channels == 2 and batch["labels"].sum() == 1 and batch["n_train"].tolist() == [50]
    assert AnomalyCSV(str(path), window=8, columns=["b"], label_col="odd").n_channels == 1
    assert not next(iter(AnomalyCSV(str(path), window=8).test_dataloader()))["labels"].any()
    with pytest.raises(DataError, match="has no column 'odds' of labels; it has a, b, odd"):
        AnomalyCSV(str(path), label_col="odds")


def _task(model=SMALL, C=1, **options) -> AnomalyDetection:
    torch.manual_seed(0)
    return AnomalyDetection(model, Series(C, 16, 16), **options).eval()


@pytest.mark.parametrize(
    ("score", "horizon", "stride"), [("reconstruction", 1, 1), ("forecast", 3, 3), ("forecast", 3, 1)]
)
def test_errors_are_means_over_the_windows_that_cover_a_row(score, horizon, stride):
    task = _task(score=score, horizon=horizon, stride=stride)
    x = torch.randn(50, 1, generator=torch.Generator().manual_seed(1)).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    first = 0 if score == "reconstruction" else 13
    expected = [[] for _ in x]
    with torch.no_grad():
        for start in sorted({*range(0, 35, stride), 34}):
            window = x[start : start + 16].float()[None]
            found = task({"x": window, "x_mask": torch.ones_like(window, dtype=torch.bool)})[0]
            for i, error in enumerate((found - window[0, first:]).square().flatten().tolist(), start + first):
                expected[i].append(error)
        errors = task.detector().errors(x, mask).squeeze(1)
    assert errors[:first].isnan().all()
    np.testing.assert_allclose(errors[first:], [np.mean(each) for each in expected[first:]], rtol=1e-4)


def test_smoothed_errors_are_a_centered_average():
    rough, smooth = _task(), _task(smooth=5)
    smooth.load_state_dict(rough.state_dict())
    x = torch.randn(60, 1).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    with torch.no_grad():
        errors, averaged = (each.detector().errors(x, mask).flatten() for each in (rough, smooth))
    np.testing.assert_allclose(averaged[2:-2], np.convolve(errors, np.ones(5) / 5, "valid"))
    assert float(averaged[0]) == pytest.approx(float(errors[:3].mean()))


def test_the_threshold_does_not_know_the_test_rows():
    series = _series(C=2)
    x, labels = torch.from_numpy(series.values), torch.from_numpy(series.labels)
    mask, task = torch.ones_like(x, dtype=torch.bool), _task(C=2)
    thresholds = []
    for factor in (1, 50):
        detector = task.detector()
        x[60:] *= factor
        assess(detector, x, mask, labels, 60, rate=0.05)
        thresholds.append([detector.largest.clone(), detector.middle.clone(), detector.moments.clone()])
    assert all(torch.equal(a, b) for a, b in zip(*thresholds, strict=True))


def test_missing_values_have_no_part_in_loss_and_scores():
    task, x = _task(C=2), torch.randn(4, 16, 2)
    mask = torch.rand(4, 16, 2) > 0.2
    batch = {"x": x, "x_mask": mask}
    other = {"x": torch.where(mask, x, torch.full_like(x, 99.0)), "x_mask": mask}
    assert torch.equal(task.loss_of(batch), task.loss_of(other))
    assert (task.squared(batch)[~mask] == 0).all()


def test_series_without_anomalies_have_no_part_in_the_metrics():
    quiet = _series("quiet")
    quiet = quiet._replace(labels=np.zeros(120, int))
    for loaded, count in (((_series(), quiet), 1), ((quiet,), 0)):
        task = _task()
        task.on_test_epoch_start()
        with torch.no_grad():
            for batch in Arrays(*loaded).test_dataloader():
                task.add_batch(batch)
        metrics, n = task.finish("test")
        assert n == count and {*metrics} == {*METRICS}
        assert all(np.isfinite(value) == bool(count) for value in metrics.values())
    both, _ = means(torch.tensor([1.0] * 8 + [2.0] * 8).double())
    assert both["vus_pr"] == 0.5


def test_training_makes_errors_smaller_and_baselines_stand_beside_it():
    data = Arrays(_series(T=160, n_train=100, at=130), _series("b", T=160, n_train=100, seed=1, at=130))
    task = _task(ConvForecaster, score="forecast")
    trainer = pl.Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(task.train(), data)
    untrained = _task(ConvForecaster, score="forecast")
    with torch.no_grad():
        batches = [(number, batch) for number, batch in enumerate(data.train_dataloader())]
        for each in (untrained, task.eval()):
            each.on_validation_epoch_start()
            for number, batch in batches:
                each.validation_step(batch, number)
    assert task.finish("val")[0]["error"] < untrained.finish("val")[0]["error"]
    assert "val_error" in trainer.callback_metrics
    trainer.test(task, data, verbose=False)
    assert task.score().count == 2 and task.monitor == "val_error"
    scores = task.baselines(data, None, 0)
    names = ["DetectorMean", "SubPCA", "ForecastErrors (Ridge)", "ForecastErrors (SeasonalNaive)"]
    assert [each.model for each in scores] == [*names, "SpectralResidual", "RandomScores", "ConvForecaster"]
    assert all(0 <= value <= 1 for each in scores for value in each.metrics.values())
    # an anomaly of twenty deviations is found
    assert scores[2].metrics["vus_pr"] > 0.8


def test_baselines_score_what_all_processes_have_tested(monkeypatch):
    """One of two processes that have tested a batch each computes them."""
    data = Arrays(*(_series(name, at=at) for name, at in (("a", 70), ("b", 90), ("c", 110))))
    data.eval_batch_size = 1
    monkeypatch.setattr("seqmix.tasks.detection._DETECTORS", {"RandomScores": RandomScores})
    monkeypatch.setattr("seqmix.tasks.detection.trained", lambda task, data, trainer, seed: Score("own", {}, 0))
    task = _task(ConvForecaster, score="forecast")
    task.trainer = SimpleNamespace(num_test_batches=[1], world_size=2)
    assert task.baselines(data, None, 0)[0].count == 2


def test_every_kind_of_forecasting_model_reconstructs():
    task = _task(partial(TSM2, d_model=8, n_layers=1, patch_len=4, patch_stride=4), C=3)
    x = torch.randn(2, 16, 3)
    assert task({"x": x, "x_mask": torch.ones_like(x, dtype=torch.bool)}).shape == x.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": DLinear}, "DLinear is linear and can copy a window, so that its error says nothing"),
        ({"score": "distance"}, "score = 'distance' is not known"),
        ({"score": "forecast", "horizon": 16}, "horizon = 16 leaves nothing of window = 16"),
        ({"rate": 0.0}, "rate = 0.0 must be above 0"),
        ({"smooth": 0}, "smooth = 0 is below 1"),
        ({"normalize": "last"}, "normalize = 'last' is not known"),
    ],
)
def test_options_that_are_not_meant(options, message):
    with pytest.raises(ConfigError) as error:
        _task(**options)
    assert message in str(error.value)


def test_a_model_in_closed_form_is_not_trained():
    with pytest.raises(ConfigError, match=r"use it in seqmix\.models\.ForecastErrors"):
        _task(Ridge, score="forecast").on_fit_start()
