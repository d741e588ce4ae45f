"""The diagonal linear recurrence as a loop: the definition of the others."""

import torch
from torch import Tensor


def reference(x: Tensor, a: Tensor, h: Tensor, reverse: bool) -> Tensor:
    """Walk along the sequence: ``h_t = a_t h_{t-1} + x_t``, from the last position to the first if ``reverse``.

    Args:
        x: input ``(Bt, L, D)``.
        a: decay ``(Bt, L, D)``.
        h: state before the first step ``(Bt, D)``.
        reverse: the direction.

    Returns:
        the states ``(Bt, L, D)``.
    """
    states = []
    for t in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
        h = a[:, t] * h + x[:, t]
        states.append(h)
    return torch.stack(states[::-1] if reverse else states, 1)
