"""The codebook: nearest codes, gradients past them, and moving averages of the keys that they stand for."""

import torch
from torch import Tensor, distributed

from seqmix.ops.operands import holds_integers, kind_of, require_at_least_one, require_mask, require_operands
from seqmix.ops.wide import wide


def nearest_code(k: Tensor, codes: Tensor) -> Tensor:
    """Index of the nearest code of each key, the lowest of equally near ones: ``(..., P), (S, P) -> (...)``."""
    require_operands(k, ("codes", codes, (*codes.shape[:1], k.shape[-1])))
    require_at_least_one(codes=codes.shape[0])
    with torch.no_grad(), torch.autocast(k.device.type, enabled=False):
        k, codes = wide(k), wide(codes)
        # |k|^2 is the same for all codes
        return (codes.square().sum(-1) - 2 * k @ codes.T).argmin(-1)


def straight_through(k: Tensor, codes: Tensor, z: Tensor) -> Tensor:
    """The code of each key, with the gradient of the key: ``codes[z] + (k - stopgrad(k))``."""
    require_codes(k, codes, z)
    return codes[z].detach() + (k - k.detach())


def commitment_loss(k: Tensor, codes: Tensor, z: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of ``|k - codes[z]|^2`` over the kept positions of the batch; gradient to k only."""
    require_codes(k, codes, z)
    require_mask(k, mask)
    squared = (wide(k) - codes[z].detach()).square().sum(-1)  # (B, L)
    if mask is None:
        return squared.sum() / max(squared.numel(), 1)
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
    require_operands(sums, ("counts", counts, (S,)), ("k", k, (*k.shape[:-1], P)))
    require_codes(k, sums, z)
    require_mask(k, mask)
    k, z = k.detach().flatten(0, -2).to(sums.dtype), z.flatten()
    kept = torch.ones_like(z, dtype=torch.bool) if mask is None else mask.flatten()
    # the last column counts, the last row collects masked positions
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
        # a batch without any key offers zero rows
        dead = (counts < restart) & (fresh[:, P] > 0)
        sums = torch.where(dead.unsqueeze(-1), fresh[:, :P], sums)
        counts = torch.where(dead, fresh[:, P], counts)
    return sums, counts


def require_codes(k: Tensor, codes: Tensor, z: Tensor) -> None:
    """Raise ``ValueError`` unless ``z`` has one integer for each key ``k: (..., P)``, and there are codes."""
    require_at_least_one(codes=codes.shape[0])
    if not holds_integers(z) or z.shape != k.shape[:-1] or z.device != k.device:
        raise ValueError(f"z should hold integers of shape {tuple(k.shape[:-1])} on {k.device}, got {kind_of(z)}")


def _random_rows(rows: Tensor, kept: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """``n`` different kept rows, beginning anew where there are fewer."""
    if not len(rows):
        return rows.new_zeros(n, rows.shape[1])
    chance = torch.rand(len(rows), generator=generator).to(rows.device).masked_fill(~kept, -1)
    order = chance.argsort(descending=True, stable=True)
    return rows[order[torch.arange(n, device=rows.device) % kept.sum().clamp(min=1)]]
