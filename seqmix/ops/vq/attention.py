"""Attention to quantized keys, and its matrix: operands are checked, then an implementation runs."""

import torch
from torch import Tensor

from seqmix.ops.dispatch import enter, pick
from seqmix.ops.operands import require_at_least_one, require_axes, require_mask, require_operands, zeros_from
from seqmix.ops.vq import torch as blocks
from seqmix.ops.vq.codebook import require_codes
from seqmix.ops.vq.reference import reference, weights
from seqmix.ops.vq.scores import Kind, in_sight


def vq_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    codes: Tensor,
    z: Tensor,
    bias: Tensor,
    *,
    window: int,
    causal: bool = False,
    kind: Kind = "softmax",
    block: int | None = None,
    mask: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """Attention to quantized keys, with a bias for the keys at most ``window`` positions away.

    ``y[i] = sum_j softmax_j(q[i] c[z[j]] + bias[i - j]) v[j]``, bias inside the window only. The gradient goes straight
    through to k inside the window; beyond it codes are constants. ``"laplace"`` replaces the softmax by
    ``f(q c / n + bias)``, ``f(s) = (1 + erf((s - sqrt(1/2)) sqrt(2 pi))) / 2``, n the number of keys in sight
    (arXiv:2209.10655, eq. 16).

    Shapes: ``(B, L, P), (B, L, P), (B, L, V) -> (B, L, V)``. Cost: O(L (S + 2 window + block) (P + V)) time, and memory
    O(L (S + 2 window + block) + L S V / block).

    Args:
        q: queries (B, L, P).
        k: keys (B, L, P), for their gradient.
        v: values (B, L, V).
        codes: codebook (S, P), a constant.
        z: index of the code of each key (B, L).
        bias: added to the scores in the window: one number per distance, ``window + 1`` of them (0, 1, ...) if causal,
            else ``2 window + 1`` (-window, ..., window); or such a row per query (B, L, ...).
        window: farthest distance with a bias, in positions.
        causal: attend to earlier positions and to itself only.
        kind: ``"softmax"`` or ``"laplace"``.
        block: queries handled together; changes cost, not results. Default: ``window``.
        mask: (B, L) bool, True = keep; output is zero elsewhere.
        impl: ``"reference"`` (quadratic), ``"torch"`` or ``"auto"``. Half types are computed in float32.

    Raises:
        ValueError: for an unknown kind or implementation, a negative window, or an operand of a wrong shape, type or
            device.

    Source: Lingle, 2023, arXiv:2309.16354, sec. 3. Differs from the original code in: keys beyond the window never get
    a gradient, so that it does not depend on ``block``; both directions.
    """
    _check(q, k, v, codes, z, bias, window, causal, kind, block, mask)
    run = pick(impl, _IMPLS, q)
    if not q.shape[0] * q.shape[1] * v.shape[2]:
        return zeros_from(v.shape, v, *(t.to(v.dtype) for t in (q, k, bias)))
    kept = torch.ones(q.shape[:2], dtype=torch.bool, device=q.device) if mask is None else mask
    dtype = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        q_, k_, v_, codes, bias = (t.to(dtype) for t in (q, k, v, codes.detach(), bias))
        v_ = v_.masked_fill(~kept.unsqueeze(-1), 0)
        if kind == "laplace":
            q_ = q_ / in_sight(kept, causal).unsqueeze(-1)
        y = run(q_, k_, v_, codes, z, bias, window, causal, kind, block or max(window, 1), kept)
    return y.masked_fill(~kept.unsqueeze(-1), 0).to(v.dtype)


def vq_attention_weights(
    q: Tensor, codes: Tensor, z: Tensor, bias: Tensor, *, window: int, causal: bool = False, kind: Kind = "softmax"
) -> Tensor:
    """The matrix of ``vq_attention``: ``(B, L, L)``, in quadratic time and memory."""
    kept = torch.ones(q.shape[:2], dtype=torch.bool, device=q.device)
    if kind == "laplace":
        q = q / in_sight(kept, causal).unsqueeze(-1)
    return weights(q, codes[z], codes, z, bias, window, causal, kind, kept)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    codes: Tensor,
    z: Tensor,
    bias: Tensor,
    window: int,
    causal: bool,
    kind: str,
    block: int | None,
    mask: Tensor | None,
) -> None:
    if kind not in ("softmax", "laplace"):
        raise ValueError(f"kind = {kind!r} is not known; use 'softmax' or 'laplace'")
    if window < 0:
        raise ValueError(f"window should be 0 or more, got {window}")
    require_at_least_one(block=block)
    require_axes("q", q, "B L P")
    require_axes("v", v, "B L V")
    require_axes("codes", codes, "S P")
    require_mask(q, mask)
    distances = (window if causal else 2 * window) + 1
    each = isinstance(bias, Tensor) and bias.ndim == 3
    require_operands(
        q,
        ("k", k, q.shape),
        ("v", v, (*q.shape[:2], v.shape[2])),
        ("codes", codes, (codes.shape[0], q.shape[2])),
        ("bias", bias, (*q.shape[:2], distances) if each else (distances,)),
    )
    require_codes(q, codes, z)


# (q, k, v, codes, z, bias, window, causal, kind, block, kept) -> y
_IMPLS = enter("vq_attention", {"reference": reference, "torch": blocks.attention})
