"""Images in one folder for each class."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from seqmix.data.files import data_folder
from seqmix.data.images.augment import Augmentation
from seqmix.data.images.files import endings, hidden, image_files
from seqmix.data.images.image_data import ImageData
from seqmix.data.images.loader import Crop, Interpolation, Source
from seqmix.data.images.pixels import read_image
from seqmix.errors import DataError


class ImageFolder(ImageData):
    """Images in folders: ``<path>/train/<class>/*.jpg``, the same in ``val``, and in ``test`` if there is one.

    Classes are numbered in the order of their names, as the weights published for ImageNet have it. Folders of a class
    may have folders of their own, and links to folders. Hidden files and folders are ignored; a warning counts files
    that are no images. Images of any mode and depth are read as RGB, or as gray.

    Args:
        path: the folder, in ``root``.
        n_channels: 3 to read images as RGB, 1 as gray.
        val_share: share of the training images held out to validate on where there is no folder ``test``; ``val`` is
            tested then.
        root: the data folder. Default: ``$SEQMIX_DATA``, else ``./data``.

    Raises:
        ConfigError: if an option is out of range.
        DataError: if the folder is not there or has fewer than two classes.
    """

    def __init__(
        self,
        path: str,
        img_size: int = 224,
        batch_size: int = 64,
        *,
        n_channels: Literal[1, 3] = 3,
        crop: Crop = "resized",
        crop_pct: float = 0.9,
        interpolation: Interpolation = "bicubic",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: Augmentation | None = None,
        val_share: float = 0.02,
        n_workers: int = 2,
        root: str | None = None,
        seed: int | None = None,
    ):
        self.folder = data_folder(root) / path
        train = self.folder / "train"
        class_names = [folder.name for folder in _classes(train)]
        if len(class_names) < 2:
            raise DataError(
                f"{train} has {len(class_names)} folders of classes; put the images of each class into "
                f"{Path(path) / 'train'}/<class>, or set data.root (or SEQMIX_DATA) to the folder above {path!r}"
            )
        super().__init__(
            self.folder.name,
            class_names,
            img_size,
            batch_size,
            n_channels=n_channels,
            crop=crop,
            crop_pct=crop_pct,
            interpolation=interpolation,
            mean=mean,
            std=std,
            augment=augment,
            val_share=val_share,
            n_workers=n_workers,
            seed=seed,
        )

    def _sources(self) -> tuple[Source, Source | None, Source | None]:
        train, val, test = (self._files(part) for part in ("train", "val", "test"))
        if train is None:
            raise DataError(f"{self.folder / 'train'} is gone; put it back")
        return train, val, test

    def _files(self, part: str) -> "_Files | None":
        folder = self.folder / part
        if not folder.is_dir():
            return None
        classes = {name: i for i, name in enumerate(self.class_names)}
        files, labels, ignored = [np.zeros(0, "S1")], [], []
        for child in _classes(folder):
            if child.name not in classes:
                raise DataError(f"{child}: 'train' has no class of this name; add it there, or remove it here")
            found, others = image_files(child)
            if not found and part == "train":
                raise DataError(f"{child} holds no image; put some there, or remove the folder")
            files.append(np.array([os.fsencode(file) for file in found]))
            ignored += others
            labels += [classes[child.name]] * len(found)
        if not labels:
            raise DataError(f"{folder} holds no image; put some into {part}/<class>")
        if ignored:
            warnings.warn(
                f"{len(ignored):,} files in {folder} are no images and are left out: {endings(ignored)}", stacklevel=2
            )
        return _Files(np.concatenate(files), labels, self.n_channels)


class _Files:
    # one array of names: a list of a million paths would be half a gigabyte, in each of the workers
    def __init__(self, files: np.ndarray, labels: Sequence[int], n_channels: int):
        self.files, self.labels, self.n_channels = files, labels, n_channels

    def __len__(self) -> int:
        return len(self.files)

    def read(self, i: int) -> Image.Image:
        return read_image(Path(os.fsdecode(self.files[i])), self.n_channels)


def _classes(folder: Path) -> list[Path]:
    """Folders of classes, sorted by name."""
    return sorted(f for f in folder.iterdir() if f.is_dir() and not hidden(f.name)) if folder.is_dir() else []
