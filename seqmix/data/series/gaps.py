"""Windows of a multivariate series with missing values, for imputation: benchmark tables, Beijing PM2.5, CSV files."""

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seqmix.data.files import Source, read_published
from seqmix.data.loader import Gathered
from seqmix.data.series.benchmarks import FACTS, Facts
from seqmix.data.series.forecast_data import Table
from seqmix.data.series.panel import moments
from seqmix.data.series.wide_csv import check_split, read_wide, read_wide_file, split_rows, step_and_season
from seqmix.data.series.windows import cut
from seqmix.data.served import Served, Split, check_positive
from seqmix.errors import ConfigError, DataError, check_choice
from seqmix.series import Series


class GapData(Served, ABC):
    """Windows of one multivariate series, without a horizon: ``{"x": (B, context, C), "x_mask": (B, context, C)}``.

    ``x_mask`` is True where a value was observed, and x is 0 elsewhere. ``window: (B,)`` is the number of each window
    in its split, and ``place: (B,)`` the part of the windows of the split before it. All rows of a window are of its
    split. Channels are standardized by the observed values of the training rows; ``mean`` and ``std``, both (C,), undo
    it. A channel that does not vary in them is only centered.

    Args:
        n_channels: number of channels C.
        context: window length, in time steps.
        season: length of the natural season, in time steps; 1 for none.
        stride: time steps between the starts of two training windows.
        eval_stride: time steps between the starts of two validation or test windows.
        scale: standardize the channels.

    Raises:
        ConfigError: if a size is not positive.
        DataError: if a channel has no observed training value, or a split has fewer rows than a window.
    """

    mean: Tensor
    std: Tensor
    #: time stamps of the test rows; there after ``setup``
    test_times: pd.Index
    #: names of the channels; there after ``setup``
    channels: list[str]

    def __init__(
        self,
        name: str,
        n_channels: int,
        context: int,
        batch_size: int,
        *,
        season: int,
        eval_batch_size: int | None,
        stride: int,
        eval_stride: int,
        scale: bool,
        seed: int | None,
    ):
        super().__init__(name, batch_size, eval_batch_size=eval_batch_size, seed=seed)
        check_positive(n_channels=n_channels, context=context, stride=stride, eval_stride=eval_stride, season=season)
        self.n_channels, self.context, self.season = n_channels, context, season
        self.stride, self.eval_stride, self.scale = stride, eval_stride, scale

    @property
    def series(self) -> Series:
        """The facts of the data for models: the window is its own horizon."""
        return Series(self.n_channels, self.context, self.context, season=self.season)

    @abstractmethod
    def _load(self) -> Table:
        """Read the series, NaN where a value is missing; called once."""

    def _make(self) -> Mapping[Split, "WholeWindows"]:
        """Read, scale and index the series."""
        values, times, split, channels = self._load()
        self.channels = list(map(str, range(self.n_channels))) if channels is None else list(channels)
        ends = np.cumsum(split)
        values, self.test_times = values[: ends[-1]], times[ends[1] : ends[2]]
        _check(self.name, values, split, self.channels, self.context)
        mean, std = np.zeros(self.n_channels), np.ones(self.n_channels)
        if self.scale:
            mean, std = (m[0] for m in moments(values, np.array([0, len(values)]), np.array([split[0]])))
            std = np.where(np.isnan(std), 1.0, std)
        self.mean, self.std = torch.from_numpy(mean).float(), torch.from_numpy(std).float()
        mask = torch.from_numpy(~np.isnan(values))
        scaled = torch.from_numpy(np.nan_to_num((values - mean) / std)).float()
        starts: Mapping[Split, int] = {"train": 0, "val": int(ends[0]), "test": int(ends[1])}
        return {
            name: WholeWindows(
                scaled[first : first + rows],
                mask[first : first + rows],
                self.context,
                stride=self.stride if name == "train" else self.eval_stride,
            )
            for (name, first), rows in zip(starts.items(), split, strict=True)
        }


class WholeWindows(Gathered):
    """Every window of one series with missing values, by number.

    Shapes: ``(B,) -> x (B, length, C), x_mask (B, length, C)``. Cost: one copy of the batch.

    Args:
        values: the series ``(T, C)``, 0 where a value is missing.
        mask: True where a value was observed, ``(T, C)``.
        length: window length, in rows.
        stride: rows between the starts of two windows; the last window ends with the series, whatever the stride.
    """

    def __init__(self, values: Tensor, mask: Tensor, length: int, *, stride: int = 1):
        # channel-major memory: a window of one channel is contiguous
        self.values, self.mask = (rows.t().contiguous().t() for rows in (values, mask))
        self.length = length
        last = len(values) - length
        self.starts = torch.cat([torch.arange(0, last, stride), torch.tensor([last])])

    def __len__(self) -> int:
        return len(self.starts)

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        start = self.starts[index]
        return {
            "x": cut(self.values, start, self.length),
            "x_mask": cut(self.mask, start, self.length),
            "window": index,
            "place": (index / len(self)).to(self.values.dtype),
        }


def _check(name: str, values: np.ndarray, split: tuple[int, int, int], channels: list[str], context: int) -> None:
    for part, rows in zip(("training", "validation", "test"), split, strict=True):
        if rows < context:
            raise DataError(
                f"{name} has {rows} {part} rows, fewer than context = {context}; give more rows, or a smaller context"
            )
    if np.isinf(values).any():
        row, channel = np.argwhere(np.isinf(values))[0]
        raise DataError(f"{name} has an infinite value in row {row} of {channels[channel]!r}; make it missing (NaN)")
    absent = np.isnan(values[: split[0]]).all(0)
    if absent.any():
        raise DataError(
            f"{name} has no observed value of {channels[int(absent.argmax())]!r} in its {split[0]} training rows; "
            "leave the channel out"
        )


