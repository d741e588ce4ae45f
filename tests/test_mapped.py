"""Panels larger than memory: folders of parquet files, whose rows lie in mapped files."""

import numpy as np
import pandas as pd
import pytest
import torch

from seqmix import Forecaster
from seqmix.data.loader import WindowLoader
from seqmix.data.series.windows import Windows
from seqmix.errors import DataError, WriteError
from seqmix.forecasting.folder import read_long
from seqmix.forecasting.frame import Reading
from seqmix.forecasting.long import head
from seqmix.mapped import Growing, mapped, row_blocks, series_blocks


def _panel(n_series=8):
    """Series of different lengths, two too short for a window, with all kinds of covariates and missing values."""
    rng = np.random.default_rng(0)
    parts = []
    for i in range(n_series):
        n = 14 if i < 2 else int(rng.integers(60, 90))
        columns = {
            "unique_id": f"s{i}",
            "ds": pd.date_range("2024-01-01", periods=n, freq="h"),
            "y": np.sin(np.arange(n) / 4) + rng.normal(size=n),
            "price": rng.normal(5, 2, n),
            "promo": rng.random(n) < 0.3,
            "kind": rng.choice(["a", "b", None], n),
            "zone": "ns"[i % 2],
            "weight": rng.random(n),
        }
        parts.append(pd.DataFrame(columns))
        parts[-1].loc[3, "price"] = parts[-1].loc[5, "y"] = np.nan
    return parts


def _written(folder, parts):
    for k, part in enumerate(parts):
        part.to_parquet(folder / f"{k}.parquet")
    return folder


@pytest.mark.parametrize("mode", ["global", "multivariate"])
def test_a_folder_gives_the_forecasts_of_its_frame(tmp_path, monkeypatch, mode):
    # several blocks, some of one series
    monkeypatch.setattr("seqmix.mapped.BLOCK", 100)
    parts = _panel() if mode == "global" else [part.iloc[:60] for part in _panel()[2:]]
    folder, df = _written(tmp_path, parts), pd.concat(parts, ignore_index=True)
    names = {"past_covariates": ["kind"], "future_covariates": ["price", "promo"], "static_covariates": "zone"}
    options = {**names, "calendar": True, "max_steps": 3, "mode": mode, "levels": [50], "device": "cpu"}
    one, two = (
        Forecaster("DLinear", 4, context_length=12, **options).fit(given, weight_col="weight") for given in (df, folder)
    )
    future = one.make_future_dataframe().assign(price=5.0, promo=True)
    assert one.notes_ == two.notes_ and one.report_["windows"] == two.report_["windows"]
    for given, other in ((None, None), (df, folder)):
        expected, found = one.predict(given, future_df=future), two.predict(other, future_df=future)
        pd.testing.assert_frame_equal(expected, found, check_exact=True, check_dtype=False)


def test_rows_of_a_folder_are_in_mapped_files(tmp_path):
    how = Reading(weight_col="weight", past=["price", "kind"])
    long = read_long(_written(tmp_path, _panel()), how)
    for rows in (long.y, long.weight, long.present):
        assert isinstance(rows, np.memmap) and len(rows) == long.indptr[-1]
    numbers, codes = long.columns["price"].to_numpy(), long.columns["kind"].cat.codes.to_numpy()
    while numbers.base is not None and not isinstance(numbers, np.memmap):
        numbers = numbers.base
    assert isinstance(numbers, np.memmap) and codes.dtype == np.int8


