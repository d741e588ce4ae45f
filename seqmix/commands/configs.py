"""Configs by name: those of the current folder, and those that come with the package."""

from pathlib import Path

_PACKAGED = Path(__file__).parents[1] / "configs"
_PARTS = ("", "study/", "recipes/")


def config_files() -> list[Path]:
    """Configs in ``configs/`` of the current folder; those of the package where there is none."""
    folder = Path("configs") if Path("configs").is_dir() else _PACKAGED
    return [path for part in _PARTS for path in sorted(folder.glob(f"{part}*.yaml"))]


def with_paths(argv: list[str]) -> list[str]:
    """The command line with the names of configs replaced by their files.

    ``demo``, ``demo.yaml`` and ``configs/demo.yaml`` are the package's config, unless there is such a file. The folder
    of a recipe may be left out.
    """
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    return [_path(word) if before == "--config" else word for before, word in zip(["", *words], words, strict=False)]


def _path(name: str) -> str:
    stem = name.removeprefix("configs/").removesuffix(".yaml")
    packaged = (_PACKAGED / f"{part}{stem}.yaml" for part in _PARTS)
    return name if Path(name).is_file() else next((str(path) for path in packaged if path.is_file()), name)
