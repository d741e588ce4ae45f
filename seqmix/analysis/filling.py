"""Fitting and running the imputation task behind the Imputer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seqmix.analysis.data import InMemory, Scaling, learn_scaling
from seqmix.analysis.series import Collection
from seqmix.analysis.windows import Overlapped, Span, SpanWindows
from seqmix.data.loader import WindowLoader
from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.optimizing import optimize
from seqmix.forecasting.training import Training, building
from seqmix.models import class_of, imputer_factory
from seqmix.series import Series
from seqmix.tasks import AdamW, Imputation

# windows per forward pass
_EVAL_BATCH = 256
# draws of hidden cells that intervals are calibrated on
_DRAWS = 4
# first distances, in time steps to the nearest observed value, of the groups that intervals are calibrated in
_DISTANCES = np.array([1, 2, 4, 8, 16])
# default window length, in time steps
_CONTEXT = 96


@dataclass(frozen=True)
class Plan:
    """Options of an imputer and its training.

    Args:
        model: name, class or ``functools.partial``.
        options: options of the model.
        n_channels: number of channels.
        context: window length. Default: from the lengths of the series.
        pattern: pattern of hidden cells.
        rate: share of the observed cells that is hidden.
        levels: coverage of the intervals in percent.
        val_size: share that is held out.
        seed: seed of weights, order, dropout and hidden cells.
        training: training options of the model.
    """

    model: Any
    options: Mapping[str, Any]
    n_channels: int
    context: int | None
    pattern: Literal["point", "subsequence", "block", "mixed"]
    rate: float
    levels: tuple[float, ...]
    val_size: float
    seed: int
    training: Training


@dataclass(frozen=True)
class FittedImputer:
    """A fitted imputer: trained task, scaling of the series, and half widths of intervals.

    Args:
        task: the task.
        scaling: scaling of each channel.
        radius: half widths of intervals in scaled units, ``(distances, C)``, by level.
    """

    task: Imputation
    scaling: Scaling
    radius: dict[float, np.ndarray]

    def fill(self, series: Collection) -> list[np.ndarray]:
        """A value for each cell, ``(T_i, C)`` per series; those of observed cells are theirs."""
        values = self.scaling.apply(series.values, series.names)
        spans = [Span(i, 0, len(x)) for i, x in enumerate(values)]
        L = self.task.series.context
        windows = SpanWindows(values, spans, L, stride=max(1, L // 2))
        found = Overlapped([len(x) for x in values], L, values[0].shape[1])
        self.task.eval()
        with torch.inference_mode():
            for batch in WindowLoader(windows, _EVAL_BATCH):
                places = windows.places[batch["window"]].tolist()
                for (span, first), y in zip(places, self.task(batch).double().numpy(), strict=True):
                    found.add(span, first, y)
        filled = [y * self.scaling.scale + self.scaling.loc for y in found.means()]
        return [np.where(np.isnan(x), y, x) for x, y in zip(series.values, filled, strict=True)]

    def bounds(
        self, series: Collection, filled: Sequence[np.ndarray]
    ) -> dict[float, tuple[list[np.ndarray], list[np.ndarray]]]:
        """Lower and upper bounds by level, ``(T_i, C)`` per series; the value itself where it was observed."""
        found: dict[float, tuple[list[np.ndarray], list[np.ndarray]]] = {level: ([], []) for level in self.radius}
        for x, y in zip(series.values, filled, strict=True):
            missing = np.isnan(x)
            far = np.log(distances(~missing).clip(min=1))
            for level, radius in self.radius.items():
                each = [np.interp(d, np.log(_DISTANCES), r) for d, r in zip(far.T, radius.T, strict=True)]
                half = np.where(missing, np.stack(each, 1) * self.scaling.scale, 0.0)
                found[level][0].append(y - half)
                found[level][1].append(y + half)
        return found

    def error(self, series: Collection) -> float:
        """Mean squared error of hidden cells in scaled units.

        Raises:
            DataError: if no cell could be hidden.
        """
        values = self.scaling.apply(series.values, series.names)
        spans = [Span(i, 0, len(x)) for i, x in enumerate(values)]
        L = self.task.series.context
        windows = SpanWindows(values, spans, L, stride=L)
        errors = np.concatenate([error[hidden] for error, hidden, _ in _hidden_errors(self.task, windows, 1)])
        if not len(errors):
            seen = sum(int((~np.isnan(x)).sum()) for x in series.values)
            raise DataError(f"none of {seen} observed values was hidden for the score; give more, or fit with rate=0.5")
        return float(np.square(errors).mean())

    def pack(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Pack the fitted state as plain values and tensors."""
        tensors = {f"scaling.{name}": torch.from_numpy(x) for name, x in self.scaling._asdict().items()}
        tensors |= {f"radius.{level:g}": torch.from_numpy(x) for level, x in self.radius.items()}
        tensors |= {f"task.{name}": x.contiguous() for name, x in self.task.state_dict().items()}
        return {"context": self.task.series.context, "levels": list(self.radius)}, tensors


