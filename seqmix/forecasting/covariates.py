"""Covariates of a frame as numbers: standardized, or one column for each category, learned when a model is fitted."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.clock import Clock
from seqmix.forecasting.frame import LARGEST_VALUE, Reading
from seqmix.forecasting.given_rows import future_rows
from seqmix.forecasting.long import Long, among_first, named
from seqmix.forecasting.plan import Plan
from seqmix.forecasting.warning import warn
from seqmix.mapped import like, row_blocks
from seqmix.numeric import to_numbers

# number of categories with a column each; more become one column of ranks
_MOST_COLUMNS = 32
# largest standardized number: its square is one in float32 as well
_LARGEST = 1e18


class Code(TypedDict):
    """Encoding of one column, by mean and standard deviation or by categories, in plain values."""

    name: str
    mean: float
    std: float
    categories: list[Any] | None
    shared: bool  # all series have the same values: one input for all where they are channels


@dataclass(frozen=True)
class Inputs:
    """Encoding of covariates as model inputs, fixed by the fit."""

    past: list[Code]
    future: list[Code]
    static: list[Code]
    calendar: bool  # features of the calendar are known-future inputs


def learn_inputs(how: Reading, long: Long, static: pd.DataFrame | None, n_train: np.ndarray, plan: Plan) -> Inputs:
    """Learn the encoding from the first ``n_train`` rows of each series and all static rows."""
    ours = among_first(long, n_train) if len(long.columns.columns) else np.zeros(0, bool)
    past, future = (learn(long.columns[list(names)], ours) for names in (how.past, how.future))
    for code in (*past, *future) if plan.joint else ():
        first, *others = _encoded(long.columns[code["name"]], code, _equal_parts(len(long.y), len(long.ids)))
        code["shared"] = all(np.array_equal(first, each) for each in others)
    return Inputs(
        past=past,
        future=future,
        static=[] if static is None else learn(static, np.ones(len(static), bool)),
        calendar=plan.calendar,
    )


def learn(columns: Any, rows: np.ndarray) -> list[Code]:
    """Learn the encoding: mean and deviation of the training rows, a mask, and categories of all rows."""
    return [_learned(columns[name], rows) for name in columns]


def encode(
    columns: Any, codes: Sequence[Code], ids: pd.Index, *, joint: bool, near: np.ndarray | None = None
) -> np.ndarray | None:
    """Encode columns as float32 inputs ``(T, width)``; None without codes.

    Missing numbers are the mean, missing and unknown categories no category, the latter with a warning. With ``joint``
    the rows of aligned series become those of one: a column that all series shared in the fit is one input, any other
    an input for each series. The inputs are in a mapped file if the array ``near`` is.

    Raises:
        DataError: for text in place of numbers, or a column that is no longer shared.
    """
    if not codes:
        return None
    n = len(ids) if joint else 1
    widths = [_width(code) * (1 if code["shared"] else n) for code in codes]
    # inputs are contiguous one by one, as windows are sliced from each
    found = like(np.zeros(0) if near is None else near, (sum(widths), len(columns) // n), np.float32)
    for code, rows in zip(codes, np.split(found, np.cumsum(widths)[:-1]), strict=True):
        column = columns[code["name"]]
        if joint:
            _encode_channels(rows, column, code, ids)
            continue
        blocks = list(row_blocks(len(column)))
        for cut, values in zip(blocks, _encoded(column, code, blocks), strict=True):
            rows[:, cut] = values.T
    return found.T


def ahead(
    inputs: Inputs,
    how: Reading,
    clock: Clock,
    ids: pd.Index,
    last: np.ndarray,
    horizon: int,
    steps: int,
    future_df: pd.DataFrame | None,
    *,
    joint: bool,
) -> np.ndarray | None:
    """Known-future inputs after the stamps ``last`` of the series ``ids``, ``(N, steps, F)``; None without any.

    ``future_df`` must have ``horizon`` steps; models that see more of them get what it has, or the last row again.

    Raises:
        DataError: if a column, a row or a value of the horizon is missing.
    """
    rows = None
    if inputs.future:
        rows = encode(future_rows(how, clock, ids, last, horizon, steps, future_df), inputs.future, ids, joint=joint)
    if inputs.calendar:
        # the dates of aligned series are those of the first
        stamps = clock.after((last[:1] if joint else last)[:, None], np.arange(1, steps + 1))
        dates = calendar_rows(clock, stamps.ravel())
        rows = dates if rows is None else np.concatenate([rows, dates], 1)
    return None if rows is None else rows.reshape(-1, steps, rows.shape[1])


def calendar_rows(clock: Clock, stamps: np.ndarray) -> np.ndarray:
    """Features of the calendar for each stamp, float32 ``(T, F)``.

    Raises:
        ConfigError: if time is counted in integers, or steps are years.
    """
    # torch loads with this package, and is not needed to check a frame
    from seqmix.data.series.calendar import calendar_features, calendar_names

    names = [] if clock.numbered else calendar_names(clock.span / 3.6e12)
    if not names:
        raise ConfigError(f"calendar=True needs dates less than a year apart, freq is {clock.freq!r}; leave it out")
    index = clock.column(stamps)
    return calendar_features(pd.DatetimeIndex(index), names).T.astype(np.float32)


def _learned(column: pd.Series, rows: np.ndarray) -> Code:
    name, numbers, blocks = str(column.name), as_numbers(column), list(row_blocks(len(column)))
    if numbers is not None:

        def training() -> Iterator[np.ndarray]:
            return (_finite(numbers.iloc[cut], name)[rows[cut]] for cut in blocks)

        count = sum(int((~np.isnan(values)).sum()) for values in training())
        if not count:
            raise DataError(f"column {name!r} holds no value in the training rows; leave it out of the covariates")
        mean = float(sum(np.nansum(values) for values in training()) / count)
        std = math.sqrt(sum(np.nansum((values - mean) ** 2) for values in training()) / count)
        return Code(name=name, mean=mean, std=std if std > 0 else 1.0, categories=None, shared=False)
    values = dict.fromkeys(value for cut in blocks for value in column.iloc[cut].dropna().unique().tolist())
    categories = sorted(values, key=str)
    if not all(isinstance(c, str | bool | int | float) for c in categories):
        raise DataError(
            f"column {name!r} holds {type(categories[0]).__name__}, neither numbers nor categories; convert it first"
        )
    return Code(name=name, mean=0.0, std=1.0, categories=categories, shared=False)


def _width(code: Code) -> int:
    categories = code["categories"]
    return 1 if categories is None or len(categories) > _MOST_COLUMNS else len(categories)


def _equal_parts(total: int, n: int) -> list[slice]:
    return [slice(first, first + total // n) for first in range(0, total, total // n)]


def _encode_channels(found: np.ndarray, column: pd.Series, code: Code, ids: pd.Index) -> None:
    """Write the inputs of series that are channels, ``(width, T)`` for all or for each."""
    width, first = _width(code), np.zeros(0)
    parts = _encoded(column, code, _equal_parts(len(column), len(ids)))
    for i, values in enumerate(parts):
        first = first if i else values
        if not code["shared"] or i == 0:
            found[i * width : (i + 1) * width] = values.T
        elif not np.array_equal(values, first):
            raise DataError(
                f"column {code['name']!r} had the same values for all series when the models were fitted, so that they "
                f"have one input for all, and now {ids[i]!r} differs from {ids[0]!r}; give the same values, or "
                "fit with mode='global'"
            )


def _encoded(column: pd.Series, code: Code, blocks: Sequence[slice]) -> Iterator[np.ndarray]:
    """A column as float64 inputs, ``(rows, width)`` for each of the blocks."""
    if code["categories"] is not None:
        yield from _encoded_categories(column, code["name"], code["categories"], blocks)
        return
    numbers = as_numbers(column)
    if numbers is None:
        first = column.dropna().iloc[0]
        raise DataError(
            f"column {code['name']!r} holds {first!r}, and numbers when the model was fitted; "
            f"convert it with pd.to_numeric(df[{code['name']!r}])"
        )
    for cut in blocks:
        values = _finite(numbers.iloc[cut], code["name"])
        values = np.nan_to_num((values - code["mean"]) / code["std"], nan=0.0)
        row = int(np.abs(values).argmax())
        if abs(values[row]) > _LARGEST:
            raise DataError(
                f"column {code['name']!r} holds {column.iloc[cut].iloc[row]:.3g}, {abs(values[row]):.0e} times its "
                "deviation in the training rows; correct it, or make it NaN for missing"
            )
        yield values[:, None]


def _encoded_categories(
    column: pd.Series, name: str, categories: list[Any], blocks: Sequence[slice]
) -> Iterator[np.ndarray]:
    unknown, count = {}, 0
    for cut in blocks:
        rows: Any = column.iloc[cut]
        at = pd.Index(categories).get_indexer(pd.Index(rows))
        odd = (at < 0) & rows.notna().to_numpy()
        if odd.any():
            unknown |= dict.fromkeys(pd.unique(rows.to_numpy()[odd]).tolist())
            count += int(odd.sum())
        if len(categories) > _MOST_COLUMNS:
            yield np.where(at < 0, 0.0, 2 * (at + 0.5) / len(categories) - 1)[:, None]
        else:
            yield (at[:, None] == np.arange(len(categories))).astype(np.float64)
    if count:
        warn(
            f"column {name!r} holds {named(list(unknown))} in {count} rows, "
            f"which the model was not fitted on; they count as none of {named(categories)}"
        )


def as_numbers(column: pd.Series) -> pd.Series | None:
    """A column of numbers, which may be objects among missing ones; None if it holds categories."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column
    present = column.dropna()
    objects = pd.api.types.is_object_dtype(column.dtype) and len(present)
    if not objects or any(isinstance(value, bool | str) or not isinstance(value, Number) for value in present):
        return None
    numbers = to_numbers(column.where(column.notna(), None))
    return None if numbers.isna().sum() > column.isna().sum() else numbers


def _finite(numbers: pd.Series, name: str) -> np.ndarray:
    values = numbers.to_numpy(dtype="float64", na_value=np.nan)
    if np.isinf(values).any():
        raise DataError(f"column {name!r} holds infinite values; make them numbers, or NaN for missing")
    if (np.abs(values) > LARGEST_VALUE).any():
        raise DataError(f"column {name!r} holds values above {LARGEST_VALUE:g}; divide them by a power of ten")
    return values
