"""Labeled multivariate series, gathered by number, padded to the longest of a batch, and masked."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from seqmix.data.loader import Gathered
from seqmix.data.series.ts_file import TsFile
from seqmix.data.served import Served, Split
from seqmix.errors import ConfigError, DataError, check_choice, check_fraction

Normalize = Literal["none", "series", "train"]


class LabeledSeries(Gathered):
    """Labeled series by number, for ``WindowLoader``.

    A batch is ``{"x": (B, L, C), "labels": (B,)}``, float32 and int64, with ``"mask": (B, L)`` bool, True = keep, where
    lengths differ anywhere in the data; L is the longest of the batch.

    Args:
        values: all series, one after another ``(T, C)`` float32.
        offsets: first row of each series, then T; ``(n + 1,)``.
        labels: class of each series ``(n,)``.
    """

    def __init__(self, values: Tensor, offsets: Tensor, labels: Tensor):
        self.values, self.offsets, self.labels = values, offsets, labels
        self.padded = len(offsets.diff().unique()) > 1
        self.rows = torch.arange(len(labels))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> "LabeledSeries":
        """The series with these numbers ``(n,)``; the values are shared, not copied."""
        part = copy(self)
        part.rows = self.rows[rows]
        return part

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        rows = self.rows[index]
        start = self.offsets[rows].unsqueeze(-1)
        length = self.offsets[rows + 1].unsqueeze(-1) - start
        place = torch.arange(int(length.max()), device=self.device)  # (L,)
        x = self.values[(start + place).clamp(max=len(self.values) - 1)]  # (B, L, C)
        batch = {"x": x, "labels": self.labels[rows]}
        if self.padded:
            batch["mask"] = place < length
            batch["x"] = x.masked_fill(~batch["mask"].unsqueeze(-1), 0)
        return batch

    def label_counts(self, n_classes: int) -> Tensor:
        """Number of series of each class, ``(n_classes,)``."""
        return torch.bincount(self.labels[self.rows], minlength=n_classes)


class SeriesData(Served, ABC):
    """Labeled series from a training and a test file; a share of the training series is held out for validation.

    The classes are those of the training series, in the order of the header. ``Preparation`` says what becomes of
    missing values. Series of different lengths are padded at the end and masked.

    Args:
        class_names: names of the classes, in the order of their numbers.
        n_channels: number of channels C.
        max_len: longest series, in time steps.
        val_share: share of the training series of each class that is held out for validation, drawn by ``split_seed``:
            rounded, but one at least of a class with two or more, and none of a class with one. With 0 nothing is held
            out, and the training series are validated on: then the last epoch counts, and patience must not be set.
        split_seed: seed of the draw.
        normalize: ``series`` standardizes each channel of each series, ``train`` each channel by its mean and deviation
            over the training series, ``none`` leaves values as they are.

    Raises:
        ConfigError: if an option is out of range, or there is nothing to hold out.
        DataError: if a file cannot be used, or the test file has a class or channels that the training file lacks.
    """

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        n_channels: int,
        max_len: int,
        batch_size: int,
        *,
        val_share: float,
        split_seed: int,
        normalize: Normalize,
        eval_batch_size: int | None,
        seed: int | None,
    ):
        super().__init__(name, batch_size, eval_batch_size=eval_batch_size, seed=seed)
        check_fraction(val_share=val_share)
        check_choice("normalize", normalize, ("none", "series", "train"))
        self.class_names, self.n_classes = tuple(class_names), len(class_names)
        self.n_channels, self.max_len = n_channels, max_len
        self.val_share, self.split_seed = val_share, split_seed
        self.normalize: Normalize = normalize

    @abstractmethod
    def _files(self) -> tuple[TsFile, TsFile]:
        """The training and the test file."""

    def label_counts(self, split: Split) -> Tensor:
        """Number of series of each class in a split, ``(n_classes,)``; reads the data if needed."""
        self.setup()
        series = self._splits[split]
        assert isinstance(series, LabeledSeries)
        return series.label_counts(self.n_classes)

    def _make(self) -> Mapping[Split, LabeledSeries]:
        train, test = self._files()
        number = {name: k for k, name in enumerate(self.class_names)}
        labels = np.array([number[label] for label in train.labels])
        held_out = hold_out(labels, self.val_share, self.split_seed)
        learned = [x for x, out in zip(train.series, held_out, strict=True) if not out]
        every = Preparation.learn(learned, self.normalize)([*train.series, *test.series])
        labels = np.concatenate([labels, [number[label] for label in test.labels]])
        whole = LabeledSeries(*joined(every), torch.from_numpy(labels))
        rows: dict[Split, np.ndarray] = {
            "train": np.flatnonzero(~held_out),
            "val": np.flatnonzero(held_out if self.val_share else ~held_out),
            "test": np.arange(len(held_out), len(labels)),
        }
        return {split: whole.take(torch.from_numpy(numbers)) for split, numbers in rows.items()}


def facts_of(train: TsFile, test: TsFile, name: str) -> tuple[tuple[str, ...], int, int]:
    """Names of the classes of the training file, number of channels, and length of the longest series.

    Raises:
        DataError: if the test file has a class or channels that the training file lacks.
    """
    known = set(train.labels)
    unseen = sorted(set(test.labels) - known)
    if unseen:
        raise DataError(
            f"{name}: the test file has {test.labels.count(unseen[0])} series of class {unseen[0]!r}, the training "
            "file has none; give training series of it, or leave those out"
        )
    channels = [each.series[0].shape[1] for each in (train, test)]
    if channels[0] != channels[1]:
        raise DataError(
            f"{name}: series of {channels[0]} channels in the training file and of {channels[1]} in the test file; "
            "give both the same channels"
        )
    names = tuple(each for each in train.class_names if each in known)
    if len(names) < 2:
        raise DataError(
            f"{name}: the training file has the class {' '.join(names)!r} alone; give series of two classes at least"
        )
    return names, channels[0], max(len(x) for x in (*train.series, *test.series))


def hold_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draw ``share`` of the examples of each class, ``(n,)`` bool.

    It is rounded, but one at least of a class with two or more examples, and none of a class with one.

    Raises:
        ConfigError: if there is nothing to draw.
    """
    out = np.zeros(len(labels), bool)
    if not share:
        return out
    random = np.random.default_rng(seed)
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        out[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    if not out.any():
        raise ConfigError(
            f"val_share = {share}: every class has one training series, none can be held out; set val_share to 0, "
            "which validates on the training series"
        )
    return out


@dataclass(frozen=True)
class Preparation:
    """Fills and normalizes series with statistics of the training series.

    Missing values are interpolated within their channel, with the nearest value at its ends; a channel without any
    value in a series gets its mean over the training series. A channel that does not move becomes zero.

    Args:
        normalize: ``series`` standardizes each channel of each series, ``train`` each channel by ``mean`` and ``std``,
            ``none`` leaves values as they are.
        mean: mean of each channel over the training series ``(C,)``.
        std: their standard deviation ``(C,)``.
    """

    normalize: Normalize
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def learn(cls, train: Sequence[np.ndarray], normalize: Normalize) -> "Preparation":
        """Learn from training series ``(L, C)``, NaN where a value is missing."""
        check_choice("normalize", normalize, ("none", "series", "train"))
        rows = np.concatenate(train)
        seen = ~np.isnan(rows)
        count = np.maximum(seen.sum(0), 1)
        mean = np.where(seen, rows, 0).sum(0) / count
        std = (np.where(seen, rows - mean, 0) ** 2).sum(0) / count
        return cls(normalize, mean, std**0.5)

    def __call__(self, series: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Fill and normalize series ``(L, C)``."""
        return [self._normalized(self._filled(x) if np.isnan(x).any() else x) for x in series]

    def _filled(self, x: np.ndarray) -> np.ndarray:
        x = x.copy()
        for values, mean in zip(x.T, self.mean, strict=True):
            seen = np.flatnonzero(~np.isnan(values))
            values[:] = np.interp(np.arange(len(values)), seen, values[seen]) if len(seen) else mean
        return x

    def _normalized(self, x: np.ndarray) -> np.ndarray:
        if self.normalize == "none":
            return x
        mean, std = (x.mean(0), x.std(0)) if self.normalize == "series" else (self.mean, self.std)
        # the deviation of a constant channel is its rounding error
        return (x - mean) / np.where(std > 1e-8 * (1 + np.abs(mean)), std, 1)


def joined(series: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """The values and offsets of ``LabeledSeries``."""
    ends = np.cumsum([0, *map(len, series)])
    return torch.from_numpy(np.concatenate(series).astype(np.float32)), torch.from_numpy(ends)
