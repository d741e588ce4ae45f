"""Vector quantization for attention: nearest codes, their moving averages, and linear-time attention to coded keys.

After Transformer-VQ (arXiv:2309.16354): near keys are attended one by one, far keys through counts and sums per code.
"""

from itertools import accumulate
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, distributed

from seqmix.ops._dispatch import enter, pick
from seqmix.ops.wide import wide

Kind = Literal["softmax", "laplace"]
StepState = tuple[Tensor, Tensor, Tensor]

# stands for minus infinity in scores; finite, so that gradients stay finite
_NEVER = -1e30


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
        block: queries handled together, ``window`` if not given; changes cost, not results.
        mask: (B, L) bool, True = keep; output is zero elsewhere.
        impl: ``"reference"`` (quadratic), ``"torch"`` or ``"auto"``. Half types are computed in float32.

    Source: Lingle, 2023, arXiv:2309.16354, sec. 3. Differs from the original code in: keys beyond the window never get
    a gradient, so that it does not depend on ``block``; both directions.
    """
    kept = torch.ones(q.shape[:2], dtype=torch.bool, device=q.device) if mask is None else mask
    with torch.autocast(q.device.type, enabled=False):
        q_, k_, v_, codes, bias = (wide(t) for t in (q, k, v, codes.detach(), bias))
        v_ = v_.masked_fill(~kept.unsqueeze(-1), 0)
        if kind == "laplace":
            q_ = q_ / _in_sight(kept, causal).unsqueeze(-1)
        y = pick(impl, _IMPLS, q)(q_, k_, v_, codes, z, bias, window, causal, kind, block or max(window, 1), kept)
    return y.masked_fill(~kept.unsqueeze(-1), 0).to(v.dtype)


def vq_attention_weights(
    q: Tensor, codes: Tensor, z: Tensor, bias: Tensor, *, window: int, causal: bool = False, kind: Kind = "softmax"
) -> Tensor:
    """The matrix of ``vq_attention``: ``(B, L, L)``, in quadratic time and memory."""
    kept = torch.ones(q.shape[:2], dtype=torch.bool, device=q.device)
    if kind == "laplace":
        q = q / _in_sight(kept, causal).unsqueeze(-1)
    return _weights(q, codes[z], codes, z, bias, window, causal, kind, kept)


def init_vq_step(batch_size: int, *, window: int, codes: Tensor, d_value: int) -> StepState:
    """State before the first position: codes and values of the last ``window`` keys, sums and counts per older code."""
    S = len(codes)
    recent = torch.full((batch_size, window), S, device=codes.device)  # (B, W)
    return recent, codes.new_zeros(batch_size, window, d_value), codes.new_zeros(batch_size, S + 1, d_value + 1)


def vq_attention_step(
    q: Tensor, v: Tensor, codes: Tensor, z: Tensor, bias: Tensor, state: StepState, *, kind: Kind = "softmax"
) -> tuple[Tensor, StepState]:
    """One position of causal ``vq_attention``: q (B, P), v (B, V), z (B,), bias (W + 1,) or (B, W + 1)."""
    dtype = v.dtype
    q, v, codes, bias = (wide(t) for t in (q, v, codes, bias))
    z_recent, v_recent, table = state
    S = len(codes)
    z_recent = torch.cat([z_recent, z.unsqueeze(1)], 1)  # (B, W + 1)
    v_recent = torch.cat([v_recent, v.unsqueeze(1)], 1)  # (B, W + 1, V)
    kept = z_recent < S
    if kind == "laplace":
        q = q / (kept.sum(1, keepdim=True) + table[:, :S, -1].sum(1, keepdim=True))
    near = torch.einsum("bp,bwp->bw", q, codes[z_recent.clamp(max=S - 1)]) + bias.flip(-1)
    y = _combine(near.unsqueeze(1), kept.unsqueeze(1), (q @ codes.T).unsqueeze(1), v_recent, table[:, :S], kind)
    leaving = torch.cat([v_recent[:, :1], v.new_ones(len(v), 1, 1)], -1)  # (B, 1, V + 1)
    table = table.scatter_add(1, z_recent[:, :1, None].expand_as(leaving), leaving)
    return y.squeeze(1).to(dtype), (z_recent[:, 1:], v_recent[:, 1:], table)


def nearest_code(k: Tensor, codes: Tensor) -> Tensor:
    """Index of the nearest code of each key, the lowest of equally near ones: ``(..., P), (S, P) -> (...)``."""
    with torch.no_grad(), torch.autocast(k.device.type, enabled=False):
        k, codes = wide(k), wide(codes)
        # |k|^2 is the same for all codes
        return (codes.square().sum(-1) - 2 * k @ codes.T).argmin(-1)


def straight_through(k: Tensor, codes: Tensor, z: Tensor) -> Tensor:
    """The code of each key, with the gradient of the key: ``codes[z] + (k - stopgrad(k))``."""
    return codes[z].detach() + (k - k.detach())


def commitment_loss(k: Tensor, codes: Tensor, z: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of ``|k - codes[z]|^2`` over the kept positions of the batch; gradient to k only."""
    squared = (wide(k) - codes[z].detach()).square().sum(-1)  # (B, L)
    if mask is None:
        return squared.mean()
    return squared.masked_fill(~mask, 0).sum() / mask.sum().clamp(min=1)


