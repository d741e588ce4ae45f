"""State space dual as a recurrence: the definition of the others."""

import torch
from torch import Tensor


def reference(x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """Walk along the sequence: ``S_t = exp(a_t) S_{t-1} + dt_t x_t B_t^T``, ``y_t = S_t C_t``.

    Args:
        x: values ``(B, L, H, P)``.
        dt: step sizes ``(B, L, H)``.
        a: log decays ``(B, L, H)``.
        B: what is written ``(B, L, G, N)``, each group for H / G consecutive heads.
        C: what is read ``(B, L, G, N)``.
        S: first state ``(B, H, P, N)``.

    Returns:
        y ``(B, L, H, P)`` and the last state.
    """
    B, C = (t.repeat_interleave(x.shape[2] // t.shape[2], 2) for t in (B, C))  # (B, L, H, N)
    y = []
    # unbind once: indexing inside the loop makes the backward pass quadratic in L
    for x_t, dt_t, a_t, B_t, C_t in zip(*(t.unbind(1) for t in (x, dt, a, B, C)), strict=True):
        S = a_t.exp()[..., None, None] * S + torch.einsum("bh,bhp,bhn->bhpn", dt_t, x_t, B_t)
        y.append(torch.einsum("bhpn,bhn->bhp", S, C_t))
    return torch.stack(y, 1), S
