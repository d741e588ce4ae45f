"""Rows of a table from the hub."""

from collections.abc import Iterator
from typing import Any

from seqmix.hub import from_hub


def load_rows(name: str, split: str, remedy: str) -> Iterator[Any]:
    """Rows of a split of a data set, through ``datasets``; ``remedy`` is the remedy where it cannot be loaded."""
    # imported here: it takes a second, and is not needed if the files are there
    import datasets

    with from_hub(f"{name} cannot be loaded through datasets", f"{remedy}, or set data.root"):
        return iter(datasets.load_dataset(name, split=split))