def fit_imputer(plan: Plan, series: Collection) -> tuple[FittedImputer, pd.DataFrame, list[str]]:
    """Train a model to fill hidden cells; returns the fitted state, a row for each validation, and notes.

    Raises:
        DataError: if a channel has no value.
        ConfigError: if intervals have nothing to be calibrated on.
    """
    absent = np.all([np.isnan(x).all(0) for x in series.values], axis=0)
    if absent.any():
        raise DataError(
            f"channel {series.channels[int(absent.argmax())]!r} has no value at all; leave it out, or give values"
        )
    context = default_context(series.lengths) if plan.context is None else plan.context
    task = _make_task(plan, context)
    train, held = split(series.lengths, context, plan.val_size, plan.seed)
    scaling = learn_scaling([series.values[s.series][s.first : s.last] for s in train])
    values = scaling.apply(series.values, series.names)
    if held:
        val = SpanWindows(values, held, context, stride=max(1, context // 4))
        if not any(task.hide(batch, 0)[1].any() for batch in WindowLoader(val, _EVAL_BATCH)):
            train, held = split(series.lengths, context, 0, plan.seed)
    splits: dict[Any, Any] = {"train": SpanWindows(values, train, context, stride=1)}
    splits |= {"val": val} if held else {}
    data = InMemory(splits, plan.training.batch_size, eval_batch_size=_EVAL_BATCH, seed=plan.seed)
    learns = any(p.requires_grad for p in task.parameters())
    trained = optimize(task.label, task, data, plan.training, plan.seed, validate=bool(held)) if learns else None
    history = pd.DataFrame() if trained is None else trained
    levels = plan.levels
    if levels and not held:
        raise ConfigError(
            f"levels = {list(levels)} are calibrated on held-out windows, and there are none; give longer series, or a "
            f"smaller context than {context}"
        )
    radius = _calibrate(task, splits["val"], levels) if levels else {}
    steps = learns and not task.model.closed_form
    notes = [] if held or not steps else ["no window is held out: training goes on to max_steps"]
    return FittedImputer(task.eval(), scaling, radius), history, notes


def unpack_imputer(plan: Plan, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FittedImputer:
    """Rebuild an imputer from the result of ``pack``."""
    scaling = Scaling(*(tensors[f"scaling.{name}"].numpy() for name in Scaling._fields))
    task = _make_task(plan, facts["context"])
    task.load_state_dict({name[5:]: x for name, x in tensors.items() if name.startswith("task.")})
    radius = {level: tensors[f"radius.{level:g}"].numpy() for level in facts["levels"]}
    return FittedImputer(task.eval(), scaling, radius)


def default_context(lengths: np.ndarray) -> int:
    """Window length for series of these lengths: a quarter of the longest, or all of it where series are short."""
    longest = int(lengths.max())
    return min(_CONTEXT, max(longest // 4, min(longest, 24)))


def split(lengths: np.ndarray, context: int, share: float, seed: int) -> tuple[list[Span], list[Span]]:
    """Training and held-out spans: the ends of series that are long enough, or whole series where none is.

    Args:
        lengths: time steps of each series.
        context: window length.
        share: share that is held out.
        seed: seed of the choice of whole series.
    """
    whole = [Span(i, 0, int(rows)) for i, rows in enumerate(lengths)]
    if not share:
        return whole, []
    tails = np.where(lengths >= 3 * context, np.maximum(context, np.round(share * lengths)), 0).astype(int)
    if tails.any():
        train = [span._replace(last=span.last - int(tail)) for span, tail in zip(whole, tails, strict=True)]
        return train, [
            span._replace(first=span.last - int(tail)) for span, tail in zip(whole, tails, strict=True) if tail
        ]
    count = min(round(share * len(whole)), len(whole) - 1)
    chosen = set(np.random.default_rng(seed).permutation(len(whole))[:count].tolist())
    return [s for s in whole if s.series not in chosen], [s for s in whole if s.series in chosen]


def distances(observed: np.ndarray) -> np.ndarray:
    """Time steps from each cell of ``(T, C)`` to the nearest observed one of its channel; T where there is none."""
    T = len(observed)
    steps = np.arange(T)[:, None]
    before = np.maximum.accumulate(np.where(observed, steps, -T), 0)
    after = np.minimum.accumulate(np.where(observed, steps, 2 * T)[::-1], 0)[::-1]
    return np.minimum(np.minimum(steps - before, after - steps), T)


def _groups(distance: np.ndarray) -> np.ndarray:
    return np.searchsorted(_DISTANCES, distance.clip(min=1), "right") - 1


def _hidden_errors(
    task: Imputation, windows: SpanWindows, draws: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Errors, hidden cells and distances of batches of windows, ``(B, L, C)`` each, for several draws of cells."""
    task.eval()
    with torch.inference_mode():
        for draw in range(draws):
            for batch in WindowLoader(windows, _EVAL_BATCH):
                left, hidden = task.hide(batch, draw)
                error = (task(left) - batch["x"]).double().numpy()
                apart = np.stack([distances(mask) for mask in left["x_mask"].numpy()])
                yield error, hidden.numpy(), apart


def _calibrate(task: Imputation, windows: SpanWindows, levels: Sequence[float]) -> dict[float, np.ndarray]:
    """Quantiles of the absolute errors of hidden cells by channel and distance, those of the channel where few are."""
    found = list(_hidden_errors(task, windows, _DRAWS))
    C = found[0][0].shape[2]
    error, group, channel = (
        np.concatenate(parts)
        for parts in zip(
            *((np.abs(error[hidden]), _groups(apart)[hidden], np.nonzero(hidden)[2]) for error, hidden, apart in found),
            strict=True,
        )
    )
    radius = {level: np.zeros((len(_DISTANCES), C)) for level in levels}
    for c in range(C):
        ours = error[channel == c] if (channel == c).any() else error
        for g in range(len(_DISTANCES)):
            near = error[(channel == c) & (group == g)]
            for level in levels:
                # the quantile of conformal prediction needs this many errors
                enough = len(near) >= 100 / (100 - level)
                radius[level][g, c] = _quantile(near if enough else ours, level / 100)
        for level in levels:
            # intervals do not shrink with distance from observed values
            radius[level][:, c] = np.maximum.accumulate(radius[level][:, c])
    return radius


def _quantile(errors: np.ndarray, share: float) -> float:
    """The quantile of conformal prediction: the error of rank ``(n + 1) share``."""
    rank = min(int(np.ceil((len(errors) + 1) * share)), len(errors))
    return float(np.sort(errors)[rank - 1])


def _make_task(plan: Plan, context: int) -> Imputation:
    factory = imputer_factory(plan.model, plan.options)
    with building(class_of(factory).__name__, plan.seed):
        return Imputation(
            factory,
            Series(plan.n_channels, context, context),
            pattern=plan.pattern,
            rate=plan.rate,
            mask_seed=plan.seed,
            optim=AdamW(lr=plan.training.learning_rate),
            patience=plan.training.patience,
        )
