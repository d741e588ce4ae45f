"""One rule of ``torch.func.vmap`` for every op whose channels do not meet: the mapped axis becomes more channels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef


def map_into_channels(op: "CustomOpDef", inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Let ``op`` run under ``vmap``, all samples in one call.

    Parameters become more channels as well, so that each sample may have its own, and gets its own gradient to them.

    Args:
        op: the operator.
        inputs: axis of the channels, or groups of channels, in each of the leading tensor arguments.
        outputs: likewise for the results.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        V = info.batch_size

        def fold(x: Tensor | None, dim: int | None, axis: int) -> Tensor | None:
            if x is None:
                return None
            x = x.unsqueeze(0).expand(V, *x.shape) if dim is None else x.movedim(dim, 0)
            return x.movedim(0, axis).flatten(axis, axis + 1)

        folded = [fold(x, dim, axis) for x, dim, axis in zip(args, in_dims, inputs, strict=False)]
        results = op(*folded, *args[len(inputs) :])
        if isinstance(results, Tensor):
            return results.unflatten(outputs[0], (V, -1)), outputs[0]
        return tuple(x.unflatten(axis, (V, -1)) for x, axis in zip(results, outputs, strict=True)), tuple(outputs)

    op.register_vmap(rule)