def codebook(sums: Tensor, counts: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Codes (S, P) from their moving sums (S, P) and counts (S,).

    ``sums / max(counts, 0.01)``; with ``smoothing`` e > 0, Laplace: counts become ``(counts + e) / (1 + S e / total)``.
    """
    if smoothing > 0:
        total = counts.sum()
        counts = (counts + smoothing) / (total + len(counts) * smoothing) * total
    return sums / counts.clamp(min=0.01).unsqueeze(-1)


def update_codebook(
    sums: Tensor,
    counts: Tensor,
    k: Tensor,
    z: Tensor,
    *,
    decay: float,
    mask: Tensor | None = None,
    restart: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Moving sums and counts of the codes after one more batch of keys, over all data-parallel ranks.

    ``sums <- decay sums + (1 - decay) sum_j [z_j = s] k_j`` and likewise the counts.

    Args:
        sums: (S, P).
        counts: (S,).
        k: keys (B, L, P).
        z: their codes (B, L).
        decay: share of the old value that stays.
        mask: (B, L) bool, True = keep; other keys do not count.
        restart: codes whose count fell below this start again as a random key of the batch with count 1.
        generator: source of that choice, on the CPU; the same state gives the same codes. Keys of rank 0 are taken.

    Source: Lingle, 2023, arXiv:2309.16354, sec. 3.4. Differs from the original code in: written as an update, there as
    the gradient of a loss; restart added.
    """
    S, P = sums.shape
    k, z = k.detach().reshape(-1, P).to(sums.dtype), z.flatten()
    kept = torch.ones_like(z, dtype=torch.bool) if mask is None else mask.flatten()
    # the last column counts, the last row takes what is masked
    rows = torch.cat([k.masked_fill(~kept.unsqueeze(-1), 0), kept.unsqueeze(-1).to(k.dtype)], -1)
    batch = rows.new_zeros(S + 1, P + 1).index_add_(0, z.where(kept, S), rows)[:S]
    parallel = distributed.is_available() and distributed.is_initialized()
    if parallel:
        distributed.all_reduce(batch)
    sums = decay * sums + (1 - decay) * batch[:, :P]
    counts = decay * counts + (1 - decay) * batch[:, P]
    if restart > 0:
        fresh = _random_rows(rows, kept, S, generator)
        if parallel:
            distributed.broadcast(fresh, src=0)
        # a batch without any key has none to offer: its rows are zeros
        dead = (counts < restart) & (fresh[:, P] > 0)
        sums = torch.where(dead.unsqueeze(-1), fresh[:, :P], sums)
        counts = torch.where(dead, fresh[:, P], counts)
    return sums, counts


def _random_rows(rows: Tensor, kept: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """``n`` different kept rows, beginning anew where there are fewer."""
    chance = torch.rand(len(rows), generator=generator).to(rows.device).masked_fill(~kept, -1)
    order = chance.argsort(descending=True, stable=True)
    return rows[order[torch.arange(n, device=rows.device) % kept.sum().clamp(min=1)]]


def _reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    codes: Tensor,
    z: Tensor,
    bias: Tensor,
    window: int,
    causal: bool,
    kind: Kind,
    block: int,
    kept: Tensor,
) -> Tensor:
    return _weights(q, straight_through(k, codes, z), codes, z, bias, window, causal, kind, kept) @ v


def _weights(
    q: Tensor,
    keys: Tensor,
    codes: Tensor,
    z: Tensor,
    bias: Tensor,
    window: int,
    causal: bool,
    kind: Kind,
    kept: Tensor,
) -> Tensor:
    i = torch.arange(q.shape[1], device=q.device)
    lag = i.unsqueeze(1) - i  # (L, L)
    near = q @ keys.mT + _bias_at(bias, lag, window, causal)
    s = torch.where(lag.abs() <= window, near, q @ codes[z].mT)  # (B, L, L)
    allowed = kept.unsqueeze(1) & ((lag >= 0) | (not causal))
    if kind == "softmax":
        return s.masked_fill(~allowed, _NEVER).softmax(-1)
    return _laplace(s).masked_fill(~allowed, 0)


def _torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    codes: Tensor,
    z: Tensor,
    bias: Tensor,
    window: int,
    causal: bool,
    kind: Kind,
    block: int,
    kept: Tensor,
) -> Tensor:
    """Keys around a block of queries one by one, the others through a table per block: counts and sums per code."""
    L = q.shape[1]
    behind, ahead = window, 0 if causal else window
    if behind + block + ahead + len(codes) >= L:
        # a query would score as many keys and codes as there are positions, with tables to make beside
        return _reference(q, k, v, codes, z, bias, window, causal, kind, block, kept)
    n = -(-L // block)
    table = _tables(v, z.where(kept, len(codes)), len(codes), block, n, behind, None if causal else ahead)
    pad, K = (behind, n * block - L + ahead), behind + block + ahead
    hard = _around(codes[z], pad, K, block)  # (B, n, P, K)
    soft = _around(straight_through(k, codes, z), pad, K, block)
    values = _around(v, pad, K, block)  # (B, n, V, K)
    valid = _around(kept.unsqueeze(-1), pad, K, block)  # (B, n, 1, K)

    padded = torch.nn.functional.pad(q, (0, 0, 0, n * block - L))
    q = rearrange(padded, "b (n i) p -> b n i p", i=block)
    if bias.ndim > 1:
        padded = torch.nn.functional.pad(bias, (0, 0, 0, n * block - L))
        bias = rearrange(padded, "b (n i) w -> b n i w", i=block)
    i = torch.arange(block, device=q.device).unsqueeze(1)
    lag = i + behind - torch.arange(K, device=q.device)  # (i, K)
    near = torch.where(lag.abs() <= window, q @ soft + _bias_at(bias, lag, window, causal), q @ hard)
    allowed = valid & ((lag >= 0) | (not causal))
    y = _combine(near, allowed, q @ codes.T, values.mT, table, kind)
    return rearrange(y, "b n i v -> b (n i) v")[:, :L]


_IMPLS = enter("vq_attention", {"reference": _reference, "torch": _torch})


def _combine(near: Tensor, allowed: Tensor, far: Tensor, v: Tensor, table: Tensor, kind: Kind) -> Tensor:
    """Attend to single keys and to codes at once.

    near (..., Q, K) scores of the keys, allowed alike, far (..., Q, S) scores of the codes, v (..., K, V),
    table (..., S, V + 1) sums of values and counts -> (..., Q, V).
    """
    sums, counts = table[..., :-1], table[..., -1]  # (..., S, V), (..., S)
    if kind == "laplace":
        return _laplace(near).masked_fill(~allowed, 0) @ v + _laplace(far) @ sums
    some = counts.clamp(min=1)
    # n equal scores s weigh as much as one score s + log n
    far = (far + some.log().unsqueeze(-2)).masked_fill((counts == 0).unsqueeze(-2), _NEVER)
    a = torch.cat([near.masked_fill(~allowed, _NEVER), far], -1).softmax(-1)
    a_near, a_far = a.split([near.shape[-1], far.shape[-1]], -1)
    return a_near @ v + a_far @ (sums / some.unsqueeze(-1))


def _tables(v: Tensor, z: Tensor, S: int, block: int, n: int, behind: int, ahead: int | None) -> Tensor:
    """Sums of values, and counts, per code, of the keys beyond the reach of each block: ``(B, n, S, V + 1)``."""
    t = torch.arange(v.shape[1], device=v.device)
    v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    # key t is behind the blocks after number (t + behind) // block, and ahead of those before (t - ahead) // block
    # added up block by block: cumsum along an outer axis is several times slower on a CPU
    left = _sums_by_code(v, z, S, n, (t + behind) // block + 1).unbind(1)
    before = list(accumulate(left))
    if ahead is None:
        return torch.stack(before, 1)
    right = _sums_by_code(v, z, S, n, (t - ahead).div(block, rounding_mode="floor") - 1).unbind(1)
    after = list(accumulate(reversed(right)))[::-1]
    return torch.stack([b + a for b, a in zip(before, after, strict=True)], 1)


def _sums_by_code(v: Tensor, z: Tensor, S: int, n: int, group: Tensor) -> Tensor:
    B, _, V = v.shape
    # row S takes what is masked, group n what lies outside
    group = group.where((group >= 0) & (group < n), n)
    index = (torch.arange(B, device=v.device).unsqueeze(1) * (n + 1) + group) * (S + 1) + z  # (B, L)
    sums = v.new_zeros(B * (n + 1) * (S + 1), V).index_add(0, index.flatten(), v.flatten(0, 1))
    return sums.view(B, n + 1, S + 1, V)[:, :n, :S]


def _around(x: Tensor, pad: tuple[int, int], size: int, step: int) -> Tensor:
    """The ``size`` positions seen by each block: ``(B, L, P) -> (B, n, P, size)``."""
    return torch.nn.functional.pad(x, (0, 0, *pad)).unfold(1, size, step)


def _bias_at(bias: Tensor, lag: Tensor, window: int, causal: bool) -> Tensor:
    """Entries of ``bias: (W,)`` or ``(..., Q, W)`` for ``lag: (Q, K)``; anything where there is none."""
    index = (lag if causal else lag + window).clamp(0, bias.shape[-1] - 1)
    if bias.ndim == 1:
        return bias[index]
    return bias.gather(-1, index.expand(*bias.shape[:-1], index.shape[-1]))


def _in_sight(kept: Tensor, causal: bool) -> Tensor:
    n = kept.cumsum(1) if causal else kept.sum(1, keepdim=True)
    return n.clamp(min=1)


def _laplace(s: Tensor) -> Tensor:
    # mean sqrt(1/2) and deviation sqrt(1 / (4 pi)) fit the squared ReLU
    return 0.5 * (1 + torch.erf((s - 0.5**0.5) * (2 * torch.pi) ** 0.5))
