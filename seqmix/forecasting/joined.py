"""Models that were fitted apart, with the methods of ``Fitted``: each forecasts as it does alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from seqmix.forecasting.clock import Clock
from seqmix.forecasting.fitted import Fitted
from seqmix.forecasting.frame import Reading
from seqmix.forecasting.kind import Kind
from seqmix.forecasting.long import Long, channels
from seqmix.forecasting.member import Member
from seqmix.forecasting.plan import Plan
from seqmix.forecasting.scales import Scales


@dataclass(frozen=True)
class Joined:
    """Fits of several models to one frame, whose plans or validation rows differ.

    Args:
        parts: the fits.
        members: the fitted models, in the order of the results.
        reading: how frames are read.
        plan: the plan of the first model.
        clock: the time steps.
        kind: library and types of the frame of the fit.
        ids: the series, in order of first appearance.
        last: stamp of the last row of each series.
        scales: units of errors, from the training rows of the first model.
        history: errors during training.
        report: sizes of the fit.
        notes: messages for the user.
    """

    parts: list[Fitted]
    members: list[Member]
    reading: Reading
    plan: Plan
    clock: Clock
    kind: Kind
    ids: pd.Index
    last: np.ndarray
    scales: Scales
    history: pd.DataFrame
    report: dict[str, Any]
    notes: list[str]

    @property
    def first_plan(self) -> Plan:
        """The plan of the first model."""
        return self.members[0].plan

    @property
    def leaderboard(self) -> pd.DataFrame:
        """Refused, as by each of the fits."""
        return self.parts[0].leaderboard

    def forecast(
        self,
        long: Long | None,
        static: pd.DataFrame | None,
        future: pd.DataFrame | None,
        horizon: int,
        levels: Sequence[float],
        quantiles: Sequence[float],
    ) -> pd.DataFrame:
        """Forecasts after the last rows of ``long``, or of the frame of the fit; one row for each series and step."""
        rows = None if long is None else self._ordered(long)
        return self._side_by_side(lambda part: part.forecast(rows, static, future, horizon, levels, quantiles))

    def backtest(
        self,
        long: Long,
        static: pd.DataFrame | None,
        rows: np.ndarray,
        levels: Sequence[float],
        quantiles: Sequence[float],
    ) -> pd.DataFrame:
        """Forecasts from cutoffs ``rows`` ``(K,)`` before the end of each series, with ``cutoff`` and the truth."""
        known = self._ordered(long)
        return self._side_by_side(lambda part: part.backtest(known, static, rows, levels, quantiles))

    def _ordered(self, long: Long) -> Long:
        """The series in the order of the fit, if a model has them as channels."""
        return channels(long, self.ids) if any(part.plan.joint for part in self.parts) else long

    def _side_by_side(self, run: Callable[[Fitted], pd.DataFrame]) -> pd.DataFrame:
        """The frames of all fits as one, the columns of the models in their order."""
        frames = [run(part) for part in self.parts]
        keys = [name for name in frames[0] if all(name in frame for frame in frames)]
        own = {}
        for part, frame in zip(self.parts, frames, strict=True):
            # a model has as many columns as another
            columns = frame.columns.drop(keys).to_numpy().reshape(len(part.members), -1)
            own |= {member.name: frame[mine] for member, mine in zip(part.members, columns, strict=True)}
        return pd.concat([frames[0][keys], *(own[member.name] for member in self.members)], axis=1)


def join(parts: Sequence[Fitted], names: Sequence[str]) -> Fitted | Joined:
    """Several fits as one.

    Args:
        parts: the fits.
        names: names of their models in the order of the results.
    """
    if len(parts) == 1:
        return parts[0]
    members = {member.name: member for part in parts for member in part.members}
    (first,) = (part for part in parts if any(member.name == names[0] for member in part.members))
    lines = [part.history.query("model == @name") for name in names for part in parts if len(part.history)]
    return Joined(
        parts=list(parts),
        members=[members[name] for name in names],
        reading=first.reading,
        plan=first.plan,
        clock=first.clock,
        kind=first.kind,
        ids=first.ids,
        last=first.last,
        scales=first.scales,
        history=pd.concat(lines, ignore_index=True) if lines else pd.DataFrame(),
        report=_report(parts, first, names),
        notes=_notes(parts),
    )


def _report(parts: Sequence[Fitted], first: Fitted, names: Sequence[str]) -> dict[str, Any]:
    """Sizes of all fits: windows of the first model that has some, values of each model in their order."""
    counts = [part.report["windows"] for part in (first, *parts)]
    parameters = {name: n for part in parts for name, n in part.report["parameters"].items()}
    errors = {
        member.name: error
        for part in parts
        for member, error in zip(part.members, part.report["best_val_mse"], strict=True)
    }
    return {
        "series": first.report["series"],
        "windows": next((n for n in counts if n), 0),
        "parameters": {name: parameters[name] for name in names},
        "best_val_mse": [errors[name] for name in names],
        "seconds": round(sum(part.report["seconds"] for part in parts), 2),
    }


def _notes(parts: Sequence[Fitted]) -> list[str]:
    """What all fits say, then what some say, with the names of their models."""
    every = list(dict.fromkeys(note for part in parts for note in part.notes))
    common = [note for note in every if all(note in part.notes for part in parts)]
    names = {
        note: ", ".join(member.name for part in parts if note in part.notes for member in part.members)
        for note in every
        if note not in common
    }
    return [*common, *(f"{name}: {note}" for note, name in names.items())]
