"""A fitted model as one self-contained graph, from values in the units of the data to forecasts in them."""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._dynamo.exc import UserError

import seqmix
from seqmix.errors import ConfigError
from seqmix.forecasting.auto import Ensemble
from seqmix.forecasting.fitted import Fitted
from seqmix.forecasting.intervals import CALMEST, half_widths, margins, small_sample
from seqmix.forecasting.joined import Joined
from seqmix.forecasting.member import Member
from seqmix.forecasting.plan import bounds
from seqmix.ops.dispatch import plain
from seqmix.whole import whole


class Graph(nn.Module):
    """Module for export: scaling, window normalization, model and intervals, in the units of the data.

    Results are the point forecast, then lower and upper bound of each level, each ``(B, horizon, C)``. One series, or
    several that are channels, are scaled as they were in the fit. Where series are samples their scale follows from the
    window, as ``predict`` does for a series that was not fitted.

    Args:
        fitted: the fitted models.
        member: the model.

    Raises:
        ConfigError: if the loss has levels that are no tensor operations.
    """

    loc: Tensor | None
    scale: Tensor | None

    def __init__(self, fitted: Fitted, member: Member):
        super().__init__()
        # a graph traced on a device would run on that device only
        self.predictor = deepcopy(member.predictor).to("cpu")
        self.plan, self.levels = member.plan, sorted(member.plan.levels)
        if self.levels and self.plan.spread and not self.predictor.loss.exportable:
            raise ConfigError(
                f"levels of loss = {self.plan.loss!r} cannot be part of a graph; fit with levels=None, or with "
                "loss='quantile' or 'normal'"
            )
        self.closed_form = member.choice.cls.closed_form
        self.typical = float(np.median(fitted.scale))
        for name, values in (("loc", fitted.loc), ("scale", fitted.scale)):
            self.register_buffer(name, torch.from_numpy(values[0]) if len(values) == 1 else None)
        own, calibrated = member.scores, self.plan.calibrated
        rows = [own[calibrated.index(level)] if calibrated else own for level in self.levels]
        plain = self.plan.spread and not calibrated
        margin = margins if calibrated else half_widths
        each = [] if plain else [margin(scores, level) for scores, level in zip(rows, self.levels, strict=True)]
        self.margins = [torch.from_numpy(margin)[:, None] for margin in each]  # (horizon, 1)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        past: Tensor | None = None,
        future: Tensor | None = None,
        static: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Forecast from ``x: (B, context, C)``; ``mask``, of that shape, is True where a value was observed."""
        loc, scale = self._scaling(x.double(), mask)
        batch = {"x": ((x - loc) / scale).float().masked_fill(~mask, 0), "x_mask": mask}
        for name, given in (("past", past), ("future", future), ("static", static)):
            if given is not None:
                batch[name] = given
        forecast = self.predictor(batch)
        point = self.predictor.point(forecast).double()
        wide = self._spread((x - loc) / scale, mask)
        found = [y * scale + loc for y in (point, *self._bounds(forecast, point, wide))]
        # clip at zero if no training value is negative
        return tuple((y.clamp(min=0) if self.plan.nonnegative else y).float() for y in found)

    def _spread(self, x: Tensor, mask: Tensor) -> Tensor | float:
        """Unit of the intervals of models in closed form, ``(B, 1, C)``, as in ``local_scale``."""
        if not (self.closed_form and self.levels):
            return 1.0
        # slices of a season beyond the window are empty
        season = min(self.plan.season, x.shape[1])
        both = mask[:, season:] & mask[:, : x.shape[1] - season]
        apart = (x[:, season:] - x[:, : x.shape[1] - season]).abs().masked_fill(~both, 0).sum(1, keepdim=True)
        pairs, seen = (known.double().sum(1, keepdim=True) for known in (both, mask))
        unit = torch.where(pairs > 0, (apart / pairs.clamp(min=1)).clamp(min=CALMEST), 1.0)
        return unit * small_sample(torch.where(pairs > 0, pairs, seen - 1).clamp(min=1), self.plan.season, x.shape[1])

    def _bounds(self, forecast: Tensor, point: Tensor, wide: Tensor | float) -> list[Tensor]:
        """Lower and upper bound of each level, rising, in scaled units."""
        if not (self.levels and self.plan.spread):
            return [point + sign * margin * wide for margin in self.margins for sign in (-1, 1)]
        n = len(self.levels)
        sides = self.predictor.loss.quantiles(
            forecast, sorted(q for level in self.levels for q in bounds(level))
        ).double()
        lows, highs = [sides[..., n - 1 - i] for i in range(n)], [sides[..., n + i] for i in range(n)]
        found: list[Tensor] = []
        for i in range(n):
            lo, hi = lows[i], highs[i]
            if self.margins:
                margin = torch.maximum(self.margins[i].expand_as(lo), (lo - hi) / 2)
                lo, hi = lo - margin, hi + margin
                # a wider interval contains the narrower one
                lo, hi = (torch.minimum(lo, found[-2]), torch.maximum(hi, found[-1])) if found else (lo, hi)
            found += [lo, hi]
        return found

    def _scaling(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Offset and divisor of ``x``, ``(B, 1, C)``, or ``(C,)``."""
        if self.loc is not None and self.scale is not None:
            return self.loc, self.scale
        if self.plan.scaler == "none":
            return x.new_zeros(1), x.new_ones(1)
        count = mask.double().sum(1, keepdim=True).clamp(min=1)
        loc = x.masked_fill(~mask, 0).sum(1, keepdim=True) / count
        deviation = ((x - loc).masked_fill(~mask, 0).square().sum(1, keepdim=True) / count).sqrt()
        # constant series are divided by their level, as in `scaling`
        level = torch.where(loc == 0, self.typical, loc.abs())
        scale = torch.where(deviation > 1e-9 * loc.abs(), deviation, level)
        season = self.plan.season
        if self.plan.scaler == "season" and season < x.shape[1]:
            both = mask[:, season:] & mask[:, :-season]
            pairs = both.double().sum(1, keepdim=True)
            error = (x[:, season:] - x[:, :-season]).abs().masked_fill(~both, 0).sum(1, keepdim=True)
            error = error / pairs.clamp(min=1)
            # a perfectly periodic series has no error to divide by
            scale = torch.where(error > 1e-6 * scale, torch.maximum(error, 0.01 * scale), scale)
        return loc, scale


