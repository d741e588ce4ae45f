"""Fitting: cut windows from a checked frame, train a predictor for each model, calibrate intervals."""

import math
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seqmix.data.series.panel import Panel, scaling
from seqmix.errors import ConfigError, DataError, NotFittedError
from seqmix.forecasting.arrange import Arrays, arrange
from seqmix.forecasting.covariates import Inputs, learn_inputs
from seqmix.forecasting.factory import Choice, check_covariates, choices, make_predictor, own_plan
from seqmix.forecasting.fitted import Fitted, last_windows
from seqmix.forecasting.folder import read_long, release_memory
from seqmix.forecasting.frame import Reading
from seqmix.forecasting.given_rows import static_rows
from seqmix.forecasting.intervals import FEWEST, check_windows, enough
from seqmix.forecasting.joined import Joined, join
from seqmix.forecasting.long import Long, among_first, channels, missing_values, named, observed, unobserved_tail
from seqmix.forecasting.member import Member, calibrate, calibration_rows, naive_calibration, train
from seqmix.forecasting.options import whole
from seqmix.forecasting.plan import Plan, check_pretrained, held_out, make_plan
from seqmix.forecasting.scales import measure
from seqmix.forecasting.training import Training, eval_batch, make_training
from seqmix.mapped import row_blocks
from seqmix.tasks.predictor import WindowPredictor


def fit(
    long: Long,
    static: pd.DataFrame | None,
    reading: Reading,
    options: Mapping[str, Any],
    val_size: int | str | np.ndarray,
    stage: str,
) -> Fitted | Joined:
    """Fit models on a checked frame, each as it would be fitted alone.

    Args:
        long: the frame.
        static: static covariates of its series. None: they are in the frame.
        reading: how the frame was read.
        options: those of the Forecaster, as plain values.
        val_size: validation rows: a number, ``auto``, or those of each series.
        stage: purpose of the fit, for progress messages.

    Raises:
        ConfigError: if a column of the frame has the name of a model, or a model cannot use the covariates.
    """
    models = choices(options["model"], options["model_kwargs"])
    taken = (reading.id_col, reading.time_col, reading.target_col, "cutoff")
    for name in [model.name for model in models if model.name in taken]:
        raise ConfigError(f"column {name!r} has the name of a model, whose forecasts it would hold; rename it")
    check_covariates(models, [*reading.past, *reading.future, *reading.static, *["calendar"] * options["calendar"]])
    if all(m.cls.pretrained for m in models):
        check_pretrained(options)
    groups: list[tuple[Plan, bool, list[Job]]] = []
    for m in models:
        plan, closed = _plan_of(m, long, options), m.cls.closed_form
        job = Job(m, own_plan(m, plan), make_training(options, stage, joint=plan.joint, pretrained=m.cls.pretrained))
        # what is common to two models is made once
        same = next((jobs for other, kind, jobs in groups if other == plan and kind == closed), None)
        if same is None:
            groups.append((plan, closed, [job]))
        else:
            same.append(job)
    parts = [_fit(long, static, reading, plan, jobs, val_size, None) for plan, _, jobs in groups]
    return join(parts, [m.name for m in models])


def _plan_of(choice: Choice, long: Long, options: Mapping[str, Any]) -> Plan:
    cls = choice.cls
    return make_plan(options, long, mixes_channels=choice.mixes_channels, linear=cls.linear, pretrained=cls.pretrained)


def as_they_are(df: Any, reading: Reading, options: Mapping[str, Any]) -> Fitted | Joined:
    """State for forecasts of pretrained models after the frame ``df``, without training.

    Raises:
        NotFittedError: if there is no frame, or a model needs training.
    """
    models = choices(options["model"], options["model_kwargs"])
    untrained = [model.name for model in models if not model.cls.pretrained]
    if df is None or untrained:
        some = f", and {', '.join(untrained)} needs training" if 0 < len(untrained) < len(models) else ""
        raise NotFittedError(f"this Forecaster is not fitted{some}; call fit() or load()")
    return fit(read_long(df, reading), None, reading, {**options, "max_steps": 0}, "auto", "forecast")


