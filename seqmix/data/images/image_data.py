"""Base of image data from folders and the hub: labeled images of any size in three splits."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from seqmix.data.images.augment import Augmentation, Batch, finish
from seqmix.data.images.loader import Crop, Crops, ImageLoader, Interpolation, Source
from seqmix.data.images.pixels import RESAMPLING
from seqmix.data.served import Split, SplitData, check_positive, parts
from seqmix.errors import ConfigError, DataError, check_choice

# mean and standard deviation of the pixels of ImageNet, from 0 to 1; of gray images those of the mean of the channels
_IMAGENET = {1: ((0.449,), (0.226,)), 3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}


class ImageData(SplitData, ABC):
    """Base of labeled images that are read on demand.

    Batches are ``{"images": (B, C, H, W), "labels": (B,)}``, bytes from the loaders, normalized where they are used. No
    image is dropped. Published numbers of data without test images, as ImageNet, are of its validation images: they are
    the test images here, and ``val_share`` of the training images is held out to validate on.

    Args:
        class_names: names of the classes, in the order of their numbers.
        img_size: side of the crops, in pixels.
        n_channels: 3 for RGB, 1 for gray.
        crop: of training images; ``resized`` takes 8 to 100 % of the area, ``plain`` a square at the scale of testing.
        crop_pct: share of the shorter side that testing sees.
        interpolation: interpolation for resizing images.
        mean: value subtracted from each channel, on a scale of 0 to 1. Default: the mean of ImageNet.
        std: divisor of each channel after that. Default: the standard deviation of ImageNet.
        augment: changes to training batches. Default: none.
        val_share: share of the training images held out to validate on where one of validation and test is missing.
        n_workers: processes that read images; 0 reads them in this one.
        seed: starting point of shuffles and crops. Default: the seed of torch when training starts.

    Raises:
        ConfigError: if an option is out of range.
    """

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        img_size: int,
        batch_size: int,
        *,
        n_channels: Literal[1, 3],
        crop: Crop,
        crop_pct: float,
        interpolation: Interpolation,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        augment: Augmentation | None,
        val_share: float,
        n_workers: int,
        seed: int | None,
    ):
        super().__init__(name, batch_size, eval_batch_size=None, seed=seed)
        check_positive(img_size=img_size)
        check_choice("crop", crop, ("resized", "plain"))
        check_choice("interpolation", interpolation, tuple(RESAMPLING))
        if n_channels not in (1, 3):
            raise ConfigError(f"n_channels = {n_channels}; use 1 for gray images, 3 for RGB")
        if not 0 < crop_pct <= 1:
            raise ConfigError(f"crop_pct is a share of the shorter side, 0 < crop_pct <= 1, got {crop_pct}; use 0.9")
        if not 0 < val_share < 1:
            raise ConfigError(f"val_share is a share of the images, 0 < val_share < 1, got {val_share}; use 0.02")
        if n_workers < 0:
            raise ConfigError(f"n_workers must not be negative, got {n_workers}; use 0 to read in the main process")
        self.mean, self.std = (
            tuple(given or own) for given, own in zip((mean, std), _IMAGENET[n_channels], strict=True)
        )
        if not len(self.mean) == len(self.std) == n_channels or min(self.std) <= 0:
            raise ConfigError(
                f"mean = {list(self.mean)} and std = {list(self.std)} should be {n_channels} numbers each, those of "
                "std positive; leave them out for the values of ImageNet"
            )
        if augment is not None and augment.needs_color and n_channels == 1:
            raise ConfigError("rand_augment and color_jitter need three channels, n_channels is 1; set both to 0")
        self.class_names, self.n_classes, self.n_channels = list(class_names), len(class_names), n_channels
        self.img_size, self.crop_pct = img_size, crop_pct
        self.crop: Crop = crop
        self.interpolation: Interpolation = interpolation
        self.augment, self.val_share, self.n_workers = augment, val_share, n_workers
        self._parts: dict[Split, tuple[Source, Tensor]] = {}

    @property
    def input_cfg(self) -> Mapping[str, Any]:
        """Preparation of test images, with the keys of ``ImageModel.default_cfg``."""
        return {
            "input_size": (self.n_channels, self.img_size, self.img_size),
            "crop_pct": self.crop_pct,
            "interpolation": self.interpolation,
            "mean": self.mean,
            "std": self.std,
        }

    @abstractmethod
    def _sources(self) -> tuple[Source, Source | None, Source | None]:
        """Training, validation and test images; None for a missing split."""

    def setup(self, stage: str | None = None) -> None:
        """Find the images of every split; does nothing the second time."""
        if self._parts:
            return
        train, val, test = self._sources()
        tested = val if test is None else test
        if tested is None or len(train) < 2:
            raise DataError(
                f"{self.name} has {len(train)} training images and {0 if tested is None else len(tested)} others; "
                "it needs some to train, and a part 'val' or 'test'"
            )
        if val is not None and test is not None:
            whole: dict[Split, Source] = {"train": train, "val": val, "test": test}
            self._parts = {split: (source, torch.arange(len(source))) for split, source in whole.items()}
            return
        n_val = min(max(1, round(self.val_share * len(train))), len(train) - 1)
        # a fixed draw: every run validates on the same images
        held = parts(len(train), {"val": n_val, "train": len(train) - n_val}, 0)
        everything = torch.arange(len(tested))
        self._parts = {"train": (train, held["train"]), "val": (train, held["val"]), "test": (tested, everything)}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalize a batch of bytes; in training, change it before that."""
        training = self.trainer is not None and self.trainer.training
        return finish(batch, self.augment if training else None, self.n_classes, self.mean, self.std)

    def label_counts(self, split: Split) -> Tensor:
        """Number of images of each class in a split, ``(n_classes,)``; reads none of them."""
        self.setup()
        source, rows = self._parts[split]
        return torch.bincount(torch.as_tensor(source.labels)[rows], minlength=self.n_classes)

    def _loader(self, split: Split, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> ImageLoader:
        self.setup()
        images = Crops(
            *self._parts[split],
            self.img_size,
            crop=self.crop if split == "train" else None,
            crop_pct=self.crop_pct,
            interpolation=self.interpolation,
        )
        return ImageLoader(images, batch_size, n_workers=self.n_workers, shuffle=shuffle, seed=seed)
