"""What a forecasting datamodule promises to tasks: its facts, chronological splits, scaling, loaders."""

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from seqmix.data.windows import WindowLoader, Windows
from seqmix.errors import ConfigError, DataError

Split = Literal["train", "val", "test"]


class Table(NamedTuple):
    """A multivariate series with its time stamps, and how many of its rows each split takes."""

    values: np.ndarray  # (T, C)
    times: pd.Index  # (T,)
    split: tuple[int, int, int]


class ForecastData(LightningDataModule, ABC):
    """Windows of one multivariate series: ``{"x": (B, context, C), "y": (B, horizon, C)}``.

    Training rows come first, then validation, then test. A window belongs to the split that holds its horizon; its
    context may reach back into the split before. Channels are standardised by mean and population standard deviation of
    the training rows; ``mean`` and ``std``, both (C,) and there after ``setup``, undo it. Every window is served.
    With ``calendar`` batches hold ``"future": (B, context + horizon, F)`` too.

    Args:
        name: what the data is called in tables and messages.
        n_channels: number of channels C.
        context: look-back length, in time steps.
        horizon: forecast length, in time steps.
        batch_size: windows per training batch.
        step: time between two rows, in hours; None if rows are only numbered.
        season: length of the natural season, in time steps; 1 for none.
        eval_batch_size: windows per validation and test batch; None: the same as in training.
        stride: time steps between the starts of two training windows.
        scale: standardise the channels.
        calendar: add calendar features of every time step as ``future``.
        seed: starting point of the shuffles; None: the seed of torch when training starts.

    Raises:
        ConfigError: if a size is not positive, or a calendar is asked of rows without dates.
    """

    mean: Tensor
    std: Tensor

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
        super().__init__()
        sizes = {"n_channels": n_channels, "context": context, "horizon": horizon, "batch_size": batch_size}
        sizes |= {"stride": stride, "season": season}
        sizes["eval_batch_size"] = batch_size if eval_batch_size is None else eval_batch_size
        for key, size in sizes.items():
            if size < 1:
                raise ConfigError(f"{key} must be at least 1, got {size}; set data.{key} to a positive number")
        if seed is not None and seed < 0:
            raise ConfigError(f"seed must not be negative, got {seed}; set data.seed to 0 or more")
        self._features = _calendar_names(step) if calendar and step is not None else []
        if calendar and not self._features:
            raise ConfigError(f"{name} has no dates, or rows that are years apart; leave out calendar=True")
        self.name, self.n_channels, self.context, self.horizon = name, n_channels, context, horizon
        self.batch_size, self.eval_batch_size = batch_size, sizes["eval_batch_size"]
        self.season, self.stride, self.scale, self.calendar = season, stride, scale, calendar
        self.n_future, self.n_static = len(self._features), 0
        self.seed = self._shuffle_seed = seed
        self._windows: dict[str, Windows] = {}

    @abstractmethod
    def _load(self) -> Table:
        """Read or make the series; called once."""

    def setup(self, stage: str | None = None) -> None:
        """Read, scale and index the series; does nothing the second time."""
        if self._windows:
            return
        values, times, split = self._load()
        self._check_rows(split)
        n_train, n_val, n_test = split
        used = n_train + n_val + n_test
        values, times = values[:used], times[:used]
        mean, std = _moments(values[:n_train]) if self.scale else (np.zeros(self.n_channels), np.ones(self.n_channels))
        self.mean, self.std = torch.from_numpy(mean).float(), torch.from_numpy(std).float()
        # channels apart in memory, as the windows keep them, so that the three splits share one copy
        scaled = torch.from_numpy((values - mean).T / std[:, None]).float().contiguous().t()  # (T, C)
        future = torch.from_numpy(_calendar(times, self._features)).float().t() if self.calendar else None  # (T, F)
        ranges = {"train": (0, n_train), "val": (n_train, n_train + n_val), "test": (n_train + n_val, used)}
        for name, rows in ranges.items():
            self._windows[name] = Windows(
                scaled,
                torch.tensor([0, used]),
                self.context,
                self.horizon,
                stride=self.stride if name == "train" else 1,
                targets=torch.tensor([rows]),
                future=future,
            )

    @property
    def window_counts(self) -> dict[str, int]:
        """Number of windows in each split; reads the data if that has not happened yet."""
        self.setup()
        return {name: len(windows) for name, windows in self._windows.items()}

    def train_dataloader(self) -> WindowLoader:
        """Training windows, shuffled, but for a trainer that is to overfit the first few batches."""
        if self._shuffle_seed is None:
            self._shuffle_seed = torch.initial_seed()
        # the trainer has this attribute, but not in its class
        shuffle = self.trainer is None or self.trainer.overfit_batches == 0  # pyright: ignore[reportAttributeAccessIssue]
        return WindowLoader(self._placed("train"), self.batch_size, shuffle=shuffle, seed=self._shuffle_seed)

    def val_dataloader(self) -> WindowLoader:
        """Every validation window, in order."""
        return WindowLoader(self._placed("val"), self.eval_batch_size)

    def test_dataloader(self) -> WindowLoader:
        """Every test window, in order."""
        return WindowLoader(self._placed("test"), self.eval_batch_size)

    def predict_dataloader(self) -> WindowLoader:
        """The test windows again."""
        return self.test_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """The seed of the shuffles, so that a resumed run shuffles as the first one did."""
        return {"shuffle_seed": self._shuffle_seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the seed of the checkpoint, unless one was given."""
        if self.seed is None:
            self._shuffle_seed = state_dict["shuffle_seed"]

    def _check_rows(self, split: tuple[int, int, int]) -> None:
        needed = (self.context + self.horizon, self.horizon, self.horizon)
        if any(have < need for have, need in zip(split, needed, strict=True)):
            raise DataError(
                f"{self.name} has {' / '.join(map(str, split))} rows for training / validation / test, "
                f"context {self.context} and horizon {self.horizon} need at least {' / '.join(map(str, needed))}; "
                "use a longer series, or a smaller context or horizon"
            )

    def _placed(self, split: Split) -> Windows:
        """Windows of a split, moved to the GPU in use when they take less than a quarter of its free memory."""
        self.setup()
        windows = self._windows[split]
        if self.trainer is None:
            return windows
        if self.trainer.world_size > 1:
            raise ConfigError(
                f"{self.name} is served to one device, got {self.trainer.world_size}; set trainer.devices: 1"
            )
        device = self.trainer.strategy.root_device
        if device.type == "cuda" and 4 * windows.nbytes < torch.cuda.mem_get_info(device)[0]:
            return windows.to(device)
        return windows


def _moments(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # the mean of a constant channel may be off by rounding, so its deviation is not exactly zero
    constant = train.max(0) == train.min(0)
    return train.mean(0), np.where(constant, 1.0, train.std(0))


# feature: (step in hours from which on it no longer varies, smallest value, range), as in the time features of Informer
_CALENDAR = {
    "minute": (1, 0, 59),
    "hour": (24, 0, 23),
    "day_of_week": (7 * 24, 0, 6),
    "day": (28 * 24, 1, 30),
    "day_of_year": (365 * 24, 1, 365),
}


def _calendar_names(step: float) -> list[str]:
    return [name for name, (limit, _, _) in _CALENDAR.items() if step < limit]


def _calendar(times: pd.Index, names: list[str]) -> np.ndarray:
    """Position of every time stamp in its hour, day, week, month and year, each from -0.5 to 0.5; ``(F, T)``."""
    rows = []
    for name in names:
        _, smallest, extent = _CALENDAR[name]
        rows.append((getattr(times, name).to_numpy() - smallest) / extent - 0.5)
    return np.stack(rows)
