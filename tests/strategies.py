"""What the fuzz tests draw: frames, tables as text, ``.ts`` files, configs, damaged files, calls of ops and mixers.

A property holds for whatever is drawn: a documented result, or an error of seqmix. ``fuzz`` makes a test of it with a
small budget, the same draws every time, and one with a large budget in ``-m slow``, other draws every time. What a
large budget finds becomes an ``example`` of the property.
"""

import warnings
from collections.abc import Callable
from contextlib import contextmanager
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars
import pytest
from hypothesis import HealthCheck, configuration, example, given, settings
from hypothesis import strategies as st

# what seqmix says of data that it can use
_SAID = "|".join(
    (
        r"\d+ of \d+ series (have fewer|are too short|ha(s|ve) no value in the last)",
        "(mase|rmsse|mape|wape|msis) leaves out",
        "values of .* are far from those of the fit",
        "horizon .* is longer than the fitted",
        "column .* holds .* which the model was not fitted on",
        "the models see .* steps of known-future columns",
    )
)


def fuzz(small: int, large: int, *examples: dict[str, Any], **drawn: st.SearchStrategy) -> Callable:
    """Make a test of a property: ``small`` draws that are always the same, and ``large`` others in ``-m slow``."""

    def decorate(holds: Callable[..., None]) -> Callable:
        @pytest.mark.parametrize("budget", [small, pytest.param(large, marks=pytest.mark.slow)])
        def test(budget, tmp_path_factory):
            configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))

            def quiet(**values):
                with only_what_seqmix_says():
                    holds(**values)

            check = given(**drawn)(quiet)
            for values in examples:
                check = example(**values)(check)
            settings(
                max_examples=budget,
                derandomize=budget == small,
                database=None,
                deadline=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            )(check)()

        test.__doc__, test.holds, test.drawn = holds.__doc__, holds, drawn
        return test

    return decorate


