"""Choice of the implementation of an op.

``reference`` is the definition, ``torch`` the fast portable path, ``native`` the compiled CPU kernel, ``triton`` the
CUDA kernel.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from seqmix.ops import native

Impls = Mapping[str, Callable[..., Any] | str]

_OPS: dict[str, Impls] = {}
# not a ContextVar, which torch.compile cannot trace
_plain = False

# fastest first; every op has "torch", which runs on any device
_ORDER = {"cpu": ("native", "torch"), "cuda": ("triton", "torch")}


def enter(op: str, impls: Impls) -> Impls:
    """Record the implementations of an op for ``explain`` and return them.

    Args:
        op: name of the public function.
        impls: name -> function, or ``"module:function"``, imported when it is first picked.
    """
    _OPS[op] = impls
    return impls


def pick(impl: str, impls: Impls, x: Tensor) -> Callable[..., Any]:
    """Return the implementation called ``impl``; ``"auto"`` chooses by the device and the dtype of ``x``.

    Inside of ``plain``, ``torch.func.jvp`` and its kin it chooses the reference, which is made of PyTorch's operators
    and alone has derivatives in forward mode.

    Raises:
        ValueError: if there is no implementation of that name, or it cannot run on ``x``.
    """
    name = _fastest(impls, x.device.type, x.dtype) if impl == "auto" else impl
    if impl == "auto" and _plain and "reference" in impls:
        name = "reference"
    if forward_ad._current_level >= 0 and "reference" in impls:
        if impl not in ("auto", "reference"):
            raise ValueError(f"impl={impl!r} has no derivatives in forward mode; use impl='auto'")
        name = "reference"
    if impl == "auto" and x.device.type == "cuda" and "triton" in impls and (obstacle := _triton_problem()):
        _warn_once(f"CUDA runs the slower torch path: {obstacle}")
    if name not in impls:
        raise ValueError(f"no implementation {impl!r} here; use one of {', '.join(impls)}, or 'auto'")
    if obstacle := _obstacle(name, x.device.type, x.dtype):
        raise ValueError(f"impl={name!r} cannot run: {obstacle}; use impl='auto'")
    found = impls[name]
    if callable(found):
        return found
    module, _, function = found.partition(":")
    return getattr(import_module(module), function)


@contextmanager
def plain() -> Iterator[None]:
    """Let ``impl="auto"`` choose the reference, for graphs that are to run without this package."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def explain() -> list[dict[str, str]]:
    """Say for each op which implementation ``impl="auto"`` takes here for float32, and why not the others.

    Rows have the keys ``op``, ``cpu`` and ``cuda`` (an implementation, or why there is none), and ``others``.
    """
    rows = []
    for op, impls in sorted(_OPS.items()):
        cpu = _fastest(impls, "cpu", torch.float32)
        cuda = _fastest(impls, "cuda", torch.float32) if torch.cuda.is_available() else "no CUDA device"
        others = [f"{name}: {_reason(name)}" for name in impls if name not in (cpu, cuda)]
        rows.append({"op": op, "cpu": cpu, "cuda": cuda, "others": "; ".join(others)})
    return rows


def _fastest(impls: Impls, device: str, dtype: torch.dtype) -> str:
    order = _ORDER.get(device, ("torch",))
    return next(name for name in order if name in impls and _obstacle(name, device, dtype) is None)


def _obstacle(name: str, device: str, dtype: torch.dtype) -> str | None:
    """Why an implementation cannot run on tensors of this kind, or None."""
    kind = f"{str(dtype).removeprefix('torch.')} on {device}"
    if name == "native":
        wanted = device == "cpu" and dtype == torch.float32
        return native.problem() if wanted else f"the compiled kernel takes float32 on a CPU, got {kind}"
    if name == "triton":
        if device != "cuda" or dtype == torch.float64:
            return f"the Triton kernel takes float32 and half types on a CUDA device, got {kind}"
        return _triton_problem()
    return None


@cache
def _triton_problem() -> str | None:
    return None if find_spec("triton") else "Triton is not installed: pip install triton"


# torch.compile cannot trace the search for a package, and need not
_triton_problem._dynamo_marked_constant = True  # pyright: ignore[reportAttributeAccessIssue]


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)


# nor can it trace the warning; the first call outside a compiled graph gives it
_warn_once._dynamo_marked_constant = True  # pyright: ignore[reportAttributeAccessIssue]


def _reason(name: str) -> str:
    if name == "reference":
        return "the definition, slow; impl='reference' asks for it"
    if name == "triton":
        return _triton_problem() or "runs on a CUDA device"
    return _obstacle(name, "cpu", torch.float32) or "slower here, and the fallback for other dtypes and devices"
