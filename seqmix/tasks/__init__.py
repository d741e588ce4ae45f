"""Tasks: a model with its loss, metrics and optimiser, as LightningModules."""

from seqmix.tasks.forecasting import Forecasting

__all__ = ["Forecasting"]
