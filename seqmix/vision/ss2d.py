"""SS2D: selective scans over a grid in four orders, the token mixer of VMamba and of ViM2 (arXiv:2401.10166)."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.errors import check_at_least, check_choice
from seqmix.mixers.conv import require_odd
from seqmix.mixers.mixer import stay_wide
from seqmix.mixers.ssm import Discretization, dt_bias, rates
from seqmix.ops import selective_scan
from seqmix.ops.wide import wide
from seqmix.vision.grid_mixer import Grid, GridMixer, zero_masked_grid


class SS2D(GridMixer):
    """Selective scans over rows, columns and both backwards; projections, convolution and gate are shared.

    ``y = W (norm(sum_k S6_k(u)) * SiLU(z))`` with ``u = SiLU(DW x_u)``, ``x_u, z = W_in x``.

    Shapes: ``(B, H, W, D) -> (B, H, W, D)``. Cost: O(H W E (D + N)) time, O(H W E) memory, E = expand D.

    Args:
        d_model: width D.
        grid: unused, every size works.
        d_state: state size per channel N.
        d_conv: side of the depthwise kernel, odd, in tokens.
        expand: inner width over D.
        dt_rank: rank of the map to dt. Default: ceil(D / 16).
        bcdt_from: what dt, B and C are read from: ``conv``, the convolved input, or ``input``, the input of the mixer.
        merge: ``sum`` or ``mean`` of the four orders.
        discretization: of the input map, ``euler`` (dt B) or ``zoh`` (zero-order hold).

    Raises:
        ConfigError: if ``bcdt_from``, ``merge`` or ``discretization`` is not known.

    Source: Liu et al., 2024, arXiv:2401.10166, sec. 4.2, in its first form, under its parameter names. Differs from the
    original code in: masks; each direction scans both of its orders as two groups of one scan.
    """

    def __init__(
        self,
        d_model: int,
        grid: Grid | None = None,
        *,
        d_state: int = 16,
        d_conv: int = 3,
        expand: int = 2,
        dt_rank: int | None = None,
        bcdt_from: Literal["conv", "input"] = "conv",
        merge: Literal["sum", "mean"] = "sum",
        discretization: Discretization = "euler",
    ):
        super().__init__()
        check_at_least(1, d_state=d_state, expand=expand, dt_rank=dt_rank)
        require_odd("d_conv", d_conv)
        check_choice("bcdt_from", bcdt_from, ("conv", "input"))
        check_choice("merge", merge, ("sum", "mean"))
        check_choice("discretization", discretization, ("euler", "zoh"))
        E, R, N = expand * d_model, dt_rank or math.ceil(d_model / 16), d_state
        self.split = [R, N, N]
        self.bcdt_from, self.merge = bcdt_from, merge
        self.discretization: Discretization = discretization
        self.in_proj = nn.Linear(d_model, 2 * E, bias=False)
        self.conv2d = nn.Conv2d(E, E, d_conv, padding=d_conv // 2, groups=E)
        source = E if bcdt_from == "conv" else d_model
        bound = source**-0.5
        self.x_proj_weight = nn.Parameter(torch.empty(4, R + 2 * N, source).uniform_(-bound, bound))
        self.dt_projs_weight = nn.Parameter(torch.empty(4, E, R).uniform_(-(R**-0.5), R**-0.5))
        bias = dt_bias(4 * E, 1e-3, 0.1, 1e-4).view(4, E)
        self.dt_projs_bias = nn.Parameter(bias)
        A_logs = torch.arange(1, N + 1, dtype=torch.float32).log().repeat(4 * E, 1)  # (4 E, N)
        self.A_logs = nn.Parameter(A_logs)
        self.Ds = nn.Parameter(torch.ones(4 * E))
        self.out_norm = nn.LayerNorm(E)
        self.out_proj = nn.Linear(E, d_model, bias=False)

    def no_weight_decay(self) -> set[str]:
        """Steps, rates and skips."""
        return {"dt_projs_bias", "A_logs", "Ds"}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SS2D":
        with stay_wide(self, self.no_weight_decay()):
            return super()._apply(fn, recurse)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = zero_masked_grid(x, mask)
        u, z = self.in_proj(x).chunk(2, -1)  # (B, H, W, E)
        u = F.silu(self.conv2d(u.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        u = zero_masked_grid(u, mask)
        y = self.out_norm(self._scan(u, x if self.bcdt_from == "input" else u, mask))
        return zero_masked_grid(self.out_proj(y * F.silu(z)), mask)

    def _scan(self, u: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Scan ``u: (B, H, W, E)`` in four orders, dt, B and C read from ``source``, and merge them."""
        _, H, W, E = u.shape
        # published in the order rows, columns, rows backwards, columns backwards
        x_proj, dt_proj = (p.unflatten(0, (2, 2)) for p in (self.x_proj_weight, self.dt_projs_weight))
        bias, D = (wide(p).view(2, 2 * E) for p in (self.dt_projs_bias, self.Ds))
        A = rates(self.A_logs).view(2, 2 * E, -1)
        codes = torch.einsum("bloc,kopc->kblop", _orders(source), x_proj)  # (2, B, L, 2, R + 2 N)
        dt, B, C = codes.split(self.split, -1)
        dt = torch.einsum("kblor,koer->kbloe", dt, dt_proj).flatten(-2)  # (2, B, L, 2 E)
        if mask is not None:
            # no step at padding: the state passes it unchanged
            kept = _orders(mask.unsqueeze(-1)).expand(-1, -1, -1, E).flatten(2)
            dt = F.softplus(wide(dt) + bias[:, None, None]) * kept
        u = _orders(u).flatten(2)  # (B, L, 2 E)
        y = sum(
            selective_scan(
                u,
                dt[k],
                A[k],
                B[k],
                C[k],
                D[k],
                dt_bias=None if mask is not None else bias[k],
                dt_softplus=mask is None,
                reverse=k == 1,
                discretization=self.discretization,
            )
            for k in range(2)
        )
        assert isinstance(y, Tensor)
        rows, columns = y.chunk(2, -1)
        y = rows.unflatten(1, (H, W)) + columns.unflatten(1, (W, H)).transpose(1, 2)
        return y if self.merge == "sum" else y / 4


def _orders(x: Tensor) -> Tensor:
    """``(B, H, W, C)`` read by rows and by columns: ``(B, H W, 2, C)``."""
    return torch.stack([x.flatten(1, 2), x.transpose(1, 2).flatten(1, 2)], 2)
