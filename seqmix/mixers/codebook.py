"""The codebook of LongVQ: codes are moving averages of keys."""

from typing import Any

import torch
from torch import Tensor, nn

from seqmix.ops.vq import codebook, update_codebook
from seqmix.ops.wide import wide


class Codebook(nn.Module):
    """Codebook learned as moving averages of keys; buffers in float32 or wider, no parameters.

    Args:
        n_codes: number of codes S.
        width: width of a code.
        decay: share of the moving sums that one update keeps.
        from_data: take the codes from the keys of the first update.
        restart: codes whose moving count falls below this start again; 0 is off.
        smoothing: Laplace smoothing of the counts; 0 is off.
    """

    sums: Tensor
    counts: Tensor
    updates: Tensor

    def __init__(self, n_codes: int, width: int, *, decay: float, from_data: bool, restart: float, smoothing: float):
        super().__init__()
        self.decay, self.from_data, self.restart, self.smoothing = decay, from_data, restart, smoothing
        self.register_buffer("sums", torch.randn(n_codes, width) / width**0.5)
        self.register_buffer("counts", torch.ones(n_codes))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def codes(self) -> Tensor:
        """The codes ``(S, width)``."""
        return codebook(self.sums, self.counts, smoothing=self.smoothing)

    @torch.no_grad()
    def learn(self, k: Tensor, z: Tensor, mask: Tensor | None) -> None:
        """Follow keys k (B, L, width) with codes z (B, L), where mask (B, L) is True."""
        # the number of updates is saved with the codes, so a resumed run draws what an uninterrupted one draws
        number = int(self.updates)
        restart = float("inf") if self.from_data and number == 0 else self.restart
        sums, counts = update_codebook(
            self.sums,
            self.counts,
            k,
            z,
            decay=self.decay,
            mask=mask,
            restart=restart,
            generator=torch.Generator().manual_seed(number),
        )
        self.sums.copy_(sums)
        self.counts.copy_(counts)
        self.updates += 1

    def _apply(self, fn: Any, recurse: bool = True) -> "Codebook":
        super()._apply(fn, recurse)
        # a count in bfloat16 would stop at 256
        self.sums, self.counts = wide(self.sums), wide(self.counts)
        return self
