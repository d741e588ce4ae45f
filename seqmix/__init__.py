"""seqmix: sequence mixers with one interface, and models, tasks and data that use them.

Public names load on first use, so that ``import seqmix`` costs nothing.
"""

from seqmix.importing import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.2.0"

_MODULES = (
    "analysis",
    "data",
    "errors",
    "forecasting",
    "mixers",
    "models",
    "ops",
    "tasks",
    "testing",
    "vision",
)
_NAMES = {
    "AnomalyDetector": "seqmix.analysis",
    "AutoTune": "seqmix.forecasting",
    "Classifier": "seqmix.analysis",
    "Forecaster": "seqmix.forecasting",
    "Imputer": "seqmix.analysis",
    "Mixer": "seqmix.mixers",
    "Series": "seqmix.series",
    "check_frame": "seqmix.forecasting",
    "list_mixers": "seqmix.mixers",
    "list_models": "seqmix.models",
    "long_from_wide": "seqmix.forecasting",
    "resample": "seqmix.forecasting",
}

__all__ = ["__version__", *_NAMES, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> "Any":
    if name in _NAMES:
        return getattr(load(_NAMES[name]), name)
    if name in _MODULES:
        return load(f"seqmix.{name}")
    raise AttributeError(f"module 'seqmix' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
