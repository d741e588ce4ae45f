"""Folders of fitted estimators: options and facts as JSON, weights as safetensors, no pickle."""

import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

import seqmix
from seqmix.errors import ConfigError, DataError, SeqmixError
from seqmix.hub import from_hub
from seqmix.tasks.lock import locked
from seqmix.trusted import trusted_modules
from seqmix.whole import whole

T = TypeVar("T")

# owner/name, as the hub names what it holds
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
# exceptions that a damaged file may raise
_DAMAGES = (
    *(OSError, KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError, OverflowError),
    *(MemoryError, SafetensorError),
)


def write_archive(
    name: str,
    version: int,
    options: Mapping[str, Any],
    facts: dict[str, Any],
    tensors: dict[str, Tensor],
    folder: Path,
    *,
    default: Callable[[Any], Any] | None = None,
) -> None:
    """Write ``<name>.json`` and ``weights.safetensors`` atomically, tied by a fingerprint.

    Args:
        name: class of the estimator.
        version: number of the format.
        options: those of its constructor.
        facts: the fitted state without its tensors.
        tensors: weights and arrays.
        folder: the folder to write to.
        default: converts a value that JSON does not know to one that it does. Default: such values are refused.

    Raises:
        ConfigError: if an option has no plain form, for example a function.
        WriteError: if the folder cannot be written.
    """
    weights = save(tensors)
    facts["weights"] = hashlib.sha256(weights).hexdigest()
    try:
        plain = json.loads(json.dumps(facts, default=default))
    except TypeError as e:
        raise ConfigError(f"the {name} cannot be saved: {e}; give ids and categories that are text or numbers") from e
    text = {
        "format": version,
        "versions": {"seqmix": seqmix.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "options": {option: _plain(value, option) for option, value in options.items()},
        "facts": plain,
        "fingerprint": _fingerprint(plain),
    }
    # two saves at once leave the files of one; killed between two lines, a save leaves the older one or itself, whole
    with locked(folder / ".saving"):
        kept = _kept(folder, facts["weights"])
        with whole(kept, durable=True) as part:
            part.write_bytes(weights)
        with whole(folder / _file(name), durable=True) as part:
            part.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
        os.replace(kept, folder / "weights.safetensors")
        for left in folder.glob(_kept(folder, "*").name):
            left.unlink()


def read_archive(
    name: str,
    version: int,
    source: str | Path,
    trusted: Sequence[str],
    options: Sequence[str],
    unpack: Callable[[dict[str, Any], dict[str, Any], dict[str, Tensor]], T],
) -> tuple[dict[str, Any], T]:
    """Read the options and the fitted state of an estimator from a folder or a repository of the hub.

    Args:
        name: class of the estimator.
        version: number of the format.
        source: the folder, or ``owner/name``.
        trusted: modules that may be imported.
        options: names of the options of the class.
        unpack: rebuilds the fitted state from options, facts and tensors.

    Raises:
        DataError: if the folder is missing, damaged, of another format, or needs code that is not trusted.
    """
    folder = _folder(name, source)
    try:
        found, facts, tensors = _loaded(name, version, folder, trusted, options)
        return found, unpack(found, facts, tensors)
    except SeqmixError:
        raise
    except _DAMAGES as e:
        why = " ".join(str(e).split())[:120]
        raise DataError(
            f"the {name} in {str(folder)!r} is damaged ({type(e).__name__}: {why}); copy the folder again, or save "
            "again"
        ) from e


def _loaded(
    name: str, version: int, folder: Path, trusted: Sequence[str], options: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    path = folder / _file(name)
    text = json.loads(path.read_text(encoding="utf-8"))
    if text.get("format") != version:
        wrote = text.get("versions", {}).get("seqmix", "an earlier version")
        raise DataError(
            f"{str(path)!r} has format {text.get('format')!r} (seqmix {wrote}), this version reads {version}; fit again"
        )
    facts = text["facts"]
    if text["fingerprint"] != _fingerprint(facts):
        raise DataError(f"{str(path)!r} was changed after it was saved; copy the folder again, or save again")
    kept = _kept(folder, facts["weights"])
    weights = (kept if kept.exists() else folder / "weights.safetensors").read_bytes()
    if facts["weights"] != hashlib.sha256(weights).hexdigest():
        raise DataError(
            f"weights.safetensors in {str(folder)!r} is not what {path.name} was saved with: it is damaged, or of "
            "another save; copy the folder again, or save again"
        )
    return {option: _live(name, text["options"][option], trusted) for option in options}, facts, load(weights)


def _file(name: str) -> str:
    """Name of the JSON file: ``AnomalyDetector`` has ``anomaly_detector.json``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() + ".json"


def _kept(folder: Path, digest: str) -> Path:
    """Temporary path of the weights until the facts are saved too."""
    return folder / f".weights.{digest[:12]}.safetensors"


def _fingerprint(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _folder(name: str, source: str | Path) -> Path:
    """The folder itself, or a copy of the repository ``owner/name`` that is not a folder here."""
    folder, file = Path(source), _file(name)
    if (folder / file).is_file():
        return folder
    if folder.exists() or not _REPOSITORY.fullmatch(str(source)):
        raise DataError(f"no {file} in {str(source)!r}; give a folder that {name}.save wrote")
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as e:
        raise DataError(
            f"{str(source)!r} is not a folder, and the hub needs a package; pip install huggingface_hub"
        ) from e
    remedy = f"check name and connection, or give a folder that {name}.save wrote"
    with from_hub(f"{str(source)!r} is not a folder, and the hub gives no such repository", remedy):
        return Path(snapshot_download(str(source), allow_patterns=[file, "weights.safetensors"]))


def _plain(value: Any, name: str) -> Any:
    """A value in JSON: classes by their dotted path, a ``partial`` with its options."""
    if isinstance(value, np.generic | np.ndarray | pd.Index):
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list):
        return [_plain(v, name) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [_plain(v, name) for v in value]}
    if isinstance(value, dict):
        return {"dict": {str(k): _plain(v, name) for k, v in value.items()}}
    if isinstance(value, partial) and not value.args:
        return {"partial": _plain(value.func, name), "options": {k: _plain(v, name) for k, v in value.keywords.items()}}
    if isinstance(value, type) and issubclass(value, nn.Module) and "<locals>" not in value.__qualname__:
        return {"class": f"{value.__module__}:{value.__qualname__}"}
    raise ConfigError(f"{name} = {value!r} cannot be saved; use a name, a class of a module, or a functools.partial")


def _live(name: str, value: Any, trusted: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_live(name, v, trusted) for v in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_live(name, v, trusted) for v in value["tuple"])
    if "dict" in value:
        return {k: _live(name, v, trusted) for k, v in value["dict"].items()}
    if "partial" in value:
        options = {k: _live(name, v, trusted) for k, v in value["options"].items()}
        return partial(_live(name, value["partial"], trusted), **options)
    module, _, cls = value["class"].partition(":")
    # a saved folder must not make an untrusted module run
    if module not in sys.modules:
        if not {module, module.partition(".")[0]} & {"seqmix", "torch", *trusted, *trusted_modules()}:
            raise DataError(
                f"the {name} needs {cls!r} of the module {module!r}, which was not imported; import it first, or "
                f"pass trusted=[{module!r}] if you know what is in it"
            )
        import_module(module)
    found = getattr(sys.modules[module], cls, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise DataError(f"{value['class']!r} is not a module of torch; use a folder that you trust")
    return found
