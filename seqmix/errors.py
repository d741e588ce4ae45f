"""Errors a user can act on: each message says what is wrong, the value, and the remedy."""

from collections.abc import Sequence


class SeqmixError(Exception):
    """Base of every error raised on purpose by seqmix."""


class DataError(SeqmixError, ValueError):
    """Error for a file or frame that cannot be used; the message names the file, the column and the row."""


class ConfigError(SeqmixError, ValueError):
    """Error for options that do not fit together; the message names the option, its value and the remedy."""


class WriteError(SeqmixError, OSError):
    """Error for a file that cannot be written; the message names the file, the reason (``reason``) and the remedy."""

    reason = ""


class OutOfMemory(SeqmixError, MemoryError):
    """Error for too little memory; the message names the options that need less, and their values."""


class ProcessDied(SeqmixError, RuntimeError):
    """Error for a killed worker process; the message says what it did, and the remedy."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM): it stops as after Ctrl-C."""


class NotFittedError(SeqmixError, RuntimeError):
    """Error for a result of a model that has not been fitted."""


def check_at_least(minimum: float, **options: float | None) -> None:
    """Raise ``ConfigError`` if an option is below ``minimum``; options that are None are not checked."""
    for name, value in options.items():
        if value is not None and not value >= minimum:
            raise ConfigError(f"{name} = {value} is below {minimum}; use {name}={minimum} or more")


def check_fraction(**options: float) -> None:
    """Raise ``ConfigError`` unless each option is at least 0 and below 1."""
    for name, value in options.items():
        if not 0 <= value < 1:
            raise ConfigError(f"{name} = {value} is not a fraction; use 0 or more, and less than 1")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ``ConfigError`` unless ``value``, given for the option ``name``, is one of ``choices``."""
    if value not in choices:
        raise ConfigError(f"{name} = {value!r} is not known; use one of {', '.join(choices)}")
