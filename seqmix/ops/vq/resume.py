"""Causal attention to quantized keys in parts, with a state between parts."""

import torch
from torch import Tensor

from seqmix.ops.vq.codebook import straight_through
from seqmix.ops.vq.scores import Kind, bias_at, combine
from seqmix.ops.wide import wide

VQState = tuple[Tensor, Tensor, Tensor, Tensor]


def init_vq_state(batch_size: int, *, window: int, codes: Tensor, d_value: int) -> VQState:
    """State before the first position: the last ``window`` keys, and values and counts per code of older ones."""
    S, P = codes.shape
    recent = torch.full((batch_size, window), S, device=codes.device)  # (B, W)
    keys, values = codes.new_zeros(batch_size, window, P), codes.new_zeros(batch_size, window, d_value)
    return recent, keys, values, codes.new_zeros(batch_size, S + 1, d_value + 1)


def vq_attention_resume(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    codes: Tensor,
    z: Tensor,
    bias: Tensor,
    state: VQState,
    *,
    kind: Kind = "softmax",
    block: int | None = None,
    kept: Tensor | None = None,
) -> tuple[Tensor, VQState]:
    """Causal ``vq_attention`` after the positions that ``state`` holds, and the state after it.

    Args:
        q: queries (B, L, P).
        k: keys (B, L, P).
        v: values (B, L, V).
        codes: codebook (S, P).
        z: index of the code of each key (B, L).
        bias: ``(window + 1,)``, or such a row per query ``(B, L, window + 1)``.
        state: codes (B, W), keys (B, W, P) and values (B, W, V) in the window, table (B, S + 1, V + 1) of older ones.
        kind: as in ``vq_attention``.
        block: queries handled together; changes cost, not results. Default: ``window``.
        kept: (B, L) bool, marks the leading positions of each row that count. Default: all.
    """
    dtype, step = v.dtype, block or max(state[0].shape[1], 1)
    ys = []
    with torch.autocast(q.device.type, enabled=False):
        q, k, v, codes, bias = (wide(t) for t in (q, k, v, codes.detach(), bias))
        if kept is not None:
            z = z.where(kept, len(codes))
            v = v.masked_fill(~kept.unsqueeze(-1), 0)
        for i in range(0, q.shape[1], step):
            here = slice(i, i + step)
            rows = bias if bias.ndim == 1 else bias[:, here]
            lead = None if kept is None else kept[:, here].sum(1)
            y, state = _resume_block(q[:, here], k[:, here], v[:, here], codes, z[:, here], rows, state, kind, lead)
            ys.append(y)
        y = torch.cat(ys, 1)
    return (y if kept is None else y.masked_fill(~kept.unsqueeze(-1), 0)).to(dtype), state


def _resume_block(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    codes: Tensor,
    z: Tensor,
    bias: Tensor,
    state: VQState,
    kind: Kind,
    lead: Tensor | None,
) -> tuple[Tensor, VQState]:
    """Keys of the window and of the block one by one, older ones through the table; ``lead: (B,)`` positions count."""
    *recent, table = state
    (C, W), S = (q.shape[1], recent[0].shape[1]), len(codes)
    z, k, v = (torch.cat(pair, 1) for pair in zip(recent, (z, k, v), strict=True))  # (B, W + C, ...)
    valid = z < S
    if kind == "laplace":
        q = q / (table[:, :S, -1].sum(1, keepdim=True) + valid.cumsum(1)[:, W:]).clamp(min=1).unsqueeze(-1)
    lag = torch.arange(C, device=q.device).unsqueeze(1) + W - torch.arange(W + C, device=q.device)  # (C, W + C)
    code = z.clamp(max=S - 1)
    near = q @ straight_through(k, codes, code).mT + bias_at(bias, lag, W, True)
    near = torch.where(lag <= W, near, q @ codes[code].mT)
    y = combine(near, valid.unsqueeze(1) & (lag >= 0), q @ codes.T, v, table[:, :S], kind)
    # as many keys leave the window as have entered it
    index = torch.arange(C, device=q.device).expand(len(q), -1)
    gone = z[:, :C] if lead is None else z[:, :C].where(index < lead.unsqueeze(1), S)
    leaving = torch.cat([v[:, :C], v.new_ones(len(v), C, 1)], -1)  # (B, C, V + 1)
    table = table.scatter_add(1, gone.unsqueeze(-1).expand_as(leaving), leaving)
    if lead is None:
        return y, (z[:, C:], k[:, C:], v[:, C:], table)
    at = lead.unsqueeze(1) + torch.arange(W, device=q.device)  # (B, W)
    k, v = (t.gather(1, at.unsqueeze(-1).expand(-1, -1, t.shape[-1])) for t in (k, v))
    return y, (z.gather(1, at), k, v, table)
