"""Images of any size, from a folder for each class or from the hub: read and cropped in worker processes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from seqmix.data.files import data_folder
from seqmix.data.images.augment import Augmentation, Batch, finish
from seqmix.data.images.pixels import RESAMPLING, eight_bits, middle, pixels, random_resized, random_square, read_image
from seqmix.data.served import Split, check_positive, parts
from seqmix.errors import ConfigError, DataError, check_choice

Crop = Literal["resized", "plain"]
Interpolation = Literal["bilinear", "bicubic"]
Triple = tuple[float, float, float]

# mean and standard deviation of ImageNet's pixels, from 0 to 1
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class Source(Protocol):
    """Labeled images by number."""

    def __len__(self) -> int: ...

    @property
    def labels(self) -> Sequence[int]:
        """Class of each image."""
        ...

    def read(self, i: int) -> tuple[Image.Image, int]:
        """An image in RGB, and its class."""
        ...


class ImageData(LightningDataModule, ABC):
    """Labeled RGB images that are read when they are needed.

    Batches are ``{"images": (B, 3, H, W), "labels": (B,)}``, bytes from the loaders, normalized where they are used. No
    image is dropped. Published numbers of data without test images, as ImageNet, are of its validation images: they are
    the test images here, and ``val_share`` of the training images is held out to validate on.

    Args:
        name: what the data is called in tables and messages.
        n_classes: number of classes.
        img_size: side of the crops, in pixels.
        batch_size: images per batch.
        crop: of training images; ``resized`` takes 8 to 100 % of the area, ``plain`` a square at the scale of testing.
        crop_pct: share of the shorter side that testing sees.
        interpolation: how images are resized.
        mean: what is subtracted from each channel, of values from 0 to 1.
        std: what each channel is divided by then.
        augment: changes to training batches; None for none.
        val_share: share of the training images held out to validate on where one of validation and test is missing.
        n_workers: processes that read images; 0 reads them in this one.

    Raises:
        ConfigError: if an option is out of range.
    """

    name: str

    def __init__(
        self,
        name: str,
        n_classes: int,
        img_size: int,
        batch_size: int,
        *,
        crop: Crop,
        crop_pct: float,
        interpolation: Interpolation,
        mean: Triple,
        std: Triple,
        augment: Augmentation | None,
        val_share: float,
        n_workers: int,
    ):
        super().__init__()
        check_positive(img_size=img_size, batch_size=batch_size)
        check_choice("crop", crop, ("resized", "plain"))
        check_choice("interpolation", interpolation, tuple(RESAMPLING))
        if not 0 < crop_pct <= 1:
            raise ConfigError(f"crop_pct is a share of the shorter side, 0 < crop_pct <= 1, got {crop_pct}; use 0.9")
        if not 0 < val_share < 1:
            raise ConfigError(f"val_share is a share of the images, 0 < val_share < 1, got {val_share}; use 0.02")
        if n_workers < 0:
            raise ConfigError(f"n_workers must not be negative, got {n_workers}; use 0 to read in the main process")
        self.name, self.n_classes, self.n_channels = name, n_classes, 3
        self.img_size, self.batch_size, self.crop, self.crop_pct = img_size, batch_size, crop, crop_pct
        self.resampling, self.mean, self.std, self.augment = RESAMPLING[interpolation], mean, std, augment
        self.val_share, self.n_workers = val_share, n_workers
        self._parts: dict[Split, tuple[Source, Tensor]] = {}

    def __str__(self) -> str:
        # the one of Lightning opens every loader
        return self.name

    @abstractmethod
    def _sources(self) -> tuple[Source, Source | None, Source | None]:
        """Training, validation and test images; None for what there is not."""

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

    def train_dataloader(self) -> DataLoader:
        """Training images, shuffled and cropped at random."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        """Every validation image, in order, its middle."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """Every test image, in order, its middle."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader:
        """The test images again."""
        return self._loader("test")

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalize a batch of bytes; in training, change it before that."""
        training = self.trainer is not None and self.trainer.training
        return finish(batch, self.augment if training else None, self.n_classes, self.mean, self.std)

    def label_counts(self, split: Split) -> Tensor:
        """How many images of a split each class has, ``(n_classes,)``; reads none of them."""
        self.setup()
        source, rows = self._parts[split]
        return torch.bincount(torch.as_tensor(source.labels)[rows], minlength=self.n_classes)

    def _loader(self, split: Split) -> DataLoader:
        self.setup()
        images = _Cropped(*self._parts[split], self, split == "train")
        workers = {"num_workers": self.n_workers, "persistent_workers": self.n_workers > 0}
        return DataLoader(images, self.batch_size, shuffle=split == "train", **workers)


class ImageFolder(ImageData):
    """Images in folders: ``<path>/train/<class>/*.jpg``, the same in ``val``, and in ``test`` if there is one.

    Classes are numbered in the order of their names, as the weights published for ImageNet have it. Folders of a class
    may have folders of their own. Images of any mode and depth are read as RGB.

    Args:
        path: the folder, in ``root``.
        img_size: side of the crops, in pixels.
        batch_size: images per batch.
        crop: of training images; ``resized`` takes 8 to 100 % of the area, ``plain`` a square at the scale of testing.
        crop_pct: share of the shorter side that testing sees.
        interpolation: how images are resized.
        mean: what is subtracted from each channel, of values from 0 to 1.
        std: what each channel is divided by then.
        augment: changes to training batches; None for none.
        val_share: share of the training images held out to validate on where there is no folder ``test``; ``val`` is
            tested then.
        n_workers: processes that read images; 0 reads them in this one.
        root: the data folder; None: ``$SEQMIX_DATA``, else ``./data``.

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
        crop: Crop = "resized",
        crop_pct: float = 0.9,
        interpolation: Interpolation = "bicubic",
        mean: Triple = _MEAN,
        std: Triple = _STD,
        augment: Augmentation | None = None,
        val_share: float = 0.02,
        n_workers: int = 2,
        root: str | None = None,
    ):
        self.folder = data_folder(root) / path
        train = self.folder / "train"
        self.class_names = sorted(f.name for f in train.iterdir() if f.is_dir()) if train.is_dir() else []
        if len(self.class_names) < 2:
            raise DataError(
                f"{train} has {len(self.class_names)} folders of classes; put the images of each class into "
                f"{Path(path) / 'train'}/<class>, or set data.root (or SEQMIX_DATA) to the folder above {path!r}"
            )
        super().__init__(
            self.folder.name,
            len(self.class_names),
            img_size,
            batch_size,
            crop=crop,
            crop_pct=crop_pct,
            interpolation=interpolation,
            mean=mean,
            std=std,
            augment=augment,
            val_share=val_share,
            n_workers=n_workers,
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
        files, labels = [], []
        for child in sorted(f for f in folder.iterdir() if f.is_dir()):
            if child.name not in classes:
                raise DataError(f"{child}: 'train' has no class of this name; add it there, or remove it here")
            found = sorted(f for f in child.rglob("*") if f.suffix.lower() in _SUFFIXES)
            files += found
            labels += [classes[child.name]] * len(found)
        if not files:
            raise DataError(f"{folder} holds no image ({', '.join(sorted(_SUFFIXES))}); put some there")
        return _Files(files, labels)


class HubImages(ImageData):
    """A data set of labeled images from the hub, or one saved in a folder, through ``datasets``.

    Args:
        path: name on the hub, for example ``uoft-cs/cifar10``, or a folder that ``datasets`` reads.
        img_size: side of the crops, in pixels.
        batch_size: images per batch.
        image_col: column of the images.
        label_col: column of the classes, whose names it knows.
        crop: of training images; ``resized`` takes 8 to 100 % of the area, ``plain`` a square at the scale of testing.
        crop_pct: share of the shorter side that testing sees.
        interpolation: how images are resized.
        mean: what is subtracted from each channel, of values from 0 to 1.
        std: what each channel is divided by then.
        augment: changes to training batches; None for none.
        val_share: share of the training images held out to validate on where one of validation and test is missing.
        n_workers: processes that read images; 0 reads them in this one.

    Raises:
        ConfigError: if an option is out of range.
        DataError: if it cannot be loaded, or a column is missing.
    """

    def __init__(
        self,
        path: str,
        img_size: int = 224,
        batch_size: int = 64,
        *,
        image_col: str = "image",
        label_col: str = "label",
        crop: Crop = "resized",
        crop_pct: float = 0.9,
        interpolation: Interpolation = "bicubic",
        mean: Triple = _MEAN,
        std: Triple = _STD,
        augment: Augmentation | None = None,
        val_share: float = 0.1,
        n_workers: int = 2,
    ):
        self.tables, self.image_col, self.label_col = _load(path), image_col, label_col
        if "train" not in self.tables:
            raise DataError(f"{path} has the splits {', '.join(self.tables)} and no 'train'; use another data set")
        features = self.tables["train"].features
        missing = [name for name in (image_col, label_col) if name not in features]
        if missing:
            raise DataError(
                f"{path} has no column {missing[0]!r}, it has {', '.join(features)}; "
                "set data.image_col and data.label_col"
            )
        if not hasattr(features[label_col], "names"):
            raise DataError(f"column {label_col!r} of {path} is no class label; set data.label_col to one that is")
        self.class_names = list(features[label_col].names)
        super().__init__(
            path,
            len(self.class_names),
            img_size,
            batch_size,
            crop=crop,
            crop_pct=crop_pct,
            interpolation=interpolation,
            mean=mean,
            std=std,
            augment=augment,
            val_share=val_share,
            n_workers=n_workers,
        )

    def _sources(self) -> tuple[Source, Source | None, Source | None]:
        val = next((self._rows(name) for name in ("validation", "valid", "val") if name in self.tables), None)
        return self._rows("train"), val, self._rows("test") if "test" in self.tables else None

    def _rows(self, split: str) -> "_Rows":
        return _Rows(self.tables[split], self.image_col, self.label_col)


class _Files:
    def __init__(self, files: Sequence[Path], labels: Sequence[int]):
        self.files, self.labels = files, labels

    def __len__(self) -> int:
        return len(self.files)

    def read(self, i: int) -> tuple[Image.Image, int]:
        return read_image(self.files[i]), self.labels[i]


class _Rows:
    def __init__(self, table: Any, image_col: str, label_col: str):
        self.table, self.image_col, self.label_col = table, image_col, label_col

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> Sequence[int]:
        return list(self.table[self.label_col])

    def read(self, i: int) -> tuple[Image.Image, int]:
        row = self.table[i]
        return eight_bits(row[self.image_col]), int(row[self.label_col])


class _Cropped(Dataset[Batch]):
    """Images of a source, at the size of the data, as bytes."""

    def __init__(self, source: Source, rows: Tensor, data: ImageData, training: bool):
        self.source, self.rows, self.training = source, rows.tolist(), training
        self.size, self.crop, self.crop_pct, self.resampling = data.img_size, data.crop, data.crop_pct, data.resampling

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Batch:
        image, label = self.source.read(self.rows[i])
        return {"images": pixels(self._cut(image)), "labels": torch.tensor(label)}

    def _cut(self, image: Image.Image) -> Image.Image:
        if not self.training:
            return middle(image, (self.size, self.size), self.crop_pct, self.resampling)
        if self.crop == "plain":
            return random_square(image, self.size, self.crop_pct, self.resampling)
        return random_resized(image, self.size, self.resampling)


def _load(path: str) -> Any:
    # it takes a second to import
    import datasets

    try:
        return datasets.load_dataset(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be loaded through datasets ({error}); "
            "offline, put the images into folders and use ImageFolder"
        ) from error
