"""Inception mixer of iFormer in one dimension: convolution and max-pooling for high frequencies, attention for low."""

import torch
from einops import rearrange
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers.conv import convolve, require_odd
from seqmix.mixers.mask import mix_aligned
from seqmix.mixers.mixer import Mixer, register


@register(paper="arXiv:2205.12956", cost="L^2", variants=({"stride": 2}, {"stride": 3}), n_heads=1, head_dim=4)
class InceptionMixer(Mixer):
    """Inception token mixer: the first channels go to convolution and max-pooling, the last to attention.

    ``u = [gelu(DW W x_1); gelu(W maxpool(x_2) + b); up(attention(down(x_3)))]``, ``y = W (u + DW u) + b`` (eq. 2 to 7),
    where attention runs on means over cells of ``stride`` positions.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D^2 + (L / stride)^2 n_heads head_dim) time.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        n_heads: attention heads; the last ``n_heads * head_dim`` channels are theirs.
        head_dim: width of a head, 32 in the paper.
        stride: positions per cell of the attention, 2 in the first two stages of the paper and 1 in the others. The
            last cell may be shorter.
        kernel_size: positions seen by convolutions and max-pooling, odd, 3 in the paper.

    Raises:
        ConfigError: if the heads leave no channels, or an odd number of them, or ``kernel_size`` is even.

    Source: Si et al., 2022, arXiv:2205.12956, sec. 3.1. Differs from the original code in: one axis instead of two;
    lengths that are no multiple of ``stride`` work.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        n_heads: int = 1,
        head_dim: int = 32,
        stride: int = 1,
        kernel_size: int = 3,
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, n_heads=n_heads, head_dim=head_dim, stride=stride)
        low = n_heads * head_dim
        high = d_model - low
        if high <= 0 or high % 2:
            raise ConfigError(
                f"n_heads * head_dim = {low} leaves {high} of {d_model} channels for convolution and pooling; "
                "leave a positive even number"
            )
        self.n_heads, self.stride, self.kernel_size = n_heads, stride, require_odd("kernel_size", kernel_size)
        self.widths = [high // 2, high // 2, low]
        self.conv1 = nn.Linear(high // 2, high, bias=False)
        self.proj1 = nn.Conv1d(high, high, kernel_size, groups=high, bias=False)
        self.proj2 = nn.Linear(high // 2, high)
        self.qkv = nn.Linear(low, 3 * low)
        fused = 2 * high + low
        self.conv_fuse = nn.Conv1d(fused, fused, kernel_size, groups=fused, bias=False)
        self.proj = nn.Linear(fused, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        L = x.shape[1]
        # cells are counted from the first kept position, so kept positions are moved to the front
        lengths = L if mask is None else mask.sum(1, keepdim=True)
        kept = (torch.arange(L, device=x.device) < lengths).expand(x.shape[0], -1).unsqueeze(-1)  # (B, L, 1)
        return mix_aligned(lambda x: self._mix(x, kept), x, mask)

    def _mix(self, x: Tensor, kept: Tensor) -> Tensor:
        conv, pool, low = x.split(self.widths, -1)
        conv = nn.functional.gelu(convolve(self.proj1, self.conv1(conv)))
        pool = nn.functional.gelu(self.proj2(self._max_pool(pool, kept)))
        # the bias of proj2 has filled the padding
        u = torch.cat([conv, pool, self._attend(low, kept)], -1).masked_fill(~kept, 0)
        return self.proj(u + convolve(self.conv_fuse, u))

    def _max_pool(self, x: Tensor, kept: Tensor) -> Tensor:
        x = x.masked_fill(~kept, -torch.inf).transpose(1, 2).unsqueeze(2)  # (B, D, 1, L)
        # as an image: an exported `max_pool1d` works for one length only
        y = nn.functional.max_pool2d(x, (1, self.kernel_size), stride=1, padding=(0, self.kernel_size // 2))
        return y.squeeze(2).transpose(1, 2).masked_fill(~kept, 0)

    def _attend(self, x: Tensor, kept: Tensor) -> Tensor:
        L = x.shape[1]
        weight = kept.to(x.dtype)
        cells, counts = (self._cell_sums(t) for t in (x, weight))  # (B, L / stride, .)
        q, k, v = rearrange(
            self.qkv(cells / counts.clamp(min=1)), "b m (three h p) -> three b h m p", three=3, h=self.n_heads
        )
        seen = rearrange(counts > 0, "b m 1 -> b 1 1 m")
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return rearrange(y, "b h m p -> b m (h p)").repeat_interleave(self.stride, 1)[:, :L]

    def _cell_sums(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, (0, 0, 0, -x.shape[1] % self.stride))
        return rearrange(x, "b (m s) d -> b m s d", s=self.stride).sum(2)
