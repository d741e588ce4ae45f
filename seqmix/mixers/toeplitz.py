"""Matrices made of lags and frequencies: Toeplitz, Vandermonde, DFT (arXiv:2407.09941, sec. 2.3 and app. E)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from seqmix.errors import check_choice
from seqmix.mixers.mixer import register, require_max_len
from seqmix.mixers.structured import (
    StructuredMixer,
    add_identity,
    apply,
    count_heads,
    refuse_data_dependence,
    split_pair,
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
        headdim: width of a head P; D if not given.
        data_dependent: taps from the tokens; else 2 max_len - 1 free ones per head. With taps from the tokens
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


@register(paper="arXiv:2407.09941", cost="L^2", variants=({"data_dependent": False},), headdim=4, qk_dim=3)
class Vandermonde(StructuredMixer):
    """Vandermonde matrix mixer: row i holds powers of a number on the unit circle, and so does column j.

    Data-dependent ``M_ij = sum_d cos(2 pi e q_id j) - cos(2 pi e k_jd i)`` with e = 1e-3, free
    ``M_ij = sum_d cos(2 pi q_id j) + cos(2 pi k_jd i)``; ``y = x + M x / sqrt(2 max_len qk_dim)``.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L^2 (D + H qk_dim)) time, O(L^1.5 H qk_dim + L^2 H) memory.

    Args:
        d_model: width D.
        max_len: longest sequence; sets the scale, and the number of free angles.
        headdim: width of a head P; D if not given.
        data_dependent: angles from the tokens; else free ones. With angles from the tokens sequences longer than
            ``max_len`` work too.
        qk_dim: terms of the sum d per head.
        project: own the projection to the angles; False inside ``MatrixMixer``.

    Raises:
        ConfigError: if ``max_len`` is missing or ``d_model`` is not a multiple of ``headdim``.

    Source: Hwang et al., 2024, arXiv:2407.09941, app. E. Differs from the original code in: the cosines are factored by
    angle addition, not stored for every term; free angles start uniform in (0, 1 / max_len), since at the zeros of the
    original their gradients vanish, and mix positions, where the original multiplies row sums. What the released block
    runs as data-independent Vandermonde is ``DFT``.
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
    ):
        size = require_max_len(self, max_len, "a scale and angles for max_len positions")
        H = count_heads(d_model, headdim or d_model)
        super().__init__(
            d_model,
            headdim or d_model,
            project=project,
            n_convolved=2 * H * qk_dim if data_dependent else 0,
            activated=False,
            max_len=None if data_dependent else size,
        )
        self.scale = 1 / math.sqrt(2 * size * qk_dim)
        q, k = (None if data_dependent else nn.Parameter(torch.rand(H, qk_dim, size) / size) for _ in range(2))
        self.q_bias, self.k_bias = q, k  # (H, d, max_len)

    def _multiply(self, v: Tensor, features: Tensor, kept: Tensor | None) -> Tensor:
        return v + self.scale * apply(self._mixing(features, v.shape[1]), v)

    def _matrix(self, x: Tensor, features: Tensor) -> Tensor:
        return add_identity(self._mixing(features, x.shape[1]), self.scale)

    def _mixing(self, features: Tensor, L: int) -> Tensor:
        if self.q_bias is not None and self.k_bias is not None:
            q, k = (angles[..., :L].transpose(1, 2).unsqueeze(0) for angles in (self.q_bias, self.k_bias))
            return _cosines(q) + _cosines(k).transpose(-1, -2)
        q, k = (angles.transpose(1, 2) for angles in split_pair(features, self.n_heads))  # (B, H, L, d)
        # 1e-3 slows the turns, so that training starts stable
        return _cosines(1e-3 * wide(q)) - _cosines(1e-3 * wide(k)).transpose(-1, -2)


@register(
    paper="arXiv:2407.09941",
    cost="L log L",
    variants=({"compat": "hydra-release"},),
    headdim=4,
)
class DFT(StructuredMixer):
    """Real part of the discrete Fourier transform along the sequence, no parameters.

    ``y = x + Re(F x) / sqrt(max_len)``, ``Re F_ij = cos(2 pi i j / max_len)``. A shorter sequence has zeros after it,
    and gets the leading frequencies.

    Shapes: ``(B, L, D) -> (B, L, D)``, ``L <= max_len``. Cost: O(max_len log(max_len) D) time, O(max_len D) memory.

    Args:
        d_model: width D.
        max_len: points of the transform, and longest sequence.
        headdim: width of a head P; D if not given. All heads have the same matrix.
        data_dependent: False, there is no such form.
        qk_dim: unused, there are no queries and keys.
        project: unused, there are no features.
        compat: "hydra-release" keeps the matrix as a buffer and multiplies by it, as the released code does and its
            checkpoints need.

    Raises:
        ConfigError: if ``max_len`` is missing, ``data_dependent`` set, or ``d_model`` not a multiple of ``headdim``.

    Source: Hwang et al., 2024, arXiv:2407.09941, app. E. Differs from the original code in: an FFT instead of a stored
    matrix (see ``compat``); shorter sequences are accepted.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        headdim: int | None = None,
        data_dependent: bool = False,
        qk_dim: int = 16,
        project: bool = True,
        compat: Literal["hydra-release"] | None = None,
    ):
        refuse_data_dependence("DFT", data_dependent)
        if compat is not None:
            check_choice("compat", compat, ["hydra-release"])
        self.size = require_max_len(self, max_len, "the number of points of the transform")
        super().__init__(d_model, headdim or d_model, project=project, max_len=self.size)
        i = torch.arange(self.size)
        self.dft_matrix: Tensor | None
        stored = None if compat is None else torch.cos(2 * torch.pi * i[:, None] * i / self.size)
        self.register_buffer("dft_matrix", stored)  # (max_len, max_len)

    def _multiply(self, v: Tensor, features: Tensor, kept: Tensor | None) -> Tensor:
        n, L = self.size, v.shape[1]
        if self.dft_matrix is None:
            y = torch.fft.fft(wide(v), n=n, dim=1).real[:, :L].to(v.dtype)
        else:
            y = apply(self.dft_matrix[:L, :L], v)
        return v + y / math.sqrt(n)

    def _matrix(self, x: Tensor, features: Tensor) -> Tensor:
        L = x.shape[1]
        eye = torch.eye(L, dtype=x.dtype, device=x.device)[None, :, None]  # (1, L, 1, L)
        return self._multiply(eye, x, None).transpose(1, 2).expand(1, self.n_heads, L, L)


def _cosines(angle: Tensor) -> Tensor:
    """``sum_d cos(2 pi angle_id j)`` for ``angle: (B, H, L, d)`` as ``(B, H, L, L)``.

    With ``j = m J + r`` the addition theorem makes it one product of two factors with sqrt(L) columns for each row i.
    """
    L = angle.shape[2]
    m = math.isqrt(L - 1) + 1
    turn = 2 * math.pi * angle.unsqueeze(-1)  # (B, H, L, d, 1)
    steps = torch.arange(m, dtype=angle.dtype, device=angle.device)
    fine, coarse = turn * steps, turn * (m * steps[: -(-L // m)])
    left = torch.cat([coarse.cos(), -coarse.sin()], -2)  # (B, H, L, 2d, L/m)
    right = torch.cat([fine.cos(), fine.sin()], -2)  # (B, H, L, 2d, m)
    return (left.transpose(-1, -2) @ right).flatten(-2)[..., :L]
