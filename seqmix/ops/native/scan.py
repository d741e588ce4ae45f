"""Selective scan by the compiled kernel: float32 on a CPU, forward and backward."""

import ctypes

import torch
from torch import Tensor

from seqmix.ops._scan_autograd import differentiable
from seqmix.ops.native import instruction_set, library

# steps between two stored states
_CHUNK = 32
_POINTERS = ("u", "dt", "A", "B", "C", "h", "dy", "dlast", "y", "last", "marks", "du", "ddt", "dA", "dB", "dC", "dh")
_SIZES = ("Bt", "L", "D", "G", "N", "chunk", "parts")


class _Scan(ctypes.Structure):
    """``struct Scan`` of scan.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SIZES),
        ("zoh", ctypes.c_int32),
        ("reverse", ctypes.c_int32),
    )


def scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, zoh: bool, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Return y and the last state; arguments as ``scan._reference``, in float32."""
    y, h, _ = _scan(u, dt, A, B, C, h, zoh, reverse)
    return y, h


@torch.library.custom_op("seqmix::selective_scan_native", mutates_args=())
def _scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, zoh: bool, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the last state and the states from which the backward pass starts."""
    y, last, marks = _empty_results(u, B, h)
    tensors = {"u": u, "dt": dt, "A": A, "B": B, "C": C, "h": h, "y": y, "last": last, "marks": marks}
    _run(tensors, B.shape[2], zoh, reverse, parts=1)
    return y, last, marks


@torch.library.custom_op("seqmix::selective_scan_native_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    marks: Tensor,
    zoh: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients to u, dt, A, B, C and the initial state."""
    # jobs are batch items and groups; where these are fewer than threads, each is cut into parts of its channels
    parts = -(-torch.get_num_threads() // max(1, B.shape[0] * B.shape[2]))
    parts = max(1, min(parts, A.shape[0] // B.shape[2] // 16))
    du, ddt, dA, dh = (torch.empty(x.shape) for x in (u, dt, A, grad_last))
    dB, dC = torch.empty(parts, *B.shape), torch.empty(parts, *C.shape)
    tensors = {"u": u, "dt": dt, "A": A, "B": B, "C": C, "dy": grad_y, "dlast": grad_last, "marks": marks}
    results = {"du": du, "ddt": ddt, "dA": dA, "dB": dB, "dC": dC, "dh": dh}
    _run(tensors | results, B.shape[2], zoh, reverse, parts=parts)
    return du, ddt, dA, dB.sum(0), dC.sum(0), dh


def _run(tensors: dict[str, Tensor], G: int, zoh: bool, reverse: bool, *, parts: int) -> None:
    kernels = library()
    assert kernels is not None
    # the results are contiguous already, so that the kernel writes into them and not into a copy
    tensors = {name: x.contiguous() for name, x in tensors.items()}
    Bt, L, D = tensors["u"].shape
    call = _Scan(
        **{name: x.data_ptr() for name, x in tensors.items()},
        **dict(zip(_SIZES, (Bt, L, D, G, tensors["A"].shape[1], _CHUNK, parts), strict=True)),
        zoh=zoh,
        reverse=reverse,
    )
    if kernels.seqmix_scan(ctypes.byref(call), instruction_set(), torch.get_num_threads()):
        raise MemoryError("no memory for the states of selective_scan; use a smaller batch, or impl='torch'")


def _empty_results(u: Tensor, B: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    Bt, L, D = u.shape
    G, N = B.shape[2:]
    lanes = G * -(-D // G // 16) * 16
    # zeros, as the kernel leaves the lanes that it has no channel for
    return u.new_empty(u.shape), u.new_empty(h.shape), u.new_zeros(-(-L // _CHUNK), Bt, lanes, N)


differentiable(_scan, _scan_backward, _empty_results)
