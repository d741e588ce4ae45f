"""The rows of a horizon: ids and times after the last row of each series."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from seqmix.forecasting.folder import read_long
from seqmix.forecasting.frame import stamped
from seqmix.forecasting.kind import Kind
from seqmix.forecasting.options import whole

if TYPE_CHECKING:
    from seqmix.forecasting.learning import AnyFitted


def horizon_rows(fitted: "AnyFitted", df: Any, horizon: int | None) -> tuple[Kind, pd.DataFrame]:
    """Ids and times of a horizon, and the kind of the frame that it follows.

    Args:
        fitted: state of a fitted Forecaster.
        df: long frame that the horizon follows. None: that of the fit.
        horizon: number of steps. None: that of the fit.
    """
    rows: Any = fitted if df is None else read_long(df, fitted.reading)
    steps = whole("horizon", horizon, 1, True) or fitted.plan.horizon
    return rows.kind, stamped(fitted.reading, fitted.clock, rows.ids, rows.last, steps)
