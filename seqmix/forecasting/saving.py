"""Saving a fitted Forecaster: its options and its fitted state in a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from seqmix.forecasting.archive import read_archive, write_archive
from seqmix.forecasting.auto import Ensemble, pack_ensemble, unpack_ensemble
from seqmix.forecasting.fitted import Fitted
from seqmix.forecasting.joined import Joined
from seqmix.forecasting.machine import where
from seqmix.forecasting.options import AUTO
from seqmix.forecasting.packing import pack, unpack

_NAME, _FORMAT = "Forecaster", 6


def save_forecaster(options: Mapping[str, Any], fitted: Fitted | Joined | Ensemble, folder: Path) -> None:
    """Write ``forecaster.json`` and ``weights.safetensors``; errors are those of ``write_archive``."""
    facts, tensors = pack_ensemble(fitted) if isinstance(fitted, Ensemble) else pack(options, fitted)
    dated = fitted.ids.dtype.kind == "M"
    write_archive(_NAME, _FORMAT, options, facts, tensors, folder, default=str if dated else None)


def load_forecaster(
    source: str | Path, device: str, trusted: Sequence[str], names: Sequence[str]
) -> tuple[dict[str, Any], Fitted | Joined | Ensemble]:
    """Options and fitted state from a folder or a repository of the hub, with the models on a device.

    Errors are those of ``where`` and ``read_archive``.
    """
    place = where(device)
    options, fitted = read_archive(_NAME, _FORMAT, source, trusted, names, _unpacked)
    for member in fitted.members:
        member.predictor.to(place)
    return {**options, "device": device}, fitted


def _unpacked(options: dict[str, Any], facts: dict[str, Any], tensors: dict[str, Tensor]) -> Fitted | Joined | Ensemble:
    return (unpack_ensemble if options["model"] == AUTO else unpack)(options, facts, tensors)
