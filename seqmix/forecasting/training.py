"""Training of tasks for estimators, and forecasts with them; needs Lightning."""

import math
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException

from seqmix.data.series.panel import Panel
from seqmix.errors import ConfigError
from seqmix.forecasting.machine import make_trainer, quiet, silence, trainer_options, where
from seqmix.forecasting.progress import Progress
from seqmix.memory import advising
from seqmix.series import Series
from seqmix.tasks import Forecasting, Task

Batch = dict[str, Tensor]

# most windows of a forward pass, and most of their values
_EVAL_WINDOWS, _EVAL_VALUES = 1024, 1 << 19
# most steps, peak learning rate and windows per step of fine-tuning
_FINE_TUNING = (200, 2e-4, 64)
_TURN = threading.RLock()


@dataclass(frozen=True)
class Training:
    """Training options, which are not needed after training.

    Args:
        max_steps: maximum number of optimizer steps; 0 uses a pretrained model as it is.
        batch_size: windows per step.
        learning_rate: peak learning rate.
        patience: validations without improvement after which training stops. None: train to the end.
        device: device of the model during training and afterwards.
        stage: purpose of the training, for progress messages. Default: show no progress.
        trainer_kwargs: options of the Lightning Trainer, which override ours.
        lower: other options that memory grows with, and their values, for the message when it runs out.
        others: other ways to save memory, for the same message.
    """

    max_steps: int
    batch_size: int
    learning_rate: float
    patience: int | None
    device: torch.device
    stage: str | None
    trainer_kwargs: Mapping[str, Any]
    lower: Mapping[str, object] = field(default_factory=dict)
    others: tuple[str, ...] = ()


def make_training(options: Mapping[str, Any], stage: str, *, joint: bool, pretrained: bool) -> Training:
    """Training options from those of the Forecaster.

    Args:
        options: those of the Forecaster, as plain values.
        stage: purpose of the training.
        joint: the series are channels of one.
        pretrained: the model is fine-tuned.

    Raises:
        ConfigError: those of ``trainer_options``.
    """
    steps, rate, size = _FINE_TUNING if pretrained else (1000, 5e-3, 256)
    given = trainer_options(options)
    progress = given.pop("enable_progress_bar", options["verbose"])
    return Training(
        max_steps=steps if options["max_steps"] is None else options["max_steps"],
        batch_size=options["batch_size"] or (32 if joint else size),
        learning_rate=options["learning_rate"] or rate,
        patience=options["early_stopping"],
        device=where(options["device"]),
        stage=stage if progress else None,
        trainer_kwargs=given,
    )


def eval_batch(series: Series) -> int:
    """Windows per forward pass: 1,024, fewer where they are wide, with many channels or covariates."""
    width = (series.context + series.horizon) * (series.n_channels + series.n_past + series.n_future)
    return min(_EVAL_WINDOWS, max(64, _EVAL_VALUES // width))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers from ``seed`` alone; torch has one generator, so that threads take turns."""
    with _TURN, torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def building(name: str, seed: int) -> Iterator[None]:
    """Weights from ``seed`` alone; a model that does not take its options is a ``ConfigError``."""
    with seeded(seed):
        try:
            yield
        except TypeError as e:
            raise ConfigError(f"{name} cannot be built: {e}; see model_kwargs") from e


def train(name: str, task: Forecasting, panel: Panel | None, how: Training, seed: int) -> pd.DataFrame:
    """Train a forecasting task, restore its best weights, and return the errors of each validation.

    A pretrained model is also validated before the first step: steps that do not help are undone.
    """
    if not any(p.requires_grad for p in task.parameters()) or (not how.max_steps and task.model.pretrained):
        return _Best(task).frame()
    if not task.model.by_steps:
        # what is fitted in closed form is fitted when training begins
        how = replace(how, max_steps=max(how.max_steps, 1))
    if not how.max_steps or panel is None:
        raise ConfigError(f"max_steps = 0 is for pretrained models, and {name} needs training; use 1 or more")
    return optimize(name, task, panel, how, seed, validate=panel.has_val, validate_first=task.model.pretrained)


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
    lower = {"batch_size": how.batch_size, **how.lower}
    with seeded(seed), quiet(), best.shared(), advising(lower, *how.others):
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


def forecast(
    task: Forecasting, batches: Iterable[Batch], quantiles: Sequence[float] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts of the batches, ``(N, horizon, C)``, and their quantiles, ``(N, horizon, C, K)``.

    They are computed on the device of the task.
    """
    task.eval()
    points, levels = [], []
    with torch.inference_mode():
        for batch in batches:
            with advising({}, "forecast fewer series at a time"):
                found = task({name: rows.to(task.device) for name, rows in batch.items()})
                points.append(task.point(found).float().cpu().numpy())
                if quantiles:
                    levels.append(task.quantiles_of(found, quantiles).cpu().numpy())
    return np.concatenate(points), np.concatenate(levels) if levels else np.zeros((0,))


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
