"""The recurrence of sLSTM by the compiled kernel: float32 on a CPU, forward and backward."""

import ctypes

import torch
from torch import Tensor

from seqmix.ops.derivatives import differentiable
from seqmix.ops.native.call import run
from seqmix.ops.operands import require_axes, require_operands
from seqmix.ops.slstm.reference import reference
from seqmix.ops.vmap import map_into_channels

_POINTERS = ("gates", "recurrent", "state", "g", "states", "dgates", "dstate")
_SIZES = ("Bt", "L", "H", "P", "back")


class _Slstm(ctypes.Structure):
    """``struct Slstm`` of kernels.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SIZES),
    )


def recurrence(gates: Tensor, recurrent: Tensor, state: Tensor) -> Tensor:
    """Return the states; arguments as ``reference``."""
    return _differentiable(gates, recurrent, state)


@torch.library.custom_op("seqmix::slstm_native", mutates_args=())
def _recurrence(gates: Tensor, recurrent: Tensor, state: Tensor) -> Tensor:
    states = torch.empty(gates.shape)
    _run({"gates": gates, "recurrent": recurrent, "state": state}, {"states": states}, back=False)
    return states


@torch.library.custom_op("seqmix::slstm_native_backward", mutates_args=())
def _backward(
    grad: Tensor, gates: Tensor, recurrent: Tensor, state: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients to gates, recurrent and state."""
    heard = torch.cat([state[:, None, 0], states[:, :-1, 0]], 1)  # (Bt, L, H, P), the outputs before each step
    gates = gates + torch.einsum("blhi,hoi->blho", heard, recurrent).unflatten(3, (4, -1)).transpose(2, 3)
    dgates, dstate = torch.empty(gates.shape), torch.empty(state.shape)
    arrays = {"gates": gates, "recurrent": recurrent, "state": state, "g": grad, "states": states}
    _run(arrays, {"dgates": dgates, "dstate": dstate}, back=True)
    # a product of matrices for each gate, without copies of what is as large as the sequence
    before = heard.flatten(0, 1).transpose(0, 1)  # (H, Bt L, P)
    of_gates = dgates.flatten(0, 1).permute(1, 2, 3, 0)  # (4, H, P, Bt L)
    return dgates, torch.stack([gate @ before for gate in of_gates], 1).flatten(1, 2), dstate


def _run(arrays: dict[str, Tensor], results: dict[str, Tensor], *, back: bool) -> None:
    gates = arrays["gates"]
    # the operator can be called directly, without the checks of the public function
    require_axes("gates", gates, "Bt L 4 H P")
    Bt, L, _, H, P = gates.shape
    along = (Bt, L, 4, H, P)
    require_operands(
        gates,
        ("gates", gates, along),
        ("recurrent", arrays["recurrent"], (H, 4 * P, P)),
        ("state", arrays["state"], (Bt, 4, H, P)),
        optional=[(name, arrays.get(name), along) for name in ("g", "states")],
        dtype=torch.float32,
    )
    run("slstm", _Slstm, {}, arrays, results, **dict(zip(_SIZES, (Bt, L, H, P, back), strict=True)))


_recurrence.register_fake(lambda gates, recurrent, state: gates.new_empty(gates.shape))
map_into_channels(_recurrence, (3, 0, 2), (3,))
map_into_channels(_backward, (3, 3, 0, 2, 3), (3, 0, 2))
_differentiable = differentiable(_recurrence, _backward, reference, tensors=3, kept=(0,))
