"""State space dual by the compiled kernel, in one direction or both: float32 on a CPU, forward and backward."""

import ctypes
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from seqmix.ops.derivatives import differentiable
from seqmix.ops.native.call import View, readable, run
from seqmix.ops.operands import require_axes, require_groups, require_operands
from seqmix.ops.packed import require_bounds
from seqmix.ops.ssd.rows import many_ways
from seqmix.ops.vmap import map_into_batch

# positions per chunk: longer chunks cost arithmetic, shorter ones memory
_CHUNK = 64
# axes with strides of their own
_VIEWS = {"x": 2, "dt": 2, "a": 2, "B": 3, "C": 3, "dy": 2}
_POINTERS = ("S", "dlast", "bounds", "y", "last", "marks", "dx", "ddt", "da", "dB", "dC", "dS")
_SIZES = (
    *("rows", "sequences", "L", "H", "P", "ways", "G", "N", "chunk", "parts"),
    *("reverse", "strict", "back", "B_way", "C_way"),
)


class _Ssd(ctypes.Structure):
    """``struct Ssd`` of kernels.cpp."""

    _fields_ = (
        *((name, View) for name in _VIEWS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SIZES),
    )


def ssd(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    S: Tensor,
    bounds: list[int],
    reverse: bool,
    chunk: int | None,
) -> tuple[Tensor, Tensor]:
    """Return the result and the last states; arguments as ``rows.one_way``, and the size of a chunk."""
    dt, a, B, C = (t.unsqueeze(2) for t in (dt, a, B, C))
    y, S = scan_ways(x, dt, a, B, C, S.unsqueeze(1), bounds, chunk=chunk, reverse=reverse, strict=False)
    return y, S.squeeze(1)


def scan_ways(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    S: Tensor,
    bounds: list[int],
    *,
    chunk: int | None,
    reverse: bool,
    strict: bool,
) -> tuple[Tensor, Tensor]:
    """Run W = 1 direction, or two opposite ones, and add their results.

    Args:
        x: values ``(B, L, H, P)``.
        dt: step sizes ``(B, L, W, H)``.
        a: log decays, likewise.
        B: what is written ``(B, L, W, G, N)``.
        C: what is read, likewise.
        S: first states ``(B, W, H, P, N)``, packed ``(S, W, H, P, N)``.
        bounds: bounds of the sequences along L.
        chunk: positions per chunk, 64 by default.
        reverse: the first direction runs from the last position to the first.
        strict: position i reads the state after the position before it, with the C of that.

    Returns:
        ``(B, L, H, P)``, and the last states, shaped like ``S``.
    """
    chunk = chunk or _CHUNK
    # in a graph with a symbolic length the minimum is not known
    if not isinstance(x.shape[1], torch.SymInt):
        chunk = min(chunk, _longest(bounds))
    S = S.unflatten(0, (x.shape[0], len(bounds) - 1))  # (B, sequences, W, H, P, N)
    y, S, _ = _differentiable(x, dt, a, B, C, S, bounds, chunk, reverse, strict, torch.is_grad_enabled())
    return y, S.flatten(0, 1)


@torch.library.custom_op("seqmix::ssd_native", mutates_args=())
def _scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    S: Tensor,
    bounds: list[int],
    chunk: int,
    reverse: bool,
    strict: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the last states and, if ``keep``, the states on entry to the chunks ``(B, c, W, H, N, P)``."""
    _require(x, dt, a, B, C, S, bounds, chunk)
    y, last, marks = _empty_results(x, dt, a, B, C, S, bounds, chunk, reverse, strict, keep)
    results = {"y": y, "last": last, **({"marks": marks} if keep else {})}
    views = {"x": x, "dt": dt, "a": a, "B": B, "C": C}
    _run(views, {"S": S}, results, bounds, chunk, _parts(x, B, bounds), reverse, strict, back=False)
    return y, last, marks


@torch.library.custom_op("seqmix::ssd_native_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    S: Tensor,
    marks: Tensor,
    bounds: list[int],
    chunk: int,
    reverse: bool,
    strict: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients to x, dt, a, B, C and the first states."""
    _require(x, dt, a, B, C, S, bounds, chunk)
    require_operands(x, ("grad_y", grad_y, x.shape), ("grad_last", grad_last, S.shape), dtype=torch.float32)
    require_operands(x, ("marks", marks, _kept(x, B, bounds, chunk)), dtype=torch.float32)
    parts = _parts(x, B, bounds)
    dx, ddt, da, dS = (torch.empty(t.shape) for t in (x, dt, a, grad_last))
    dB, dC = torch.empty(parts, *B.shape), torch.empty(parts, *C.shape)
    views, arrays = {"x": x, "dt": dt, "a": a, "B": B, "C": C, "dy": grad_y}, {"dlast": grad_last, "marks": marks}
    results = {"dx": dx, "ddt": ddt, "da": da, "dB": dB, "dC": dC, "dS": dS}
    _run(views, arrays, results, bounds, chunk, parts, reverse, strict, back=True)
    dB, dC = (t[0] if parts == 1 else t.sum(0) for t in (dB, dC))
    return dx, ddt, da, dB, dC, dS


