"""Settings of a run: all that its results depend on besides seed and machine, with a digest."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from seqmix.errors import ConfigError
from seqmix.tasks.folders import run_folders

# options of one invocation: they do not belong to the experiment, so not into its config.yaml
MOMENTARY = ("ckpt_path", "resume", "test", "record", "out")
# options of location, device and display
_ELSEWHERE = {
    *("name", "seed_everything", "allocator", "baselines"),
    *("data.init_args.root", "data.init_args.cache", "data.init_args.n_workers"),
    *(f"trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "strategy", "plugins", "logger")),
    *(f"trainer.{name}" for name in ("default_root_dir", "profiler", "log_every_n_steps", "barebones")),
    *(f"trainer.{name}" for name in ("enable_checkpointing", "enable_progress_bar", "enable_model_summary")),
}

# options that the weights of a run depend on begin with
_MODEL = ("model", "data", "densify")


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name, without seed, paths, devices and display."""
    return dict(_leaves(config, ""))


def digest(settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that two runs share if and only if their settings are the same."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]


def differences(settings: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Settings that are not those of ``base``, for example ``model.optim.lr=0.001 data.horizon=96``."""
    names = sorted(name for name in settings.keys() | base.keys() if settings.get(name) != base.get(name))
    return " ".join(f"{name}={json.dumps(settings.get(name), default=str)}" for name in names)


def keeps_settings(argv: Iterable[str]) -> bool:
    """Does a command line change nothing of the settings of its config? Where only paths and the like are given."""
    options = {word.partition("=")[0].removeprefix("--") for word in argv if word.startswith("--")}
    return options <= {"config", *MOMENTARY, *_ELSEWHERE}


def misfit(saved: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Settings of model and data in a saved config that are not those of ``config``; none if its weights fit."""
    parts = [
        {n: v for n, v in flat(c).items() if n.startswith(_MODEL) and not n.endswith("batch_size")}
        for c in (saved, config)
    ]
    return differences(*parts)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if name in _ELSEWHERE:
        return
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name.replace("init_args.", "").removesuffix(".class_path"), value


def matching_run(parent: Path, seed: int, settings: Mapping[str, Any], value: str) -> Path:
    """The newest run in ``parent`` with this seed and these settings.

    Raises:
        ConfigError: if there is none; it names ``value``, that of ``ckpt_path``, and what the newest run has instead.
    """
    folders = run_folders(parent, seed)
    if not folders:
        raise ConfigError(
            f"ckpt_path = {value!r}: no run with seed {seed} and a checkpoint in {str(parent)!r}; "
            "run `seqmix fit` first, or give the path of a checkpoint"
        )
    reasons = {}
    for folder in reversed(folders):
        reasons[folder] = misfit(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")), settings)
        if not reasons[folder]:
            return folder
    raise ConfigError(
        f"ckpt_path = {value!r}: no run with seed {seed} in {str(parent)!r} has these settings; the "
        f"newest has {reasons[folders[-1]]}; give the same, or --config {folders[-1]}/config.yaml"
    )
