"""The contract of forecasting data: facts, chronological splits, scaling, loaders."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seqmix.data.series.calendar import calendar_features, calendar_names
from seqmix.data.series.windows import Windows
from seqmix.data.served import Served, Split, check_positive
from seqmix.errors import ConfigError, DataError
from seqmix.series import Series


class Table(NamedTuple):
    """A multivariate series with its time stamps, how many of its rows each split takes, and names of the channels."""

    values: np.ndarray  # (T, C)
    times: pd.Index  # (T,)
    split: tuple[int, int, int]
    channels: Sequence[str] | None = None  # numbers if None


class ForecastData(Served, ABC):
    """Windows of one multivariate series: ``{"x": (B, context, C), "y": (B, horizon, C)}``.

    Training rows come first, then validation, then test. A window belongs to the split that holds its horizon; its
    context may reach back into the split before. Channels are standardized by mean and population standard deviation of
    the training rows; ``mean`` and ``std``, both (C,) and there after ``setup``, undo it. Every window is served.
    With ``calendar`` batches hold ``"future": (B, context + horizon, F)`` too.

    Args:
        n_channels: number of channels C.
        context: lookback length, in time steps.
        horizon: forecast length, in time steps.
        step: time between two rows, in hours. None: rows are only numbered.
        season: length of the natural season, in time steps; 1 for none.
        stride: time steps between the starts of two training windows.
        scale: standardize the channels.
        calendar: add calendar features of every time step as ``future``.

    Raises:
        ConfigError: if a size is not positive, or a calendar is asked of rows without dates.
    """

    mean: Tensor
    std: Tensor
    #: time stamps of the test rows: horizon k of the test begins at number k; there after ``setup``
    test_times: pd.Index
    #: names of the channels; there after ``setup``
    channels: list[str]

    def __init__(
        self,
        name: str,
        n_channels: int,
        context: int,
        horizon: int,
        batch_size: int,
        *,
        step: float | None,
        season: int,
        eval_batch_size: int | None,
        stride: int,
        scale: bool,
        calendar: bool,
        seed: int | None,
    ):
        super().__init__(name, batch_size, eval_batch_size=eval_batch_size, seed=seed)
        check_positive(n_channels=n_channels, context=context, horizon=horizon, stride=stride, season=season)
        self._features = calendar_names(step) if calendar and step is not None else []
        if calendar and not self._features:
            raise ConfigError(f"{name} has no dates, or rows that are years apart; leave out calendar=True")
        self.n_channels, self.context, self.horizon = n_channels, context, horizon
        self.season, self.stride, self.scale, self.calendar = season, stride, scale, calendar

    @property
    def series(self) -> Series:
        """The facts of the data for models."""
        return Series(self.n_channels, self.context, self.horizon, n_future=len(self._features), season=self.season)

    @abstractmethod
    def _load(self) -> Table:
        """Read or make the series; called once."""

    def _make(self) -> Mapping[Split, Windows]:
        """Read, scale and index the series."""
        values, times, split, channels = self._load()
        self._check_rows(split)
        n_train, n_val, n_test = split
        used = n_train + n_val + n_test
        values, times = values[:used], times[:used]
        self.test_times = times[n_train + n_val :]
        self.channels = list(map(str, range(self.n_channels))) if channels is None else list(channels)
        mean, std = _moments(values[:n_train]) if self.scale else (np.zeros(self.n_channels), np.ones(self.n_channels))
        self.mean, self.std = torch.from_numpy(mean).float(), torch.from_numpy(std).float()
        # channel-major memory as in Windows, so that the three splits share one copy
        scaled = torch.from_numpy((values - mean).T / std[:, None]).float().contiguous().t()  # (T, C)
        dates = torch.from_numpy(calendar_features(times, self._features)).float().t() if self.calendar else None
        ranges: dict[Split, tuple[int, int]] = {
            "train": (0, n_train),
            "val": (n_train, n_train + n_val),
            "test": (n_train + n_val, used),
        }
        return {
            name: Windows(
                scaled,
                torch.tensor([0, used]),
                self.context,
                self.horizon,
                stride=self.stride if name == "train" else 1,
                targets=torch.tensor([rows]),
                future=dates,
                placed=name == "val",
            )
            for name, rows in ranges.items()
        }

    @property
    def window_counts(self) -> dict[str, int]:
        """Number of windows in each split; reads the data if that has not happened yet."""
        self.setup()
        return {name: len(windows) for name, windows in self._splits.items()}

    def _check_rows(self, split: tuple[int, int, int]) -> None:
        needed = (self.context + self.horizon, self.horizon, self.horizon)
        if any(have < need for have, need in zip(split, needed, strict=True)):
            raise DataError(
                f"{self.name} has {' / '.join(map(str, split))} rows for training / validation / test, "
                f"context {self.context} and horizon {self.horizon} need at least {' / '.join(map(str, needed))}; "
                "use a longer series, or a smaller context or horizon"
            )


def _moments(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # the mean of a constant channel may be off by rounding, so its deviation is not exactly zero
    constant = train.max(0) == train.min(0)
    return train.mean(0), np.where(constant, 1.0, train.std(0))
