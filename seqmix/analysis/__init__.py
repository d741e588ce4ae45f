"""Analysis of series beyond forecasting, for the person with a DataFrame or an array: classify, impute, detect."""

from seqmix.analysis.classifier import Classifier
from seqmix.analysis.imputer import Imputer

__all__ = ["Classifier", "Imputer"]
