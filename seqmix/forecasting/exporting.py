"""A fitted model as one graph, from values in the units of the data to forecasts in them."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError
from seqmix.forecasting.fitted import Fitted
from seqmix.tasks import Forecasting


class Graph(nn.Module):
    """Scaling, window normalization and model: ``(B, context, C) -> (B, horizon, C)``, in the units of the data.

    Args:
        task: the fitted task.
        loc: what scaling takes away, ``(C,)``; None where it differs between series and is an input.
        scale: what scaling divides by, ``(C,)``.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, task: Forecasting, loc: Tensor | None, scale: Tensor | None):
        super().__init__()
        self.task = task
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)

    def forward(
        self,
        x: Tensor,
        loc: Tensor | None = None,
        scale: Tensor | None = None,
        past: Tensor | None = None,
        future: Tensor | None = None,
        static: Tensor | None = None,
    ) -> Tensor:
        """Forecast from ``x``; ``loc`` and ``scale`` of the series, ``(B, C)``, where the graph has none."""
        shift, unit = (self.loc, self.scale) if loc is None or scale is None else (loc[:, None], scale[:, None])
        batch = {"x": (x - shift) / unit}
        for name, given in (("past", past), ("future", future), ("static", static)):
            if given is not None:
                batch[name] = given
        return self.task.point(self.task(batch)) * unit + shift


def graph_of(fitted: Fitted, k: int) -> Graph:
    """The graph of model ``k``; with one series, or several as channels, the scaling is part of it."""
    one = len(fitted.loc) == 1
    numbers = [torch.from_numpy(x[0]).float() if one else None for x in (fitted.loc, fitted.scale)]
    return Graph(fitted.members[k].task, *numbers).eval()


def export(fitted: Fitted, model: str | None, path: Path) -> None:
    """Write the graph of a model, the first if None, with a free batch size to ``path``, ``.pt2`` or ``.onnx``.

    The inputs are ``x``, then ``loc`` and ``scale`` where there is more than one series to a model, then the covariates
    there are, as numbers. Missing values are to be filled before.

    Raises:
        ConfigError: if there is no such model, the ending is another one, or ONNX is not installed.
    """
    names = [member.name for member in fitted.members]
    if model is not None and model not in names:
        raise ConfigError(f"model = {model!r} was not fitted; use one of {', '.join(names)}")
    k = 0 if model is None else names.index(model)
    if path.suffix not in (".pt2", ".onnx"):
        raise ConfigError(f"path = {str(path)!r} should end in .pt2 (torch.export) or .onnx")
    series, one, graph = fitted.members[k].task.series, len(fitted.loc) == 1, graph_of(fitted, k)
    C, context, width = series.n_channels, series.context, series.context + series.horizon
    inputs = {"x": torch.randn(2, context, C)}
    if not one:
        inputs |= {"loc": torch.zeros(2, C), "scale": torch.ones(2, C)}
    shapes = {"past": (2, context, series.n_past), "future": (2, width, series.n_future)}
    shapes["static"] = (2, C, series.n_static)
    inputs |= {name: torch.randn(shape) for name, shape in shapes.items() if shape[-1]}
    free = {name: {0: torch.export.Dim("batch")} for name in inputs}
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), torch.no_grad():
        # what exporters say about themselves
        warnings.simplefilter("ignore")
        if path.suffix == ".pt2":
            torch.export.save(torch.export.export(graph, (), kwargs=inputs, dynamic_shapes=free), path)
            return
        try:
            torch.onnx.export(
                graph, (), path, kwargs=inputs, dynamic_shapes=free, dynamo=True, verbose=False, output_names=["y"]
            )
        except ModuleNotFoundError as e:
            raise ConfigError(f"ONNX needs the package {e.name!r}; pip install onnx onnxscript") from e
