"""The plain end of the MetaFormer ladder in one dimension: identity, average pooling, separable convolution."""

import torch
from torch import Tensor, nn

from seqmix.mixers.conv import convolve, require_odd
from seqmix.mixers.mixer import Mixer, register, zero_masked


@register(paper="arXiv:2210.13452", cost="L")
class Identity(Mixer):
    """Identity mapping: no mixing at all, the lower bound of IdentityFormer.

    ``y = x``.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: nothing.

    Args:
        d_model: width D, any.
        max_len: unused, every length works.

    Source: Yu et al., 2022, arXiv:2210.13452, sec. 2.2. Differs from the original code in: nothing.
    """

    causal = True
    pure = True

    def __init__(self, d_model: int, max_len: int | None = None):
        super().__init__()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``x: (B, L, D)``, zero where masked."""
        return zero_masked(x, mask)

    def matrix(self, x: Tensor) -> Tensor:
        """Identity matrix as ``(B, 1, L, L)``."""
        B, L, _ = x.shape
        return torch.eye(L, dtype=x.dtype, device=x.device).expand(B, 1, L, L)

    def init_state(self, batch_size: int) -> None:
        """There is nothing to remember."""

    def step(self, x: Tensor, state: None) -> tuple[Tensor, None]:
        """Return ``x: (B, D)``."""
        return x, None


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
        super().__init__()
        require_odd("pool_size", pool_size)
        self.pool_size, self.subtract_input = pool_size, subtract_input

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool ``x: (B, L, D)`` along L."""
        x = zero_masked(x, mask)
        kept = torch.ones_like(x[..., :1]) if mask is None else mask.unsqueeze(-1).to(x.dtype)  # (B, L, 1)
        # a window without any kept position stands at a masked one, where the sum is set to zero below
        y = self._window_sum(x) / self._window_sum(kept).clamp(min=1)
        return zero_masked(y - x if self.subtract_input else y, mask)

    def matrix(self, x: Tensor) -> Tensor:
        """Band matrix of the mean, minus the identity, as ``(B, 1, L, L)``."""
        B, L, _ = x.shape
        eye = torch.eye(L, dtype=x.dtype, device=x.device)
        return self(eye.unsqueeze(0)).expand(B, 1, L, L)

    def _window_sum(self, x: Tensor) -> Tensor:
        reach = self.pool_size // 2
        padded = nn.functional.pad(x, (0, 0, reach, reach))
        return torch.stack([padded[:, k : k + x.shape[1]] for k in range(self.pool_size)]).sum(0)


@register(paper="arXiv:2210.13452", cost="L", variants=({"expand": 1, "kernel_size": 3},))
class SepConv(Mixer):
    """Separable convolution of ConvFormer: pointwise, StarReLU, depthwise, pointwise.

    ``y = W2 conv(s relu(W1 x)^2 + b)``, with learned scalars s and b and no other bias.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D^2) time, O(L E) memory, E = expand D.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        expand: inner width over D, 2 in the paper.
        kernel_size: positions seen by the depthwise convolution, odd, 7 in the paper.
        star_scale: s at initialization; 0.8944 gives unit variance for normal input.
        star_bias: b at initialization; -0.4472 gives zero mean for normal input.

    Raises:
        ConfigError: if ``kernel_size`` is not odd and positive.

    Source: Yu et al., 2022, arXiv:2210.13452, sec. 2.2 and 2.3. Differs from the original code in: one axis instead of
    two; s and b start at the paper's constants, in the code at 1 and 0.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        expand: int = 2,
        kernel_size: int = 7,
        star_scale: float = 0.8944,
        star_bias: float = -0.4472,
    ):
        super().__init__()
        require_odd("kernel_size", kernel_size)
        E = expand * d_model
        self.pwconv1 = nn.Linear(d_model, E, bias=False)
        self.scale = nn.Parameter(torch.tensor(star_scale))
        self.bias = nn.Parameter(torch.tensor(star_bias))
        self.dwconv = nn.Conv1d(E, E, kernel_size, groups=E, bias=False)
        self.pwconv2 = nn.Linear(E, d_model, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix ``x: (B, L, D)`` along L."""
        u = self.pwconv1(zero_masked(x, mask))
        # StarReLU of zero is b: padding has to be emptied again before the convolution
        u = zero_masked(self.scale * u.relu().square() + self.bias, mask)  # (B, L, E)
        return zero_masked(self.pwconv2(convolve(self.dwconv, u)), mask)
