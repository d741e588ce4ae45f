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

    def transposed(g: Tensor, weight: Tensor, left: int) -> Tensor:
        # the convolution with the flipped kernel, padded on the other side
        return convolve(g, weight.flip(-1), None, weight.shape[-1] - 1 - left)

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, ctx.left = inputs
        ctx.has_bias = bias is not None
        ctx.save_for_backward(x, weight)

    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dweight, dbias = grads(g, x, ctx.left, weight.shape[-1])
        return transposed(g, weight, ctx.left), dweight, dbias if ctx.has_bias else None, None

    def save_of_grads(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        g, x, ctx.left, _ = inputs
        ctx.save_for_backward(g, x)

    def backward_of_grads(ctx: Any, v: Tensor, v_bias: Tensor) -> tuple[Tensor | None, ...]:
        g, x = ctx.saved_tensors
        return convolve(x, v, v_bias, ctx.left), transposed(g, v, ctx.left), None, None

    def empty_grads(g: Tensor, x: Tensor, left: int, K: int) -> tuple[Tensor, Tensor]:
        D, dtype = x.shape[2], torch.promote_types(x.dtype, torch.float32)
        return x.new_empty(D, K, dtype=dtype), x.new_empty(D, dtype=dtype)

    convolve.register_fake(lambda x, weight, bias, left: x.new_empty(x.shape))
    grads.register_fake(empty_grads)
    convolve.register_autograd(backward, setup_context=save)
    grads.register_autograd(backward_of_grads, setup_context=save_of_grads)
    map_into_channels(convolve, (2, 0, 0), (2,))
    map_into_channels(grads, (2, 2), (0, 0))