def _require(x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, S: Tensor, bounds: list[int], chunk: int) -> None:
    """Raise ``ValueError`` unless the kernel can read its operands: operators can be called directly."""
    require_axes("x", x, "B L H P")
    require_axes("B", B, "B L W G N")
    (Bt, L, H, P), (W, G, N) = x.shape, B.shape[2:]
    require_bounds(bounds, L)
    require_groups("H", H, G)
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    steps = (Bt, L, W, H)
    require_operands(x, ("dt", dt, steps), ("a", a, steps), ("B", B, (Bt, L, W, G, N)), ("C", C, B.shape))
    require_operands(x, ("S", S, (Bt, len(bounds) - 1, W, H, P, N)))
    require_operands(x, *((n, t, t.shape) for n, t in (("x", x), ("dt", dt), ("S", S))), dtype=torch.float32)


def _run(
    views: dict[str, Tensor],
    arrays: dict[str, Tensor],
    results: dict[str, Tensor],
    bounds: list[int],
    chunk: int,
    parts: int,
    reverse: bool,
    strict: bool,
    *,
    back: bool,
) -> None:
    (Bt, L, H, P), (W, G, N) = views["x"].shape, views["B"].shape[2:]
    chunk = min(chunk, _longest(bounds))
    # this kernel has no vector code for bfloat16
    views = {name: readable(t.float(), _VIEWS[name]) for name, t in views.items()}
    sizes = (Bt, len(bounds) - 1, L, H, P, W, G, N, chunk, parts, reverse, strict, back)
    apart = (views["B"].stride(2), views["C"].stride(2))
    arrays = {**arrays, "bounds": torch.tensor(bounds)}
    run("ssd", _Ssd, views, arrays, results, **dict(zip(_SIZES, sizes + apart, strict=True)))


def _longest(bounds: list[int]) -> int:
    return max(j - i for i, j in pairwise(bounds))


def _parts(x: Tensor, B: Tensor, bounds: list[int]) -> int:
    """Cut the heads of each group into so many parts, where there are fewer sequences and groups than threads."""
    threads, G = torch.get_num_threads(), B.shape[3]
    jobs = max(1, x.shape[0] * (len(bounds) - 1) * G)
    return min(threads, x.shape[2] // G) if jobs % threads and jobs < 4 * threads else 1


def _kept(x: Tensor, B: Tensor, bounds: list[int], chunk: int) -> tuple[int, ...]:
    """Shape of the states on entry to the chunks, which do not cross bounds."""
    (Bt, L, H, P), (W, _, N) = x.shape, B.shape[2:]
    chunks = L // chunk + len(bounds) - 1 if len(bounds) > 2 else -(-L // chunk)
    return Bt, chunks, W, H, N, P


def _empty_results(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    S: Tensor,
    bounds: list[int],
    chunk: int,
    reverse: bool,
    strict: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    # places that no packed chunk fills hold zero
    new = dt.new_zeros if len(bounds) > 2 else dt.new_empty
    Bt, chunks, *state = _kept(x, B, bounds, chunk)
    return dt.new_empty(x.shape), dt.new_empty(S.shape), new((Bt, chunks if keep else 0, *state))


def _definition(*args: Any) -> tuple[Tensor, Tensor]:
    x, dt, a, B, C, S, bounds, _, reverse, strict, _ = args
    y, last = many_ways(x, dt, a, B, C, S.flatten(0, 1), bounds, reverse=reverse, strict=strict)
    return y, last.view(S.shape)


_scan.register_fake(_empty_results)
map_into_batch(_scan)
map_into_batch(_scan_backward)
_differentiable = differentiable(_scan, _scan_backward, _definition, tensors=6, results=2, kept=(2,))
