"""Daily series and a small Forecaster for the tests of forecasting."""

import numpy as np
import pandas as pd

from seqmix import Forecaster


def panel(ids=("a", "b"), n=100):
    """Daily series, a level apart, with a weekly cycle."""
    t = np.arange(n)
    days = pd.date_range("2024-01-01", periods=n)
    parts = [
        pd.DataFrame({"unique_id": i, "ds": days, "y": np.sin(t / 7 * 2 * np.pi) + 5 * k}) for k, i in enumerate(ids)
    ]
    return pd.concat(parts, ignore_index=True)


def small(model="DLinear", **options):
    return Forecaster(model, **{"horizon": 6, "context_length": 14, "max_steps": 3, "device": "cpu", **options})
