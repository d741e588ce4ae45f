"""Shared parts of the contract checks of models: test models, inputs, signature, gradients and weights."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from seqmix.testing.closeness import assert_close_ratio

T = TypeVar("T", bound=nn.Module)


def probe(build: Callable[[], T], seed: int = 0, noise: float = 0.1) -> T:
    """Build a model in float64 and evaluation mode, with parameters moved off their initial values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().double().eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(noise * torch.randn_like(p))
    return model


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check_signature(cls: type, facts: Sequence[str]) -> None:
    """The constructor has the facts of the data first, then typed keyword options; the docstring names each."""
    name, options = cls.__name__, list(inspect.signature(cls).parameters.values())
    first, options = options[: len(facts)], options[len(facts) :]
    if [each.name for each in first] != list(facts):
        raise AssertionError(
            f"signature: {name} should begin with ({', '.join(facts)}); the facts of the data come first"
        )
    for option in options:
        if option.kind is not option.KEYWORD_ONLY or option.annotation is option.empty:
            raise AssertionError(f"signature: option {option.name} of {name} should be typed and stand after a *")
    bases = [base for base in cls.__mro__ if base.__module__.partition(".")[0] != "torch"]
    documented = "\n".join(inspect.getdoc(base) or "" for base in bases)
    missing = [p.name for p in (*first, *options) if not re.search(rf"^ +{p.name}: \S", documented, re.MULTILINE)]
    if missing:
        raise AssertionError(f"signature: the docstring of {name} has no line for {', '.join(missing)}; add it to Args")


def check_gradients(name: str, model: nn.Module, x: Tensor) -> None:
    """The input and every parameter that is trained get a gradient, finite and not zero."""
    y = model(x.requires_grad_())
    y.backward(normal(*y.shape, seed=1))
    for key, tensor in (("the input", x), *model.named_parameters()):
        if tensor.requires_grad and (tensor.grad is None or not tensor.grad.isfinite().all() or not tensor.grad.any()):
            what = "no" if tensor.grad is None else "a zero, NaN or infinite"
            raise AssertionError(f"gradients: {key} of {name} gets {what} gradient; use it in forward, or remove it")


def check_batch(name: str, model: nn.Module, x: Tensor) -> None:
    """Items of a batch are independent, no state is kept, and the strides of the input do not matter."""
    before, y = x.clone(), model(x)
    alone = torch.cat([model(row.unsqueeze(0)) for row in x])
    # a single window may take another kernel: a few roundings of float64
    assert_close_ratio(f"batch: {name} mixes the windows of a batch; compute each by itself", y, alone, 1e-9)
    assert_close_ratio(f"batch: {name} remembers the window before; keep no state between calls", model(x), y, 0)
    assert_close_ratio(f"batch: {name} writes into its input; work on a copy", x, before, 0)
    view = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert_close_ratio(f"batch: {name} depends on the strides of its input; use reshape", model(view), y, 1e-9)


def check_dtypes(name: str, build: Callable[[], nn.Module], x: Tensor) -> None:
    """Outputs have the type of the input and are those of float64 up to rounding."""
    x = x.bfloat16()
    want = probe(build)(x.double())
    # 24 and eight bits of mantissa, and a dozen roundings that follow each other
    for dtype, ratio in ((torch.float32, 1e-4), (torch.bfloat16, 5e-2)):
        y = probe(build).to(dtype)(x.to(dtype))
        if y.dtype != dtype:
            raise AssertionError(
                f"dtypes: {name} makes {y.dtype} of {dtype}; cast its buffers and constants to x.dtype"
            )
        assert_close_ratio(f"dtypes: {name} in {dtype} is off float64", y, want, ratio)


def check_state_dict(name: str, build: Callable[[], nn.Module], x: Tensor) -> None:
    """All that the output depends on is in the state dict."""
    model, twin = probe(build), probe(build, seed=1)
    twin.load_state_dict(model.state_dict())
    message = f"state dict: {name} with loaded weights gives another output; register what it learns as parameters"
    assert_close_ratio(message, twin(x), model(x), 0)
