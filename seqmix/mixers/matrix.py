"""MatrixMixer: the block of the matrix-mixer ablation around any class of matrices.

Hwang et al., 2024, arXiv:2407.09941, app. E; parameter names of goombalab/hydra, so that its checkpoints load.
"""

from functools import partial

import torch
from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers.conv import convolve, require_odd
from seqmix.mixers.dft import DFT
from seqmix.mixers.mixer import Mixer, register, zero_masked
from seqmix.mixers.norm import RMSNorm
from seqmix.mixers.quasiseparable import Quasiseparable
from seqmix.mixers.softmax import Softmax
from seqmix.mixers.ssm import draw_within
from seqmix.mixers.structured import StructuredFactory
from seqmix.mixers.toeplitz import Toeplitz


@register(
    paper="arXiv:2407.09941",
    cost="L",
    variants=(
        {"matrix": partial(Toeplitz, compat="hydra-release"), "bias": True, "conv_bias": False},
        {"matrix": DFT, "data_dependent": False},
        {"matrix": Softmax, "gated": False, "d_conv": 1},
    ),
    headdim=4,
    qk_dim=3,
)
class MatrixMixer(Mixer):
    """Matrix mixer in the block of Mamba-2, its scan replaced by any class of matrices.

    ``y = W_out (RMSNorm(M v) * SiLU(z))`` with ``z, v`` and the features that make M from one projection; v and the
    features pass a short convolution that sees both sides.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D^2 expand) plus that of the matrix.

    Args:
        d_model: width D.
        max_len: longest sequence; most classes of matrices need it, if only for their scale.
        matrix: class of matrix: ``Quasiseparable``, ``Toeplitz``, ``Vandermonde``, ``DFT``, ``Cauchy``, ``LowRank``,
            ``Softmax`` or ``Unstructured``.
        data_dependent: compute the matrix from the tokens; otherwise it is a free parameter.
        qk_dim: width of queries and keys per head, 16 data-dependent and 64 free in the paper.
        headdim: width of a head, 128 data-dependent and 64 free in the paper.
        expand: inner width over D.
        d_conv: positions seen by the convolution, odd.
        conv_init: bound of the uniform initial weights of the convolution. Default: 1 / sqrt(d_conv).
        bias: biases on the projections.
        conv_bias: bias on the convolution.
        gated: norm and gate before the last projection; False leaves both out, as in JustDense's Mamba drop-in.

    Raises:
        ConfigError: if ``d_conv`` is even, ``headdim`` does not divide the inner width, or the class of matrices has
            no data-dependent form.

    Source: Hwang et al., 2024, arXiv:2407.09941, app. E. Differs from the original code in: nothing but what the
    classes of matrices say of themselves; masks are exact.
    """

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        matrix: StructuredFactory = Quasiseparable,
        data_dependent: bool = True,
        qk_dim: int = 16,
        headdim: int = 128,
        expand: int = 2,
        d_conv: int = 7,
        conv_init: float | None = None,
        bias: bool = False,
        conv_bias: bool = True,
        gated: bool = True,
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, qk_dim=qk_dim, headdim=headdim, expand=expand)
        require_odd("d_conv", d_conv)
        E = expand * d_model
        self.matrix_mixer = matrix(
            E, max_len, headdim=headdim, data_dependent=data_dependent, qk_dim=qk_dim, project=False
        )
        convolved = E + self.matrix_mixer.n_convolved
        self.widths = [E if gated else 0, convolved, self.matrix_mixer.n_direct]
        self.in_proj = nn.Linear(d_model, sum(self.widths), bias=bias)
        self.conv1d = nn.Conv1d(convolved, convolved, d_conv, groups=convolved, bias=conv_bias)
        draw_within(self.conv1d.weight, conv_init)
        self.norm = RMSNorm(E) if gated else None
        self.out_proj = nn.Linear(E, d_model, bias=bias)

    @property
    def label(self) -> str:
        """The mixer and its class of matrices."""
        return f"MatrixMixer of {self.matrix_mixer.label}"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        z, v, features = self._project(x, mask)
        y = self.matrix_mixer(v, mask, features)
        if self.norm is not None:
            y = self.norm(y, z)
        return zero_masked(self.out_proj(y), mask)

    def matrix(self, x: Tensor) -> Tensor:
        """Mixing matrix between the projections, ``(B, H, L, L)``."""
        _, v, features = self._project(x, None)
        return self.matrix_mixer.matrix(v, features)

    def _project(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Gate ``(B, L, E)``, values ``(B, L, E)`` and features ``(B, L, F)``."""
        z, w, direct = self.in_proj(zero_masked(x, mask)).split(self.widths, -1)
        # the bias of the projection has filled the padding that the convolution would read
        w = convolve(self.conv1d, zero_masked(w, mask))
        E = w.shape[-1] - self.matrix_mixer.n_convolved
        v, codes = nn.functional.silu(w[..., :E]), w[..., E:]
        if self.matrix_mixer.activated:
            codes = nn.functional.silu(codes)
        return z, v, torch.cat([codes, direct], -1)
