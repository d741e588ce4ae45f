"""Attention to quantized keys in linear time, block by block, on any device."""

from itertools import accumulate

import torch
from einops import rearrange
from torch import Tensor

from seqmix.ops.vq.codebook import straight_through
from seqmix.ops.vq.reference import reference
from seqmix.ops.vq.scores import Kind, bias_at, combine


def attention(
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
    if isinstance(L, torch.SymInt) or behind + block + ahead + len(codes) >= L:
        # the tables would not pay: a query would score as many keys and codes as there are positions; and the number
        # of tables of a symbolic length, in a graph for every length, is not known
        return reference(q, k, v, codes, z, bias, window, causal, kind, block, kept)
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
    near = torch.where(lag.abs() <= window, q @ soft + bias_at(bias, lag, window, causal), q @ hard)
    allowed = valid & ((lag >= 0) | (not causal))
    y = combine(near, allowed, q @ codes.T, values.mT, table, kind)
    return rearrange(y, "b n i v -> b (n i) v")[:, :L]


def _tables(v: Tensor, z: Tensor, S: int, block: int, n: int, behind: int, ahead: int | None) -> Tensor:
    """Sums of values, and counts, per code, of the keys beyond the reach of each block: ``(B, n, S, V + 1)``."""
    t = torch.arange(v.shape[1], device=v.device)
    v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    # key t is behind the blocks after number (t + behind) // block, and ahead of those before (t - ahead) // block
    # a sum block by block: cumsum along an outer axis is several times slower on a CPU
    left = _sums_by_code(v, z, S, n, (t + behind) // block + 1).unbind(1)
    before = list(accumulate(left))
    if ahead is None:
        return torch.stack(before, 1)
    right = _sums_by_code(v, z, S, n, (t - ahead).div(block, rounding_mode="floor") - 1).unbind(1)
    after = list(accumulate(reversed(right)))[::-1]
    return torch.stack([b + a for b, a in zip(before, after, strict=True)], 1)


def _sums_by_code(v: Tensor, z: Tensor, S: int, n: int, group: Tensor) -> Tensor:
    B, _, V = v.shape
    # row S collects masked positions, group n positions outside the range
    group = group.where((group >= 0) & (group < n), n)
    index = (torch.arange(B, device=v.device).unsqueeze(1) * (n + 1) + group) * (S + 1) + z  # (B, L)
    sums = v.new_zeros(B * (n + 1) * (S + 1), V).index_add(0, index.flatten(), v.flatten(0, 1))
    return sums.view(B, n + 1, S + 1, V)[:, :n, :S]


def _around(x: Tensor, pad: tuple[int, int], size: int, step: int) -> Tensor:
    """The ``size`` positions seen by each block: ``(B, L, P) -> (B, n, P, size)``."""
    return torch.nn.functional.pad(x, (0, 0, *pad)).unfold(1, size, step)
