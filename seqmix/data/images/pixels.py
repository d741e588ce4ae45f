"""Images as tensors: files of any kind read to 8 bits, and labeled images kept in memory."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from seqmix.data.loader import Gathered
from seqmix.errors import ConfigError, DataError

# channels of an image to PIL's name of it
_MODES = {1: "L", 3: "RGB"}
#: how images are resized, by the names of published settings
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")


class LabeledImages(Gathered):
    """Labeled images of one size by number, for ``WindowLoader``: kept and served as bytes.

    A batch is ``{"images": (B, C, H, W), "labels": (B,)}``, uint8 and int64.

    Args:
        pixels: all images, ``(n, C, H, W)`` uint8.
        labels: class of each image ``(n,)``.
    """

    def __init__(self, pixels: Tensor, labels: Tensor):
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> "LabeledImages":
        """The images with these numbers ``(n,)``."""
        return LabeledImages(self.pixels[rows], self.labels[rows])

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        return {"images": self.pixels[index], "labels": self.labels[index].long()}


def read_image(path: Path, n_channels: int = 3) -> Image.Image:
    """An image file in 8 bits, gray or RGB, upright: of any mode and depth that Pillow reads, the first frame of many.

    Transparent pixels are laid on white; 16 bits are scaled to 8, not cut off.

    Raises:
        DataError: if the file is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return eight_bits(ImageOps.exif_transpose(image), n_channels)
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: no image; leave it out") from error
    # decoders of Pillow raise arbitrary exceptions for a broken file
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read ({error}); get a whole copy, or leave it out") from error


def eight_bits(image: Image.Image, n_channels: int = 3) -> Image.Image:
    """Gray or RGB in 8 bits of an image of any mode."""
    if image.mode in _SIXTEEN_BITS:
        # PIL would clip at 255; a 32-bit integer image is how it opens some 16-bit files
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("32-bit floating point, whose range is not known")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert(_MODES[n_channels])


def middle(image: Image.Image, size: tuple[int, int], crop_pct: float, resampling: Image.Resampling) -> Image.Image:
    """Center crop of an image of ``size`` (height, width), resized so that it has ``crop_pct`` of the shorter side."""
    height, width = size
    image = _resized(image, size, crop_pct, resampling)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def random_square(
    image: Image.Image,
    size: int,
    crop_pct: float,
    resampling: Image.Resampling,
    generator: torch.Generator | None = None,
) -> Image.Image:
    """A square from anywhere in an image that is resized as for ``middle``."""
    image = _resized(image, (size, size), crop_pct, resampling)
    left, top = _below(image.width - size + 1, generator), _below(image.height - size + 1, generator)
    return image.crop((left, top, left + size, top + size))


def random_resized(
    image: Image.Image, size: int, resampling: Image.Resampling, generator: torch.Generator | None = None
) -> Image.Image:
    """A box with 8 to 100 % of the area of an image, its sides in a ratio of 3/4 to 4/3, resized to a square."""
    for _ in range(10):
        share, ratio = (
            float(torch.empty(()).uniform_(*limits, generator=generator))
            for limits in ((0.08, 1), (math.log(3 / 4), math.log(4 / 3)))
        )
        area, ratio = share * image.width * image.height, math.exp(ratio)
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= image.width and 0 < height <= image.height:
            left, top = _below(image.width - width + 1, generator), _below(image.height - height + 1, generator)
            return image.resize((size, size), resampling, (left, top, left + width, top + height))
    # a very long image: its middle, whole where its ratio allows
    width, height = min(image.width, round(image.height * 4 / 3)), min(image.height, round(image.width * 4 / 3))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.resize((size, size), resampling, (left, top, left + width, top + height))


def image_input(image: Path | str | Image.Image, cfg: Mapping[str, Any]) -> Tensor:
    """Input of an image model from one image: ``(C, H, W)``, resized, center-cropped and normalized.

    Args:
        image: a file, or an image of Pillow, of any mode and size.
        cfg: what the model expects: its ``default_cfg``, or the ``input_cfg`` of a trained task or of data.

    Raises:
        DataError: if the file is missing, truncated or no image.
        ConfigError: if the model takes neither gray nor RGB images.
    """
    n_channels, *size = cfg["input_size"]
    if n_channels not in _MODES:
        raise ConfigError(f"images have 1 or 3 channels, the model takes {n_channels}; make its input yourself")
    opened = eight_bits(image, n_channels) if isinstance(image, Image.Image) else read_image(Path(image), n_channels)
    cut = middle(opened, (size[0], size[1]), cfg["crop_pct"], RESAMPLING[cfg["interpolation"]])
    mean, std = (torch.tensor(cfg[name]).view(-1, 1, 1) for name in ("mean", "std"))
    return (pixels(cut).float() / 255 - mean) / std


def pixels(image: Image.Image) -> Tensor:
    """An 8-bit image as ``(C, H, W)`` uint8."""
    array = np.array(image)
    return torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1).contiguous()


def _resized(image: Image.Image, size: tuple[int, int], crop_pct: float, resampling: Image.Resampling) -> Image.Image:
    height, width = (math.floor(side / crop_pct) for side in size)
    scale = max(height / image.height, width / image.width)
    # the side that sets the scale is exact, the other is truncated to whole pixels
    wide = width if scale == width / image.width else int(scale * image.width)
    high = height if scale == height / image.height else int(scale * image.height)
    return image.resize((wide, high), resampling)


def _below(n: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(n, (), generator=generator))
