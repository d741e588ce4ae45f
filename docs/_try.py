"""The page that forecasts in the browser: its model as an ONNX graph, its facts, and the runtime of such graphs."""

import hashlib
import inspect
import json
import shutil
import sys
import tempfile
from pathlib import Path

import _npm
import onnxruntime
import torch
from _try_messages import messages
from sphinx.application import Sphinx
from torch import Tensor, nn

from seqmix.forecasting.exporting import write_graph
from seqmix.models import ZeroShot
from seqmix.models.origins import origins
from seqmix.models.periods import find_periods
from seqmix.series import Series

#: steps that the page forecasts at most; the graph always makes all of them
HORIZON = 64
_CONTEXT = 512
_SEASONS = (1, 2, 4, 5, 7, 12, 24, 48, 52, 96, 144)
_RUNTIME = (
    "onnxruntime-web",
    "1.30.0",
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
)
#: the runtime for one thread of a CPU, which needs no headers of the server
_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


class Graph(nn.Module):
    """ZeroShot from the values of one series to its quantiles, both in the units of the data.

    What depends on the season of the series, periods and widths of intervals, is an input.

    Args:
        model: the model.
    """

    def __init__(self, model: ZeroShot):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, mask: Tensor, known: Tensor, widths: Tensor) -> Tensor:
        """Quantiles ``(horizon, K)`` after ``x: (1, context)`` in float64, observed where ``mask`` is True."""
        count = mask.sum(1, keepdim=True).clamp(min=1)
        level = x.masked_fill(~mask, 0).sum(1, keepdim=True) / count
        deviation = ((x - level).masked_fill(~mask, 0).square().sum(1, keepdim=True) / count).sqrt()
        # a series that does not vary is divided by its level, as the Forecaster does
        still = torch.where(level == 0, 1.0, level.abs())
        scale = torch.where(deviation > 1e-14 * level.abs(), deviation, still)
        z = ((x - level) / scale).float().masked_fill(~mask, 0)
        return self.model.quantiles_after(z, mask, known, widths)[0] * scale + level


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("builder-inited", _make)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _make(app: Sphinx) -> None:
    """Put together the files that lie beside the page."""
    if app.builder.format != "html":
        return
    root, source = _npm.CACHE / "site", Path(app.confdir) / "try"
    target = root / "try"
    shutil.rmtree(root, ignore_errors=True)
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix in (".js", ".css", ".csv"):
            shutil.copy(file, target)
    if not _npm.PLAIN:
        shutil.copy(_model(), target / "zeroshot.onnx")
        (target / "onnxruntime").mkdir()
        for name in _FILES:
            shutil.copy(_npm.package(*_RUNTIME) / "dist" / name, target / "onnxruntime")
    (target / "facts.json").write_text(json.dumps(facts(), ensure_ascii=False))
    app.config.html_extra_path.append(str(root))


def facts() -> dict[str, object]:
    """What the scripts of the page have to know from Python."""
    seasons = {}
    for season in _SEASONS:
        model = ZeroShot(Series(1, _CONTEXT, 1, season=season))
        seasons[season] = {"known": model.known, "widths": model.widths.tolist()}
    # a season that has neither a longer cycle nor wider intervals
    seasons["other"] = {"widths": seasons[2]["widths"]}
    return {
        "context": _CONTEXT,
        "horizon": HORIZON,
        "quantiles": ZeroShot.quantiles,
        "seasons": seasons,
        "messages": messages(),
    }


def _model() -> Path:
    """The exported graph, which is made anew when the model or its weights change: that takes minutes."""
    model = ZeroShot(Series(1, _CONTEXT, HORIZON, len(ZeroShot.quantiles), season=2)).eval()
    digest = hashlib.sha256(torch.__version__.encode())
    for name, values in model.state_dict().items():
        digest.update(name.encode() + values.numpy().tobytes())
    # the modules of its parts, and of the functions that they call
    modules = {type(part).__module__ for part in model.modules()} | {find_periods.__module__, origins.__module__}
    ours = [sys.modules[name] for name in sorted(modules) if name.startswith("seqmix.")]
    for source in (Graph, *ours):
        digest.update(inspect.getsource(source).encode())
    path = _npm.CACHE / f"zeroshot-{digest.hexdigest()[:16]}.onnx"
    if not path.exists():
        _npm.CACHE.mkdir(parents=True, exist_ok=True)
        inputs = {
            "x": torch.randn(1, _CONTEXT, dtype=torch.float64).cumsum(1),
            "mask": torch.ones(1, _CONTEXT, dtype=torch.bool),
            "known": torch.tensor([model.known]),
            "widths": model.widths.clone(),
        }
        with tempfile.TemporaryDirectory(dir=_npm.CACHE) as scratch:
            raw, ready = Path(scratch, "raw.onnx"), Path(scratch, "ready.onnx")
            write_graph(Graph(model).eval(), inputs, raw, {"outputs": ["y"]}, None)
            # half of the operations are constants: the page need not find that out each time that it is opened
            how = onnxruntime.SessionOptions()
            how.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            how.optimized_model_filepath, how.log_severity_level = str(ready), 3
            onnxruntime.InferenceSession(raw, how)
            ready.rename(path)
    return path
