"""Gated delta rule by the compiled kernel: float32 on a CPU, forward and backward."""

import ctypes
from itertools import pairwise

import torch
from torch import Tensor

from seqmix.ops.delta.rows import definition
from seqmix.ops.derivatives import differentiable
from seqmix.ops.native.call import View, readable, run
from seqmix.ops.operands import require_axes, require_operands
from seqmix.ops.packed import require_bounds
from seqmix.ops.vmap import map_into_batch

# positions per chunk: longer chunks cost arithmetic, shorter ones memory
_CHUNK = 32
_VIEWS = ("q", "e", "w", "v", "decay", "dy")
_POINTERS = ("S", "dlast", "bounds", "y", "last", "marks", "dq", "de", "dw", "dv", "ddecay", "dS")
_SIZES = ("rows", "sequences", "L", "H", "K", "V", "channels", "chunk", "erases", "back")


class _Delta(ctypes.Structure):
    """``struct Delta`` of kernels.cpp."""

    _fields_ = (
        *((name, View) for name in _VIEWS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SIZES),
    )


def gated_delta(
    q: Tensor,
    erase: Tensor | None,
    write: Tensor,
    v: Tensor,
    decay: Tensor,
    S: Tensor,
    bounds: list[int],
    chunk: int | None,
) -> tuple[Tensor, Tensor]:
    """Return the result and the last states; arguments as ``torch.scan_chunks``."""
    chunk = chunk or _CHUNK
    # in a graph with a symbolic length the minimum is not known
    if not isinstance(q.shape[1], torch.SymInt):
        chunk = min(chunk, _longest(bounds))
    S = S.unflatten(0, (q.shape[0], len(bounds) - 1))  # (B, sequences, H, K, V)
    # the kernels need at least one channel per key
    erase = q[..., :0] if erase is None else erase
    y, S, _ = _differentiable(q, erase, write, v, decay, S, bounds, chunk, torch.is_grad_enabled())
    return y, S.flatten(0, 1)


@torch.library.custom_op("seqmix::gated_delta_native", mutates_args=())
def _scan(
    q: Tensor,
    erase: Tensor,
    write: Tensor,
    v: Tensor,
    decay: Tensor,
    S: Tensor,
    bounds: list[int],
    chunk: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the last states and, if ``keep``, the states on entry to the chunks ``(B, c, H, K, V)``."""
    _require(q, erase, write, v, decay, S, bounds, chunk)
    y, last, marks = _empty_results(q, erase, write, v, decay, S, bounds, chunk, keep)
    results = {"y": y, "last": last, **({"marks": marks} if keep else {})}
    _run({"q": q, "e": erase, "w": write, "v": v, "decay": decay.exp()}, {"S": S}, results, bounds, chunk, back=False)
    return y, last, marks


@torch.library.custom_op("seqmix::gated_delta_native_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    q: Tensor,
    erase: Tensor,
    write: Tensor,
    v: Tensor,
    decay: Tensor,
    S: Tensor,
    marks: Tensor,
    bounds: list[int],
    chunk: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients to q, erase, write, v, decay and the first states."""
    _require(q, erase, write, v, decay, S, bounds, chunk)
    require_operands(q, ("grad_y", grad_y, v.shape), ("grad_last", grad_last, S.shape), dtype=torch.float32)
    require_operands(q, ("marks", marks, _kept(S, q.shape[1], bounds, chunk)), dtype=torch.float32)
    dq, de, dw, dv, ddecay, dS = (torch.empty(t.shape) for t in (q, erase, write, v, decay, S))
    views = {"q": q, "e": erase, "w": write, "v": v, "decay": decay.exp(), "dy": grad_y}
    results = {"dq": dq, "de": de, "dw": dw, "dv": dv, "ddecay": ddecay, "dS": dS}
    _run(views, {"dlast": grad_last, "marks": marks}, results, bounds, chunk, back=True)
    return dq, de, dw, dv, ddecay, dS


def _require(
    q: Tensor, erase: Tensor, write: Tensor, v: Tensor, decay: Tensor, S: Tensor, bounds: list[int], chunk: int
) -> None:
    """Raise ``ValueError`` unless the kernel can read its operands: operators can be called directly."""
    require_axes("q", q, "B L H K")
    require_axes("v", v, "B L H V")
    (B, L, H, K), V = q.shape, v.shape[3]
    require_bounds(bounds, L)
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    channels = decay.shape[-1:] if decay.shape[-1:] in ((1,), (K,)) else (1,)
    require_operands(
        q,
        ("q", q, q.shape),
        ("erase", erase, (B, L, H, K if erase.shape[-1:] != (0,) else 0)),
        ("write", write, q.shape),
        ("v", v, (B, L, H, V)),
        ("decay", decay, (B, L, H, *channels)),
        ("S", S, (B, len(bounds) - 1, H, K, V)),
        dtype=torch.float32,
    )


def _run(
    views: dict[str, Tensor],
    arrays: dict[str, Tensor],
    results: dict[str, Tensor],
    bounds: list[int],
    chunk: int,
    *,
    back: bool,
) -> None:
    (B, L, H, K), V, channels = views["q"].shape, views["v"].shape[3], views["decay"].shape[3]
    erases = views["e"].shape[3] > 0
    views = {name: readable(t) for name, t in views.items()}
    sizes = (B, len(bounds) - 1, L, H, K, V, channels, min(chunk, _longest(bounds)), erases, back)
    arrays = {**arrays, "bounds": torch.tensor(bounds)}
    run("delta", _Delta, views, arrays, results, **dict(zip(_SIZES, sizes, strict=True)))


def _longest(bounds: list[int]) -> int:
    return max(j - i for i, j in pairwise(bounds))


def _kept(S: Tensor, L: int, bounds: list[int], chunk: int) -> tuple[int, ...]:
    """Shape of the states on entry to the chunks, which do not cross bounds."""
    chunks = L // chunk + len(bounds) - 1 if len(bounds) > 2 else -(-L // chunk)
    return S.shape[0], chunks, *S.shape[2:]


def _empty_results(
    q: Tensor,
    erase: Tensor,
    write: Tensor,
    v: Tensor,
    decay: Tensor,
    S: Tensor,
    bounds: list[int],
    chunk: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    # places that no packed chunk fills hold zero
    new = q.new_zeros if len(bounds) > 2 else q.new_empty
    B, chunks, *state = _kept(S, q.shape[1], bounds, chunk)
    return q.new_empty(v.shape), q.new_empty(S.shape), new((B, chunks if keep else 0, *state))


_scan.register_fake(_empty_results)
map_into_batch(_scan)
map_into_batch(_scan_backward)
_differentiable = differentiable(
    _scan, _scan_backward, lambda *args: definition(*args[:7]), tensors=6, results=2, kept=(2,)
)
