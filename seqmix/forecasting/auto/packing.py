"""Serialization of an ensemble: facts for JSON and tensors for safetensors."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from torch import Tensor

from seqmix.forecasting.auto.ensemble import Ensemble
from seqmix.forecasting.auto.parts import Learned, Local, Part
from seqmix.forecasting.auto.portfolio import BASE, candidates
from seqmix.forecasting.auto.simple import seasonal_naive
from seqmix.forecasting.auto.spread import Spread
from seqmix.forecasting.auto.weights import Weights
from seqmix.forecasting.packing import inside, pack_frame, tensors, unpack, unpack_frame


def pack_ensemble(ensemble: Ensemble) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Facts and tensors of an ensemble."""
    facts, arrays = pack_frame(ensemble)
    y, indptr = ensemble.naive.kept
    arrays |= {"unit": ensemble.unit, "stretch": ensemble.stretch}
    arrays |= {f"weights.{name}": x for name, x in ensemble.weights._asdict().items()}
    arrays |= {"kept.y": y, "kept.indptr": indptr}
    for k, spread in enumerate(ensemble.spreads):
        arrays |= {f"spread.{k}.{name}": x for name, x in spread._asdict().items()}
    facts["parts"], found = {}, tensors(arrays)
    for k, part in enumerate(ensemble.parts):
        facts["parts"][part.name], inner = part.packed()
        found |= {f"part.{k}.{name}": x for name, x in inner.items()}
    return {**facts, "leaderboard": ensemble.leaderboard.to_dict("list")}, found


def unpack_ensemble(options: Mapping[str, Any], facts: Mapping[str, Any], found: Mapping[str, Tensor]) -> Ensemble:
    """An ensemble from the facts and tensors of ``pack_ensemble``."""
    known = {each.name: each for each in candidates((options["model_kwargs"] or {}).get("members"), math.inf)}
    frame = unpack_frame(options, facts, found)
    kept = found["kept.y"].numpy(), found["kept.indptr"].numpy()
    parts: list[Part] = []
    for k, (name, inner) in enumerate(facts["parts"].items()):
        each = known[name]
        if each.local is not None:
            parts.append(Local(name, each.local, frame["plan"].season, kept))
            continue
        given = {"model": each.model, "model_kwargs": None, "loss": options["loss"]}
        fitted = unpack(given, inner, inside(found, f"part.{k}."))
        parts.append(Learned(name, fitted, each.model, bare=each.bare))
    spreads = [Spread(*(found[f"spread.{k}.{name}"].numpy() for name in Spread._fields)) for k in range(len(parts))]
    return Ensemble(
        **frame,
        naive=Local(BASE, seasonal_naive, frame["plan"].season, kept),
        parts=parts,
        spreads=spreads,
        leaderboard=pd.DataFrame(facts["leaderboard"]),
        weights=Weights(*(found[f"weights.{name}"].numpy() for name in Weights._fields)),
        unit=found["unit"].numpy(),
        stretch=found["stretch"].numpy(),
    )