@contextmanager
def only_what_seqmix_says():
    """Make every warning an error but those of seqmix."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=_SAID, category=UserWarning)
        # lightning 2.6 on torch 2.13, in every fit
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        yield


def one_of(*values: Any) -> st.SearchStrategy:
    return st.sampled_from(values)


# ---- frames


_NUMBERS = one_of(0.0, 1.0, -1.0, 3.5, np.nan, 1e-300, 5e-324, 1e15, 2.0**53, 1e100, -1e149)
_WRONG = one_of(np.inf, -np.inf, 1e300, None, "4.2", "x", "", True, Decimal("1.5"), 1 + 2j, [1], b"1")
_STARTS = one_of("2024-01-01", "2024-02-29", "1970-01-01", "1677-10-01", "2261-01-01", "0001-01-01", "9999-12-01")
_STEPS = one_of("D", "h", "MS", "ME", "W", "15min", "s", "YS", "B", "QE", "2D", "ns")
_IDS = one_of(
    *("abc", (0, 1, 2), (-1.5, 0.0, 2.0), (True, False, 2), ("", " ", "é\U0001f600"), (None, "b", "c"), ("1", 1, 2)),
    *(
        (np.nan, 1.0, 2.0),
        (("a", 1), ("b", 2), ("c", 3)),
        (pd.Timestamp("2024-01-01"), pd.Timestamp("2025-01-01"), pd.NaT),
    ),
)


@st.composite
def frames(draw: Callable) -> Any:
    """A long frame of up to three series: mostly daily floats, now and then anything that a column may hold."""
    n, odd = draw(st.integers(1, 3)), draw(st.integers(0, 3)) == 0
    lengths = [draw(one_of(0, 1, 2, 3, 8, 20)) for _ in range(n)]
    ids = draw(_IDS) if odd else ["a", "b", "c"]
    parts = []
    for k, length in enumerate(lengths):
        parts.append({"unique_id": [ids[k]] * length, "ds": _times(draw, length, odd), "y": _values(draw, length)})
    columns = {name: [v for part in parts for v in part[name]] for name in ("unique_id", "ds", "y")}
    changes = [draw(one_of(*_CHANGES)) for _ in range(draw(st.integers(0, 2 if odd else 1)))]
    library = draw(one_of(*[_same] * 3, _to_polars, _to_arrow, _to_polars))
    with warnings.catch_warnings():
        # pandas has a word to say on some of these
        warnings.simplefilter("ignore")
        frame = pd.DataFrame({name: _column(values) for name, values in columns.items()})
        for change in changes:
            frame = change(frame, draw)
        return library(frame)


def _times(draw: Callable, length: int, odd: bool) -> list[Any]:
    kind = draw(st.integers(0, 5)) if odd else draw(st.integers(0, 1))
    if kind == 1:
        first, step = draw(one_of(0, 1, -5, 2**40, 2**62)), draw(one_of(1, 1, 2, 7, 0))
        return [first + step * i for i in range(length)]
    start, step = (draw(_STARTS), draw(_STEPS)) if odd else ("2024-01-01", draw(one_of("D", "h", "MS")))
    unit = "us" if step == "ns" else draw(one_of("s", "ms", "us"))
    try:
        times = list(pd.date_range(start, periods=length, freq="us" if step == "ns" else step, unit=unit))
        if kind == 2:
            return [t.tz_localize("Europe/Berlin", ambiguous=True, nonexistent="shift_forward") for t in times]
        if kind == 4:
            return [t.to_pydatetime().date() for t in times]
    # dates beyond what pandas or Python can count; pandas has no shift of time zones there
    except (ValueError, OverflowError, NotImplementedError):
        return list(pd.date_range("2024-01-01", periods=length))
    return [str(t) for t in times] if kind == 3 else [1.5 * i for i in range(length)] if kind == 5 else times


def _values(draw: Callable, length: int) -> list[Any]:
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return [draw(_NUMBERS) for _ in range(length)]
    scale = draw(one_of(1.0, 1.0, 1e-300, 1e9, 1e100, 0.0, 2.0**53))
    if kind == 1:
        return [scale] * length
    if kind == 2:
        return [int(3 * np.sin(i) + 5) for i in range(length)]
    wave = [scale * (10 + 3 * np.sin(2 * np.pi * i / 7) + i % 3) for i in range(length)]
    if kind == 3:
        missing = draw(st.integers(0, 2**20))
        wave = [np.nan if missing >> i & 1 else v for i, v in enumerate(wave)]
    if kind == 4 and length:
        wave[draw(st.integers(0, length - 1))] = draw(_WRONG)
    return wave


def _column(values: list[Any]) -> Any:
    """A column of these values, as pandas makes it, or of objects where it makes none."""
    try:
        return pd.Series(values)
    except (ValueError, TypeError, OverflowError):
        return pd.Series(np.fromiter(values, dtype=object, count=len(values)))


def _same(frame: pd.DataFrame, *_: Any) -> pd.DataFrame:
    return frame


def _drop_rows(frame: pd.DataFrame, draw: Callable) -> pd.DataFrame:
    kept = draw(st.integers(0, 2**30))
    return frame[[bool(kept >> (i % 30) & 1) for i in range(len(frame))]]


def _double_rows(frame: pd.DataFrame, draw: Callable) -> pd.DataFrame:
    return pd.concat([frame, frame.iloc[: draw(st.integers(1, 3))]])


def _shuffle(frame: pd.DataFrame, draw: Callable) -> pd.DataFrame:
    return frame.sample(frac=1, random_state=draw(st.integers(0, 9)))


def _without_ids(frame: pd.DataFrame, draw: Callable) -> pd.DataFrame:
    return frame.drop(columns=draw(one_of("unique_id", "unique_id", "ds", "y")), errors="ignore")


def _cast(frame: pd.DataFrame, draw: Callable) -> pd.DataFrame:
    kinds = ("category", "string", "object", "float32", "Int64", "bool", "float16", "str", "int8", "timedelta64[ns]")
    name, kind = draw(one_of("unique_id", "ds", "y")), draw(one_of(*kinds))
    try:
        return frame.astype({name: kind}) if name in frame else frame
    except (TypeError, ValueError, OverflowError):
        return frame


def _indexed(frame: pd.DataFrame, draw: Callable) -> pd.DataFrame:
    names = [name for name in draw(one_of(("unique_id",), ("ds",), ("unique_id", "ds"))) if name in frame]
    return frame.set_index(names) if names else frame


def _more_columns(frame: pd.DataFrame, draw: Callable) -> pd.DataFrame:
    more = draw(one_of("cutoff", "index", "", "y", 0, "ds", "Ridge", "unique_id"))
    return pd.concat([frame, pd.DataFrame({more: range(len(frame))}, index=frame.index)], axis=1)


def _with_nat(frame: pd.DataFrame, draw: Callable) -> pd.DataFrame:
    name = draw(one_of("unique_id", "ds"))
    if list(frame).count(name) != 1 or not len(frame):
        return frame
    at = draw(st.integers(0, len(frame) - 1))
    return frame.assign(**{name: frame[name].astype(object).where(np.arange(len(frame)) != at, None)})


_CHANGES = (
    *(_same, _drop_rows, _double_rows, _shuffle, _shuffle),
    *(_without_ids, _cast, _cast, _indexed, _more_columns, _with_nat),
)


def _to_polars(frame: pd.DataFrame) -> Any:
    # an index is no column of polars
    try:
        return polars.from_pandas(frame)
    except Exception:
        return frame


def _to_arrow(frame: pd.DataFrame) -> Any:
    import pyarrow

    try:
        return pyarrow.Table.from_pandas(frame)
    except Exception:
        return frame


# ---- files


_CELLS = one_of(
    *(
        "1",
        "2.5",
        "-3",
        "1e3",
        "0,5",
        "1.234",
        "1,234.5",
        "12%",
        "$4",
        "",
        "NA",
        "nan",
        "-",
        "inf",
        "x",
        "1'000",
        "(3)",
    ),
    *(
        '"a',
        'a"b',
        '"a,b"',
        "1;2",
        "\t",
        " ",
        "\0",
        "\ufeff",
        "é",
        "2024-01-01",
        "01.02.2024",
        "007",
        "9" * 400,
        "1e999",
    ),
)
_DATES = one_of("%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%Y%m%d", "%d-%b-%y", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m", "%GW%V", "{}")
_ENCODINGS = one_of(*["utf-8"] * 4, "utf-8-sig", "utf-16", "cp1252", "utf-16-le", "cp500", "shift_jis")
_ENDS = one_of("\n", "\n", "\r\n", "\r", "\n\n", "\x85", "\x0b", "\u2028")
_LINES = one_of("", " ", "#", "total;1;2", "sep=;", "Source: us", ",,,", '"', "---", "\0", "a,b,c,d,e,f", "x" * 300)


@st.composite
def tables(draw: Callable) -> bytes:
    """A table as the bytes of a delimited file: long or wide, in the ways people write them, with some cells wrong."""
    sep, end, form = draw(one_of(",", ",", ";", "\t", "|", " ", ",,")), draw(_ENDS), draw(_DATES)
    header = draw(one_of(["unique_id", "ds", "y"], ["ds", "a", "b"], ["date", "value"], ["id", "year", "month", "y"]))
    rows = [header]
    for i in range(draw(one_of(0, 1, 2, 3, 9, 16))):
        day = datetime(2024, 1, 1 + i % 8, tzinfo=timezone.utc)
        known = {
            **{"unique_id": "ab"[i // 8], "id": "7", "year": "2024", "month": str(1 + i % 12)},
            **dict.fromkeys(("ds", "date"), str(i) if form == "{}" else day.strftime(form)),
        }
        rows.append([known.get(name, str(i % 5 + 0.5)) for name in header])
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.sampled_from(rows))
        row[draw(st.integers(0, len(row) - 1))] = draw(_CELLS)
    lines = [sep.join(row) for row in rows]
    for _ in range(draw(st.integers(0, 1))):
        lines.insert(draw(st.sampled_from([0, len(lines), len(lines) // 2])), draw(_LINES))
    text = end.join(lines) + draw(one_of(end, "", end * 2))
    return draw(damaged(text.encode(draw(_ENCODINGS), "replace"), often=4))


@st.composite
def damaged(draw: Callable, content: bytes, often: int = 1) -> bytes:
    """A file of which bytes have changed, or parts are gone or there twice; one in ``often`` of them."""
    if not content or draw(st.integers(1, often)) > 1:
        return content
    at = draw(st.integers(0, len(content) - 1))
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + content[at + draw(st.integers(1, 9)) :]
    if kind == 2:
        return content[:at] + draw(st.binary(max_size=9)) + content[at:]
    if kind == 3:
        end = at + draw(st.integers(1, 99))
        return content[:end] + content[at:end] + content[end:]
    return content[:at] + bytes([content[at] ^ 1 << draw(st.integers(0, 7))]) + content[at + 1 :]


_TS_HEADS = one_of(
    *(
        "@problemName x",
        "@timeStamps false",
        "@univariate true",
        "@univariate false",
        "@dimensions 2",
        "@equalLength true",
    ),
    *(
        "@seriesLength 3",
        "@missing true",
        "@targetlabel false",
        "#",
        "",
        "@dimensions 99999999999",
        "@equalLength",
        "@",
    ),
    *("@classLabel false", "@classLabel true", "@timeStamps true", "@data", "1,2:a", "@classLabel true a a"),
)


@st.composite
def ts_files(draw: Callable) -> bytes:
    """A ``.ts`` file of the UCR archive, with some lines and values wrong."""
    heads = [draw(_TS_HEADS) for _ in range(draw(st.integers(0, 3)))]
    rows = []
    for _ in range(draw(st.integers(0, 4))):
        channels = [
            ",".join(draw(st.lists(one_of(*"12?"), min_size=3, max_size=3))) for _ in range(draw(one_of(1, 1, 2)))
        ]
        rows.append(":".join([*channels, draw(one_of("a", "b", "a", "c", ""))]))
    if rows and draw(st.booleans()):
        rows[0] = rows[0].replace("1", draw(_CELLS))
    text = "\n".join([*heads, "@classLabel true a b", draw(one_of("@data", "@data", "@DATA", "")), *rows])
    return draw(damaged(text.encode(draw(_ENCODINGS), "replace"), often=4))


_VALUES = one_of(
    *(None, 0, 1, -1, 2, 1e9, 0.5, "x", "", "D", [], [1], {}, {"x": 1}, True, False, "os.system", float("nan"))
)


@st.composite
def changed_values(draw: Callable, value: Any) -> Any:
    """A value of JSON or YAML in which one part, at any depth, is another one, gone, or new."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 5)) == 0:
        return draw(_VALUES)
    value = value.copy()
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys))
    kind = draw(st.integers(0, 9))
    if kind == 0:
        del value[key]
    elif kind == 1 and isinstance(value, dict):
        value[draw(one_of("x", "class_path", "init_args", "seed", "model"))] = draw(_VALUES)
    else:
        value[key] = draw(changed_values(value[key]))
    return value
