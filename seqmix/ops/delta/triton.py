"""Gated delta rule on a GPU: chunks as in ``torch.py``, walked along by one program for each head and block of values.

The state that enters each chunk is stored; the backward pass starts from it, computes the rest of the chunk again, and
keeps sums over values apart by block, so that results do not vary between runs. Tested in Triton's interpreter and
compiled for sm_90; never timed on a GPU.
"""

# Triton is not installed where types are checked
# pyright: reportMissingImports=false, reportIndexIssue=false, reportAttributeAccessIssue=false

import torch
import triton
from torch import Tensor

from seqmix.ops.delta._triton_kernels import backward_kernel, forward_kernel
from seqmix.ops.delta.rows import definition
from seqmix.ops.derivatives import differentiable
from seqmix.ops.vmap import map_into_batch

# positions per chunk: tensor-core tiles have at least 16 rows, and pairs are processed one by one
_CHUNK = 16
# elements of a state per program: with keys of 64 the forward pass fits its registers, as compiled for sm_90
_STATE = 2048


def gated_delta(
    q: Tensor,
    erase: Tensor | None,
    write: Tensor,
    v: Tensor,
    decay: Tensor,
    S: Tensor,
    bounds: list[int],
    _: int | None,
) -> tuple[Tensor, Tensor]:
    """Return the result and the last states; arguments as ``torch.scan_chunks``, the size of a chunk is fixed."""
    S = S.unflatten(0, (q.shape[0], len(bounds) - 1))  # (B, sequences, H, K, V)
    # the kernels need at least one channel per key
    erase = q[..., :0] if erase is None else erase
    y, last, _ = _differentiable(q, erase, write, v, decay, S, bounds, torch.is_grad_enabled())
    return y, last.flatten(0, 1)


@torch.library.custom_op("seqmix::gated_delta_triton", mutates_args=())
def _scan(
    q: Tensor, erase: Tensor, write: Tensor, v: Tensor, decay: Tensor, S: Tensor, bounds: list[int], keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the last states and, if ``keep``, the states on entry to the chunks ``(B, c, H, K, V)``."""
    y, last, marks = _empty_results(q, erase, write, v, decay, S, bounds, keep)
    inputs = [t.contiguous() for t in (q, erase, write, v, decay, S)]
    grid, sizes = _layout(q, erase, v, decay, bounds)
    with torch.cuda.device_of(q):
        forward_kernel[grid](*inputs, torch.tensor(bounds, device=q.device), y, last, marks, **sizes, keep=keep)
    return y, last, marks


@torch.library.custom_op("seqmix::gated_delta_triton_backward", mutates_args=())
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
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients to q, erase, write, v, decay and the first states."""
    grid, sizes = _layout(q, erase, v, decay, bounds)
    parts = [t.new_empty(grid[2], *t.shape) for t in (q, erase, write, decay)]
    dq, de, dw, dg = parts
    dv, dS = v.new_empty(v.shape), S.new_empty(S.shape)
    inputs = [t.contiguous() for t in (grad_y, grad_last, q, erase, write, v, decay, marks)]
    with torch.cuda.device_of(q):
        results = (torch.tensor(bounds, device=q.device), dq, de, dw, dv, dg, dS)
        backward_kernel[grid](*inputs, *results, **sizes, positions=q.shape[0] * q.shape[1])
    dq, de, dw, dg = (t.sum(0) for t in parts)
    return dq, de, dw, dv, dg, dS


def _layout(
    q: Tensor, erase: Tensor, v: Tensor, decay: Tensor, bounds: list[int]
) -> tuple[tuple[int, int, int], dict[str, int | str | bool]]:
    """Programs of a kernel, and the sizes that both take."""
    (B, L, H, K), V = q.shape, v.shape[3]
    BK = max(16, triton.next_power_of_2(K))
    BV = max(16, min(triton.next_power_of_2(V), _STATE // BK))
    sizes = {"L": L, "H": H, "K": K, "V": V, "sequences": len(bounds) - 1, "chunks": _chunks(L, bounds)}
    sizes |= {"C": _CHUNK, "BK": BK, "BV": BV, "channels": decay.shape[3] > 1, "erases": erase.shape[3] > 0}
    precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"
    return (B * (len(bounds) - 1), H, triton.cdiv(V, BV)), {**sizes, "precision": precision, "num_warps": 8}


def _chunks(L: int, bounds: list[int]) -> int:
    """Places for the chunks of a row, which do not cross bounds."""
    return L // _CHUNK + len(bounds) - 1


def _empty_results(
    q: Tensor, erase: Tensor, write: Tensor, v: Tensor, decay: Tensor, S: Tensor, bounds: list[int], keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    chunks = _chunks(q.shape[1], bounds) if keep else 0
    # places that no packed chunk fills hold zero
    return q.new_empty(v.shape), q.new_empty(S.shape), q.new_zeros(S.shape[0], chunks, *S.shape[2:])


_scan.register_fake(_empty_results)
map_into_batch(_scan)
map_into_batch(_scan_backward)
_differentiable = differentiable(
    _scan, _scan_backward, lambda *args: definition(*args[:7]), tensors=6, results=2, kept=(2,)
)
