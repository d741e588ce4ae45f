"""Average pooling of PoolFormer in one dimension."""

import torch
from torch import Tensor, nn

from seqmix.mixers.conv import require_odd
from seqmix.mixers.mixer import Mixer, register, zero_masked


@register(paper="arXiv:2111.11418", cost="L", variants=({"pool_size": 5, "subtract_input": False},))
class Pool(Mixer):
    """Average pooling minus the input, the mixer of PoolFormer.

    ``y[t] = mean(x[t-k] ... x[t+k]) - x[t]`` with ``2k + 1 = pool_size`` (eq. 4); what lies outside the sequence or is
    masked does not count in the mean.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(pool_size L D) time, O(L D) memory.

    Args:
        d_model: width D, any.
        max_len: unused, every length works.
        pool_size: positions averaged, odd, 3 in the paper.
        subtract_input: take the input off, because the block adds it again.

    Raises:
        ConfigError: if ``pool_size`` is not odd and positive.

    Source: Yu et al., 2021, arXiv:2111.11418, sec. 3.2. Differs from the original code in: one axis instead of two.
    """

    pure = True

    def __init__(self, d_model: int, max_len: int | None = None, *, pool_size: int = 3, subtract_input: bool = True):
        super().__init__(d_model, max_len)
        require_odd("pool_size", pool_size)
        self.pool_size, self.subtract_input = pool_size, subtract_input

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = zero_masked(x, mask)
        kept = torch.ones_like(x[..., :1]) if mask is None else mask.unsqueeze(-1).to(x.dtype)  # (B, L, 1)
        # a window without a kept position is centered on a masked one, which is set to zero below
        y = self._window_sum(x) / self._window_sum(kept).clamp(min=1)
        return zero_masked(y - x if self.subtract_input else y, mask)

    def matrix(self, x: Tensor) -> Tensor:
        """Band matrix of the mean, minus the identity, as ``(B, 1, L, L)``."""
        B, L, _ = x.shape
        eye = torch.eye(L, dtype=x.dtype, device=x.device)
        return self.forward(eye.unsqueeze(0)).expand(B, 1, L, L)

    def _window_sum(self, x: Tensor) -> Tensor:
        reach = self.pool_size // 2
        padded = nn.functional.pad(x, (0, 0, reach, reach))
        return torch.stack([padded[:, k : k + x.shape[1]] for k in range(self.pool_size)]).sum(0)
