"""Analysis of series beyond forecasting, for the person with a DataFrame or an array: classify, impute, detect."""

from seqmix.analysis.classifier import Classifier
from seqmix.analysis.detector import AnomalyDetector
from seqmix.analysis.imputer import Imputer

__all__ = ["AnomalyDetector", "Classifier", "Imputer"]
