"""``seqmix predict --images``: the most likely classes of every image in a folder."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from seqmix.commands._function import call
from seqmix.commands.tables import print_table
from seqmix.data.images.files import endings, image_files
from seqmix.data.images.pixels import image_input
from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.tables import OUTPUTS, check_output, write_table
from seqmix.vision import ImageModel, create_model


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    call(predict_images, f"{command} --images", argv)


def predict_images(
    *,
    images: str,
    config: str | None = None,
    ckpt_path: str | None = None,
    model: str | None = None,
    weights: str | None = None,
    classes: str | None = None,
    num_classes: int | None = None,
    top: int = 5,
    batch_size: int = 16,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    out: str | None = None,
) -> None:
    """Predict the most likely classes of images, by a trained model or by published weights.

    Files that are no images are left out with a note, damaged ones are listed at the end. Examples:
    ``seqmix predict --images photos --config my.yaml --ckpt_path best --out classes.csv``,
    ``seqmix predict --images photos --model caformer_s18 --weights timm/caformer_s18.sail_in1k``.

    Args:
        images: a folder, searched recursively, or one file.
        config: config of a trained model. Default: the ``config.yaml`` beside ``ckpt_path``.
        ckpt_path: checkpoint: a file; or ``best`` or ``last`` of the newest run of ``config``. Default: ``best``.
        model: name of an image model with published weights, for example ``caformer_s18``.
        weights: checkpoint of ``model``, a file or a hub id, for example ``timm/caformer_s18.sail_in1k``.
        classes: text file with the name of a class in each line. Default: those of the training data, or numbers for
            published weights.
        num_classes: classes of ``weights``. Default: those of the published model.
        top: number of classes for each image.
        batch_size: images in a batch.
        device: ``auto``, ``cpu`` or ``cuda``.
        out: file of the predictions, ``.csv``, ``.tsv``, ``.parquet`` or ``.xlsx``. Default: a table is printed.
    """
    if top < 1 or batch_size < 1:
        raise ConfigError(f"top = {top} and batch_size = {batch_size} must be at least 1; use 5 and 16")
    if out is not None:
        check_output("out", out, OUTPUTS)
    files, others = _files(Path(images))
    if config is None and ckpt_path is None:
        net, cfg, names = _published(model, weights, num_classes)
    elif model is None and weights is None and num_classes is None:
        # it brings lightning
        from seqmix.commands._trained import trained_image_model

        net, cfg, names = trained_image_model(config, ckpt_path)
    else:
        raise ConfigError(
            "--config and --ckpt_path are of a trained model, --model, --weights and --num_classes of a published one; "
            "leave one of the two out"
        )
    names = _names(classes, net.num_classes) if classes is not None else names
    if others:
        print(f"{len(others):,} files in {images!r} are no images: {endings(others)}", file=sys.stderr)
    bad: list[str] = []
    rows = []
    console = Console(stderr=True)
    scored = _scores(net, cfg, files, batch_size, _device(device), bad)
    quiet = not console.is_terminal
    for file, scores in track(scored, "images", len(files), console=console, transient=True, disable=quiet):
        if scores is not None:
            shares, best = scores.softmax(-1).topk(min(top, len(scores)))
            found = [(names[k], share) for k, share in zip(best.tolist(), shares.tolist(), strict=True)]
            rows.append((_below(file, Path(images)), found))
    _show(rows, f"{net.label}: {len(rows)} images, {net.num_classes:,} classes", out)
    if bad:
        listed = "\n".join(f"  {reason}" for reason in bad)
        raise DataError(
            f"{len(bad)} of {len(files)} images in {images!r} were left out; mend or remove them:\n{listed}"
        )


def _published(
    model: str | None, weights: str | None, num_classes: int | None
) -> tuple[ImageModel, Mapping[str, Any], Sequence[str]]:
    """A model with published weights, its preprocessing of images, and the numbers of its classes."""
    if model is None or weights is None:
        raise ConfigError(
            "no model is named; pass --config and --ckpt_path of a trained, or --model and --weights of a published one"
        )
    net = create_model(model, num_classes=num_classes, weights=weights)
    if not isinstance(net, ImageModel) or net.num_classes < 1:
        raise ConfigError(f"{model} with num_classes = {num_classes} names no classes; leave num_classes out")
    return net, net.default_cfg, [str(k) for k in range(net.num_classes)]


@torch.inference_mode()
def _scores(
    net: ImageModel,
    cfg: Mapping[str, Any],
    files: Sequence[Path],
    batch_size: int,
    device: torch.device,
    bad: list[str],
) -> Iterator[tuple[Path, Tensor | None]]:
    """Every file with its scores ``(K,)``, or with None where it went to ``bad``."""
    net = net.to(device).eval()
    left = iter(files)
    while batch := list(islice(left, batch_size)):
        read = [_read(file, cfg, bad) for file in batch]
        good = [image for image in read if image is not None]
        scores = iter(net(torch.stack(good).to(device)).float().cpu() if good else ())
        for file, image in zip(batch, read, strict=True):
            yield file, None if image is None else next(scores)


def _read(file: Path, cfg: Mapping[str, Any], bad: list[str]) -> Tensor | None:
    try:
        return image_input(file, cfg)
    except DataError as error:
        bad.append(str(error))
        return None


def _show(rows: Sequence[tuple[str, list[tuple[str, float]]]], title: str, out: str | None) -> None:
    """Print predictions as a table, or write them to a file: the image, then each class and its probability."""
    if out is None:
        if rows:
            cells = [{str(i): f"{name} {share:.1%}" for i, (name, share) in enumerate(found, 1)} for _, found in rows]
            print_table(title, [{"image": file, **row} for (file, _), row in zip(rows, cells, strict=True)])
        return
    columns = [
        {part: value for i, pair in enumerate(found, 1) for part, value in zip(_columns(i), pair, strict=True)}
        for _, found in rows
    ]
    frame = pd.DataFrame([{"image": file, **row} for (file, _), row in zip(rows, columns, strict=True)])
    write_table(frame, Path(out))
    print(f"{title}\npredictions: {out}")


def _columns(rank: int) -> tuple[str, str]:
    return f"class_{rank}", f"probability_{rank}"


def _files(path: Path) -> tuple[list[Path], list[Path]]:
    """Images, and files that are none."""
    if path.is_file():
        return [path], []
    if not path.is_dir():
        raise DataError(f"{str(path)!r} does not exist; give --images a folder of images, or one image")
    files, others = image_files(path)
    if not files:
        raise DataError(f"{str(path)!r} holds no image; give --images a folder of images, or one image")
    return files, others


def _names(classes: str, n: int) -> list[str]:
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
