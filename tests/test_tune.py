"""A study finishes every trial once, whatever happens in between, and says the best by validation."""

import errno
import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import CONFIG

from seqmix.cli import run
from seqmix.commands import _study_report, _trials
from seqmix.commands.train import Train
from seqmix.commands.tune import space_of, tune
from seqmix.errors import ConfigError, WriteError
from seqmix.search import combinations, dimension, make_study
from seqmix.tasks.rows import read_rows

optuna = pytest.importorskip("optuna", reason="needs optuna, of the extra scale")

SPACE = ["model.optim.lr=log:1e-4:1e-1", "model.model.d_model=int:4:16:4"]
LINE = ["tune", "--config", "tiny.yaml", "--space", *SPACE]
STUDY = Path("runs/tiny/tune")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(CONFIG.replace("max_epochs: 1", "max_epochs: 2"))


@pytest.fixture
def trained(monkeypatch):
    """Values that were tried, by a stand-in for training whose validation is a function of them; nothing is drawn."""
    tried = []
    for name in ("draw_history", "draw_importance", "importance"):
        monkeypatch.setattr(_study_report, name, lambda *_: {})

    def train(trial, values, search):
        tried.append(values)
        Path("runs/tiny/run").mkdir(exist_ok=True)
        Path("runs/tiny/run/config.yaml").write_text(CONFIG)
        trial.set_user_attr("run", "runs/tiny/run")
        return values["model.optim.lr"] + values["model.model.d_model"] / 1000, False

    monkeypatch.setattr(_trials, "_train", train)
    return tried


def _tune(trials, folder=STUDY, space=SPACE, deadline=math.inf):
    folder.mkdir(parents=True, exist_ok=True)
    search = _trials.Search((), space_of(space), folder, trials, "median", 0, "mse", False, deadline)
    tune(search, 1, None)


def _rows(folder=STUDY):
    return read_rows(folder / "trials.csv")


def _killed(monkeypatch, error, at):
    """Raise ``error`` in trial ``at``, which ends the process; the trials after it run as before."""
    train, calls = _trials._train, []

    def die(*args):
        calls.append(args)
        if len(calls) == at:
            raise error
        return train(*args)

    monkeypatch.setattr(_trials, "_train", die)


class Killed(BaseException):
    """Stands in for kill -9: nothing of ours runs after it."""


def test_trials_are_trained_and_the_best_config_runs(capsys, monkeypatch):
    monkeypatch.setattr(optuna.pruners.MedianPruner, "prune", lambda self, study, trial: trial.number == 1)
    assert run([*LINE, "--trials", "2"]) == 0
    done, pruned = _rows()
    assert (done["state"], done["validations"]) == ("done", "2")
    assert (pruned["state"], pruned["validations"]) == ("pruned", "1")
    out = capsys.readouterr().out
    assert "2/2  model.optim.lr=" in out and "  pruned" in out and "test mse" not in out
    # a run that was ended early is not taken for a finished one
    folder = next(Path("runs/tiny").glob(f"{pruned['run']}"))
    assert not torch.load(folder / "last.ckpt", weights_only=True)["run"]["over"]
    # another space is another study
    assert run([*LINE, "--space", "data.batch_size=32,64"]) == 1
    assert "space.data.batch_size=null; give the same, or another name with --study" in capsys.readouterr().err
    best = STUDY / "best.yaml"
    validated = read_rows(Path("runs/tiny") / done["run"] / "metrics.csv")
    score = min(float(row["val_mse"]) for row in validated)
    assert f"the best of 2 trials is number 1, validation mse {score:.6g} (lower is better)" in best.read_text()
    # it is the config of the run, whose weights it finds
    cli = Train("test", ["--config", str(best), "--ckpt_path", "best"], build=False)
    assert cli.ckpt_path == Path("runs/tiny", done["run"], "best.ckpt")
    assert f"{cli.config.model.init_args.optim.init_args.lr:.4g}" == done["model.optim.lr"]
    assert (STUDY / "history.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("error", "raised"),
    [(KeyboardInterrupt, KeyboardInterrupt), (Killed, Killed), (partial(OSError, errno.ENOSPC, "full"), WriteError)],
)
def test_a_study_that_was_stopped_is_that_which_was_not(error, raised, trained, monkeypatch):
    _tune(8, Path("runs/tiny/whole"))
    whole, trained[:] = trained[:], []
    with monkeypatch.context() as patch:
        _killed(patch, error(), 4)
        with pytest.raises(raised) as e:
            _tune(8)
    if raised is KeyboardInterrupt:
        assert e.value.args == ("the same line goes on with the study in runs/tiny/tune",)
        assert [row["state"] for row in _rows()] == ["done"] * 3 + ["unfinished"]
    # a line that the process had begun to write
    with (STUDY / "study.journal").open("a") as journal:
        journal.write('{"op_code": 6, "trial')
    _tune(8)
    assert trained == whole and len(whole) == 8
    assert _rows() == _rows(Path("runs/tiny/whole"))


