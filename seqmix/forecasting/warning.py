"""Warnings at the line of the user."""

import sys
import warnings


def warn(message: str) -> None:
    """Warn at the line outside of this package that led here, however many calls lie between."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("seqmix."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
