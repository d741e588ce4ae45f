"""Labeled signals of one length: raw waveforms, pixel sequences."""

from abc import ABC
from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from seqmix.data.loader import Gathered
from seqmix.data.served import Served, Split


class LabeledSamples(Gathered):
    """Labeled signals by number, for ``WindowLoader``: kept as integers, possibly in a mapped file, served as reals.

    A batch is ``{"x": (B, L, C), "labels": (B,)}``, float32 and int64; each channel is standardized.

    Args:
        samples: all signals, ``(n, T, C)`` uint8 or int16.
        labels: class of each signal ``(n,)``.
        mean: value subtracted from each channel ``(C,)``.
        std: divisor of each channel after that ``(C,)``.
        step: keep every such sample, so that L = T / step, rounded up.
    """

    def __init__(self, samples: Tensor, labels: Tensor, mean: Tensor, std: Tensor, *, step: int = 1):
        self.samples, self.labels, self.mean, self.std, self.step = samples, labels, mean, std, step
        self.rows = torch.arange(len(labels))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> "LabeledSamples":
        """The signals with these numbers ``(n,)``; the samples are shared, not copied."""
        part = copy(self)
        part.rows = self.rows[rows]
        return part

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        rows = self.rows[index]
        x = (self.samples[rows, :: self.step].float() - self.mean) / self.std
        return {"x": x, "labels": self.labels[rows].long()}

    def label_counts(self, n_classes: int) -> Tensor:
        """Number of signals of each class, ``(n_classes,)``."""
        return torch.bincount(self.labels[self.rows].long(), minlength=n_classes)


class SampledData(Served, ABC):
    """Base of labeled signals of one length.

    Args:
        class_names: names of the classes, in the order of their numbers.
        n_channels: values per sample C.
        max_len: samples of a signal L.

    Raises:
        ConfigError: if a batch size is not positive, or ``seed`` is negative.
    """

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        n_channels: int,
        max_len: int,
        batch_size: int,
        *,
        eval_batch_size: int | None,
        seed: int | None,
    ):
        super().__init__(name, batch_size, eval_batch_size=eval_batch_size, seed=seed)
        self.class_names, self.n_classes = tuple(class_names), len(class_names)
        self.n_channels, self.max_len = n_channels, max_len

    def label_counts(self, split: Split) -> Tensor:
        """Number of signals of each class in a split, ``(n_classes,)``; reads the data if needed."""
        self.setup()
        signals = self._splits[split]
        assert isinstance(signals, LabeledSamples)
        return signals.label_counts(self.n_classes)
