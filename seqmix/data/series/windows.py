"""The window engine: every window of any number of series, gathered in one indexing operation."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.data.loader import Gathered
from seqmix.errors import DataError


class Windows(Gathered):
    """Every window of many series, by number: nothing is stored or looped over per window.

    The series lie one after another in ``values``; series ``i`` is rows ``indptr[i]`` to ``indptr[i + 1]``. Windows are
    numbered series by series. Number ``k`` belongs to the first series whose cumulative window count exceeds ``k``
    (a binary search), its first row follows by arithmetic, and a batch is one ``index_select`` on a zero-copy view.

    Shapes: ``(B,) -> x (B, context, C), y (B, horizon, C)``. Cost: O(B log n_series), plus one copy of the batch.

    Args:
        values: all series, ``(T_total, C)``.
        indptr: first row of each series, then ``T_total``; ``(n_series + 1,)``.
        context: lookback length, in rows.
        horizon: forecast length, in rows.
        stride: rows between the starts of two windows of a series.
        targets: first and last + 1 row that a horizon may cover, counted from the start of its series,
            ``(n_series, 2)``; the context may reach back before it. Default: the whole series.
        mask: True where a value was observed, ``(T_total, C)``. Default: everywhere.
        past: inputs known for the context only, ``(T_total, P)``.
        future: inputs known for context and horizon, ``(T_total, F)``.
        weight: weight of each row, ``(T_total,)``; that of a window is the mean over its horizon.
        static: inputs that do not change with time, ``(n_series, C, S)``.
        ids: names of the series, for messages. Default: their numbers.
        short: what to do about series too short for one window, "error" or "drop".
        placed: batches hold ``place`` ``(B,)``, from 0 to below 1: the part of the windows of its series before each.

    Raises:
        DataError: if a series is too short for one window (unless dropped), or all are.
        ValueError: if ``indptr``, ``targets`` or one of the inputs do not fit ``values``.
    """

    def __init__(
        self,
        values: Tensor,
        indptr: Tensor,
        context: int,
        horizon: int,
        *,
        stride: int = 1,
        targets: Tensor | None = None,
        mask: Tensor | None = None,
        past: Tensor | None = None,
        future: Tensor | None = None,
        weight: Tensor | None = None,
        static: Tensor | None = None,
        ids: Sequence[str] | None = None,
        short: Literal["error", "drop"] = "error",
        placed: bool = False,
    ):
        lengths = indptr.diff()
        if targets is None:
            targets = torch.stack([torch.zeros_like(lengths), lengths], 1)
        rows = {"mask": mask, "past": past, "future": future, "weight": weight}
        _check_fit(values, indptr, targets, rows, static)
        self.context, self.horizon, self.stride, self.placed = context, horizon, stride, placed
        # channel-major memory: a window of one channel is contiguous, five times faster to gather
        self.values = _apart(values)
        self.mask, self.past, self.future = (None if x is None else _apart(x) for x in (mask, past, future))
        self.static = static
        self.weight = None if weight is None else weight.unsqueeze(1)

        first = (targets[:, 0] - context).clamp(min=0)  # (n_series,)
        room = targets[:, 1] - first
        counts = ((room - context - horizon) // stride + 1).clamp(min=0)
        if short == "error" or not counts.any():
            _check_room(room, context + horizon, ids)
        self._counts, self._ends = counts, counts.cumsum(0)
        # row of window k: origin of its series + k * stride
        self._origin = indptr[:-1] + first - (self._ends - counts) * stride

    def __len__(self) -> int:
        return int(self._ends[-1])

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Series and first row, counted over all series, of the windows with these numbers; each ``(B,)``."""
        series = torch.searchsorted(self._ends, index, right=True)
        return series, self._origin[series] + index * self.stride

    def blocks(self, n: int, reach: int) -> list[tuple["Ranges", "Ranges"]]:
        """Numbers of the windows of each of ``n`` blocks, and of those whose horizons overlap with theirs.

        A block is the same part of every series, or some of the series where these are so short that most windows
        overlap. Blocks that overlap with all windows are left out.

        Args:
            n: number of blocks.
            reach: rows from one window to the next that does not overlap.
        """
        counts, gap = self._counts, -(-reach // self.stride) - 1
        edges = torch.arange(n + 1)[:, None] * counts // n  # (n + 1, n_series)
        low, high = edges[:-1], edges[1:]
        wide = (low - gap).clamp(min=0), torch.minimum(high + gap, counts).where(high > low, 0)
        used = (counts > 0).nonzero().flatten()
        kept = 1 - float((wide[1] - wide[0]).clamp(min=0).sum(1).max()) / len(self)
        if kept < 0.5 and kept < 1 - 1 / min(n, len(used)):
            ours = torch.zeros(n, len(counts), dtype=torch.bool)
            ours[torch.arange(len(used)) % n, used] = True
            low, high = torch.zeros_like(low), counts.where(ours, 0)
            wide = low, high
        first = self._ends - self._counts
        found = [
            (Ranges(first + a, first + b), Ranges(first + c, first + d))
            for a, b, c, d in zip(low, high, *wide, strict=True)
        ]
        return [(inside, near) for inside, near in found if len(inside) and len(near) < len(self)]

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        """Batch of the windows with these numbers ``(B,)``.

        ``x`` and ``y``, with ``x_mask`` and ``y_mask``, ``past``, ``future``, ``weight`` and ``static`` where given,
        and ``place`` where ``placed``.
        """
        series, start = self.rows(index)
        middle, width = self.context, self.context + self.horizon
        window = cut(self.values, start, width)  # (B, context + horizon, C)
        batch = {"x": window[:, :middle], "y": window[:, middle:]}
        if self.mask is not None:
            observed = cut(self.mask, start, width)
            batch |= {"x_mask": observed[:, :middle], "y_mask": observed[:, middle:]}
        if self.past is not None:
            batch["past"] = cut(self.past, start, middle)
        if self.future is not None:
            batch["future"] = cut(self.future, start, width)
        if self.weight is not None:
            weight = cut(self.weight, start + middle, self.horizon)
            batch["weight"] = weight.double().mean((1, 2)).to(self.values.dtype)
        if self.static is not None:
            batch["static"] = self.static[series]
        if self.placed:
            count = self._counts[series]
            batch["place"] = ((index - self._ends[series] + count) / count).to(self.values.dtype)
        return batch


class Ranges:
    """The numbers ``low`` to ``high`` of each series, one after another, without a list of them.

    Args:
        low: the first numbers ``(n_series,)``.
        high: what the numbers stay below ``(n_series,)``.
    """

    def __init__(self, low: Tensor, high: Tensor):
        self.low, self._ends = low, (high - low).clamp(min=0).cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def split(self, size: int, stride: int = 1) -> Iterator[Tensor]:
        """Every ``stride``-th number, ``size`` of them at a time."""
        begin = self.low - F.pad(self._ends, (1, 0))[:-1]
        for first in range(0, len(self), size * stride):
            place = torch.arange(first, min(first + size * stride, len(self)), stride)
            yield begin[torch.searchsorted(self._ends, place, right=True)] + place


def _apart(rows: Tensor) -> Tensor:
    return rows.t().contiguous().t()


def cut(rows: Tensor, start: Tensor, width: int) -> Tensor:
    """``width`` rows of ``rows: (T_total, C)`` from each ``start: (B,)``; ``(B, width, C)``."""
    return rows.unfold(0, width, 1).index_select(0, start).transpose(1, 2)


def _check_fit(
    values: Tensor, indptr: Tensor, targets: Tensor, rows: Mapping[str, Tensor | None], static: Tensor | None
) -> None:
    lengths = indptr.diff()
    if indptr[0] != 0 or indptr[-1] != len(values) or (lengths < 0).any():
        raise ValueError(
            f"indptr must rise from 0 to the {len(values)} rows of values, got {indptr[0]} to {indptr[-1]}"
        )
    if targets.shape != (len(lengths), 2) or (targets[:, 0] < 0).any() or (targets[:, 1] > lengths).any():
        raise ValueError(f"targets must be row ranges inside the {len(lengths)} series, shape ({len(lengths)}, 2)")
    for name, given in rows.items():
        if given is not None and len(given) != len(values):
            raise ValueError(f"{name} has {len(given)} rows, values has {len(values)}; give one row per time step")
    if static is not None and static.shape[:2] != (len(lengths), values.shape[1]):
        raise ValueError(
            f"static has shape {tuple(static.shape)}; give (n_series, C, S) = ({len(lengths)}, {values.shape[1]}, S)"
        )


def _check_room(room: Tensor, width: int, ids: Sequence[str] | None) -> None:
    short = (room < width).nonzero().flatten().tolist()
    if short:
        first = ", ".join(f"{ids[i] if ids else i!r} ({int(room[i])})" for i in short[:3])
        raise DataError(
            f"{len(short)} of {len(room)} series have fewer than context + horizon = {width} rows, first: {first}; "
            "give longer series, a smaller context or horizon, or leave them out with short='drop'"
        )
