"""The long-horizon benchmarks: files, splits and window counts as in Informer and what followed it."""

from abc import abstractmethod
from typing import Literal, NamedTuple

from seqmix.data.files import Source, read_published
from seqmix.data.series.forecast_data import ForecastData, Table
from seqmix.data.series.wide_csv import read_wide
from seqmix.errors import DataError


class Facts(NamedTuple):
    """What is known about a published data set; row and channel counts are checked when it is read."""

    name: str
    source: Source
    n_rows: int
    n_channels: int
    step: float  # hours
    season: int  # rows
    split: tuple[int, int, int]  # rows of training, validation, test; what is beyond is not used
    license: str


class Benchmark(ForecastData):
    """A published data set, in the published split: all channels in, all channels out.

    Looked for below ``root``, in its folder or flat, plain or ``.gz``, and otherwise downloaded once.

    Args:
        context: look-back length, in time steps.
        horizon: forecast length, in time steps.
        batch_size: windows per training batch.
        root: the data folder; None: ``$SEQMIX_DATA``, else ``./data``.
        eval_batch_size: windows per validation and test batch; None: the same as in training.
        stride: time steps between the starts of two training windows.
        scale: standardize every channel with its training rows, as published numbers are.
        calendar: add calendar features of every time step as known-future inputs.
        seed: starting point of the shuffles; None: the seed of torch when training starts.

    Raises:
        DataError: if the file can be neither found nor fetched, or is not the published one.
    """

    def __init__(
        self,
        context: int = 512,
        horizon: int = 96,
        batch_size: int = 32,
        *,
        root: str | None = None,
        eval_batch_size: int | None = None,
        stride: int = 1,
        scale: bool = True,
        calendar: bool = False,
        seed: int | None = None,
    ):
        super().__init__(
            self._facts.name,
            self._facts.n_channels,
            context,
            horizon,
            batch_size,
            step=self._facts.step,
            season=self._facts.season,
            eval_batch_size=eval_batch_size,
            stride=stride,
            scale=scale,
            calendar=calendar,
            seed=seed,
        )
        self.root = root

    @property
    @abstractmethod
    def _facts(self) -> Facts:
        """The row of the table."""

    def _load(self) -> Table:
        values, times = read_wide(read_published(self._facts.source, self.root), self._facts.name)
        if values.shape != (self._facts.n_rows, self._facts.n_channels):
            raise DataError(
                f"{self._facts.name} has {values.shape[0]} rows of {values.shape[1]} channels, the published file "
                f"{self._facts.n_rows} of {self._facts.n_channels}; get it from {self._facts.source.url}"
            )
        return Table(values, times, self._facts.split)


class ETT(Benchmark):
    """Electricity transformer temperature: oil temperature and six loads of two Chinese transformers, 2016 to 2018.

    12, 4 and 4 months of 30 days for training, validation and test; published results do not use the rows after them.

    Args:
        name: transformer 1 or 2, hourly (h) or every quarter of an hour (m).
        context: look-back length, in time steps.
        horizon: forecast length, in time steps; 96, 192, 336 and 720 in published results.
        batch_size: windows per training batch.
        root: the data folder; None: ``$SEQMIX_DATA``, else ``./data``.
        eval_batch_size: windows per validation and test batch; None: the same as in training.
        stride: time steps between the starts of two training windows.
        scale: standardize every channel with its training rows, as published numbers are.
        calendar: add calendar features of every time step as known-future inputs.
        seed: starting point of the shuffles; None: the seed of torch when training starts.

    Source: Zhou et al., 2021, arXiv:2012.07436, sec. 5.1. Differs from the original code in: nothing.
    """

    def __init__(
        self,
        name: Literal["ETTh1", "ETTh2", "ETTm1", "ETTm2"] = "ETTh1",
        context: int = 512,
        horizon: int = 96,
        batch_size: int = 32,
        *,
        root: str | None = None,
        eval_batch_size: int | None = None,
        stride: int = 1,
        scale: bool = True,
        calendar: bool = False,
        seed: int | None = None,
    ):
        self._variant = name
        super().__init__(
            context,
            horizon,
            batch_size,
            root=root,
            eval_batch_size=eval_batch_size,
            stride=stride,
            scale=scale,
            calendar=calendar,
            seed=seed,
        )

    @property
    def _facts(self) -> Facts:
        return FACTS[self._variant]


class Weather(Benchmark):
    """21 weather measurements in Jena, every 10 minutes of 2020; arguments as in ``Benchmark``.

    One time stamp is repeated, nine are absent, and -9999 stands for failed readings in three channels. Published
    results are computed with all of it left in, so it is left in here.

    Source: Wu et al., 2021, arXiv:2106.13008, sec. 4. Differs from the original code in: nothing.
    """

    @property
    def _facts(self) -> Facts:
        return FACTS["Weather"]


