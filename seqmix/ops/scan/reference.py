"""The selective scan as the paper has it: the definition of the others."""

import torch
from torch import Tensor


def reference(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, zoh: bool) -> tuple[Tensor, Tensor]:
    """Walk along the sequence, position by position: ``h_t = A_bar_t h_{t-1} + B_bar_t u_t``, ``y_t = C_t h_t``.

    Args:
        u: input ``(Bt, L, D)``.
        dt: step sizes ``(Bt, L, D)``.
        A: rates ``(D, N)``.
        B: input map ``(Bt, L, G, N)``, each group for D / G consecutive channels.
        C: output map, of the shape of ``B``.
        h: first state ``(Bt, D, N)``.
        zoh: exact discretization (eq. 4) instead of Euler's.

    Returns:
        y ``(Bt, L, D)`` and the last state.
    """
    B, C = (t.repeat_interleave(A.shape[0] // t.shape[2], 2) for t in (B, C))  # (Bt, L, D, N)
    u, dt = u.unsqueeze(-1), dt.unsqueeze(-1)  # (Bt, L, D, 1)
    y = []
    # unbind once: indexing inside the loop makes the backward pass quadratic in L
    for u_t, dt_t, B_t, C_t in zip(u.unbind(1), dt.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        A_bar = torch.exp(dt_t * A)
        B_bar = torch.expm1(dt_t * A) / A * B_t if zoh else dt_t * B_t
        h = A_bar * h + B_bar * u_t
        y.append((C_t * h).sum(-1))
    return torch.stack(y, 1), h
