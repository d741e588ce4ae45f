"""Steps between the rows of a long frame, on the grid of its frequency."""

import numpy as np
import pandas as pd

from seqmix.errors import DataError
from seqmix.forecasting.clock import Clock, duration, shown

# rows that gaps may be filled to, or a thousand times those there are
_MOST_FILLED = 10_000_000
# median step in days of periods of the calendar that begin on any day of theirs
_PERIODS = {"M": (28, 31), "Q": (89, 92), "Y": (365, 366)}


def steps_between(stamps: np.ndarray, codes: np.ndarray, ids: pd.Index, clock: Clock, fill_gaps: bool) -> np.ndarray:
    """Steps from the row before to each row, 1 for the first of a series."""
    same = np.r_[False, codes[1:] == codes[:-1]]
    between, whole = clock.steps(stamps)
    steps = np.where(same, np.r_[1, between], 1)
    off = same & ~np.r_[True, whole]
    typical = float(np.median(np.diff(stamps, prepend=stamps[0])[same])) if same.any() else float(clock.span)
    if off.any() or (typical > 1.5 * clock.span and not fill_gaps):
        if not 0.67 < typical / clock.span < 1.5:
            remedy = "" if clock.numbered or typical > clock.span else ", or resample the rows with aggregate='sum'"
            found = f"{typical:g}" if clock.numbered else duration(typical)
            raise DataError(
                f"freq={clock.freq!r} but the median step is {found}; pass the freq of the data, or None{remedy}"
            )
        row = int(off.argmax())
        raise DataError(
            f"{int(off.sum())} time stamps are off the grid of freq {clock.freq!r}, first: id {ids[codes[row]]!r} at "
            f"{shown(clock.column(stamps[[row]])[0])}; {_other_grid(clock, typical)}"
        )
    gaps = steps > 1
    if fill_gaps and steps.sum() > max(_MOST_FILLED, 1000 * len(steps)):
        raise DataError(
            f"fill_gaps would make {int(steps.sum()):,} rows of {len(steps):,} at freq {clock.freq!r}; pass the freq "
            "of the data, or correct the times"
        )
    if gaps.any() and not fill_gaps:
        broken = pd.unique(codes[gaps])
        row = int(gaps.argmax())
        count = int(steps[gaps & (codes == codes[row])].sum() - (gaps & (codes == codes[row])).sum())
        ends = clock.column(clock.after(stamps[[row - 1]], np.array([1, int(steps[row]) - 1])))
        until = f"..{shown(ends[1])}" if ends[1] != ends[0] else ""
        first = "first " if count > steps[row] - 1 else ""
        raise DataError(
            f"{len(broken)} of {len(ids)} series {'has' if len(broken) == 1 else 'have'} gaps at freq {clock.freq!r}: "
            f"{ids[broken[0]]!r} {count} missing ({first}{shown(ends[0])}{until}). Pass fill_gaps=True"
        )
    return steps


def _other_grid(clock: Clock, typical: float) -> str:
    """Advice for times off the grid whose median step is ``typical``."""
    days = 0.0 if clock.numbered else typical / pd.Timedelta(days=1).value
    for period, (least, most) in _PERIODS.items():
        if least <= days <= most:
            periods = f"df['ds'].dt.to_period({period!r})"
            return f"for one row in each period, whatever its day, give the periods, as by {periods}"
    return "pass another freq, or resample the frame"
