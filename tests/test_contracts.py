"""Every task and every kind of data keeps its contract, and those that break it are told how to mend it."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from stand_ins import stand_in

import seqmix.tasks
from seqmix.commands.train import Train
from seqmix.data import Cycles
from seqmix.data.loader import WindowLoader
from seqmix.models import DLinear
from seqmix.series import Series
from seqmix.tasks import Forecasting, Task
from seqmix.testing import check_data, check_task

CONFIGS = Path(__file__).parents[1] / "configs"
SMALL = "--model.encoder.d_model 32 --model.encoder.n_layers 1"
# a config for each task, and what makes it small
NAMES = {
    "demo": "--data.batch_size 64 --data.n_steps 900",
    "mamba_listops_small": "",
    "mamba_shakespeare": "--model.model.d_model 16 --model.model.n_layers 1 --data.max_len 32",
    "hydra_wikitext2_small": f"{SMALL} --data.max_len 32",
    "hydra_glue_sst2_small": SMALL,
    "recipes/hydra_glue_stsb": SMALL,
    "recipes/recall_copying": "--data.n_train 16 --data.n_val 8 --data.n_test 8",
    "recipes/pool_fashion": "",
    "detection_mixer_generated": "--data.window 16",
    "imputation_etth1": "",
    "mambasl_ucr": "--model.model.d_model 8",
    "study/short_term": "",
    "zeroshot": "--model.model.d_model 16 --model.model.n_layers 1 --data.steps_per_epoch 3 --data.n_val 5",
}


def _build(name, monkeypatch):
    argv = ["--config", str(CONFIGS / f"{name}.yaml"), "--data.batch_size", "1", "--data.eval_batch_size", "2"]
    cli = Train("fit", [*argv, *NAMES[name].split(), "--trainer.accelerator", "cpu"])
    stand_in(cli.datamodule, monkeypatch)
    return cli.model, cli.datamodule


@pytest.mark.parametrize("name", NAMES)
def test_tasks_and_data_keep_their_contract(name, monkeypatch):
    task, data = _build(name, monkeypatch)
    check_data(data)
    check_task(task, data)


def test_every_task_is_checked():
    exported = [value for value in vars(seqmix.tasks).values() if inspect.isclass(value) and issubclass(value, Task)]
    tasks = {cls.__name__ for cls in exported if not inspect.isabstract(cls)}
    text = "".join((CONFIGS / f"{name}.yaml").read_text() for name in NAMES)
    assert tasks and tasks <= {*re.findall(r"class_path: (\w+)", text)}


class ByBatches(Forecasting):
    """Adds something for each batch."""

    def add_batch(self, batch):
        super().add_batch(batch)
        self.sums[0] += 1


class OwnStep(Forecasting):
    training_step = Forecasting.validation_step


class Sum(Forecasting):
    def loss_of(self, batch):
        return (self(batch) - batch["y"]).square()


class Idle(Forecasting):
    def __init__(self, *args):
        super().__init__(*args)
        self.idle = torch.nn.Parameter(torch.ones(2))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (ByBatches, "metrics: mse of ByBatches depend on the batch size; add sums and counts to sums"),
        (OwnStep, "facts: OwnStep overrides training_step, which adds auxiliary losses; override loss_of"),
        (Sum, "loss: loss_of of Sum gives "),
        (Idle, "loss: idle of Idle get no gradient; use them, or set requires_grad false"),
    ],
)
def test_a_broken_task_is_caught(broken, message):
    task = broken(DLinear, Series(2, 24, 8))
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_task(task, Cycles(24, 8, n_channels=2, n_steps=400))


class Dropped(WindowLoader):
    """Drops the last batch."""

    def __iter__(self):
        yield from list(super().__iter__())[:-1]


class Drawn(WindowLoader):
    """Draws an order that neither the seed nor the epoch decides."""

    def _order(self):
        return torch.randperm(self.n)


class Ordered(WindowLoader):
    """Serves every epoch in one order."""

    def _order(self):
        return torch.arange(self.n)


class Forgetful(WindowLoader):
    """Does not resume."""

    def load_state_dict(self, state):
        self.epoch = state["epoch"]


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (Dropped, "evaluation: Cycles serves 0 of 33 examples in 0 of 1 batches; serve each once"),
        (Drawn, "evaluation: Cycles serves other validation or test batches the second time; draw none"),
        (Ordered, "training: Cycles serves every epoch in the same order; draw an order for each epoch"),
        (Forgetful, "training: Cycles does not resume with the batch that follows; see ResumableLoader"),
    ],
)
def test_broken_data_is_caught(loader, message, monkeypatch):
    data = Cycles(24, 8, 64, n_channels=2, n_steps=400)
    check_data(data)
    monkeypatch.setattr("seqmix.data.served.WindowLoader", loader)
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_data(data)
