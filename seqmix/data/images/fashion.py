"""Fashion-MNIST, from the four published idx files."""

import hashlib
import struct
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch

from seqmix.data.files import data_folder, read_file
from seqmix.data.images.augment import Augmentation, finish
from seqmix.data.images.pixels import LabeledImages
from seqmix.data.served import Served, Split, check_positive, parts
from seqmix.errors import ConfigError, DataError

_URL = "https://github.com/zalandoresearch/fashion-mnist"
# of the unpacked files: packing is not unique
_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
# of the 60,000 training images
_MEAN, _STD = (0.2860,), (0.3530,)


class FashionMNIST(Served):
    """Gray pictures of 28 x 28 pixels of clothes, ten classes: 60,000 to train, 10,000 to test.

    Training images are held out for validation; the test images choose nothing. Batches are
    ``{"images": (B, 1, 28, 28), "labels": (B,)}``, bytes from the loaders, normalized where they are used.

    Args:
        n_train: training images that are used, drawn by ``split_seed``. Default: all that are not held out.
        n_val: training images held out for validation.
        augment: changes to the training images. Default: none.
        root: the data folder; the files lie in its ``fashion_mnist``. Default: ``$SEQMIX_DATA``, else ``./data``.
        split_seed: seed of the draw of validation and training images.

    Raises:
        ConfigError: if an option is out of range.
        DataError: if a file is missing or not the published one; raised when the data is first needed.

    Source: Xiao et al., 2017, arXiv:1708.07747. Differs from the original code in: the held-out images.
    """

    #: what the classes show, in the order of their numbers
    class_names = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip

    def __init__(
        self,
        batch_size: int = 128,
        *,
        n_train: int | None = None,
        n_val: int = 5000,
        augment: Augmentation | None = None,
        root: str | None = None,
        split_seed: int = 0,
        eval_batch_size: int | None = 500,
        seed: int | None = None,
    ):
        super().__init__("FashionMNIST", batch_size, eval_batch_size=eval_batch_size, seed=seed)
        check_positive(n_val=n_val, **({} if n_train is None else {"n_train": n_train}))
        if n_val + (n_train or 1) > 60_000:
            raise ConfigError(
                f"n_train = {n_train} and n_val = {n_val} are more than the 60,000 training images; lower one"
            )
        self.n_train, self.n_val, self.augment = n_train, n_val, augment
        self.root, self.split_seed = root, split_seed
        self.n_channels, self.n_classes, self.img_size = 1, 10, 28

    @property
    def input_cfg(self) -> Mapping[str, Any]:
        """Preparation of test images, with the keys of ``ImageModel.default_cfg``."""
        size = (self.n_channels, self.img_size, self.img_size)
        return {"input_size": size, "crop_pct": 1.0, "interpolation": "bilinear", "mean": _MEAN, "std": _STD}

    def on_after_batch_transfer(self, batch: dict[str, torch.Tensor], dataloader_idx: int) -> dict[str, torch.Tensor]:
        """Normalize a batch of bytes; in training, change it before that."""
        training = self.trainer is not None and self.trainer.training
        return finish(batch, self.augment if training else None, self.n_classes, _MEAN, _STD)

    def label_counts(self, split: Split) -> torch.Tensor:
        """Number of images of each class in a split, ``(n_classes,)``; reads the data if needed."""
        self.setup()
        images = self._splits[split]
        assert isinstance(images, LabeledImages)
        return torch.bincount(images.labels.long(), minlength=self.n_classes)

    def _make(self) -> Mapping[Split, LabeledImages]:
        train = self._read("train")
        n_train = self.n_train or len(train) - self.n_val
        rows = parts(len(train), {"val": self.n_val, "train": n_train}, self.split_seed)
        return {"train": train.take(rows["train"]), "val": train.take(rows["val"]), "test": self._read("t10k")}

    def _read(self, part: Literal["train", "t10k"]) -> LabeledImages:
        images, labels = (_idx(f"{part}-{kind}-ubyte", self.root) for kind in ("images-idx3", "labels-idx1"))
        pixels = torch.from_numpy(images).unsqueeze(1)  # (n, 1, 28, 28)
        return LabeledImages(pixels, torch.from_numpy(labels))


def _idx(name: str, root: str | None) -> np.ndarray:
    """Array of an idx file: two zero bytes, 8 for unsigned bytes, the number of axes, their sizes, the values."""
    folder = data_folder(root) / "fashion_mnist"
    path = next((p for p in (folder / f"{name}.gz", folder / name) if p.exists()), None)
    if path is None:
        raise DataError(
            f"{name}.gz not found in {folder}; download it from {_URL} into that folder, or set data.root "
            "(or SEQMIX_DATA) to the folder above it"
        )
    content = read_file(path)
    found = hashlib.sha256(content).hexdigest()
    if found != _SHA256[name]:
        raise DataError(
            f"{path} is not the published file: its sha256 is {found} unpacked, not {_SHA256[name]}; "
            f"download it again from {_URL}"
        )
    n_axes = content[3]
    shape = struct.unpack(f">{n_axes}I", content[4 : 4 + 4 * n_axes])
    # copy: torch warns about a tensor over read-only bytes
    return np.frombuffer(bytearray(content), np.uint8, offset=4 + 4 * n_axes).reshape(shape)
