"""FSDP: the losses of DDP for every task, and checkpoints that are those of one process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

from seqmix.cli import run
from seqmix.tasks.rows import read_rows

CONFIGS = Path(__file__).parents[1] / "configs"
# nearly every task; LongVQ has a codebook
EVERY = (
    "demo",
    "demo --model.residual true",
    "imputation_itransformer_etth1",
    "detection_mixer_generated",
    "mambasl_ucr",
    "recipes/recall_copying",
    "hydra_wikitext2_small --data.max_len 32",
    "recipes/mamba_wikitext2_small --data.max_len 32",
    "longvq_listops_small",
    "recipes/pool_fashion",
    "study/short_term --trainer.val_check_interval 1",
)


def _two(*lines):
    """Have two processes fit what each line says, one after another."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(2):
        ours = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        # as torchrun tells them
        env = {**os.environ, **{name: str(value) for name, value in ours.items()}, "TORCHELASTIC_RUN_ID": "two"}
        command = [sys.executable, Path(__file__).with_name("sharded.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(command, env=env, text=True, **pipes))
        started[-1].stdin.write("\n".join(lines))
        started[-1].stdin.close()
    for process in started:
        with process:
            said = process.stdout.read()
        assert process.returncode == 0 and "Warning" not in said, said


def _outcome(name):
    """Numbers of the validations, results, and the last weights."""
    (folder,) = Path("runs", name).iterdir()
    rows = [*read_rows(folder / "metrics.csv"), *read_rows(folder / "results.csv")]
    last = torch.load(folder / "last.ckpt", weights_only=True)
    return [{k: _number(v) for k, v in row.items() if k not in _OF_THE_RUN} for row in rows], last["state_dict"]


_OF_THE_RUN = ("config", "seconds", "run", "settings", "changed", "commit")


def _number(value):
    try:
        return float(value)
    except ValueError:
        return value


def _same(found, want):
    """Gradients are summed in another order, and weights that do not matter go their own way under Adam."""
    assert len(found) == len(want)
    for ours, theirs in zip(found, want, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            exact = isinstance(value, str)
            assert ours[name] == (value if exact else pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True)), name


@pytest.mark.slow
def test_every_task_trains_as_by_ddp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kinds = ("ddp", "fsdp2")
    lines = [(number, *each.partition(" "), kind) for number, each in enumerate(EVERY) for kind in kinds]
    _two(*(f"{n}-{kind} {CONFIGS / name}.yaml {more} --trainer.strategy {kind}" for n, name, _, more, kind in lines))
    for number in range(len(EVERY)):
        (ddp, _), (fsdp, _) = (_outcome(f"{number}-{kind}") for kind in kinds)
        _same(fsdp, ddp)


@pytest.mark.slow
def test_a_checkpoint_is_that_of_one_process(tmp_path, monkeypatch):
    """FSDP goes on from its own checkpoint, and one process from that of FSDP, as if nothing had been."""
    monkeypatch.chdir(tmp_path)
    base = f"{CONFIGS / 'demo.yaml'} --model.optim.schedule constant --model.optim.warmup 0 --data.batch_size 8"
    first, more = "--trainer.max_epochs 1 --trainer.strategy fsdp2", "--trainer.strategy fsdp2"
    _two(f"whole {base} {more}", f"half {base} {first}", f"alone {base} {first}")
    half, alone = (next(Path("runs", name).iterdir()) for name in ("half", "alone"))
    _two(f"half {base} {more} --ckpt_path {half}/last.ckpt")
    limits = [part for kind in ("train", "val", "test") for part in (f"--trainer.limit_{kind}_batches", "2")]
    options = base.replace("batch_size 8", "batch_size 16").split()[1:]
    argv = ["--config", "demo.yaml", *options, *limits, "--baselines", "[]", "--trainer.accelerator", "cpu"]
    assert run(["fit", *argv, "--trainer.max_epochs", "2", "--name", "alone", "--ckpt_path", f"{alone}/last.ckpt"]) == 0
    want, weights = _outcome("whole")
    # both have the result of their first half as well
    rows, found = _outcome("half")
    assert [*rows[:2], rows[-1]] == want and all(torch.equal(found[key], value) for key, value in weights.items())
    rows, _ = _outcome("alone")
    _same([*rows[:2], {**rows[-1], "device": "2 x cpu"}], want)


def test_one_process_is_trained_as_without(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    fit = ["fit", "--config", "tiny.yaml", "--trainer.strategy", "fsdp2"]
    try:
        assert run(["fit", "--config", "tiny.yaml", "--name", "plain"]) == run(fit) == 0
        # the class that FSDP makes has the name of the task
        _same(_outcome("tiny")[0], _outcome("plain")[0])
        capsys.readouterr()
        for options, message in REFUSED:
            assert run([*fit, *options]) == 1
            assert capsys.readouterr().err == f"seqmix: {message}\n"
    finally:
        distributed.destroy_process_group()


REFUSED = (
    (
        ["--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging"],
        "trainer.callbacks: weights are averaged in a copy of the whole model, and trainer.strategy = 'fsdp2' divides "
        "it; leave one of them out",
    ),
    (
        ["--model.model", "Ridge"],
        "trainer.strategy = 'fsdp2' divides weights that are trained, and this model has none; use --trainer.strategy "
        "ddp, or one device",
    ),
)


TINY = """
model:
  class_path: Forecasting
  init_args:
    model:
      class_path: MixerForecaster
      init_args: {mixer: Pool, d_model: 4, n_layers: 1, patch_len: 4, dropout: 0.0, head_dropout: 0.0}
data: {class_path: Cycles, init_args: {context: 24, horizon: 8, n_channels: 2, n_steps: 300}}
baselines: []
trainer: {max_epochs: 1, accelerator: cpu}
"""
