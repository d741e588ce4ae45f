"""Helpers of complex diagonal systems with full input and output maps: S5 and LRU."""

import torch
from torch import Tensor

from seqmix.mixers.mixer import Mixer
from seqmix.ops import linear_recurrence
from seqmix.ops.wide import wide


def diagonal_system(
    x: Tensor,
    decay: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    causal: bool,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run ``h[t] = decay h[t-1] + B x[t]``, ``y[t] = Re(C h[t]) + D x[t]``, and return y and the last state.

    Arithmetic is float32 at least, also under autocast.

    Args:
        x: input ``(Bt, L, D)``, zero where masked.
        decay: eigenvalues ``(N,)``, complex.
        B: input map ``(N, D)``, complex.
        C: output map ``(D, N)``, complex; ``(D, 2 N)``, the second half for states from the end, unless ``causal``.
        D: skip ``(D,)``.
        causal: see earlier positions only.
        mask: positions to keep ``(Bt, L)``.
        cu_seqlens: bounds of packed sequences.
        state: state before the first position ``(Bt, N)``. Default: zero.
    """
    with torch.autocast(x.device.type, enabled=False):
        u = wide(x)
        v = torch.complex(u @ B.real.mT, u @ B.imag.mT)  # (Bt, L, N)
        h, last = linear_recurrence(v, decay, initial_state=state, return_state=True, mask=mask, cu_seqlens=cu_seqlens)
        if not causal:
            h = torch.cat([h, linear_recurrence(v, decay, reverse=True, mask=mask, cu_seqlens=cu_seqlens)], -1)
        y = h.real @ C.real.mT - h.imag @ C.imag.mT
        return torch.addcmul(y, u, wide(D)).to(x.dtype), last


def diagonal_state(mixer: Mixer, batch_size: int, decay: Tensor) -> Tensor:
    """The state before the first position: zeros ``(B, N)``, complex."""
    if not mixer.causal:
        raise TypeError(f"{type(mixer).__name__} has no step() in both directions; build it with causal=True")
    return decay.new_zeros(batch_size, len(decay))


def complex_pair(pair: Tensor) -> Tensor:
    """Complex numbers from real and imaginary parts ``(..., 2)``, in float32 at least."""
    return torch.view_as_complex(wide(pair).contiguous())
