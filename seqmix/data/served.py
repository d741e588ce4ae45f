"""Bases of datamodules: data in three splits, and data in memory on the training device."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from seqmix.data.loader import Gathered, ResumableLoader, Split, WindowLoader
from seqmix.errors import ConfigError


class SplitData(LightningDataModule, ABC):
    """Base of data in three splits: shuffled for training, in order otherwise, none dropped, resumed exactly.

    On several devices each process serves its part: every example once, in batches of ``batch_size`` on each.

    Args:
        name: name of the data in tables and messages.
        batch_size: examples per training batch.
        eval_batch_size: examples per validation and test batch. Default: the same as in training.
        seed: starting point of the shuffles. Default: the seed of torch when training starts.

    Raises:
        ConfigError: if a batch size is not positive, or ``seed`` is negative.
    """

    name: str

    def __init__(self, name: str, batch_size: int, *, eval_batch_size: int | None, seed: int | None):
        super().__init__()
        eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        check_positive(batch_size=batch_size, eval_batch_size=eval_batch_size)
        if seed is not None and seed < 0:
            raise ConfigError(f"seed must not be negative, got {seed}; set data.seed to 0 or more")
        self.name, self.batch_size, self.eval_batch_size = name, batch_size, eval_batch_size
        self.seed = self._shuffle_seed = seed

    def __str__(self) -> str:
        # the one of Lightning opens every loader, and the command line prints what lacks a fact it could link
        return self.name

    @abstractmethod
    def _loader(self, split: Split, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> ResumableLoader:
        """Loader of one split."""

    def fingerprint(self) -> str:
        """Digest of the examples, to detect other data of the same name; empty where reading them takes long."""
        return ""

    def train_dataloader(self) -> ResumableLoader:
        """Training examples, shuffled, but for a trainer that is to overfit the first few batches."""
        if self._shuffle_seed is None:
            self._shuffle_seed = torch.initial_seed()
        # set on instances of the trainer only
        shuffle = self.trainer is None or self.trainer.overfit_batches == 0  # pyright: ignore[reportAttributeAccessIssue]
        return self._divided(self._loader("train", self.batch_size, shuffle=shuffle, seed=self._shuffle_seed))

    def val_dataloader(self) -> ResumableLoader:
        """Every validation example, in order."""
        return self._divided(self._loader("val", self.eval_batch_size))

    def test_dataloader(self) -> ResumableLoader:
        """Every test example, in order."""
        return self._divided(self._loader("test", self.eval_batch_size))

    def predict_dataloader(self) -> ResumableLoader:
        """The test examples again."""
        return self.test_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """The seed of the shuffles, so that a resumed run shuffles as the first one did."""
        return {"shuffle_seed": self._shuffle_seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the seed of the checkpoint, unless one was given."""
        if self.seed is None:
            self._shuffle_seed = state_dict["shuffle_seed"]

    def _divided(self, loader: ResumableLoader) -> ResumableLoader:
        """The part of this process, where the trainer has several."""
        return loader if self.trainer is None else loader.divide(self.trainer.global_rank, self.trainer.world_size)


class Served(SplitData, ABC):
    """Base of data in memory, or in a mapped file, gathered by number."""

    def __init__(self, name: str, batch_size: int, *, eval_batch_size: int | None, seed: int | None):
        super().__init__(name, batch_size, eval_batch_size=eval_batch_size, seed=seed)
        self._splits: Mapping[Split, Gathered] = {}

    @abstractmethod
    def _make(self) -> Mapping[Split, Gathered]:
        """Read or make the examples of every split, as a ``WindowLoader`` serves them; called once."""

    def setup(self, stage: str | None = None) -> None:
        """Make the examples; does nothing the second time."""
        if not self._splits:
            self._splits = self._make()

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of the sizes of the splits, and of the first, middle and last example of each."""
        self.setup()
        found = hashlib.sha256()
        # random draws of examples must not advance the generator of the training
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for split, examples in sorted(self._splits.items()):
                n = len(examples)
                found.update(f"{split} {n}".encode())
                for name, values in sorted(examples.gather(torch.tensor([0, n // 2, n - 1])).items()) if n else ():
                    found.update(name.encode() + values.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:12]

    def _loader(self, split: Split, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> WindowLoader:
        return WindowLoader(self._placed(split), batch_size, shuffle=shuffle, seed=seed)

    def _placed(self, split: Split) -> Gathered:
        """Examples of a split, moved to the GPU in use when they take less than a quarter of its free memory."""
        self.setup()
        examples = self._splits[split]
        if self.trainer is None:
            return examples
        device = self.trainer.strategy.root_device
        if device.type == "cuda" and 4 * examples.nbytes < torch.cuda.mem_get_info(device)[0]:
            return examples.to(device)
        return examples


def check_positive(**sizes: int) -> None:
    """Raise ``ConfigError`` unless every size, given under the name of its option, is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"{name} must be at least 1, got {size}; set data.{name} to a positive number")


def parts(total: int, sizes: Mapping[Split, int], seed: int | None = None) -> dict[Split, Tensor]:
    """Numbers below ``total`` for each split, one split after another: in order, or in the order drawn by ``seed``."""
    order = np.arange(total) if seed is None else np.random.default_rng(seed).permutation(total)
    ends = np.cumsum(list(sizes.values()))
    return {name: torch.from_numpy(part) for name, part in zip(sizes, np.split(order, ends), strict=False)}
