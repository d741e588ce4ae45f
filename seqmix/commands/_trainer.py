"""Checks of trainer options before data is read, and Lightning's errors in two lines."""

import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from seqmix.errors import ConfigError, OutOfMemory, ProcessDied, SeqmixError
from seqmix.memory import exhausted, ran_out

_LIGHTNING = Path(pl.__file__).parents[1]
# minimum of each option that Lightning does not check, or checks in the middle of training only
_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "num_sanity_val_steps": -1,
}
# options that memory grows with, and those that save it
_SIZES = ("batch_size", "eval_batch_size", "context", "max_len", "window", "img_size")
_SWITCHES = ("checkpointing", "grad_checkpointing")
# messages of torch about processes of its DataLoader, and of gloo and NCCL about other processes
_READER = re.compile(r"DataLoader worker \(pid.*?\).*?(?:signal: [\w ]+|unexpectedly)")
_PEER = re.compile(r"gloo/transport|Connection closed by peer|Connection reset by peer|NCCL (?:error|communicator)")
# a command needs some batches of these
_NEEDED = {
    "fit": ("max_epochs", "max_steps", "val_check_interval", "limit_train_batches", "limit_val_batches"),
    "validate": ("limit_val_batches",),
    "test": ("limit_test_batches",),
    "predict": ("limit_predict_batches",),
}


def check_trainer(command: str, config: Any) -> None:
    """Raise ``ConfigError`` if the seed or an option of the trainer leaves nothing to do, or makes no sense."""
    seed, trainer = config["seed_everything"], config["trainer"]
    # true is none: Lightning would warn and use 0
    if seed is True or not 0 <= (seed or 0) < 2**32:
        raise ConfigError(f"seed_everything must be between 0 and {2**32 - 1}, got {seed}; use for example 0")
    if trainer is None or "default_root_dir" not in trainer:
        raise ConfigError("trainer = null has none of the options of the trainer; leave it out")
    for name, least in _LEAST.items():
        value = trainer.get(name)
        if isinstance(value, int | float) and value < least:
            raise ConfigError(f"trainer.{name} must be at least {least}, got {value}; leave it out for the default")
    needed = _NEEDED[command] + (("limit_test_batches",) if command == "fit" and config["test"] else ())
    for name in needed:
        # of a limit 1.0 is all
        if trainer.get(name) == 0:
            raise ConfigError(f"trainer.{name} = 0 leaves `seqmix {command}` nothing to do; raise it, or leave it out")


def is_of_trainer(e: Exception) -> bool:
    """Whether Lightning itself raised an error about its options, not the code that it calls."""
    frames = list(traceback.walk_tb(e.__traceback__))
    return bool(frames) and _LIGHTNING in Path(frames[-1][0].f_code.co_filename).parents


@contextmanager
def explaining(settings: Callable[[], Mapping[str, Any]], n_workers: int | None) -> Iterator[None]:
    """Context that explains out-of-memory errors and killed processes in terms of the options.

    Args:
        settings: returns the options by dotted name.
        n_workers: processes that read the data. None: the data has no such option.

    Raises:
        OutOfMemory: with the options that need less memory when they are lower.
        ProcessDied: if it read data, or had a part in the training.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as e:
        if isinstance(e, SeqmixError):
            raise
        if ran_out(e):
            raise _exhausted(e, settings()) from e
        if died := _dead(" ".join(str(e).split()), n_workers):
            raise died from e
        raise


def _exhausted(e: Exception, settings: Mapping[str, Any]) -> OutOfMemory:
    ends = [(name, name.rpartition(".")[2], value) for name, value in settings.items()]
    lower = ", ".join(f"{name}={value}" for name, end, value in ends if end in _SIZES and value)
    off = [f"{name}: true" for name, end, value in ends if end in _SWITCHES and value is False]
    return exhausted(e, f"lower {lower or 'the batch size'}, or set {[*off, 'trainer.precision: bf16-mixed'][0]}")


def _dead(said: str, n_workers: int | None) -> ProcessDied | None:
    if found := _READER.search(said):
        workers = "the number of workers" if n_workers is None else f"data.n_workers={n_workers}"
        return ProcessDied(
            f"a process that reads data was killed ({found[0]}), most often for want of memory; lower "
            f"{workers} (0 reads in the main process), or give more shared memory"
        )
    if _PEER.search(said):
        return ProcessDied(
            "another process of this run has ended, and the run with it: its own message says why, unless it was "
            "killed, most often for want of memory; read that, or give more memory"
        )
    return None


def trainer_error(e: Exception) -> ConfigError:
    """The error for one that Lightning's Trainer raised, its message shortened."""
    said, *more = re.split(r"(?<=[.!?]) (?=[A-Z`])", " ".join(str(e).split()))
    said += "".join(f" {sentence}" for sentence in more[:1] if len(said) + len(sentence) < 150)
    where = "set it as trainer: {...} in the config or as --trainer.<name>, `seqmix info` lists the devices here"
    return ConfigError(f"trainer: {said.removesuffix('.')}; {where}")
