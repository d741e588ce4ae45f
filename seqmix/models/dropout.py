"""Dropout that is cheap on a CPU."""

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError


class Dropout(nn.Dropout):
    """``nn.Dropout`` whose mask takes 16 random bits of an element on a CPU, a fifth of the time.

    An element is kept with probability ``q = round((1 - p) 2^16) / 2^16`` and divided by ``q``, so that its mean is
    exact. On other devices, in compiled code and for p within 2^-17 of 0 or 1 it is that of PyTorch.

    Shapes: any to the same. Cost: one pass.

    Args:
        p: probability of zero, 0 to 1.

    Raises:
        ConfigError: if ``p`` is out of range.

    Source: Srivastava et al., JMLR 2014. Differs from the original code in: how the mask is drawn.
    """

    def __init__(self, p: float):
        if not 0 <= p <= 1:
            raise ConfigError(f"dropout = {p} is not a probability; use 0 to 1")
        super().__init__(p)

    def forward(self, x: Tensor) -> Tensor:
        """Zero elements of ``x`` in training."""
        kept = round((1 - self.p) * 2**16)
        drawn_here = self.training and x.device.type == "cpu" and 0 < kept < 2**16
        if not drawn_here or torch.compiler.is_compiling():
            return super().forward(x)
        # four elements from each number; `bernoulli_` draws one or two numbers for each element
        bits = torch.randint(-(2**63), 2**63 - 1, (x.numel() // 4 + 1,)).view(torch.int16)
        mask = bits[: x.numel()].view(x.shape) < kept - 2**15
        return x * mask.to(x.dtype).mul_(2**16 / kept)
