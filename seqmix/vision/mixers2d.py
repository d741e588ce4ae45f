"""Grid mixers of the MetaFormer family, with the parameter names of the published weights.

From arXiv:2111.11418 (pooling, attention, fully connected) and arXiv:2210.13452 (identity, random, separable).
"""

import torch
from einops import rearrange
from torch import Tensor, fx, nn
from torch.nn import functional as F

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers.conv import require_odd
from seqmix.vision.grid_mixer import Grid, GridMixer, zero_masked_grid

# torch.fx cannot follow conditions on shapes: functions that have some are leaves
fx.wrap("rearrange")


class Identity2d(GridMixer):
    """Identity mapping, the mixer of IdentityFormer.

    Shapes: ``(B, H, W, D) -> (B, H, W, D)``. Cost: nothing.

    Args:
        d_model: width D, any.
        grid: unused, every size works.

    Source: Yu et al., 2022, arXiv:2210.13452, sec. 2.2. Differs from the original code in: nothing.
    """

    def __init__(self, d_model: int, grid: Grid | None = None):
        super().__init__()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``x: (B, H, W, D)``, zero where masked."""
        return zero_masked_grid(x, mask)


class Pool2d(GridMixer):
    """Average pooling minus the input, the mixer of PoolFormer.

    Each token becomes the mean of its neighborhood less itself (eq. 4); what lies outside the grid or is masked does
    not count in the mean.

    Shapes: ``(B, H, W, D) -> (B, H, W, D)``. Cost: O(H W D pool_size^2).

    Args:
        d_model: width D, any.
        grid: unused, every size works.
        pool_size: side of the neighborhood, odd, 3 in the paper, in tokens.

    Raises:
        ConfigError: if ``pool_size`` is not odd and positive.

    Source: Yu et al., 2021, arXiv:2111.11418, sec. 3.2. Differs from the original code in: masks.
    """

    def __init__(self, d_model: int, grid: Grid | None = None, *, pool_size: int = 3):
        super().__init__()
        self.pool_size = require_odd("pool_size", pool_size)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = zero_masked_grid(x, mask)
        y = self._mean(x)
        if mask is not None:
            # both are means over the cells inside the grid, so their ratio is the mean over the kept ones
            kept = self._mean(mask.unsqueeze(-1).to(x.dtype))  # (B, H, W, 1)
            y = y / torch.where(mask.unsqueeze(-1), kept, 1)
        return zero_masked_grid(y - x, mask)

    def _mean(self, x: Tensor) -> Tensor:
        size = self.pool_size
        y = F.avg_pool2d(x.permute(0, 3, 1, 2), size, stride=1, padding=size // 2, count_include_pad=False)
        return y.permute(0, 2, 3, 1)


class Pointwise(nn.Linear):
    """The same linear map of every cell of a grid, with the options and parameters of ``nn.Linear``.

    Shapes: ``(..., D) -> (..., E)``.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map the features of ``input: (..., D)``."""
        return pointwise(input, self.weight, self.bias)


@fx.wrap
def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map the features of ``x: (..., D)`` by ``weight: (E, D)``.

    On grids of a CPU it is a 1x1 convolution, up to a fifth faster there than the matrix product, and slower on small
    ones (AMD EPYC, torch 2.13).
    """
    if x.dim() != 4 or x.device.type != "cpu" or x.shape[1] * x.shape[2] < 14 * 14:
        return F.linear(x, weight, bias)
    return F.conv2d(x.permute(0, 3, 1, 2), weight[:, :, None, None], bias).permute(0, 2, 3, 1)


class StarReLU(nn.Module):
    """Squared ReLU with a learned scale and shift: ``s relu(x)^2 + b``.

    Args:
        scale: s at initialization; 0.8944 gives unit variance for normal input.
        bias: b at initialization; -0.4472 gives zero mean for normal input.

    Source: Yu et al., 2022, arXiv:2210.13452, eq. 7. Differs from the original code in: nothing; it starts at 1 and 0,
    not at the paper's constants.
    """

    def __init__(self, *, scale: float = 1.0, bias: float = 0.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([scale]))
        self.bias = nn.Parameter(torch.tensor([bias]))

    def forward(self, x: Tensor) -> Tensor:
        """Activate ``x``, of any shape."""
        positive = x.relu()
        # three passes over memory instead of four
        return torch.addcmul(self.bias, positive, self.scale * positive)


