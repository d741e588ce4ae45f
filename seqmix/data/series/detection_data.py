"""The contract of data for anomaly detection: windows of training rows, and whole series with labels."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seqmix.data.loader import Gathered
from seqmix.data.served import Served, Split, check_positive
from seqmix.errors import ConfigError, DataError, check_fraction
from seqmix.series import Series


class AnomalySeries(NamedTuple):
    """A series with training rows first; NaN where a value is missing, labels of 1 for anomalous rows."""

    name: str
    values: np.ndarray  # (T, C)
    labels: np.ndarray  # (T,)
    n_train: int


class DetectionData(Served, ABC):
    """Base of data for anomaly detection: series with labeled anomalies after mostly normal training rows.

    Training and validation batches are windows ``{"x": (B, window, C), "x_mask": (B, window, C)}`` of training rows of
    all series: one model is trained on all of them (a global model), or on one where the data has one (a local model).
    The last training rows of each series are validation. Test batches hold whole series ``{"x": (B, T, C), "x_mask",
    "labels": (B, T), "n_train": (B,), "length": (B,)}``, with padding after their ends, so that every series has
    errors, threshold and scores of its own. Labels of training rows are not used.

    Each channel of each series is standardized by its observed training rows. Missing values are 0 in ``x``.

    Args:
        n_channels: number of channels C.
        window: rows of a window.
        eval_batch_size: windows per validation batch, and series per test batch. Default: that of training.
        stride: rows between the starts of two training windows of a series.
        val_share: share of the training rows that is validation, at least a window; a series with fewer than two
            windows of training rows has none.

    Raises:
        ConfigError: if a size is not positive, or ``val_share`` is not a fraction.
        DataError: if a series has fewer training rows than a window, or no series has rows for validation.
    """

    def __init__(
        self,
        name: str,
        n_channels: int,
        window: int,
        batch_size: int,
        *,
        eval_batch_size: int | None,
        stride: int,
        val_share: float,
        seed: int | None,
    ):
        super().__init__(name, batch_size, eval_batch_size=eval_batch_size, seed=seed)
        check_positive(n_channels=n_channels, window=window, stride=stride)
        check_fraction(val_share=val_share)
        self.n_channels, self.window, self.stride, self.val_share = n_channels, window, stride, val_share

    @property
    def series(self) -> Series:
        """The facts of the data for models: the horizon is the window itself."""
        return Series(self.n_channels, self.window, self.window)

    @abstractmethod
    def _load(self) -> list[AnomalySeries]:
        """Read or make the series; called once."""

    def _make(self) -> Mapping[Split, Gathered]:
        loaded = [_checked(each, self.window) for each in self._load()]
        values, mask = zip(*map(_standardized, loaded), strict=True)
        n_train = np.array([each.n_train for each in loaded])
        n_val = np.maximum(self.window, np.round(self.val_share * n_train).astype(int))
        n_val[n_train - n_val < self.window] = 0
        if not n_val.any():
            raise DataError(
                f"{self.name} has at most {n_train.max()} training rows in a series, window = {self.window} needs two "
                "windows for training and validation; use a smaller window"
            )
        first = np.cumsum([0, *(len(each) for each in values)])[:-1]
        flat, seen = torch.cat(values), torch.cat(mask)

        def windows(begin: np.ndarray, end: np.ndarray, stride: int) -> RowWindows:
            starts = [
                np.arange(a, b - self.window + 1, stride) for a, b in zip(first + begin, first + end, strict=True)
            ]
            return RowWindows(flat, seen, torch.from_numpy(np.concatenate(starts)), self.window)

        return {
            "train": windows(np.zeros_like(n_train), n_train - n_val, self.stride),
            "val": windows(n_train - n_val, n_train, 1),
            "test": WholeSeries(values, mask, [each.labels for each in loaded], torch.from_numpy(n_train)),
        }


class RowWindows(Gathered):
    """Windows of rows by their first one: ``{"x": (B, length, C), "x_mask": (B, length, C)}``."""

    def __init__(self, values: Tensor, mask: Tensor, starts: Tensor, length: int):
        # channel-major memory: a window of one channel is contiguous
        self.values, self.mask = (rows.t().contiguous().t() for rows in (values, mask))
        self.starts, self.length = starts, length

    def __len__(self) -> int:
        return len(self.starts)

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        start = self.starts[index]
        x, mask = (
            rows.unfold(0, self.length, 1).index_select(0, start).transpose(1, 2) for rows in (self.values, self.mask)
        )
        return {"x": x, "x_mask": mask}


class WholeSeries(Gathered):
    """Whole series with labels, padded at their ends."""

    def __init__(self, values: Sequence[Tensor], mask: Sequence[Tensor], labels: Sequence[np.ndarray], n_train: Tensor):
        self.length, self.n_train = torch.tensor([len(each) for each in values]), n_train
        self.first = self.length.cumsum(0) - self.length
        self.values, self.mask = torch.cat(list(values)), torch.cat(list(mask))
        self.labels = torch.from_numpy(np.concatenate(labels)).long()

    def __len__(self) -> int:
        return len(self.length)

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        length = self.length[index]
        row = torch.arange(int(length.max()), device=length.device)
        inside = row < length[:, None]  # (B, T)
        at = torch.where(inside, self.first[index][:, None] + row, 0)
        return {
            "x": self.values[at] * inside[..., None],
            "x_mask": self.mask[at] & inside[..., None],
            "labels": self.labels[at] * inside,
            "n_train": self.n_train[index],
            "length": length,
        }


def _checked(series: AnomalySeries, window: int) -> AnomalySeries:
    """The series, with labels as integers."""
    name, values, labels, n_train = series
    if values.ndim != 2 or labels.shape != values.shape[:1]:
        raise DataError(f"{name} has values {values.shape} and labels {labels.shape}; give (T, C) and (T,)")
    if not np.isin(labels, (0, 1)).all():
        odd = labels[~np.isin(labels, (0, 1))][0]
        raise DataError(f"{name} has the label {odd!s}; give 1 for anomalous rows and 0 for the others")
    if np.isinf(values).any():
        raise DataError(
            f"{name} has infinite values, first in row {int(np.isinf(values).any(1).argmax())}; remove them"
        )
    if not window <= n_train < len(values):
        raise DataError(
            f"{name} has {n_train} training rows of {len(values)}, window = {window} needs {window} at least, and rows "
            "to test after them; use a smaller window, or another share of training rows"
        )
    return series._replace(labels=labels.astype(np.int64))


def _standardized(series: AnomalySeries) -> tuple[Tensor, Tensor]:
    """Standardized values, 0 where missing, and where they were observed, each ``(T, C)``."""
    mask = ~np.isnan(series.values)
    values, seen = np.where(mask, series.values, 0), mask[: series.n_train]
    train, count = values[: series.n_train], np.maximum(seen.sum(0), 1)
    mean = train.sum(0) / count
    std = np.sqrt((np.square(train - mean) * seen).sum(0) / count)
    # the mean of a constant channel may be off by rounding
    std = np.where(std > 1e-9 * (1e-9 + np.abs(mean)), std, 1.0)
    return torch.from_numpy((values - mean) / std * mask).float(), torch.from_numpy(mask)


def check_train_share(share: float) -> None:
    """Raise ``ConfigError`` unless a share of training rows is above 0 and below 1."""
    if not 0 < share < 1:
        raise ConfigError(f"train_share = {share} must be above 0 and below 1; use for example 0.15")
