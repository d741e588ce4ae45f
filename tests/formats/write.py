"""Write the saved formats of the seqmix that is installed: ``python tests/formats/write.py tests/formats/0.2``.

The folder holds ``config.yaml``, the config of its run, beforehand. A folder is written once, by the version of its
name (0.1 by commit d1fbf5c, the last one before names changed), and then read by all later ones: what it holds is never
written anew to make a test pass. Files of 0.2 name the version 0.1.0: the number was raised after they were written.
``best.ckpt`` was removed to save space.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd

import seqmix
from seqmix.cli import run

T = np.arange(60)
DAYS = pd.date_range("2024-01-01", periods=60)
FRAME = pd.concat(
    pd.DataFrame({"unique_id": i, "ds": DAYS, "y": 10 * k + 3 * np.sin(2 * np.pi * T / 7) + T % 3})
    for k, i in enumerate(("a", "b"), 1)
)
# (8, 20, 2), two classes of another period
SERIES = np.sin(np.arange(20)[None, :, None] / (2 + np.arange(8)[:, None, None] % 2) + np.arange(2))
LABELS = ["slow", "fast"] * 4
HIDDEN = np.where((np.arange(320) % 7 == 3).reshape(8, 20, 2), np.nan, SERIES)


def forecasters():
    """Fitted Forecasters by the name of their folder."""
    mixer = {"d_model": 4, "n_layers": 1, "patch_len": 7}
    made = {"mixer": seqmix.Forecaster("Pool", 5, context_length=14, max_steps=3, device="cpu", model_kwargs=mixer)}
    if not EARLIEST:
        made["ridge"] = seqmix.Forecaster("Ridge", 5, context_length=14, levels=[80], device="cpu")
        made["auto"] = seqmix.Forecaster("auto", 5, device="cpu", model_kwargs={"members": ["Ridge", "SeasonalNaive"]})
    return {name: fc.fit(FRAME) for name, fc in made.items()}


def estimators():
    """Fitted estimators by the name of their folder."""
    if EARLIEST:
        return {}
    series = np.concatenate(SERIES)
    return {
        "classifier": seqmix.Classifier("DLinear", max_steps=3, device="cpu").fit(SERIES, LABELS),
        "imputer": seqmix.Imputer(device="cpu").fit(HIDDEN),
        "detector": seqmix.AnomalyDetector("SubPCA", season=10, device="cpu").fit(series),
    }


def answers(name, made):
    """What is asked of a fitted estimator, as plain lists."""
    if isinstance(made, seqmix.Forecaster):
        found = made.predict()
        return {c: found[c].tolist() for c in found.columns if c not in ("unique_id", "ds")}
    ask = {"classifier": "predict_proba", "imputer": "transform", "detector": "score_samples"}[name]
    of = {"classifier": SERIES, "imputer": HIDDEN, "detector": np.concatenate(SERIES)}[name]
    return np.asarray(getattr(made, ask)(of)).tolist()


EARLIEST = not hasattr(seqmix, "Classifier")

if __name__ == "__main__":
    folder, expected = Path(sys.argv[1]), {}
    for name, made in {**forecasters(), **estimators()}.items():
        made.save(folder / name)
        expected[name] = answers(name, made)
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    # the config that is written holds no path of this machine
    os.chdir(folder)
    options = ["--trainer.default_root_dir", ".", "--trainer.enable_progress_bar", "false"]
    assert run(["fit", "--config", "config.yaml", *options]) == 0
    (made,) = Path("runs").glob("*/*")
    made.rename("run")
    shutil.rmtree("runs")
