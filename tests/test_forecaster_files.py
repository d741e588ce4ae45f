"""A fitted Forecaster in files: saved and loaded."""

import importlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pandas as pd
import pytest
from daily_panel import panel, small

from seqmix import Forecaster
from seqmix.errors import ConfigError, DataError
from seqmix.mixers import Pool
from seqmix.models import DLinear, MixerForecaster


@pytest.fixture(scope="module")
def fitted():
    return small().fit(panel())


@pytest.mark.parametrize("model", ["DLinear", ["Pool", partial(MixerForecaster, mixer=partial(Pool, pool_size=3))]])
def test_saved_and_loaded(tmp_path, model):
    df = panel().assign(day=lambda df: df["ds"].dt.day_name())
    fc = small(model, context_length=16, past_covariates=("day",), levels=[80]).fit(df)
    fc.save(tmp_path / "kept")
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == ["forecaster.json", "weights.safetensors"]
    twin = Forecaster.load(tmp_path / "kept", device="cpu")
    assert repr(twin) == repr(fc)
    pd.testing.assert_frame_equal(twin.predict(), fc.predict())
    pd.testing.assert_frame_equal(twin.predict(df), fc.predict(df))
    assert twin.fit_more(df, max_steps=2).predict().columns.tolist() == fc.predict().columns.tolist()


def test_what_cannot_be_saved_or_loaded(tmp_path, fitted):
    with pytest.raises(ConfigError, match=r"model = .* cannot be saved; use a name, a class of a module"):
        small(lambda series: DLinear(series)).set_params(model=[lambda series: DLinear(series)]).fit(panel()).save(
            tmp_path
        )
    with pytest.raises(DataError) as error:
        Forecaster.load("nowhere")
    assert str(error.value) == "no forecaster.json in 'nowhere'; give a folder that Forecaster.save wrote"
    fitted.save(tmp_path)
    file = tmp_path / "forecaster.json"
    file.write_text(file.read_text().replace('"model": "DLinear"', '"model": {"class": "os:system"}'))
    with pytest.raises(DataError, match="'os:system' is not a module of torch"):
        Forecaster.load(tmp_path)


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as error:
        Forecaster.load("seqmix/nothing-here")
    said = str(error.value)
    assert said.startswith("'seqmix/nothing-here' is not a folder, and the hub gives no such repository (")
    assert said.endswith("); check name and connection, or give a folder that Forecaster.save wrote")


def test_files_have_the_usual_mode_and_name_versions(tmp_path, fitted):
    before = os.umask(0o027)
    try:
        fitted.save(tmp_path / "kept")
    finally:
        os.umask(before)
    assert {oct(file.stat().st_mode & 0o777) for file in (tmp_path / "kept").iterdir()} == {"0o640"}
    facts = json.loads((tmp_path / "kept/forecaster.json").read_text())
    assert facts["versions"].keys() == {"seqmix", "torch", "python"}


@pytest.mark.parametrize("done", range(3))
def test_an_interrupted_save_leaves_the_older_one_or_itself(done, tmp_path, fitted, monkeypatch):
    """Interrupted before each of its three renames: the new weights, the new facts, the name of the weights."""
    fitted.save(tmp_path)
    other = small(seed=5).fit(panel(("q", "r")))
    replace, renamed = os.replace, []

    def interrupted(part, to):
        if len(renamed) == done:
            raise KeyboardInterrupt
        renamed.append(to)
        replace(part, to)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        other.save(tmp_path)
    monkeypatch.undo()
    want = other if done == 2 else fitted
    assert Forecaster.load(tmp_path).predict().equals(want.predict())
    # a save that ends leaves its files only
    other.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["forecaster.json", "weights.safetensors"]
    assert Forecaster.load(tmp_path).predict().equals(other.predict())


