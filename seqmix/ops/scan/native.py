"""Selective scan by the compiled kernel: float32 and bfloat16 on a CPU, forward and backward."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from seqmix.ops.derivatives import differentiable
from seqmix.ops.native import instruction_set, library
from seqmix.ops.native.view import View, readable, view
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
_SIZES = ("items", "L", "D", "G", "N", "chunk", "parts", "zoh", "reverse")


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
    y, last, marks, inner = _empty_results(u, dt, B, h, z, bounds, keep)
    tensors = {"u": u, "dt": dt, "A": A, "B": B, "C": C, "h": h, "bias": bias, "skip": skip, "z": z}
    results = {"y": y, "last": last, "marks": marks, "inner": inner}
    _run(tensors | results, zoh, reverse, bounds, _parts(A, B, bounds))
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
    parts = _parts(A, B, bounds)
    du, ddt, dA, dh, dskip, dz = (torch.empty(x.shape) for x in (u, dt, A, grad_last, skip, z))
    dB, dC = torch.empty(parts, *B.shape), torch.empty(parts, *C.shape)
    tensors = {"u": u, "dt": dt, "A": A, "B": B, "C": C, "bias": bias, "skip": skip, "z": z}
    tensors |= {"dy": grad_y, "dlast": grad_last, "marks": marks, "inner": inner}
    results = {"du": du, "ddt": ddt, "dA": dA, "dB": dB, "dC": dC, "dh": dh, "dskip": dskip, "dz": dz}
    _run(tensors | results, zoh, reverse, bounds, parts)
    dB, dC = (x[0] if parts == 1 else x.sum(0) for x in (dB, dC))
    dbias = ddt.sum((0, 1)) if len(bias) else torch.empty(0)
    return du.to(u.dtype), ddt.to(dt.dtype), dA, dB.to(B.dtype), dC.to(C.dtype), dh, dbias, dskip, dz.to(z.dtype)


def _run(tensors: dict[str, Tensor], zoh: bool, reverse: bool, bounds: list[int], parts: int) -> None:
    kernels = library()
    assert kernels is not None
    # the results are contiguous already, so that the kernel writes into them and not into a copy
    tensors = {name: readable(x) if name in _VIEWS else x.contiguous() for name, x in tensors.items()}
    if _packed(bounds):
        tensors["bounds"] = torch.tensor(bounds)
    (Bt, L, D), (G, N) = tensors["u"].shape, tensors["B"].shape[2:]
    items = len(bounds) - 1 if _packed(bounds) else Bt
    call = _Scan(
        **{name: view(x) if name in _VIEWS else x.data_ptr() for name, x in tensors.items()},
        **dict(zip(_SIZES, (items, L, D, G, N, _CHUNK, parts, zoh, reverse), strict=True)),
    )
    if kernels.seqmix_scan(ctypes.byref(call), instruction_set(), torch.get_num_threads()):
        raise MemoryError("no memory for the states of selective_scan; use a smaller batch, or impl='torch'")


def _packed(bounds: list[int]) -> bool:
    return len(bounds) > 2


def _parts(A: Tensor, B: Tensor, bounds: list[int]) -> int:
    """Cut each item and group into so many parts of its channels, where there are fewer of them than threads."""
    threads, G = torch.get_num_threads(), B.shape[2]
    jobs = max(1, (len(bounds) - 1 if _packed(bounds) else B.shape[0]) * G)
    return max(1, min(threads, A.shape[0] // G // 16)) if jobs % threads and jobs < 4 * threads else 1


def _empty_results(
    u: Tensor, dt: Tensor, B: Tensor, h: Tensor, z: Tensor, bounds: list[int], keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    Bt, L, D = u.shape
    if not keep:
        marks = h.new_empty(0, B.shape[3], D)
    elif _packed(bounds):
        # chunks do not cross bounds, and where they do not fill their places these hold zero
        marks = h.new_zeros(L // _CHUNK + len(bounds) - 1, B.shape[3], D)
    else:
        # one chunk without states starts from zero
        chunks = -(-L // _CHUNK) if len(h) or L > _CHUNK else 0
        marks = h.new_empty(Bt * chunks, B.shape[3], D)
    return dt.new_empty(u.shape), h.new_empty(h.shape), marks, dt.new_empty(z.shape if keep else (Bt, L, 0))


def _definition(*args: Any) -> tuple[Tensor, Tensor]:
    y, h = on_rows(either_way(reference))(*args[:-1])
    # where nobody asks for states there are none
    return y, h[: len(args[5])]


def _empty_gradients(_: Tensor, __: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in inputs[:9])


_scan.register_fake(
    lambda u, dt, A, B, C, h, bias, skip, z, zoh, reverse, bounds, keep: _empty_results(u, dt, B, h, z, bounds, keep)
)
_scan_backward.register_fake(_empty_gradients)
map_into_channels(_scan, (2, 2, 0, 2, 2, 1, 0, 0, 2), (2, 1, 2, 2))
map_into_channels(_scan_backward, (2, 1, 2, 2, 0, 2, 2, 1, 0, 0, 2, 2, 2), (2, 2, 0, 2, 2, 1, 0, 0, 2))
_differentiable = differentiable(_scan, _scan_backward, _definition, tensors=9, results=2, kept=(2, 3))
