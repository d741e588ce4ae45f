"""Regular time: inferring a frequency, counting steps between time stamps, and the stamps after the last one.

Stamps are int64: nanoseconds for dates, the numbers themselves for integer time. Dates with a time zone count in UTC
for steps below a day, in local time for days and longer, so that a day stays a day when clocks change.
"""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset

from seqmix.errors import ConfigError, DataError

_DAY = 86_400 * 10**9
# natural season and default look-back of a step up to this many nanoseconds, both in steps
_HABITS = {
    "minutes": (_DAY // 24 - 1, None, 96),
    "hours": (_DAY - 1, 24, 336),
    "days": (7 * _DAY - 1, 7, 28),
    "weeks": (27 * _DAY, 52, 52),
    "months": (31 * _DAY, 12, 24),
    "quarters": (92 * _DAY, 4, 16),
    "years": (10**19, 1, 16),
}


class Clock:
    """The time steps of a panel: integers apart by a fixed number, dates apart by a fixed span, or calendar dates.

    Args:
        freq: an integer step, or an alias of pandas such as ``h``, ``15min``, ``MS``, ``B``.
        dtype: type of the time column, given back by ``column``.

    Raises:
        ConfigError: if pandas does not know ``freq``, or it does not go with the type of the column.
    """

    def __init__(self, freq: str | int, dtype: Any):
        self.freq, self.dtype = freq, dtype
        self.zone = getattr(dtype, "tz", None) or getattr(getattr(dtype, "pyarrow_dtype", None), "tz", None)
        self.numbered = is_number(dtype)
        if isinstance(freq, int) != self.numbered:
            column, remedy = ("integers", "freq=1") if self.numbered else ("dates", "freq='D'")
            raise ConfigError(f"freq = {freq!r} does not go with a time column of {column}; use for example {remedy}")
        if isinstance(freq, int):
            if freq < 1:
                raise ConfigError(f"freq must be at least 1, got {freq}; use freq=1 for rows that are counted")
            self.step, self.offset = freq, None
            return
        try:
            self.offset = to_offset(freq)
        except ValueError as e:
            raise ConfigError(
                f"freq = {freq!r} is not known to pandas; use for example 'h', '15min', 'D', 'B', 'W', 'MS'"
            ) from e
        #: nanoseconds of a step, or None where they vary
        self.step = _span(self.offset)

    @property
    def local(self) -> bool:
        """Stamps are local time: days and longer steps."""
        return not self.numbered and (self.step is None or self.step % _DAY == 0)

    @property
    def season(self) -> int:
        """Natural season in steps, 1 where none is known."""
        if self.numbered:
            return 1
        if str(self.freq) in ("B", "C"):
            return 5
        if _DAY < self.span < 7 * _DAY:
            return 1
        season = _habit(self.span)[1]
        return season or int(min(_DAY // self.span, 1440))

    @property
    def cycle(self) -> int:
        """Default look-back, in steps."""
        return 16 if self.numbered else 20 if str(self.freq) in ("B", "C") else _habit(self.span)[2]

    @property
    def span(self) -> int:
        """Typical length of a step, in nanoseconds; 1 for integer time."""
        if self.numbered or self.step is not None:
            return 1 if self.numbered else int(self.step or 1)
        grid = pd.date_range("2024-01-01", periods=12, freq=self.offset).as_unit("ns").asi8
        return int(np.median(np.diff(grid)))

    def stamps(self, times: pd.Series) -> np.ndarray:
        """A column of times as int64 stamps ``(T,)``."""
        if self.numbered:
            return times.to_numpy(dtype="int64")
        index = pd.DatetimeIndex(times)
        return _wall(index, self.local).as_unit("ns").asi8

    def ordinals(self, stamps: np.ndarray) -> np.ndarray:
        """Number of the step that each stamp is at, -1 where it is between two: only differences mean something."""
        if self.step is not None:
            return stamps // self.step
        grid = self._grid(int(stamps.min()), int(stamps.max()), 0)
        return pd.Index(grid).get_indexer(pd.Index(stamps))

    def after(self, stamps: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """The stamps so many steps after others; the two are broadcast."""
        if self.step is not None:
            return stamps + steps * self.step
        grid = self._grid(int(stamps.min()), int(stamps.max()), int(steps.max()))
        return grid[np.searchsorted(grid, stamps) + steps]

    def column(self, stamps: np.ndarray) -> pd.Index:
        """Stamps as a column of the type that came in."""
        if self.numbered:
            return pd.Index(stamps).astype(self.dtype)
        index = pd.DatetimeIndex(stamps)
        if self.zone is not None and self.local:
            index = index.tz_localize(self.zone, ambiguous=True, nonexistent="shift_forward")
        elif self.zone is not None:
            index = index.tz_localize("UTC").tz_convert(self.zone)
        return index.astype(self.dtype)

    def _grid(self, first: int, last: int, further: int) -> np.ndarray:
        grid: Any = pd.date_range(pd.Timestamp(first), pd.Timestamp(last), freq=self.offset)
        if further:
            start = grid[-1] if len(grid) else pd.Timestamp(first)
            grid = grid.append(pd.date_range(start, periods=further + 1, freq=self.offset)[1:])
        return grid.as_unit("ns").asi8


def is_number(dtype: Any) -> bool:
    """Whether a column of this type counts time in integers."""
    return pd.api.types.is_integer_dtype(dtype)


def infer_freq(times: pd.Series, starts: np.ndarray, time_col: str) -> str | int:
    """The frequency of sorted times of series that begin at the rows ``starts`` (with the total at the end).

    Pieces of the longest series vote, so that gaps do not matter; where pandas sees no rule the commonest step decides.

    Raises:
        DataError: if no series has two different times.
    """
    longest = np.argsort(-np.diff(starts), kind="stable")[:5]
    pieces = [times.iloc[starts[i] : min(starts[i + 1], starts[i] + 2000)] for i in longest]
    if is_number(times.dtype):
        steps = np.concatenate([np.diff(piece.to_numpy(dtype="int64")) for piece in pieces])
        steps = steps[steps > 0]
        if len(steps):
            return int(_commonest(steps))
    else:
        indices: list[Any] = [pd.DatetimeIndex(piece).unique() for piece in pieces]
        indices = [index.tz_localize(None) if index.tz is not None else index for index in indices]
        votes = [_inferred(index[k : k + 24]) for index in indices for k in range(0, len(index) - 2, 24)[:8]]
        found = [vote for vote in votes if vote]
        if found:
            return max(found, key=found.count)
        steps = np.concatenate([np.diff(index.as_unit("ns").asi8) for index in indices])
        if len(steps):
            span: Any = pd.Timedelta(int(_commonest(steps)), unit="ns")
            return to_offset(span).freqstr
    raise DataError(f"the frequency cannot be seen in {time_col!r}: no series has two different times; pass freq='D'")


def _inferred(index: pd.DatetimeIndex) -> str:
    with warnings.catch_warnings():
        # pandas 3.1 announces that it will return an offset, which is what it is turned into here
        warnings.simplefilter("ignore")
        found: Any = pd.infer_freq(index)
    return to_offset(found).freqstr if found is not None else ""


def duration(nanoseconds: float) -> str:
    """A span of time in words: ``1 day``, ``15 min``."""
    for name, unit in (("day", _DAY), ("hour", _DAY // 24), ("min", 60 * 10**9), ("s", 10**9)):
        if nanoseconds >= unit:
            count = round(nanoseconds / unit, 2)
            return f"{count:g} {name}{'s' if count != 1 and name in ('day', 'hour') else ''}"
    return f"{nanoseconds / 1e9:g} s"


def _habit(span: int) -> tuple[int, int | None, int]:
    return next(habit for habit in _HABITS.values() if span <= habit[0])


def _commonest(steps: np.ndarray) -> int:
    values, counts = np.unique(steps, return_counts=True)
    return values[counts.argmax()]


def _span(offset: Any) -> int | None:
    """Nanoseconds of an offset of fixed length, those of days and weeks included."""
    if isinstance(offset, pd.offsets.Day):
        return offset.n * _DAY
    if isinstance(offset, pd.offsets.Week):
        return offset.n * 7 * _DAY
    return offset.nanos if isinstance(offset, pd.offsets.Tick) else None


def _wall(index: pd.DatetimeIndex, local: bool) -> pd.DatetimeIndex:
    if index.tz is None:
        return index
    return index.tz_localize(None) if local else index.tz_convert("UTC").tz_localize(None)
