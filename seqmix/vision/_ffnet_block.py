"""The block of FFNet: query, key and value with the operations of a feed-forward network (arXiv:2406.02021, sec. 3).

The names of parameters are those of ysj9909/FFNet.
"""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.models.block import DropPath
from seqmix.vision._fusible import ConvBN, DepthwiseSum

Unit = Literal["plain", "batch", "two", "four"]


class FFNetBlock(nn.Module):
    """FFN-ified attention and a convolutional channel MLP, each with a residual and no norm before it.

    ``x + s1 V * gelu(K * W_q x)``, then ``x + s2 W2 gelu(W1 (D * x))``, where the star is a depthwise convolution.

    Shapes: ``(B, C, H, W) -> (B, C, H, W)``. Cost: O(H W C (7 C + 2 token_kernel^2)) for ``expand`` 3.

    Args:
        d_model: channels C.
        token_kernel: rows and columns that keys and values see.
        token_unit: their depthwise convolution, see ``depthwise``.
        channel_kernel: rows and columns that the channel mixer sees.
        channel_unit: its depthwise convolution, see ``depthwise``.
        expand: inner width of the channel mixer over C.
        drop_path: probability to skip a mixer for a sample in training.
        layer_scale: initial value of a learned scale per channel on each mixer. None: no scale.
        post_act: GELU after each residual.
        slot: name the token mixer as first of a sequence, whose second place the classifiers leave empty.

    Source: Yun et al., 2024, arXiv:2406.02021, sec. 3. Differs from the original code in: nothing.
    """

    def __init__(
        self,
        d_model: int,
        *,
        token_kernel: int,
        token_unit: Unit,
        channel_kernel: int,
        channel_unit: Unit,
        expand: int = 3,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        post_act: bool = False,
        slot: bool = True,
    ):
        super().__init__()
        inner = expand * d_model
        token = OrderedDict(
            fc=ConvBN(d_model, d_model),
            conv1=depthwise(d_model, token_kernel, token_unit),
            act=nn.GELU(),
            conv2=depthwise(d_model, token_kernel, token_unit),
        )
        channel = OrderedDict(
            conv=depthwise(d_model, channel_kernel, channel_unit),
            fc1=nn.Conv2d(d_model, inner, 1),
            act=nn.GELU(),
            fc2=nn.Conv2d(inner, d_model, 1),
        )
        mixer = _Residual(token, d_model, drop_path, layer_scale, post_act)
        self.token_mixer = nn.Sequential(mixer) if slot else mixer
        self.channel_mixer = _Residual(channel, d_model, drop_path, layer_scale, post_act)

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``x: (B, C, H, W)``."""
        return self.channel_mixer(self.token_mixer(x))


def depthwise(d_model: int, kernel_size: int, unit: Unit) -> nn.Module:
    """Depthwise convolution, or several that are trained side by side and become one.

    ``plain``: one with bias and no norm; ``batch``: one with batch norm; ``two``: with one of 3 x 3 beside it;
    ``four``: with one of four rows and columns less, one of a row and one of a column beside it.
    """
    K = kernel_size
    if unit == "plain":
        return nn.Conv2d(d_model, d_model, K, padding=K // 2, groups=d_model)
    if unit == "batch":
        return ConvBN(d_model, d_model, K, groups=d_model)
    if unit == "two":
        return DepthwiseSum(d_model, d_model, {"conv": (K, K), "conv1": (3, 3)})
    smaller = {"conv2": (K - 4, K - 4)} if K > 3 else {}
    return DepthwiseSum(d_model, d_model, {"conv1": (K, K), **smaller, "strip_conv1": (1, K), "strip_conv2": (K, 1)})


class LayerNorm2d(nn.LayerNorm):
    """Normalization over the channels of each pixel, channels first, ``(B, C, H, W)``.

    Args:
        d_model: channels C.

    Source: Yun et al., 2024, arXiv:2406.02021. Differs from the original code in: nothing.
    """

    def __init__(self, d_model: int):
        super().__init__(d_model, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        """Normalize ``input: (B, C, H, W)``."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Residual(nn.Module):
    def __init__(
        self,
        main: OrderedDict[str, nn.Module],
        d_model: int,
        drop_path: float,
        layer_scale: float | None,
        post_act: bool,
    ):
        super().__init__()
        self.main = nn.Sequential(main)
        self.layer_scale = None if layer_scale is None else nn.Parameter(torch.full((d_model, 1, 1), layer_scale))
        self.drop_path = DropPath(drop_path)
        self.post_act = post_act

    def forward(self, x: Tensor) -> Tensor:
        y = self.main(x)
        x = x + self.drop_path(y if self.layer_scale is None else y * self.layer_scale)
        return F.gelu(x) if self.post_act else x
