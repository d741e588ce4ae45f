"""A run is trained again from its folder, and what differs is named."""

import json
import shutil
from pathlib import Path

import pytest

from seqmix.cli import run
from seqmix.tasks import Forecasting
from seqmix.tasks.rows import read_rows

CONFIG = """
model:
  class_path: Forecasting
  init_args:
    model: {class_path: MixerForecaster, init_args: {mixer: Pool, d_model: 4, n_layers: 1, patch_len: 4, dropout: 0.1}}
data: {class_path: Cycles, init_args: {context: 24, horizon: 8, n_channels: 2, n_steps: 600}}
baselines: [SeasonalNaive]
trainer: {max_epochs: 2, accelerator: cpu, limit_train_batches: 3}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(CONFIG)


def _runs():
    return sorted(Path("runs/tiny").glob("*"))


def test_the_same_run_again_and_what_differs(monkeypatch, capsys):
    fit, step_once = ["fit", "--config", "tiny.yaml", "--seed_everything", "3"], Forecasting.training_step
    with monkeypatch.context() as patch:

        def interrupted(self, batch, batch_idx):
            if self.global_step == 4:
                raise KeyboardInterrupt
            return step_once(self, batch, batch_idx)

        patch.setattr(Forecasting, "training_step", interrupted)
        assert run(fit) == 130
    assert run([*fit, "--ckpt_path", "last"]) == 0
    (first,) = _runs()
    monkeypatch.chdir("runs")
    capsys.readouterr()
    assert run(["rerun", "tiny"]) == 0
    said = capsys.readouterr().out.splitlines()
    monkeypatch.chdir("..")
    assert said[-1] == "22 values of 2 validations and 2 results are equal to the last digit", said
    assert not [line for line in said if " then, " in line]
    _, second = _runs()
    assert read_rows(second / "metrics.csv")[1]["step"] == "6"

    rows = (first / "metrics.csv").read_text()
    was = read_rows(first / "metrics.csv")[1]["val_mse"]
    (first / "metrics.csv").write_text(rows.replace(was, f"{float(was) * 1.001}"))
    env = json.loads((first / "env.json").read_text())
    (first / "env.json").write_text(json.dumps({**env, "torch": "1.0", "data": "0"}))
    assert run(["rerun", str(first)]) == 1
    done = capsys.readouterr()
    assert f"torch: 1.0 then, {env['torch']} now\n" in done.out and f"data: 0 then, {env['data']} now\n" in done.out
    assert done.err.startswith(
        f"seqmix: the runs differ, first in validation at step 6: val_mse = {float(was) * 1.001} then, {was} now; the "
    )
    assert run(["rerun", str(first), "--tolerance", "0.01"]) == 0


def test_a_closed_form_again_and_what_is_needed(capsys):
    more = ["--model.model", "{class_path: Ridge}", "--model.residual", "false"]
    assert run(["fit", "--config", "tiny.yaml", *more]) == 0
    (first,) = _runs()
    assert run(["rerun", "--run", str(first)]) == 0
    assert " are equal to the last digit" in capsys.readouterr().out
    for name, said in [
        ("results.csv", "has no rows in metrics.csv or results.csv to compare with; give a run that has"),
        ("env.json", "no env.json in 'copy'; give the folder of a run of `seqmix fit`, runs/<name>/<time>-seed<k>"),
        ("config.yaml", "no config.yaml in 'copy'; give the folder of a run"),
    ]:
        shutil.copytree(first, "copy", dirs_exist_ok=True)
        for gone in {name, "metrics.csv"} if name == "results.csv" else {name}:
            Path("copy", gone).unlink()
        assert run(["rerun", "copy"]) == 1
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_residual_model_again(capsys):
    assert run(["fit", "--config", "tiny.yaml", "--model.residual", "true"]) == 0
    (first,) = _runs()
    assert run(["rerun", str(first)]) == 0
    assert " are equal to the last digit" in capsys.readouterr().out
