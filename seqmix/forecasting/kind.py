"""Library and column types of a frame, so that results have those of the input."""

import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from seqmix.errors import DataError

LIBRARIES = ("pandas", "polars", "pyarrow")


class Kind(NamedTuple):
    """Library and column types of a frame in plain values, to be saved."""

    library: str  # one of LIBRARIES
    types: dict[str, str]  # of ids and times, where pandas does not keep them

    def give(self, result: pd.DataFrame) -> Any:
        """``result`` as a frame of this kind; a cutoff is a time."""
        types = {name: self.types[name] for name in result if name in self.types}
        if self.library == "pandas":
            return result.astype(types)
        import narwhals

        frame = narwhals.from_native(result, eager_only=True)
        native = frame.to_polars() if self.library == "polars" else frame.to_arrow()
        casts = [narwhals.col(name).cast(_narwhals_type(text)) for name, text in types.items()]
        return narwhals.from_native(native, eager_only=True).with_columns(*casts).to_native()


def kind_of(df: Any, id_col: str, time_col: str) -> Kind:
    """The kind of a frame; a folder is of the kind of pandas."""
    if isinstance(df, str | Path):
        return Kind("pandas", {})
    names = {id_col: id_col, time_col: time_col, "cutoff": time_col}
    if isinstance(df, pd.DataFrame):
        # categories are stored as text, and nullable integers are not what pandas makes of ids
        return Kind("pandas", {id_col: "category"} if id_col in df and df[id_col].dtype == "category" else {})
    import narwhals as nw

    frame = nw.from_native(df, eager_only=True)
    library = (
        "polars" if frame.implementation.is_polars() else "pyarrow" if frame.implementation.is_pyarrow() else "pandas"
    )
    types = {name: frame.schema[of] for name, of in names.items() if of in frame.columns}
    # categories of times do not hold those of a forecast
    lost = [name for name in types if name != id_col and isinstance(types[name], nw.Categorical | nw.Enum)]
    return Kind(library, {name: str(types[name]) for name in types if name not in lost})


def is_dataset(df: Any) -> bool:
    """Whether ``df`` is a Ray Dataset; Ray is not imported to find out."""
    data = sys.modules.get("ray.data")
    return data is not None and isinstance(df, data.Dataset)


def to_pandas(df: Any) -> pd.DataFrame:
    """The frame as pandas: itself if it is one, converted by narwhals otherwise.

    Raises:
        DataError: if it is not a frame.
    """
    if isinstance(df, pd.DataFrame):
        return df
    if isinstance(df, pd.Series):
        raise DataError(
            "df is a Series; make a DataFrame of it, for example df.rename('y').rename_axis('ds').reset_index()"
        )
    import narwhals

    try:
        return narwhals.from_native(df, eager_only=True).to_pandas()
    except TypeError as e:
        remedy = "use df.collect()" if hasattr(df, "collect") else "use pd.DataFrame(...)"
        remedy = "use df.write_parquet(folder), and the folder" if is_dataset(df) else remedy
        raise DataError(
            f"df should be a DataFrame of pandas or polars, or the path of a parquet folder, got {type(df).__name__}; "
            + remedy
        ) from e


def maybe_pandas(df: Any) -> pd.DataFrame | None:
    """The frame as pandas, or None where there is none."""
    return None if df is None else to_pandas(df)


def with_index(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The frame with the levels of its index that are asked for as columns."""
    levels = [name for name in frame.index.names if name is not None and name in names and name not in frame]
    return frame.reset_index(level=levels) if levels else frame


def dtype_name(dtype: Any) -> str:
    """A type of pandas as text; types of Arrow are told apart from those of pandas that are named like them."""
    return f"arrow:{dtype.pyarrow_dtype}" if isinstance(dtype, pd.ArrowDtype) else str(dtype)


def dtype_of(name: str) -> Any:
    """The type of pandas that ``dtype_name`` wrote."""
    if not name.startswith("arrow:"):
        return pd.api.types.pandas_dtype(name)
    import pyarrow

    zoned = re.fullmatch(r"arrow:timestamp\[(\w+), tz=(.+)\]", name)
    found = pyarrow.timestamp(*zoned.groups()) if zoned else pyarrow.type_for_alias(name.removeprefix("arrow:"))
    return pd.ArrowDtype(found)


def _narwhals_type(text: str) -> Any:
    """The type that is written as ``Date`` or ``Datetime(time_unit='us', time_zone=None)``."""
    import narwhals

    tree: Any = ast.parse(text, mode="eval").body
    call: Any = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
    return getattr(narwhals, call.func.id)(**{str(o.arg): ast.literal_eval(o.value) for o in call.keywords})


def names_of(value: str | Sequence[str] | pd.Index) -> list[str]:
    """Names of columns given as a list, an index, or one name."""
    return [value] if isinstance(value, str) else list(value)
