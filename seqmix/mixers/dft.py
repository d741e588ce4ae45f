"""The discrete Fourier transform as a matrix mixer."""

import math
from typing import Literal

import torch
from torch import Tensor

from seqmix.errors import check_at_least, check_choice
from seqmix.mixers.mixer import register, require_max_len
from seqmix.mixers.structured import (
    StructuredMixer,
    apply,
    refuse_data_dependence,
)
from seqmix.ops.wide import wide


@register(
    paper="arXiv:2407.09941",
    cost="L log L",
    variants=({"compat": "hydra-release"},),
    headdim=4,
)
class DFT(StructuredMixer):
    """Real part of the discrete Fourier transform along the sequence, without parameters.

    ``y = x + Re(F x) / sqrt(max_len)``, ``Re F_ij = cos(2 pi i j / max_len)``. A shorter sequence has zeros after it,
    and gets the leading frequencies.

    Shapes: ``(B, L, D) -> (B, L, D)``, ``L <= max_len``. Cost: O(max_len log(max_len) D) time, O(max_len D) memory.

    Args:
        d_model: width D.
        max_len: points of the transform, and longest sequence.
        headdim: width of a head P. Default: D. All heads have the same matrix.
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
        check_at_least(1, headdim=headdim, qk_dim=qk_dim)
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