def export(fitted: Fitted | Joined | Ensemble, model: str | None, path: Path) -> None:
    """Write the graph of a model, the first if None, with a free batch size to ``path``, ``.pt2`` or ``.onnx``.

    The file needs neither this package nor another file. Its metadata, JSON under ``seqmix``, say what the inputs and
    outputs are, and how covariates become numbers.

    Raises:
        ConfigError: if there is no such model, the ending is another one, ONNX is not installed, or lacks an operator.
        WriteError: if the file cannot be written.
    """
    names = [member.name for member in fitted.members]
    if isinstance(fitted, Ensemble):
        raise ConfigError(
            f"auto is not a single graph; fit and export one of its models, {', '.join(names) or 'Ridge'}"
        )
    if model is not None and model not in names:
        raise ConfigError(f"model = {model!r} was not fitted; use one of {', '.join(names)}")
    if path.suffix not in (".pt2", ".onnx"):
        raise ConfigError(f"path = {str(path)!r} is not of a known kind; use the ending .pt2 (torch.export) or .onnx")
    lacking = [name for name in ("onnx", "onnxscript") if path.suffix == ".onnx" and find_spec(name) is None]
    if lacking:
        raise ConfigError(f"ONNX needs the package {lacking[0]!r}; pip install 'seqmix[export]'")
    member = fitted.members[0 if model is None else names.index(model)]
    (part,) = (part for part in fitted.parts if any(each.name == member.name for each in part.members))
    graph, inputs = Graph(part, member).eval(), _inputs(member)
    free = {name: {0: torch.export.Dim("batch")} for name in inputs}
    try:
        write_graph(graph, inputs, path, _facts(part, member, graph, inputs), free)
    except UserError as error:
        raise ConfigError(
            f"{member.name} has operations that depend on the number of series in a batch; export another model"
        ) from error
    except torch.onnx.OnnxExporterError as error:
        raise ConfigError(
            f"{member.name} cannot be written as ONNX: it has an operation that ONNX lacks ({error.__cause__ or error})"
            "; write it as .pt2"
        ) from error


def write_graph(
    graph: nn.Module, inputs: dict[str, Tensor], path: Path, facts: Mapping[str, Any], free: dict[str, Any] | None
) -> None:
    """Write any module as one graph to ``path``, ``.pt2`` or ``.onnx``.

    Args:
        graph: the module.
        inputs: examples of its keyword arguments.
        path: the file.
        facts: its metadata; ``outputs`` names the results.
        free: axes of the inputs that may have any length, as for ``torch.export``. Default: none.
    """
    text = json.dumps(facts)
    with _quiet(), plain(), torch.no_grad():
        program = torch.export.export(graph, (), kwargs=inputs, dynamic_shapes=free)
        with whole(path) as part:
            if path.suffix == ".pt2":
                # given a path, torch does not say what the system refused
                with part.open("wb") as file:
                    torch.export.save(program, file, extra_files={"seqmix": text})
                return
            how = {"dynamo": True, "verbose": False, "optimize": False, "output_names": facts["outputs"]}
            converted = torch.onnx.export(program, (), kwargs=inputs, **how)
            assert converted is not None
            # drop the source location of each operation, which takes more space than the weights
            for node in converted.model.graph:
                node.metadata_props.clear()
            converted.model.metadata_props["seqmix"] = text
            converted.save(part, external_data=False)


def _inputs(member: Member) -> dict[str, Tensor]:
    """Two windows of the inputs that the model takes."""
    (batch,) = member.predictor.example().values()
    inputs = {name: torch.randn(2, *rows.shape[1:]) for name, rows in batch.items()}
    x = inputs.pop("x")
    return {"x": x, "mask": torch.ones_like(x, dtype=torch.bool), **inputs}


def _facts(fitted: Fitted, member: Member, graph: Graph, inputs: dict[str, Tensor]) -> dict[str, object]:
    """Metadata for programs that run the graph."""
    plan, reading, series = member.plan, fitted.reading, member.predictor.series
    codes = {name: list(getattr(fitted.inputs, name)) for name in ("past", "future", "static")}
    return {
        "seqmix": seqmix.__version__,
        "model": member.name,
        "context": series.context,
        "horizon": series.horizon,
        "freq": fitted.clock.freq,
        "season": plan.season,
        "columns": {"id": reading.id_col, "time": reading.time_col, "target": reading.target_col},
        "channels": [str(each) for each in fitted.ids] if plan.joint else 1,
        "inputs": {name: ["batch", *rows.shape[1:]] for name, rows in inputs.items()},
        "outputs": ["y", *(f"{side}-{level:g}" for level in graph.levels for side in ("lo", "hi"))],
        # future rows are those of the context, then those of the horizon
        "covariates": {name: each for name, each in codes.items() if each},
        "calendar": fitted.inputs.calendar,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the messages of exporters about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
