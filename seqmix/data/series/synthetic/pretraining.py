"""Batches of generated series for pretraining, drawn by their number."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from seqmix.data.loader import ResumableLoader
from seqmix.data.series.synthetic.mixture import draw
from seqmix.data.served import Split, SplitData, check_positive
from seqmix.series import Series

STREAMS: dict[Split, int] = {"train": 0, "val": 1, "test": 2}


class SyntheticSeries(SplitData):
    """Generated series of many kinds: ``{"x": (B, T), "mask": (B, T), "periods": (B, 2)}`` with T = context + horizon.

    Batch k of training is drawn from the seed and k alone, new ones in every epoch, so that a resumed run sees what the
    whole one would have seen; validation and test series are other draws, the same each time. ``mask`` is True where
    values are seen; the others are 0. See ``synthetic.mixture`` for what is drawn.

    Args:
        context: longest history.
        horizon: values after it.
        steps_per_epoch: batches that count as an epoch.
        n_val: number of validation series, and of test series.
        seed: seed of the series. Default: the seed of torch when training starts; validation and test series have seed
            0.

    Raises:
        ConfigError: if a size is not positive, or ``seed`` is negative.
    """

    def __init__(
        self,
        context: int = 512,
        horizon: int = 64,
        batch_size: int = 256,
        *,
        steps_per_epoch: int = 500,
        n_val: int = 2048,
        eval_batch_size: int | None = None,
        seed: int | None = None,
    ):
        super().__init__("SyntheticSeries", batch_size, eval_batch_size=eval_batch_size, seed=seed)
        check_positive(context=context, horizon=horizon, steps_per_epoch=steps_per_epoch, n_val=n_val)
        self.context, self.horizon, self.steps_per_epoch, self.n_val = context, horizon, steps_per_epoch, n_val

    @property
    def series(self) -> Series:
        """The facts of the data for models."""
        return Series(1, self.context, self.horizon)

    def _loader(self, split: Split, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> ResumableLoader:
        n = self.steps_per_epoch * self.batch_size if split == "train" else self.n_val
        return _Drawn(n, batch_size, self.context, self.horizon, stream=STREAMS[split], renewed=shuffle, seed=seed)


class _Drawn(ResumableLoader):
    """Batches that are drawn; other ones in every epoch where ``renewed``."""

    def __init__(self, n: int, batch_size: int, context: int, horizon: int, *, stream: int, renewed: bool, seed: int):
        super().__init__(n, batch_size, shuffle=renewed, seed=seed)
        self.context, self.horizon, self.stream = context, horizon, stream

    def _order(self) -> Tensor:
        return torch.arange(self.n) + (self.n * self.epoch if self.shuffle else 0)

    def _serve(self, batches: Iterable[Tensor]) -> Iterator[dict[str, Tensor]]:
        # validation and test series are drawn at once: they do not depend on the size of a batch
        whole = None if self.shuffle else self._draw(self.n, 0)
        for numbers in batches:
            yield self._blocks(numbers) if whole is None else {name: part[numbers] for name, part in whole.items()}

    def _blocks(self, numbers: Tensor) -> dict[str, Tensor]:
        """Training series with these numbers: of one block of ``batch_size``, or parts of more on several devices."""
        size = self.batch_size
        drawn = {k: self._draw(size, k) for k in range(int(numbers[0]) // size, int(numbers[-1]) // size + 1)}
        every = {name: torch.cat([block[name] for block in drawn.values()]) for name in next(iter(drawn.values()))}
        return {name: part[numbers - min(drawn) * size] for name, part in every.items()}

    def _draw(self, n: int, k: int) -> dict[str, Tensor]:
        drawn = draw(n, self.context, self.horizon, seed=(self.seed, self.stream, k))
        return {name: torch.from_numpy(part) for name, part in drawn._asdict().items()}
