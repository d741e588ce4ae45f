"""Messages of Lightning and PyTorch about themselves; those that concern the user are ours."""

import logging
import warnings


def loggers() -> list[logging.Logger]:
    """Those of Lightning."""
    return [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]


def silence() -> None:
    """Silence them in this process."""
    for logger in loggers():
        logger.setLevel(logging.ERROR)
    # lightning 2.6 calls functions that torch 2.13 has renamed
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    # ddp, of gradients with an axis of size one, whose stride means nothing
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