def fit_more(
    before: Fitted | Joined,
    long: Long,
    static: pd.DataFrame | None,
    options: Mapping[str, Any],
    max_steps: int,
    learning_rate: float | None,
) -> Fitted | Joined:
    """Train copies of fitted models further: plan and inputs are those of the fit, scales are those of the frame.

    Args:
        before: the fitted state.
        long: the frame, of the same series where they are channels.
        static: static covariates of its series. None: they are in the frame.
        options: those of the Forecaster, as plain values.
        max_steps: most further steps.
        learning_rate: peak learning rate. Default: the same again.
    """
    given = {**options, "max_steps": whole("max_steps", max_steps, 1, False)}
    given["learning_rate"] = learning_rate or options["learning_rate"]
    parts = []
    for part in before.parts:
        rows = channels(long, part.ids) if part.plan.joint else long
        jobs = [_job_further(m, given) for m in part.members]
        parts.append(_fit(rows, static, part.reading, part.plan, jobs, "auto", part.inputs))
    return join(parts, [member.name for member in before.members])


def _job_further(member: Member, options: Mapping[str, Any]) -> "Job":
    pretrained = member.choice.cls.pretrained
    training = make_training(options, "further", joint=member.plan.joint, pretrained=pretrained)
    return Job(member.choice, member.plan, training, deepcopy(member.predictor).train())


def least_rows(options: Mapping[str, Any]) -> int:
    """Least rows of a series: one, where nothing is trained, or else a training window."""
    models = choices(options["model"], options["model_kwargs"])
    as_is = options["max_steps"] == 0 and all(model.cls.pretrained for model in models)
    return 1 if as_is else options["horizon"] + 1


class Job(NamedTuple):
    """A model to be trained."""

    choice: Choice
    plan: Plan
    training: Training
    predictor: WindowPredictor | None = None  # trained before. Default: a new one

    @property
    def windowed(self) -> bool:
        """Whether windows of the frame are needed, to train or to calibrate on."""
        return bool(not self.choice.cls.pretrained or self.training.max_steps or self.plan.calibrated)

    @property
    def windows(self) -> tuple[int, int]:
        """Key of its windows: context and batch size."""
        return self.plan.context, self.training.batch_size


def _fit(
    long: Long,
    static_df: pd.DataFrame | None,
    reading: Reading,
    plan: Plan,
    jobs: Sequence[Job],
    val_size: int | str | np.ndarray,
    inputs: Inputs | None,
) -> Fitted:
    started = time.perf_counter()
    lengths = np.diff(long.indptr)
    n_val, n_test = held_out(plan, lengths, unobserved_tail(long), val_size)
    notes = list(plan.notes)
    if isinstance(val_size, str) and not n_val.any():
        jobs, kept = _without_fine_tuning(jobs)
        notes += kept
    whole_rows = isinstance(val_size, str) and _needs_no_validation(jobs, plan, lengths)
    if whole_rows or not any(job.windowed for job in jobs):
        n_val, n_test = np.zeros_like(n_val), np.zeros_like(n_test)
    static = static_rows(long, reading.static, static_df, reading.id_col)
    inputs = inputs or learn_inputs(reading, long, static, lengths - n_val, plan)
    arrays = arrange(long, inputs, static, joint=plan.joint)
    n_series = len(arrays.indptr) - 1
    n_train = np.diff(arrays.indptr) - n_val[:n_series]
    loc, scale = scaling(arrays.values, arrays.indptr, n_train, plan.scaler, plan.season)
    _check_values(long, n_val)
    _check_rows(long, plan, jobs)
    panels: dict[tuple[int, int], Panel] = {}
    for job in jobs:
        if job.windowed and job.windows not in panels:
            panels[job.windows] = _panel(long, arrays, job, n_val[:n_series], n_test[:n_series])
            _check_panel(panels[job.windows], job, int(n_val.max()))
    fitted = Fitted(
        reading=reading.again(long.clock.freq),
        plan=plan,
        clock=long.clock,
        kind=long.kind,
        ids=long.ids,
        inputs=inputs,
        loc=loc,
        scale=scale,
        scales=measure(long, arrays.values, arrays.indptr, n_train, plan.season),
        ends=last_windows(arrays, plan, max(job.plan.context for job in jobs), long.ids, loc, scale),
        last=long.last,
        notes=[*notes, *_notes(long, reading, jobs, next(iter(panels.values()), None), n_val, n_test)],
    )
    if isinstance(long.y, np.memmap):
        # blocks of rows have passed through memory
        release_memory()
    lines = []
    for job in jobs:
        member, line, unsure = _trained(job, panels.get(job.windows), arrays)
        fitted.notes += unsure
        lines.append(line.assign(model=member.name))
        fitted.members.append(member)
    fitted.history = pd.concat(lines, ignore_index=True)
    fitted.report = {
        "series": len(long.ids),
        "windows": next((panel.n_windows for panel in panels.values()), 0),
        "parameters": {m.name: sum(p.numel() for p in m.predictor.parameters()) for m in fitted.members},
        "best_val_mse": [_least(line) for line in lines],
        "seconds": round(time.perf_counter() - started, 2),
    }
    return fitted


