"""Windows of many series of different lengths: scaling by training rows, missing values, covariates."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike

from seqmix.data.loader import Split, WindowLoader
from seqmix.data.series.windows import Ranges, Windows
from seqmix.errors import DataError
from seqmix.mapped import BLOCK, like, row_blocks, series_blocks
from seqmix.series import Series

Short = Literal["pad", "drop", "error"]
Scaler = Literal["season", "standard", "none"]

# largest scaled value: its square is a number in float32 as well
LARGEST = 1e18
_EPS = float(np.finfo(np.float64).eps)


class Numbered:
    """Batches of some of the windows, which can be iterated several times."""

    def __init__(self, windows: Windows, numbers: Ranges, batch_size: int, stride: int = 1):
        self.windows, self.numbers, self.batch_size, self.stride = windows, numbers, batch_size, stride

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return map(self.windows.gather, self.numbers.split(self.batch_size, self.stride))

    @property
    def series(self) -> torch.Tensor:
        """The series that each window is of, ``(n,)``."""
        return torch.cat([self.windows.rows(each)[0] for each in self.numbers.split(self.batch_size, self.stride)])


class Block(NamedTuple):
    """Some of the training windows, and those whose horizons overlap with theirs, themselves among them."""

    inside: Numbered
    near: Numbered


class Panel:
    """Windows of many series, each scaled by its own training rows.

    The last ``n_val`` rows of a series are validation: the horizons of its validation windows lie in them, their
    contexts may reach back. The last ``n_test`` of those are for test windows instead, to calibrate intervals on; where
    that is 0 the windows are both.

    Batches hold ``x`` and ``y`` with 0 for missing values, and what there is of ``x_mask``, ``y_mask``, ``past``,
    ``future``, ``static``, ``weight``. ``loc`` and ``scale``, ``(n_series, C)``, undo scaling.

    Args:
        values: all series one after another, NaN where missing, ``(T, C)``; if they are in a mapped file, scaled values
            and masks are in others.
        indptr: first row of each series, then T; ``(n_series + 1,)``.
        context: lookback length, in rows.
        horizon: forecast length, in rows.
        n_val: validation rows of each series, ``(n_series,)``.
        n_test: how many of them are for test windows, ``(n_series,)``. Default: 0.
        past: inputs known for the context, ``(T, P)``.
        future: inputs known for context and horizon, ``(T, F)``.
        static: inputs that do not change with time, ``(n_series, C, S)``.
        weight: sample weight of each row, ``(T,)``.
        scaler: ``standard`` removes the mean and divides by the deviation, ``season`` divides by the mean absolute
            error of the seasonal naive forecast, so that series weigh as in MASE; ``none`` leaves values as they are.
        season: steps of the season.
        short: what to do about series with too few training rows for a window: ``pad`` puts missing rows before those
            with more rows than the horizon and leaves out the rest, ``drop`` leaves them out, ``error`` refuses them.
        least: with ``pad``, rows of its context that a window needs; there are missing rows before them. Default: all
            of them, and fewer only in series that are shorter.
        ids: names of the series, for messages.
        eval_batch_size: windows per validation batch. Default: that of training.
        max_val: most validation and most test windows that are used, evenly spread.
        seed: starting point of the shuffles.

    Raises:
        DataError: if no series, or with ``error`` not every one, has rows for a training window.
    """

    def __init__(
        self,
        values: np.ndarray,
        indptr: np.ndarray,
        context: int,
        horizon: int,
        batch_size: int,
        *,
        n_val: np.ndarray,
        n_test: np.ndarray | None = None,
        past: np.ndarray | None = None,
        future: np.ndarray | None = None,
        static: np.ndarray | None = None,
        weight: np.ndarray | None = None,
        scaler: Scaler = "standard",
        season: int = 1,
        short: Short = "pad",
        least: int | None = None,
        ids: Sequence[Any] | None = None,
        eval_batch_size: int | None = None,
        max_val: int = 2048,
        seed: int = 0,
    ):
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size or batch_size, seed
        self.context, self.horizon, self.short = context, horizon, short
        self.ids = None if ids is None else [str(i) for i in ids]
        n_past, n_future, n_static = (0 if x is None else x.shape[-1] for x in (past, future, static))
        #: the facts that models are built from
        self.series = Series(
            values.shape[1], context, horizon, n_future=n_future, n_static=n_static, n_past=n_past, season=season
        )
        self.max_val = max_val
        self.n_train = np.diff(indptr) - n_val
        self.loc, self.scale = scaling(values, indptr, self.n_train, scaler, season)
        # channel-major memory, as windows are sliced from channels
        self._values = like(values, values.shape[::-1], np.float32).T
        missing = _scale_into(self._values, values, indptr, self.loc, self.scale, self.ids)
        weight = None if weight is None else _converted(weight, np.float32, np.asarray)
        mask = _converted(values, np.bool_, lambda block: ~np.isnan(block)) if missing else None
        rows = {"past": past, "future": future, "weight": weight, "mask": mask}
        self._rows = {name: x for name, x in rows.items() if x is not None}
        self._static, self._indptr, self._n_val = static, indptr, n_val
        self._n_test = np.zeros_like(n_val) if n_test is None else n_test
        if short == "pad":
            self._pad(context if least is None else least)

    @property
    def n_windows(self) -> int:
        """Training windows."""
        return len(self.splits["train"])

    @property
    def has_val(self) -> bool:
        """There are validation windows."""
        return "val" in self.splits

    def loader(self, split: Split) -> WindowLoader:
        """Batches of a split, those of training in an order that depends on the seed."""
        train = split == "train"
        size = self.batch_size if train else self.eval_batch_size
        return WindowLoader(self.splits[split], size, shuffle=train, seed=self.seed)

    def blocks(self, n: int = 10) -> list[Block]:
        """Training windows in ``n`` blocks of time, or of series that are short; ``max_val`` of them at most, in all.

        Empty where all windows overlap.
        """
        windows = self.splits["train"]
        stride = max(1, len(windows) // self.max_val)
        return [
            Block(
                Numbered(windows, inside, self.eval_batch_size, stride), Numbered(windows, near, self.eval_batch_size)
            )
            for inside, near in windows.blocks(n, self.horizon)
        ]

    @cached_property
    def splits(self) -> dict[Split, Windows]:
        """The windows of each split that has some, indexed when they are first asked for."""
        lengths = np.diff(self._indptr)
        borders = lengths - self._n_val
        splits: dict[Split, Windows] = {
            "train": self._windows(
                np.stack([np.zeros_like(lengths), borders], 1), 1, "error" if self.short == "error" else "drop"
            )
        }
        middle = lengths - self._n_test
        held: dict[Split, tuple[np.ndarray, np.ndarray]] = {
            "val": (borders, middle),
            "test": (np.where(self._n_test > 0, middle, borders), lengths),
        }
        for split, (first, last) in held.items():
            rooms = np.where(borders >= self.context, last - first - self.horizon + 1, 0).clip(min=0)
            if rooms.any():
                stride = int(max(1, -(-rooms.sum() // self.max_val)))
                splits[split] = self._windows(np.stack([first, last], 1), stride, "drop", placed=split == "val")
        return splits

    def _windows(
        self, targets: np.ndarray, stride: int, short: Literal["error", "drop"], *, placed: bool = False
    ) -> Windows:
        rows = {name: torch.from_numpy(x) for name, x in self._rows.items()}
        return Windows(
            torch.from_numpy(self._values),
            torch.from_numpy(self._indptr),
            self.context,
            self.horizon,
            stride=stride,
            targets=torch.from_numpy(targets),
            mask=rows.get("mask"),
            past=rows.get("past"),
            future=rows.get("future"),
            weight=rows.get("weight"),
            static=None if self._static is None else torch.from_numpy(self._static),
            ids=self.ids,
            short=short,
            placed=placed,
        )

    def _pad(self, least: int) -> None:
        """Put missing rows before series with more rows than the horizon: windows of ``least`` rows, and one of all."""
        lengths = np.diff(self._indptr)
        borders, width = lengths - self._n_val, self.context + self.horizon
        pads = np.where(borders > self.horizon, np.maximum(self.context - least, width - borders), 0)
        if not pads.any():
            return
        if "mask" not in self._rows:
            self._rows["mask"] = _converted(self._values, np.bool_, lambda block: np.ones(block.shape, bool))
        self._values = _padded(self._values, self._indptr, pads)
        self._rows = {name: _padded(x, self._indptr, pads) for name, x in self._rows.items()}
        self._indptr = np.r_[0, np.cumsum(lengths + pads)]


def scaling(
    values: np.ndarray,
    indptr: np.ndarray,
    n_train: np.ndarray,
    scaler: Scaler,
    season: int,
    *,
    typical: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Offset and divisor of each series, each ``(n_series, C)``; see ``Panel``.

    A series that does not vary is divided by its level, one that is zero by ``typical``, the scale of other series.
    Default of that: the median over those that vary.
    """
    if scaler == "none":
        shape = len(indptr) - 1, values.shape[1]
        return np.zeros(shape), np.ones(shape)
    loc, scale = moments(values, indptr, n_train)
    varies = ~np.isnan(scale)
    if scaler == "season":
        error = season_error(values, indptr, n_train, season)
        # a nearly periodic series would outweigh all others
        scale = np.fmax(error, np.where(np.isnan(error), 1, 0.01) * scale)
    if typical is None:
        typical = float(np.median(scale[varies])) if varies.any() else 1.0
    level = np.where(loc == 0, typical, np.abs(loc))
    return loc, np.where(varies, scale, np.maximum(level, np.finfo(np.float64).tiny))


