"""Loaders of numbered examples with exact resume."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from copy import copy
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from seqmix.errors import ConfigError

Split = Literal["train", "val", "test"]

# more examples than this are shuffled without a list of their numbers, which would be 16 MiB
MANY = 1 << 21
# odd, its bits without a pattern: 2^64 divided by the golden ratio
_ODD = np.uint64(0x9E3779B97F4A7C15)


class Gathered(ABC):
    """Base of numbered examples in tensors, served by ``WindowLoader``."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @abstractmethod
    def gather(self, index: Tensor) -> dict[str, Tensor]:
        """Batch of the examples with these numbers ``(B,)``, which have to be on ``device``."""

    @property
    def device(self) -> torch.device:
        """Device of the examples."""
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

    def _part(self, order: "Tensor | Shuffled", i: int) -> Tensor:
        """Part of batch ``i`` that this process serves."""
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
        """Position in the current epoch: its number, the batches served and their total."""
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

    def _order(self) -> "Tensor | Shuffled":
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.n > MANY:
            return Shuffled(self.n, rng.integers(2**63, size=4, dtype=np.uint64) if self.shuffle else None)
        return torch.from_numpy(rng.permutation(self.n)) if self.shuffle else torch.arange(self.n)


class Shuffled:
    """The numbers below ``n`` in a shuffled order that is computed on demand, without a list in memory.

    A Feistel network of four rounds permutes the numbers below a power of four; those that are not below ``n`` are
    permuted again until they are.

    Args:
        n: how many numbers.
        keys: four numbers that the order depends on. Default: ascending.
        device: where the numbers are wanted.
    """

    def __init__(self, n: int, keys: np.ndarray | None, device: torch.device | str = "cpu"):
        self.n, self.keys, self.device = n, keys, device
        self.half = np.uint64(-(-(n - 1).bit_length() // 2))

    def to(self, device: torch.device | str) -> "Shuffled":
        """The same order, on ``device``."""
        return Shuffled(self.n, self.keys, device)

    def __getitem__(self, places: slice) -> Tensor:
        """The numbers at ``places``."""
        numbers = np.arange(places.start, places.stop, dtype=np.uint64)
        if self.keys is not None:
            numbers = self._permuted(numbers)
            while (beyond := numbers >= self.n).any():
                numbers[beyond] = self._permuted(numbers[beyond])
        return torch.from_numpy(numbers.astype(np.int64)).to(self.device)

    def _permuted(self, numbers: np.ndarray) -> np.ndarray:
        assert self.keys is not None
        mask, shift = (np.uint64(1) << self.half) - np.uint64(1), np.uint64(64) - self.half
        high, low = numbers >> self.half, numbers & mask
        for key in self.keys:
            mixed = (low + key) * _ODD
            mixed = (mixed ^ (mixed >> np.uint64(32))) * _ODD
            high, low = low, high ^ (mixed >> shift)
        return (high << self.half) | low


class WindowLoader(ResumableLoader):
    """Batches of windows, or of anything else gathered by number, made in this process.

    Args:
        windows: the windows to serve.
        shuffle: a new order every epoch, instead of the order of the windows.
    """

    def __init__(self, windows: Gathered, batch_size: int, *, shuffle: bool = False, seed: int = 0):
        super().__init__(len(windows), batch_size, shuffle=shuffle, seed=seed)
        self.windows = windows

    def _serve(self, batches: Iterable[Tensor]) -> Iterable[dict[str, Tensor]]:
        return map(self.windows.gather, batches)

    def _order(self) -> "Tensor | Shuffled":
        return super()._order().to(self.windows.device)
