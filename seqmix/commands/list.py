"""``seqmix list``: mixers, models, encoders, classifiers, image models, data sets and configs."""

from pathlib import Path
from typing import Literal

from seqmix.commands._function import call
from seqmix.commands.members import (
    classifier_rows,
    config_rows,
    dataset_rows,
    encoder_rows,
    image_rows,
    mixer_rows,
    model_rows,
)
from seqmix.commands.tables import Format, print_as, print_json
from seqmix.errors import ConfigError
from seqmix.whole import whole

Kind = Literal["mixers", "models", "encoders", "classifiers", "images", "datasets", "configs"]
_ROWS = {
    "mixers": mixer_rows,
    "models": model_rows,
    "encoders": encoder_rows,
    "classifiers": classifier_rows,
    "images": image_rows,
    "datasets": dataset_rows,
    "configs": config_rows,
}


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    # `seqmix list mixers` reads better than `seqmix list --only mixers`
    call(show, command, ["--only", *argv] if argv and not argv[0].startswith("-") else argv)


def show(*, only: Kind | None = None, format: Format = "table", write: bool = False) -> None:
    """List the names that a config can use.

    Args:
        only: one kind. Default: all of them.
        format: ``table`` or ``markdown``; for programs ``csv`` of one kind, or ``json``.
        write: refresh the generated tables of the documentation in the current folder, a clone of the repository.
    """
    if write:
        # the tables of results load tasks, and these lightning
        from seqmix.commands.generated import stale_pages

        for file, text in stale_pages(Path()).items():
            with whole(file) as part:
                part.write_text(text)
            print(f"refreshed: {file}")
        return
    if only is None and format == "csv":
        raise ConfigError(f"--format csv is one table; name a kind, for example `seqmix list {next(iter(_ROWS))}`")
    found = {kind: each for kind, rows in _ROWS.items() if only in (None, kind) and (each := rows())}
    if only is None and format == "json":
        print_json(found)
        return
    for kind, rows in found.items():
        print_as(format, kind, rows)
