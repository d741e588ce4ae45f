"""Batches for fitting in closed form: normalized as the model sees them, each value weighing what its error counts."""

from collections.abc import Iterable, Iterator
from itertools import islice

import lightning.pytorch as pl
import torch
from torch import Tensor

from seqmix.tasks._normalize import WindowNorm

Batch = dict[str, Tensor]


class Normalized:
    """Normalized batches of a loader, which can be gone through several times.

    Squared errors of normalized values are squared errors in the scale of the data when each window and channel weighs
    the square of its scale; ``weight: (B, C)`` has that in it.

    Args:
        batches: the loader.
        limit: batches that are used, a number, or a fraction of all.
        norm: normalization of windows; None for windows as they are.
        device: where batches are moved.
    """

    def __init__(self, batches: Iterable[Batch], limit: int | float, norm: WindowNorm | None, device: torch.device):
        self.batches, self.norm, self.device = batches, norm, device
        # as Lightning reads its limits
        self.limit = limit if isinstance(limit, int) else int(limit * len(batches))  # pyright: ignore[reportArgumentType]

    def __iter__(self) -> Iterator[Batch]:
        for batch in islice(self.batches, self.limit):
            yield self._normalized({name: value.to(self.device) for name, value in batch.items()})

    def _normalized(self, batch: Batch) -> Batch:
        x, stats = (batch["x"], None) if self.norm is None else self.norm(batch["x"], batch.get("x_mask"))
        weight = x.new_ones(x.shape[0], x.shape[2])
        if "weight" in batch:
            weight = weight * batch["weight"].to(x.dtype).unsqueeze(1)
        if stats is None:
            return {**batch, "x": x, "weight": weight}
        level, scale = stats
        return {**batch, "x": x, "y": (batch["y"] - level) / scale, "weight": weight * scale.squeeze(1).square()}


def batches_of(
    trainer: pl.Trainer, norm: WindowNorm | None, device: torch.device
) -> tuple[Iterable[Batch], Iterable[Batch]]:
    """Training and validation batches of the data that a trainer fits, as far as it uses them."""
    fit = trainer.fit_loop
    train, val = fit._data_source, fit.epoch_loop.val_loop._data_source
    held: Iterable[Batch] = ()
    if val.is_defined() and trainer.limit_val_batches:
        held = Normalized(val.dataloader(), trainer.limit_val_batches, norm, device)
    return Normalized(train.dataloader(), trainer.limit_train_batches, norm, device), held
