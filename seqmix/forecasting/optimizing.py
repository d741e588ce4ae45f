"""Training of tasks by gradient steps, for estimators; needs Lightning."""

import math
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException

import seqmix.tasks.sharded  # noqa: F401  trainer_kwargs may name its strategy
from seqmix.data.loader import Gathered, Split
from seqmix.data.series.panel import Panel
from seqmix.data.served import Served
from seqmix.errors import ConfigError
from seqmix.forecasting.progress import Progress
from seqmix.forecasting.trainer import make_trainer, quiet, silence
from seqmix.forecasting.training import Training, seeded
from seqmix.memory import advising
from seqmix.tasks import AdamW, Forecasting, Task
from seqmix.tasks.predictor import WindowPredictor


def optimize_predictor(name: str, predictor: WindowPredictor, panel: Panel, how: Training, seed: int) -> pd.DataFrame:
    """Train a forecasting model on a panel; see ``optimize``. A pretrained one is validated before the first step."""
    task = Forecasting.of(predictor, optim=AdamW(lr=how.learning_rate), patience=how.patience)
    first = task.model.pretrained
    return optimize(name, task, _Served(panel), how, seed, validate=panel.has_val, validate_first=first)


def optimize(
    name: str,
    task: Task,
    data: LightningDataModule,
    how: Training,
    seed: int,
    *,
    validate: bool,
    validate_first: bool = False,
) -> pd.DataFrame:
    """Train a task, restore the weights of its best validation, and return the errors of each validation.

    Args:
        name: name of the model in progress messages.
        task: the task.
        data: its data.
        how: how it is trained.
        seed: seed of order and dropout.
        validate: the data has validation examples. Without them the last weights stay.
        validate_first: validate before the first step as well.

    Raises:
        ConfigError: if the Trainer cannot be made, one of its processes ends, or the error is not finite.
        OutOfMemory: if memory runs out.
    """
    best = _Best(task)
    period = max(1, min(50, how.max_steps // 10))
    options: dict[str, Any] = {
        "accelerator": how.device.type,
        "devices": 1 if how.device.index is None else [how.device.index],
        "max_epochs": -1,
        "max_steps": how.max_steps,
        "val_check_interval": period,
        "check_val_every_n_epoch": None,
        "limit_val_batches": 1.0 if validate else 0,
        "gradient_clip_val": 1.0,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": -1 if validate_first else 0,
    }
    given = dict(how.trainer_kwargs)
    callbacks = [best, *given.pop("callbacks", [])]
    callbacks += [Progress(f"{name}, {how.stage}", how.max_steps)] if how.stage else []
    with seeded(seed), quiet(), best.shared(), advising(how.sizes, *how.others):
        trainer = make_trainer({**options, **given, "callbacks": callbacks}, given)
        try:
            with _signals_left_alone(trainer):
                trainer.fit(task, data)
        except ProcessExitedException as e:
            raise ConfigError(
                f"a process of the training ended ({e}). With several devices a program has its calls under "
                "`if __name__ == '__main__':`, and needs memory for each process"
            ) from e
    # the trainer holds the data, and the data would go on serving the part of one of its devices
    task.trainer = data.trainer = None
    best.restore(task, name)
    task.to("cpu")
    return best.frame()


class _Served(Served):
    """The windows of a panel, as a Trainer takes them."""

    def __init__(self, panel: Panel):
        super().__init__("Panel", panel.batch_size, eval_batch_size=panel.eval_batch_size, seed=panel.seed)
        self.panel = panel

    def _make(self) -> Mapping[Split, Gathered]:
        return self.panel.splits


class _Best(Callback):
    """Callback that keeps the weights of the best validation and one row of history for each validation.

    Where processes are started for the training, the first of them leaves both in a file.
    """

    def __init__(self, task: Task):
        self.metrics, self.sign = task.watched, 1 if task.better == "lower" else -1
        self.score, self.weights, self.lines = math.inf, None, []
        self._losses: list[Tensor] = []
        self._file, self._process = Path(), os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive in a process that was started for the training."""
        vars(self).update(state)
        silence()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Take over the results of another process after the training inside."""
        with tempfile.TemporaryDirectory() as folder:
            self._file = Path(folder, "best.pt")
            yield
            if self._file.exists():
                self.weights, self.lines = torch.load(self._file, weights_only=True)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand the results to the process that began the training."""
        if trainer.is_global_zero and os.getpid() != self._process:
            torch.save((self.weights, self.lines), self._file)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        """Remember the loss."""
        self._losses.append(outputs["loss"].detach())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare and record."""
        found = {f"val_{name}": float(trainer.callback_metrics[f"val_{name}"]) for name in self.metrics}
        self._record(trainer.global_step, found)
        score = self.sign * found[f"val_{self.metrics[0]}"]
        if not all(map(math.isfinite, found.values())):
            trainer.should_stop = True
        elif score < self.score:
            self.score = score
            self.weights = {name: x.detach().clone() for name, x in pl_module.state_dict().items()}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the steps after the last validation."""
        if self._losses:
            self._record(trainer.global_step, {})

    def restore(self, task: Task, name: str) -> None:
        """Put the best weights back; the last ones stay where nothing was validated."""
        if self.weights is not None:
            task.load_state_dict(self.weights)
            bad = next((line["step"] for line in self.lines if not all(map(math.isfinite, list(line.values())[2:]))), 0)
            if bad:
                warnings.warn(
                    f"{name}: training diverged before step {bad}, where the error is not finite, and was stopped: the "
                    "best weights of before are kept; lower the learning rate",
                    stacklevel=2,
                )
        elif any(len(line) > 2 for line in self.lines) or not all(bool(p.isfinite().all()) for p in task.parameters()):
            raise ConfigError("training diverged: the error is not finite; lower the learning rate, then fit again")

    def frame(self) -> pd.DataFrame:
        """The lines as a frame."""
        return pd.DataFrame(self.lines, columns=["step", "train_loss", *(f"val_{name}" for name in self.metrics)])

    def _record(self, step: int, found: dict[str, float]) -> None:
        loss = float(torch.stack(self._losses).mean()) if self._losses else math.nan
        self._losses.clear()
        self.lines.append({"step": step, "train_loss": loss, **found})


def _nothing() -> None:
    """Take the place of a method: other processes can import a function by its name, and no lambda."""


@contextmanager
def _signals_left_alone(trainer: pl.Trainer) -> Iterator[None]:
    """Ctrl-C is a KeyboardInterrupt, and SIGTERM does what the program has set, as anywhere else.

    Lightning makes them a SystemExit, ignores Ctrl-C from then on, and has a handler of its own for SIGTERM.
    """
    interrupt = signal.getsignal(signal.SIGINT)
    trainer._signal_connector.register_signal_handlers = _nothing
    try:
        yield
    except SystemExit as e:
        if not isinstance(e.__context__, KeyboardInterrupt):
            raise
        raise type(e.__context__) from None
    finally:
        if threading.current_thread() is threading.main_thread() and interrupt is not None:
            signal.signal(signal.SIGINT, interrupt)
