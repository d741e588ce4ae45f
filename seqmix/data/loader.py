"""Loaders of numbered examples: exact resume, nothing dropped."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from seqmix.errors import ConfigError


class Gathered(ABC):
    """Numbered examples that lie in the tensors of this object, and are served by ``WindowLoader``."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @abstractmethod
    def gather(self, index: Tensor) -> dict[str, Tensor]:
        """Batch of the examples with these numbers ``(B,)``, which have to be on ``device``."""

    @property
    def device(self) -> torch.device:
        """Where the examples are."""
        return next(iter(self._tensors().values())).device

    @property
    def nbytes(self) -> int:
        """Bytes of the examples."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def to(self, device: torch.device | str) -> Self:
        """The same examples on ``device``, where batches are then made."""
        moved = copy(self)
        vars(moved).update({name: tensor.to(device) for name, tensor in self._tensors().items()})
        return moved

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


class ResumableLoader(ABC):
    """Batches of numbered examples in an order that depends on ``seed`` and the epoch alone.

    Takes the place of a ``DataLoader`` in Lightning, which calls ``set_epoch`` and saves ``state_dict``: a run resumed
    in the middle of an epoch sees the remaining batches, in the same order. The last batch may be smaller, it is never
    dropped. Of several processes each serves its part of every batch, see ``divide``.

    Args:
        n: number of examples.
        batch_size: examples per batch.
        shuffle: a new order every epoch, instead of the order of the examples.
        seed: starting point of the shuffles.
    """

    # Lightning looks for set_epoch at loader.sampler and reads this name beside it
    batch_sampler = None

    def __init__(self, n: int, batch_size: int, *, shuffle: bool = False, seed: int = 0):
        self.n, self.batch_size, self.shuffle, self.seed = n, batch_size, shuffle, seed
        self.epoch = 0
        self.rank, self.n_ranks = 0, 1
        self._served = 0
        self._resume_at = 0

    def divide(self, rank: int, n_ranks: int) -> Self:
        """Serve the part of one of several processes, and return the loader.

        All processes together serve batches of ``n_ranks * batch_size`` examples, in the order of one process with
        batches of that size; each has as many batches as the others, and every example is served once. In the last
        batch the parts may differ by one example; where it would have none for some process, it is joined to the one
        before.

        Args:
            rank: number of the process, from 0.
            n_ranks: number of processes.

        Raises:
            ConfigError: if there are fewer examples than processes.
        """
        if n_ranks > 1 and self.n < n_ranks:
            raise ConfigError(f"{self.n} examples cannot be divided among {n_ranks} processes; use fewer devices")
        self.rank, self.n_ranks = rank, n_ranks
        return self

    @abstractmethod
    def _serve(self, batches: Iterable[Tensor]) -> Iterable[dict[str, Tensor]]:
        """Batches of the examples with these numbers."""

    def __len__(self) -> int:
        whole = self.n_ranks * self.batch_size
        joined = self.n > whole and 0 < self.n % whole < self.n_ranks
        return -(-self.n // whole) - joined

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # a generator: nothing happens until the first batch is asked for, and Lightning calls iter() more than once
        first, self._resume_at = self._resume_at, 0
        order = self._order()
        numbers = (self._part(order, i) for i in range(first, len(self)))
        for i, batch in enumerate(self._serve(numbers), first + 1):
            self._served = i
            yield batch
        self.epoch += 1
        self._served = 0

    def _part(self, order: Tensor, i: int) -> Tensor:
        """What this process serves of batch ``i``."""
        whole = self.n_ranks * self.batch_size
        end = (i + 1) * whole if i + 1 < len(self) else self.n
        return order[i * whole : end].tensor_split(self.n_ranks)[self.rank]

    @property
    def sampler(self) -> Self:
        """The loader itself: it has ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Serve this epoch next; from its start, unless a state loaded before was of the same epoch."""
        if epoch != self.epoch:
            self.epoch, self._resume_at = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the current epoch stands: its number, the batches served and their total."""
        return {"epoch": self.epoch, "served": self._served, "total": len(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken.

        Raises:
            ConfigError: if that run had another number of batches per epoch.
        """
        if state["total"] != len(self):
            raise ConfigError(
                f"the checkpoint is of a run with {state['total']} batches per epoch, this one has {len(self)}; "
                "resume with the same data, context, horizon, stride, batch_size and devices, or start afresh without "
                "ckpt_path"
            )
        self.epoch = state["epoch"]
        self._served = self._resume_at = state["served"]

    def _order(self) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.n)
        return torch.from_numpy(np.random.default_rng([self.seed, self.epoch]).permutation(self.n))


class WindowLoader(ResumableLoader):
    """Batches of windows, or of anything else gathered by number, made in this process.

    Args:
        windows: what to serve.
        batch_size: windows per batch.
        shuffle: a new order every epoch, instead of the order of the windows.
        seed: starting point of the shuffles.
    """

    def __init__(self, windows: Gathered, batch_size: int, *, shuffle: bool = False, seed: int = 0):
        super().__init__(len(windows), batch_size, shuffle=shuffle, seed=seed)
        self.windows = windows

    def _serve(self, batches: Iterable[Tensor]) -> Iterable[dict[str, Tensor]]:
        return map(self.windows.gather, batches)

    def _order(self) -> Tensor:
        return super()._order().to(self.windows.device)
