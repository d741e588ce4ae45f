"""Several writes at each position, on ``gated_delta``: they become positions of their own without decay."""

import torch
from torch import Tensor

from seqmix.ops.delta.gated_delta import delta_matrix, gated_delta
from seqmix.ops.operands import require_axes, require_operands

# the fastest log decay whose inverse a key can be multiplied by in float32
_LEAST = -60.0


def delta_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor | None,
    beta: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    cu_seqlens: Tensor | None = None,
    mask: Tensor | None = None,
    impl: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Gated delta product: the state decays once, then takes R delta rules one after another, at each position.

    Shapes: ``(B, L, H, K), (B, L, R, H, V) -> (B, L, H, V)``. Cost: R times that of ``gated_delta``.

    Args:
        q: what is read ``(B, L, H, K)``.
        k: what is written ``(B, L, R, H, K)``, of norm 1 or less.
        v: values ``(B, L, R, H, V)``.
        decay: log decays ``(B, L, H)``. Default: nothing decays.
        beta: strengths of the writes ``(B, L, R, H)``, from 0 to 2.
        scale: factor of the result. Default: 1 / sqrt(K).
        initial_state: state before the first position ``(B, H, K, V)``; packed, one for each sequence.
        return_state: return the state after the last position too.
        cu_seqlens: bounds of packed sequences ``(S + 1,)``; the state starts afresh in each.
        mask: positions to keep ``(B, L)``.
        impl: as in ``gated_delta``.

    Raises:
        ValueError: if an operand does not fit.

    Source: Siems et al., 2025, arXiv:2502.10297.
    """
    require_axes("q", q, "B L H K")
    require_axes("v", v, "B L R H V")
    (B, L, H, K), R = q.shape, v.shape[2]
    require_operands(
        q,
        ("k", k, (B, L, R, H, K)),
        ("v", v, (B, L, R, H, v.shape[4])),
        ("beta", beta, (B, L, R, H)),
        optional=(("decay", decay, (B, L, H)),),
    )
    found = gated_delta(
        _placed(q, R, R - 1),
        k.flatten(1, 2),
        v.flatten(1, 2),
        None if decay is None else _placed(decay, R, 0),
        beta.flatten(1, 2),
        scale=scale,
        initial_state=initial_state,
        return_state=True,
        cu_seqlens=None if cu_seqlens is None else cu_seqlens * R,
        mask=None if mask is None else mask.repeat_interleave(R, 1),
        impl=impl,
    )
    y, state = found[0][:, R - 1 :: R], found[1]
    return (y, state) if return_state else y


def delta_product_matrix(
    q: Tensor, k: Tensor, decay: Tensor | None, beta: Tensor, *, scale: float | None = None
) -> Tensor:
    """The operator of ``delta_product`` written out, from the values of each of the R delta rules.

    Shapes: ``(B, L, H, K), (B, L, R, H, K) -> (B, R, H, L, L)``. Cost: O(R^2 L^2 K).

    Args:
        q: what is read ``(B, L, H, K)``.
        k: what is written ``(B, L, R, H, K)``.
        decay: log decays ``(B, L, H)``. Default: nothing decays.
        beta: strengths of the writes ``(B, L, R, H)``.
        scale: factor of the result. Default: 1 / sqrt(K).
    """
    require_axes("k", k, "B L R H K")
    R = k.shape[2]
    decay = None if decay is None else _placed(decay, R, 0)
    M = delta_matrix(_placed(q, R, R - 1), k.flatten(1, 2), decay, beta.flatten(1, 2), scale=scale)
    return M[:, :, R - 1 :: R].unflatten(-1, (-1, R)).movedim(-1, 1)


def dplr_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    cu_seqlens: Tensor | None = None,
    mask: Tensor | None = None,
    impl: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Recurrence with a transition that is diagonal plus low rank, as in RWKV-7.

    ``S_t = (Diag(exp(decay_t)) + b_t a_t^T) S_{t-1} + k_t v_t^T``, ``y_t = scale S_t^T q_t``.

    Shapes: ``(B, L, H, K), (B, L, H, V) -> (B, L, H, V)``. Cost: twice that of ``gated_delta``.

    Args:
        q: what is read ``(B, L, H, K)``.
        k: what is written ``(B, L, H, K)``.
        v: values ``(B, L, H, V)``.
        decay: log decays ``(B, L, H, K)``; those of RWKV-7 are over -0.61. Those below -60 count as -60, as ``a`` is
            divided by the decays.
        a: what is read of the state before it decays ``(B, L, H, K)``.
        b: where that is written ``(B, L, H, K)``.
        scale: factor of the result. Default: 1 / sqrt(K).
        initial_state: state before the first position ``(B, H, K, V)``; packed, one for each sequence.
        return_state: return the state after the last position too.
        cu_seqlens: bounds of packed sequences ``(S + 1,)``; the state starts afresh in each.
        mask: positions to keep ``(B, L)``.
        impl: as in ``gated_delta``.

    Raises:
        ValueError: if an operand does not fit.

    Source: Peng et al., 2025, arXiv:2503.14456.
    """
    require_axes("q", q, "B L H K")
    require_axes("v", v, "B L H V")
    vectors = {"k": k, "decay": decay, "a": a, "b": b}
    require_operands(q, *((n, t, q.shape) for n, t in vectors.items()), ("v", v, (*q.shape[:3], v.shape[3])))
    if mask is not None:
        # NaN in a padded decay would come back in the gradient to a
        decay = decay.masked_fill(~mask[..., None, None], 0)
    read, written, rates, erase = _two_writes(q, k, decay, a, b)
    found = gated_delta(
        read,
        written,
        _placed(v, 2, 1),
        rates,
        erase=erase,
        scale=scale,
        initial_state=initial_state,
        return_state=True,
        cu_seqlens=None if cu_seqlens is None else 2 * cu_seqlens,
        mask=None if mask is None else mask.repeat_interleave(2, 1),
        impl=impl,
    )
    y, state = found[0][:, 1::2], found[1]
    return (y, state) if return_state else y


def dplr_matrix(q: Tensor, k: Tensor, decay: Tensor, a: Tensor, b: Tensor, *, scale: float | None = None) -> Tensor:
    """The operator of ``dplr_delta`` written out.

    Shapes: ``(B, L, H, K) -> (B, H, L, L)``. Cost: O(L^2 K).

    Args:
        q: what is read ``(B, L, H, K)``.
        k: what is written ``(B, L, H, K)``.
        decay: log decays ``(B, L, H, K)``.
        a: what is read of the state before it decays ``(B, L, H, K)``.
        b: where that is written ``(B, L, H, K)``.
        scale: factor of the result. Default: 1 / sqrt(K).
    """
    read, written, rates, erase = _two_writes(q, k, decay, a, b)
    return delta_matrix(read, written, rates, erase=erase, scale=scale)[:, :, 1::2, 1::2]


def _two_writes(q: Tensor, k: Tensor, decay: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reads, writes, decays and erased keys, with two writes a position.

    First what is read of the state is written to b, then v to k; a reads the state that has decayed.
    """
    written, decay = torch.stack([b.to(k.dtype), k], 2).flatten(1, 2), decay.clamp(min=_LEAST)
    return _placed(q, 2, 1), written, _placed(decay, 2, 0), _placed(-a * (-decay).exp(), 2, 0)


def _placed(x: Tensor, R: int, place: int) -> Tensor:
    """``x: (B, L, ...)`` with each position at one ``place`` of R, zero at the others ``(B, R L, ...)``."""
    zeros = torch.zeros_like(x)
    return torch.stack([x if i == place else zeros for i in range(R)], 2).flatten(1, 2)
