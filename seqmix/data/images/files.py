"""Listing of image files in folders."""

import os
from collections import Counter
from pathlib import Path

from PIL import Image

# formats of pictures: Pillow also opens documents and scientific data
_FORMATS = {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP"}


def image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files below ``folder``, sorted: those that end as images do, and the others.

    Linked folders are entered, each once. Hidden files and folders, whose names begin with a dot, are in neither list.
    """
    Image.init()
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in _FORMATS}
    images, others, entered = [], [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(place) in entered:
            # a link to a folder above it
            folders.clear()
            continue
        entered.add(os.path.realpath(place))
        folders[:] = [name for name in folders if not hidden(name)]
        for name in files:
            if not hidden(name):
                (images if Path(name).suffix.lower() in suffixes else others).append(Path(place, name))
    return sorted(images), sorted(others)


def hidden(name: str) -> bool:
    """Whether a name begins with a dot: `.ipynb_checkpoints`, and the `._x.jpg` that macOS leaves on other disks."""
    return name.startswith(".")


def endings(files: list[Path]) -> str:
    """Endings of file names, with their counts: ``.txt (2), .heic (1)``."""
    counts = Counter(file.suffix.lower() or file.name for file in files)
    return ", ".join(f"{ending} ({n:,})" for ending, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
