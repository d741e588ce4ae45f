"""Labeled byte sequences or pairs, gathered by number, padded to the longest of a batch, and masked."""

from abc import ABC
from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from torch import Tensor

from seqmix.data.loader import Gathered
from seqmix.data.served import Served, Split

PAD = 0


class LabeledBytes(Gathered):
    """Labeled sequences by number, for ``WindowLoader``: kept as bytes, possibly in a mapped file.

    A batch is ``{"tokens": (B, L), "labels": (B,)}``, int64, with ``"mask": (B, L)`` bool, True = keep, where
    sequences are padded; L is the longest of the batch. Pairs come as ``(B, 2, L)``.

    Args:
        tokens: all sequences, one after another ``(T,)`` uint8.
        offsets: first position of each sequence, then T; ``(n + 1,)``, or ``(2 n + 1,)`` for n pairs.
        labels: class of each example ``(n,)``.
        pairs: two sequences make an example.
        padded: byte b becomes token b + 1, and 0 fills up shorter sequences; without it all have one length.
        zero_is_pad: mask every byte 0, without ``padded`` only.
    """

    def __init__(
        self,
        tokens: Tensor,
        offsets: Tensor,
        labels: Tensor,
        *,
        pairs: bool = False,
        padded: bool = True,
        zero_is_pad: bool = False,
    ):
        self.tokens, self.offsets, self.labels = tokens, offsets, labels
        self.pairs, self.padded, self.zero_is_pad = pairs, padded, zero_is_pad
        self.rows = torch.arange(len(labels))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> "LabeledBytes":
        """The examples with these numbers ``(n,)``; the sequences are shared, not copied."""
        part = copy(self)
        part.rows = self.rows[rows]
        return part

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        rows = self.rows[index]
        sequence = torch.stack([2 * rows, 2 * rows + 1], 1) if self.pairs else rows  # (B, 2) or (B,)
        start = self.offsets[sequence].unsqueeze(-1)
        length = self.offsets[sequence + 1].unsqueeze(-1) - start
        place = torch.arange(int(length.max()), device=self.device)  # (L,)
        tokens = self.tokens[(start + place).clamp(max=len(self.tokens) - 1)].long()
        batch = {"tokens": tokens, "labels": self.labels[rows].long()}
        if self.padded:
            batch["mask"] = place < length
            batch["tokens"] = (tokens + 1).masked_fill(~batch["mask"], PAD)
        elif self.zero_is_pad:
            batch["mask"] = tokens != 0
        return batch

    def label_counts(self, n_classes: int) -> Tensor:
        """Number of examples of each class, ``(n_classes,)``."""
        return torch.bincount(self.labels[self.rows].long(), minlength=n_classes)


class LabeledData(Served, ABC):
    """Base of labeled token sequences or pairs.

    Args:
        vocab_size: number of tokens, padding included.
        n_classes: number of classes.
        max_len: longest sequence.
        pairs: an example is two sequences.

    Raises:
        ConfigError: if a batch size is not positive, or ``seed`` is negative.
    """

    def __init__(
        self,
        name: str,
        vocab_size: int,
        n_classes: int,
        max_len: int,
        batch_size: int,
        *,
        pairs: bool = False,
        eval_batch_size: int | None,
        seed: int | None,
    ):
        super().__init__(name, batch_size, eval_batch_size=eval_batch_size, seed=seed)
        self.vocab_size, self.n_classes, self.max_len, self.pairs = vocab_size, n_classes, max_len, pairs

    def label_counts(self, split: Split) -> Tensor:
        """Number of examples of each class in a split, ``(n_classes,)``; reads the data if needed."""
        self.setup()
        examples = self._splits[split]
        if not isinstance(examples, LabeledBytes):
            raise TypeError(f"{self.name} serves no LabeledBytes; count its classes in its own label_counts")
        return examples.label_counts(self.n_classes)


def join(sequences: Sequence[bytes], labels: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens, offsets and labels of ``LabeledBytes`` from sequences in memory."""
    ends = np.cumsum([0, *map(len, sequences)])
    tokens = np.frombuffer(bytearray(b"".join(sequences)), dtype=np.uint8)
    return torch.from_numpy(tokens), torch.from_numpy(ends), torch.tensor(labels, dtype=torch.uint8)
