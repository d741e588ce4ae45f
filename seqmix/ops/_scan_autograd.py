"""What the implementations of the selective scan share: shapes for tracing, and first derivatives."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef


def differentiable(
    scan: "CustomOpDef",
    scan_backward: "CustomOpDef",
    empty_results: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]],
) -> None:
    """Make ``scan`` traceable and differentiable once, through ``scan_backward``.

    Args:
        scan: ``(u, dt, A, B, C, h, zoh, reverse) -> (y, last, marks)``, marks being what its backward pass needs.
        scan_backward: ``(grad_y, grad_last, u, dt, A, B, C, marks, zoh, reverse) -> gradients to u .. h``.
        empty_results: ``(u, B, h)`` -> unfilled results of ``scan``.
    """

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        u, dt, A, B, C, _, ctx.zoh, ctx.reverse = inputs
        ctx.save_for_backward(u, dt, A, B, C, output[2])
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        u, dt, A, B, C, marks = ctx.saved_tensors
        grad_y = torch.zeros_like(u) if grad_y is None else grad_y
        grad_last = u.new_zeros(u.shape[0], *A.shape) if grad_last is None else grad_last
        return *scan_backward(grad_y, grad_last, u, dt, A, B, C, marks, ctx.zoh, ctx.reverse), None, None

    def refuse(ctx: Any, *_: Any) -> None:
        raise RuntimeError("selective_scan has first derivatives only; use impl='reference' for second ones")

    scan.register_fake(lambda u, dt, A, B, C, h, zoh, reverse: empty_results(u, B, h))
    scan_backward.register_fake(
        lambda grad_y, grad_last, u, dt, A, B, C, marks, zoh, reverse: tuple(
            x.new_empty(x.shape) for x in (u, dt, A, B, C, grad_last)
        )
    )
    scan.register_autograd(backward, setup_context=save)
    scan_backward.register_autograd(refuse)
