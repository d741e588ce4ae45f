"""A class named for an option starts from its own defaults."""

from typing import Any

from jsonargparse import _typehints


def forget_options_of_the_class_before() -> None:
    """Stop jsonargparse from handing the options of one class to the next.

    Where a flag or a config names another class than the default or the config before it, jsonargparse keeps what both
    have in common by name: Hydra in place of Mamba would get Mamba's ``d_conv``, which was never asked for.
    """
    _typehints.discard_init_args_on_class_path_change = _discard


def _discard(parser: Any, before: Any, now: Any) -> None:
    if before and "init_args" in before and before["class_path"] != now["class_path"]:
        for name in list(before["init_args"].keys()):
            before["init_args"].pop(name)
