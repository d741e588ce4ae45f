"""The diagonal linear recurrence in parallel stretches: portable, with its own backward pass.

The length is cut into stretches that advance together, each from a state of zero; the states at their ends are then
handed on from stretch to stretch. Products of decays stay inside a stretch, and nothing is divided by them.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from seqmix.ops.derivatives import differentiable
from seqmix.ops.recurrence.reference import reference
from seqmix.ops.vmap import map_into_channels

# elements per step: fewer are dominated by call overhead, more do not fit in the cache
_STEP = 2**14


def recurrence(x: Tensor, a: Tensor, h: Tensor, reverse: bool) -> Tensor:
    """Return the states; arguments as ``reference``."""
    return _differentiable(x, a, h, reverse)


@torch.library.custom_op("seqmix::linear_recurrence", mutates_args=())
def _recurrence(x: Tensor, a: Tensor, h: Tensor, reverse: bool) -> Tensor:
    return _sweep(x, a, h, reverse)


@torch.library.custom_op("seqmix::linear_recurrence_backward", mutates_args=())
def _backward(grad: Tensor, x: Tensor, a: Tensor, h: Tensor, y: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients to x, a and h, by the same recurrence in the other direction.

    ``lam_t = g_t + a_{t+1} lam_{t+1}`` is the gradient to ``x_t``, and ``lam_t h_{t-1}`` that to ``a_t``.
    """
    # shifted by one step: the decay from t to t + 1, and the state before t
    ahead = F.pad(a.conj()[:, :-1] if reverse else a.conj()[:, 1:], (0, 0, 1, 0) if reverse else (0, 0, 0, 1))
    lam = _sweep(grad, ahead, torch.zeros_like(h), not reverse)
    first = h.unsqueeze(1)
    before = torch.cat([y[:, 1:], first] if reverse else [first, y[:, :-1]], 1)
    start = -1 if reverse else 0
    return lam, lam * before.conj(), a[:, start].conj() * lam[:, start]


def _sweep(x: Tensor, a: Tensor, h: Tensor, reverse: bool) -> Tensor:
    B, L, D = x.shape
    n = _stretches(B * D, L)
    T = -(-L // n)
    if extra := n * T - L:
        # padding steps at the end, whose results are cut off
        x, a = (F.pad(v, (0, 0, extra, 0) if reverse else (0, 0, 0, extra)) for v in (x, a))
    x, a = x.unflatten(1, (n, T)), a.unflatten(1, (n, T))
    y = torch.empty(B, n, T, D, dtype=x.dtype, device=x.device)
    steps = range(T - 1, -1, -1) if reverse else range(T)
    state = h.unsqueeze(1) if n == 1 else torch.zeros(B, n, D, dtype=x.dtype, device=x.device)
    for t in steps:
        state = torch.addcmul(x[:, :, t], a[:, :, t], state)
        y[:, :, t] = state
    if n > 1:
        for i in reversed(range(n)) if reverse else range(n):
            reach = a[:, i].flip(1).cumprod(1).flip(1) if reverse else a[:, i].cumprod(1)  # (B, T, D)
            h = y[:, i].addcmul_(reach, h.unsqueeze(1))[:, steps[-1]]
    y = y.flatten(1, 2)
    # an operator returns a contiguous tensor
    return (y[:, extra:] if reverse else y[:, :L]).clone() if extra else y


def _stretches(width: int, length: int) -> int:
    """A power of two, about the root of the length where steps are small."""
    most = max(1, min(_STEP // max(1, width), math.isqrt(length)))
    return 1 << (most.bit_length() - 1)


_recurrence.register_fake(lambda x, a, h, reverse: x.new_empty(x.shape))
map_into_channels(_recurrence, (2, 2, 1), (2,))
map_into_channels(_backward, (2, 2, 2, 1, 2), (2, 2, 1))
_differentiable = differentiable(_recurrence, _backward, reference, tensors=3, kept=(0,))
