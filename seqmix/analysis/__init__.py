"""Classification, imputation and anomaly detection for DataFrames and arrays."""

from seqmix.analysis.classifier import Classifier
from seqmix.analysis.detector import AnomalyDetector
from seqmix.analysis.imputer import Imputer

__all__ = ["AnomalyDetector", "Classifier", "Imputer"]


def __dir__() -> list[str]:
    return sorted(__all__)
