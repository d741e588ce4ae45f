"""``seqmix predict --images``: the likeliest classes of every image in a folder, by a published image model."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from seqmix.commands._function import call
from seqmix.commands.tables import print_table
from seqmix.data.images.augment import finish
from seqmix.data.images.pixels import RESAMPLING, middle, pixels, read_image
from seqmix.errors import ConfigError, DataError
from seqmix.vision import ImageModel, create_model


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    call(predict_images, command, argv)


def predict_images(
    *,
    model: str,
    weights: str,
    images: str,
    classes: str | None = None,
    num_classes: int | None = None,
    top: int = 5,
    batch_size: int = 16,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Name the likeliest classes of images; files that are no images, or damaged, are listed at the end.

    Args:
        model: name of an image model, for example ``caformer_s18``.
        weights: its checkpoint, a file or a hub id, for example ``timm/caformer_s18.sail_in1k``.
        images: a folder, with all below it, or one file.
        classes: text file with the name of a class in each line; classes are numbers without it.
        num_classes: classes of the weights; those of the published model if not given.
        top: classes to name for each image.
        batch_size: images that pass through the model together.
        device: ``auto``, ``cpu`` or ``cuda``.
    """
    if top < 1 or batch_size < 1:
        raise ConfigError(f"top = {top} and batch_size = {batch_size} must be at least 1; use 5 and 16")
    files = _files(Path(images))
    net = create_model(model, num_classes=num_classes, weights=weights)
    if not isinstance(net, ImageModel) or net.num_classes < 1:
        raise ConfigError(f"{model} with num_classes = {num_classes} names no classes; leave num_classes out")
    names = _names(classes, net.num_classes)
    bad: list[str] = []
    rows = []
    console = Console(stderr=True)
    scored = _scores(net, files, batch_size, _device(device), bad)
    quiet = not console.is_terminal
    for file, scores in track(scored, "images", len(files), console=console, transient=True, disable=quiet):
        if scores is None:
            continue
        shares, best = scores.softmax(-1).topk(min(top, len(scores)))
        cells = [f"{names[k]} {share:.1%}" for k, share in zip(best.tolist(), shares.tolist(), strict=True)]
        rows.append({"image": _below(file, Path(images)), **{str(i + 1): cell for i, cell in enumerate(cells)}})
    if rows:
        print_table(f"{model}: {len(rows)} images, {net.num_classes:,} classes", rows)
    if bad:
        listed = "\n".join(f"  {reason}" for reason in bad)
        raise DataError(f"{len(bad)} of {len(files)} files in {images!r} were left out:\n{listed}")


@torch.inference_mode()
def _scores(
    net: ImageModel, files: Sequence[Path], batch_size: int, device: torch.device, bad: list[str]
) -> Iterator[tuple[Path, Tensor | None]]:
    """Every file with its scores ``(K,)``, or with None where it went to ``bad``."""
    net = net.to(device).eval()
    left = iter(files)
    while batch := list(islice(left, batch_size)):
        read = [_read(file, net, bad) for file in batch]
        good = [image for image in read if image is not None]
        if good:
            cfg = net.default_cfg
            inputs = finish({"images": torch.stack(good).to(device)}, None, net.num_classes, cfg["mean"], cfg["std"])
            scores = iter(net(inputs["images"]).float().cpu())
        for file, image in zip(batch, read, strict=True):
            yield file, None if image is None else next(scores)


def _read(file: Path, net: ImageModel, bad: list[str]) -> Tensor | None:
    cfg = net.default_cfg
    try:
        image = read_image(file, net.in_chans)
    except DataError as error:
        bad.append(str(error))
        return None
    return pixels(middle(image, cfg["input_size"][1:], cfg["crop_pct"], RESAMPLING[cfg["interpolation"]]))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith(".")) if path.is_dir() else []
    if not files:
        what = "holds no file" if path.is_dir() else "does not exist"
        raise DataError(f"{str(path)!r} {what}; give --images a folder of images, or one image")
    return files


def _names(classes: str | None, n: int) -> list[str]:
    if classes is None:
        return [str(k) for k in range(n)]
    try:
        names = Path(classes).read_text(encoding="utf-8").strip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"file of classes {classes!r} cannot be read ({error}); give a text file") from error
    if len(names) != n:
        raise DataError(f"{classes!r} names {len(names):,} classes, the model has {n:,}; give one name a line")
    return names


def _below(file: Path, folder: Path) -> str:
    return file.name if file == folder else str(file.relative_to(folder))


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda' is not there; use --device cpu")
    return torch.device(device)
