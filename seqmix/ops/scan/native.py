"""Selective scan by the compiled kernel: float32 and bfloat16 on a CPU, forward and backward."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from seqmix.ops.derivatives import differentiable
from seqmix.ops.native.call import View, readable, run
from seqmix.ops.operands import require_axes, require_groups, require_operands
from seqmix.ops.packed import require_bounds
from seqmix.ops.scan.reference import reference
from seqmix.ops.scan.rows import either_way, on_rows
from seqmix.ops.vmap import map_into_channels

# steps between two stored states
_CHUNK = 32
_VIEWS = ("u", "dt", "B", "C", "z", "dy")
_POINTERS = (
    *("A", "bias", "skip", "h", "dlast", "bounds", "y", "inner", "last", "marks"),
    *("du", "ddt", "dA", "dB", "dC", "dskip", "dz", "dh"),
)
_SIZES = ("items", "L", "D", "G", "N", "chunk", "parts", "zoh", "reverse", "back")


class _Scan(ctypes.Structure):
    """``struct Scan`` of kernels.cpp."""

    _fields_ = (
        *((name, View) for name in _VIEWS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SIZES),
    )


def scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    h: Tensor,
    bias: Tensor,
    skip: Tensor,
    z: Tensor,
    zoh: bool,
    reverse: bool,
    bounds: list[int],
) -> tuple[Tensor, Tensor]:
    """Return y and the last states; arguments as all implementations have them."""
    y, h, _, _ = _differentiable(u, dt, A, B, C, h, bias, skip, z, zoh, reverse, bounds, torch.is_grad_enabled())
    return y, h


@torch.library.custom_op("seqmix::selective_scan_native", mutates_args=())
def _scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    h: Tensor,
    bias: Tensor,
    skip: Tensor,
    z: Tensor,
    zoh: bool,
    reverse: bool,
    bounds: list[int],
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return y, the last state and, if ``keep``, states for the backward pass to start from and y before the gate."""
    _require(u, dt, A, B, C, h, bias, skip, z, bounds)
    y, last, marks, inner = _empty_results(u, dt, B, h, z, bounds, keep)
    views, arrays = {"u": u, "dt": dt, "B": B, "C": C, "z": z}, {"A": A, "h": h, "bias": bias, "skip": skip}
    results = {"y": y, "last": last, "marks": marks, "inner": inner}
    _run(views, arrays, results, zoh, reverse, bounds, _parts(A, B, bounds), back=False)
    return y, last, marks, inner


