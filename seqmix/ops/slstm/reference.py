"""The recurrence of sLSTM as a loop: the definition of the compiled kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(gates: Tensor, recurrent: Tensor, state: Tensor) -> Tensor:
    """Walk along the sequence (eq. 8 to 18 of the paper, and its section 2.2 for the exponent).

    Args:
        gates: what the input gives to input gate, forget gate, memory and output gate ``(Bt, L, 4, H, P)``.
        recurrent: maps from the last output to the same ``(H, 4 P, P)``.
        state: output, memory, normalizer and exponent before the first step ``(Bt, 4, H, P)``.

    Returns:
        the states after each step ``(Bt, L, 4, H, P)``.
    """
    states = []
    for given in gates.unbind(1):
        h, c, n, m = state.unbind(1)
        heard = torch.einsum("bhi,hoi->bho", h, recurrent).unflatten(2, (4, -1))
        log_i, f, z, o = (given + heard.transpose(1, 2)).unbind(1)
        log_f = m + F.logsigmoid(f)
        m = torch.maximum(log_i, log_f)
        i, f = (log_i - m).exp(), (log_f - m).exp()
        c, n = f * c + i * z.tanh(), f * n + i
        state = torch.stack([o.sigmoid() * c / n, c, n, m], 1)
        states.append(state)
    return torch.stack(states, 1)
