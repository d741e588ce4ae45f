"""Batches for closed-form fits: normalized as the model sees them, with the weight of each error."""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seqmix.errors import ConfigError
from seqmix.models.forecast_model import ForecastModel
from seqmix.tasks._normalize import WindowNorm

if TYPE_CHECKING:
    import lightning.pytorch as pl

Batch = dict[str, Tensor]
Prepare = Callable[[Batch], Batch]


class Normalized:
    """Normalized batches of a loader, which can be gone through several times.

    Squared errors of normalized values are squared errors in the scale of the data when each window and channel weighs
    the square of its scale; ``weight: (B, C)`` has that in it.

    Args:
        batches: the loader.
        limit: number or fraction of batches to use. None: all.
        norm: normalization of windows. None: not normalized.
        device: where batches are moved.
        prepare: converts a batch of the loader to one of x and y. Default: unchanged.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        limit: int | float | None,
        norm: WindowNorm | None,
        device: torch.device,
        prepare: Prepare | None = None,
    ):
        self.batches, self.norm, self.device, self.prepare = batches, norm, device, prepare
        # as Lightning reads its limits
        self.limit = int(limit * len(batches)) if isinstance(limit, float) else limit  # pyright: ignore[reportArgumentType]

    def __iter__(self) -> Iterator[Batch]:
        for batch in islice(self.batches, self.limit):
            moved = {name: value.to(self.device) for name, value in batch.items()}
            yield self._normalized(moved if self.prepare is None else self.prepare(moved))

    def _normalized(self, batch: Batch) -> Batch:
        x, stats = (batch["x"], None) if self.norm is None else self.norm(batch["x"], batch.get("x_mask"))
        weight = x.new_ones(x.shape[0], x.shape[2])
        if "weight" in batch:
            weight = weight * batch["weight"].to(x.dtype).unsqueeze(1)
        if stats is None:
            return {**batch, "x": x, "weight": weight, "scale": torch.ones_like(x[:, :1])}
        level, scale = stats
        weight = weight * scale.squeeze(1).square()
        return {**batch, "x": x, "y": (batch["y"] - level) / scale, "weight": weight, "scale": scale}


def left_out_errors(
    model: ForecastModel,
    norm: WindowNorm,
    train: Iterable[Batch],
    blocks: Iterable[tuple[Iterable[Batch], Iterable[Batch]]],
    device: torch.device,
) -> Tensor:
    """Errors of the windows of each block by a fit that knows neither them nor those near them, ``(m, horizon, C)``.

    They are in the scale of the data, NaN where the truth is missing.

    Args:
        model: a model in closed form.
        norm: normalization of windows.
        train: all training batches.
        blocks: batches of each block, and of what is left out with it.
        device: where batches are moved.
    """
    given = [
        Normalized(batches, None, norm, device) for batches in (train, *(part for pair in blocks for part in pair))
    ]
    errors = []
    for batch, forecast in model.left_out(given[0], list(zip(given[1::2], given[2::2], strict=True))):
        error = batch["scale"] * (batch["y"] - forecast)
        errors.append(error.masked_fill(~batch["y_mask"], math.nan) if "y_mask" in batch else error)
    return torch.cat(errors)


def batches_of(
    trainer: "pl.Trainer",
    norm: WindowNorm | None,
    device: torch.device,
    *,
    train: Prepare | None = None,
    val: Prepare | None = None,
) -> tuple[Iterable[Batch], Iterable[Batch]]:
    """Training and validation batches of the data that a trainer fits, as far as it uses them.

    Args:
        trainer: the trainer, in the training.
        norm: normalization of windows. None: not normalized.
        device: where batches are moved.
        train: converts a training batch to one of x and y. Default: unchanged.
        val: the same for a validation batch.
    """
    fit = trainer.fit_loop
    first, second = fit._data_source, fit.epoch_loop.val_loop._data_source
    held: Iterable[Batch] = ()
    if second.is_defined() and trainer.limit_val_batches:
        held = Normalized(_undivided(trainer, second.dataloader()), trainer.limit_val_batches, norm, device, val)
    return Normalized(_undivided(trainer, first.dataloader()), trainer.limit_train_batches, norm, device, train), held


def _undivided(trainer: "pl.Trainer", loader: Any) -> Iterable[Batch]:
    """All batches: on several devices each process fits all of the data, and finds the same."""
    if trainer.world_size == 1:
        return loader
    if not hasattr(loader, "divide"):
        raise ConfigError(f"{type(loader).__name__} cannot be read whole on several devices; set trainer.devices: 1")
    return loader.divide(0, 1)