def moments(values: np.ndarray, indptr: np.ndarray, n_train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population deviation of the first ``n_train`` rows of each series, each ``(n_series, C)``.

    Missing values do not count. Where nothing is observed the mean is 0; where nothing varies the deviation is NaN.
    """
    n, C = len(indptr) - 1, values.shape[1]
    loc, deviation = np.zeros((n, C)), np.full((n, C), np.nan)
    for a, b in series_blocks(indptr):
        block, starts, series, ours = _training_rows(values, indptr, n_train, a, b)
        count = np.add.reduceat(ours, starts, dtype=np.float64).clip(min=1)
        low, span = _range(block, ours, starts)
        # scaled by the range: sums of values near 2^53 lose all digits, squares of 1e-300 are zero
        part = np.where(ours, block - low[series], 0.0) / np.where(span > 0, span, 1.0)[series]
        mean = np.add.reduceat(part, starts) / count
        loc[a:b] = low + span * mean
        apart = np.where(ours, part - mean[series], 0.0)
        found = span * np.sqrt(np.add.reduceat(apart**2, starts) / count)
        # the deviation of the smallest numbers is rounded to 0
        deviation[a:b] = np.where(found > 0, found, np.nan)
    return loc, deviation


def season_error(
    values: np.ndarray, indptr: np.ndarray, n_train: np.ndarray, season: int, *, squared: bool = False
) -> np.ndarray:
    """Mean absolute error of the seasonal naive forecast over the first ``n_train`` rows of each series.

    ``(n_series, C)``; NaN where there is none to tell, or the cycle is perfect.
    """
    found = np.full((len(indptr) - 1, values.shape[1]), np.nan)
    for a, b in series_blocks(indptr):
        block, starts, series, rows = _training_rows(values, indptr, n_train, a, b)
        low, span = _range(block, rows, starts)
        error = np.abs(block - np.roll(block, season, 0))
        ours = rows & (np.arange(len(block)) - starts[series] >= season)[:, None] & ~np.isnan(error)
        count = np.add.reduceat(ours, starts, dtype=np.float64).clip(min=1)
        unit = np.where(span > 0, span, 1.0)
        part = np.where(ours, error, 0.0) / unit[series]
        mean = np.add.reduceat(part, starts) / count
        # a perfect cycle leaves rounding errors, which are no unit: those of a sine, and those of its level
        least = np.maximum(1e-9, _EPS * np.maximum(np.abs(low), np.abs(low + span)) / unit)
        size = np.sqrt(np.add.reduceat(part**2, starts) / count) if squared else mean
        error = unit * size
        found[a:b] = np.where((mean > least) & (span > 0) & (error > 0), error, np.nan)
    return found


def last_rows(rows: np.ndarray, begin: np.ndarray, end: np.ndarray, width: int) -> np.ndarray:
    """The ``width`` rows before each row ``end: (N,)``, ``(N, width, C)``; NaN before row ``begin: (N,)``."""
    found = like(rows, (len(end), width, *rows.shape[1:]), rows.dtype)
    # the indices of all windows would be larger than the windows
    size = max(1, BLOCK // width)
    for cut in (slice(a, a + size) for a in range(0, len(end), size)):
        at = end[cut, None] - np.arange(width, 0, -1)  # (n, width)
        inside = at >= begin[cut, None]
        found[cut] = rows[np.where(inside, at, 0)]
        found[cut][~inside] = np.nan
    return found


def _training_rows(
    values: np.ndarray, indptr: np.ndarray, n_train: np.ndarray, a: int, b: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The rows of the series from ``a`` to ``b``: values, where each begins, whose they are, which of them count."""
    starts, lengths = indptr[a:b] - indptr[a], np.diff(indptr[a : b + 1])
    series = np.repeat(np.arange(b - a), lengths)
    block = values[indptr[a] : indptr[b]].astype(np.float64)
    ours = (np.arange(len(block)) - starts[series] < n_train[a:b][series])[:, None] & ~np.isnan(block)
    return block, starts, series, ours


def _range(block: np.ndarray, ours: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest value and range of each series; a range that is only rounding is 0."""
    low = np.minimum.reduceat(np.where(ours, block, np.inf), starts)
    high = np.maximum.reduceat(np.where(ours, block, -np.inf), starts)
    low, high = (np.where(low > high, 0.0, side) for side in (low, high))
    rounding = _EPS * np.maximum(np.abs(low), np.abs(high))
    return low, np.where(high - low > rounding, high - low, 0.0)


def _scale_into(
    out: np.ndarray,
    values: np.ndarray,
    indptr: np.ndarray,
    loc: np.ndarray,
    scale: np.ndarray,
    ids: Sequence[str] | None,
) -> bool:
    """Write the scaled values, 0 where missing; say whether any was."""
    missing = False
    for a, b in series_blocks(indptr):
        series = np.repeat(np.arange(a, b), np.diff(indptr[a : b + 1]))
        # infinite values are larger than the largest as well
        with np.errstate(over="ignore"):
            block = (values[indptr[a] : indptr[b]] - loc[series]) / scale[series]
        absent = np.isnan(block)
        if absent.any():
            missing, block[absent] = True, 0.0
        row, channel = np.unravel_index(np.abs(block).argmax(), block.shape)
        if abs(block[row, channel]) > LARGEST:
            name = series[row] if ids is None else ids[series[row]]
            raise DataError(
                f"series {name!r} holds {values[indptr[a] + row, channel]:.3g}, {abs(block[row, channel]):.0e} times "
                "what its values are divided by; correct it, make it missing (NaN), or use another scaler"
            )
        out[indptr[a] : indptr[b]] = block
    return missing


def _converted(rows: np.ndarray, dtype: DTypeLike, convert: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """An array of the same shape, made block by block."""
    found = like(rows, rows.shape[::-1], dtype).T
    for block in row_blocks(len(rows)):
        found[block] = convert(rows[block])
    return found


def _padded(rows: np.ndarray, indptr: np.ndarray, pads: np.ndarray) -> np.ndarray:
    """Rows of series with zeros put before each."""
    shifts = np.cumsum(pads)
    wide = like(rows, (*rows.shape[:0:-1], len(rows) + int(shifts[-1])), rows.dtype).T
    for a, b in series_blocks(indptr):
        block = np.arange(indptr[a], indptr[b])
        wide[block + np.repeat(shifts[a:b], np.diff(indptr[a : b + 1]))] = rows[indptr[a] : indptr[b]]
    return wide
