"""Tables of labeled images from the hub, or from a folder that ``datasets`` reads."""

from collections.abc import Sequence
from typing import Any, Literal

from PIL import Image

from seqmix.data.images.augment import Augmentation
from seqmix.data.images.image_data import ImageData
from seqmix.data.images.loader import Crop, Interpolation, Source
from seqmix.data.images.pixels import eight_bits
from seqmix.errors import DataError
from seqmix.hub import from_hub


class HubImages(ImageData):
    """A data set of labeled images from the hub, or one saved in a folder, through ``datasets``.

    Args:
        path: name on the hub, for example ``uoft-cs/cifar10``, or a folder that ``datasets`` reads.
        image_col: column of the images.
        label_col: column of the classes, whose names it knows.
        n_channels: 3 to read images as RGB, 1 as gray.

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
        n_channels: Literal[1, 3] = 3,
        crop: Crop = "resized",
        crop_pct: float = 0.9,
        interpolation: Interpolation = "bicubic",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: Augmentation | None = None,
        val_share: float = 0.1,
        n_workers: int = 2,
        seed: int | None = None,
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
            raise DataError(f"column {label_col!r} of {path} is not a class label; set data.label_col to one that is")
        super().__init__(
            path,
            features[label_col].names,
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
        val = next((self._rows(name) for name in ("validation", "valid", "val") if name in self.tables), None)
        return self._rows("train"), val, self._rows("test") if "test" in self.tables else None

    def _rows(self, split: str) -> "_Rows":
        return _Rows(f"{self.name}, {split}", self.tables[split], self.image_col, self.label_col, self.n_channels)


class _Rows:
    def __init__(self, name: str, table: Any, image_col: str, label_col: str, n_channels: int):
        self.name, self.table, self.image_col, self.n_channels = name, table, image_col, n_channels
        self.labels: Sequence[int] = list(table[label_col])

    def __len__(self) -> int:
        return len(self.table)

    def read(self, i: int) -> Image.Image:
        # decoders of Pillow raise arbitrary exceptions
        try:
            return eight_bits(self.table[i][self.image_col], self.n_channels)
        except (OSError, SyntaxError, ValueError, EOFError, IndexError, AttributeError) as error:
            raise DataError(f"{self.name}: image {i} cannot be read ({error}); leave it out of the table") from error


def _load(path: str) -> Any:
    # it takes a second to import
    import datasets

    remedy = "offline, put the images into folders and use ImageFolder"
    with from_hub(f"{path} cannot be loaded through datasets", remedy):
        return datasets.load_dataset(path)
