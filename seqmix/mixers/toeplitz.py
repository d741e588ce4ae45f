"""The Toeplitz matrix mixer: a two-sided convolution as long as the sequence."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from seqmix.errors import check_at_least, check_choice
from seqmix.mixers.mixer import register, require_max_len
from seqmix.mixers.structured import (
    StructuredMixer,
    add_identity,
    count_heads,
)
from seqmix.ops import smooth_length
from seqmix.ops.wide import wide


@register(
    paper="arXiv:2407.09941",
    cost="L log L",
    variants=({"data_dependent": False}, {"compat": "hydra-release"}),
    headdim=4,
)
class Toeplitz(StructuredMixer):
    """Toeplitz matrix mixer: a two-sided convolution as long as the sequence, by FFT.

    ``M_ij = m_{i-j}``, ``y = x + 0.5 / sqrt(max_len) M x``. Data-dependent, token t gives the taps of lag t and -t:
    ``m_t = f_t``, ``m_-t = r_t``.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L log(L) D) time, O(L D) memory.

    Args:
        d_model: width D.
        max_len: longest sequence; sets the scale, and the number of free taps.
        headdim: width of a head P. Default: D.
        data_dependent: taps from the tokens; otherwise 2 max_len - 1 free ones per head. With taps from the tokens
            sequences longer than ``max_len`` work too.
        qk_dim: unused, there are no queries and keys.
        project: own the projection to the taps; False inside ``MatrixMixer``.
        compat: "hydra-release" displaces the matrix by one lag and wraps its corner, as the released code does.

    Raises:
        ConfigError: if ``max_len`` is missing, ``d_model`` not a multiple of ``headdim``, or ``compat`` not known.

    Source: Hwang et al., 2024, arXiv:2407.09941, app. E. Differs from the original code in: lag 0 stands on the
    diagonal (see ``compat``); shorter sequences are accepted; float64 stays float64 in the transform.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        headdim: int | None = None,
        data_dependent: bool = True,
        qk_dim: int = 16,
        project: bool = True,
        compat: Literal["hydra-release"] | None = None,
    ):
        check_at_least(1, headdim=headdim, qk_dim=qk_dim)
        if compat is not None:
            check_choice("compat", compat, ["hydra-release"])
        size = require_max_len(self, max_len, "a scale and taps for max_len positions")
        H = count_heads(d_model, headdim or d_model)
        super().__init__(
            d_model,
            headdim or d_model,
            project=project,
            n_convolved=2 * H if data_dependent else 0,
            max_len=None if data_dependent and compat is None else size,
        )
        self.size, self.compat = size, compat
        taps = None if data_dependent else nn.init.xavier_uniform_(torch.empty(H, 2 * size - 1))
        self.conv_params = None if taps is None else nn.Parameter(taps)  # (H, 2 max_len - 1)

    def _multiply(self, v: Tensor, features: Tensor, kept: Tensor | None) -> Tensor:
        L = v.shape[1]
        n = smooth_length(2 * L - 1)
        taps = self._taps(features, L).transpose(1, 2).unsqueeze(-1)  # (B or 1, 2L - 1, H, 1)
        spectrum = torch.fft.rfft(wide(v), n=n, dim=1) * torch.fft.rfft(wide(taps), n=n, dim=1)
        y = torch.fft.irfft(spectrum, n=n, dim=1)[:, L - 1 : 2 * L - 1]
        return v + self._scale * y.to(v.dtype)

    def _matrix(self, x: Tensor, features: Tensor) -> Tensor:
        L = x.shape[1]
        i = torch.arange(L, device=x.device)
        return add_identity(self._taps(features, L)[..., i[:, None] - i + L - 1], self._scale)

    @property
    def _scale(self) -> float:
        return 0.5 / math.sqrt(self.size)

    def _taps(self, features: Tensor, L: int) -> Tensor:
        """Taps of the lags ``-(L - 1) ... L - 1`` as ``(B or 1, H, 2L - 1)``."""
        if self.conv_params is not None:
            taps, half = self.conv_params.unsqueeze(0), self.size
        else:
            # the displaced matrix wraps around at the full length, whatever the length of the input
            half = L if self.compat is None else self.size
            ahead, back = nn.functional.pad(features, (0, 0, 0, half - L)).transpose(1, 2).chunk(2, 1)  # (B, H, half)
            taps = torch.cat([back[..., 1:].flip(-1), ahead], -1)
        if self.compat is not None:
            taps = taps.roll(-1, -1)
        return taps[..., half - L : half + L - 1]
