"""Root mean square norm by the compiled kernel: float32 on a CPU, forward and backward."""

import ctypes

import torch
from torch import Tensor

from seqmix.ops.derivatives import differentiable
from seqmix.ops.native import instruction_set, library
from seqmix.ops.native.view import View, readable, view
from seqmix.ops.norm.reference import reference
from seqmix.ops.vmap import map_into_channels

_VIEWS = ("x", "z", "g")
_POINTERS = ("weight", "y", "dx", "dz", "dweight")
_SIZES = ("Bt", "L", "G", "W", "gate_first")


class _Norm(ctypes.Structure):
    """``struct Norm`` of kernels.cpp."""

    _fields_ = (
        *((name, View) for name in _VIEWS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SIZES),
        ("eps", ctypes.c_double),
    )


def norm(x: Tensor, weight: Tensor, z: Tensor, eps: float, gate_first: bool) -> Tensor:
    """Return the norm; arguments as ``reference``."""
    return _differentiable(x, weight, z, eps, gate_first)


@torch.library.custom_op("seqmix::rms_norm_native", mutates_args=())
def _norm(x: Tensor, weight: Tensor, z: Tensor, eps: float, gate_first: bool) -> Tensor:
    y = torch.empty(x.shape)
    _run({"x": x, "weight": weight, "z": z, "y": y}, eps, gate_first)
    return y


@torch.library.custom_op("seqmix::rms_norm_native_backward", mutates_args=())
def _backward(
    g: Tensor, x: Tensor, weight: Tensor, z: Tensor, eps: float, gate_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients to x, weight and z."""
    dx, dweight, dz = (torch.empty(t.shape) for t in (x, weight, z))
    tensors = {"g": g, "x": x, "weight": weight, "z": z}
    _run(tensors | {"dx": dx, "dweight": dweight, "dz": dz}, eps, gate_first)
    return dx, dweight, dz


def _run(tensors: dict[str, Tensor], eps: float, gate_first: bool) -> None:
    kernels = library()
    assert kernels is not None
    tensors = {name: readable(t) if name in _VIEWS else t.contiguous() for name, t in tensors.items()}
    call = _Norm(
        **{name: view(t) if name in _VIEWS else t.data_ptr() for name, t in tensors.items()},
        **dict(zip(_SIZES, (*tensors["x"].shape, gate_first), strict=True)),
        eps=eps,
    )
    if kernels.seqmix_norm(ctypes.byref(call), instruction_set(), torch.get_num_threads()):
        raise MemoryError("no memory for the rows of rms_norm; use impl='torch'")


_norm.register_fake(lambda x, weight, z, eps, gate_first: x.new_empty(x.shape))
_backward.register_fake(lambda g, *inputs: tuple(t.new_empty(t.shape) for t in inputs[:3]))
map_into_channels(_norm, (2, 0, 2), (2,))
map_into_channels(_backward, (2, 2, 0, 2), (2, 0, 2))
_differentiable = differentiable(_norm, _backward, reference, tensors=3)
