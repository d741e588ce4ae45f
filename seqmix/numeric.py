"""Numbers of columns of any objects."""

import math
import sys
from typing import Any

import pandas as pd


def to_numbers(column: pd.Series) -> Any:
    """Numbers of a column, NaN for what is none, infinite for integers that are too large for float64."""
    try:
        return pd.to_numeric(column, errors="coerce")
    except OverflowError:
        return pd.to_numeric(column.map(_limited), errors="coerce")


def _limited(value: object) -> object:
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return math.inf if value > 0 else -math.inf
    return value
