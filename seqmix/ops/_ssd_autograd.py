"""What the implementations of SSD share: shapes for tracing, first derivatives, ``vmap``."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef


def differentiable(
    scan: "CustomOpDef",
    scan_backward: "CustomOpDef",
    empty_results: Callable[..., tuple[Tensor, ...]],
    *,
    needs_results: bool = True,
) -> None:
    """Make ``scan`` traceable, differentiable once, through ``scan_backward``, and fit for ``vmap``.

    Args:
        scan: ``(x, dt, a, B, C, S, *fixed) -> (y, last, marks)``, the batch first in all tensors, marks being what its
            backward pass needs.
        scan_backward: ``(grad_y, grad_last, x, dt, a, B, C, y, last, marks, *fixed) -> gradients to x .. S``.
        empty_results: as ``scan`` -> unfilled results.
        needs_results: ``scan_backward`` takes y and last; they are not kept if it does not.
    """

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:5], *output[0 if needs_results else 2 :])
        ctx.fixed, ctx.states = inputs[6:], output[1].shape
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        x, dt = saved[:2]
        grad_y = dt.new_zeros(x.shape) if grad_y is None else grad_y
        grad_last = dt.new_zeros(ctx.states) if grad_last is None else grad_last
        return *scan_backward(grad_y, grad_last, *saved, *ctx.fixed), *[None] * len(ctx.fixed)

    def refuse(ctx: Any, *_: Any) -> None:
        raise RuntimeError("ssd and quasiseparable have first derivatives only; use impl='reference' for second ones")

    scan.register_fake(empty_results)
    scan_backward.register_fake(
        lambda grad_y, grad_last, x, dt, a, B, C, *_: tuple(t.new_empty(t.shape) for t in (x, dt, a, B, C, grad_last))
    )
    scan.register_autograd(backward, setup_context=save)
    scan_backward.register_autograd(refuse)
    for op in (scan, scan_backward):
        _map_into_batch(op)


def _map_into_batch(op: "CustomOpDef") -> None:
    """Let ``op`` run under ``vmap``: the mapped axis becomes part of the batch."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        def fold(arg: Any, dim: int | None) -> Any:
            if not isinstance(arg, Tensor):
                return arg
            arg = arg.expand(info.batch_size, *arg.shape) if dim is None else arg.movedim(dim, 0)
            return arg.flatten(0, 1)

        results = op(*map(fold, args, in_dims))
        return tuple(t.unflatten(0, (info.batch_size, -1)) for t in results), (0,) * len(results)

    op.register_vmap(rule)