def test_failed_trials_are_named_and_the_others_go_on(trained, monkeypatch, capsys):
    _killed(monkeypatch, RuntimeError("not enough memory:\nyou tried to allocate 9 TB"), 2)
    _tune(4)
    said = capsys.readouterr()
    assert "failed: not enough memory: you tried to allocate 9 TB" in said.err
    assert "trial 2 failed: not enough memory: you tried to allocate 9 TB" in said.out
    assert [row["state"] for row in _rows()] == ["done"] * 3 + ["failed"]
    # a larger number goes on; what failed is not tried again
    _tune(5)
    assert len(trained) == 4


def test_a_trial_that_kills_its_process_fails_in_the_end(trained, monkeypatch, capsys):
    for _ in range(3):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            _killed(patch, Killed(), 1)
            _tune(2)
    _tune(2)
    assert [row["state"] for row in _rows()] == ["done", "failed"]
    assert "trial 1 failed: its process died 3 times; is there enough memory?" in capsys.readouterr().out


def test_a_small_space_is_searched_once(trained, capsys):
    _tune(40, space=["model.optim.lr=float:0.1:0.3:0.1", "model.model.d_model=int:4:8:4"])
    assert len({tuple(values.items()) for values in trained}) == len(trained) == len(_rows()) == 6
    assert _rows()[0]["validation mse"] == "0.1040"
    assert "trials repeated earlier values and were not trained again" in capsys.readouterr().out


def test_no_result_is_an_error(trained, monkeypatch):
    with pytest.raises(ConfigError, match="no trial has a result: 0 failed; the same line goes on, raise --budget"):
        _tune(1, deadline=0)
    _killed(monkeypatch, RuntimeError("no such thing"), 1)
    with pytest.raises(ConfigError, match="no trial has a result: 1 failed, the first: no such thing"):
        _tune(1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--space", "a=int:4"], "space: a = 'int:4' should be int and two whole numbers"),
        (["--space", "a=int:4:8.5"], "space: a = 'int:4:8.5' should be int and two whole numbers"),
        (["--space", "a=float:2:1"], "space: a = 'float:2:1': 2 should be below 1; use for example float:0:0.5"),
        (["--space", "a=log:0:1"], "a logarithmic scale begins above 0, got 0; use for example log:1e-4:1e-2"),
        (["--space", "a=log:1:2:3"], "space: a = 'log:1:2:3' has a part too many"),
        (["--space", "a=int:1:9:0"], "the step 0 does not fit; use one above 0 and at most 8"),
        (["--space", "a=uniform:0:1"], "space: a has nothing to choose from, got ['uniform:0:1']; use int:LOW:HIGH"),
        (["--space", "a=1,2", "--space", "a=3,4"], "--space names a twice; put all of its values into one entry"),
        (["--space", "a=1,1"], "space: a names a value twice, got ['1', '1']; name each once"),
        (["--space", "none.yaml"], "--space 'none.yaml' cannot be read (No such file"),
        (["--space", "space.yaml"], "space: model.optim.lr = 0.1 is not a range; use int:LOW:HIGH[:STEP]"),
        ([], "there is nothing to search; use for example --space model.optim.lr=log:1e-4:1e-2"),
        (["--pruner", "mean"], "pruner = 'mean' is not known; use one of median, hyperband, none"),
        (["--trials", "0"], "trials must be at least 1, got 0"),
        (["--study", "../x"], "study = '../x' should be the name of one folder"),
        (["--budget", "soon"], "budget = 'soon' is not a time; use seconds, or for example '1min'"),
        (["--jobs", "2", "--workers", "2"], "--jobs are processes of this machine, --workers tasks of Ray"),
    ],
)
def test_wrong_options_come_before_the_first_trial(options, error, capsys):
    Path("space.yaml").write_text("model.optim.lr: 0.1")
    assert run(["tune", "--config", "tiny.yaml", *options]) == 1
    assert error in capsys.readouterr().err and not Path("runs").exists()


