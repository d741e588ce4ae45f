"""Studies, data sets and models of ``justdense.py``, in the order in which they are run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

SEEDS = (0, 1, 2)
# heads of attention, and matrices in each dense layer
HEADS = 4


class Model(NamedTuple):
    """An encoder, or a forecasting model, with its options."""

    cls: str
    options: Mapping[str, Any]
    twin: bool = False
    axis: str = ""  # of the tokens, for encoders


_TWO = {"d_model": 32, "n_layers": 2}
# a token for each time step costs the most
_ONE = {"d_model": 32, "n_layers": 1}
_ATTENTION = {"n_heads": HEADS, "expand": 2}
_SCAN = {"class_path": "Mamba", "init_args": {"d_state": 8, "expand": 1}}
# one width for all, nothing was tuned for one of them
MODELS = {
    "PatchTST": Model("PatchTST", {**_TWO, **_ATTENTION}, twin=True, axis="patches"),
    "iTransformer": Model("iTransformer", {**_TWO, **_ATTENTION}, twin=True, axis="variates"),
    "SMamba": Model("SMamba", {**_TWO, "d_state": 8, "expand": 2}, twin=True, axis="variates"),
    "Mamba": Model(
        "TimeEncoder", {**_ONE, "mixer": _SCAN, "channel_mixer": None, "positions": "none"}, twin=True, axis="time"
    ),
    "Transformer": Model("Transformer", {**_ONE, **_ATTENTION}, twin=True, axis="time"),
    "Informer": Model("Informer", {**_ONE, **_ATTENTION, "distil": False}, twin=True, axis="time"),
    "Autoformer": Model("Autoformer", {**_ONE, "expand": 2}, twin=True, axis="time"),
    "TSM2": Model("TSM2", {"d_model": 16, "n_layers": 1, "d_state": 8, "expand": 1}),
    "FFNetTS": Model("FFNetTS", {"dims": [16], "kernel_size": 25}),
    "TimesNet": Model("TimesNet", {"d_model": 16, "n_layers": 1, "n_periods": 3, "n_kernels": 4}, axis="time"),
}


class Study(NamedTuple):
    """A task with its data sets: the small ones, and the rest."""

    task: str
    small: list[Mapping[str, Any]]
    rest: list[Mapping[str, Any]]
    entry: Callable[[Model], dict[str, Any]]


def _forecaster(model: Model, **head: Any) -> dict[str, Any]:
    """Entry of a config: the model, or a head for the horizon on the encoder."""
    own = _entry(model.cls, **model.options)
    return _entry("EncoderForecaster", encoder=own, **head) if model.axis else own


def _reconstruction(model: Model) -> dict[str, Any]:
    """The same, but a token of a time step is read for that step only: the encoder alone mixes time."""
    return _forecaster(model, **({"along_time": False} if model.axis == "time" else {}))


def _classifier(model: Model) -> dict[str, Any]:
    own = _entry(model.cls, **model.options)
    return _entry("EncoderClassifier", encoder=own) if model.axis else _entry("ForecastModelClassifier", model=own)


def _entry(cls: str, **options: Any) -> dict[str, Any]:
    return {"class_path": cls, "init_args": options}


def _each(names: Sequence[str], **options: Sequence[Any]) -> list[Mapping[str, Any]]:
    return [
        {"name": name, **dict(zip(options, values, strict=True))} for name, *values in product(names, *options.values())
    ]


STUDIES = {
    "long_term": Study(
        "Forecasting",
        _each(("ETTh1", "ETTh2"), horizon=(96, 336)),
        _each(("ETTm1", "ETTm2", "Weather"), horizon=(96, 336)),
        _forecaster,
    ),
    "short_term": Study("ShortTerm", _each(("Weekly", "Hourly")), [], _forecaster),
    "imputation": Study(
        "Imputation",
        _each(("ETTh1", "ETTm1"), rate=(0.25,)),
        [*_each(("ETTh1", "ETTm1"), rate=(0.125, 0.375, 0.5)), *_each(("Weather",), rate=(0.125, 0.25, 0.375, 0.5))],
        _reconstruction,
    ),
    "classification": Study(
        "SeriesClassification",
        _each(("ItalyPowerDemand", "JapaneseVowels", "BasicMotions", "GunPoint")),
        # without ACSF1 and PLAID: 1,460 and up to 1,344 steps take two minutes in each of 78 runs
        _each(("ArrowHead", "OSULeaf")),
        _classifier,
    ),
    "detection": Study(
        "AnomalyDetection",
        [{"class_path": "GeneratedAnomalies"}],
        # two of its folders, seven and six series: 58 take minutes in each run
        [{"class_path": "NAB", "select": "realTraffic"}, {"class_path": "NAB", "select": "realAdExchange"}],
        _reconstruction,
    ),
}
#: studies in which a linear head reads all tokens, so that it mixes time whatever the mixer does
HEAD_MIXES = tuple(name for name, study in STUDIES.items() if study.entry is not _reconstruction)
# they have one channel: nothing to mix across variates
_UNIVARIATE = ("ItalyPowerDemand", "GunPoint", "ArrowHead", "OSULeaf", "Weekly", "Hourly", "NAB", "GeneratedAnomalies")
# options of the data sets above that are the task's
_OF_TASK = ("rate",)


class Cell(NamedTuple):
    """One run: a model, or its dense twin, on one data set with one seed."""

    study: str
    data: Mapping[str, Any]  # options of the data set, and of the task on it
    name: str
    model: Mapping[str, Any]  # its entry in the config
    dense: bool
    seed: int
    baselines: bool

    def facts(self) -> dict[str, str]:
        """What ``--only`` may choose by."""
        return {"study": self.study, "data": name_of(self.data), "model": self.name, "seed": str(self.seed)}

    def settings(self) -> dict[str, Any]:
        """The config that stands after that of the study."""
        options = {name: value for name, value in self.data.items() if name in _OF_TASK}
        data = {name: value for name, value in self.data.items() if name not in (*_OF_TASK, "class_path")}
        cls = {name: value for name, value in self.data.items() if name == "class_path"}
        return {
            "seed_everything": self.seed,
            "densify": {"n_heads": HEADS} if self.dense else False,
            "baselines": None if self.baselines else [],
            "model": {"class_path": STUDIES[self.study].task, "init_args": {"model": self.model, **options}},
            "data": {**cls, "init_args": data},
        }


def name_of(data: Mapping[str, Any]) -> str:
    """Name of a data set; that of its class where it has no other."""
    return data.get("name", data.get("class_path", ""))


def cells() -> Iterator[Cell]:
    """Every run, the small data sets with the first seed first, and all models of a data set one after another."""
    for seeds, part in ((SEEDS[:1], "small"), (SEEDS[:1], "rest"), (SEEDS[1:], "small"), (SEEDS[1:], "rest")):
        for seed, (name, study) in product(seeds, STUDIES.items()):
            for data in getattr(study, part):
                first = True
                for label, model in MODELS.items():
                    if model.axis == "variates" and name_of(data) in _UNIVARIATE:
                        continue
                    for dense in (False, True)[: 1 + model.twin]:
                        yield Cell(name, data, label, study.entry(model), dense, seed, baselines=first)
                        first = False
