"""Rules of ``torch.func.vmap`` for operators: the mapped axis becomes more channels, or more of the batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef


def map_into_channels(op: "CustomOpDef", inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Let ``op``, whose channels do not meet, run under ``vmap``, all samples in one call.

    Parameters become more channels as well, so that each sample may have its own, and gets its own gradient to them.

    Args:
        op: the operator.
        inputs: axis of the channels, or groups of channels, in each of the leading tensor arguments.
        outputs: likewise for the results.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        V = info.batch_size

        folded = [_fold(x, dim, V, axis) for x, dim, axis in zip(args, in_dims, inputs, strict=False)]
        results = op(*folded, *args[len(inputs) :])
        if isinstance(results, Tensor):
            return _cut(results, V, outputs[0]), outputs[0]
        return tuple(_cut(x, V, axis) for x, axis in zip(results, outputs, strict=True)), tuple(outputs)

    op.register_vmap(rule)


def map_into_batch(op: "CustomOpDef") -> None:
    """Let ``op``, with the batch first in all tensors, run under ``vmap``: the mapped axis joins the batch."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        V = info.batch_size

        args = tuple(_fold(x, dim, V, 0) if isinstance(x, Tensor) else x for x, dim in zip(args, in_dims, strict=True))
        results = op(*args)
        return tuple(_cut(x, V, 0) for x in results), (0,) * len(results)

    op.register_vmap(rule)


# reshape, as nested maps have no rules for flatten and unflatten
def _fold(x: Tensor, dim: int | None, V: int, axis: int) -> Tensor:
    """Let the mapped axis ``dim``, of V samples, become part of ``axis``."""
    x = x.unsqueeze(0).expand(V, *x.shape) if dim is None else x.movedim(dim, 0)
    x = x.movedim(0, axis)
    return x.reshape(*x.shape[:axis], V * x.shape[axis + 1], *x.shape[axis + 2 :])


def _cut(x: Tensor, V: int, axis: int) -> Tensor:
    """Undo ``_fold``."""
    return x.reshape(*x.shape[:axis], V, x.shape[axis] // V, *x.shape[axis + 1 :])
