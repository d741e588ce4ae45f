"""The sets of ``forecasting.py`` and their errors, in pandas alone: the peer reads them in its own environment."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

DATA = Path(os.environ.get("SEQMIX_DATA", "data"))


class Set(NamedTuple):
    """A long frame and how its end is forecast."""

    frame: pd.DataFrame  # unique_id, ds, y and the columns of future
    freq: str | int
    horizon: int
    windows: int  # forecasts of each series
    step: int  # rows between them
    future: list[str]  # columns that are known ahead

    @property
    def test_size(self) -> int:
        """Rows of each series that are forecast."""
        return self.horizon + self.step * (self.windows - 1)


def etth1() -> pd.DataFrame:
    """The benchmark's rows of ETTh1, long: 8,640 for training, 2,880 each for validation and test."""
    wide = pd.read_csv(DATA / "ett" / "ETTh1.csv.gz", parse_dates=["date"]).iloc[:14400]
    return wide.melt("date", var_name="unique_id", value_name="y").rename(columns={"date": "ds"})


def m4_hourly() -> pd.DataFrame:
    """414 series of 748 to 1,008 hours, counted from 0; the last 48 are the test hours of the competition."""
    train, test = (pd.read_csv(DATA / "m4" / f"Hourly-{part}.csv.gz", index_col=0) for part in ("train", "test"))
    rows: Any = pd.concat([part.stack().dropna() for part in (train, test)])
    rows = rows.rename("y").rename_axis(["unique_id", "ds"])
    frame = rows.reset_index().assign(ds=lambda df: df.groupby("unique_id").cumcount())
    return frame.sort_values(["unique_id", "ds"], ignore_index=True)


def epf_np() -> pd.DataFrame:
    """Prices of Nord Pool with the forecasts of load and wind that were known the day before."""
    frame = pd.read_csv(DATA / "epf" / "NP.csv.gz", skipinitialspace=True, parse_dates=["Date"])
    frame.columns = ["ds", "y", "load", "wind"]
    return frame.assign(unique_id="NP")


def bike_sharing() -> pd.DataFrame:
    """Rentals by hour, 0 in the 165 hours that are left out, with the calendar of the file."""
    found = pd.read_csv(DATA / "bike_sharing" / "hour.csv.gz")
    found["ds"] = pd.to_datetime(found["dteday"]) + pd.to_timedelta(found["hr"], unit="h")
    frame = pd.DataFrame({"ds": pd.date_range(found["ds"].min(), found["ds"].max(), freq="h")})
    days = ["holiday", "workingday", "weekday"]
    frame = frame.merge(found[["ds", "cnt", *days]], how="left")
    frame[days] = frame.groupby(frame["ds"].dt.normalize())[days].transform("first").ffill()
    return frame.assign(y=frame["cnt"].fillna(0.0), hour=frame["ds"].dt.hour, unique_id="bike").drop(columns="cnt")


def read(name: str) -> Set:
    """A set by name."""
    if name == "M4 Hourly":
        return Set(m4_hourly(), 1, 48, 1, 48, [])
    if name == "EPF NP":
        return Set(epf_np(), "h", 24, 728, 24, ["load", "wind"])
    if name == "bike sharing":
        return Set(bike_sharing(), "h", 24, 60, 24, ["holiday", "workingday", "weekday", "hour"])
    return Set(etth1(), "h", 96, 117, 24, [])


NAMES = ("M4 Hourly", "EPF NP", "bike sharing", "ETTh1")


def errors(cv: pd.DataFrame, given: Set) -> dict[str, dict[str, float]]:
    """MASE, sMAPE in percent, as in M4, and MAE of every model in a frame of ``cross_validation``.

    Means over the series; the unit of MASE is the error of the day before on the rows ahead of the first cutoff.
    """
    train = given.frame.groupby("unique_id")["y"]
    unit: Any = train.apply(lambda y: float(np.abs(np.diff(_seasons(y.to_numpy()[: -given.test_size]), axis=0)).mean()))
    found = {}
    for model in [str(c) for c in cv if c not in ("unique_id", "ds", "cutoff", "y")]:
        error = (cv[model] - cv["y"]).abs()
        each: Any = pd.DataFrame(
            {
                "mase": error / cv["unique_id"].map(unit),
                "smape": 200 * error / (cv[model].abs() + cv["y"].abs()).clip(lower=1e-9),
                "mae": error,
            }
        )
        found[model] = {str(k): float(v) for k, v in each.groupby(cv["unique_id"]).mean().mean().items()}
    return found


def _seasons(y: np.ndarray) -> np.ndarray:
    """Pairs of values a day apart, ``(2, n)``."""
    return np.stack([y[:-24], y[24:]])
