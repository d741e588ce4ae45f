"""Exported graphs: one file that runs without the package, in the units of the data, with intervals."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from daily_panel import panel, small

from seqmix import Forecaster
from seqmix.errors import ConfigError
from seqmix.forecasting.covariates import ahead
from seqmix.forecasting.exporting import Graph
from seqmix.mixers import list_mixers
from seqmix.models import list_models

# each runs a graph in a process that has not imported the package, the second not even torch
RUN = {
    ".pt2": """
import sys, numpy as np, torch
inputs = {name: torch.from_numpy(x) for name, x in np.load("inputs.npz").items()}
found = torch.export.load("model.pt2", extra_files=(facts := {"seqmix": ""})).module()(**inputs)
facts, found = facts["seqmix"], [y.detach().numpy() for y in found]
""",
    ".onnx": """
import sys, numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
found = session.run(None, dict(np.load("inputs.npz")))
facts = session.get_modelmeta().custom_metadata_map["seqmix"]
assert "torch" not in sys.modules
""",
}
SAVE = """
assert "seqmix" not in sys.modules
open("facts.json", "w").write(facts)
np.savez("found.npz", *found)
"""


def _run(folder, suffix, **inputs):
    """What the graph in ``folder`` gives for ``inputs`` in a process of its own, and its metadata."""
    np.savez(folder / "inputs.npz", **inputs)
    done = subprocess.run([sys.executable, "-c", RUN[suffix] + SAVE], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(np.load(folder / "found.npz").values()), json.loads((folder / "facts.json").read_text())


def _needs(suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(
    ("model", "suffix"),
    [("DLinear", ".pt2"), ("DLinear", ".onnx"), pytest.param("Mamba", ".pt2", marks=pytest.mark.slow)],
)
def test_a_file_runs_without_the_package(tmp_path, capfd, model, suffix):
    """Five windows at once, though the graph was made from two; a missing value is one of the mask."""
    _needs(suffix)
    df = panel(("a",))
    fc = small(model, context_length=12, levels=[80, 50], max_steps=2).fit(df)
    (tmp_path / "graph").mkdir()
    fc.export(tmp_path / "graph" / f"model{suffix}")
    assert capfd.readouterr() == ("", "")
    assert [file.name for file in (tmp_path / "graph").iterdir()] == [f"model{suffix}"]
    df.loc[len(df) - 3, "y"] = np.nan
    x = df["y"].to_numpy(np.float32)[-12:][None, :, None]
    found, facts = _run(tmp_path / "graph", suffix, x=np.repeat(x, 5, 0), mask=np.repeat(~np.isnan(x), 5, 0))
    want = fc.predict(df)
    assert facts["outputs"] == ["y", "lo-50", "hi-50", "lo-80", "hi-80"]
    for y, name in zip(found, [model, *(f"{model}-{each}" for each in facts["outputs"][1:])], strict=True):
        np.testing.assert_allclose(y[4, :, 0], want[name], rtol=1e-5, atol=1e-5)
    assert (facts["model"], facts["context"], facts["horizon"], facts["freq"]) == (model, 12, 6, "D")
    assert facts["inputs"] == {"x": ["batch", 12, 1], "mask": ["batch", 12, 1]}
    assert facts["columns"] == {"id": "unique_id", "time": "ds", "target": "y"}


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "multivariate", "levels": [80]},
        {"mode": "multivariate", "calendar": True, "loss": "quantile", "levels": [50, 80]},
        {"mode": "multivariate", "loss": "quantile", "levels": [50, 80], "conformal": True},
        {"mode": "multivariate", "loss": "normal", "levels": [80]},
    ],
)
def test_a_graph_gives_the_forecasts_of_the_fit(options):
    fc = small(**options).fit(panel())
    f = fc.fitted_
    x = torch.from_numpy(f.ends.values).float()
    inputs = {"x": x, "mask": torch.ones_like(x, dtype=torch.bool)}
    if fc.calendar:
        known = ahead(f.inputs, f.reading, f.clock, f.ids, f.last, 6, 6, None, joint=f.plan.joint)
        inputs["future"] = torch.from_numpy(np.concatenate([f.ends.future, known], 1)).float()
    found = Graph(f, f.members[0]).eval()(**inputs)
    want = fc.predict(levels=sorted(fc.levels))
    names = ["DLinear", *(f"DLinear-{side}-{level}" for level in sorted(fc.levels) for side in ("lo", "hi"))]
    for y, name in zip(found, names, strict=True):
        np.testing.assert_allclose(y[0].T.detach().flatten(), want[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scaler", ["season", "standard", "none"])
def test_the_scale_of_a_series_follows_from_its_window(scaler):
    """As for a series that was not fitted and has no rows but those of the window; one of them is missing."""
    fc = small(context_length=20, season=7, scaler=scaler, normalize="none", levels=[80]).fit(panel())
    new = panel(("new",)).tail(20).reset_index(drop=True).assign(y=lambda df: 50 + 9 * df["y"] + np.arange(20) ** 1.5)
    new.loc[4, "y"] = np.nan
    x = torch.tensor(new["y"].to_list())[None, :, None]
    found = Graph(fc.fitted_, fc.fitted_.members[0]).eval()(x, ~x.isnan())
    want = fc.predict(new)
    for y, name in zip(found, ("DLinear", "DLinear-lo-80", "DLinear-hi-80"), strict=True):
        np.testing.assert_allclose(y[0, :, 0].detach(), want[name], rtol=1e-5)


def test_what_no_graph_can_hold(tmp_path):
    fc = small(loss="student_t", levels=[80]).fit(panel())
    with pytest.raises(ConfigError, match="levels of loss = 'student_t' cannot be part of a graph; fit with levels=No"):
        fc.export(tmp_path / "model.pt2")
    fc = small("Cauchy", max_steps=1).fit(panel(("a",)))
    with pytest.raises(ConfigError, match="Cauchy has operations that depend on the number of series in a batch"):
        fc.export(tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


# operations of complex numbers, and products over them, that ONNX lacks
NO_ONNX = {"S4D", "AFF"}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("name", sorted({*list_models(), *list_mixers()} - {"MixerForecaster", "Cauchy", "ZeroShot"}))
def test_every_model_is_exported_or_refused(tmp_path, name, suffix):
    _needs(suffix)
    fc = small(name, max_steps=1).fit(panel(("a",)))
    path = tmp_path / f"model{suffix}"
    if suffix == ".onnx" and name in NO_ONNX:
        with pytest.raises(ConfigError, match=f"{name} cannot be written as ONNX"):
            fc.export(path)
        return
    fc.export(path)
    x = fc.fitted_.ends.values.astype(np.float32)
    (y,), _ = _run(tmp_path, suffix, x=x, mask=np.ones_like(x, bool))
    np.testing.assert_allclose(y[0, :, 0], fc.predict()[name], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_a_pretrained_model_is_exported(tmp_path, suffix):
    """Of context and options of its own; the page that forecasts in the browser has the graph of its parts."""
    _needs(suffix)
    df = panel(("a", "b"))
    fc = Forecaster("ZeroShot", 6, levels=[80], max_steps=0, device="cpu").fit(df)
    fc.export(tmp_path / f"model{suffix}")
    x = np.zeros((2, 512, 1), np.float32)
    mask = np.zeros(x.shape, bool)
    for k, (_, rows) in enumerate(df.groupby("unique_id")):
        x[k, -len(rows) :, 0], mask[k, -len(rows) :] = rows["y"], True
    found, _ = _run(tmp_path, suffix, x=x, mask=mask)
    want = fc.predict()
    for y, name in zip(found, ("ZeroShot", "ZeroShot-lo-80", "ZeroShot-hi-80"), strict=True):
        np.testing.assert_allclose(y[..., 0].ravel(), want[name], rtol=1e-4)
