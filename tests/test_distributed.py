"""Forecasts of a Ray Dataset: parts with whole series, workers, and what one process would have forecast."""

import os
import signal

import numpy as np
import pandas as pd
import pytest
from daily_panel import small

from seqmix import Forecaster
from seqmix.errors import ConfigError, DataError, NotFittedError
from seqmix.forecasting import distributed
from seqmix.forecasting.distributed import Worker, numbered


def by_ray(test):
    """A test that starts Ray, which warns of its own past."""
    return pytest.mark.slow(pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")(test))


AS_IT_IS = {"horizon": 6, "freq": "D", "max_steps": 0, "device": "cpu"}


def walks(n=40, shortest=30):
    """Daily random walks of unequal length, one of them below zero, one constant."""
    rng = np.random.default_rng(0)
    parts = []
    for i in range(n):
        days = pd.date_range("2024-01-01", periods=shortest + i % 5)
        y = 30 + rng.normal(size=len(days)).cumsum() - 60 * (i == 3)
        parts.append(pd.DataFrame({"unique_id": f"s{i}", "ds": days, "y": np.where(i == 5, 4.0, y)}))
    return pd.concat(parts, ignore_index=True)


def same_rows(found, want):
    """Whether two frames have the same rows, but for the order and the types of ids and times."""
    keys = [name for name in ("unique_id", "cutoff", "ds") if name in want]
    frames = []
    for frame in (found, want):
        frame = frame.astype({"unique_id": str, **dict.fromkeys(keys[1:], "datetime64[ns]")})
        frames.append(frame.sort_values(keys, ignore_index=True))
    assert list(found) == list(want)
    # matrix products of another number of rows round otherwise
    pd.testing.assert_frame_equal(*frames, check_dtype=False, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", ["Ridge", "ZeroShot"])
def test_parts_are_forecast_as_the_whole(model):
    df = walks()
    forecaster = small(model, freq="D", levels=[80]).fit(df) if model == "Ridge" else Forecaster(model, **AS_IT_IS)
    want = forecaster.predict(df)
    # the first rows of all series before their last ones, as blocks of Ray may be
    rows = numbered(df.sort_values("ds"), "unique_id", 4)
    parts = [part for _, part in rows.groupby("__part__")]
    assert len(parts) == 4 and sum(part["unique_id"].nunique() for part in parts) == 40
    if model == "ZeroShot":
        # what the whole shows, and most parts do not
        forecaster = forecaster.clone().set_params(nonnegative=False)
    worker = Worker(lambda: forecaster, "predict", {"levels": None})
    same_rows(pd.concat([worker(part) for part in parts]), want)


def test_the_part_of_a_series_follows_from_its_id_alone():
    ids = pd.DataFrame({"unique_id": ["a", "b", "c"] * 2})
    for given in (ids, ids[::-1], ids.astype("category"), ids.astype("string[pyarrow]")):
        found = numbered(given, "unique_id", 1000)["__part__"].to_numpy()
        assert found[given.index.argsort()].tolist() == [*numbered(ids, "unique_id", 1000)["__part__"]]


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'seqmix[scale]'")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    context = pytest.importorskip("ray.data").DataContext.get_current()
    context.enable_progress_bars = False
    yield ray
    ray.shutdown()


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(distributed, "ROWS", 300)


@by_ray
def test_a_dataset_is_forecast_as_its_frame(ray, few, tmp_path):
    df = walks()
    blocks = ray.data.from_pandas([df.iloc[k::3] for k in range(3)])
    ridge = small("Ridge", levels=[80]).fit(df)
    same_rows(ridge.predict(blocks, horizon=4).to_pandas(), ridge.predict(df, horizon=4))
    blocks.write_parquet(str(tmp_path))
    zeroshot = Forecaster("ZeroShot", **AS_IT_IS)
    same_rows(zeroshot.predict(ray.data.read_parquet(str(tmp_path))).to_pandas(), zeroshot.predict(df))
    sizes = {"n_windows": 2, "levels": [80]}
    same_rows(zeroshot.cross_validation(blocks, **sizes).to_pandas(), zeroshot.cross_validation(df, **sizes))


@by_ray
def test_a_killed_worker_is_survived(ray, few, tmp_path, monkeypatch):
    marker = tmp_path / "killed"

    class Mortal(Worker):
        def __call__(self, part):
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(part)

    monkeypatch.setattr(distributed, "Worker", Mortal)
    df, ridge = walks(), small("Ridge").fit(walks())
    found = ridge.predict(ray.data.from_pandas(df)).to_pandas()
    assert marker.exists()
    same_rows(found, ridge.predict(df))


@by_ray
@pytest.mark.parametrize(
    ("act", "kind", "message"),
    [
        (lambda ds: small().predict(ds), NotFittedError, "this Forecaster is not fitted"),
        (lambda ds: small("auto").predict(ds), NotFittedError, "this Forecaster is not fitted"),
        (
            lambda ds: Forecaster("ZeroShot", 6).predict(ds),
            ConfigError,
            "freq is needed: parts of the dataset",
        ),
        (lambda ds: small().cross_validation(ds), ConfigError, "cross_validation fits the models to all series"),
        (
            lambda ds: small("ZeroShot").cross_validation(ds),
            ConfigError,
            "cross_validation trains on all series",
        ),
        (
            lambda ds: small(mode="multivariate").fit(walks(4, 40).iloc[:40]).predict(ds),
            ConfigError,
            "all series together",
        ),
        (
            lambda ds: Forecaster("ZeroShot", **AS_IT_IS).predict(ds, id_col="shop"),
            DataError,
            "column 'shop' not found",
        ),
        (
            lambda ds: small().fit(ds),
            DataError,
            "Dataset; use df.write_parquet(folder), and the folder",
        ),
    ],
)
def test_what_parts_cannot_tell_is_refused(ray, act, kind, message):
    with pytest.raises(kind) as error:
        act(ray.data.from_pandas(walks(4)))
    assert message in str(error.value)
