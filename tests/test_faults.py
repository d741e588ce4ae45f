"""Faults of the machine: memory and disks that are full, and processes that are killed, cost no finished work."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from seqmix import Forecaster
from seqmix.cli import run
from seqmix.errors import OutOfMemory, WriteError
from seqmix.memory import ran_out
from seqmix.tasks import Forecasting
from seqmix.tasks.checkpoint import CheckpointFiles
from seqmix.whole import whole

CPU = (
    "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "8589934592 bytes. Error code 12"
)
GPU = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.81 GiB"
READER = "DataLoader worker (pid 7) is killed by signal: Killed. "
PEER = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:33911"
CONFIG = """
model:
  class_path: Forecasting
  init_args:
    model: {class_path: DLinear, init_args: {}}
data:
  class_path: Cycles
  init_args: {context: 24, horizon: 8, batch_size: 64, n_channels: 2, n_steps: 600}
trainer: {max_epochs: 2, accelerator: cpu, enable_progress_bar: false}
baselines: []
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(CONFIG)
    return ["fit", "--config", "tiny.yaml", "--test", "false"]


def _frame():
    times = np.tile(pd.date_range("2024", periods=60), 2)
    return pd.DataFrame({"unique_id": ["a"] * 60 + ["b"] * 60, "ds": times, "y": np.sin(np.arange(120.0))})


def _fail_at(monkeypatch, step, error):
    step_once, done = Forecasting.training_step, []

    def training_step(self, batch, batch_idx):
        done.append(batch_idx)
        if len(done) == step:
            raise error
        return step_once(self, batch, batch_idx)

    monkeypatch.setattr(Forecasting, "training_step", training_step)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError(CPU),
            "memory ran out: 8.0 GiB more were asked for; lower data.context=24, data.batch_size=64, or set "
            "trainer.precision: bf16-mixed",
        ),
        (
            RuntimeError(READER),
            "a process that reads data was killed (DataLoader worker (pid 7) is killed by signal: Killed), most often "
            "for want of memory; lower the number of workers (0 reads in the main process), or give more shared memory",
        ),
        pytest.param(
            RuntimeError(PEER),
            "another process of this run has ended, and the run with it: its own message says why, unless it was "
            "killed, most often for want of memory",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_stops_a_run_says_what_to_do_and_what_was_kept(error, said, tiny, monkeypatch, capsys):
    _fail_at(monkeypatch, 8, error)
    assert run(tiny) == 1
    (last,) = Path().glob("runs/tiny/*/last.ckpt")
    kept = f"kept last.ckpt and best.ckpt in {last.parent}"
    resume = "resume with: seqmix fit --config tiny.yaml --test false --ckpt_path last"
    assert capsys.readouterr().err == f"seqmix: {said}; {kept}; {resume}\n"


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("global", "20.00 GiB more were asked for; lower batch_size=256, context_length=23"),
        ("multivariate", "batch_size=32, context_length=23, or train on one series at a time, mode='global'"),
    ],
)
def test_a_forecaster_that_runs_out_of_memory(mode, said, monkeypatch):
    cause = torch.OutOfMemoryError(GPU)
    _fail_at(monkeypatch, 1, cause)
    with pytest.raises(OutOfMemory) as error:
        Forecaster("DLinear", 7, mode=mode).fit(_frame())
    assert str(error.value).endswith(said) and error.value.__cause__ is cause
    assert isinstance(error.value, MemoryError)


@pytest.mark.parametrize(
    ("error", "out"),
    [
        (RuntimeError(CPU), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB, max allowed: 9 GB)"), True),
        (np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype(float)), True),
        (RuntimeError("shape '[2, 3]' is invalid for input of size 5"), False),
        (OutOfMemory("said already"), False),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.EMFILE, "Too many open files"), False),
    ],
)
def test_what_means_that_memory_ran_out(error, out):
    assert ran_out(error) == out


