"""Serialization of fitted models: facts for JSON and tensors for safetensors."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.arrange import Ends
from seqmix.forecasting.clock import Clock
from seqmix.forecasting.covariates import Inputs
from seqmix.forecasting.factory import Choice, choices, make_predictor, own_plan
from seqmix.forecasting.fitted import Fitted
from seqmix.forecasting.frame import Reading
from seqmix.forecasting.joined import Joined, join
from seqmix.forecasting.kind import LIBRARIES, Kind, dtype_name, dtype_of
from seqmix.forecasting.member import Member, SeriesErrors
from seqmix.forecasting.plan import Plan
from seqmix.forecasting.scales import Scales
from seqmix.series import Series


def pack(options: Mapping[str, Any], fitted: Fitted | Joined) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Facts and tensors of fitted models.

    Raises:
        ConfigError: if the options name other models.
    """
    if [choice.name for choice in choices(options["model"], options["model_kwargs"])] != [
        m.name for m in fitted.members
    ]:
        raise ConfigError("model was set after the fit, so that the weights are of another one; fit again")
    packed = [_pack(part) for part in fitted.parts]
    if len(packed) == 1:
        return packed[0]
    found = {f"part.{k}.{name}": x for k, (_, own) in enumerate(packed) for name, x in own.items()}
    return {"parts": [facts for facts, _ in packed]}, found


def unpack(options: Mapping[str, Any], facts: Mapping[str, Any], found: Mapping[str, Tensor]) -> Fitted | Joined:
    """Fitted models from the facts and tensors of ``pack``.

    Raises:
        DataError: if weights are not finite.
    """
    given = choices(options["model"], options["model_kwargs"])
    if "parts" not in facts:
        return _unpack(options, given, facts, found)
    parts = [
        _unpack(options, [each for each in given if each.name in own["members"]], own, inside(found, f"part.{k}."))
        for k, own in enumerate(facts["parts"])
    ]
    return join(parts, [each.name for each in given])


def _pack(fitted: Fitted) -> tuple[dict[str, Any], dict[str, Tensor]]:
    facts, arrays = pack_frame(fitted)
    arrays |= {name: getattr(fitted, name) for name in ("loc", "scale")}
    arrays |= {f"ends.{name}": x for name, x in fitted.ends._asdict().items() if x is not None}
    arrays |= {f"scores.{k}": m.scores for k, m in enumerate(fitted.members)}
    for k, own in enumerate(member.series for member in fitted.members):
        arrays |= {f"series.{k}.{name}": x for name, x in own._asdict().items()} if own else {}
    found = tensors(arrays)
    for k, member in enumerate(fitted.members):
        found |= {f"task.{k}.{name}": x.contiguous() for name, x in member.predictor.state_dict().items()}
    facts |= {"inputs": asdict(fitted.inputs), "members": {m.name: asdict(m.predictor.series) for m in fitted.members}}
    return facts, found


def _unpack(
    options: Mapping[str, Any], given: Sequence[Choice], facts: Mapping[str, Any], found: Mapping[str, Tensor]
) -> Fitted:
    arrays: dict[str, Any] = {name: x.numpy() for name, x in found.items()}
    last: Any = {name: arrays.get(f"ends.{name}") for name in Ends._fields}
    fitted = Fitted(
        **unpack_frame(options, facts, found),
        loc=arrays["loc"],
        scale=arrays["scale"],
        inputs=Inputs(**facts["inputs"]),
        ends=Ends(**last),
    )
    for k, choice in enumerate(given):
        plan = own_plan(choice, fitted.plan)
        predictor = make_predictor(choice, plan, Series(**facts["members"][choice.name]))
        predictor.load_state_dict(inside(found, f"task.{k}."))
        if not all(bool(x.isfinite().all()) for x in predictor.state_dict().values() if x.is_floating_point()):
            raise DataError(f"weights of {choice.name} are not finite; fit again")
        own = {name: x.numpy() for name, x in inside(found, f"series.{k}.").items()}
        series = SeriesErrors(**own) if own else None
        fitted.members.append(Member(choice, plan, predictor.eval(), arrays[f"scores.{k}"], series))
    return fitted


def pack_frame(learned: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Facts and arrays of the frame that ``learned``, a ``Fitted`` or an ensemble, was fitted to."""
    facts = {
        "reading": asdict(learned.reading),
        "time": {"freq": learned.clock.freq, "dtype": dtype_name(learned.clock.dtype)},
        "kind": learned.kind,
        "ids": {"dtype": dtype_name(learned.ids.dtype), "values": learned.ids.tolist()},
        "plan": {**asdict(learned.plan), "loss": None},
        "report": learned.report,
        "notes": learned.notes,
    }
    arrays = {f"scales.{name}": x for name, x in learned.scales._asdict().items() if name != "ids"}
    return facts, {"last": learned.last, **arrays}


def unpack_frame(options: Mapping[str, Any], facts: Mapping[str, Any], found: Mapping[str, Tensor]) -> dict[str, Any]:
    """Rebuild the fields that ``pack_frame`` packed, by name."""
    plan, time, reading, kind = facts["plan"], facts["time"], Reading(**facts["reading"]), Kind(*facts["kind"])
    if not all(isinstance(name, str) for name in reading.names.values()) or kind.library not in LIBRARIES:
        raise ValueError(f"a frame of {kind.library!r} with the columns {list(reading.names.values())}")
    ids = pd.Index(facts["ids"]["values"]).astype(dtype_of(facts["ids"]["dtype"]))
    tuples = {name: tuple(plan[name]) for name in ("native", "levels", "notes")}
    return {
        "reading": reading,
        "plan": Plan(**{**plan, **tuples, "loss": options["loss"]}),
        "clock": Clock(time["freq"], dtype_of(time["dtype"])),
        "kind": kind,
        "ids": ids,
        "last": found["last"].numpy(),
        "scales": Scales(ids, *(found[f"scales.{name}"].numpy() for name in Scales._fields[1:])),
        "report": facts["report"],
        "notes": facts["notes"],
    }


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays as tensors that can be saved."""
    return {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in arrays.items()}


def inside(found: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): x for name, x in found.items() if name.startswith(prefix)}
