"""Output files of commands: checked in advance, and written atomically."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from seqmix.errors import ConfigError
from seqmix.whole import whole

if TYPE_CHECKING:
    # it takes half a second to import
    from matplotlib.figure import Figure

#: endings of the files that a figure can be saved to
PICTURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")


def check_writable(option: str, path: Path) -> None:
    """Raise ``ConfigError`` if the file of an option cannot be written; nothing is made."""
    above = next(folder for folder in path.absolute().parents if folder.exists())
    usable = above.is_dir() and os.access(above, os.W_OK) and (os.access(path, os.W_OK) or not path.exists())
    if not usable or path.is_dir():
        reason = "it is a folder" if path.is_dir() else f"{str(above)!r} does not let it"
        raise ConfigError(
            f"--{option} writes to {str(path)!r}, which cannot be written: {reason}; choose another place"
        )


def check_picture(option: str, path: Path) -> None:
    """Raise ``ConfigError`` if the file of an option cannot be written, or its ending names no format of pictures."""
    from matplotlib.backend_bases import FigureCanvasBase

    formats = sorted(FigureCanvasBase.filetypes)
    if path.suffix[1:].lower() not in formats:
        raise ConfigError(f"--{option} {str(path)!r} has no ending of a picture; use one of {', '.join(formats)}")
    check_writable(option, path)


def save_picture(figure: "Figure", path: Path) -> None:
    """Write a figure in the format of the file's ending.

    Raises:
        WriteError: if the file cannot be written.
    """
    with whole(path) as part:
        figure.savefig(part, dpi=150)
