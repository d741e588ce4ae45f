"""Gated delta rule as a recurrence: the definition of the others."""

import torch
from torch import Tensor


def reference(
    q: Tensor, erase: Tensor | None, write: Tensor, v: Tensor, decay: Tensor, S: Tensor
) -> tuple[Tensor, Tensor]:
    """Walk along the sequence: decay the state, read what it holds, write the difference, read the result.

    ``S' = Diag(exp(decay_t)) S_{t-1}``, ``S_t = S' + write_t (v_t - S'^T erase_t)^T``, ``y_t = S_t^T q_t``.

    Args:
        q: what is read ``(B, L, H, K)``.
        erase: key whose value is replaced, likewise. Default: nothing is replaced.
        write: key that is written, likewise, times the strength of the write.
        v: values ``(B, L, H, V)``.
        decay: log decays ``(B, L, H, 1)``, or one for each channel of the keys ``(B, L, H, K)``.
        S: first state ``(B, H, K, V)``.

    Returns:
        y ``(B, L, H, V)`` and the last state.
    """
    y = []
    erases = [None] * q.shape[1] if erase is None else erase.unbind(1)
    # unbind once: indexing inside the loop makes the backward pass quadratic in L
    for q_t, e_t, w_t, v_t, g_t in zip(q.unbind(1), erases, *(t.unbind(1) for t in (write, v, decay)), strict=True):
        S = g_t.exp().unsqueeze(-1) * S
        u_t = v_t if e_t is None else v_t - torch.einsum("bhkv,bhk->bhv", S, e_t)
        S = S + torch.einsum("bhk,bhv->bhkv", w_t, u_t)
        y.append(torch.einsum("bhkv,bhk->bhv", S, q_t))
    return torch.stack(y, 1), S
