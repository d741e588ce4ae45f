"""Studies, data sets and models of ``justdense.py``, in the order in which they are run."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

SEEDS = (0, 1, 2)


class Cell(NamedTuple):
    """One run: a model, or its dense twin, on one data set with one seed."""

    study: str
    data: Mapping[str, Any]  # options of the datamodule
    model: Mapping[str, Any]  # its entry in the config
    name: str
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
            "densify": self.dense,
            "baselines": None if self.baselines else [],
            "model": {"class_path": TASKS[self.study], "init_args": {"model": self.model}},
            "data": {"init_args": dict(self.data)},
        }


TASKS = {"long_term": "Forecasting", "short_term": "ShortTerm"}
# by study: the data sets that are small come first
SETS = {
    "long_term": (
        [{"name": name, "horizon": horizon} for name, horizon in product(("ETTh1", "ETTh2"), (96, 336))],
        [{"name": name, "horizon": horizon} for name, horizon in product(("ETTm1", "ETTm2", "Weather"), (96, 336))],
    ),
    "short_term": ([{"name": "Weekly"}, {"name": "Hourly"}], []),
}
MODELS = {
    "TSM2": {"class_path": "TSM2", "init_args": {"d_model": 16, "n_layers": 1, "expand": 1}},
    "Mamba": {
        "class_path": "MixerForecaster",
        "init_args": {"d_model": 32, "n_layers": 1, "mixer": {"class_path": "Mamba"}},
    },
}
TWINS = ("Mamba", "TSM2")


def cells() -> Iterator[Cell]:
    """Every run, the small data sets with the first seed first, and all models of a data set one after another."""
    for seeds, part in ((SEEDS[:1], 0), (SEEDS[:1], 1), (SEEDS[1:], 0), (SEEDS[1:], 1)):
        for seed, (study, sets) in product(seeds, SETS.items()):
            for data in sets[part]:
                for i, (name, model) in enumerate(MODELS.items()):
                    for dense in (False, True)[: 1 + (name in TWINS)]:
                        yield Cell(study, data, model, name, dense, seed, baselines=not i and not dense)
