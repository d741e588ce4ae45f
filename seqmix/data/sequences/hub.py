"""Rows of a table from the hub."""

from collections.abc import Iterator
from typing import Any

from seqmix.errors import DataError


def load_rows(name: str, split: str, remedy: str) -> Iterator[Any]:
    """Rows of a split of a data set, through ``datasets``; ``remedy`` is the remedy where it cannot be loaded."""
    # imported here: it takes a second, and is not needed if the files are there
    import datasets

    try:
        return iter(datasets.load_dataset(name, split=split))
    except (OSError, ValueError) as error:
        raise DataError(f"{name} cannot be loaded through datasets ({error}); {remedy}, or set data.root") from error
