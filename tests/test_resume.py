"""A run that was stopped, in whatever way, ends in the weights of one that was not: bit for bit."""

import csv
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seqmix.cli import run
from seqmix.tasks import Forecasting
from seqmix.tasks.folders import remove_left, run_folders
from seqmix.tasks.lock import locked
from seqmix.tasks.rows import read_rows
from seqmix.tasks.run import Run

# 389 training windows in 7 batches, validation after the batches 3 and 6; dropout draws random numbers; the second
# validation is the best, the fifth, in the third epoch, stops training early
CONFIG = """
model:
  class_path: Forecasting
  init_args:
    model:
      class_path: MixerForecaster
      init_args: {mixer: Pool, d_model: 4, n_layers: 1, patch_len: 4, patch_stride: 4, dropout: 0.3}
    optim: {class_path: AdamW, init_args: {lr: 0.02, warmup: 0.1}}
    patience: 3
data:
  class_path: Cycles
  init_args: {context: 24, horizon: 8, batch_size: 64, n_channels: 3, n_steps: 600}
trainer: {max_epochs: 4, val_check_interval: 0.5, accelerator: cpu}
baselines: []
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(CONFIG)
    handler = signal.getsignal(signal.SIGINT)
    yield
    # Lightning leaves Ctrl-C ignored once it has caught one
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    before = Path.cwd()
    os.chdir(folder)
    Path("tiny.yaml").write_text(CONFIG)
    assert run(["fit", "--config", "tiny.yaml"]) == 0
    os.chdir(before)
    return _outcome(folder)


def _outcome(folder):
    (run_folder,) = (folder / "runs" / "tiny").iterdir()
    last, best = (torch.load(run_folder / f"{name}.ckpt", weights_only=True) for name in ("last", "best"))
    with (run_folder / "metrics.csv").open() as file:
        metrics = [
            (row["epoch"], row["step"], row["train_loss"], row["val_mse"], row["val_mae"], row["lr"])
            for row in csv.DictReader(file)
        ]
    return {
        "weights": last["state_dict"],
        "moments": last["optimizer_states"][0]["state"],
        "random": last["run"]["random"][0]["torch"],
        "best weights": best["state_dict"],
        "best score": last["run"]["best"],
        "metrics": metrics,
    }


def _stop_at(monkeypatch, step, how):
    step_once, done = Forecasting.training_step, []

    def training_step(self, batch, batch_idx):
        done.append(batch_idx)
        if len(done) == step:
            how()
        return step_once(self, batch, batch_idx)

    monkeypatch.setattr(Forecasting, "training_step", training_step)


def _crash():
    raise RuntimeError("power failure")


# between two validations, before one, at the end of an epoch
@pytest.mark.parametrize(
    ("step", "number", "code", "word"),
    [
        (5, signal.SIGINT, 130, "interrupted"),
        (10, signal.SIGINT, 130, "interrupted"),
        (14, signal.SIGTERM, 143, "terminated"),
        # as SLURM may send it
        pytest.param(11, signal.SIGUSR1, 143, "terminated", marks=pytest.mark.slow),
    ],
)
def test_after_ctrl_c(step, number, code, word, uninterrupted, monkeypatch, capsys, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    if number == signal.SIGUSR1:
        facts = {"JOB_NAME": "x", "JOB_ID": 7, "NTASKS": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "NODELIST": "here"}
        for name, value in facts.items():
            monkeypatch.setenv(f"SLURM_{name}", str(value))
    with monkeypatch.context() as patch:
        _stop_at(patch, step, lambda: signal.raise_signal(number))
        assert run(["fit", "--config", "tiny.yaml"]) == code
    assert signal.getsignal(signal.SIGTERM) == before and signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    assert not list(tmp_path.rglob("hpc_ckpt*"))
    (last,) = tmp_path.glob("runs/tiny/*/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == step
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"seqmix: {word}; kept last.ckpt")
    assert said.endswith("resume with: seqmix fit --config tiny.yaml --ckpt_path last")

    assert run(["fit", "--config", "tiny.yaml", "--ckpt_path", "last"]) == 0
    _same(_outcome(tmp_path), uninterrupted)


def test_after_a_crash(uninterrupted, monkeypatch, tmp_path):
    """What follows the last validation is done again: here step 5, that is batch 4 and 5 of the first epoch."""
    with monkeypatch.context() as patch:
        _stop_at(patch, 5, _crash)
        with pytest.raises(RuntimeError, match="power failure"):
            run(["fit", "--config", "tiny.yaml"])
    # the second time there is nothing left to do
    for _ in range(2):
        assert run(["fit", "--config", "tiny.yaml", "--ckpt_path", "last"]) == 0
        _same(_outcome(tmp_path), uninterrupted)


def test_a_job_that_is_put_into_the_queue_again(uninterrupted, monkeypatch, capsys, tmp_path):
    """The same line begins, goes on after SIGTERM and a crash, and does nothing anew once training is over."""
    line = ["fit", "--config", "tiny.yaml", "--resume", "auto"]
    with monkeypatch.context() as patch:
        _stop_at(patch, 5, lambda: signal.raise_signal(signal.SIGTERM))
        assert run(line) == 143
    assert capsys.readouterr().err.endswith("; resume with: seqmix fit --config tiny.yaml --resume auto\n")
    with monkeypatch.context() as patch:
        _stop_at(patch, 9, _crash)
        with pytest.raises(RuntimeError, match="power failure"):
            run(line)
    for _ in range(2):
        assert run(line) == 0
        _same(_outcome(tmp_path), uninterrupted)
    # other settings are another run
    assert run([*line, "--model.optim.lr", "0.01"]) == 0
    assert len(list((tmp_path / "runs" / "tiny").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_job_that_is_preempted_again_and_again(seed, uninterrupted, monkeypatch, tmp_path):
    """The same line until it ends with 0, and SIGTERM after a few steps each time."""
    draw, codes = random.Random(seed), []
    while not codes or codes[-1] == 143:
        with monkeypatch.context() as patch:
            _stop_at(patch, draw.randint(1, 9), lambda: signal.raise_signal(signal.SIGTERM))
            codes.append(run(["fit", "--config", "tiny.yaml", "--resume", "auto"]))
    assert codes[-1] == 0 and len(codes) > 3
    _same(_outcome(tmp_path), uninterrupted)


def test_no_validation_stands_twice_after_a_kill(uninterrupted, monkeypatch, tmp_path):
    """Killed between the line of a validation and its checkpoint, and before: the line is that of the second time."""
    with monkeypatch.context() as patch:
        save, done = Run._save, []

        def killed(self, trainer, name):
            done.append(name)
            if done.count("last") == 2:
                raise RuntimeError("power failure")
            save(self, trainer, name)

        patch.setattr(Run, "_save", killed)
        with pytest.raises(RuntimeError, match="power failure"):
            run(["fit", "--config", "tiny.yaml"])
    (metrics,) = tmp_path.glob("runs/tiny/*/metrics.csv")
    assert [row["step"] for row in read_rows(metrics)] == ["3", "6"]
    assert run(["fit", "--config", "tiny.yaml", "--ckpt_path", "last"]) == 0
    _same(_outcome(tmp_path), uninterrupted)


def test_half_a_checkpoint_is_none(tmp_path):
    """The folder of a run that was killed while it wrote its first one is removed by the next."""
    (folder := tmp_path / "20261129-000000-seed0").mkdir()
    for name in ("lock", ".best.host.7-1.part.ckpt"):
        (folder / name).touch()
    assert run_folders(tmp_path, 0) == []
    remove_left(tmp_path)
    assert not folder.exists()


def test_one_process_at_a_time_trains_in_a_folder(tmp_path, capsys):
    assert run(["fit", "--config", "tiny.yaml", "--trainer.max_epochs", "1"]) == 0
    (folder,) = (tmp_path / "runs" / "tiny").iterdir()
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with locked(folder / "lock"):
        assert run(["fit", "--config", "tiny.yaml", "--trainer.max_epochs", "2", "--ckpt_path", "last"]) == 1
    assert "another process trains in 'runs/tiny/" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_the_newest_run_that_fits_is_taken(tmp_path, capsys):
    always = ["--config", "tiny.yaml", "--trainer.max_epochs", "1"]
    for lr in ("0.02", "0.01"):
        assert run(["fit", *always, "--model.optim.lr", lr]) == 0
    first, second = sorted((tmp_path / "runs" / "tiny").iterdir())
    for lr, folder in (("0.01", second), ("0.02", first)):
        capsys.readouterr()
        assert run(["test", *always, "--model.optim.lr", lr, "--ckpt_path", "best"]) == 0
        assert f"run folder: {folder.relative_to(tmp_path)}" in capsys.readouterr().out
    assert run(["test", *always, "--model.optim.lr", "0.3", "--ckpt_path", "best"]) == 1
    assert "settings; the newest has model.optim.lr=0.01; give the same, or --config" in capsys.readouterr().err
    assert run(["runs"]) == 0
    *lines, of_first, of_second = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[1] for line in lines] == [first.name, second.name] and all(" mse " in line for line in lines)
    assert of_first == f"settings {lines[0].split()[-1]}: trainer.max_epochs=1"
    assert of_second == f"settings {lines[1].split()[-1]}: model.optim.lr=0.01 trainer.max_epochs=1"
    assert run(["runs", "--name", "other"]) == 1
    # the config of a run is that of its own checkpoints
    assert run(["test", "--config", str(first / "config.yaml"), "--ckpt_path", "best"]) == 0
    assert f"run folder: {first}" in capsys.readouterr().out


def test_training_stops_at_the_first_loss_that_is_not_finite(monkeypatch, tmp_path, capsys):
    """Weights of before are kept, and can be tested; resuming meets the same."""
    loss_of, done = Forecasting.loss_of, []

    def nan_at_ten(self, batch):
        done.append(batch)
        return loss_of(self, batch) * (float("nan") if len(done) == 10 else 1)

    monkeypatch.setattr(Forecasting, "loss_of", nan_at_ten)
    assert run(["fit", "--config", "tiny.yaml"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "seqmix: training diverged at step 10: the loss is nan; lower model.optim.lr, then fit again"
    )
    assert "best.ckpt and last.ckpt in runs/tiny/" in said
    for path in tmp_path.glob("runs/tiny/*/*.ckpt"):
        assert all(bool(w.isfinite().all()) for w in torch.load(path, weights_only=True)["state_dict"].values())
    assert len(done) == 10 and run(["test", "--config", "tiny.yaml", "--ckpt_path", "last"]) == 0


# test_after_ctrl_c sends both in this process
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [pytest.param(2, 130, "interrupted", marks=pytest.mark.slow), (15, 143, "terminated")],
)
def test_a_real_signal_ends_the_process_with_its_code(number, code, word, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "seqmix", "fit", "--config", "tiny.yaml", "--trainer.max_epochs", "10000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch 2/" in line:
                break
        process.send_signal(number)
        _, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == code, err
    assert err.startswith(f"seqmix: {word}; kept last.ckpt and best.ckpt in runs/tiny/"), err
    (run_folder,) = (tmp_path / "runs" / "tiny").iterdir()
    assert sorted(p.name for p in run_folder.iterdir()) == [
        *("best.ckpt", "config.yaml", "env.json", "last.ckpt", "metrics.csv"),
    ]
    assert torch.load(run_folder / "last.ckpt", weights_only=True)["epoch"] >= 1


def _same(got, want):
    assert got["metrics"] == want["metrics"]
    assert got["best score"] == want["best score"]
    for name in ("weights", "best weights"):
        assert all(torch.equal(got[name][k], w) for k, w in want[name].items()), name
    for k, moments in want["moments"].items():
        assert all(torch.equal(got["moments"][k][m], v) for m, v in moments.items())
    assert torch.equal(got["random"], want["random"])