@torch.library.custom_op("seqmix::selective_scan_native_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    h: Tensor,
    bias: Tensor,
    skip: Tensor,
    z: Tensor,
    marks: Tensor,
    inner: Tensor,
    zoh: bool,
    reverse: bool,
    bounds: list[int],
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients to u, dt, A, B, C, the initial state, the bias, the skip and the gate."""
    _require(u, dt, A, B, C, h, bias, skip, z, bounds)
    of_marks, of_inner = _kept(u, B, h, z, bounds, True)
    require_operands(u, ("grad_y", grad_y, u.shape), ("grad_last", grad_last, h.shape), dtype=torch.float32)
    require_operands(u, ("marks", marks, of_marks), ("inner", inner, of_inner), dtype=torch.float32)
    parts = _parts(A, B, bounds)
    du, ddt, dA, dh, dskip, dz = (torch.empty(x.shape) for x in (u, dt, A, grad_last, skip, z))
    dB, dC = torch.empty(parts, *B.shape), torch.empty(parts, *C.shape)
    views, arrays = {"u": u, "dt": dt, "B": B, "C": C, "z": z, "dy": grad_y}, {"A": A, "bias": bias, "skip": skip}
    arrays |= {"dlast": grad_last, "marks": marks, "inner": inner}
    results = {"du": du, "ddt": ddt, "dA": dA, "dB": dB, "dC": dC, "dh": dh, "dskip": dskip, "dz": dz}
    _run(views, arrays, results, zoh, reverse, bounds, parts, back=True)
    dB, dC = (x[0] if parts == 1 else x.sum(0) for x in (dB, dC))
    dbias = ddt.sum((0, 1)) if len(bias) else torch.empty(0)
    return du.to(u.dtype), ddt.to(dt.dtype), dA, dB.to(B.dtype), dC.to(C.dtype), dh, dbias, dskip, dz.to(z.dtype)


def _require(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    h: Tensor,
    bias: Tensor,
    skip: Tensor,
    z: Tensor,
    bounds: list[int],
) -> None:
    """Raise ``ValueError`` unless the kernel can read its operands: operators can be called directly."""
    require_axes("u", u, "Bt L D")
    require_axes("B", B, "Bt L G N")
    (Bt, L, D), (G, N) = u.shape, B.shape[2:]
    require_bounds(bounds, L)
    items = len(bounds) - 1 if _packed(bounds) else Bt
    require_groups("D", D, G)
    require_operands(u, ("B", B, (Bt, L, G, N)), ("C", C, B.shape), ("z", z, (Bt, L, D if z.numel() else 0)))
    require_operands(
        u,
        ("dt", dt, u.shape),
        ("A", A, (D, N)),
        ("h", h, (items if h.numel() else 0, D, N)),
        ("bias", bias, (D if bias.numel() else 0,)),
        ("skip", skip, (D if skip.numel() else 0,)),
        dtype=torch.float32,
    )
    if _packed(bounds) and Bt != 1:
        raise ValueError(f"packed sequences need a batch of one, got {Bt}")


def _run(
    views: dict[str, Tensor],
    arrays: dict[str, Tensor],
    results: dict[str, Tensor],
    zoh: bool,
    reverse: bool,
    bounds: list[int],
    parts: int,
    *,
    back: bool,
) -> None:
    (Bt, L, D), (G, N) = views["u"].shape, views["B"].shape[2:]
    items = len(bounds) - 1 if _packed(bounds) else Bt
    if _packed(bounds):
        arrays = {**arrays, "bounds": torch.tensor(bounds)}
    views = {name: readable(x) for name, x in views.items()}
    sizes = dict(zip(_SIZES, (items, L, D, G, N, _CHUNK, parts, zoh, reverse, back), strict=True))
    run("scan", _Scan, views, arrays, results, **sizes)


def _packed(bounds: list[int]) -> bool:
    return len(bounds) > 2


def _parts(A: Tensor, B: Tensor, bounds: list[int]) -> int:
    """Cut each item and group into so many parts of its channels, where there are fewer of them than threads."""
    threads, G = torch.get_num_threads(), B.shape[2]
    jobs = max(1, (len(bounds) - 1 if _packed(bounds) else B.shape[0]) * G)
    return max(1, min(threads, A.shape[0] // G // 16)) if jobs % threads and jobs < 4 * threads else 1


def _kept(
    u: Tensor, B: Tensor, h: Tensor, z: Tensor, bounds: list[int], keep: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the states for the backward pass to start from, and of y before the gate."""
    (Bt, L, D), N = u.shape, B.shape[3]
    if not keep:
        return (0, N, D), (Bt, L, 0)
    if _packed(bounds):
        return (L // _CHUNK + len(bounds) - 1, N, D), z.shape
    # a single chunk without initial state starts from zero
    return (Bt * -(-L // _CHUNK) if len(h) or L > _CHUNK else 0, N, D), z.shape


def _empty_results(
    u: Tensor, dt: Tensor, B: Tensor, h: Tensor, z: Tensor, bounds: list[int], keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    marks, inner = _kept(u, B, h, z, bounds, keep)
    # packed chunks do not cross bounds; places that they do not fill hold zero
    new = h.new_zeros if _packed(bounds) else h.new_empty
    return dt.new_empty(u.shape), h.new_empty(h.shape), new(marks), dt.new_empty(inner)


def _definition(*args: Any) -> tuple[Tensor, Tensor]:
    y, h = on_rows(either_way(reference))(*args[:-1])
    # states are returned only on request
    return y, h[: len(args[5])]


_scan.register_fake(
    lambda u, dt, A, B, C, h, bias, skip, z, zoh, reverse, bounds, keep: _empty_results(u, dt, B, h, z, bounds, keep)
)
map_into_channels(_scan, (2, 2, 0, 2, 2, 1, 0, 0, 2), (2, 1, 2, 2))
map_into_channels(_scan_backward, (2, 1, 2, 2, 0, 2, 2, 1, 0, 0, 2, 2, 2), (2, 2, 0, 2, 2, 1, 0, 0, 2))
_differentiable = differentiable(_scan, _scan_backward, _definition, tensors=9, results=2, kept=(2, 3))
