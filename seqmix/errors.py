"""Errors a user can act on: each message says what is wrong, the value, and the remedy."""

from collections.abc import Sequence


class SeqmixError(Exception):
    """Base of every error raised on purpose by seqmix."""


class DataError(SeqmixError, ValueError):
    """A file or frame cannot be used as it is; the message names the file, the column and the row."""


class ConfigError(SeqmixError, ValueError):
    """Options that do not fit together; the message names the option, its value and what to set instead."""


class WriteError(SeqmixError, OSError):
    """A file cannot be written; the message names the file, the reason, also in ``reason``, and the remedy."""

    reason = ""


class OutOfMemory(SeqmixError, MemoryError):
    """There is no more memory; the message names the options that need less, and their values."""


class ProcessDied(SeqmixError, RuntimeError):
    """A process that works for this one, or with it, was killed; the message says what it did, and the remedy."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM): it stops as after Ctrl-C."""


class NotFittedError(SeqmixError, RuntimeError):
    """A result was asked of a model that has not been trained yet."""


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
