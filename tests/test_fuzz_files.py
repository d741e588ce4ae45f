"""Any text is read as a table or as labeled series, or refused in our words."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from strategies import fuzz, one_of, tables, ts_files

from seqmix.commands._long_table import find_roles, long_frame
from seqmix.data.series.ts_file import read_ts
from seqmix.data.series.wide_csv import read_wide
from seqmix.errors import SeqmixError
from seqmix.forecasting.cells import Cells
from seqmix.forecasting.frame import Reading, read_frame
from seqmix.forecasting.tables import read_table


@fuzz(
    10,
    1500,
    # an integer of more than 64 bits, and rows that are shorter than the header
    {"content": b"id,month,y\n7,%s,1" % (b"9" * 40), "sep": None, "decimal": None},
    {"content": b"id month y\n7 1\n7 2", "sep": "space", "decimal": None},
    # an integer that is too large for float64
    {"content": b"id,month,y\n7,1,%s\n7,2,1" % (b"9" * 400), "sep": None, "decimal": None},
    content=tables(),
    sep=one_of(None, None, ";", "space"),
    decimal=one_of(None, None, ","),
)
def test_a_table_becomes_a_long_frame_or_is_refused(content, sep, decimal):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.csv")
        path.write_bytes(content)
        try:
            table, cells = read_table(str(path), sep=sep), Cells(decimal=decimal)
            cells.observe(table.frame, table.sep)
            roles = find_roles(table.frame, cells, id_col=None, time_col=None, target_col=None, covariates=())
            long, _ = long_frame(table.frame, cells, roles, ())
            read_frame(long, Reading(roles.id_col, roles.time_col, roles.target_col, fill_gaps=True))
        except SeqmixError:
            return
    assert pd.api.types.is_numeric_dtype(long[roles.target_col].dtype)


@fuzz(
    40,
    6000,
    {"content": b"date,y\n2024-01-01,%s" % (b"9" * 400), "missing": False},
    content=tables(),
    missing=st.booleans(),
)
def test_a_wide_table_is_read_or_refused(content, missing):
    try:
        values, times, channels = read_wide(content, "x.csv", missing=missing)
    except SeqmixError as e:
        assert str(e).startswith("x.csv"), e
        return
    assert values.shape == (len(times), len(channels)) and not np.isinf(values).any()
    assert missing or not np.isnan(values).any()


@fuzz(60, 10000, content=ts_files())
def test_a_ts_file_is_read_or_refused(content):
    try:
        found = read_ts(content, "x.ts")
    except SeqmixError as e:
        assert str(e).startswith("x.ts"), e
        return
    assert len(found.series) == len(found.labels) and {*found.labels} <= {*found.class_names}
    assert all(x.ndim == 2 and len(x) and not np.isinf(x).any() for x in found.series)
