"""Row counts, splits, window counts and scaling of the published data sets, on generated and on the real files."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seqmix.data import Benchmark
from seqmix.data.series import benchmarks
from seqmix.errors import DataError

ETT_NAMES = ["ETTh1", "ETTh2", "ETTm1", "ETTm2"]


def _real(name):
    """A parameter that is skipped where the file of the data set is not at hand."""
    root, paths = os.environ.get("SEQMIX_DATA"), benchmarks.FACTS[name].source.paths
    found = root and any((Path(root) / f"{path}{end}").exists() for path in paths for end in ("", ".gz"))
    return pytest.param(name, marks=pytest.mark.skipif(not found, reason=f"set SEQMIX_DATA to a folder with {name}"))


# rows, channels, season, training / validation / test rows, as published
PUBLISHED = {
    "ETTh1": (17420, 7, 24, (8640, 2880, 2880)),
    "ETTh2": (17420, 7, 24, (8640, 2880, 2880)),
    "ETTm1": (69680, 7, 96, (34560, 11520, 11520)),
    "ETTm2": (69680, 7, 96, (34560, 11520, 11520)),
    "Weather": (52696, 21, 144, (36887, 5270, 10539)),
    "Exchange": (7588, 8, 1, (5311, 760, 1517)),
    "ILI": (966, 7, 52, (676, 97, 193)),
    "ECL": (26304, 321, 24, (18412, 2632, 5260)),
    "Traffic": (17544, 862, 24, (12280, 1756, 3508)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_table_of_constants(name):
    n_rows, n_channels, season, split = PUBLISHED[name]
    facts = benchmarks.FACTS[name]
    assert (facts.name, facts.n_rows, facts.n_channels, facts.season) == (name, n_rows, n_channels, season)
    assert facts.split == split
    if name not in ETT_NAMES:
        assert split == (int(0.7 * n_rows), n_rows - int(0.7 * n_rows) - int(0.2 * n_rows), int(0.2 * n_rows))
    data = Benchmark(name)
    assert (data.name, data.n_channels, data.season) == (name, n_channels, season)
    assert (data.context, data.horizon, data.batch_size, data.series.n_future) == (512, 96, 32, 0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_page_in_the_data_folder_agrees(name):
    facts = benchmarks.FACTS[name]
    page = (Path(__file__).parents[1] / "data" / "README.md").read_text()
    row = next(line for line in page.splitlines() if f"`{facts.source.paths[0]}`" in line)
    assert f"| {facts.n_rows:,} × {facts.n_channels} |" in row and row.endswith(f"| {facts.license} |")
    if facts.source.sha256 is not None:
        assert f"| {facts.source.size:,} | `{facts.source.sha256}` |" in row


@pytest.mark.parametrize("name", [_real(name) for name in [*ETT_NAMES, "Weather", "Exchange", "ILI"]])
def test_real_files(name):
    context, horizon = (36, 24) if name == "ILI" else (336, 192)
    data = Benchmark(name, context=context, horizon=horizon)
    n_train, n_val, n_test = PUBLISHED[name][3]
    assert data.window_counts == {
        "train": n_train - context - horizon + 1,
        "val": n_val - horizon + 1,
        "test": n_test - horizon + 1,
    }
    first = next(iter(data.test_dataloader()))
    source = benchmarks.FACTS[name].source
    folder, file = source.paths[0].split("/")
    raw = pd.read_csv(f"{os.environ['SEQMIX_DATA']}/{folder}/{file}.gz").to_numpy()[:, 1:].astype(float)
    scaled = (raw - raw[:n_train].mean(0)) / raw[:n_train].std(0)
    start = n_train + n_val
    assert np.allclose(first["x"][0], scaled[start - context : start], atol=1e-5)
    assert np.allclose(first["y"][0], scaled[start : start + horizon], atol=1e-5)


@pytest.mark.parametrize("name", [_real("ETTh1")])
@pytest.mark.parametrize(("horizon", "n_windows"), [(96, 2785), (192, 2689), (336, 2545), (720, 2161)])
@pytest.mark.parametrize("context", [96, 512])
def test_published_test_windows_of_etth1(name, context, horizon, n_windows):
    data = Benchmark(name, context, horizon, eval_batch_size=512)
    assert data.window_counts["test"] == n_windows
    assert sum(len(batch["x"]) for batch in data.test_dataloader()) == n_windows


def _generated(folder, monkeypatch, name, n_rows=None):
    """A file of the published size with other numbers in it, accepted by its checksum."""
    facts = benchmarks.FACTS[name]
    n_rows = n_rows or facts.n_rows
    times = pd.date_range("2016-07-01", periods=n_rows, freq=pd.Timedelta(hours=facts.step))
    values = np.random.default_rng(0).integers(0, 100, (n_rows, facts.n_channels))
    frame = pd.DataFrame(values, columns=[f"c{i}" for i in range(facts.n_channels)])
    frame.insert(0, "date", times)
    content = frame.to_csv(index=False).encode()
    path = folder / facts.source.paths[0]
    path.parent.mkdir()
    path.write_bytes(content)
    source = facts.source._replace(sha256=facts.source.sha256 and hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(benchmarks.FACTS, name, facts._replace(source=source))
    return values.astype(float), times


@pytest.mark.parametrize("name", ["ETTh2", "Exchange", "ILI"])
def test_generated_files_of_published_size(tmp_path, monkeypatch, name):
    values, times = _generated(tmp_path, monkeypatch, name)
    data = Benchmark(name, context=36, horizon=24, root=str(tmp_path), stride=5, calendar=True)
    n_train, n_val, n_test = PUBLISHED[name][3]
    assert data.window_counts == {"train": (n_train - 60) // 5 + 1, "val": n_val - 23, "test": n_test - 23}
    mean, std = values[:n_train].mean(0), values[:n_train].std(0)
    assert np.allclose(data.mean, mean) and np.allclose(data.std, std)
    *_, last = data.test_dataloader()
    end = n_train + n_val + n_test
    assert np.allclose(last["y"][-1] * data.std + data.mean, values[end - 24 : end], atol=1e-4)
    expected = {
        "hour": times.hour / 23 - 0.5,
        "day_of_week": times.day_of_week / 6 - 0.5,
        "day": (times.day - 1) / 30 - 0.5,
        "day_of_year": (times.day_of_year - 1) / 365 - 0.5,
    }
    names = list(expected)[{"ETTh2": 0, "Exchange": 1, "ILI": 2}[name] :]
    assert data.series.n_future == len(names)
    for feature, column in zip(last["future"][-1].unbind(1), names, strict=True):
        assert np.allclose(feature, expected[column][end - 60 : end], atol=1e-6), column


def test_file_of_another_size_is_refused(tmp_path, monkeypatch):
    _generated(tmp_path, monkeypatch, "ECL", 50)
    with pytest.raises(DataError) as error:
        Benchmark("ECL", root=str(tmp_path)).setup()
    assert str(error.value) == (
        "ECL has 50 rows of 321 channels, the published file 26304 of 321; "
        f"get it from {benchmarks.FACTS['ECL'].source.url}"
    )


def test_context_and_horizon_that_leave_no_window(tmp_path, monkeypatch):
    _generated(tmp_path, monkeypatch, "ILI")
    with pytest.raises(DataError, match=r"^ILI has 676 / 97 / 193 rows .* need at least 616 / 104 / 104; "):
        Benchmark("ILI", root=str(tmp_path), horizon=104).setup()


@pytest.mark.parametrize("name", ["ECL", "Traffic"])
def test_sets_without_a_verified_copy_say_where_to_get_them(tmp_path, name):
    with pytest.raises(
        DataError, match=r"is not downloaded by itself .*https://huggingface.co/.*\.csv into that folder"
    ):
        Benchmark(name, root=str(tmp_path)).setup()


def test_file_is_read_once(tmp_path, monkeypatch):
    _generated(tmp_path, monkeypatch, "ILI")
    data = Benchmark("ILI", 36, 24, root=str(tmp_path))
    data.setup("fit")
    (tmp_path / "ili/national_illness.csv").unlink()
    data.setup("test")
    assert len(data.test_dataloader()) == len(data.predict_dataloader()) == 6
