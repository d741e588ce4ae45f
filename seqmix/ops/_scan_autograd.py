"""What the implementations of the selective scan share: shapes for tracing, first derivatives, ``vmap``."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.ops._vmap import map_into_channels

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef


def step_sizes(dt: Tensor, bias: Tensor) -> Tensor:
    """Return ``softplus(dt + bias)`` for ``bias: (D,)``, and ``dt`` itself where the bias is empty."""
    return F.softplus(dt + bias) if len(bias) else dt


def all_states(h: Tensor, u: Tensor, bounds: list[int]) -> Tensor:
    """Return the first states, zero for each sequence in ``u`` if ``h: (items, D, N)`` has no items."""
    return h if len(h) or not len(u) else h.new_zeros(len(bounds) - 1 if len(bounds) > 2 else len(u), *h.shape[1:])


def skip_and_gate(y: Tensor, u: Tensor, skip: Tensor, z: Tensor) -> Tensor:
    """Return ``(y + skip u) SiLU(z)``; ``skip: (D,)`` may be empty, and so may the last axis of ``z: (Bt, L, D)``."""
    y = torch.addcmul(y, u, skip) if len(skip) else y
    return y * F.silu(z.to(y.dtype)) if z.shape[2] else y


def differentiable(
    scan: "CustomOpDef",
    scan_backward: "CustomOpDef",
    empty_results: Callable[..., tuple[Tensor, ...]],
    *,
    more: Sequence[int] = (),
    kept: Sequence[int] = (2,),
) -> None:
    """Make ``scan`` traceable, differentiable once, through ``scan_backward``, and fit for ``vmap``.

    Args:
        scan: ``(u, dt, A, B, C, h, *more, *fixed) -> (y, last, *kept)``, kept being what its backward pass needs, with
            groups or channels on axis 2; ``last`` has the shape of ``h``.
        scan_backward: ``(grad_y, grad_last, u, dt, A, B, C, *more, *kept, *fixed) -> gradients to u .. h and more``.
        empty_results: the arguments of ``scan`` -> its unfilled results.
        more: axis of the channels in further inputs.
        kept: axis of the channels in each of what is kept.
    """
    n = 6 + len(more)

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.items, ctx.fixed = len(inputs[5]), inputs[n:]
        ctx.save_for_backward(*inputs[:5], *inputs[6:n], *output[2:])
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, grad_y: Tensor | None, grad_last: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        dt, A = ctx.saved_tensors[1:3]
        grad_y = torch.zeros_like(dt) if grad_y is None else grad_y
        grad_last = A.new_zeros(ctx.items, *A.shape) if grad_last is None else grad_last
        return *scan_backward(grad_y, grad_last, *ctx.saved_tensors, *ctx.fixed), *[None] * len(ctx.fixed)

    def refuse(ctx: Any, *_: Any) -> None:
        raise RuntimeError("selective_scan has first derivatives only; use impl='reference' for second ones")

    def fake_backward(_: Tensor, grad_last: Tensor, *others: Any) -> tuple[Tensor, ...]:
        return tuple(x.new_empty(x.shape) for x in (*others[:5], grad_last, *others[5 : n - 1]))

    scan.register_fake(empty_results)
    scan_backward.register_fake(fake_backward)
    scan.register_autograd(backward, setup_context=save)
    scan_backward.register_autograd(refuse)
    map_into_channels(scan, (2, 2, 0, 2, 2, 1, *more), (2, 1, *kept))
    map_into_channels(scan_backward, (2, 1, 2, 2, 0, 2, 2, *more, *kept), (2, 2, 0, 2, 2, 1, *more))
