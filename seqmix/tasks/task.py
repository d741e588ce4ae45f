"""The task contract: one training step, exact metrics, optimizer and schedule, early stopping, checkpoints."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Literal, final

import lightning.pytorch as pl
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch import Tensor

from seqmix.errors import ConfigError
from seqmix.mixers import auxiliary_loss
from seqmix.models import Densify
from seqmix.tasks._optim import Optim
from seqmix.tasks._processes import add_up, weight_of
from seqmix.tasks.score import Score, Table


class Task(pl.LightningModule, ABC):
    """Base of all tasks: a LightningModule with an optimizer, whose first metric selects the best checkpoint.

    It logs ``val_<metric>`` and ``test_<metric>`` for each, and ``test_<counted>``, the number they are means over.

    Args:
        optim: optimizer and learning-rate schedule. Default: AdamW, with the settings of the task.
        patience: validations without a better ``monitor`` after which training stops. None: train to the end.

    Raises:
        ConfigError: if options are out of range.
    """

    #: what is measured; early stopping and the best checkpoint go by the first
    metrics: ClassVar[tuple[str, ...]]
    #: what a validation measures where it is not what a test does, and what they go by then
    validated: ClassVar[tuple[str, ...]] = ()
    #: which values of the first metric are better
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    #: the same of a test, where a validation measures something else. Default: ``better``
    better_in_test: ClassVar[Literal["lower", "higher"] | None] = None
    #: what is counted in testing
    counted: ClassVar[str]
    #: facts of the data that a line of results gives
    facts: ClassVar[tuple[str, ...]]
    #: how the title of a table of results says them
    extent: ClassVar[str]
    #: the table of `seqmix report` that results stand in
    table: ClassVar[Table]
    #: `--baselines` chooses what is trained beside the model
    chooses_baselines: ClassVar[bool] = False
    #: the weights are those of a trained model: it can be tested without a checkpoint
    ready: bool = False
    #: a prediction must not see later positions
    causal: ClassVar[bool] = False
    #: sums over one pass of a loader, in float64: metrics are exact means over it, never means of batch means
    sums: Tensor

    def __init__(self, *, optim: Optim, patience: int | None):
        super().__init__()
        if optim.layer_decay < 1 and type(self).depths is Task.depths:
            raise ConfigError(
                f"layer_decay = {optim.layer_decay} needs to know the order of the blocks, {type(self).__name__} does "
                "not; leave it out"
            )
        if patience is not None and patience < 1:
            raise ConfigError(f"patience must be at least 1, got {patience}; use null to train to the end")
        self.optim, self.patience = optim, patience
        self.densified: Densify | None = None

    @property
    @abstractmethod
    def label(self) -> str:
        """Name of the model in results."""

    @property
    def monitor(self) -> str:
        """Name of the validation metric that early stopping and the best checkpoint go by."""
        return f"val_{self.watched[0]}"

    @property
    def watched(self) -> tuple[str, ...]:
        """Names of the metrics of a validation."""
        return self.validated or self.metrics

    @abstractmethod
    def loss_of(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean loss of one training batch, without the auxiliary losses of mixers."""

    @abstractmethod
    def add_batch(self, batch: dict[str, Tensor]) -> None:
        """Add one batch to ``sums``: the sum of each metric, in their order, then the counts to divide by."""

    @abstractmethod
    def finish(self, stage: str) -> tuple[dict[str, float], float]:
        """Metrics by name of all batches added, and the number of ``counted``; ``stage`` is ``val`` or ``test``."""

    def facts_of(self, data: Any) -> dict[str, Any]:
        """Values of ``facts``: those of the datamodule, and others by which a task distinguishes its results."""
        return {fact: getattr(data, fact) for fact in self.facts}

    def totals(self, stage: str) -> list[Tensor]:
        """Tensors that the processes of a run on several devices add up, in place, before ``finish``."""
        return [self.sums]

    def remarks(self) -> dict[str, float]:
        """Other values of the last validation by name, to be logged and written to ``metrics.csv``."""
        return {}

    def baselines(self, data: Any, chosen: Sequence[Any] | None, seed: int) -> list[Score]:
        """Scores of the baselines on the examples of the last test; empty for a task without baselines.

        Args:
            data: datamodule of the run.
            chosen: factories given with ``--baselines``. Default: the baselines of the task.
            seed: seed set before each baseline.
        """
        return []

    def example(self) -> dict[str, Any]:
        """Arguments of ``forward`` by name, a batch of one, of the longest sequence; ``ConfigError`` if not known."""
        raise ConfigError(f"{type(self).__name__} does not say what an input is (example()); leave out --densify")

    def densify(self, how: Densify | None = None) -> None:
        """Put dense layers in place of mixers (JustDense), before training.

        Args:
            how: the mixers and their replacement. Default: one matrix along the same axis for every sequence mixer.
        """
        how = how or Densify()
        how(self, self.example())
        self.densified = how

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say how the mixers of the model were replaced."""
        checkpoint["densified"] = self.densified and asdict(self.densified)

    def prediction_rows(self, batch: dict[str, Tensor], first: int, data: Any) -> pd.DataFrame:
        """Rows of a file of predictions, for tasks that make some.

        Args:
            batch: result of ``predict_step``.
            first: number of its first example.
            data: datamodule of the run.
        """
        raise TypeError(f"{type(self).__name__} makes no file of predictions")

    @final
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch in float32 or wider, with the auxiliary losses of the mixers.

        On several devices each example counts the same, also in a last batch of unequal parts.
        """
        loss = self.loss_of(batch)
        loss = loss.to(torch.promote_types(loss.dtype, torch.float32))
        self.log("train_loss", loss.detach(), prog_bar=True)
        return (loss + auxiliary_loss(self).to(loss)) * weight_of(self._trainer, len(next(iter(batch.values()))))

    def score(self) -> Score:
        """Score of the last test."""
        found = self.trainer.callback_metrics
        parameters = sum(p.numel() for p in self.parameters() if p.requires_grad)
        metrics = {name: float(found[f"test_{name}"]) for name in self.metrics}
        return Score(
            self.label + ", densified" * bool(self.densified), metrics, int(found[f"test_{self.counted}"]), parameters
        )

    def on_validation_epoch_start(self) -> None:
        """Reset the sums, in memory of this process: started processes share the tensors that they were given."""
        self.sums = torch.zeros_like(self.sums)

    def on_test_epoch_start(self) -> None:
        """Reset the sums, in memory of this process: started processes share the tensors that they were given."""
        self.sums = torch.zeros_like(self.sums)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add one batch to the sums."""
        self.add_batch(batch)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add one batch to the sums."""
        self.add_batch(batch)

    def on_validation_epoch_end(self) -> None:
        """Log every metric as ``val_<metric>``, and the remarks."""
        add_up(self.trainer, self.totals("val"))
        found, _ = self.finish("val")
        self.log_dict({f"val_{name}": value for name, value in found.items()}, prog_bar=True, sync_dist=True)
        self.log_dict(self.remarks(), sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Log every metric as ``test_<metric>``, and ``test_<counted>``."""
        add_up(self.trainer, self.totals("test"))
        found, count = self.finish("test")
        self.log_dict({f"test_{name}": value for name, value in found.items()}, sync_dist=True)
        # the number of tokens may exceed the integers that float32 represents
        self.log(f"test_{self.counted}", torch.tensor(count, dtype=torch.float64), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """The optimizer, with a learning rate that is set before every step."""
        # mixed precision needs to see the gradients between scaling and the update, the fused kernel hides them
        fused = not str(self.trainer.precision).endswith("-mixed") and self.device.type in ("cpu", "cuda")
        optimizer = self.optim.make(self.optim.groups(self, self.depths()), fused=fused)
        factor = self.optim.factor(_total_steps(self.trainer))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def depths(self) -> dict[str, int] | None:
        """Number of the block of each parameter, from the input to the head; None where blocks have no order."""
        return None

    def forget_code(self) -> None:
        """Drop objects from the hyperparameters: a checkpoint holds weights and plain values only.

        Those of a config are plain values, and stay.
        """
        for name, value in list(self.hparams.items()):
            code = isinstance(value, Optim) or callable(value)
            if code or (isinstance(value, list) and any(callable(each) for each in value)):
                self.hparams.pop(name)

    def configure_callbacks(self) -> list[Callback]:
        """Early stopping on ``monitor``."""
        if self.patience is None:
            return []
        # at validations only: training that ends before the first one has nothing to compare
        mode = "min" if self.better == "lower" else "max"
        return [EarlyStopping(self.monitor, patience=self.patience, mode=mode, check_on_train_epoch_end=False)]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Densify the model as that of the checkpoint; say which weight differs when it is of another model."""
        if checkpoint.get("densified") and not self.densified:
            self.densify(Densify(**checkpoint["densified"]))
        if self._trainer is not None and self._trainer.state.fn != "fit" and "current_model_state" in checkpoint:
            # with averaged weights the callback of Lightning would restore those of the last step
            checkpoint["current_model_state"] = checkpoint["state_dict"]
        have, want = checkpoint["state_dict"], self.state_dict()
        for name in sorted(have.keys() | want.keys()):
            ours, theirs = (tuple(d[name].shape) if name in d else "absent" for d in (want, have))
            if ours != theirs:
                raise ConfigError(
                    f"the checkpoint is of another model: {name} is {theirs} in it and {ours} here; "
                    "use the config.yaml beside the checkpoint"
                )


def blank_tokens(task: Task, max_len: int | None, *, pairs: bool = False) -> Tensor:
    """The longest text of zeros, ``(1, L)``, or ``(1, 2, L)`` for pairs; ``ConfigError`` if no length is known."""
    if max_len is None:
        raise ConfigError(f"{type(task).__name__} needs data that knows max_len to be densified; leave out --densify")
    return torch.zeros((1, 2, max_len) if pairs else (1, max_len), dtype=torch.long)


def require_facts(task: Task, **facts: object | None) -> None:
    """Raise ``ConfigError`` if the data, linked to ``task``, did not know one of ``facts``."""
    missing = [name for name, fact in facts.items() if fact is None]
    if missing:
        raise ConfigError(
            f"{type(task).__name__} needs data that knows {', '.join(missing)}; `seqmix list datasets` names some"
        )


def _total_steps(trainer: pl.Trainer) -> float:
    """Optimizer steps of the whole training.

    Not ``trainer.estimated_stepping_batches``: that opens the loader before a resumed run has restored its position.
    """
    if trainer.max_epochs is None or trainer.max_epochs < 0:
        return math.inf if trainer.max_steps == -1 else trainer.max_steps
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is None:
        return trainer.estimated_stepping_batches
    batches, limit = len(datamodule.train_dataloader()), trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    steps = math.ceil(batches / trainer.accumulate_grad_batches) * trainer.max_epochs
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)