def test_files_of_two_saves_are_never_read_as_one(tmp_path, fitted):
    for name, forecaster in (("a", fitted), ("b", small(seed=5).fit(panel(("q", "r"))))):
        forecaster.save(tmp_path / name)
    os.replace(tmp_path / "b/weights.safetensors", tmp_path / "a/weights.safetensors")
    with pytest.raises(DataError, match="it is damaged, or of another save"):
        Forecaster.load(tmp_path / "a")


def _flip(at):
    def change(content):
        content[at] ^= 4
        return content

    return change


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("weights.safetensors", _flip(-5)),
        ("weights.safetensors", lambda content: content[:-100]),
        ("weights.safetensors", lambda content: b""),
        ("forecaster.json", lambda content: content[: len(content) // 2]),
        ("forecaster.json", lambda content: b"[]"),
        ("forecaster.json", lambda content: b"\xff" + content),
        ("forecaster.json", lambda content: content.replace(b'"context": 14', b'"context": 15')),
        ("forecaster.json", lambda content: content.replace(b'"facts"', b'"fact"')),
        ("forecaster.json", lambda content: content.replace(b'"horizon": 6', b'"horizont": 6')),
        ("forecaster.json", lambda content: content.replace(b'"horizon": 6', b'"horizont": 6', 1)),
    ],
)
def test_damaged_files_are_said(tmp_path, fitted, file, change):
    fitted.save(tmp_path)
    path = tmp_path / file
    path.write_bytes(change(bytearray(path.read_bytes())))
    with pytest.raises(DataError, match=r"(is damaged|was changed after it was saved|was saved with).*again"):
        Forecaster.load(tmp_path)


def test_a_folder_imports_no_module_of_its_own(tmp_path, fitted, monkeypatch):
    """A module that only the saved folder names does not run."""
    fitted.save(tmp_path / "kept")
    (tmp_path / "canary_model.py").write_text(
        "import pathlib\nfrom seqmix.models import DLinear\n\n\nclass Mine(DLinear):\n    pass\n\n\n"
        f"pathlib.Path({str(tmp_path / 'sang')!r}).touch()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "kept" / "forecaster.json"
    text = file.read_text().replace('"model": "DLinear"', '"model": {"class": "canary_model:Mine"}')
    file.write_text(text)
    with pytest.raises(DataError) as error:
        Forecaster.load(tmp_path / "kept")
    assert str(error.value) == (
        "the Forecaster needs 'Mine' of the module 'canary_model', which was not imported; import it first, or pass "
        "trusted=['canary_model'] if you know what is in it"
    )
    assert not (tmp_path / "sang").exists()


def test_models_of_ones_own_are_trusted_by_name(tmp_path, monkeypatch):
    (tmp_path / "own_model.py").write_text("from seqmix.models import DLinear\n\n\nclass Mine(DLinear):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    fc = small(importlib.import_module("own_model").Mine).fit(panel())
    fc.save(tmp_path / "kept")
    sys.modules.pop("own_model")
    with pytest.raises(DataError, match=r"pass trusted=\['own_model'\]"):
        Forecaster.load(tmp_path / "kept")
    twin = Forecaster.load(tmp_path / "kept", trusted="own_model")
    pd.testing.assert_frame_equal(twin.predict(), fc.predict())
    sys.modules.pop("own_model")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    fc = small().fit(panel())
    next(fc.tasks_["DLinear"].parameters()).data[0] = float("nan")
    fc.save(tmp_path)
    with pytest.raises(DataError, match=r"weights of DLinear are not finite; fit again"):
        Forecaster.load(tmp_path)


def test_saves_at_once_leave_the_files_of_one(tmp_path, fitted):
    """Two threads write to one folder again and again: it always holds one of the two."""
    both = [fitted, small(seed=5).fit(panel(("q", "r")))]
    forecasts = [fc.predict() for fc in both]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda fc: [fc.save(tmp_path) for _ in range(10)], both))
    found = Forecaster.load(tmp_path).predict()
    assert any(found.equals(forecast) for forecast in forecasts)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["forecaster.json", "weights.safetensors"]
