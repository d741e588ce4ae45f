"""The long-horizon benchmarks, with the files, splits and window counts of Informer and later work."""

from typing import Literal, NamedTuple

from seqmix.data.files import Source, read_published
from seqmix.data.series.forecast_data import ForecastData, Table
from seqmix.data.series.wide_csv import read_wide
from seqmix.errors import DataError, check_choice


class Facts(NamedTuple):
    """Facts about a published data set; row and channel counts are checked when it is read."""

    name: str
    source: Source
    n_rows: int
    n_channels: int
    step: float  # hours
    season: int  # rows
    split: tuple[int, int, int]  # rows of training, validation, test; what is beyond is not used
    license: str


class Benchmark(ForecastData):
    """Long-horizon benchmarks in published splits: ETTh1, ETTh2, ETTm1, ETTm2, Weather, Exchange, ILI, ECL, Traffic.

    All channels in, all channels out. A file is looked for below ``root``, in its folder or flat, plain or ``.gz``, and
    otherwise downloaded once; those of ECL and Traffic are not, as no checksum of a verified copy is known.

    - ETT: oil temperature and six loads of two electricity transformers, 2016 to 2018, hourly (h) or every 15 minutes
      (m); 12, 4 and 4 months of 30 days, the rows after them are not used.
    - Weather: 21 measurements in Jena, every 10 minutes of 2020. One time stamp is repeated, nine are absent, and -9999
      stands for failed readings in three channels; published results leave all of it in, and so does this.
    - Exchange: daily rates of eight currencies against the dollar. The series are business days, the dates nominal.
    - ILI: weekly influenza-like illness in the United States, 2002 to 2020, seven channels; published results use
      context 36 or 104 and horizon 24, 36, 48 or 60.
    - ECL: hourly electricity consumption of 321 clients, 2012 to 2014.
    - Traffic: hourly occupancy of 862 road lanes near San Francisco.

    Args:
        name: the data set.
        root: the data folder. Default: ``$SEQMIX_DATA``, else ``./data``.

    Raises:
        DataError: if the file can be neither found nor fetched, or is not the published one.

    Source: Zhou et al., 2021, arXiv:2012.07436, sec. 5.1 (ETT); Wu et al., 2021, arXiv:2106.13008, sec. 4 (Weather,
    ILI); Lai et al., 2018, arXiv:1703.07015, sec. 4.2 (Exchange, ECL, Traffic). Differs from the original code in:
    nothing.
    """

    def __init__(
        self,
        name: Literal["ETTh1", "ETTh2", "ETTm1", "ETTm2", "Weather", "Exchange", "ILI", "ECL", "Traffic"],
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
        check_choice("name", name, tuple(FACTS))
        self.root, self.facts = root, FACTS[name]
        super().__init__(
            name,
            self.facts.n_channels,
            context,
            horizon,
            batch_size,
            step=self.facts.step,
            season=self.facts.season,
            eval_batch_size=eval_batch_size,
            stride=stride,
            scale=scale,
            calendar=calendar,
            seed=seed,
        )

    def _load(self) -> Table:
        facts = self.facts
        values, times, channels = read_wide(read_published(facts.source, self.root), facts.name)
        if values.shape != (facts.n_rows, facts.n_channels):
            raise DataError(
                f"{facts.name} has {values.shape[0]} rows of {values.shape[1]} channels, the published file "
                f"{facts.n_rows} of {facts.n_channels}; get it from {facts.source.url}"
            )
        return Table(values, times, facts.split, channels)


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