_PM25 = Facts(
    "BeijingPM25",
    Source(
        ("beijing_pm25/beijing_pm25.csv",),
        "https://archive.ics.uci.edu/ml/machine-learning-databases/00381/PRSA_data_2010.1.1-2014.12.31.csv",
        2010494,
        "4127f868775e31b3956522adc0ec75af8937dde6a3896e8beed3a376c6d27f1c",
    ),
    43824,
    7,
    1.0,
    24,
    (30676, 4384, 8764),
    "CC BY 4.0",
)
_KNOWN = {**FACTS, _PM25.name: _PM25}


class Gaps(GapData):
    """Published series for imputation: the long-horizon benchmarks, which are complete, and Beijing PM2.5 with gaps.

    The benchmarks have the splits of ``Benchmark``. ``BeijingPM25`` is hourly, 2010 to 2014: the concentration at the
    embassy of the United States, of which 2,067 of 43,824 values are missing in gaps of up to 155 hours, with dew
    point, temperature, pressure, cumulated wind speed, hours of snow and of rain as further channels. The direction of
    the wind, four words, is left out. Splits are 70, 10 and 20 percent.

    Args:
        name: the data set.
        root: the data folder. Default: ``$SEQMIX_DATA``, else ``./data``.

    Raises:
        DataError: if the file can be neither found nor fetched, or is not the published one.

    Source: see ``Benchmark``; Liang et al., 2015, doi:10.1098/rspa.2015.0257 (Beijing PM2.5). Differs from the original
    code in: the Time-Series Library begins its validation and test windows in the rows of the split before.
    """

    def __init__(
        self,
        name: Literal[
            "ETTh1", "ETTh2", "ETTm1", "ETTm2", "Weather", "Exchange", "ILI", "ECL", "Traffic", "BeijingPM25"
        ],
        context: int = 96,
        batch_size: int = 32,
        *,
        root: str | None = None,
        eval_batch_size: int | None = None,
        stride: int = 1,
        eval_stride: int = 1,
        scale: bool = True,
        seed: int | None = None,
    ):
        check_choice("name", name, tuple(_KNOWN))
        self.root, self.facts = root, _KNOWN[name]
        super().__init__(
            name,
            self.facts.n_channels,
            context,
            batch_size,
            season=self.facts.season,
            eval_batch_size=eval_batch_size,
            stride=stride,
            eval_stride=eval_stride,
            scale=scale,
            seed=seed,
        )

    def _load(self) -> Table:
        content = read_published(self.facts.source, self.root)
        if self.name == _PM25.name:
            frame = pd.read_csv(io.BytesIO(content))
            times = pd.DatetimeIndex(pd.to_datetime(frame[["year", "month", "day", "hour"]]))
            values = frame[["pm2.5", "DEWP", "TEMP", "PRES", "Iws", "Is", "Ir"]]
            return Table(values.to_numpy(np.float64), times, self.facts.split, list(values))
        values, times, channels = read_wide(content, self.name)
        return Table(values, times, self.facts.split, channels)


class GapsCSV(GapData):
    """A CSV file with missing values (plain or ``.gz``, UTF-8, commas): a time column, and one of numbers per channel.

    Empty cells, NA and NaN are missing. Rows are split in order of time; text, infinite values, repeated or unsorted
    times are errors that name the line, and so are rows missing from the time grid: write them as empty cells.

    Args:
        path: the file.
        columns: the channels. Default: every column but the time column.
        time_col: column of time stamps. Default: the first.
        time_format: format of dates, as in ``strptime``. Default: inferred.
        split: shares of training, validation and test rows.
        season: length of the season, in rows. Default: that of ``WideCSV``.

    Raises:
        DataError: if the file cannot be used as it is.
        ConfigError: if ``split`` is not three positive shares that add up to 1.
    """

    def __init__(
        self,
        path: str,
        context: int = 96,
        batch_size: int = 32,
        *,
        columns: list[str] | None = None,
        time_col: str | None = None,
        time_format: str | None = None,
        split: tuple[float, float, float] = (0.7, 0.1, 0.2),
        season: int | None = None,
        eval_batch_size: int | None = None,
        stride: int = 1,
        eval_stride: int = 1,
        scale: bool = True,
        seed: int | None = None,
    ):
        check_split(split)
        if season is not None and season < 1:
            raise ConfigError(f"season must be at least 1, got {season}; use 1 for none")
        self.path, self.columns, self.time_col, self.time_format = path, columns, time_col, time_format
        self.split = split
        # the first lines are enough for the facts that a model is built from
        values, times, _ = self._read(lines=100)
        super().__init__(
            Path(path).name,
            values.shape[1],
            context,
            batch_size,
            season=step_and_season(times)[1] if season is None else season,
            eval_batch_size=eval_batch_size,
            stride=stride,
            eval_stride=eval_stride,
            scale=scale,
            seed=seed,
        )

    def _load(self) -> Table:
        values, times, channels = self._read()
        return Table(values, times, split_rows(self.split, len(values)), channels)

    def _read(self, lines: int | None = None) -> tuple[np.ndarray, pd.Index, list[str]]:
        return read_wide_file(
            self.path,
            lines,
            columns=self.columns,
            time_col=self.time_col,
            time_format=self.time_format,
            allow_gaps=False,
            missing=True,
        )
