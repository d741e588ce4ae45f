"""The task of classifying series: exact metrics, class weights, predictions, from the command line to a file."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch.nn import functional as F

from seqmix.cli import run
from seqmix.data import SeriesFiles
from seqmix.errors import ConfigError
from seqmix.mixers import Pool
from seqmix.models import MixerClassifier, RandomConvolutions
from seqmix.tasks import AdamW, SeriesClassification
from seqmix.tasks._accuracy import confusion_metrics, confusion_sums
from seqmix.testing import check_task

MODEL = partial(MixerClassifier, mixer=Pool, d_model=8, n_layers=1, patch_len=3, dropout=0.0)


@pytest.fixture
def files(tmp_path):
    """Bumps up and, rarely, bumps down, at any place; lengths 6 to 9."""
    random = np.random.default_rng(0)
    head = "@univariate true\n@equalLength false\n@classLabel true up down\n@data\n"
    for split, n in (("TRAIN", 24), ("TEST", 30)):
        rows = []
        for k in range(n):
            x = random.standard_normal(6 + k % 4) * 0.1
            x[random.integers(1, 5)] += -2 if k % 3 == 0 else 2
            rows.append(",".join(f"{v:.3f}" for v in x) + (":down" if k % 3 == 0 else ":up"))
        (tmp_path / f"Bumps_{split}.ts").write_text(head + "\n".join(rows))
    return [str(tmp_path / f"Bumps_{split}.ts") for split in ("TRAIN", "TEST")]


def test_contract(files):
    data = SeriesFiles(*files, batch_size=8)
    check_task(SeriesClassification(MODEL, 1, 2, 9), data)


def test_metrics_are_those_of_scikit_learn():
    torch.manual_seed(0)
    scores, labels = torch.randn(50, 5), torch.randint(3, (50,))
    sums = sum(confusion_sums(*part) for part in zip(scores.split(7), labels.split(7), strict=True))
    found, predicted = confusion_metrics(sums[1:].view(5, 5)), scores.argmax(1)
    assert found["accuracy"] == pytest.approx(float((predicted == labels).double().mean()))
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert float(sums[0]) == pytest.approx(float(F.cross_entropy(scores, labels, reduction="sum")), rel=1e-6)


def test_class_weights_count_every_class_alike(files):
    data = SeriesFiles(*files, val_share=0.25)
    task = SeriesClassification(MODEL, 1, 2, 9, class_weights="balanced")
    task.trainer = type("Trainer", (), {"datamodule": data})()
    task.on_fit_start()
    up, down = data.label_counts("train").tolist()
    assert task.class_weights.tolist() == pytest.approx([(up + down) / (2 * up), (up + down) / (2 * down)])
    batch = next(iter(data.train_dataloader()))
    each = F.cross_entropy(task(batch), batch["labels"], reduction="none")
    weights = task.class_weights[batch["labels"]]
    torch.testing.assert_close(task.loss_of(batch), (each * weights).sum() / weights.sum())


def test_from_the_command_line_to_a_file_of_predictions(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = "{class_path: MixerClassifier, init_args: {mixer: Pool, d_model: 8, n_layers: 1, patch_len: 3}}"
    argv = ["--model", "SeriesClassification", "--model.model", model, "--model.optim", "AdamW", "--model.optim.lr"]
    argv += ["0.03", "--data", "SeriesFiles", "--data.train", files[0], "--data.test", files[1], "--name", "bumps"]
    argv += ["--data.val_share", "0", "--data.batch_size", "8", "--trainer.max_epochs", "8"]
    assert run(["fit", *argv, "--trainer.accelerator", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "Bumps: 30 test series, 1 channels, 2 classes, length 9, seed 0" in out
    (row,) = [line.split() for line in out.splitlines() if line.strip().startswith("Majority")]
    assert [float(x) for x in row[1:4]] == pytest.approx([0.6667, 0.5, 0.4])
    (row,) = [line.split() for line in out.splitlines() if line.strip().startswith("Pool")]
    assert float(row[1]) > 0.9
    assert run(["predict", *argv, "--ckpt_path", "best", "--out", "p.csv", "--trainer.accelerator", "cpu"]) == 0
    frame = pd.read_csv("p.csv")
    assert list(frame) == ["series", "label", "predicted", "p_up", "p_down"] and len(frame) == 30
    assert float((frame["label"] == frame["predicted"]).mean()) == pytest.approx(float(row[1]), abs=1e-4)


def test_a_closed_form_is_fitted_before_the_first_step(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["--model", "SeriesClassification", "--model.model", "RandomConvolutions", "--data", "SeriesFiles"]
    argv += ["--data.train", files[0], "--data.test", files[1], "--data.val_share", "0"]
    assert run(["fit", *argv, "--name", "bumps", "--trainer.accelerator", "cpu"]) == 0
    (row,) = [x.split() for x in capsys.readouterr().out.splitlines() if x.strip().startswith("RandomConvolutions")]
    assert float(row[1]) > 0.9 and float(row[4]) < 0.4
    with pytest.raises(ConfigError, match="RandomConvolutions is fitted in closed form and has no loss: class_weights"):
        SeriesClassification(RandomConvolutions, 1, 2, 9, class_weights="balanced")


def test_options_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="class_weights = 'equal' is not known; use one of none, balanced"):
        SeriesClassification(MODEL, 1, 2, 9, class_weights="equal")
    with pytest.raises(ConfigError, match="label_smoothing is a share"):
        SeriesClassification(MODEL, 1, 2, 9, label_smoothing=1.0, optim=AdamW())
