"""The panels on which forecasting models are developed and compared, in numpy and pandas alone: peers read them too.

Eight panels of many series have their last horizon held out. The long ones have several cutoffs, whose steps fall on
other hours and days of the week where no hour is the usual one, as it is for prices of the day ahead. Seasons are those
of M4 and GIFT-Eval: 24 hours, 1 week, 12 months, 4 quarters, 1 year, a day of minutes.

    python benchmarks/panels.py           # writes benchmarks/results/panels.csv, the lengths of their series
"""

import csv
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

DATA = Path(os.environ.get("SEQMIX_DATA", "data"))


class Frequency(NamedTuple):
    """What a frequency of the Monash archive stands for."""

    group: str
    alias: str  # of pandas
    season: int
    horizon: int  # of files that name none


FREQUENCIES = {
    "4_seconds": Frequency("minutes", "4s", 900, 60),
    "minutely": Frequency("minutes", "min", 1440, 60),
    "10_minutes": Frequency("minutes", "10min", 144, 144),
    "15_minutes": Frequency("minutes", "15min", 96, 96),
    "half_hourly": Frequency("minutes", "30min", 48, 48),
    "hourly": Frequency("hourly", "h", 24, 48),
    "daily": Frequency("daily", "D", 7, 30),
    "weekly": Frequency("weekly", "W-MON", 1, 8),
    "monthly": Frequency("monthly", "MS", 12, 12),
    "quarterly": Frequency("quarterly", "QS", 4, 8),
    "yearly": Frequency("yearly", "YS", 1, 6),
}
#: Panels by the rows of a series, each up to its limit.
LENGTHS = {"short, below 100 rows": 100, "medium, below 1,000 rows": 1000, "long, from 1,000 rows": float("inf")}
# steps that a date of nanoseconds has room for after 1970
_LONGEST = {"yearly": 280, "quarterly": 1120, "monthly": 3360, "weekly": 14600}


class Panel(NamedTuple):
    """Series and how their ends are forecast."""

    name: str
    group: str  # the frequency, for means
    freq: str
    season: int
    horizon: int
    series: dict[str, np.ndarray]  # rows by id, NaN where missing
    starts: dict[str, pd.Timestamp]
    windows: int = 1  # forecasts of each series
    step: int = 1  # rows between them

    @property
    def held_back(self) -> list[int]:
        """Rows after each cutoff, the earliest cutoff first."""
        return [self.horizon + self.step * k for k in range(self.windows - 1, -1, -1)]

    @property
    def rows(self) -> int:
        """Rows of a series before its first cutoff, the median over the series."""
        return int(np.median([len(values) for values in self.series.values()])) - self.held_back[0]

    def before(self, rows: int, last: int | None = None) -> pd.DataFrame:
        """Long frame of all but the ``rows`` at the end, or of the ``last`` of these."""
        parts = []
        for name, values in self.series.items():
            ds = pd.date_range(self.starts[name], periods=len(values), freq=self.freq)
            part = pd.DataFrame({"unique_id": name, "ds": ds, "y": values}).iloc[: len(values) - rows]
            parts.append(part if last is None else part.tail(last))
        return pd.concat(parts, ignore_index=True)

    def truth(self, rows: int) -> np.ndarray:
        """The horizon after the cutoff that holds ``rows`` back, ``(n, horizon)``."""
        ends = [len(values) - rows for values in self.series.values()]
        return np.stack([v[end : end + self.horizon] for v, end in zip(self.series.values(), ends, strict=True)])

    def sample(self, n: int) -> "Panel":
        """At most ``n`` of its series, always the same."""
        names = list(self.series)
        kept = np.sort(np.random.default_rng(0).permutation(len(names))[:n])
        return self._replace(series={names[i]: self.series[names[i]] for i in kept})


def read(name: str, held_out: Path | None = None) -> Panel:
    """A panel by name: of ``NAMES``, or a file ``<name>.tsf.gz`` or ``.tsf`` of the folder ``held_out``."""
    return PANELS[name]() if held_out is None else read_tsf(name, next(iter(sorted(held_out.glob(f"{name}.tsf*")))))


def names_in(folder: Path) -> list[str]:
    """Names of the panels in a folder of files of the Monash archive."""
    return sorted(file.name.partition(".tsf")[0] for file in folder.glob("*.tsf*"))


def read_tsf(name: str, file: Path) -> Panel:
    """A file of the Monash archive; series that hold no more than the horizon and a season are left out."""
    head: dict[str, str] = {}
    series, starts, columns = {}, {}, []
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="latin1") as lines:
        for line in map(str.strip, lines):
            if line.startswith("@attribute"):
                columns.append(line.split()[1])
            elif line.startswith("@"):
                head[line.split()[0]] = line.split()[-1]
            elif "@data" in head and line:
                *facts, values = line.split(":")
                known = dict(zip(columns, facts, strict=True))
                key = known.get("series_name", str(len(series)))
                series[key] = np.array([np.nan if v == "?" else float(v) for v in values.split(",")])
                starts[key] = pd.to_datetime(known.get("start_timestamp", "1970-01-01 00-00-00"), format=_STAMP)
    frequency = FREQUENCIES[head["@frequency"]]
    horizon = int(head.get("@horizon", frequency.horizon))
    limit = _LONGEST.get(head["@frequency"])
    kept = {k: v[-limit:] if limit else v for k, v in series.items() if len(v) > horizon + max(frequency.season, 2)}
    return Panel(name, frequency.group, frequency.alias, frequency.season, horizon, kept, {k: starts[k] for k in kept})


