"""Datamodules: each reads or generates one kind of data and has the facts that a model is built from."""

from typing import TYPE_CHECKING

from seqmix.importing import lazily

if TYPE_CHECKING:
    from seqmix.data.images.augment import Augmentation
    from seqmix.data.images.fashion import FashionMNIST
    from seqmix.data.images.folders import ImageFolder
    from seqmix.data.images.hub import HubImages
    from seqmix.data.images.pixels import image_input
    from seqmix.data.loader import WindowLoader
    from seqmix.data.sequences.cifar import SequentialCIFAR10
    from seqmix.data.sequences.listops import ListOps
    from seqmix.data.sequences.lra import LRAImage, LRARetrieval, LRAText
    from seqmix.data.sequences.pathfinder import Pathfinder
    from seqmix.data.sequences.recall import AssociativeRecall, Copying, SelectiveCopying
    from seqmix.data.sequences.speech import SpeechCommands
    from seqmix.data.sequences.state_tracking import StateTracking
    from seqmix.data.series.anomaly_csv import AnomalyCSV
    from seqmix.data.series.benchmarks import Benchmark
    from seqmix.data.series.detection_data import AnomalySeries, DetectionData
    from seqmix.data.series.forecast_data import ForecastData
    from seqmix.data.series.gaps import Gaps, GapsCSV
    from seqmix.data.series.m4 import M4
    from seqmix.data.series.nab import NAB
    from seqmix.data.series.synthetic.cycles import Cycles
    from seqmix.data.series.synthetic.generated_anomalies import GeneratedAnomalies
    from seqmix.data.series.synthetic.pretraining import SyntheticSeries
    from seqmix.data.series.ucr import UCR, SeriesFiles
    from seqmix.data.series.wide_csv import WideCSV
    from seqmix.data.series.windows import Windows
    from seqmix.data.text.corpora import HubText, TextFiles
    from seqmix.data.text.glue import GLUE

__all__ = [
    "GLUE",
    "M4",
    "NAB",
    "UCR",
    "AnomalyCSV",
    "AnomalySeries",
    "AssociativeRecall",
    "Augmentation",
    "Benchmark",
    "Copying",
    "Cycles",
    "DetectionData",
    "FashionMNIST",
    "ForecastData",
    "Gaps",
    "GapsCSV",
    "GeneratedAnomalies",
    "HubImages",
    "HubText",
    "ImageFolder",
    "LRAImage",
    "LRARetrieval",
    "LRAText",
    "ListOps",
    "Pathfinder",
    "SelectiveCopying",
    "SequentialCIFAR10",
    "SeriesFiles",
    "SpeechCommands",
    "StateTracking",
    "SyntheticSeries",
    "TextFiles",
    "WideCSV",
    "WindowLoader",
    "Windows",
    "image_input",
]

__getattr__, __dir__ = lazily(__name__)
