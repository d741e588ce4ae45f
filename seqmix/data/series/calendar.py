"""Calendar features: position of a time stamp in its hour, day, week, month and year, as in Informer."""

import numpy as np
import pandas as pd

_DAY = 86_400 * 10**9
_WEEK = 7 * _DAY
_MONTH = 365.25 / 12 * _DAY
# unit of a step in nanoseconds and season in these units; the longest unit that divides the step counts
_SEASONS = ((_WEEK, 52), (_DAY, 7), (60 * 10**9, 24 * 60), (10**9, 60 * 60))
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


def season_of_step(nanoseconds: int) -> int:
    """Steps in the season of a step of this length, 1 where the step does not divide the season.

    The season of seconds is an hour, of minutes and hours a day, of days a week, of weeks and months a year.
    """
    months = round(nanoseconds / _MONTH)
    # months vary by three days, and 4 weeks are no month
    if months and nanoseconds % _WEEK and abs(nanoseconds - months * _MONTH) < 3 * _DAY:
        return divided_season(12, months)
    season = next(((unit, count) for unit, count in _SEASONS if nanoseconds % unit == 0), None)
    return divided_season(season[1], nanoseconds // season[0]) if season else 1


def divided_season(season: int, multiple: int) -> int:
    """Season of a multiple of a frequency in its own steps, 1 where the multiple does not divide the season."""
    return season // multiple if season % multiple == 0 else 1
