"""Every combination and seed is run once, whatever happens in between."""

from pathlib import Path

import pytest

from seqmix.cli import run
from seqmix.commands import sweep
from seqmix.commands.sweep import grid_of
from seqmix.errors import ConfigError
from seqmix.tasks import Forecasting
from seqmix.tasks.rows import read_rows

CONFIG = """
model:
  class_path: Forecasting
  init_args:
    model:
      class_path: MixerForecaster
      init_args: {mixer: Pool, d_model: 4, n_layers: 1, patch_len: 4, dropout: 0.1}
data:
  class_path: Cycles
  init_args: {context: 24, horizon: 8, batch_size: 64, n_channels: 2, n_steps: 400}
trainer: {max_epochs: 1, accelerator: cpu}
"""
LINE = ["sweep", "--config", "tiny.yaml", "--grid", "model.model.mixer=Pool,FNet", "data.horizon=4,8"]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(CONFIG)


def _models():
    return [row for row in read_rows(Path("runs/tiny/sweep.csv")) if row["role"] == "model"]


def test_every_combination_once_after_an_interruption(monkeypatch, capsys):
    asked, done, step_once = [], [], Forecasting.training_step

    def baselines(self, data, chosen, seed):
        asked.append((chosen, seed, data.horizon))
        return []

    def training_step(self, batch, batch_idx):
        done.append(batch_idx)
        if len(done) == 6:
            raise KeyboardInterrupt
        return step_once(self, batch, batch_idx)

    monkeypatch.setattr(Forecasting, "baselines", baselines)
    planned = sweep.plan(LINE[1:3], grid_of(LINE[4:]), [0])
    monkeypatch.setattr(sweep, "plan", lambda *_: planned)
    with monkeypatch.context() as patch:
        patch.setattr(Forecasting, "training_step", training_step)
        assert run(LINE) == 130
    said = capsys.readouterr()
    assert said.err.strip().endswith("the same line goes on with the sweep")
    assert said.out.startswith("1/4  model.model.mixer=Pool data.horizon=4 seed=0  mse: validation ")
    assert len(_models()) == 1
    assert run(LINE) == 0
    assert [(row["model"], row["horizon"]) for row in _models()] == [
        (f"MixerForecaster ({mixer})", horizon) for mixer in ("Pool", "FNet") for horizon in ("4", "8")
    ]
    assert all(float(row["val_mse"]) > 0 and row["changes"].startswith("model.model.mixer=") for row in _models())
    table = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(" model.model")]
    # those of the same data beside each other, the best validation first
    assert [line[1] for line in table] == ["data.horizon=4"] * 2 + ["data.horizon=8"] * 2
    assert float(table[0][5]) <= float(table[1][5]) and float(table[2][5]) <= float(table[3][5])
    # all baselines, until the table holds rows of this data and seed
    assert asked == [(None, 0, 4), (None, 0, 8), ([], 0, 4), ([], 0, 8)]


def test_a_run_that_fails_does_not_stop_the_others(capsys):
    grid = ["--grid", "model.model.patch_len=99,4,8"]
    assert run(["sweep", "--config", "tiny.yaml", *grid, "--baselines", "[SeasonalNaive]"]) == 1
    said = capsys.readouterr()
    assert "model.model.patch_len=99 seed=0  failed: patch_len = 99" in said.err
    assert "seqmix: 1 of 3 runs failed, or run elsewhere; the same line tries them again" in said.err
    assert [row["changes"] for row in _models()] == ["model.model.patch_len=4", "model.model.patch_len=8"]
    # given by hand, baselines stand beside each run
    rows = read_rows(Path("runs/tiny/sweep.csv"))
    assert [row["role"] for row in rows] == ["model", "baseline"] * 2


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