def test_training_that_diverges_keeps_the_weights_of_before(monkeypatch):
    """Stopped at the first validation that is not finite, with a warning."""
    step_once, done = Forecasting.training_step, []

    def training_step(self, batch, batch_idx):
        done.append(batch_idx)
        with torch.no_grad():
            if len(done) == 7:
                next(self.parameters()).fill_(torch.nan)
        return step_once(self, batch, batch_idx)

    monkeypatch.setattr(Forecasting, "training_step", training_step)
    with pytest.warns(UserWarning, match="DLinear: training diverged before step 8, where the error is not finite"):
        forecaster = Forecaster("DLinear", 7, max_steps=40).fit(_frame())
    assert len(done) == 8 and forecaster.predict()["DLinear"].notna().all()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EFBIG])
def test_a_disk_that_refuses(code, tmp_path, capsys, monkeypatch):
    """The file of before stays, and nothing else is left."""
    file = tmp_path / "kept.csv"
    file.write_text("before")

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)
    with (
        pytest.raises(WriteError, match=r"kept.csv' cannot be written: .*; make room, or choose another") as error,
        whole(file) as part,
    ):
        part.write_text("after")
    assert isinstance(error.value, OSError) and error.value.errno == code
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


def test_a_checkpoint_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    """It is flushed once, with all its bytes; conftest.py leaves the waiting out of other tests."""
    done, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(os.fstat(descriptor).st_size))
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("in place") or replace(*paths))
    CheckpointFiles().save_checkpoint({"state_dict": {"w": torch.ones(999)}}, tmp_path / "last.ckpt")
    assert done == [(tmp_path / "last.ckpt").stat().st_size, "in place"]


IMAGES = """
model:
  class_path: ImageClassification
  init_args:
    model: {class_path: MetaFormer, init_args: {depths: [1], dims: [8], mixers: [Pool2d]}}
data:
  class_path: ImageFolder
  init_args: {path: pets, root: ., img_size: 16, batch_size: 4, n_workers: 1}
trainer: {max_epochs: 300, accelerator: cpu}
"""


def _popen(*options):
    line = [sys.executable, "-m", "seqmix", "fit", "--config", "tiny.yaml", "--test", "false", *options]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _children(pid):
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _wait_for(process, word):
    while word not in (line := process.stdout.readline()):
        assert line, process.stderr.read()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_a_killed_reader(tiny, tmp_path):
    for part, n in (("train", 8), ("val", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (20, 20), (9 * i, 0, 99)).save(tmp_path / "pets" / part / name / f"{i}.png")
    Path("tiny.yaml").write_text(IMAGES)
    with _popen() as process:
        _wait_for(process, "epoch 2/")
        os.kill(_children(process.pid)[0], signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert (
        err.startswith("seqmix: a process that reads data was killed (DataLoader worker (pid") and err.count("\n") == 1
    )
    assert "lower data.n_workers=1 (0 reads in the main process)" in err and "--ckpt_path last" in err
    with _popen("--resume", "auto") as process:
        _wait_for(process, "epoch 4/")
        process.kill()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
@pytest.mark.parametrize("killed", ["parent", "child"])
def test_a_killed_process_ends_the_others(killed, tiny):
    Path("tiny.yaml").write_text(CONFIG.replace("max_epochs: 2", "max_epochs: 300"))
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    with _popen(*two) as process:
        _wait_for(process, "epoch 2/")
        (child,) = _children(process.pid)
        os.kill(process.pid if killed == "parent" else child, signal.SIGKILL)
        # the child has the same pipes: they close when both have ended
        _, err = process.communicate(timeout=120)
    if killed == "child":
        # Lightning kills this process as well, unless it meets the error before
        assert process.returncode in (1, -signal.SIGKILL) and "--ckpt_path last" in err and "Traceback" not in err
        assert "seqmix: another process of this run has ended" in err
    # the same line goes on
    with _popen(*two, "--resume", "auto") as process:
        _wait_for(process, "epoch 4/")
        process.kill()
