"""Root mean square norm by the compiled kernel: float32 on a CPU, forward and backward."""

import ctypes

import torch
from torch import Tensor

from seqmix.ops.derivatives import differentiable
from seqmix.ops.native.call import View, readable, run
from seqmix.ops.norm.reference import reference
from seqmix.ops.operands import require_axes, require_operands
from seqmix.ops.vmap import map_into_channels

_POINTERS = ("weight", "y", "dx", "dz", "dweight")
_SIZES = ("Bt", "L", "G", "W", "gate_first", "back")


class _Norm(ctypes.Structure):
    """``struct Norm`` of kernels.cpp."""

    _fields_ = (
        *((name, View) for name in ("x", "z", "g")),
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
    _run({"x": x, "z": z}, weight, {"y": y}, eps, gate_first, back=False)
    return y


@torch.library.custom_op("seqmix::rms_norm_native_backward", mutates_args=())
def _backward(
    g: Tensor, x: Tensor, weight: Tensor, z: Tensor, eps: float, gate_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients to x, weight and z."""
    dx, dweight, dz = (torch.empty(t.shape) for t in (x, weight, z))
    results = {"dx": dx, "dweight": dweight, "dz": dz}
    _run({"x": x, "z": z, "g": g}, weight, results, eps, gate_first, back=True)
    return dx, dweight, dz


def _run(
    views: dict[str, Tensor], weight: Tensor, results: dict[str, Tensor], eps: float, gate_first: bool, *, back: bool
) -> None:
    x = views["x"]
    # the operator can be called directly, without the checks of the public function
    require_axes("x", x, "B L G W")
    require_operands(x, ("weight", weight, x.shape[2:]), dtype=torch.float32)
    like = (*x.shape[:3], x.shape[3] if views["z"].numel() else 0)
    require_operands(x, ("z", views["z"], like), optional=[("g", views.get("g"), x.shape)])
    views = {name: readable(t.float()) for name, t in views.items()}
    sizes = dict(zip(_SIZES, (*x.shape, gate_first, back), strict=True))
    run("norm", _Norm, views, {"weight": weight}, results, **sizes, eps=eps)


_norm.register_fake(lambda x, weight, z, eps, gate_first: x.new_empty(x.shape))
map_into_channels(_norm, (2, 0, 2), (2,))
map_into_channels(_backward, (2, 2, 0, 2), (2, 0, 2))
_differentiable = differentiable(_norm, _backward, reference, tensors=3)
