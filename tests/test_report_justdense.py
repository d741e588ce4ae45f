"""`seqmix report justdense`: pairs over common seeds, counts, tests, ranks and their picture."""

import numpy as np
import pytest
from scipy.stats import wilcoxon

from seqmix.cli import run
from seqmix.commands import justdense
from seqmix.commands.justdense import (
    by_model,
    by_model_and_study,
    cells_of,
    critical_difference,
    pairs_of,
    ranks,
    read,
    verdicts,
)
from seqmix.tasks import AnomalyDetection, Forecasting, SeriesClassification
from seqmix.tasks.rows import append_rows

TASKS = {"Forecasting": Forecasting, "SeriesClassification": SeriesClassification}


def add(folder, study, data, name, scores, dense, first_seed=0):
    """One row for each score, of successive seeds."""
    classes = study == "classification"
    facts = {"max_len": 9, "accuracy": 0.0} if classes else {"context": 96, "horizon": 96, "mse": 0.0}
    for seed, score in enumerate(scores, first_seed):
        row = {"cell": f"{name}{data}{seed}{dense}", "role": "model", "seed": seed, "data": data, "name": name}
        row |= {"task": "SeriesClassification" if classes else "Forecasting", "dense": dense, **facts}
        row |= {"accuracy" if classes else "mse": score}
        append_rows(folder / f"{study}.csv", [{**row, "parameters": 10 - 5 * dense, "cpu_seconds": 8 - 6 * dense}])


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "results" / "study"
    add(found, "long_term", "A", "PatchTST", [0.4, 0.6, 0.9], dense=False)
    add(found, "long_term", "A", "PatchTST", [0.6, 0.65], dense=True)
    add(found, "long_term", "A", "Mamba", [0.501], dense=False)
    add(found, "long_term", "A", "Mamba", [0.500], dense=True)
    add(found, "classification", "G", "PatchTST", [0.5], dense=False)
    add(found, "classification", "G", "PatchTST", [0.6], dense=True)
    # no twin yet, and a twin without its model
    add(found, "classification", "G", "Mamba", [0.9], dense=False)
    add(found, "classification", "H", "Mamba", [0.9], dense=True)
    baseline = {"cell": "x", "role": "baseline", "seed": 0, "data": "A", "name": "Ridge", "task": "Forecasting"}
    append_rows(found / "long_term.csv", [{**baseline, "context": 96, "horizon": 96, "mse": 0.1}])
    return found


def test_a_higher_score_of_a_test_is_better_where_validations_have_errors(tmp_path):
    for dense, score in ((False, 0.4), (True, 0.5)):
        row = {"cell": f"x{dense}", "role": "model", "seed": 0, "data": "A", "name": "PatchTST", "dense": dense}
        row |= {"task": "AnomalyDetection", "window": 64, "vus_pr": score, "parameters": 5, "cpu_seconds": 1}
        append_rows(tmp_path / "results" / "study" / "detection.csv", [row])
    (pair,) = pairs_of(read(tmp_path / "results" / "study"), [], {"AnomalyDetection": AnomalyDetection})
    assert AnomalyDetection.better == "lower" and pair.change == pytest.approx(-0.25)


def test_a_pair_is_of_the_seeds_that_both_have(folder):
    known = [{"model": "PatchTST", "data": "A", "context": "96", "horizon": "96", "mse": "0.41"}]
    classes, mamba, patches = pairs_of(read(folder), known, TASKS)
    assert (patches.model, len(patches.original)) == ("PatchTST", 2)
    assert (patches.published, patches.baseline) == ("0.41", "Ridge 0.100")
    assert patches.change == pytest.approx(0.625 / 0.5 - 1) and mamba.change == pytest.approx(-1 / 501)
    # a higher accuracy is better
    assert classes.change == pytest.approx(-0.2) and classes.published == ""
    (first, *_) = verdicts([classes, mamba, patches])
    assert first["study"] == "classification" and first["dense better"] == 1
    whole = verdicts([classes, mamba, patches])[-1]
    assert [whole[key] for key in ("study", "pairs", "dense better", "within 1 %", "dense worse")] == [
        "all",
        3,
        1,
        1,
        1,
    ]
    short = {"classification": "", "long_term": "0 / 1 / 0, -0.2 %"}
    assert by_model_and_study([classes, mamba, patches])[0] == {"model": "Mamba", **short}
    assert by_model([mamba])[0]["parameters of the twin"] == "0.50 x"
    short = {"classification": "", "long_term": "0 / 1 / 0, -0.2 %"}
    assert by_model_and_study([classes, mamba, patches])[0] == {"model": "Mamba", **short}
    assert by_model([mamba])[0]["CPU time of the twin"] == "0.25 x"


def test_a_newer_row_of_a_seed_counts(folder):
    add(folder, "long_term", "A", "Mamba", [0.7], dense=True)
    pair = next(p for p in pairs_of(read(folder), [], TASKS) if p.model == "Mamba")
    assert pair.mean(pair.dense) == 0.7


def test_significance_is_of_pairs_and_of_data_sets(tmp_path):
    changes = [0.01, 0.02, -0.03, 0.04, 0.05, 0.06, 0.07]
    for i, change in enumerate(changes):
        add(tmp_path, "long_term", str(i), "Mamba", [1.0], dense=False)
        add(tmp_path, "long_term", str(i), "Mamba", [1 + change], dense=True)
    (row,) = verdicts(pairs_of(read(tmp_path), [], TASKS))
    want = f"{wilcoxon(changes).pvalue:.3f}"
    assert (row["p, over pairs"], row["p, over data sets"]) == (want, f"{want} (n = 7)")
    assert verdicts(pairs_of(read(tmp_path), [], TASKS)[:5])[0]["p, over pairs"] == "too few"


def test_ranks_are_of_data_sets_that_have_all_models(folder):
    cells = cells_of(read(folder), TASKS)
    assert {name for cell in cells for name in cell.scores} == {
        *("PatchTST", "PatchTST, dense", "Mamba", "Mamba, dense")
    }
    np.testing.assert_array_equal(ranks(cells, ["PatchTST", "PatchTST, dense"]), [[2, 1], [2, 1]])
    np.testing.assert_array_equal(ranks(cells, ["PatchTST", "Mamba, dense"]), [[2, 1]])
    # Demsar, 2006, sec. 3.2.2: four classifiers on 14 data sets
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_command(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["report", "justdense", "--folder", "results", "--published", "none"]
    assert run([*argv, "--plot", "ranks.png"]) == 0
    out = capsys.readouterr().out
    assert "| long_term | A 96 96 | PatchTST | MSE | 0.500 ± 0.141 | 0.625 ± 0.035 | +25.0 % | Ridge 0.100 |" in out
    # of all models and baselines, the mean over all of their own seeds
    assert (
        "long_term: MSE by data, context, horizon\n\n| model | A 96 96 |\n" in out
        and "| PatchTST | 0.633 |" in out
        and "| Ridge | 0.100 |" in out
    )
    assert (tmp_path / "ranks.png").stat().st_size > 5000
    add(tmp_path / "other" / "study", "long_term", "A", "Mamba", [0.5], dense=False)
    assert run(["report", "justdense", "--folder", "other"]) == 1
    assert f"no dense twins in 'other/study'; {justdense._REMEDY}" in capsys.readouterr().err
