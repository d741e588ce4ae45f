"""Convolutions with batch norms that are fused into one convolution after training, for FFNet.

The names of parameters are those of ysj9909/FFNet.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.vision.batch_norm import BatchNorm2d


class Fusible(nn.Module, ABC):
    """A module that ``fuse_all`` replaces by the one convolution it is in evaluation."""

    @abstractmethod
    def fused(self) -> nn.Conv2d:
        """Return the convolution that is equivalent to this module in evaluation."""


class ConvBN(Fusible):
    """Convolution without bias, then batch norm.

    Shapes: ``(B, C, H, W) -> (B, d_out, H / stride, W / stride)``. Cost: that of the convolution.

    Args:
        d_in: channels of the input.
        d_out: channels of the output.
        kernel_size: rows and columns, or one number for both.
        stride: pixels between outputs.
        groups: groups of channels that do not meet.

    Source: Yun et al., 2024, arXiv:2406.02021. Differs from the original code in: nothing.
    """

    def __init__(
        self, d_in: int, d_out: int, kernel_size: int | tuple[int, int] = 1, *, stride: int = 1, groups: int = 1
    ):
        super().__init__()
        rows, columns = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        padding = (rows // 2, columns // 2)
        self.c = nn.Conv2d(d_in, d_out, (rows, columns), stride, padding, groups=groups, bias=False)
        self.bn = BatchNorm2d(d_out)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalize ``x: (B, C, H, W)``."""
        return self.bn(self.c(x))

    def fused(self) -> nn.Conv2d:
        """``W gamma / sigma``, ``beta - mu gamma / sigma``."""
        scale, shift = _affine(self.bn)
        return _replace(self.c, self.c.weight * scale[:, None, None, None], shift)


class DepthwiseSum(Fusible):
    """Sum of depthwise convolutions of several sizes, each with its batch norm; one convolution after training.

    Output channel o reads input channel ``o // (d_out / d_in)``.

    Shapes: ``(B, d_in, H, W) -> (B, d_out, H / stride, W / stride)``. Cost: that of the convolutions.

    Args:
        d_in: channels of the input.
        d_out: channels of the output, a multiple of ``d_in``.
        kernels: names of the branches and their kernel sizes, the largest first.
        stride: pixels between outputs.

    Source: Yun et al., 2024, arXiv:2406.02021. Differs from the original code in: nothing.
    """

    def __init__(self, d_in: int, d_out: int, kernels: Mapping[str, tuple[int, int]], *, stride: int = 1):
        super().__init__()
        for name, size in kernels.items():
            self.add_module(name, ConvBN(d_in, d_out, size, stride=stride, groups=d_in))

    def forward(self, x: Tensor) -> Tensor:
        """Sum of the branches on ``x: (B, C, H, W)``."""
        first, *others = self.children()
        y = first(x)
        for branch in others:
            y = y + branch(x)
        return y

    def fused(self) -> nn.Conv2d:
        """Kernels padded to the largest one, and added."""
        largest, *others = (branch.fused() for branch in self.children() if isinstance(branch, ConvBN))
        K = largest.kernel_size[0]
        weight, bias = largest.weight, _bias(largest)
        for conv in others:
            rows, columns = ((K - k) // 2 for k in conv.kernel_size)
            weight = weight + F.pad(conv.weight, (columns, columns, rows, rows))
            bias = bias + _bias(conv)
        return _replace(largest, weight, bias)


class NormedSkip(Fusible):
    """``x + W bn(x)``: batch norm before a convolution of one pixel without bias, and a skip over both.

    Shapes: ``(B, C, H, W) -> (B, C, H, W)``. Cost: O(H W C^2).

    Args:
        d_model: channels C.

    Source: Yun et al., 2024, arXiv:2406.02021. Differs from the original code in: nothing.
    """

    def __init__(self, d_model: int):
        super().__init__()
        convolution = nn.Conv2d(d_model, d_model, 1, bias=False)
        self.conv = nn.ModuleDict({"bn": BatchNorm2d(d_model), "c": convolution})

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``x: (B, C, H, W)``."""
        return x + self.conv["c"](self.conv["bn"](x))

    def fused(self) -> nn.Conv2d:
        """``W gamma / sigma + 1``, ``W (beta - mu gamma / sigma)``."""
        conv, norm = self.conv["c"], self.conv["bn"]
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        scale, shift = _affine(norm)
        weight = conv.weight[:, :, 0, 0]
        one = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        return _replace(conv, (weight * scale + one)[..., None, None], weight @ shift)


def fuse_all(module: nn.Module) -> None:
    """Replace every ``Fusible`` inside ``module`` by its convolution; gradients and running statistics go."""
    for name, child in module.named_children():
        if isinstance(child, Fusible):
            with torch.no_grad():
                setattr(module, name, child.fused())
        else:
            fuse_all(child)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm in evaluation."""
    assert norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _replace(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution with the geometry of ``conv`` and other weights."""
    assert isinstance(conv.padding, tuple)
    rows, columns = conv.kernel_size
    new = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (rows, columns),
        (conv.stride[0], conv.stride[1]),
        (conv.padding[0], conv.padding[1]),
        groups=conv.groups,
        device=weight.device,
        dtype=weight.dtype,
    )
    new.weight, new.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    new.train(conv.training)
    return new