def _m4(name: str, frequency: str, horizon: int) -> Panel:
    """A set of the M4 competition, whose rows have no dates."""
    parts: list[list[list[str]]] = []
    for part in ("train", "test"):
        with gzip.open(DATA / "m4" / f"{name}-{part}.csv.gz", "rt") as file:
            parts.append(list(csv.reader(file))[1:])
    rows = {a[0]: np.array([float(v) for v in (*a[1:], *b[1:]) if v]) for a, b in zip(*parts, strict=True)}
    return _dated(f"m4_{name.lower()}", frequency, horizon, rows, "1970-01-05")


def _ett(name: str, frequency: str, rows: int, horizon: int, step: int) -> Panel:
    """The rows of the benchmark, to the end of its test rows."""
    frame = pd.read_csv(DATA / "ett" / f"{name}.csv.gz", index_col="date").iloc[:rows]
    return _dated(name.lower(), frequency, horizon, _columns(frame), "2016-07-01", 8, step)


def _weather() -> Panel:
    frame = pd.read_csv(DATA / "weather" / "weather.csv.gz", encoding="latin1", index_col="date")
    # nine rows are absent and one is twice there: the steps count, as in the benchmark
    return _dated("weather", "10_minutes", 144, _columns(frame), "2020-01-01 00:10", 6, 1867)


def _ili() -> Panel:
    frame = pd.read_csv(DATA / "ili" / "national_illness.csv.gz", index_col="date")
    return _dated("ili", "weekly", 24, _columns(frame), "2002-01-01", 4, 24)._replace(freq="W-TUE")


def _epf_np() -> Panel:
    frame = pd.read_csv(DATA / "epf" / "NP.csv.gz", skipinitialspace=True)
    return _dated("epf_np", "hourly", 24, {"NP": frame["Price"].to_numpy(float)}, "2013-01-01", 14, 600)


def _epf_fr_be() -> Panel:
    frame = pd.read_csv(DATA / "epf" / "EPF_FR_BE.csv.gz")
    rows = {str(k): v.to_numpy(float) for k, v in frame.groupby("unique_id")["y"]}
    return _dated("epf_fr_be", "hourly", 24, rows, "2015-01-01", 14, 264)


def _bike() -> Panel:
    found = pd.read_csv(DATA / "bike_sharing" / "hour.csv.gz")
    times = pd.to_datetime(found["dteday"]) + pd.to_timedelta(found["hr"], unit="h")
    # hours that are left out had no rentals
    rows = found.set_index(times)["cnt"].asfreq("h", fill_value=0).to_numpy(float)
    return _dated("bike_sharing", "hourly", 24, {"bike": rows}, "2011-01-01", 14, 264)


def _beijing() -> Panel:
    frame = pd.read_csv(DATA / "beijing_pm25" / "beijing_pm25.csv.gz")
    rows = frame["pm2.5"].to_numpy(float)
    return _dated("beijing_pm25", "hourly", 24, {"pm2.5": rows}, "2010-01-01", 14, 625)


def _air() -> Panel:
    rows = pd.read_csv(DATA / "air_passengers" / "AirPassengers.csv")["#Passengers"].to_numpy(float)
    return _dated("air_passengers", "monthly", 12, {"air": rows}, "1949-01-01", 3, 12)


def _dated(
    name: str, kind: str, horizon: int, rows: dict[str, np.ndarray], start: str, windows: int = 1, step: int = 1
) -> Panel:
    frequency, first = FREQUENCIES[kind], pd.Timestamp(start)
    facts = (name, frequency.group, frequency.alias, frequency.season, horizon)
    return Panel(*facts, rows, dict.fromkeys(rows, first), windows, step)


def _columns(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    return {str(name): frame[name].to_numpy(float) for name in frame}


def _monash(name: str) -> Panel:
    return read_tsf(name, DATA / "monash_dev" / f"{name}_dataset.tsf.gz")


_STAMP = "%Y-%m-%d %H-%M-%S"
# many series, one window each: the aims of the package are means over these
SHORT: dict[str, Callable[[], Panel]] = {
    "m4_hourly": lambda: _m4("Hourly", "hourly", 48),
    "m4_weekly": lambda: _m4("Weekly", "weekly", 13),
    "solar_weekly": lambda: _monash("solar_weekly"),
    "fred_md": lambda: _monash("fred_md"),
    "hospital": lambda: _monash("hospital"),
    "m1_monthly": lambda: _monash("m1_monthly"),
    "m1_quarterly": lambda: _monash("m1_quarterly"),
    "m1_yearly": lambda: _monash("m1_yearly"),
}
# few long series, several windows each
LONG: dict[str, Callable[[], Panel]] = {
    "air_passengers": _air,
    "ili": _ili,
    "bike_sharing": _bike,
    "epf_np": _epf_np,
    "epf_fr_be": _epf_fr_be,
    "beijing_pm25": _beijing,
    "etth1": lambda: _ett("ETTh1", "hourly", 14400, 48, 331),
    "etth2": lambda: _ett("ETTh2", "hourly", 14400, 48, 331),
    "ettm1": lambda: _ett("ETTm1", "15_minutes", 57600, 96, 1325),
    "ettm2": lambda: _ett("ETTm2", "15_minutes", 57600, 96, 1325),
    "weather": _weather,
}
PANELS = {**SHORT, **LONG}
NAMES = tuple(PANELS)


def main() -> None:
    """Write the lengths of the series of all panels."""
    with (Path(__file__).parent / "results" / "panels.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("panel", "rows", "length"))
        for name in NAMES:
            rows = read(name).rows
            writer.writerow((name, rows, next(length for length, limit in LENGTHS.items() if rows < limit)))


if __name__ == "__main__":
    main()
