"""The Trainer of Lightning for estimators, in one process or in one for each device."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from seqmix.errors import ConfigError
from seqmix.tasks import messages
from seqmix.tasks.messages import loggers

# options of the Trainer that decide the number of processes
_SEVERAL = ("accelerator", "devices", "num_nodes", "strategy")


def checked_options(given: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Options of the Trainer, checked, with a strategy where they ask for several devices.

    Processes are started by ``ddp_spawn``, which returns to the program, or by what notebooks allow.

    Raises:
        ConfigError: if the Trainer lacks an option, or the strategy runs the program again.
    """
    unknown = [name for name in given if name not in signature(pl.Trainer).parameters]
    if unknown:
        raise ConfigError(f"trainer_kwargs: the Trainer of Lightning has no option {unknown[0]!r}; leave it out")
    several = {name: given[name] for name in _SEVERAL if name in given}
    if not several:
        return given
    with quiet():
        trainer = make_trainer({"accelerator": device.type, "devices": 1, "logger": False, **several}, several)
    if trainer.num_devices == 1 or not isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
        return given
    if "strategy" in given:
        raise ConfigError(
            f"trainer_kwargs: strategy = {given['strategy']!r} runs the whole program once for each device; use "
            "strategy='ddp_spawn', or start the program with torchrun"
        )
    return {**given, "strategy": "ddp_spawn"}


def make_trainer(options: Mapping[str, Any], given: Mapping[str, Any]) -> pl.Trainer:
    """The Trainer of ``options``; a ``ConfigError`` names those of them that were ``given``."""
    try:
        return pl.Trainer(**options)
    except (MisconfigurationException, ValueError, TypeError) as e:
        reason = " ".join(str(e).split()).removesuffix(".")
        raise ConfigError(f"trainer_kwargs = {dict(given)} do not make a Trainer ({reason}); correct that one") from e


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the messages of Lightning about itself, inside."""
    before = [logger.level for logger in loggers()]
    with warnings.catch_warnings():
        silence()
        try:
            yield
        finally:
            for logger, level in zip(loggers(), before, strict=True):
                logger.setLevel(level)


def silence() -> None:
    """Silence them in this process, and the warnings of Lightning."""
    messages.silence()
    warnings.filterwarnings("ignore", module="lightning.*")
