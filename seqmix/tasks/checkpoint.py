"""Checkpoints of runs: read whole, and refused in one message if they are damaged."""

import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from seqmix.errors import ConfigError


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Content of a checkpoint, its tensors still on disk.

    Raises:
        ConfigError: if it is no checkpoint, a byte of it has changed, or a weight is not finite.
    """
    if not path.is_file():
        raise ConfigError(f"checkpoint {str(path)!r} not found; give the path of a .ckpt file")
    damaged = f"checkpoint {str(path)!r} is damaged or no checkpoint"
    try:
        with zipfile.ZipFile(path) as file:
            changed = file.testzip()
        if changed:
            raise ConfigError(f"{damaged}: {changed} has changed since it was written; use another one")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        weights = content["state_dict"]
        unusable = [name for name, weight in weights.items() if not _is_finite(weight)]
    except ConfigError:
        raise
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, EOFError) as e:
        raise ConfigError(f"{damaged}; use another one") from e
    except (zipfile.BadZipFile, UnpicklingError, NotImplementedError) as e:
        raise ConfigError(f"{damaged}; use another one") from e
    if unusable:
        raise ConfigError(f"checkpoint {str(path)!r} has weights that are not finite ({unusable[0]}); use another one")
    return content


def _is_finite(weight: Tensor) -> bool:
    return not weight.is_floating_point() or bool(weight.isfinite().all())
