"""Derivatives of an operator, for autograd and ``torch.func``: the first by another operator, more by definition."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef


def differentiable(
    op: "CustomOpDef",
    gradients: "CustomOpDef",
    definition: Callable[..., Any],
    *,
    tensors: int,
    results: int = 1,
    kept: Sequence[int] = (),
) -> Callable[..., Any]:
    """Return ``op`` as a function that has derivatives of any order.

    Second derivatives differentiate the definition, at its cost. Derivatives in forward mode are left to the
    definition as a whole, see ``dispatch.pick``.

    Args:
        op: ``(*tensors, *fixed) -> (*results, *others)``, or the one result.
        gradients: ``(*gradients to the results, *tensors, *kept, *fixed) -> gradients to the tensors``.
        definition: ``(*tensors, *fixed) -> results`` in plain PyTorch.
        tensors: number of tensors.
        results: number of results.
        kept: which of the outputs ``gradients`` takes.
    """

    class Gradients(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> tuple[Tensor, ...]:
            return gradients(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            ctx.save_for_backward(*inputs[: results + tensors])
            ctx.fixed = inputs[results + tensors + len(kept) :]

        @staticmethod
        def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
            fixed = ctx.fixed

            def by_definition(*args: Tensor) -> tuple[Tensor, ...]:
                pull = torch.func.vjp(lambda *x: definition(*x, *fixed), *args[results:])[1]
                return pull(args[0] if results == 1 else args[:results])

            pull = torch.func.vjp(by_definition, *ctx.saved_tensors)[1]
            return *pull(cotangents), *[None] * (len(kept) + len(fixed))

    class Differentiable(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> Any:
            return op(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            outputs = (output,) if isinstance(output, Tensor) else output
            ctx.save_for_backward(*inputs[:tensors], *(outputs[i] for i in kept))
            ctx.fixed = inputs[tensors:]
            ctx.shapes = [(x.shape, x.dtype) for x in outputs[:results]]
            ctx.mark_non_differentiable(*outputs[results:])
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            # read once: activation checkpointing recomputes the saved tensors and returns them only once
            saved = ctx.saved_tensors
            given = [
                saved[0].new_zeros(shape, dtype=dtype) if g is None else g
                for g, (shape, dtype) in zip(grads, ctx.shapes, strict=False)
            ]
            first = Gradients.apply if _transformed() else gradients
            return *first(*given, *saved, *ctx.fixed), *[None] * len(ctx.fixed)

    gradients.register_fake(lambda *args: tuple(x.new_empty(x.shape) for x in args[results : results + tensors]))
    # ``torch.func`` needs the functions; everything else takes the operators, one node each and less work around them
    op.register_autograd(Differentiable.backward, setup_context=Differentiable.setup_context)
    gradients.register_autograd(Gradients.backward, setup_context=Gradients.setup_context)

    def call(*args: Any) -> Any:
        if _transformed():
            return Differentiable.apply(*args)
        # the first call of an operator imports torch._dynamo, which takes a second
        return op._init_fn(*args) if _unrecorded(args) else op(*args)

    return call


def _unrecorded(args: Sequence[Any]) -> bool:
    """Whether a call is of plain tensors, and neither autograd nor a tracer of graphs has to know of it."""
    if torch.compiler.is_compiling() or torch._C._is_tracing() or torch._C._len_torch_dispatch_stack():
        return False
    given = [x for x in args if isinstance(x, Tensor)]
    graded = torch.is_grad_enabled() and any(x.requires_grad for x in given)
    return not graded and all(type(x) in (Tensor, Parameter) for x in given)


def _transformed() -> bool:
    """Whether a transform of ``torch.func`` is at work, as ``torch.autograd.Function.apply`` asks itself."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
