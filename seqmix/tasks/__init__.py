"""Tasks: a model with its loss, metrics and optimizer, as LightningModules."""

from typing import TYPE_CHECKING

from seqmix.importing import lazily

if TYPE_CHECKING:
    from seqmix.tasks._optim import LAMB, AdamW, Optim
    from seqmix.tasks.classification import Classification
    from seqmix.tasks.detection import AnomalyDetection
    from seqmix.tasks.forecasting import Forecasting
    from seqmix.tasks.images import ImageClassification
    from seqmix.tasks.imputation import Imputation
    from seqmix.tasks.language import CausalLM, MaskedLM
    from seqmix.tasks.pretraining import Pretraining
    from seqmix.tasks.sentences import SentenceClassification, SentenceRegression
    from seqmix.tasks.series_classification import SeriesClassification
    from seqmix.tasks.sharded import Sharded
    from seqmix.tasks.short_term import ShortTerm
    from seqmix.tasks.task import Task
    from seqmix.tasks.tokens import TokenPrediction

__all__ = [
    "LAMB",
    "AdamW",
    "AnomalyDetection",
    "CausalLM",
    "Classification",
    "Forecasting",
    "ImageClassification",
    "Imputation",
    "MaskedLM",
    "Optim",
    "Pretraining",
    "SentenceClassification",
    "SentenceRegression",
    "SeriesClassification",
    "Sharded",
    "ShortTerm",
    "Task",
    "TokenPrediction",
]

__getattr__, __dir__ = lazily(__name__)
