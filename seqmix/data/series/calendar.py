"""Features of the calendar: where a time stamp stands in its hour, day, week, month and year, as in Informer."""

import numpy as np
import pandas as pd

# feature: (step in hours from which on it no longer varies, smallest value, range), as in the time features of Informer
_CALENDAR = {
    "minute": (1, 0, 59),
    "hour": (24, 0, 23),
    "day_of_week": (7 * 24, 0, 6),
    "day": (28 * 24, 1, 30),
    "day_of_year": (365 * 24, 1, 365),
}


def calendar_names(step: float) -> list[str]:
    """The features that vary from one step to the next, for a ``step`` in hours."""
    return [name for name, (limit, _, _) in _CALENDAR.items() if step < limit]


def calendar_features(times: pd.Index, names: list[str]) -> np.ndarray:
    """Position of every time stamp in its hour, day, week, month and year, each from -0.5 to 0.5; ``(F, T)``."""
    rows = []
    for name in names:
        _, smallest, extent = _CALENDAR[name]
        rows.append((getattr(times, name).to_numpy() - smallest) / extent - 0.5)
    return np.stack(rows)
