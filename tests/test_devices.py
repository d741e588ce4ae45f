"""Training and testing by two processes: the batches, metrics and files of one process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seqmix.cli import run
from seqmix.tasks.rows import read_rows

# 389 training windows: the last batch of an epoch has 3 in one process and 2 in the other
FORECASTS = """
model:
  class_path: Forecasting
  init_args:
    model:
      class_path: MixerForecaster
      init_args: {mixer: Pool, d_model: 4, n_layers: 1, patch_len: 4, dropout: 0.0, head_dropout: 0.0}
    optim: {class_path: AdamW, init_args: {lr: 0.02}}
data:
  class_path: Cycles
  init_args: {context: 24, horizon: 8, n_channels: 3, n_steps: 600, eval_batch_size: 64}
"""
RIDGE = FORECASTS.replace("MixerForecaster", "Ridge").replace(
    "init_args: {mixer: Pool, d_model: 4, n_layers: 1, patch_len: 4, dropout: 0.0, head_dropout: 0.0}", "init_args: {}"
)


TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")


def _command(name, *options):
    return [sys.executable, "-m", "seqmix", "fit", "--config", f"{name}.yaml", "--baselines", "[]", *options]


def _two(name, *options):
    """Fit by two processes, with half of a batch each."""
    command = _command(name, *TWO, "--name", "two", *options)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def _outcome(name):
    (folder,) = (Path("runs") / name).iterdir()
    numbers = [
        {key: float(value) for key, value in row.items() if value and key != "seconds"}
        for row in read_rows(folder / "metrics.csv")
    ]
    (result,) = read_rows(folder / "results.csv")
    return numbers, result, torch.load(folder / "last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (FORECASTS, 32),
        pytest.param(RIDGE, 32, marks=pytest.mark.slow),
        pytest.param(FORECASTS.replace("optim:", "residual: true\n    optim:"), 32, marks=pytest.mark.slow),
    ],
)
def test_two_processes_are_one_with_twice_the_batch(config, size, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(config + "trainer: {max_epochs: 2, accelerator: cpu}\n")
    done = _two("tiny", "--data.batch_size", str(size))
    options = ["--baselines", "[]", "--data.batch_size", str(2 * size), "--name", "one"]
    assert run(["fit", "--config", "tiny.yaml", *options]) == 0
    (two, result, _), (one, want, _) = _outcome("two"), _outcome("one")
    # gradients are summed in another order; weights that do not matter go their own way under Adam
    assert two == [pytest.approx(row, rel=1e-4) for row in one]
    for metric in ("mse", "mae"):
        assert float(result[metric]) == pytest.approx(float(want[metric]), rel=1e-4)
    assert result["windows"] == want["windows"] == "113" and result["device"] == "2 x cpu"
    # said once, by the first process
    assert done.stdout.count("run folder:") == 1 and done.stderr == ""


@pytest.mark.slow
def test_whole_series_and_baselines_count_once(tmp_path, monkeypatch):
    """Each process scores its part of the series; one computes the baselines, on all of them."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(
        """
model:
  class_path: AnomalyDetection
  init_args: {model: {class_path: ConvForecaster, init_args: {}}, score: forecast}
data:
  class_path: GeneratedAnomalies
  init_args: {window: 24, n_series: 5, n_steps: 600, n_anomalies: 1, eval_batch_size: 1}
trainer: {max_epochs: 1, accelerator: cpu}
"""
    )
    base = [sys.executable, "-m", "seqmix", "fit", "--config", "tiny.yaml"]
    for name, options in (("one", ["--data.batch_size", "64"]), ("two", ["--data.batch_size", "32", *TWO])):
        done = subprocess.run([*base, "--name", name, *options], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and done.stderr == "", done.stderr
    one, two = (read_rows(next(Path("runs").glob(f"{name}/*/results.csv"))) for name in ("one", "two"))
    for a, b in zip(one[:-1], two[:-1], strict=True):
        assert (a["model"], a["series"]) == (b["model"], b["series"])
        assert float(a["vus_pr"]) == pytest.approx(float(b["vus_pr"]), abs=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("told", ["parent", "child"])
def test_a_signal_to_one_process_stops_both_and_the_run_resumes(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # dropout: each process resumes its own random numbers
    config = FORECASTS.replace("dropout: 0.0", "dropout: 0.3")
    Path("tiny.yaml").write_text(config + "trainer: {max_epochs: 40, accelerator: cpu}\n")
    _two("tiny", "--data.batch_size", "8")
    _, _, whole = _outcome("two")
    devices = (*TWO, "--data.batch_size", "8", "--name", "rest")
    process = subprocess.Popen(_command("tiny", *devices), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "epoch 2/" not in process.stdout.readline():
        pass
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid if told == "parent" else int(children[0]), signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143 and "kept last.ckpt" in err
    step = torch.load(next(Path("runs/rest").glob("*/last.ckpt")), weights_only=True)["global_step"]
    assert 25 < step < 1000
    done = subprocess.run([*_command("tiny", *devices), "--ckpt_path", "last"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, _, last = _outcome("rest")
    for key, weight in whole["state_dict"].items():
        assert torch.equal(last["state_dict"][key], weight)


def test_predictions_are_written_by_one_process(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("naive.yaml").write_text(RIDGE.replace("Ridge", "SeasonalNaive"))
    assert run(["predict", "--config", "naive.yaml", *TWO, "--trainer.accelerator", "cpu"]) == 1
    assert "predictions are written in order by one process, got 2; set trainer.devices: 1" in capsys.readouterr().err