def _needs_no_validation(jobs: Sequence[Job], plan: Plan, lengths: np.ndarray) -> bool:
    """Whether all models are in closed form, and have windows that do not overlap to be calibrated on."""
    closed = all(job.choice.cls.closed_form for job in jobs)
    several = not plan.joint and (lengths > 2 * plan.horizon).sum() > 1
    return closed and bool(several or lengths.max() >= plan.context + 4 * plan.horizon)


def _without_fine_tuning(jobs: Sequence[Job]) -> tuple[list[Job], list[str]]:
    """Jobs that leave pretrained models as they are, and a note if one would have been trained."""
    tuned = [job.choice.name for job in jobs if job.choice.cls.pretrained and job.training.max_steps]
    kept = [
        job._replace(training=replace(job.training, max_steps=0)) if job.choice.cls.pretrained else job for job in jobs
    ]
    note = f"no series is long enough for validation: the weights of {', '.join(tuned)} stay as they are"
    return kept, [note] if tuned else []


def _trained(job: Job, panel: Panel | None, arrays: Arrays) -> tuple[Member, pd.DataFrame, list[str]]:
    """The trained model, the errors of each validation, and notes about intervals from few windows."""
    plan, scores, own, notes = job.plan, np.zeros((0, job.plan.horizon)), None, []
    series = arrays.series(plan.context, plan.horizon) if panel is None else panel.series
    predictor = job.predictor or make_predictor(job.choice, plan, series)
    one_by_one = ("train on one series at a time, mode='global'",) * plan.joint
    how = replace(job.training, lower={"context_length": plan.context}, others=one_by_one)
    line = train(job.choice.name, predictor, panel, how, plan.seed)
    predictor.to(job.training.device)
    if panel is not None and (plan.calibrated or not plan.spread):
        scores, own = calibrate(predictor, panel, plan.calibrated)
    if panel is not None and not plan.spread:
        n, top = int((~np.isnan(scores)).sum(0).min()), max(plan.levels, default=0)
        if n < FEWEST:
            scores, own = naive_calibration(arrays, panel, plan, job.choice.cls), None
            notes = [f"{n} calibration windows are few: intervals are as wide as those of a naive forecast"]
        elif not enough(n, top):
            notes = [
                f"intervals of level {top:g} are by Student's t: {n} calibration windows have no score of its rank"
            ]
    return Member(job.choice, plan, predictor.eval(), scores, own), line, notes if plan.levels else []


def _panel(long: Long, arrays: Arrays, job: Job, n_val: np.ndarray, n_test: np.ndarray) -> Panel:
    plan = job.plan
    return Panel(
        arrays.values,
        arrays.indptr,
        plan.context,
        plan.horizon,
        job.training.batch_size,
        n_val=n_val,
        n_test=n_test,
        past=arrays.past,
        future=arrays.future,
        static=arrays.static,
        weight=arrays.weight,
        scaler=plan.scaler,
        season=plan.season,
        short=plan.short,
        # pretrained models take short histories, and learn from them
        least=min(plan.horizon, plan.context) if job.choice.cls.pretrained else None,
        ids=[str(i) for i in (long.ids[:1] if plan.joint else long.ids)],
        eval_batch_size=eval_batch(arrays.series(plan.context, plan.horizon)),
        seed=plan.seed,
    )


