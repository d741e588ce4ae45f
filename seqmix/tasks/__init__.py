"""Tasks: a model with its loss, metrics and optimiser, as LightningModules."""

from seqmix.tasks._base import Task
from seqmix.tasks.forecasting import Forecasting
from seqmix.tasks.tokens import TokenPrediction

__all__ = ["Forecasting", "Task", "TokenPrediction"]
