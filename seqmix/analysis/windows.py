"""Windows of series of any lengths, missing values included, and the way back from windows to rows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seqmix.data.loader import Gathered
from seqmix.data.series.windows import cut


class Span(NamedTuple):
    """Rows of one series that windows are cut from."""

    series: int
    first: int
    last: int  # the row after the last


class SpanWindows(Gathered):
    """Windows of ``length`` rows within spans of series; a shorter span is one window with missing rows before it.

    Shapes: ``(B,) -> x (B, length, C), x_mask (B, length, C), window (B,)``. Cost: one copy of the batch.

    Args:
        values: the series ``(T_i, C)``, NaN where missing.
        spans: the spans.
        length: rows of a window.
        stride: rows between the starts of two windows of a span; its last window ends with it, whatever the stride.
    """

    def __init__(self, values: Sequence[np.ndarray], spans: Sequence[Span], length: int, *, stride: int):
        parts, starts, places, total = [], [], [], 0
        for number, span in enumerate(spans):
            rows = values[span.series][span.first : span.last]
            pad = max(0, length - len(rows))
            rows = np.concatenate([np.full((pad, rows.shape[1]), np.nan, np.float32), rows])
            last = len(rows) - length
            begin = np.r_[np.arange(0, last, stride), last]
            parts.append(rows)
            starts.append(total + begin)
            places.append(np.stack([np.full(len(begin), number), begin - pad], 1))
            total += len(rows)
        # channel-major memory: a window of one channel is contiguous
        flat = torch.from_numpy(np.concatenate(parts)).t().contiguous().t()
        self.mask, self.values = ~flat.isnan(), flat.nan_to_num()
        self.starts, self.length = torch.from_numpy(np.concatenate(starts)), length
        #: span of each window, and its first row in it, below 0 where rows were put before: ``(N, 2)``
        self.places = torch.from_numpy(np.concatenate(places))

    def __len__(self) -> int:
        return len(self.starts)

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        start = self.starts[index]
        return {
            "x": cut(self.values, start, self.length),
            "x_mask": cut(self.mask, start, self.length),
            "window": index,
        }


class Overlapped:
    """Mean over overlapping windows, for each row; rows in the middle of a window count more than those at its ends.

    Args:
        lengths: rows of each span.
        length: rows of a window.
        n_columns: columns of what is put together.
    """

    def __init__(self, lengths: Sequence[int], length: int, n_columns: int):
        self.sums = [np.zeros((rows, n_columns)) for rows in lengths]
        self.weights = [np.zeros((rows, 1)) for rows in lengths]
        steps = np.arange(length)
        self.weight = 1.0 + np.minimum(steps, steps[::-1])[:, None]

    def add(self, span: int, first: int, found: np.ndarray) -> None:
        """Add a window ``(length, n_columns)`` that begins in row ``first`` of a span; rows before it are dropped."""
        cut_off = max(0, -first)
        rows = slice(first + cut_off, first + len(found))
        self.sums[span][rows] += (found * self.weight)[cut_off:]
        self.weights[span][rows] += self.weight[cut_off:]

    def means(self) -> list[np.ndarray]:
        """The means ``(rows, n_columns)`` of each span."""
        return [total / weight for total, weight in zip(self.sums, self.weights, strict=True)]
