"""Covariates of a frame as numbers: standardized, or one column for each category, learned when a model is fitted."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from seqmix.errors import DataError

# categories that get a column each; more become one column of ranks
_MOST_COLUMNS = 32


class Code(TypedDict):
    """How one column becomes numbers: by mean and deviation, or by its categories; plain values, to be saved."""

    name: str
    mean: float
    std: float
    categories: list[Any] | None


def learn(columns: Any, rows: np.ndarray) -> list[Code]:
    """How the columns become numbers, seen from ``rows`` of them, a mask of the training rows."""
    return [_learned(columns[name][rows]) for name in columns]


def encode(columns: Any, codes: Sequence[Code]) -> np.ndarray:
    """The columns as float32 ``(T, width)``: missing numbers are the mean, missing categories no category.

    Raises:
        DataError: for a category that was not there when the model was fitted.
    """
    parts = [_encoded(columns[code["name"]], code) for code in codes]
    return np.concatenate(parts, 1, dtype=np.float32) if parts else np.zeros((len(columns), 0), np.float32)


def _learned(column: pd.Series) -> Code:
    name = str(column.name)
    if pd.api.types.is_numeric_dtype(column.dtype):
        values = column.to_numpy(dtype="float64", na_value=np.nan)
        if np.isinf(values).any():
            raise DataError(f"column {name!r} holds infinite values; make them numbers, or NaN for missing")
        if np.isnan(values).all():
            raise DataError(f"column {name!r} holds no value in the training rows; leave it out of the covariates")
        std = float(np.nanstd(values))
        return Code(name=name, mean=float(np.nanmean(values)), std=std if std > 0 else 1.0, categories=None)
    categories = sorted(column.dropna().unique().tolist(), key=str)
    if not all(isinstance(c, str | bool | int | float) for c in categories):
        raise DataError(
            f"column {name!r} holds {type(categories[0]).__name__}, neither numbers nor categories; convert it first"
        )
    return Code(name=name, mean=0.0, std=1.0, categories=categories)


def _encoded(column: pd.Series, code: Code) -> np.ndarray:
    categories = code["categories"]
    if categories is None:
        values = (column.to_numpy(dtype="float64", na_value=np.nan) - code["mean"]) / code["std"]
        return np.nan_to_num(values, nan=0.0)[:, None]
    at = pd.Index(categories).get_indexer(pd.Index(column))
    unknown = (at < 0) & column.notna().to_numpy()
    if unknown.any():
        raise DataError(
            f"column {code['name']!r} holds {column.iloc[int(unknown.argmax())]!r}, which was not there when the model "
            f"was fitted; it knew {categories[:5]}. Fit again with this category, or replace it"
        )
    if len(categories) > _MOST_COLUMNS:
        return np.where(at < 0, 0.0, 2 * (at + 0.5) / len(categories) - 1)[:, None]
    return (at[:, None] == np.arange(len(categories))).astype(np.float64)
