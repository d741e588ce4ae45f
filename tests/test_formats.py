"""Files that earlier versions saved: read, with the results of then, or refused in words that say what to do."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from seqmix import AnomalyDetector, Classifier, Forecaster, Imputer
from seqmix.cli import run
from seqmix.errors import DataError
from seqmix.tasks.rows import append_rows, read_rows

FORMATS = Path(__file__).parent / "formats"
KINDS = {"classifier": Classifier, "imputer": Imputer, "detector": AnomalyDetector}
_spec = importlib.util.spec_from_file_location("write", FORMATS / "write.py")
write = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(write)


@pytest.mark.parametrize("name", ["ridge", "mixer", "auto", *KINDS])
def test_what_was_fitted_answers_as_then(name):
    made = KINDS.get(name, Forecaster).load(FORMATS / "0.2" / name, device="cpu")
    now, then = write.answers(name, made), json.loads((FORMATS / "0.2/expected.json").read_text())[name]
    assert type(now) is type(then)
    for a, b in zip(*([x.values() if isinstance(x, dict) else x for x in (now, then)]), strict=True):
        # seven digits are written, and other processors round otherwise
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_a_run_folder(version, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(FORMATS / version / "run", "runs/config/20261129-000000-seed0")
    table = Path(folder, "results.csv")
    then = read_rows(table)
    assert run(["runs"]) == 0 and " 1 runs " not in capsys.readouterr().err
    test = ["test", "--config", f"{folder}/config.yaml", "--ckpt_path", "last", "--baselines", "[]"]
    if version == "0.1":
        monkeypatch.setattr("sys.argv", ["seqmix", *test])
        with pytest.raises(SystemExit, match="2"):
            run(test)
        said = capsys.readouterr().err.splitlines()
        assert said[0].startswith("seqmix: unknown option 'revin' in model.model")
        assert said[2] == "  seqmix 0.1.0 wrote this config; CHANGELOG.md has the names that changed since"
        # rows of now can stand below those of then
        append_rows(table, [{"role": "model", "mse": 1.0}])
        assert read_rows(table)[:2] == [{**row, "role": ""} for row in then]
        return
    assert run(test) == 0
    row = [row for row in read_rows(table) if row["role"] == "model"][-1]
    for metric in ("mse", "mae"):
        assert float(row[metric]) == pytest.approx(float(then[0][metric]), rel=1e-4)
    # and it goes on from where it stopped
    more = ["--ckpt_path", "last", "--trainer.max_epochs", "3", "--test", "false"]
    assert run(["fit", "--config", f"{folder}/config.yaml", *more]) == 0
    assert [row["step"] for row in read_rows(Path(folder, "metrics.csv"))] == ["4", "8", "12"]


def test_formats_of_before_are_refused_by_their_number():
    with pytest.raises(DataError, match=r"has format 2 \(seqmix an earlier version\), this version reads 6; fit again"):
        Forecaster.load(FORMATS / "0.1/mixer")
