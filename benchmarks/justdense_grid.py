"""Studies, data sets and models of ``justdense.py``, in the order in which they are run."""

from collections.abc import Iterator, Mapping
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
    encoder: bool = True
    variates: bool = False  # mixes across variates only: nothing to mix in a univariate series


_WIDTH = {"d_model": 32, "n_layers": 2}
_ATTENTION = {**_WIDTH, "n_heads": HEADS, "expand": 2}
_SCAN = {"class_path": "Mamba", "init_args": {"d_state": 8, "expand": 1}}
# layers and widths are the same everywhere, expansions too; nothing was tuned for one of them
MODELS = {
    "PatchTST": Model("PatchTST", _ATTENTION, twin=True),
    "iTransformer": Model("iTransformer", _ATTENTION, twin=True, variates=True),
    "SMamba": Model("SMamba", {**_WIDTH, "d_state": 8, "expand": 2}, twin=True, variates=True),
    "Transformer": Model("Transformer", _ATTENTION, twin=True),
    "Mamba": Model("TimeEncoder", {**_WIDTH, "mixer": _SCAN, "channel_mixer": None, "positions": "none"}, twin=True),
    "TSM2": Model("TSM2", {"d_model": 16, "n_layers": 1, "d_state": 8, "expand": 1}, encoder=False),
}


class Study(NamedTuple):
    """A task with its data sets: the small ones, and the rest."""

    task: str
    small: list[Mapping[str, Any]]
    rest: list[Mapping[str, Any]]
    univariate: bool = False

    def entry(self, model: Model) -> dict[str, Any]:
        """The model as it stands in a config of the task."""
        own = {"class_path": model.cls, "init_args": dict(model.options)}
        return {"class_path": "EncoderForecaster", "init_args": {"encoder": own}} if model.encoder else own


def _each(names: tuple[str, ...], **options: tuple[Any, ...]) -> list[Mapping[str, Any]]:
    return [
        {"name": name, **dict(zip(options, values, strict=True))} for name, *values in product(names, *options.values())
    ]


STUDIES = {
    "long_term": Study(
        "Forecasting",
        _each(("ETTh1", "ETTh2"), horizon=(96, 336)),
        _each(("ETTm1", "ETTm2", "Weather"), horizon=(96, 336)),
    ),
    "short_term": Study("ShortTerm", _each(("Weekly", "Hourly")), [], univariate=True),
}


class Cell(NamedTuple):
    """One run: a model, or its dense twin, on one data set with one seed."""

    study: str
    data: Mapping[str, Any]  # options of the datamodule
    name: str
    model: Mapping[str, Any]  # its entry in the config
    dense: bool
    seed: int
    baselines: bool

    def facts(self) -> dict[str, str]:
        """What ``--only`` may choose by."""
        return {"study": self.study, "data": str(self.data.get("name", "")), "model": self.name, "seed": str(self.seed)}

    def settings(self) -> dict[str, Any]:
        """The config that stands after that of the study."""
        return {
            "seed_everything": self.seed,
            "densify": HEADS if self.dense else False,
            "baselines": None if self.baselines else [],
            "model": {"class_path": STUDIES[self.study].task, "init_args": {"model": self.model}},
            "data": {"init_args": dict(self.data)},
        }


def cells() -> Iterator[Cell]:
    """Every run, the small data sets with the first seed first, and all models of a data set one after another."""
    for seeds, part in ((SEEDS[:1], "small"), (SEEDS[:1], "rest"), (SEEDS[1:], "small"), (SEEDS[1:], "rest")):
        for seed, (name, study) in product(seeds, STUDIES.items()):
            for data in getattr(study, part):
                first = True
                for label, model in MODELS.items():
                    if model.variates and study.univariate:
                        continue
                    for dense in (False, True)[: 1 + model.twin]:
                        yield Cell(name, data, label, study.entry(model), dense, seed, baselines=first)
                        first = False
