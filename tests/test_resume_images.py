"""Images of a run that was stopped and resumed: the sequence, the crops and the weights of one that was not.

A fast twin, of the loader alone, is in ``test_data_images.py``.
"""

import hashlib
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seqmix.cli import run
from seqmix.tasks import ImageClassification

CONFIG = """
model:
  class_path: ImageClassification
  init_args:
    model: {{class_path: MetaFormer, init_args: {{depths: [1], dims: [8], mixers: [Pool2d]}}}}
data:
  class_path: {kind}
  init_args:
    path: {path}
    img_size: 16
    batch_size: 4
    augment: {{class_path: Augmentation, init_args: {{mixup: 0.8, erasing: 0.25}}}}
trainer: {{max_epochs: 2, val_check_interval: 2, accelerator: cpu}}
"""
# 18 of 26 training images a batch of 4 at a time; a tenth of the table is for validation
FIT = ["fit", "--config", "tiny.yaml", "--resume", "auto"]


def _images(n):
    """Images that differ from each other, and their classes."""
    draw = np.random.default_rng(0)
    return [(Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)), i % 2) for i in range(n)]


@pytest.fixture
def data(request, tmp_path, monkeypatch):
    """The config for a folder, or for a table like those of the hub."""
    monkeypatch.chdir(tmp_path)
    if request.param == "ImageFolder":
        for part, n in (("train", 26), ("val", 6)):
            for i, (image, label) in enumerate(_images(n)):
                file = tmp_path / "pets" / part / ("cat", "dog")[label] / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                image.save(file)
        path = f"{tmp_path}/pets"
    else:
        datasets = pytest.importorskip("datasets", reason="needs datasets, of the extra data")
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
        images, labels = zip(*_images(26), strict=True)
        table = datasets.Dataset.from_dict({"image": list(images), "label": list(labels)}, features=features)
        monkeypatch.setattr(datasets, "load_dataset", lambda path: {"train": table, "test": table.select(range(6))})
        path = "someone/pets"
    Path("tiny.yaml").write_text(CONFIG.format(kind=request.param, path=path))


@pytest.fixture
def seen(monkeypatch):
    """What each step was trained on, under its number; a function may stop it."""
    found, stops = {}, {}
    loss_of = ImageClassification.loss_of

    def watched(self, batch):
        if self.training:
            step = self.global_step
            batches = found.setdefault(step, set())
            batches.add(hashlib.sha256(batch["images"].numpy().tobytes() + batch["labels"].numpy().tobytes()).digest())
            stops.pop(step, lambda: None)()
        return loss_of(self, batch)

    monkeypatch.setattr(ImageClassification, "loss_of", watched)
    return found, stops


def _weights(name):
    (run_folder,) = Path("runs", name).iterdir()
    return torch.load(run_folder / "last.ckpt", weights_only=True)["state_dict"]


def _crash():
    raise RuntimeError("power failure")


def _preempted():
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "workers", "how", "at"),
    [
        ("ImageFolder", 0, _preempted, (3, 10)),
        ("ImageFolder", 2, _preempted, (4, 9)),
        ("ImageFolder", 0, _crash, (5, 9)),
        ("ImageFolder", 2, _crash, (3, 8)),
        ("HubImages", 0, _preempted, (2, 7)),
        ("HubImages", 2, _preempted, (1, 8)),
        ("HubImages", 2, _crash, (4, 9)),
    ],
    indirect=["data"],
)
def test_every_image_once_in_the_same_order(data, workers, how, at, seen, monkeypatch):
    found, stops = seen
    line = [*FIT, "--data.n_workers", str(workers)]
    assert run([*line, "--name", "whole"]) == 0
    want = {step: set(batches) for step, batches in found.items()}
    assert len(want) > 10 and all(len(batches) == 1 for batches in want.values())
    for step in at:
        stops[step] = how
    codes = []
    while not codes or codes[-1]:
        try:
            codes.append(run([*line, "--name", "parts"]))
        except RuntimeError:
            codes.append("crashed")
    assert codes == [143 if how is _preempted else "crashed"] * 2 + [0]
    # nothing was read that the undisturbed run did not read at this step
    assert found == want
    whole, parts = _weights("whole"), _weights("parts")
    assert all(torch.equal(parts[name], weight) for name, weight in whole.items())


@pytest.mark.slow
@pytest.mark.parametrize("data", ["ImageFolder"], indirect=True)
def test_a_run_of_images_again(data, capsys):
    assert run(FIT) == 0
    (folder,) = Path("runs/tiny").iterdir()
    assert run(["rerun", str(folder)]) == 0
    assert " are equal to the last digit" in capsys.readouterr().out
