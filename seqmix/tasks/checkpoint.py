"""Checkpoints of runs: atomic writes, and checks for damage."""

import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from seqmix.errors import ConfigError
from seqmix.whole import whole


class CheckpointFiles(TorchCheckpointIO):
    """Checkpoint plugin that writes beside the older file and then replaces it.

    Lightning writes them to memory and to the system's temporary folder first: a killed run would leave them there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            WriteError: if the disk is full or read-only; an older checkpoint of that name stays.
        """
        with whole(Path(path), durable=True) as part, part.open("wb") as file:
            torch.save(checkpoint, file)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; its tensors are memory-mapped.

    Raises:
        ConfigError: if it is not a checkpoint, a byte of it has changed, or a weight is not finite.
    """
    if not path.is_file():
        raise ConfigError(f"checkpoint {str(path)!r} not found; give the path of a .ckpt file")
    damaged = f"checkpoint {str(path)!r} is damaged or no checkpoint"
    try:
        with zipfile.ZipFile(path) as file:
            changed = file.testzip()
        content = {} if changed else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        unusable = [] if changed else [name for name, w in content["state_dict"].items() if not _is_finite(w)]
    except _DAMAGE as e:
        raise ConfigError(f"{damaged}; use another one") from e
    if changed:
        raise ConfigError(f"{damaged}: {changed} has changed since it was written; use another one")
    if unusable:
        raise ConfigError(f"checkpoint {str(path)!r} has weights that are not finite ({unusable[0]}); use another one")
    return content


# exceptions of zip, pickle and torch for a file that is not a complete checkpoint
_DAMAGE = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    zipfile.BadZipFile,
    UnpicklingError,
)


def _is_finite(weight: Tensor) -> bool:
    return not weight.is_floating_point() or bool(weight.isfinite().all())
