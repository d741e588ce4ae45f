"""CIFAR-10 as sequences of pixels, row by row."""

import io
import pickle
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from seqmix.data.files import data_folder, read_file
from seqmix.data.sequences.hub import load_rows
from seqmix.data.sequences.samples import LabeledSamples, SampledData
from seqmix.data.served import Split, parts
from seqmix.errors import DataError

# of the 50,000 training images, of values from 0 to 255
_MEAN, _STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


class SequentialCIFAR10(SampledData):
    """CIFAR-10 in color, pixel by pixel: 1,024 steps of three real values, ten classes.

    Files are looked for as ``LRAImage`` does. Colors are standardized; a tenth of the training images is held out for
    validation. Batches are ``{"x": (B, 1024, 3), "labels": (B,)}``.

    Args:
        root: the data folder. Default: ``$SEQMIX_DATA``, else ``./data``.
        split_seed: seed of the draw of validation images.

    Raises:
        DataError: if the images can be neither found nor loaded; raised when the data is first needed.

    Source: Krizhevsky, 2009; as real values of 1,024 steps in Gu et al., 2021, arXiv:2111.00396, sec. 4.3. Differs from
    the original code in: the validation images are drawn by ``split_seed``.
    """

    def __init__(
        self,
        batch_size: int = 50,
        *,
        root: str | None = None,
        split_seed: int = 0,
        eval_batch_size: int | None = None,
        seed: int | None = None,
    ):
        super().__init__("SequentialCIFAR10", CLASSES, 3, 1024, batch_size, eval_batch_size=eval_batch_size, seed=seed)
        self.root, self.split_seed = root, split_seed

    def _make(self) -> Mapping[Split, LabeledSamples]:
        train, test = self._read("train"), self._read("test")
        n_val = max(1, len(train) // 10)
        rows = parts(len(train), {"val": n_val, "train": len(train) - n_val}, self.split_seed)
        return {**{split: train.take(part) for split, part in rows.items()}, "test": test}

    def _read(self, split: Literal["train", "test"]) -> LabeledSamples:
        images, labels = zip(*cifar_images(self.root, split), strict=True)
        pixels = torch.from_numpy(np.stack(images)).flatten(1, 2)  # (n, 1024, 3)
        return LabeledSamples(pixels, torch.tensor(labels), torch.tensor(_MEAN), torch.tensor(_STD))


#: what the classes show, in the order of their numbers
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar_images(root: str | None, split: Literal["train", "test"]) -> Iterator[tuple[np.ndarray, int]]:
    """Pixels ``(32, 32, 3)`` and class of every image of CIFAR-10.

    They are looked for below the data folder as ``cifar10_jpeg/<split>.tar.gz`` (a folder for each class), then as
    ``cifar-10-batches-py`` of the publisher, and else loaded as ``uoft-cs/cifar10`` through ``datasets``.

    Raises:
        DataError: if they can be neither found nor loaded, or are not images of CIFAR-10.
    """
    images, where = _opened(data_folder(root), split)
    empty = True
    for i, (image, label) in enumerate(images):
        if image.shape != (32, 32, 3) or not 0 <= label < 10:
            raise DataError(
                f"{where}, image {i}: shape {image.shape}, class {label}, not (32, 32, 3) and 0 to 9; get a whole copy"
            )
        empty = False
        yield image, int(label)
    if empty:
        raise DataError(f"{where} holds no image; get a whole copy")


def _opened(folder: Path, split: str) -> tuple[Iterator[tuple[np.ndarray, int]], str]:
    if (path := folder / "cifar10_jpeg" / f"{split}.tar.gz").exists():
        return _tar(path), str(path)
    if (batches := folder / "cifar-10-batches-py").is_dir():
        names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
        return (image for name in names for image in _batch(batches / name)), str(batches)
    rows = load_rows("uoft-cs/cifar10", split, f"put cifar-10-batches-py or cifar10_jpeg/{split}.tar.gz into {folder}")
    return ((np.asarray(row["img"]), row["label"]) for row in rows), "uoft-cs/cifar10"


def _tar(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    try:
        with tarfile.open(path) as tar:
            members = sorted((m for m in tar.getmembers() if m.isfile()), key=lambda m: m.name)
            classes = {name: i for i, name in enumerate(sorted({Path(m.name).parent.name for m in members}))}
            for member in members:
                content = tar.extractfile(member)
                image = Image.open(io.BytesIO(content.read() if content else b"")).convert("RGB")
                yield np.asarray(image), classes[Path(member.name).parent.name]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} is truncated or no archive of images ({error}); get a whole copy") from error


def _batch(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    try:
        batch = _Arrays(io.BytesIO(read_file(path)), encoding="bytes").load()
        images, labels = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), batch[b"labels"]
    except (pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        raise DataError(f"{path} is not a batch of CIFAR-10 ({error}); get a whole copy") from error
    yield from zip(images, labels, strict=True)


class _Arrays(pickle.Unpickler):
    """Reads the types in the batches of CIFAR-10, and refuses everything else that a pickle can name."""

    def find_class(self, module_name: str, global_name: str) -> object:
        if module_name.startswith("numpy") and global_name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module_name.replace("numpy.core", "numpy._core"), global_name)
        # how Python 3 writes bytes for Python 2
        if (module_name, global_name) == ("_codecs", "encode"):
            return super().find_class(module_name, global_name)
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")
