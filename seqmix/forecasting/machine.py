"""Devices for training and forecasts, and checks of the options of the Trainer."""

from collections.abc import Mapping
from typing import Any

import torch

from seqmix.errors import ConfigError
from seqmix.forecasting.options import check_device


def where(device: str) -> torch.device:
    """The device of this name; ``auto`` is the first GPU, or else the CPU.

    Raises:
        ConfigError: if there is no such device, or none on this machine.
    """
    check_device(device)
    kind, _, number = device.partition(":")
    gpus = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind == "auto":
        kind = next((name for name, count in gpus.items() if count), "cpu")
    if int(number or 0) >= gpus.get(kind, 1):
        raise ConfigError(f"device = {device!r} is not on this machine; use device='auto' or 'cpu'")
    return torch.device(kind, int(number)) if number else torch.device(kind)


def trainer_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The ``trainer_kwargs`` of an estimator, checked, with a strategy where they ask for several devices.

    Raises:
        ConfigError: if this machine lacks the device, and those of ``checked_options``.
    """
    device = where(options["device"])
    given = dict(options["trainer_kwargs"] or {})
    # progress is shown by a callback of our own
    if given.keys() <= {"enable_progress_bar"}:
        return given
    # it brings lightning
    from seqmix.forecasting.trainer import checked_options

    return checked_options(given, device)
