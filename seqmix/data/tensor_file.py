"""Memory-mapped files of long arrays, written in parts and atomically, and checked when they are opened.

The file is in the safetensors format. The array whose length is known last stands first.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from seqmix.errors import DataError
from seqmix.whole import whole

# space for the header of the file, a multiple of the 8 bytes of the widest type
_HEADER = 1024
_NAMES = {"uint8": "U8", "int16": "I16", "int32": "I32", "int64": "I64"}


def fingerprinted(folder: Path, name: str, recipe: str) -> Path:
    """Path of the file that is made by ``recipe``; another recipe is another file."""
    return folder / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.safetensors"


def write_tensors(
    path: Path,
    name: str,
    dtype: type[np.integer],
    parts: Iterable[np.ndarray],
    others: Callable[[], Mapping[str, np.ndarray]],
    recipe: str,
    remedy: str,
) -> None:
    """Write a long array part by part, and shorter ones after it.

    Args:
        path: the file.
        name: name of the long array.
        dtype: its type.
        parts: its values, in order; zeros follow them until the next array begins at a multiple of 8 bytes.
        others: makes the other arrays, of 8 bytes a number except the last; called after the last part.
        recipe: all that the values depend on, kept in the file.
        remedy: what can be done if the file cannot be written.

    Raises:
        WriteError: if it cannot be written.
    """
    digest = hashlib.sha256()
    with whole(path, remedy) as part, part.open("wb") as file:

        def put(values: np.ndarray) -> int:
            content = values.tobytes()
            file.write(content)
            digest.update(content)
            return len(content)

        file.seek(8 + _HEADER)
        width = np.dtype(dtype).itemsize
        size = sum(put(values.astype(dtype, copy=False)) for values in parts)
        size += put(np.zeros(-size % 8 // width, dtype))
        entries = {name: _entry(np.dtype(dtype), size // width, 0, size)}
        for other, values in others().items():
            start, size = size, size + put(values)
            entries[other] = _entry(values.dtype, len(values), start, size)
        header = {"__metadata__": {"recipe": recipe, "sha256": digest.hexdigest()}, **entries}
        file.seek(0)
        file.write(_HEADER.to_bytes(8, "little") + json.dumps(header).encode().ljust(_HEADER))


def open_tensors(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """The arrays of a file, mapped, in the order of ``names``; those it lacks are left out.

    Raises:
        DataError: if the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            kept = set(file.keys())
            found = {name: file.get_tensor(name) for name in names if name in kept}
            want = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it, to have it made again") from error
    digest = hashlib.sha256()
    for values in found.values():
        # numpy's stubs do not say that arrays are buffers; a copy would not fit where the file is larger than memory
        digest.update(values.numpy())  # pyright: ignore[reportArgumentType]
    if digest.hexdigest() != want:
        raise DataError(f"{path} is damaged: its sha256 is not the one it was written with; delete it, to have it made")
    return found


def _entry(dtype: np.dtype, count: int, start: int, end: int) -> dict[str, object]:
    return {"dtype": _NAMES[dtype.name], "shape": [count], "data_offsets": [start, end]}
