"""Ridge, linear forecasts in closed form: no gradient steps, no seed, one eigendecomposition for all penalties."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_choice
from seqmix.models._clusters import CELLS, Cells, clusterings
from seqmix.models._cycle import Cycle
from seqmix.models._moments import Moments, Rows
from seqmix.models._ridge_search import Fit, Level, Path, best_fit, level_map, ridge_path, significant
from seqmix.models.forecast_model import ForecastModel, register_model
from seqmix.series import Series

Batch = dict[str, Tensor]

_RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
# bytes of sums for each channel that are kept to choose between one map for all and one for each
_MOST_BYTES = 2 << 30
# bytes of the sums for missing targets that are kept at a time
_MOST_LACKING = 512 << 20
# values of past inputs that are used, of all of them together
_MOST_LAGS = 512


@register_model(paper="Hoerl and Kennard, 1970, Technometrics 12(1)", weights="own")
class Ridge(ForecastModel):
    """Ridge: the linear map of the window with the least penalized squared error, in closed form.

    The level of the window is taken from window and horizon, the map of the rest is
    ``W = (X'X / n + ridge * tr(X'X / n) / L * I)^-1 X'Y / n`` over all training windows, and level and map are folded
    into one matrix. Before the fit the forecast is the last value. Sums are accumulated in float64 over streamed
    batches, so that the data may be larger than memory, and one eigendecomposition serves every ``ridge``.

    What is left open is chosen by the squared error of the validation windows, and the map stays that of the training
    windows. Without validation windows ``ridge`` is chosen by generalized cross-validation on the training windows. A
    missing value is the one before it in its window, or the first after it at the start. A window with missing targets
    counts at the steps that it has targets of, exactly.

    Covariates are further columns, penalized a hundredth as much: static inputs, the last values of past inputs, the
    last value and the mean of known-future inputs in the window, and for each step their values at that step.

    Shapes: ``(B, context, C) -> (B, horizon, C)``, or ``(B, horizon, C, K)``, all K equal.
    Cost: O(n context (context + horizon)) to fit n windows, O(C context horizon) to forecast one.

    Args:
        ridge: penalty, in units of the mean square of a step of the window. Default: chosen from 1e-3 to 1e5, for each
            matrix.
        level: what is taken from window and horizon: the ``last`` value, the ``mean`` of the window, its last
            ``season`` repeated, or nothing with ``none``.
        weights: one matrix for all channels (``shared``), or one for each (``own``). With ``clustered`` channels share
            a matrix in clusters, and windows of a single channel in clusters of how rough they are at several lags. How
            many, from one to all, is chosen on validation windows, if the relative gain of all channels together is
            above chance: t > 2 over ten blocks of time, none shorter than the horizon. Without validation windows it is
            chosen by cross-validation that counts overlapping windows as one. With ``auto`` a single channel, as in
            global mode, is ``clustered``, and several channels have their own matrices where those pass the test. It is
            ``shared`` where sums for each channel or kind of window would take over 2 GB.
        cycle: take the mean course of the season from window and horizon as well, if that is better on validation
            windows by the same test. The phase of a window is the one that fits its own values best.

    Raises:
        ConfigError: if an option is out of range or not known, or the season is longer than the context.
        ValueError: if covariates are missing that the model was built for.

    Source: Hoerl and Kennard, 1970; as a forecaster Toner and Darlow, 2024, arXiv:2403.14587. Differs from the original
    code in: the penalty in units of the data, the level, and what is chosen on validation windows.
    """

    covariates = "used"
    linear = True
    repeats_season = True
    closed_form = True
    by_steps = False
    masked = True

    labels: Tensor

    def __init__(
        self,
        series: Series,
        *,
        ridge: float | None = None,
        level: Level = "last",
        weights: Literal["auto", "shared", "own", "clustered"] = "auto",
        cycle: bool = False,
    ):
        super().__init__(series)
        L, H, C = series.context, series.horizon, series.n_channels
        check_choice("level", level, ("last", "mean", "season", "none"))
        check_choice("weights", weights, ("auto", "shared", "own", "clustered"))
        if ridge is not None and not 0 < ridge < math.inf:
            raise ConfigError(f"ridge must be above 0, got {ridge}; use for example 0.1, or leave it out")
        if series.season > L and (cycle or level == "season"):
            remedy = "leave out cycle" if cycle else "level=last"
            raise ConfigError(f"season = {series.season} does not fit context = {L}; use a longer context, or {remedy}")
        #: how many values of each past input are used, the last ones
        self.lags = min(L, max(1, _MOST_LAGS // max(1, series.n_past)))
        D = L + series.n_static + self.lags * series.n_past + 2 * series.n_future
        if weights == "auto":
            groups = CELLS if C == 1 else C
            large = 16 * groups * D * (D + H * (1 + series.n_future)) > _MOST_BYTES
            weights = "shared" if large else "clustered" if C == 1 else "auto"
        self.level: Level = level
        self.ridges, self.weights = (ridge,) if ridge else _RIDGES, weights
        #: kinds of windows of a single channel
        self.cells = Cells(L, series.season) if weights == "clustered" and C == 1 else None
        #: channels or kinds of windows that may have a matrix of their own
        self.groups = 1 if weights == "shared" else C if self.cells is None else CELLS
        copies = self.groups if self.cells is None else 1
        #: the level and the map of the rest, as one matrix for all, or one for each channel or cluster of kinds
        self.weight = nn.Parameter(torch.zeros(copies, H, D))
        #: the effect of known-future inputs on the step they are of
        self.effect = nn.Parameter(torch.zeros(copies, H, series.n_future)) if series.n_future else None
        #: the mean course of the season; 0 where it was not better
        self.cycle = Cycle(C, series.season, H) if cycle else None
        #: the cluster of each channel or kind
        labels = torch.arange(self.groups) * (weights == "own")
        self.register_buffer("labels", labels, persistent=weights == "clustered")
        with torch.no_grad():
            self.weight[..., L - 1] = 1

    def forward(
        self,
        x: Tensor,
        *,
        future: Tensor | None = None,
        static: Tensor | None = None,
        past: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Forecast from ``x: (B, context, C)``, observed where ``mask`` is True, and the covariates of the data."""
        x, base = self._without_cycle(fill(x, mask))
        z, ahead = self._inputs(x, future=future, static=static, past=past)
        # with a single cluster there is nothing to assign
        kind = None if self.cells is None or len(self.weight) == 1 else self.labels[self.cells(x)]
        y = _mapped(z, ahead, self.weight, self.effect, kind)
        y = y if base is None else y + base
        K = self.series.n_outputs
        return y if K == 1 else y.unsqueeze(-1).expand(-1, -1, -1, K)

    @torch.no_grad()
    def fit_closed_form(self, train: Iterable[Batch], val: Iterable[Batch]) -> None:
        """Fit the map to the training windows, and choose the open options on the validation windows."""
        if self.cells is not None:
            self.cells.learn(fill(batch["x"], batch.get("x_mask")) for batch in train)
        labels, maps = self._fitted(train, val)
        self._take(labels, maps)
        if self.cycle is not None:
            errors = [self._errors(rows, *maps) for rows in map(self._rows, val)]
            self.cycle.learn(lambda: (fill(batch["x"], batch.get("x_mask")) for batch in train))
            labels, maps = self._fitted(train, val)
            rows = map(self._rows, val)
            both = [torch.stack([before, self._errors(e, *maps)]) for before, e in zip(errors, rows, strict=True)]
            if both and _best_of(both, self.series.horizon).any():
                self._take(labels, maps)
            else:
                self.cycle.course.zero_()

    def _fitted(self, train: Iterable[Batch], val: Iterable[Batch]) -> tuple[Tensor, list[Tensor]]:
        """The cluster of each channel or kind of window, and its weights and effects with the best penalty."""
        parts = self._parts(train, val)

        @lru_cache(maxsize=1)
        def sums(steps: range) -> tuple[Moments, Moments]:
            return self._moments(train, steps), self._moments(val, steps)

        def fits(labels: Tensor, overlap: int) -> list[Fit]:
            return self._fits(lambda steps: tuple(each.pooled(labels) for each in sums(steps)), parts, overlap)

        moments, held = sums(parts[0])
        validated, first = bool(held.weight.any()), torch.zeros_like(self.labels)
        # windows overlap: if each counted as a row of its own, more clusters would always be better
        overlap = 1 if validated or self.weights != "clustered" else self._overlap
        candidates = [torch.arange(len(first)) if self.weights == "own" else first]
        most = len(first) if self.weights == "auto" and validated else 1
        if self.weights == "clustered":
            # a cluster with fewer windows than half of its weights would follow their noise
            most = int(2 * moments.rows.amax(1).sum() / self._overlap / self.weight.shape[2])
            candidates += clusterings(moments, self._level(parts[0]), self.ridges, self._overlap, most)
        if 1 < len(first) <= most:
            candidates.append(torch.arange(len(first)))
        found = [fits(labels, overlap) for labels in candidates]
        if overlap > 1:
            costs = [sum(fit.squared for fit in each) for each in found]
            best = costs.index(min(costs))
            candidates, found = [candidates[best]], [found[best] if best else fits(first, 1)]
        maps = [self._stacked([own[k] for k in labels.tolist()]) for own, labels in zip(found, candidates, strict=True)]
        if len(maps) == 1:
            return candidates[0], maps[0]
        errors = [torch.stack([self._errors(rows, *each) for each in maps]) for rows in map(self._rows, val)]
        best = _best_of(errors, self.series.horizon)
        at = torch.arange(len(first)), best.cpu()
        # the matrix of all is none of the clusters
        labels = at[1] * self.groups + torch.stack([labels.cpu() for labels in candidates], 1)[at]
        return labels.unique(return_inverse=True)[1], [
            torch.stack(kinds).transpose(0, 1)[at] for kinds in zip(*maps, strict=True)
        ]

    def _take(self, labels: Tensor, maps: list[Tensor]) -> None:
        if self.cells is not None:
            # one of each cluster: where all kinds of windows are one, nothing is larger or slower than with shared
            kinds = labels.tolist()
            first = [kinds.index(k) for k in range(max(kinds) + 1)]
            maps = [each[first] for each in maps]
        self._resize(len(maps[0]))
        self.labels.copy_(labels)
        self.weight.copy_(maps[0])
        if self.effect is not None:
            self.effect.copy_(maps[1])

    def _resize(self, copies: int) -> None:
        """Make room for a number of matrices, which is known after the fit."""
        for each in (self.weight, self.effect):
            if each is not None and len(each) != copies:
                each.data = each.new_zeros(copies, *each.shape[1:])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        found = state_dict.get(f"{prefix}weight")
        if self.cells is not None and found is not None:
            self._resize(len(found))
            if f"{prefix}labels" not in state_dict:
                # saved with one matrix for all
                state_dict |= {f"{prefix}labels": torch.zeros_like(self.labels)}
                state_dict |= {f"{prefix}cells.{name}": x for name, x in self.cells.state_dict().items()}
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def left_out(
        self, train: Iterable[Batch], blocks: Sequence[tuple[Iterable[Batch], Iterable[Batch]]]
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Forecasts of the windows of each block, fitted as without validation windows to the others alone."""
        parts = self._parts(train)
        total = lru_cache(maxsize=1)(lambda steps: self._moments(train, steps, self.labels))
        overlap = self._overlap if self.weights == "clustered" and self.labels.any() else 1
        for inside, near in blocks:

            def rest(steps: range, near: Iterable[Batch] = near) -> tuple[Moments, Moments]:
                sums = total(steps).without(self._moments(near, steps, self.labels))
                return sums, sums.without(sums)

            fits = self._fits(rest, parts, overlap)
            fit = self._stacked([fits[k] for k in self.labels.tolist()])
            for batch in inside:
                rows = self._rows(batch)
                # add back the seasonal course that was subtracted from the targets
                yield batch, self._forecasts(rows, *fit) + (batch["y"] - rows.y)

    @property
    def _overlap(self) -> int:
        """Windows that count as one in the choice of clusters, which were found in the same windows."""
        return max(2, self.series.horizon)

    def _fits(self, sums: Callable[[range], tuple[Moments, ...]], parts: Sequence[range], overlap: int) -> list[Fit]:
        """The fit of each group of training and validation ``sums``, for parts of the horizon."""

        def paths(steps: range) -> Iterator[Path]:
            train, held = sums(steps)
            level = self._level(steps)
            return (ridge_path(train, held, g, level, self.ridges) for g in range(len(train.weight)))

        if len(parts) == 1:
            return [best_fit([path], overlap) for path in paths(parts[0])]
        return [best_fit(each, overlap) for each in zip(*(list(paths(steps)) for steps in parts), strict=True)]

    def _parts(self, *data: Iterable[Batch]) -> list[range]:
        """Parts of the horizon whose sums are kept at a time: one, unless those for missing targets were too large."""
        _, H, D = self.weight.shape
        size = max(1, _MOST_LACKING // (8 * self.groups * D * D))
        gaps = size < H and any("y_mask" in b and not b["y_mask"].all() for batches in data for b in batches)
        return [range(k, min(k + size, H)) for k in range(0, H, size)] if gaps else [range(H)]

    def _level(self, steps: range) -> Tensor:
        """Level at each step of the window and at some of the horizon."""
        s = self.series
        level = level_map(self.level, s.context, s.horizon, s.season)
        return torch.cat([level[:, : s.context], level[:, s.context :][:, steps.start : steps.stop]], 1)

    def _stacked(self, fits: list[Fit]) -> list[Tensor]:
        """Weights and effects of several fits in the type of the parameters."""
        weight, effect = torch.stack([fit.weight.T for fit in fits]), torch.stack([fit.effect for fit in fits])
        return [weight.to(self.weight), effect.to(self.weight)]

    def _moments(self, batches: Iterable[Batch], steps: range, labels: Tensor | None = None) -> Moments:
        """Sums over the batches at some steps, for each channel or kind of window, or each cluster of ``labels``."""
        device = self.weight.device if self.weight.is_cuda else torch.device("cpu")
        at, groups, kind = slice(steps.start, steps.stop), self.groups, torch.arange(self.groups)
        if labels is not None and self.cells is not None:
            # kinds of one cluster are added up as one: a tenth of the memory
            groups, kind, labels = int(labels.max()) + 1, labels, None
        kind = kind.to(self.weight.device)
        rows = (
            each._replace(ahead=each.ahead[:, at], y=each.y[:, at], seen=each.seen[:, at], group=kind[each.group])
            for each in map(self._rows, batches)
        )
        sums = Moments(groups, self.weight.shape[2], len(steps), self.series.n_future, device).add(rows)
        return sums if labels is None else sums.pooled(labels)

    def _rows(self, batch: Batch) -> Rows:
        """Inputs, targets and weight of every channel, without missing inputs."""
        x, y = fill(batch["x"], batch.get("x_mask")), batch["y"]
        x, base = self._without_cycle(x)
        y = y if base is None else y - base
        z, ahead = self._inputs(x, future=batch.get("future"), static=batch.get("static"), past=batch.get("past"))
        seen = batch.get("y_mask", torch.ones((), dtype=torch.bool, device=y.device)).expand_as(y)
        group = torch.zeros(len(x), dtype=torch.long, device=x.device) if self.cells is None else self.cells(x)
        return Rows(z, ahead, y, seen, batch["weight"], group)

    def _forecasts(self, rows: Rows, weight: Tensor, effect: Tensor) -> Tensor:
        return _mapped(rows.x, rows.ahead, weight, effect, None if self.cells is None else rows.group)

    def _errors(self, rows: Rows, weight: Tensor, effect: Tensor) -> Tensor:
        """Weighted squared error of each window and channel, ``(B, C)``, or kind of window, 0 for those it is not."""
        error = (self._forecasts(rows, weight, effect) - rows.y).square() * rows.seen
        error = error.mean(1) * rows.weight
        return error if self.cells is None else error * nn.functional.one_hot(rows.group, len(weight))

    def _without_cycle(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Windows without the course of the season, and that of the horizon."""
        if self.cycle is None:
            return x, None
        window, base = self.cycle(x).to(x.dtype).split([self.series.context, self.series.horizon], 1)
        return x - window, base

    def _inputs(
        self, x: Tensor, *, future: Tensor | None, static: Tensor | None, past: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Inputs of all steps ``(B, C, D)``, and those of each step ``(B, H, F)``."""
        s, (B, L, C) = self.series, x.shape
        columns, ahead = [x.transpose(1, 2)], x.new_zeros(B, s.horizon, 0)
        if s.n_static:
            columns.append(self.given("static", static))
        if s.n_past:
            columns.append(self.given("past", past)[:, -self.lags :].flatten(1).unsqueeze(1).expand(-1, C, -1))
        if s.n_future:
            window, ahead = self.given("future", future).split([L, s.horizon], 1)
            columns.append(torch.cat([window[:, -1], window.mean(1)], 1).unsqueeze(1).expand(-1, C, -1))
        return torch.cat(columns, 2), ahead


def _mapped(z: Tensor, ahead: Tensor, weight: Tensor, effect: Tensor | None, cell: Tensor | None) -> Tensor:
    """Forecasts ``(B, H, C)`` from ``z: (B, C, D)`` and ``ahead: (B, H, F)``.

    Args:
        z: inputs of all steps.
        ahead: inputs of each step.
        weight: one matrix for all, or one for each channel or kind of window, ``(copies, H, D)``.
        effect: effects of the inputs of each step, ``(copies, H, F)``.
        cell: the kind of each window, ``(B,)``.
    """
    if cell is not None:
        # compute the forecasts of all clusters: exported graphs cannot branch
        y = torch.einsum("bcd,khd->bhk", z, weight)
        y = y if effect is None else y + torch.einsum("bhf,khf->bhk", ahead, effect)
        return y.gather(2, cell[:, None, None].expand(-1, y.shape[1], 1))
    if len(weight) == 1:
        y = nn.functional.linear(z, weight[0]).transpose(1, 2)
    else:
        y = torch.einsum("bcd,chd->bhc", z, weight)
    return y if effect is None else y + torch.einsum("bhf,chf->bhc", ahead, effect)


def _best_of(errors: list[Tensor], horizon: int) -> Tensor:
    """The fit that each group should have: the first, or another where that is better, if that is above chance.

    Args:
        errors: squared errors of the fits on batches of consecutive windows, each ``(fits, B, groups)``.
        horizon: steps of the horizon.

    Returns:
        Numbers of fits, ``(groups,)``, of two fits at most.
    """
    first, *others = torch.cat(errors, 1)
    # relative errors, so that no group dominates by its scale
    unit = first.mean(0).clamp(min=torch.finfo(first.dtype).tiny)
    gains = torch.stack([(first - each) / unit for each in others])
    best = int(gains.mean(1).sum(1).argmax())
    if not significant(gains[best].sum(1), horizon):
        return torch.zeros(len(unit), dtype=torch.long)
    return (gains[best].mean(0) > 0).long() * (best + 1)


def fill(x: Tensor, mask: Tensor | None) -> Tensor:
    """The values of ``x: (B, L, C)`` where ``mask`` is True; elsewhere the one before, or the first after it, or 0."""
    if mask is None:
        return x
    x = x.masked_fill(~mask, 0)
    for turned in (False, True):
        if turned:
            x, mask = x.flip(1), mask.flip(1)
        # doubling steps: operations that every exported graph has
        step = 1
        while step < x.shape[1]:
            before, seen = (nn.functional.pad(t, (0, 0, step, 0))[:, : x.shape[1]] for t in (x, mask))
            x, mask = torch.where(mask, x, before), mask | seen
            step *= 2
    return x.flip(1)
