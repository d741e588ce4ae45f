"""Gated delta rule: operands are checked and prepared, then an implementation runs; and its matrix.

Yang, Kautz and Hatamizadeh, 2024, arXiv:2412.06464; Schlag et al., 2021, arXiv:2102.11174.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqmix.ops.delta import native
from seqmix.ops.delta.prepare import Operands, operands
from seqmix.ops.delta.rows import by_rows
from seqmix.ops.delta.torch import pair_products, scan_chunks
from seqmix.ops.dispatch import enter, pick
from seqmix.ops.operands import require_operands, zeros_from
from seqmix.ops.packed import sequence_bounds


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    erase: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    mask: Tensor | None = None,
    chunk: int | None = None,
    impl: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Gated delta rule: the state decays, and each position replaces the value stored under its key.

    ``S' = Diag(exp(decay_t)) S_{t-1}``, ``S_t = S' + beta_t k_t (v_t - S'^T k_t)^T``, ``y_t = scale S_t^T q_t``.
    Without ``beta`` the write is ``k_t v_t^T`` alone: gated linear attention.

    Shapes: ``(B, L, G, K), (B, L, H, V) -> (B, L, H, V)``. Cost: O(L (chunk + K) H V) time, O(L) memory.

    Args:
        q: what is read ``(B, L, G, K)``; each group serves H/G consecutive heads.
        k: what is written ``(B, L, G, K)``, of norm 1 or less for a delta rule that is stable.
        v: values of H heads ``(B, L, H, V)``.
        decay: log decays, 0 or less, of the heads ``(B, L, H)`` or of the channels of their keys ``(B, L, H, K)``;
            minus infinity forgets all. Default: nothing decays.
        beta: strengths of the writes ``(B, L, H)``, from 0 to 2; over 1 the transition has a negative eigenvalue.
            Default: linear attention, nothing is replaced.
        erase: key ``(B, L, G, K)`` whose value is replaced, if it is not ``k``; then ``beta`` may be left out.
        scale: factor of the result. Default: 1 / sqrt(K).
        initial_state: state before the first position ``(B, H, K, V)``; packed, one for each sequence.
        return_state: return the state after the last position too.
        reverse: run from the last position to the first.
        cu_seqlens: bounds of packed sequences ``(S + 1,)``; the state starts afresh in each.
        mask: positions to keep ``(B, L)``; the others write nothing, do not decay the state, and give zero.
        chunk: positions per chunk. Default: 32. The result does not depend on it.
        impl: "reference", "torch", "native" (float32 on a CPU), "triton" (CUDA), or "auto". Half types are computed in
            float32.

    Raises:
        ValueError: if an operand has a wrong shape, type or device, or ``cu_seqlens`` comes with a mask.

    Source: Yang et al., 2024, arXiv:2412.06464, eq. 10, and Kimi Team, 2025, arXiv:2510.26692 for decays of channels.
    Differs from fla-org/flash-linear-attention in: decays inside a chunk are never quotients of products.
    """
    given = operands(q, k, v, decay, beta, erase, scale, mask, chunk)
    bounds = sequence_bounds(q, cu_seqlens, mask)
    S = _first_state(given, initial_state, bounds)
    run = pick(impl, _IMPLS, given.q)
    run = _nothing if 0 in (*given.q.shape, v.shape[3]) else run
    if reverse:
        given = given.flip()
        bounds, S = [bounds[-1] - b for b in reversed(bounds)], _turn(S, bounds)
    # autocast is off here: the caller chose the precision
    with torch.autocast(q.device.type, enabled=False):
        y, state = run(*given, S, bounds, chunk)
    if reverse:
        y, state = y.flip(1), _turn(state, bounds)
    y = y.to(q.dtype)
    if mask is not None:
        y = y.masked_fill(~mask[..., None, None], 0)
    return (y, state) if return_state else y


def delta_matrix(
    q: Tensor,
    k: Tensor,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    erase: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """The matrix of ``gated_delta``: weight of the value at position j in the result at position i.

    Shapes: ``(B, L, G, K), (B, L, H) -> (B, H, L, L)``. Cost: O(L^2 K) time and O(L^2) memory per head.

    Args:
        q: what is read ``(B, L, G, K)``.
        k: what is written ``(B, L, G, K)``.
        decay: log decays ``(B, L, H)`` or ``(B, L, H, K)``. Default: nothing decays.
        beta: strengths of the writes ``(B, L, H)``. Default: linear attention.
        erase: key whose value is replaced, if it is not ``k``.
        scale: factor of the result. Default: 1 / sqrt(K).
    """
    B, L, G, _ = q.shape
    H = next((t.shape[2] for t in (decay, beta) if t is not None), G)
    given = operands(q, k, q.new_zeros(B, L, H, 1), decay, beta, erase, scale, None, None)
    if 0 in given.q.shape:
        return zeros_from((B, H, L, L), given.q, given.write)
    # one chunk for all positions, padded to a power of two
    place = (0, 0, 0, (1 << (L - 1).bit_length()) - L)
    parts = [F.pad(t.transpose(1, 2), place) for t in given if t is not None and t is not given.v]
    write, decay = parts[-2:]
    products = pair_products(torch.stack(parts[:-2], 3), write, decay)[..., :L, :, :L]
    if given.erase is None:
        return products[..., 0, :]
    M, A = products.unbind(-2)
    # M (I + A)^-1
    return torch.linalg.solve_triangular(A, M, upper=False, left=False, unitriangular=True)


def _first_state(given: Operands, state: Tensor | None, bounds: list[int]) -> Tensor:
    """The given states, or zeros: one for each row of the batch, packed for each sequence."""
    B, _, H, K = given.q.shape
    shape = (B * (len(bounds) - 1), H, K, given.v.shape[3])
    if state is None:
        return given.q.new_zeros(shape)
    require_operands(given.q, ("initial_state", state, shape))
    return state.to(given.q.dtype)


def _turn(S: Tensor, bounds: list[int]) -> Tensor:
    """States of packed sequences in the opposite order."""
    return S.flip(0) if len(bounds) > 2 else S


def _nothing(
    q: Tensor, erase: Tensor | None, write: Tensor, v: Tensor, decay: Tensor, S: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    """Results for operands with an empty axis: zeros, and the states unchanged."""
    erase = q if erase is None else erase
    return zeros_from(v.shape, q, erase, write, v, decay, S), S


# (q, erase, write, v, decay, S, bounds, chunk) -> y and the last states
_IMPLS = enter(
    "gated_delta",
    {
        "reference": lambda *args: by_rows(*args[:-1]),
        "torch": scan_chunks,
        "native": native.gated_delta,
        "triton": "seqmix.ops.delta.triton:gated_delta",
    },
)
