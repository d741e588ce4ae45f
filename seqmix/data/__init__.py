"""Datamodules: each reads or makes one kind of data and knows the facts that a model is built from."""

from seqmix.data._augment import Augmentation
from seqmix.data._base import ForecastData
from seqmix.data.benchmarks import ECL, ETT, ILI, Exchange, Traffic, Weather
from seqmix.data.fashion import FashionMNIST
from seqmix.data.glue import GLUE
from seqmix.data.images import HubImages, ImageFolder
from seqmix.data.listops import ListOps
from seqmix.data.lra import LRAImage, LRARetrieval, LRAText
from seqmix.data.pathfinder import Pathfinder
from seqmix.data.recall import AssociativeRecall, Copying, SelectiveCopying
from seqmix.data.synthetic import Cycles
from seqmix.data.text import HubText, TextFiles
from seqmix.data.wide_csv import WideCSV
from seqmix.data.windows import WindowLoader, Windows

__all__ = [
    "ECL",
    "ETT",
    "GLUE",
    "ILI",
    "AssociativeRecall",
    "Augmentation",
    "Copying",
    "Cycles",
    "Exchange",
    "FashionMNIST",
    "ForecastData",
    "HubImages",
    "HubText",
    "ImageFolder",
    "LRAImage",
    "LRARetrieval",
    "LRAText",
    "ListOps",
    "Pathfinder",
    "SelectiveCopying",
    "TextFiles",
    "Traffic",
    "Weather",
    "WideCSV",
    "WindowLoader",
    "Windows",
]
