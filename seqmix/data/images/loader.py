"""Loading of images on demand in worker processes, each once in an epoch, with exact resume."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from seqmix.data.images.pixels import RESAMPLING, middle, pixels, random_resized, random_square
from seqmix.data.loader import ResumableLoader
from seqmix.errors import DataError

Crop = Literal["resized", "plain"]
Interpolation = Literal["bilinear", "bicubic"]
Batch = dict[str, Tensor]
# number of an image, and the seed of its crop
Item = tuple[int, int]


class Source(Protocol):
    """Labeled images by number."""

    def __len__(self) -> int: ...

    @property
    def labels(self) -> Sequence[int]:
        """Class of each image."""
        ...

    def read(self, i: int) -> Image.Image:
        """An image in 8 bits."""
        ...


class Crops(Dataset[Batch | DataError]):
    """Images of a source cut to one size, as bytes: at random in training, else the middle.

    Args:
        source: the images.
        rows: numbers of the images that are used, ``(n,)``.
        size: side of the crops, in pixels.
        crop: how training images are cut. Default: the middle, as for testing.
        crop_pct: share of the shorter side that testing sees.
        interpolation: interpolation for resizing images.
    """

    def __init__(
        self,
        source: Source,
        rows: Tensor,
        size: int,
        *,
        crop: Crop | None,
        crop_pct: float,
        interpolation: Interpolation,
    ):
        self.source, self.rows, self.size, self.crop, self.crop_pct = source, rows, size, crop, crop_pct
        self.resampling = RESAMPLING[interpolation]
        self.labels = torch.as_tensor(source.labels)[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: Item) -> Batch | DataError:
        """An image and its label, or why there is none: an error would leave a worker as a page of traceback."""
        i, seed = item
        try:
            image = self.source.read(int(self.rows[i]))
        except DataError as error:
            return error
        return {"images": pixels(self._cut(image, seed)), "labels": self.labels[i]}

    def _cut(self, image: Image.Image, seed: int) -> Image.Image:
        if self.crop is None:
            return middle(image, (self.size, self.size), self.crop_pct, self.resampling)
        # its own generator: the crop does not depend on who reads the image, nor on what was read before
        generator = torch.Generator().manual_seed(seed)
        if self.crop == "plain":
            return random_square(image, self.size, self.crop_pct, self.resampling, generator)
        return random_resized(image, self.size, self.resampling, generator)


class ImageLoader(ResumableLoader):
    """Batches of images, read by worker processes; order and crops depend on ``seed`` and the epoch alone.

    Args:
        images: the images to serve.
        n_workers: processes that read images; 0 reads them in this one.
        shuffle: a new order every epoch, instead of the order of the images.
        seed: starting point of the shuffles and crops.
    """

    def __init__(self, images: Crops, batch_size: int, *, n_workers: int, shuffle: bool = False, seed: int = 0):
        super().__init__(len(images), batch_size, shuffle=shuffle, seed=seed)
        self._asked = _Asked()
        self._reader = DataLoader(
            images,
            batch_sampler=self._asked,  # pyright: ignore[reportArgumentType]
            num_workers=n_workers,
            persistent_workers=n_workers > 0,
            collate_fn=_collate,
            # the DataLoader would draw a seed for its workers from the generator of the run
            generator=torch.Generator(),
        )

    @property
    def _iterator(self) -> Any:
        """Processes that read images: Lightning ends what a loader has under this name after a training or a test."""
        return self._reader._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self._reader._iterator = iterator

    def _serve(self, batches: Iterable[Tensor]) -> Iterable[Batch]:
        seeds = np.random.default_rng([self.seed, self.epoch, 1]).integers(2**62, size=self.n)
        self._asked.batches = ([(i, int(seeds[i])) for i in batch.tolist()] for batch in batches)
        for batch in self._reader:
            if isinstance(batch, DataError):
                raise batch
            yield batch


class _Asked:
    """Batches that the workers are to read next."""

    def __init__(self) -> None:
        self.batches: Iterator[list[Item]] = iter(())

    def __iter__(self) -> Iterator[list[Item]]:
        return self.batches


def _collate(items: Sequence[Any]) -> Batch | DataError:
    damaged = next((item for item in items if isinstance(item, DataError)), None)
    return damaged or cast(Batch, default_collate(list(items)))
