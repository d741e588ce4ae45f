"""Fitting: windows from a checked frame, a trained task for each model, calibration errors for intervals."""

import math
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seqmix.data.series.panel import Panel
from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.arrange import Arrays, arrange, ends
from seqmix.forecasting.covariates import Inputs, learn_inputs, static_rows
from seqmix.forecasting.factory import Choice, choices, make_task
from seqmix.forecasting.fitted import Fitted
from seqmix.forecasting.folder import mapped
from seqmix.forecasting.frame import Reading
from seqmix.forecasting.intervals import check_windows
from seqmix.forecasting.long import Long, channels, named, observed
from seqmix.forecasting.member import Member, calibrate, calibration_rows
from seqmix.forecasting.options import whole
from seqmix.forecasting.plan import Plan, make_plan
from seqmix.forecasting.scales import measure
from seqmix.forecasting.training import EVAL_BATCH, Training, make_training, train
from seqmix.tasks import AdamW, Forecasting


def fit(
    long: Long,
    static: pd.DataFrame | None,
    reading: Reading,
    options: Mapping[str, Any],
    val_size: int | str | np.ndarray,
    stage: str,
) -> Fitted:
    """Fit models on a checked frame.

    Args:
        long: the frame.
        static: static covariates of its series; None takes them from the frame.
        reading: how the frame was read.
        options: those of the Forecaster, as plain values.
        val_size: validation rows: a number, ``auto``, or those of each series.
        stage: what the fit is for; progress says it.

    Raises:
        ConfigError: if a column of the frame has the name of a model, whose forecasts it would hold.
    """
    models = choices(options["model"], options["model_kwargs"])
    taken = (reading.id_col, reading.time_col, reading.target_col, "cutoff")
    for name in [model.name for model in models if model.name in taken]:
        raise ConfigError(f"column {name!r} has the name of a model, whose forecasts it would hold; rename it")
    mixes, linear = any(m.cls.mixes_channels for m in models), all(m.cls.linear for m in models)
    plan = make_plan(options, long, mixes_channels=mixes, linear=linear)
    training = make_training(options, plan, long, val_size, stage)
    return _fit(long, static, reading, plan, models, training, None)


def fit_more(
    before: Fitted,
    long: Long,
    static: pd.DataFrame | None,
    options: Mapping[str, Any],
    max_steps: int,
    learning_rate: float | None,
) -> Fitted:
    """Train copies of fitted models further: plan and inputs are those of the fit, scales are those of the frame.

    Args:
        before: what was learned.
        long: the frame, of the same series where they are channels.
        static: static covariates of its series; None takes them from the frame.
        options: those of the Forecaster, as plain values.
        max_steps: most further steps.
        learning_rate: peak learning rate. Default: the same again.
    """
    long = channels(long, before.ids) if before.plan.joint else long
    given = {**options, "max_steps": whole("max_steps", max_steps, 1, False)}
    given["learning_rate"] = learning_rate or options["learning_rate"]
    training = make_training(given, before.plan, long, "auto", "further")
    return _fit(long, static, before.reading, before.plan, before.members, training, before.inputs)


def _fit(
    long: Long,
    static_df: pd.DataFrame | None,
    reading: Reading,
    plan: Plan,
    models: Sequence[Choice | Member],
    training: Training,
    inputs: Inputs | None,
) -> Fitted:
    started = time.perf_counter()
    n_val = training.n_val
    static = static_rows(long, reading.static, static_df, reading.id_col)
    inputs = inputs or learn_inputs(reading, long, static, np.diff(long.indptr) - n_val, plan)
    arrays = arrange(long, inputs, static, joint=plan.joint)
    panel = _panel(long, arrays, plan, training)
    _check_panel(panel, long, plan, n_val)
    n_series = len(arrays.indptr) - 1
    fitted = Fitted(
        reading=reading.again(long.clock.freq),
        plan=plan,
        clock=long.clock,
        kind=long.kind,
        ids=long.ids,
        inputs=inputs,
        loc=panel.loc,
        scale=panel.scale,
        scales=measure(long, arrays.values, arrays.indptr, panel.n_train, plan.season),
        ends=ends(arrays, np.arange(n_series), arrays.indptr[1:], plan.context, panel.loc, panel.scale),
        last=long.last,
        notes=_notes(long, reading, plan, panel, training),
    )
    lines = []
    for model in models:
        task = (
            _further(model, training) if isinstance(model, Member) else make_task(model, plan, panel.series, training)
        )
        lines.append(train(model.name, task, panel, training, plan.seed).assign(model=model.name))
        fitted.members.append(Member(model.name, task.eval(), calibrate(task, panel, plan.calibrated)))
    fitted.history = pd.concat(lines, ignore_index=True)
    fitted.report = {
        "series": len(long.ids),
        "windows": panel.n_windows,
        "parameters": {m.name: sum(p.numel() for p in m.task.parameters()) for m in fitted.members},
        "best_val_mse": [_least(line) for line in lines],
        "seconds": round(time.perf_counter() - started, 2),
    }
    return fitted


