"""Helpers of mixers that are sums of decaying modes per channel, computed by one chunked scan."""

import torch
from einops import rearrange
from torch import Tensor, nn

from seqmix.mixers.mixer import Mixer, zero_masked
from seqmix.mixers.state import check_sequences
from seqmix.ops import fft_conv
from seqmix.ops.wide import wide

# positions summed by one product; longer reaches go through the state, so that cost is linear in the length
_CHUNK = 64


def decay_kernel(log_decay: Tensor, weight: Tensor, length: int) -> Tensor:
    """``k[t] = Re Σ_n weight_n exp(t log_decay_n)`` for t = 0, ..., length - 1: ``(D, N), (D, N) -> (D, length)``."""
    t = torch.arange(length, device=weight.device)
    return torch.einsum("dn,dnt->dt", weight, (log_decay.unsqueeze(-1) * t).exp()).real


def decay_scan(x: Tensor, log_decay: Tensor, weight: Tensor) -> Tensor:
    """Causal convolution of ``x: (B, L, D)`` with ``decay_kernel``, in chunks that hand a state on.

    Cost: O(L D (N + chunk)) time, O(L D (1 + N / chunk)) memory.
    """
    L = x.shape[1]
    if isinstance(L, torch.SymInt):
        # a graph for every length has no loop over chunks
        return fft_conv(x, decay_kernel(log_decay, weight, L))
    if L > _CHUNK:
        x = nn.functional.pad(x, (0, 0, 0, -L % _CHUNK))
    return _scan_chunks(x, log_decay, weight, None)[0][:, :L]


def decay_resume(x: Tensor, log_decay: Tensor, weight: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """``decay_scan`` of ``x: (B, L, D)`` after ``state: (B, D, N)``, and the state after it."""
    ys = []
    # whole chunks, then the remainder
    for part in x.split([x.shape[1] // _CHUNK * _CHUNK, x.shape[1] % _CHUNK], 1):
        if part.numel():
            y, state = _scan_chunks(part, log_decay, weight, state)
            ys.append(y)
    return torch.cat(ys, 1), state


def _scan_chunks(x: Tensor, log_decay: Tensor, weight: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Chunks of ``x: (B, n chunk, D)``, or one that is shorter; a single one from state zero makes no state."""
    B, L, D = x.shape
    C = min(_CHUNK, L)
    # transposing two axes stays in the cache, transposing three would not
    x = x.flatten(0, 1).t().contiguous().view(D, -1, C)  # (D, B n, C)
    t = torch.arange(C, device=x.device)
    lag = t - t.unsqueeze(1)  # (C, C), from row to column
    # the acausal part must be exactly zero
    inside = decay_kernel(log_decay, weight, C)[:, lag.clamp(min=0)].triu()  # (D, C, C)
    if state is None and L <= C:
        return _transpose(x @ inside, B), x.new_empty(0)
    powers = (log_decay.unsqueeze(-1) * t).exp()  # (D, N, C)
    gains = x.to(powers.dtype) @ powers.flip(-1).mT  # (D, B n, N)
    over_chunk = (log_decay * C).exp().unsqueeze(1)
    carried = torch.zeros_like(gains[:, :B]) if state is None else state.transpose(0, 1)  # (D, B, N)
    states = []
    for gain in rearrange(gains, "d (b n) m -> n d b m", b=B).contiguous().unbind():
        states.append(carried)
        carried = over_chunk * carried + gain
    reach = weight.unsqueeze(-1) * powers * log_decay.exp().unsqueeze(-1)  # (D, N, C)
    far = rearrange(states, "n d b m -> d (b n) m") @ reach
    return _transpose(x @ inside + far.real, B), carried.transpose(0, 1)


def decay_mix(x: Tensor, mask: Tensor | None, log_decay: Tensor, weight: Tensor, skip: Tensor, causal: bool) -> Tensor:
    """Modes and a skip in one direction or in both, then a SiLU: the forward pass of ``EMA`` and ``S4D``."""
    x = zero_masked(x, mask)
    u = wide(x)
    with torch.autocast(x.device.type, enabled=False):
        if causal:
            y = decay_scan(u, log_decay, weight)
        else:
            ahead, back = decay_scan(torch.cat([u, u.flip(1)], -1), log_decay, weight).chunk(2, -1)
            y = ahead + back.flip(1)
        y = nn.functional.silu(torch.addcmul(y, wide(skip), u))
    return zero_masked(y.to(x.dtype), mask)


def decay_matrix(x: Tensor, log_decay: Tensor, weight: Tensor, skip: Tensor, causal: bool) -> Tensor:
    """The Toeplitz matrix of each channel that ``decay_mix`` multiplies by before the SiLU, ``(B, D, L, L)``."""
    B, L, D = x.shape
    kernel = decay_kernel(log_decay, weight, L)
    t = torch.arange(L, device=x.device)
    lag = t.unsqueeze(1) - t
    M = kernel[:D, lag.clamp(min=0)].tril() + torch.diag_embed(wide(skip).unsqueeze(1).expand(D, L))  # (D, L, L)
    if not causal:
        M = M + kernel[D:, (-lag).clamp(min=0)].triu()
    return M.to(x.dtype).expand(B, D, L, L)


def decay_state(mixer: Mixer, batch_size: int, log_decay: Tensor, weight: Tensor) -> Tensor:
    """The state of the modes before the first position, ``(B, D, N)``."""
    if not mixer.causal:
        raise TypeError(f"{type(mixer).__name__} has no step() in both directions; build it with causal=True")
    return weight.new_zeros(batch_size, *weight.shape)


def decay_onward(
    x: Tensor, kept: Tensor | None, state: Tensor, log_decay: Tensor, weight: Tensor, skip: Tensor
) -> tuple[Tensor, Tensor]:
    """Go on from ``state`` with the causal ``decay_mix`` of ``x: (B, L, D)``, and return the state after it too.

    ``kept: (B, L)`` marks the leading positions of each row that count; the others are zero.
    """
    check_sequences(state, x)
    u = wide(x)
    with torch.autocast(x.device.type, enabled=False):
        if x.shape[1] == 1 and kept is None:
            # the recurrence itself: a chunk costs several times a step
            after = log_decay.exp() * state + u.mT
            y = (weight * after).sum(-1).real.unsqueeze(1)
        else:
            y, after = decay_resume(u, log_decay, weight, state)
        if kept is not None:
            n = kept.sum(1)
            # right-aligned rows begin with zeros, which leave a zero state unchanged
            at = torch.arange(x.shape[1], device=x.device) - (x.shape[1] - n).unsqueeze(1)  # (B, L)
            moved = zero_masked(u.gather(1, at.clamp(min=0).unsqueeze(-1).expand_as(u)), at >= 0)
            _, after = decay_resume(moved, log_decay, weight, torch.zeros_like(state))
            after = after + (log_decay * n[:, None, None]).exp() * state
        y = nn.functional.silu(torch.addcmul(y, wide(skip), u))
    return y.to(x.dtype), after


def _transpose(y: Tensor, B: int) -> Tensor:
    """``(D, B n, C) -> (B, n C, D)``."""
    return y.flatten(1).t().contiguous().unflatten(0, (B, -1))
