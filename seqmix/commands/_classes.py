"""Rules for the classes that a config may name."""

from typing import Any

import jsonargparse
from jsonargparse import _typehints
from jsonargparse._util import import_object

from seqmix.trusted import trusted_modules

_PACKAGES = ("seqmix", "torch.nn", "torch.optim", "lightning.pytorch", "lightning.fabric")
# classes and functions of these modules execute what their arguments name
_REFUSED = ("*", "seqmix.cli", "seqmix.commands", "lightning.pytorch.cli", "lightning.pytorch.core.saving")

_adapt_factory = _typehints.adapt_partial_callable_class
_rank = _typehints.union_subtype_sort_key
_allowed_before: set[str] = set()


def prepare_parser() -> None:
    """Configure which classes jsonargparse accepts, and which options it keeps when a class replaces another."""
    modules = trusted_modules()
    jsonargparse.set_parsing_settings(
        import_path_denylist=[*_REFUSED, *(_allowed_before - {*modules})],
        import_path_allowlist=[*_PACKAGES, *modules],
        instantiate_subclass_spec_in_any=False,
    )
    _allowed_before.update(modules)
    _typehints.adapt_partial_callable_class = _check_factory
    _typehints.discard_init_args_on_class_path_change = _discard
    _typehints.union_subtype_sort_key = _integers_first


def _check_factory(callable_type: Any, spec: Any) -> Any:
    """Accept a function with arguments for the return type of its annotation only, as jsonargparse does without them.

    An option that declares no return type takes no function with arguments: it would be called, whatever it is.
    """
    returns: Any = _typehints.get_callable_return_type(callable_type)
    path = _typehints.resolve_class_path_by_name(returns, spec.class_path) if returns else spec.class_path
    factory = import_object(path)
    if not isinstance(factory, type):
        types = _typehints.get_subclass_types(returns) if returns else None
        if not types or not _typehints.function_returns_subclass(factory, types, None):
            what = getattr(returns, "__name__", "a class")
            raise ImportError(f"Expected '{path}' to be a function that returns {what}.")
    return _adapt_factory(callable_type, spec)


def _discard(parser: Any, before: Any, now: Any) -> None:
    """Drop the options of the replaced class: Hydra in place of Mamba must not get Mamba's ``d_conv``."""
    if before and "init_args" in before and before["class_path"] != now["class_path"]:
        before["init_args"] = jsonargparse.Namespace()


def _integers_first(member: Any) -> tuple[int, bool]:
    """Rank ``int`` first in a union: one batch, ``trainer.limit_train_batches=1``, is not all of them, 1.0.

    typing gives a union the order of an equal one that was made before, so that the order in the source does not count.
    """
    return _rank(member), member is not int