def _check_values(long: Long, n_val: np.ndarray) -> None:
    """Refuse frames without a value to train on."""
    seen, ours = observed(long), among_first(long, np.diff(long.indptr) - n_val)
    if not any((seen[rows] & ours[rows]).any() for rows in row_blocks(len(seen))):
        raise DataError(
            f"no training row has a value and a weight above 0, before the last {int(n_val.max())} rows, which are for "
            "validation; give earlier rows, or pass val_size=0"
        )


def _check_rows(long: Long, plan: Plan, jobs: Sequence[Job]) -> None:
    """Refuse frames whose longest series has no row to forecast from before a horizon to learn."""
    rows, need = int(np.diff(long.indptr).max()), plan.horizon + 1
    if rows < need and plan.short == "pad" and any(job.windowed and not job.choice.cls.pretrained for job in jobs):
        raise DataError(
            f"the longest series has {rows} rows, and training for horizon = {plan.horizon} takes {need}; give more "
            "rows or a smaller horizon, or use model='auto'"
        )


def _check_panel(panel: Panel, job: Job, n_val: int) -> None:
    """Refuse options and data that would fail in training, or after it."""
    plan = job.plan
    if panel.has_val and not any(_counts(batch) for batch in panel.loader("val")):
        raise DataError(
            f"no value is observed in the validation rows, the last {n_val} of each series; pass another val_size, "
            "val_df=..., or val_size=0"
        )
    if plan.calibrated:
        check_windows(calibration_rows(panel, job.choice.cls), plan.levels)


def _counts(batch: Mapping[str, Tensor]) -> bool:
    """Whether anything of a batch was observed, with a weight."""
    seen = batch["y_mask"].flatten(1).any(1) if "y_mask" in batch else torch.ones(len(batch["y"]), dtype=torch.bool)
    return bool((seen & (batch["weight"] > 0) if "weight" in batch else seen).any())


def _notes(
    long: Long, reading: Reading, jobs: Sequence[Job], panel: Panel | None, n_val: np.ndarray, n_test: np.ndarray
) -> list[str]:
    plan, notes = jobs[0].plan, frame_notes(long, reading)
    if panel is None:
        return notes
    if panel.has_val:
        notes.append(f"the last {int(n_val.max())} rows are for validation, not trained on")
        origins = int(np.where(n_test > 0, n_test, n_val).max()) - plan.horizon + 1
        if origins < 10:
            notes.append(f"intervals are calibrated on {origins} forecast origins; ten or more would be surer")
    elif all(job.choice.cls.closed_form for job in jobs):
        inside = ": intervals are calibrated on training windows, by fits without them" if panel.blocks() else ""
        notes.append(f"no rows are held out{inside}")
    else:
        notes.append("no series is long enough for validation: training goes on to max_steps")
    few = np.flatnonzero(np.diff(long.indptr) - n_val < plan.horizon + plan.context)
    if len(few) and len(long.ids) > 1:
        notes.append(f"series shorter than a window: {named([long.ids[i] for i in few])}; short={plan.short!r}")
    return notes


def frame_notes(long: Long, reading: Reading) -> list[str]:
    """Messages for the user about the frame."""
    notes = []
    if reading.freq is None:
        notes.append(f"freq {long.clock.freq!r} was inferred")
    if long.ignored:
        notes.append(f"columns that are not used: {', '.join(long.ignored)}")
    counts = missing_values(long)
    if counts.any():
        first = ", ".join(f"{long.ids[i]} {counts[i]}" for i in np.flatnonzero(counts)[:5])
        notes.append(f"{counts.sum()} missing values are left out of input and loss: {first}")
        empty = np.flatnonzero(counts == np.diff(long.indptr))
        if len(empty):
            notes.append(f"series without any value are forecast as 0: {named([long.ids[i] for i in empty])}")
    return notes


def _least(line: pd.DataFrame) -> float:
    return float(line["val_mse"].min()) if line["val_mse"].notna().any() else math.nan
