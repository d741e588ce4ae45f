"""A fitted Forecaster in a folder: options and facts as JSON, weights and last rows as safetensors. No pickle."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.arrange import Ends
from seqmix.forecasting.clock import Clock
from seqmix.forecasting.covariates import Inputs
from seqmix.forecasting.factory import choices, make_task
from seqmix.forecasting.fitted import Fitted
from seqmix.forecasting.frame import Reading
from seqmix.forecasting.kind import Kind, dtype_name, dtype_of
from seqmix.forecasting.member import Member
from seqmix.forecasting.plan import Plan
from seqmix.series import Series

_FORMAT = 4
# owner/name, as the hub names what it holds
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_ARRAYS = ("loc", "scale", "deviation", "naive", "last")


def save(options: Mapping[str, Any], fitted: Fitted, folder: Path) -> None:
    """Write ``forecaster.json`` and ``weights.safetensors``, each whole or not at all.

    Raises:
        ConfigError: if an option has no plain form, for example a function.
    """
    facts = {
        "format": _FORMAT,
        "options": {name: _plain(value, name) for name, value in options.items()},
        "reading": asdict(fitted.reading),
        "time": {"freq": fitted.clock.freq, "dtype": dtype_name(fitted.clock.dtype)},
        "kind": fitted.kind,
        "ids": {"dtype": dtype_name(fitted.ids.dtype), "values": fitted.ids.tolist()},
        "plan": {**asdict(fitted.plan), "loss": None},
        "inputs": asdict(fitted.inputs),
        "members": {m.name: asdict(m.task.series) for m in fitted.members},
        "report": fitted.report,
        "notes": fitted.notes,
    }
    try:
        text = json.dumps(facts, indent=1, default=str if fitted.ids.dtype.kind == "M" else None)
    except TypeError as e:
        raise ConfigError(
            f"the Forecaster cannot be saved: {e}; give ids and categories that are text or numbers"
        ) from e
    arrays = {name: getattr(fitted, name) for name in _ARRAYS}
    arrays |= {f"ends.{name}": x for name, x in fitted.ends._asdict().items() if x is not None}
    arrays |= {f"scores.{k}": m.scores for k, m in enumerate(fitted.members)}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in arrays.items()}
    for k, member in enumerate(fitted.members):
        tensors |= {f"task.{k}.{name}": x.contiguous() for name, x in member.task.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "weights.safetensors.part"
    save_file(tensors, part)
    part.replace(folder / "weights.safetensors")
    part = folder / "forecaster.json.part"
    part.write_text(text + "\n")
    part.replace(folder / "forecaster.json")


def load(source: str | Path) -> tuple[dict[str, Any], Fitted]:
    """Options and what was learned, from a folder or a repository of the hub.

    Raises:
        DataError: if there is none, or one of another version of the format.
    """
    folder = _folder(source)
    path = folder / "forecaster.json"
    facts = json.loads(path.read_text())
    if facts.get("format") != _FORMAT:
        raise DataError(f"{str(path)!r} has format {facts.get('format')!r}, this version reads {_FORMAT}; fit again")
    options = {name: _live(value) for name, value in facts["options"].items()}
    tensors = load_file(folder / "weights.safetensors")
    time = facts["time"]
    plan = facts["plan"]
    arrays: dict[str, Any] = {name: tensors[name].numpy() for name in _ARRAYS}
    levels = {name: tuple(plan[name]) for name in ("levels", "calibrated")}
    fitted = Fitted(
        reading=Reading(**facts["reading"]),
        plan=Plan(**{**plan, **levels, "loss": options["loss"]}),
        clock=Clock(time["freq"], dtype_of(time["dtype"])),
        kind=Kind(*facts["kind"]),
        ids=pd.Index(facts["ids"]["values"]).astype(dtype_of(facts["ids"]["dtype"])),
        inputs=Inputs(**facts["inputs"]),
        ends=Ends(**{name: _array(tensors, f"ends.{name}") for name in Ends._fields}),
        report=facts["report"],
        notes=facts["notes"],
        **arrays,
    )
    for k, choice in enumerate(choices(options["model"], options["model_kwargs"])):
        task = make_task(choice, fitted.plan, Series(**facts["members"][choice.name]))
        prefix = f"task.{k}."
        task.load_state_dict({n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)})
        fitted.members.append(Member(choice.name, task.eval(), tensors[f"scores.{k}"].numpy()))
    return options, fitted


def _folder(source: str | Path) -> Path:
    """The folder itself, or a copy of the repository ``owner/name`` that is no folder here."""
    folder = Path(source)
    if (folder / "forecaster.json").is_file():
        return folder
    if folder.exists() or not _REPOSITORY.fullmatch(str(source)):
        raise DataError(f"no forecaster.json in {str(source)!r}; give a folder that Forecaster.save wrote")
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as e:
        raise DataError(
            f"{str(source)!r} is no folder, and the hub needs a package; pip install huggingface_hub"
        ) from e
    try:
        return Path(snapshot_download(str(source), allow_patterns=["forecaster.json", "weights.safetensors"]))
    except (OSError, ValueError) as e:
        raise DataError(
            f"{str(source)!r} is no folder, and the hub gives no such repository ({type(e).__name__}); "
            "check name and connection, or give a folder that Forecaster.save wrote"
        ) from e


def _array(tensors: dict[str, Tensor], name: str) -> Any:
    return tensors[name].numpy() if name in tensors else None


def _plain(value: Any, name: str) -> Any:
    """A value in JSON: classes by their dotted path, a ``partial`` with its options."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list):
        return [_plain(v, name) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [_plain(v, name) for v in value]}
    if isinstance(value, dict):
        return {"dict": {str(k): _plain(v, name) for k, v in value.items()}}
    if isinstance(value, partial) and not value.args:
        return {"partial": _plain(value.func, name), "options": {k: _plain(v, name) for k, v in value.keywords.items()}}
    if isinstance(value, type) and issubclass(value, nn.Module) and "<locals>" not in value.__qualname__:
        return {"class": f"{value.__module__}:{value.__qualname__}"}
    raise ConfigError(f"{name} = {value!r} cannot be saved; use a name, a class of a module, or a functools.partial")


def _live(value: Any) -> Any:
    if isinstance(value, list):
        return [_live(v) for v in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_live(v) for v in value["tuple"])
    if "dict" in value:
        return {k: _live(v) for k, v in value["dict"].items()}
    if "partial" in value:
        return partial(_live(value["partial"]), **{k: _live(v) for k, v in value["options"].items()})
    module, _, name = value["class"].partition(":")
    found = getattr(import_module(module), name, None)
    # a folder names what is built, and must not name just anything
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise DataError(f"{value['class']!r} is no module of torch; use the folder of a Forecaster you trust")
    return found