def test_values_are_checked_before_the_first_trial(capsys):
    with pytest.raises(SystemExit):
        run(["tune", "--config", "tiny.yaml", "--space", "model.model.mixer=Pool,Hidra"])
    assert "no class 'Hidra' for model.model.mixer" in capsys.readouterr().err
    assert run([*LINE, "--trainer.devices", "2"]) == 1
    assert "leave trainer.devices and fast_dev_run out" in capsys.readouterr().err and not Path("runs").exists()


def test_a_file_is_as_the_command_line():
    Path("space.yaml").write_text("a: log:1e-4:1e-2\nb: [1, null, [2, 3], x]\nc: int:0:9:4")
    assert space_of(["space.yaml"]) == space_of(["a=log:1e-4:1e-2", "--b=1,null,[2, 3],x", "c=int:0:8:4"])
    assert combinations(space_of(["b=1,2", "c=int:0:9:4", "d=float:0:0.3:0.1"])) == 24


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_poor_trials_are_ended_early(pruner):
    study = make_study("x", maximize=True, pruner=pruner, seed=0)
    ended = []
    for k in range(12):
        trial = study.ask()
        for step in range(1, 10):
            trial.report(-k, step)
            if trial.should_prune():
                ended.append(k)
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, -k)
    assert 0 not in ended and len(ended) >= 3


def test_what_is_no_list_is_no_choice():
    with pytest.raises(ConfigError, match=r"space: lr = \{'low': 1\} is not a range"):
        dimension("lr", {"low": 1})


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["--jobs", "--workers"])
def test_two_processes_share_the_trials(workers):
    if workers == "--workers":
        pytest.importorskip("ray", reason="needs ray, of the extra scale")
    line = [sys.executable, "-m", "seqmix", *LINE, "--trials", "6", workers, "2", "--pruner", "none"]
    assert subprocess.run(line).returncode == 0
    assert [row["state"] for row in _rows()] == ["done"] * 6 and len({row["run"] for row in _rows()}) == 6


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_killed_processes_lose_no_trial(number, jobs):
    line = [sys.executable, "-m", "seqmix", *LINE, "--trials", "5", "--jobs", jobs, "--trainer.max_epochs", "4"]
    line += ["--pruner", "none"]
    for after in (1, 3):
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        seen = [next(process.stdout) for _ in range(after)]
        time.sleep(0.3)
        process.send_signal(number)
        out = "".join([*seen, process.communicate()[0]])
        if number != signal.SIGKILL:
            assert process.returncode == 128 + number and "the same line goes on with the study" in out, out
        # the processes that it had started end too
        deadline = time.monotonic() + 60
        while _locks() and time.monotonic() < deadline:
            time.sleep(0.1)
    assert subprocess.run(line, env=os.environ).returncode == 0
    assert [row["state"] for row in _rows()] == ["done"] * 5
    found = {row["trial"]: row for row in _rows()}
    runs = list(Path("runs/tiny").glob("*-seed0*"))
    # no trial was begun twice, and each is what it would have been alone
    assert len(runs) == 5
    for row in found.values():
        assert [int(line["epoch"]) for line in read_rows(Path("runs/tiny") / row["run"] / "metrics.csv")] == [
            1,
            2,
            3,
            4,
        ]
    if jobs == "1":
        assert run([*LINE, "--trials", "5", "--trainer.max_epochs", "4", "--pruner", "none", "--name", "alone"]) == 0
        for row in _rows(Path("runs/alone/tune")):
            same = found[row["trial"]]
            assert [row[name] for name in row if name not in ("seconds", "run")] == [
                same[name] for name in row if name not in ("seconds", "run")
            ]


def _locks():
    """Trials that a process holds."""
    from seqmix.tasks.lock import locked

    for path in STUDY.glob(".trial-*.lock"):
        try:
            with locked(path, wait=False):
                pass
        except BlockingIOError:
            return True
    return False
