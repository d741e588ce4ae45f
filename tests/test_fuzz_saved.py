"""A damaged folder of an estimator or a run, or a damaged checkpoint, is refused in our words and runs no code."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from strategies import changed_values, damaged, fuzz, one_of
from test_formats import FORMATS, KINDS, write

from seqmix import Forecaster
from seqmix.commands.runs import run_rows
from seqmix.errors import SeqmixError
from seqmix.forecasting.archive import _fingerprint
from seqmix.tasks.checkpoint import read_checkpoint
from seqmix.tasks.rows import append_rows, read_rows

SAVED = FORMATS / "0.2"
NAMES = ("ridge", "mixer", "auto", *KINDS)


@st.composite
def folders(draw: Callable) -> tuple[str, dict[str, bytes]]:
    """A saved estimator of which a byte, a value of its JSON, or a file is another."""
    name = draw(one_of(*NAMES))
    files = {path.name: path.read_bytes() for path in sorted((SAVED / name).iterdir())}
    facts = next(file for file in files if file.endswith(".json"))
    kind = draw(st.integers(0, 4))
    if kind == 0:
        file = draw(one_of(*files))
        files[file] = draw(damaged(files[file]))
    elif kind == 1:
        other = draw(one_of(*NAMES))
        files["weights.safetensors"] = (SAVED / other / "weights.safetensors").read_bytes()
    elif kind == 2:
        del files[draw(one_of(*files))]
    else:
        text = draw(changed_values(json.loads(files[facts])))
        if kind == 4 and isinstance(text, dict) and "facts" in text:
            # by someone who knows of the fingerprint
            text["fingerprint"] = _fingerprint(text["facts"])
        files[facts] = json.dumps(text).encode()
    return name, files


def _with(**parts: object) -> dict:
    """The saved Ridge, with other facts, by someone who knows of the fingerprint."""
    files = {path.name: path.read_bytes() for path in (SAVED / "ridge").iterdir()}
    text = json.loads(files["forecaster.json"])
    for name, value in parts.items():
        text["facts"][name] = {**text["facts"][name], **value} if isinstance(value, dict) else value
    text["fingerprint"] = _fingerprint(text["facts"])
    return {"folder": ("ridge", {**files, "forecaster.json": json.dumps(text).encode()})}


@fuzz(
    40,
    4000,
    # no such library, and no name of a column
    _with(kind=[None, {}]),
    _with(reading={"id_col": None}),
    folder=folders(),
)
def test_a_damaged_estimator_is_refused_or_answers(folder):
    name, files = folder
    with tempfile.TemporaryDirectory() as path:
        for file, content in files.items():
            Path(path, file).write_bytes(content)
        try:
            made = KINDS.get(name, Forecaster).load(path, device="cpu")
            found = write.answers(name, made)
        except SeqmixError as e:
            assert str(e), e
            return
    # what is read whole answers with numbers; a seed or a step may be another
    for values in found.values() if isinstance(found, dict) else found:
        assert np.isfinite(np.asarray(values, float)).all()


@fuzz(30, 3000, content=damaged((SAVED / "run/last.ckpt").read_bytes()))
def test_a_damaged_checkpoint_is_refused_or_whole(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "last.ckpt")
        path.write_bytes(content)
        try:
            found = read_checkpoint(path)
        except SeqmixError as e:
            assert str(e).startswith("checkpoint "), e
            return
        assert all(bool(w.isfinite().all()) for w in found["state_dict"].values())


@st.composite
def runs(draw: Callable) -> dict[str, bytes]:
    """The tables and facts of a run folder, one of them damaged."""
    files = {name: (SAVED / "run" / name).read_bytes() for name in ("env.json", "metrics.csv", "results.csv")}
    file = draw(one_of(*files))
    files[file] = draw(damaged(files[file]))
    return files


def _run(**tables):
    return {"files": {"env.json": b"{}", **{f"{name}.csv": content for name, content in tables.items()}}}


@fuzz(
    30,
    3000,
    _run(metrics=b"epoch,val_mse\n1,x\n"),
    _run(metrics=b"epoch,step\n1,\xb2\n", results=b"role,mse\nmodel,\n"),
    files=runs(),
)
def test_a_damaged_run_folder_is_listed_or_refused(files):
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "demo", "20261129-000000-seed0")
        run.mkdir(parents=True)
        for file, content in files.items():
            (run / file).write_bytes(content)
        shutil.copy(SAVED / "run/config.yaml", run)
        try:
            assert run_rows(Path(folder), None)
            append_rows(run / "results.csv", [{"role": "model", "mse": 1.0}])
            assert read_rows(run / "results.csv")[-1]["mse"] == "1.0"
        except SeqmixError as e:
            assert str(e), e
