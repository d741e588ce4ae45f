"""Regular time: inferred frequency, steps between time stamps, and future time stamps.

Stamps are int64: nanoseconds for dates, the numbers themselves for integer time. Dates with a time zone count in UTC
for steps below a day, in local time for days and longer, so that a day stays a day when clocks change.
"""

import warnings
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset

from seqmix.errors import ConfigError, DataError

_DAY = 86_400 * 10**9
# aliases that pandas had before version 3, and words, by those that it has
_RENAMED = {
    **{"H": "h", "T": "min", "S": "s", "M": "ME", "BM": "BME", "Q": "QE", "A": "YE", "Y": "YE"},
    **{"hourly": "h", "daily": "D", "weekly": "W", "monthly": "MS", "quarterly": "QS", "yearly": "YS"},
}
# default lookback in steps up to this many nanoseconds long
_LOOKBACKS = (
    (_DAY // 24 - 1, 96),
    (_DAY - 1, 336),
    (7 * _DAY - 1, 28),
    (27 * _DAY, 52),
    (31 * _DAY, 24),
    (92 * _DAY, 16),
    (10**19, 16),
)


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
        if isinstance(freq, np.integer):
            self.freq = freq = int(freq)
        elif isinstance(freq, pd.offsets.BaseOffset | timedelta):
            self.freq = freq = to_offset(freq).freqstr
        if isinstance(freq, int) != self.numbered:
            column, remedy = ("integers", "freq=1") if self.numbered else ("dates", "freq='D'")
            raise ConfigError(f"freq = {freq!r} does not go with a time column of {column}; use for example {remedy}")
        if isinstance(freq, int):
            if freq < 1:
                raise ConfigError(f"freq must be at least 1, got {freq}; use freq=1 for rows that are counted")
            self.step, self.offset = freq, None
            return
        try:
            self.offset: Any = to_offset(freq)
            if self.offset.n < 1:
                raise ValueError(freq)
        except ValueError as e:
            raise ConfigError(f"freq = {freq!r} is not known to pandas; {other_alias(freq)}") from e
        #: nanoseconds of a step, or None where they vary
        self.step = _span(self.offset)

    @property
    def local(self) -> bool:
        """Stamps are local time: days and longer steps."""
        return not self.numbered and (self.step is None or self.step % _DAY == 0)

    @property
    def season(self) -> int:
        """Season in steps: that of the base frequency divided by its multiple, 1 where it does not divide."""
        # torch loads with this package, and is not needed to read a frame
        from seqmix.data.series.calendar import divided_season, season_of_step

        if self.offset is None:
            return 1
        if isinstance(self.offset, pd.offsets.BusinessHour):
            hours: Any = self.offset
            seconds = sum(map(_seconds, hours.end)) - sum(map(_seconds, hours.start))
            return divided_season(seconds // 3600, self.offset.n)
        if isinstance(self.offset, pd.offsets.BusinessDay):
            return divided_season(5, self.offset.n)
        if isinstance(self.offset, pd.offsets.SemiMonthBegin | pd.offsets.SemiMonthEnd):
            return divided_season(24, self.offset.n)
        return season_of_step(self.span)

    @property
    def cycle(self) -> int:
        """Default lookback in steps."""
        if self.offset is None:
            return 16
        if isinstance(self.offset, pd.offsets.BusinessDay):
            return 20
        return next(steps for span, steps in _LOOKBACKS if self.span <= span)

    @property
    def span(self) -> int:
        """Typical length of a step: nanoseconds of dates, the step itself of integer time."""
        return _typical_step(self.offset) if self.step is None else self.step

    def check_zone(self, other: "Clock", name: str) -> None:
        """Refuse a frame called ``name`` whose stamps are in another time zone than those of this clock.

        Raises:
            DataError: if one has no zone, or days begin at other times.
        """
        ours, theirs = (str(clock.zone or "no") for clock in (self, other))
        if ours != theirs and ("no" in (ours, theirs) or self.local):
            way = "tz_convert" if "no" not in (ours, theirs) else "tz_localize"
            raise DataError(
                f"times of {name} have {theirs} time zone, those before {ours}; use "
                f".dt.{way}({'None' if ours == 'no' else repr(ours)})"
            )

    def stamps(self, times: pd.Series) -> np.ndarray:
        """A column of times as int64 stamps ``(T,)``."""
        if self.numbered:
            return times.to_numpy(dtype="int64")
        index = pd.DatetimeIndex(times)
        return _wall(index, self.local).as_unit("ns").asi8

    def steps(self, stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Steps from each stamp to the next ``(T - 1,)``, and whether they are a whole number of steps."""
        if self.step is not None:
            apart, off, unit = np.diff(stamps), np.zeros(len(stamps), bool), self.step
        else:
            # steps of two months count in months, so that series may begin in odd and in even ones
            grid = self._grid(int(stamps.min()), int(stamps.max()), 0)
            at = pd.Index(grid).get_indexer(pd.Index(stamps))
            apart, off, unit = np.diff(at), at < 0, self.offset.n
        return apart // unit, (apart % unit == 0) & ~off[1:] & ~off[:-1]

    def after(self, stamps: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """The stamps ``steps`` steps after ``stamps``; the two are broadcast."""
        if self.step is not None:
            return stamps + steps * self.step
        further = steps * self.offset.n
        grid = self._grid(int(stamps.min()), int(stamps.max()), int(further.max()))
        return grid[np.searchsorted(grid, stamps) + further]

    def column(self, stamps: np.ndarray) -> pd.Index:
        """Stamps as a column of the type that came in."""
        if self.numbered:
            # 255 of eight bits is followed by 256, not by 0
            count = pd.Index(stamps).astype(self.dtype)
            return count if (count == stamps).all() else pd.Index(stamps)
        index = pd.DatetimeIndex(stamps)
        if self.zone is not None and self.local:
            index = index.tz_localize(self.zone, ambiguous=True, nonexistent="shift_forward")
        elif self.zone is not None:
            index = index.tz_localize("UTC").tz_convert(self.zone)
        return index.astype(self.dtype)

    def _grid(self, first: int, last: int, further: int) -> np.ndarray:
        """Stamps of the base frequency from ``first`` to ``last`` and ``further`` steps on."""
        base = self.offset.base
        grid: Any = pd.date_range(pd.Timestamp(first), pd.Timestamp(last), freq=base)
        if further:
            start = grid[-1] if len(grid) else pd.Timestamp(first)
            grid = grid.append(pd.date_range(start, periods=further + 1, freq=base)[1:])
        return grid.as_unit("ns").asi8


def other_alias(freq: str) -> str:
    """Advice on what to write in place of an alias that pandas does not know."""
    name = str(freq).lstrip("0123456789")
    count = str(freq).removesuffix(name)
    known = _RENAMED.get(name, _RENAMED.get(name.lower()))
    return f"did you mean '{count}{known}'?" if known else "use for example 'h', '15min', 'D', 'B', 'W', 'MS'"


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
            step = int(_commonest(steps))
            span: Any = pd.Timedelta(step, unit="ns") if step % _DAY else f"{step // _DAY}D"
            return to_offset(span).freqstr
    freq = "freq=1" if is_number(times.dtype) else "freq='D'"
    raise DataError(f"the frequency cannot be seen in {time_col!r}: no series has two different times; pass {freq}")


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


def _seconds(time: Any) -> int:
    return time.hour * 3600 + time.minute * 60 + time.second


def _typical_step(offset: Any) -> int:
    """Median length of the steps of a calendar offset, in nanoseconds."""
    return int(np.median(np.diff(pd.date_range("2024-01-01", periods=12, freq=offset).as_unit("ns").asi8)))


def shown(time: Any) -> str:
    """A time in a message: the date alone where that is all there is."""
    if not isinstance(time, pd.Timestamp):
        return str(time)
    # strftime and date know the years up to 9999 only
    text = time.tz_localize(None).isoformat(" ", "seconds")
    return text.removesuffix(" 00:00:00" if time == time.normalize() else ":00")


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
