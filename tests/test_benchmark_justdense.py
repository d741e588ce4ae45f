"""The grid of the study of dense mixers: pairs differ in the mixer only, runs are neither lost nor repeated."""

import importlib
from collections import Counter
from pathlib import Path

import pytest
import yaml

from seqmix.commands.justdense import Pair
from seqmix.tasks.rows import read_rows
from seqmix.tasks.run import Run

FOLDER = Path(__file__).parents[1] / "benchmarks"
CONFIG = """
model:
  class_path: Forecasting
  init_args:
    model: DLinear
    normalize: none
    optim: {class_path: AdamW, init_args: {schedule: constant}}
data:
  class_path: Cycles
  init_args: {context: 8, horizon: 2, batch_size: 32, n_steps: 200, lag: 2}
trainer: {accelerator: cpu, max_epochs: -1, max_steps: 4, check_val_every_n_epoch: null, val_check_interval: 2}
"""
MODEL = {"class_path": "MixerForecaster", "init_args": {"d_model": 4, "n_layers": 1, "mixer": {"class_path": "EMA"}}}


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Imports a script of the benchmarks, whose folder is on the path as when it is run, with a study of its own."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.chdir(tmp_path)
    grid, bench = importlib.import_module("justdense_grid"), importlib.import_module("justdense")
    monkeypatch.setattr(bench, "CONFIGS", tmp_path)
    monkeypatch.setitem(grid.STUDIES, "tiny", grid.Study("Forecasting", [], [], grid._forecaster))
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "tiny.yaml").write_text(CONFIG)
    return grid, bench


def test_a_twin_differs_in_the_mixer_only(load):
    grid, bench = load
    bench.CONFIGS = FOLDER.parent / "configs"
    cells = list(grid.cells())
    assert len({bench.digest(cell) for cell in cells}) == len(cells)
    alike = Counter(repr({**cell.settings(), "densify": None, "baselines": None}) for cell in cells)
    dense = [cell for cell in cells if cell.dense]
    assert dense and all(alike[repr({**c.settings(), "densify": None, "baselines": None})] == 2 for c in dense)
    # one run of baselines for each data set and seed
    ran = Counter((cell.study, repr(cell.data), cell.seed) for cell in cells if cell.baselines)
    assert set(ran.values()) == {1} and len(ran) == len({(c.study, repr(c.data), c.seed) for c in cells})
    assert {cell.seed for cell in cells} == {0, 1, 2}


def test_a_killed_run_goes_on_and_a_finished_one_is_not_repeated(load, tmp_path, monkeypatch, capsys):
    grid, bench = load
    cells = [grid.Cell("tiny", {"n_steps": 201}, "EMA", MODEL, True, 0, False)]
    # one that fails does not stop the others
    bench.run_all([cells[0]._replace(data={"n_steps": 5}), *cells], tmp_path / "whole")
    (row,) = read_rows(tmp_path / "whole" / "tiny.csv")
    assert "FAILED" in capsys.readouterr().out
    assert (row["name"], row["role"], row["dense"]) == ("EMA", "model", "True")
    assert row["model"] == "MixerForecaster (Dense), densified"
    assert float(row["cpu_seconds"]) >= 0 and len(row["cell"]) == 12 and row["commit"]

    validated = []
    record = Run._record

    def killed(self, trainer, task, better):
        record(self, trainer, task, better)
        validated.append(trainer.global_step)
        if len(validated) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "_record", killed)
    # Lightning makes an exit of Ctrl-C
    with pytest.raises(SystemExit):
        bench.run_all(cells, tmp_path / "parts")
    assert not (tmp_path / "parts").exists()
    bench.run_all(cells, tmp_path / "parts")
    # what came after the checkpoint of step 2 is done again, what came before it is not
    assert validated == [2, 4, 4]
    (again,) = read_rows(tmp_path / "parts" / "tiny.csv")
    assert all(again[name] == row[name] for name in ("cell", "name", "mse", "mae", "settings"))

    bench.run_all(cells, tmp_path / "parts")
    assert len(validated) == 3 and not any(bench.WORK.iterdir())


def test_other_settings_are_another_cell(load, tmp_path):
    grid, bench = load
    cell = grid.Cell("tiny", {"n_steps": 201}, "EMA", MODEL, False, 0, False)
    others = [cell._replace(seed=1), cell._replace(dense=True), cell._replace(data={"n_steps": 202})]
    digests = {bench.digest(each) for each in (cell, *others)}
    config = yaml.safe_load(CONFIG)
    config["trainer"]["max_steps"] = 5
    (tmp_path / "study" / "tiny.yaml").write_text(yaml.safe_dump(config))
    assert len(digests | {bench.digest(cell)}) == 5
    assert [each.seed for each in bench.select([cell, *others], {"seed": "1"})] == [1]
    with pytest.raises(SystemExit, match="no such fact"):
        list(bench.select([cell], {"sed": "1"}))
    found = {"runs": 4, "done": 1, "missing, seed 0": 2, "missing, seed 1": 1}
    done = [{"cell": bench.digest(cell), "role": "model"}, {"cell": bench.digest(others[0]), "role": "baseline"}]
    assert bench.progress(done, [cell, *others]) == [{"study": name, **found} for name in ("tiny", "all")]


def test_the_answer_counts_pairs_by_what_is_left_to_the_mixer(load, monkeypatch):
    grid, bench = load
    assert grid.HEAD_MIXES == ("long_term", "short_term", "classification")
    fields = ("study", "data", "size", "model", "metric", "better", "original", "dense", "published", "baseline")
    worse, run = [{"mse": "2"}], [{"mse": "1"}]
    pairs = [
        Pair(**dict(zip(fields, (study, "A", "", model, "mse", "lower", run, worse, "", ""), strict=True)))
        for study, models in {
            "short_term": ("Autoformer", "PatchTST"),
            "imputation": ("Autoformer", "PatchTST", "Mamba", "iTransformer"),
            "detection": ("Informer",),
        }.items()
        for model in models
    ]
    monkeypatch.setattr(bench, "pairs_of", lambda rows, known, tasks: pairs)
    assert [line["dense worse"] for line in bench.answer([])] == [2, 1, 2, 1, 1, 1, 7, 6]
