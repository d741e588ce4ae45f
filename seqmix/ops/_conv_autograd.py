"""What the implementations of the depthwise convolution share: shapes for tracing, derivatives, ``vmap``."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seqmix.ops._vmap import map_into_channels

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef


def differentiable(convolve: "CustomOpDef", grads: "CustomOpDef") -> None:
    """Register what two ops need that are each other's derivatives.

    Args:
        convolve: ``(x, weight, bias, left) -> y``, in the dtype of x.
        grads: ``(g, x, left, K) -> gradients to weight and bias``, in the dtype of the parameters.
    """

    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        return _gradients(convolve, grads, g, x, weight, bias, ctx.left)

    def save_of_grads(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        g, x, ctx.left, _ = inputs
        ctx.save_for_backward(g, x)

    def backward_of_grads(ctx: Any, v: Tensor, v_bias: Tensor) -> tuple[Tensor | None, ...]:
        g, x = ctx.saved_tensors
        return convolve(x, v, v_bias, ctx.left), _transposed(convolve, g, v, ctx.left), None, None

    def empty_grads(g: Tensor, x: Tensor, left: int, K: int) -> tuple[Tensor, Tensor]:
        D, dtype = x.shape[2], torch.promote_types(x.dtype, torch.float32)
        return x.new_empty(D, K, dtype=dtype), x.new_empty(D, dtype=dtype)

    convolve.register_fake(lambda x, weight, bias, left: x.new_empty(x.shape))
    grads.register_fake(empty_grads)
    convolve.register_autograd(backward, setup_context=_save)
    grads.register_autograd(backward_of_grads, setup_context=save_of_grads)
    map_into_channels(convolve, (2, 0, 0), (2,))
    map_into_channels(grads, (2, 2), (0, 0))


def activated(
    convolve_silu: "CustomOpDef", backward_of_silu: "CustomOpDef", convolve: "CustomOpDef", grads: "CustomOpDef"
) -> None:
    """Register what SiLU of a convolution needs, whose input is computed again in the backward pass.

    Args:
        convolve_silu: ``(x, weight, bias, left) -> SiLU(convolve(x, weight, bias, left))``.
        backward_of_silu: ``(g, x, weight, bias, left) -> gradients to x, weight and bias``.
        convolve: the convolution, as in ``differentiable``.
        grads: as there.
    """

    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        if not torch.is_grad_enabled():
            dx, dweight, dbias = backward_of_silu(g, x, weight, bias, ctx.left)
            return dx, dweight, None if bias is None else dbias, None
        # derivatives of the gradients are wanted, which only the separate steps have
        y = convolve(x, weight, bias, ctx.left)
        g = g * (y.sigmoid() * (1 + y * (1 - y.sigmoid())))
        return _gradients(convolve, grads, g, x, weight, bias, ctx.left)

    def empty_gradients(g: Tensor, x: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(len(weight))

    convolve_silu.register_fake(lambda x, weight, bias, left: x.new_empty(x.shape))
    backward_of_silu.register_fake(empty_gradients)
    convolve_silu.register_autograd(backward, setup_context=_save)
    map_into_channels(convolve_silu, (2, 0, 0), (2,))
    map_into_channels(backward_of_silu, (2, 2, 0, 0), (2, 0, 0))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.left = inputs
    ctx.save_for_backward(*tensors)


def _transposed(convolve: "CustomOpDef", g: Tensor, weight: Tensor, left: int) -> Tensor:
    """Convolve with the flipped kernel, padded on the other side."""
    return convolve(g, weight.flip(-1), None, weight.shape[-1] - 1 - left)


def _gradients(
    convolve: "CustomOpDef",
    grads: "CustomOpDef",
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    left: int,
) -> tuple[Tensor | None, ...]:
    dweight, dbias = grads(g, x, left, weight.shape[-1])
    return _transposed(convolve, g, weight, left), dweight, None if bias is None else dbias, None
