"""Every combination and seed is run once, whatever happens in between."""

from pathlib import Path

import pytest
from tiny import CONFIG

from seqmix.cli import run
from seqmix.commands import sweep
from seqmix.commands.sweep import grid_of
from seqmix.errors import ConfigError
from seqmix.tasks import Forecasting
from seqmix.tasks.rows import append_rows, read_rows

LINE = ["sweep", "--config", "tiny.yaml", "--grid", "model.model.mixer=Pool,FNet", "data.horizon=4,8"]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(CONFIG)


def _models():
    return [row for row in read_rows(Path("runs/tiny/sweep.csv")) if row["role"] == "model"]


def test_every_combination_once_whatever_happens(monkeypatch, capsys):
    asked, done, step_once = [], [], Forecasting.training_step

    def baselines(self, data, chosen, seed):
        asked.append(chosen if chosen is None else len(chosen))
        return []

    def training_step(self, batch, batch_idx):
        done.append(batch_idx)
        if len(done) == 6:
            raise KeyboardInterrupt
        return step_once(self, batch, batch_idx)

    monkeypatch.setattr(Forecasting, "baselines", baselines)
    line = ["sweep", "--config", "tiny.yaml", "--grid", "model.model.patch_len=4,99,8"]
    planned = sweep.plan(line[1:3], grid_of(line[4:]), [0])
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "plan", lambda *_: planned)
        patch.setattr(Forecasting, "training_step", training_step)
        assert run(line) == 130
    said = capsys.readouterr()
    assert said.out.startswith("1/3  model.model.patch_len=4 seed=0  mse: validation ")
    assert "model.model.patch_len=99 seed=0  failed: patch_len = 99" in said.err
    assert said.err.strip().endswith("the same line goes on with the sweep")
    first = _models()
    assert [row["changes"] for row in first] == ["model.model.patch_len=4"]
    # what is done is not done again; what failed is tried again, and stops nothing
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "plan", lambda *_: planned)
        assert run(line) == 1
    said = capsys.readouterr()
    assert "seqmix: 1 of 3 runs failed, or run elsewhere; the same line tries them again" in said.err
    assert "1/3" not in said.out and "3/3" in said.out
    assert _models()[:1] == first and _models()[1]["changes"] == "model.model.patch_len=8"
    assert all(float(row["val_mse"]) > 0 for row in _models())
    # baselines are trained once for data and seed; given by hand, they stand beside each run
    assert run([*line[:4], "model.model.patch_len=6", "--baselines", "[SeasonalNaive]"]) == 0
    assert asked == [None, 0, 1]


def test_the_best_validation_of_the_same_data_comes_first(monkeypatch, capsys):
    scores = {("Pool", 4): 3.0, ("FNet", 4): 2.0, ("Pool", 8): 5.0, ("FNet", 8): 6.0}
    table = Path("runs/tiny/sweep.csv")
    trials = [
        sweep.Trial(f"mixer={name} horizon={horizon}", (), seed, f"{name}{horizon}", str(horizon))
        for seed in (0, 1)
        for name, horizon in scores
    ]
    rows = [
        {
            **{"settings": trial.settings, "seed": trial.seed, "role": "model", "model": "M", "task": "Forecasting"},
            **{"val_mse": score + trial.seed, "mse": 10 - score, "seconds": 1},
        }
        for trial, score in zip(trials, [*scores.values()] * 2, strict=True)
    ]
    append_rows(table, rows)
    monkeypatch.setattr(sweep, "plan", lambda *_: (trials, table))
    sweep.sweep([], {}, [], 1)
    out = capsys.readouterr().out
    order = [line.split()[:2] for line in out.splitlines() if line.startswith(" mixer")]
    assert order == [
        [f"mixer={name}", f"horizon={k}"] for name, k in (("FNet", 4), ("Pool", 4), ("Pool", 8), ("FNet", 8))
    ]
    assert out.startswith("4 combinations, 8 runs, in runs/tiny/sweep.csv") and "2.5000 ± 0.7071" in out


def test_seeds_come_one_after_another():
    trials, table = sweep.plan(["--config", "tiny.yaml"], {"data.horizon": ["4", "8"]}, [1, 0])
    assert [(trial.changes, trial.seed) for trial in trials] == [
        (f"data.horizon={horizon}", seed) for seed in (1, 0) for horizon in (4, 8)
    ]
    assert table == Path("runs/tiny/sweep.csv")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            ["--grid", "data.horizon"],
            "--grid 'data.horizon' should be option=value,value; use for example data.horizon=",
        ),
        (["--grid", "data.horizon=4", "data.horizon=8"], "--grid names data.horizon twice"),
        (["--grid", "data.horizon=4,4"], "two combinations have the same settings, or a seed stands twice"),
        (["--seeds", "0,x"], "--seeds '0,x' should be whole numbers between commas; use for example 0,1,2"),
        (["--jobs", "0"], "jobs must be at least 1, got 0"),
    ],
)
def test_wrong_options_come_before_the_first_run(options, error, capsys):
    assert run(["sweep", "--config", "tiny.yaml", *options]) == 1
    assert error in capsys.readouterr().err and not Path("runs").exists()


def test_an_unknown_option_is_named(capsys):
    with pytest.raises(SystemExit) as e:
        run(["sweep", "--config", "tiny.yaml", "--grid", "data.horizn=4,8"])
    assert e.value.code == 2 and "unknown option 'horizn' in data" in capsys.readouterr().err


def test_commas_inside_brackets_belong_to_a_value():
    assert grid_of(["model.dims=[4,8],[16]", "--data.name=ETTh1"]) == {
        "model.dims": ["[4,8]", "[16]"],
        "data.name": ["ETTh1"],
    }
    with pytest.raises(ConfigError):
        grid_of(["data.horizon=4,,8"])


@pytest.mark.slow
def test_two_processes_share_the_runs():
    assert run([*LINE, "--seeds", "0,1", "--jobs", "2"]) == 0
    assert len(_models()) == 8 and len({(row["settings"], row["seed"]) for row in _models()}) == 8