class Exchange(Benchmark):
    """Daily exchange rates of eight currencies against the dollar; arguments as in ``Benchmark``.

    The series are business days, the dates in the file are consecutive days and so only nominal.

    Source: Lai et al., 2018, arXiv:1703.07015, sec. 4.2. Differs from the original code in: nothing.
    """

    @property
    def _facts(self) -> Facts:
        return FACTS["Exchange"]


class ILI(Benchmark):
    """Weekly influenza-like illness in the United States, 2002 to 2020, seven channels; arguments as in ``Benchmark``.

    Published results use context 36 or 104 and horizon 24, 36, 48 or 60.

    Source: Wu et al., 2021, arXiv:2106.13008, sec. 4. Differs from the original code in: nothing.
    """

    @property
    def _facts(self) -> Facts:
        return FACTS["ILI"]


class ECL(Benchmark):
    """Hourly electricity consumption of 321 clients, 2012 to 2014; arguments as in ``Benchmark``.

    Not downloaded by itself: no checksum of a verified copy is known. The error says where to put the file.

    Source: Lai et al., 2018, arXiv:1703.07015, sec. 4.2. Differs from the original code in: nothing.
    """

    @property
    def _facts(self) -> Facts:
        return FACTS["ECL"]


class Traffic(Benchmark):
    """Hourly occupancy of 862 road lanes near San Francisco; arguments as in ``Benchmark``.

    Not downloaded by itself: no checksum of a verified copy is known. The error says where to put the file.

    Source: Lai et al., 2018, arXiv:1703.07015, sec. 4.2. Differs from the original code in: nothing.
    """

    @property
    def _facts(self) -> Facts:
        return FACTS["Traffic"]


_HUB = "https://huggingface.co/datasets/pkr7098/time-series-forecasting-datasets/resolve/main"


def _ett(name: str, size: int, sha256: str) -> Facts:
    # months of 30 days
    per_day, step, rows = (24, 1.0, 17420) if name[3] == "h" else (96, 0.25, 69680)
    source = Source(
        (f"ett/{name}.csv", f"ETT-small/{name}.csv"),
        f"https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/{name}.csv",
        size,
        sha256,
    )
    split = (12 * 30 * per_day, 4 * 30 * per_day, 4 * 30 * per_day)
    return Facts(name, source, rows, 7, step, per_day, split, "CC BY-ND 4.0")


_FACTS = (
    _ett("ETTh1", 2589657, "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066"),
    _ett("ETTh2", 2417960, "a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b"),
    _ett("ETTm1", 10360719, "6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e"),
    _ett("ETTm2", 9677236, "db973ca252c6410a30d0469b13d696cf919648d0f3fd588c60f03fdbdbadd1fd"),
    Facts(
        "Weather",
        Source(
            ("weather/weather.csv",),
            f"{_HUB}/weather.csv",
            7235425,
            "34ee981d07313e51da2a50bb600072c8ae4a69cb4b0651f4cb93a069d7a2ba63",
        ),
        52696,
        21,
        1 / 6,
        144,
        (36887, 5270, 10539),
        "not stated",
    ),
    Facts(
        "Exchange",
        Source(
            ("exchange_rate/exchange_rate.csv",),
            f"{_HUB}/exchange_rate.csv",
            637800,
            "48b4d9d3d508f5104162e85b9a6042e3557fde11aa9f2944eba8c0d0efc89842",
        ),
        7588,
        8,
        24,
        1,
        (5311, 760, 1517),
        "not stated",
    ),
    Facts(
        "ILI",
        Source(
            ("ili/national_illness.csv", "illness/national_illness.csv", "illness/illness.csv"),
            f"{_HUB}/illness.csv",
            67620,
            "93601f64d2566dc796ca4305adad8b8560c2db1a1ff04543c3bd813a7263570a",
        ),
        966,
        7,
        7 * 24,
        52,
        (676, 97, 193),
        "not stated (public domain in origin)",
    ),
    Facts(
        "ECL",
        Source(("ecl/electricity.csv", "electricity/electricity.csv"), f"{_HUB}/electricity.csv", None, None),
        26304,
        321,
        1,
        24,
        (18412, 2632, 5260),
        "not stated",
    ),
    Facts(
        "Traffic",
        Source(("traffic/traffic.csv",), f"{_HUB}/traffic.csv", None, None),
        17544,
        862,
        1,
        24,
        (12280, 1756, 3508),
        "not stated",
    ),
)

FACTS = {facts.name: facts for facts in _FACTS}
