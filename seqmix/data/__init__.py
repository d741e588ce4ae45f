"""Datamodules: each reads or makes one kind of data and knows the facts that a model is built from."""

from seqmix.data._base import ForecastData
from seqmix.data.benchmarks import ECL, ETT, ILI, Exchange, Traffic, Weather
from seqmix.data.recall import AssociativeRecall, Copying, SelectiveCopying
from seqmix.data.synthetic import Cycles
from seqmix.data.wide_csv import WideCSV
from seqmix.data.windows import WindowLoader, Windows

__all__ = [
    "ECL",
    "ETT",
    "ILI",
    "AssociativeRecall",
    "Copying",
    "Cycles",
    "Exchange",
    "ForecastData",
    "SelectiveCopying",
    "Traffic",
    "Weather",
    "WideCSV",
    "WindowLoader",
    "Windows",
]
