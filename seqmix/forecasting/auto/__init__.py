"""Forecasts by a weighted ensemble of models that are compared on the series themselves."""

from seqmix.forecasting.auto.ensemble import Ensemble
from seqmix.forecasting.auto.fitting import fit_auto
from seqmix.forecasting.auto.packing import pack_ensemble, unpack_ensemble

__all__ = ["Ensemble", "fit_auto", "pack_ensemble", "unpack_ensemble"]
