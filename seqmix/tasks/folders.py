"""The folders of runs: ``<time>-seed<k>`` beside one another."""

import shutil
import time
from contextlib import suppress
from pathlib import Path

from seqmix.tasks.lock import locked


def run_folders(parent: Path, seed: int) -> list[Path]:
    """The runs in ``parent`` with this seed that have a checkpoint, the newest last."""
    found = []
    for folder in {p.parent for p in parent.glob(f"*-seed{seed}*/[!.]*.ckpt")}:
        # <time>-seed<k>, or <time>-seed<k>-<n>
        started, _, rest = folder.name.rpartition("-seed")
        k, _, n = rest.partition("-")
        if k == str(seed) and (n.isdigit() or not n):
            found.append((started, int(n or 1), folder))
    return [folder for *_, folder in sorted(found)]


def new_folder(parent: Path, seed: int) -> Path:
    """Make ``<time>-seed<k>``, or the same with a number where another run of this second has taken it."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-seed{seed}"
    for attempt in range(1, 1000):
        folder = parent / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{parent / name} and 999 others exist")


def remove_left(parent: Path) -> None:
    """Remove the folders of runs that were killed before their first checkpoint."""
    for lock in parent.glob("*-seed*/lock"):
        if not any(lock.parent.glob("[!.]*.ckpt")):
            with suppress(OSError), locked(lock, wait=False):
                shutil.rmtree(lock.parent)