def test_a_folder_is_read_again_when_it_has_changed(tmp_path, monkeypatch):
    parts = _panel()
    folder, how = _written(tmp_path, parts), Reading()
    long = read_long(folder, how)
    monkeypatch.setattr("seqmix.forecasting.folder.read_frame", None)
    # with the frequency that was found, as by a fitted Forecaster
    assert read_long(folder, how).y is read_long(folder, Reading(freq="h")).y is long.y
    monkeypatch.undo()
    assert read_long(folder, Reading(past=["price"])).columns.shape[1] == 1
    parts[0].assign(y=1.0).to_parquet(folder / "0.parquet")
    assert read_long(folder, how).y[0] == 1


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ([[1, 2], [None, 0.5]], [1, 2, np.nan, 0.5]),
        ([[True, False], [1.5, 2]], [1, 0, 1.5, 2]),
        # parquet gives True and False among missing values as objects
        ([[True, False], [None, True], [False, False]], [True, False, np.nan, True, False, False]),
        ([[None, None], ["b", None], ["a", "b"]], [np.nan, np.nan, "b", np.nan, "a", "b"]),
        ([[None, None], [None, None]], [np.nan] * 4),
        ([["a", "b"], [1, 2]], "'1.parquet': column 'k' holds numbers, and text in the files before; make it one type"),
        ([[1, 2], ["a", "b"]], "'1.parquet': column 'k' holds text, and numbers in the files before; make it one type"),
        ([["a", "b"], None], "'1.parquet': column 'k' is in some files and not in others; add it to all"),
    ],
)
def test_a_column_has_one_type_in_all_files(tmp_path, monkeypatch, columns, found):
    monkeypatch.chdir(tmp_path)
    for k, values in enumerate(columns):
        frame = pd.DataFrame({"unique_id": k, "ds": [0, 1], "y": 1.0})
        (frame if values is None else frame.assign(k=values)).to_parquet(f"{k}.parquet")
    how = Reading(static=["k"])
    if isinstance(found, str):
        with pytest.raises(DataError) as error:
            read_long(".", how)
        assert str(error.value) == found
    else:
        column = read_long(".", how).columns["k"]
        pd.testing.assert_series_equal(column.astype(object), pd.Series(found, dtype=object, name="k"))


def test_arrays_in_files(monkeypatch):
    monkeypatch.setattr("seqmix.mapped.BLOCK", 4)
    assert list(row_blocks(10)) == [slice(0, 4), slice(4, 8), slice(8, 10)] and not list(row_blocks(0))
    assert series_blocks(np.array([0, 3, 5, 15, 16])) == [(0, 1), (1, 2), (2, 4)]
    grown = Growing(np.int16)
    for part in ([1, 2], [], [3]):
        grown.write(np.array(part))
    assert grown.whole().tolist() == [1, 2, 3]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(WriteError, match=r"no room in a temporary folder .No space left on device.; set TMPDIR"):
        mapped((3, 2), np.float32)


@pytest.mark.parametrize("n", [2, 7, 1000])
def test_many_examples_are_shuffled_without_a_list(monkeypatch, n):
    monkeypatch.setattr("seqmix.data.loader.MANY", 1)
    windows = Windows(torch.arange(float(n + 1)).unsqueeze(1), torch.tensor([0, n + 1]), 1, 1)
    loader = WindowLoader(windows, 3, shuffle=True, seed=1)
    epochs = [torch.cat([batch["x"].flatten() for batch in loader]).tolist() for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(n))
    if n == 1000:
        # neither in order, nor the same order again
        assert max(abs(np.corrcoef([range(n), *epochs])[np.triu_indices(3, 1)])) < 0.1
        loader.set_epoch(0)
        loader.load_state_dict({"epoch": 0, "served": 300, "total": len(loader)})
        assert torch.cat([batch["x"].flatten() for batch in loader]).tolist() == epochs[0][900:]
    plain = WindowLoader(windows, 3)
    assert torch.cat([batch["x"].flatten() for batch in plain]).tolist() == list(range(n))


def test_the_head_of_a_folder_is_in_mapped_files(tmp_path, monkeypatch):
    monkeypatch.setattr("seqmix.mapped.BLOCK", 100)
    parts = _panel()
    how = Reading(weight_col="weight", past=["price", "kind"])
    long, twin = read_long(_written(tmp_path, parts), how), read_long(pd.concat(parts, ignore_index=True), how)
    lengths = np.diff(long.indptr) - 5
    found, expected = head(long, lengths), head(twin, lengths)
    assert isinstance(found.y, np.memmap) and isinstance(found.weight, np.memmap)
    for name in ("y", "weight", "present", "indptr"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    pd.testing.assert_frame_equal(found.columns.astype(object), expected.columns.astype(object))