class SepConv2d(GridMixer):
    """Separable convolution of ConvFormer: pointwise, StarReLU, depthwise, pointwise.

    Shapes: ``(B, H, W, D) -> (B, H, W, D)``. Cost: O(H W E (D + kernel_size^2)), E = expand D.

    Args:
        d_model: width D.
        grid: unused, every size works.
        expand: inner width over D, 2 in the paper.
        kernel_size: side of the depthwise kernel, odd, 7 in the paper, in tokens.

    Raises:
        ConfigError: if ``kernel_size`` is not odd and positive.

    Source: Yu et al., 2022, arXiv:2210.13452, sec. 2.3. Differs from the original code in: masks.
    """

    def __init__(self, d_model: int, grid: Grid | None = None, *, expand: int = 2, kernel_size: int = 7):
        super().__init__()
        check_at_least(1, expand=expand)
        require_odd("kernel_size", kernel_size)
        E = expand * d_model
        self.pwconv1 = Pointwise(d_model, E, bias=False)
        self.act1 = StarReLU()
        self.dwconv = nn.Conv2d(E, E, kernel_size, padding=kernel_size // 2, groups=E, bias=False)
        self.pwconv2 = Pointwise(E, d_model, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        # StarReLU maps zero to b: mask again before the convolution
        u = zero_masked_grid(self.act1(self.pwconv1(zero_masked_grid(x, mask))), mask)  # (B, H, W, E)
        u = self.dwconv(u.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return zero_masked_grid(self.pwconv2(u), mask)


class Attention2d(GridMixer):
    """Multi-head attention between all tokens of a grid, without positions.

    ``y = softmax(q k^T / sqrt(P)) v`` per head of width P.

    Shapes: ``(B, H, W, D) -> (B, H, W, D)``. Cost: O((H W)^2 D).

    Args:
        d_model: width D.
        grid: unused, every size works.
        head_dim: width of a head P, 32 in the paper.
        bias: bias on the output projection.

    Raises:
        ConfigError: if ``d_model`` is not a multiple of ``head_dim``.

    Source: Yu et al., 2022, arXiv:2210.13452, sec. 2.3. Differs from the original code in: masks. It is
    ``Raster(Attention)`` under the names of the published weights.
    """

    def __init__(self, d_model: int, grid: Grid | None = None, *, head_dim: int = 32, bias: bool = False):
        super().__init__()
        check_at_least(1, head_dim=head_dim)
        if d_model % head_dim:
            raise ConfigError(f"d_model = {d_model} is not a multiple of head_dim = {head_dim}; change one")
        self.n_heads = d_model // head_dim
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.proj = nn.Linear(d_model, d_model, bias=bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = zero_masked_grid(x, mask)
        qkv = self.qkv(x.flatten(1, 2))
        q, k, v = rearrange(qkv, "b l (three g p) -> three b g l p", three=3, g=self.n_heads)
        allowed = None
        if mask is not None:
            # kernels differ on an image with nothing allowed, some give NaN: there everything is
            empty = ~mask.flatten(1).any(1, keepdim=True)
            allowed = (mask.flatten(1) | empty)[:, None, None]  # (B, 1, 1, L)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        y = self.proj(rearrange(y, "b g l p -> b l (g p)"))
        return zero_masked_grid(y.view(x.shape), mask)


class Rand2d(GridMixer):
    """Random mixing: a frozen matrix whose rows sum to one, between all tokens of a grid.

    ``y = R x`` with ``R = softmax(U)``, U uniform in (0, 1) (eq. 5), the same for all channels.

    Shapes: ``(B, H, W, D) -> (B, H, W, D)``, on the grid it was built for. Cost: O((H W)^2 D).

    Args:
        d_model: width D, any.
        grid: height and width, in tokens; R has their product as its side.

    Raises:
        ConfigError: if ``grid`` is missing.

    Source: Yu et al., 2022, arXiv:2210.13452, sec. 2.2. Differs from the original code in: masks, under which each row
    keeps its sum.
    """

    def __init__(self, d_model: int, grid: Grid | None = None):
        super().__init__()
        self.height, self.width = require_grid(self, grid)
        N = self.height * self.width
        # a parameter as in the published weights, so that counts agree; never trained
        self.random_matrix = nn.Parameter(torch.rand(N, N).softmax(-1), requires_grad=False)  # (H W, H W)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        check_grid(self, x, (self.height, self.width))
        tokens = zero_masked_grid(x, mask).flatten(1, 2)
        y = self.random_matrix @ tokens
        if mask is not None:
            left = self.random_matrix @ mask.flatten(1, 2).unsqueeze(-1).to(x.dtype)
            y = y / left.clamp(min=torch.finfo(x.dtype).tiny)
        return zero_masked_grid(y.view(x.shape), mask)


class Dense2d(GridMixer):
    """Fully connected mixing: one learned matrix between all tokens of a grid, the same for all channels.

    Shapes: ``(B, H, W, D) -> (B, H, W, D)``, on the grid it was built for. Cost: O((H W)^2 D).

    Args:
        d_model: width D, any.
        grid: height and width, in tokens; the matrix has their product as its side.

    Raises:
        ConfigError: if ``grid`` is missing.

    Source: Yu et al., 2021, arXiv:2111.11418, sec. 4.4. Differs from the original code in: masks.
    """

    def __init__(self, d_model: int, grid: Grid | None = None):
        super().__init__()
        self.height, self.width = require_grid(self, grid)
        N = self.height * self.width
        self.fc = nn.Linear(N, N, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        check_grid(self, x, (self.height, self.width))
        y = self.fc.weight @ zero_masked_grid(x, mask).flatten(1, 2)
        return zero_masked_grid(y.view(x.shape), mask)


def require_grid(mixer: nn.Module, grid: Grid | None) -> Grid:
    """Return ``grid``, or raise ``ConfigError`` if a mixer that stores something per token was given none."""
    if grid is None:
        raise ConfigError(
            f"grid is needed: {type(mixer).__name__} stores something per token; build the model with img_size=224"
        )
    return grid


@fx.wrap
def check_grid(mixer: nn.Module, x: Tensor, grid: Grid) -> None:
    """Raise ``ValueError`` if ``x: (B, H, W, D)`` has another grid than the one ``mixer`` stores something for."""
    if tuple(x.shape[1:3]) != grid:
        raise ValueError(
            f"a grid of {x.shape[1]} x {x.shape[2]}, {type(mixer).__name__} was built for {grid[0]} x {grid[1]}; "
            "resize the images, or build the model with their img_size"
        )
