"""The learned global filter of GFNet in one dimension."""

import torch
from torch import Tensor, nn

from seqmix.mixers.mask import mix_aligned
from seqmix.mixers.mixer import Mixer, check_length, register, require_max_len
from seqmix.ops.wide import wide


@register(paper="arXiv:2107.00645", cost="L log L")
class FourierFilter(Mixer):
    """Global filter: one learned complex number per frequency and channel.

    ``y = irfft(W * rfft(x))`` over ``max_len`` points: a circular convolution with a kernel as long as the
    sequence. Shorter sequences stand at the start of the ``max_len`` points with zeros after them, so that padding on
    either side changes nothing.

    Shapes: ``(B, L, D) -> (B, L, D)``, ``L <= max_len``. Cost: O(max_len log(max_len) D) time, O(max_len D) memory.

    Args:
        d_model: width D.
        max_len: number of points of the transform, and longest sequence.
        init_std: standard deviation of both parts of W at initialization.

    Raises:
        ConfigError: if ``max_len`` is missing.

    Source: Rao et al., 2021, arXiv:2107.00645, sec. 3.2. Differs from the original code in: one axis instead of two;
    shorter inputs are zero-padded, where the original interpolates W. Half types are transformed in float32.
    """

    pure = True

    def __init__(self, d_model: int, max_len: int | None = None, *, init_std: float = 0.02):
        super().__init__(d_model, max_len)
        self.max_len = require_max_len(self, max_len, "one number per frequency")
        self.weight = nn.Parameter(torch.randn(self.max_len // 2 + 1, d_model, 2) * init_std)  # (F, D, 2)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        check_length(self, x, self.max_len)
        return mix_aligned(self._filter, x, mask)

    def matrix(self, x: Tensor) -> Tensor:
        """Circulant matrix of each channel, cut to L, as ``(B, D, L, L)``."""
        B, L, D = x.shape
        kernel = torch.fft.irfft(self._response(), n=self.max_len, dim=0)  # (max_len, D)
        i = torch.arange(L, device=x.device)
        lag = (i[:, None] - i).remainder(self.max_len)  # (L, L)
        return kernel.T[:, lag].to(x.dtype).expand(B, D, L, L)

    def _response(self) -> Tensor:
        return torch.view_as_complex(wide(self.weight))

    def _filter(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(wide(x), n=self.max_len, dim=1) * self._response()  # (B, F, D)
        return torch.fft.irfft(spectrum, n=self.max_len, dim=1)[:, : x.shape[1]].to(x.dtype)
