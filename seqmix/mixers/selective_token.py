"""The token mixer of MambaMixer: a selective scan across tokens."""

import math
from typing import Literal

from torch import Tensor, nn

from seqmix.errors import check_at_least, check_choice
from seqmix.mixers.mixer import Mixer, register, zero_masked
from seqmix.mixers.ssm import (
    Branch,
    BranchState,
    Discretization,
    empty_state,
    make_branch,
    resume_branch,
    run_both_ways,
    run_branch,
)
from seqmix.mixers.state import mix_onward


@register(
    paper="arXiv:2403.19888",
    cost="L",
    variants=(
        {"bidirectional": True},
        {"bcdt_from": "input"},
        {"bidirectional": True, "bcdt_from": "input", "merge": "mean", "discretization": "zoh"},
    ),
)
class SelectiveToken(Mixer):
    """Selective token mixer of MambaMixer, in one direction or in both.

    ``y = W (S6(SiLU(conv(W_u x))) * SiLU(W_z x))`` (eq. 6 to 11), where dt, B and C of the scan S6 depend on the input.
    With ``bidirectional`` a second convolution and scan run from the end (eq. 12 to 17); projections and gate are
    shared.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L E (D + N)) time, O(L E) memory, E = expand D.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        d_state: state size per channel N.
        d_conv: positions seen by the short convolution.
        expand: inner width over D.
        dt_rank: rank of the map to dt. Default: ceil(D / 16).
        bidirectional: scan from both ends.
        bcdt_from: what dt, B and C are read from: ``conv``, the convolved input as in Mamba, or ``input``, the input of
            the mixer, as the equations are printed.
        merge: ``sum`` or ``mean`` of the two directions.
        discretization: of the input map, ``euler`` (dt B) or ``zoh`` (zero-order hold).

    Raises:
        ConfigError: if ``bcdt_from``, ``merge`` or ``discretization`` is not known.

    Source: Behrouz et al., 2024, arXiv:2403.19888, sec. 3.1. Differs from the original code in: unknown, it was not
    released; where text and equations leave a choice, the Mamba block decides, and ``bcdt_from`` has the other reading.
    """

    state_space = ("A_log", "D", "dt_proj.bias", "A_b_log", "D_b", "dt_proj_b.bias")

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        bidirectional: bool = False,
        bcdt_from: Literal["conv", "input"] = "conv",
        merge: Literal["sum", "mean"] = "sum",
        discretization: Discretization = "euler",
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, d_state=d_state, d_conv=d_conv, expand=expand, dt_rank=dt_rank)
        check_choice("bcdt_from", bcdt_from, ("conv", "input"))
        check_choice("merge", merge, ("sum", "mean"))
        check_choice("discretization", discretization, ("euler", "zoh"))
        self.causal, self.bidirectional = not bidirectional, bidirectional
        self.bcdt_from, self.merge = bcdt_from, merge
        self.discretization: Discretization = discretization
        E = expand * d_model

        def branch() -> Branch:
            return make_branch(
                E,
                d_state=d_state,
                d_conv=d_conv,
                dt_rank=dt_rank or math.ceil(d_model / 16),
                source_width=d_model if bcdt_from == "input" else E,
            )

        self.in_proj = nn.Linear(d_model, 2 * E, bias=False)
        self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D = branch()
        if bidirectional:
            self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b = branch()
        self.out_proj = nn.Linear(E, d_model, bias=False)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        state: BranchState | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, BranchState]:
        if state is not None or return_state:
            return mix_onward(self, self._advance, x, mask, state, return_state, cu_seqlens)
        x = zero_masked(x, mask)
        u, z = self.in_proj(x).chunk(2, -1)  # (B, L, E)
        source = self._source(x)
        if self.bidirectional:
            back = Branch(self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b)
            y = run_both_ways(
                u,
                self._branch,
                back,
                source=source,
                mask=mask,
                cu_seqlens=cu_seqlens,
                mean=self.merge == "mean",
                discretization=self.discretization,
            )
            y = y * nn.functional.silu(z)
        else:
            y = run_branch(
                u,
                self._branch,
                z=z,
                source=source,
                mask=mask,
                cu_seqlens=cu_seqlens,
                discretization=self.discretization,
            )
        return zero_masked(self.out_proj(y), mask)

    def init_state(self, batch_size: int) -> BranchState:
        """Zero window of the convolution and zero state of the scan."""
        if self.bidirectional:
            raise TypeError("SelectiveToken with bidirectional=True has no step(); build it with bidirectional=False")
        return empty_state(batch_size, self._branch)

    def step(self, x: Tensor, state: BranchState) -> tuple[Tensor, BranchState]:
        y, state = self._advance(x.unsqueeze(1), None, state)
        return y.squeeze(1), state

    def _advance(self, x: Tensor, kept: Tensor | None, state: BranchState) -> tuple[Tensor, BranchState]:
        u, z = self.in_proj(x).chunk(2, -1)
        source, how = self._source(x), self.discretization
        y, state = resume_branch(u, state, self._branch, z=z, source=source, kept=kept, discretization=how)
        return self.out_proj(y), state

    @property
    def _branch(self) -> Branch:
        return Branch(self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)

    def _source(self, x: Tensor) -> Tensor | None:
        return x if self.bcdt_from == "input" else None