def _panel(long: Long, arrays: Arrays, plan: Plan, training: Training) -> Panel:
    n_val, n_test = (rows[:1] if plan.joint else rows for rows in (training.n_val, training.n_test))
    # values too large to be scaled are refused by their scale
    with np.errstate(over="ignore"):
        return Panel(
            arrays.values,
            arrays.indptr,
            plan.context,
            plan.horizon,
            training.batch_size,
            n_val=n_val,
            n_test=n_test,
            past=arrays.past,
            future=arrays.future,
            static=arrays.static,
            weight=None if arrays.weight is None else arrays.weight.astype(np.float32),
            scaler=plan.scaler,
            season=plan.season,
            short=plan.short,
            ids=[str(i) for i in (long.ids[:1] if plan.joint else long.ids)],
            eval_batch_size=EVAL_BATCH,
            out=mapped(arrays.values.shape) if isinstance(long.y, np.memmap) else None,
            seed=plan.seed,
        )


def _check_panel(panel: Panel, long: Long, plan: Plan, n_val: np.ndarray) -> None:
    """Refuse what would fail in training, or after it."""
    large = np.flatnonzero(~np.isfinite(panel.scale).all(1))
    if len(large):
        raise DataError(f"values of {long.ids[large[0]]!r} are too large to be scaled; divide them by a power of ten")
    lengths = np.diff(long.indptr)
    ours = np.arange(len(long.y)) - np.repeat(long.indptr[:-1], lengths) < np.repeat(lengths - n_val, lengths)
    if not (observed(long) & ours).any():
        raise DataError(
            f"no training row has a value and a weight above 0, before the last {int(n_val.max())} rows, which are for "
            "validation; give earlier rows, or pass val_size=0"
        )
    if panel.has_val and not any(_counts(batch) for batch in panel.val_dataloader()):
        raise DataError(
            f"no value is observed in the validation rows, the last {int(n_val.max())} of each series; pass another "
            "val_size, val_df=..., or val_size=0"
        )
    if plan.levels and (plan.calibrated or not plan.spread):
        check_windows(calibration_rows(panel), plan.levels)


def _counts(batch: Mapping[str, Tensor]) -> bool:
    """Whether anything of a batch was observed, with a weight."""
    seen = batch["y_mask"].flatten(1).any(1) if "y_mask" in batch else torch.ones(len(batch["y"]), dtype=torch.bool)
    return bool((seen & (batch["weight"] > 0) if "weight" in batch else seen).any())


def _further(member: Member, training: Training) -> Forecasting:
    """A copy of a fitted task, to be trained further."""
    task = deepcopy(member.task).train()
    task.optim = AdamW(lr=training.learning_rate)
    return task


def _notes(long: Long, reading: Reading, plan: Plan, panel: Panel, training: Training) -> list[str]:
    notes, n_val = list(plan.notes), training.n_val
    if reading.freq is None:
        notes.append(f"freq {long.clock.freq!r} was inferred")
    if long.ignored:
        notes.append(f"columns that are not used: {', '.join(long.ignored)}")
    if np.isnan(long.y).any():
        codes = np.repeat(np.arange(len(long.ids)), np.diff(long.indptr))
        counts = np.bincount(codes, np.isnan(long.y), len(long.ids)).astype(int)
        first = ", ".join(f"{long.ids[i]} {counts[i]}" for i in np.flatnonzero(counts)[:5])
        notes.append(f"{counts.sum()} missing values are left out of input and loss: {first}")
    if panel.has_val:
        notes.append(f"the last {int(n_val.max())} rows are for validation, not trained on")
        origins = int(np.where(training.n_test > 0, training.n_test, n_val).max()) - plan.horizon + 1
        if origins < 10:
            notes.append(f"intervals are calibrated on {origins} forecast origins; ten or more would be surer")
    else:
        notes.append("no series is long enough for validation: training goes on to max_steps")
    few = np.flatnonzero(np.diff(long.indptr) - n_val < plan.horizon + plan.context)
    if len(few) and len(long.ids) > 1:
        notes.append(f"series shorter than a window: {named([long.ids[i] for i in few])}; short={plan.short!r}")
    return notes


def _least(line: pd.DataFrame) -> float:
    return float(line["val_mse"].min()) if line["val_mse"].notna().any() else math.nan
