"""The quasiseparable matrix mixer: Hydra's matrix with B and C shared by the two directions."""

import torch
from einops import rearrange
from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers.mixer import register, require_max_len
from seqmix.mixers.ssm import check_steps, dt_bias, rates
from seqmix.mixers.structured import StructuredMixer, count_heads
from seqmix.ops.quasiseparable import quasiseparable, quasiseparable_matrix
from seqmix.ops.ssd import step_sizes


@register(paper="arXiv:2407.09941", cost="L", variants=({"data_dependent": False},), headdim=4, qk_dim=3)
class Quasiseparable(StructuredMixer):
    """Quasiseparable matrix mixer: strict triangles of rank N and a free diagonal.

    ``m_ij = exp(sum of dt_k A over k between i and j) <C_{i-1}, B_j> dt_j`` below the diagonal, ``<C_{i+1}, B_j>``
    above it (eq. 3), ``m_ii = D + <w, x_i>``; N = H qk_dim. No identity is added.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L (N + chunk_size) D) time, O(L D) memory.

    Args:
        d_model: width D.
        max_len: longest sequence for free B and C; else unused.
        headdim: width of a head P. Default: D.
        data_dependent: B, C and the steps from the tokens; else free, with one step per head. The diagonal reads the
            tokens in both forms.
        qk_dim: width of B and C per head; all heads read the H qk_dim columns.
        project: own the projection to B, C and steps; False inside ``MatrixMixer``.
        dt_min: smallest step at initialization, in positions.
        dt_max: largest step at initialization, in positions.
        dt_init_floor: lower bound on steps at initialization, in positions.
        dt_limit: range to which steps are clamped, in positions.
        chunk_size: positions per chunk of the computation; does not change the result. Default: chosen by the op.

    Raises:
        ConfigError: if ``max_len`` is needed and missing, or ``d_model`` is not a multiple of ``headdim``.

    Source: Hwang et al., 2024, arXiv:2407.09941, sec. 3 and app. E. Differs from the original code in: shorter
    sequences are accepted.
    """

    state_space = ("A_log", "D", "dt_bias")

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        headdim: int | None = None,
        data_dependent: bool = True,
        qk_dim: int = 16,
        project: bool = True,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] = (0.0, float("inf")),
        chunk_size: int | None = None,
    ):
        check_at_least(1, max_len=max_len, headdim=headdim, qk_dim=qk_dim, chunk_size=chunk_size)
        check_steps(dt_min, dt_max, dt_limit)
        free = 0 if data_dependent else require_max_len(self, max_len, "B and C per position")
        H = count_heads(d_model, headdim or d_model)
        N = H * qk_dim
        super().__init__(
            d_model,
            headdim or d_model,
            project=project,
            n_convolved=2 * N if data_dependent else 0,
            n_direct=2 * H if data_dependent else 0,
            max_len=free or None,
        )
        self.dt_limit, self.chunk_size = dt_limit, chunk_size
        self.BC = nn.Parameter(nn.init.xavier_normal_(torch.empty(free, 2 * N))) if free else None  # (max_len, 2N)
        self.dt_bias = nn.Parameter(dt_bias(H, dt_min, dt_max, dt_init_floor))
        self.A_log = nn.Parameter(torch.zeros(H))
        self.D = nn.Parameter(torch.ones(H))
        self.fc_D = nn.Linear(d_model, H, bias=False)

    def _multiply(self, v: Tensor, features: Tensor, kept: Tensor | None) -> Tensor:
        dt, A, B, C, diagonal = self._generators(v.flatten(2), features)
        return quasiseparable(
            v,
            dt,
            A,
            B,
            C,
            diagonal,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            dt_limit=self.dt_limit,
            mask=kept,
            chunk=self.chunk_size,
        )

    def _matrix(self, x: Tensor, features: Tensor) -> Tensor:
        dt, A, B, C, diagonal = self._generators(x, features)
        dt = step_sizes(dt, self.dt_bias, True, self.dt_limit, None)
        return quasiseparable_matrix(dt, A, B, C, diagonal)

    def _generators(self, x: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Raw steps ``(B, L, 2, H)``, A ``(H,)``, B and C ``(B, L, 2, 1, N)``, the diagonal ``(B, L, H)``."""
        L, H = x.shape[1], self.n_heads
        if self.BC is None:
            BC, dt = features[..., : self.n_convolved], features[..., self.n_convolved :]
        else:
            BC, dt = self.BC[:L].to(x.dtype).expand(x.shape[0], -1, -1), x.new_zeros(*x.shape[:2], 2 * H)
        # one group that all heads and both directions read
        B, C = rearrange(BC, "b l (two n) -> two b l 1 1 n", two=2).expand(-1, -1, -1, 2, -1, -1)
        dt = rearrange(dt, "b l (two h) -> b l two h", two=2)
        return dt, rates(self.A_log), B, C, self.fc_D(x) + self.D
