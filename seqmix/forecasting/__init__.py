"""Forecasting for DataFrames: the Forecaster, checks of frames, and plots."""

from seqmix.forecasting.forecaster import Forecaster
from seqmix.forecasting.frame import long_from_wide
from seqmix.forecasting.report import Report, check_frame
from seqmix.forecasting.resampling import resample
from seqmix.forecasting.tuning import AutoTune

__all__ = ["AutoTune", "Forecaster", "Report", "check_frame", "long_from_wide", "resample"]


def __dir__() -> list[str]:
    return sorted(__all__)
