"""The channel mixer of MambaMixer: a selective scan across channels."""

import math
from typing import Literal

from einops import rearrange
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least, check_choice
from seqmix.mixers.mask import mix_aligned
from seqmix.mixers.mixer import Mixer, check_length, register, require_max_len, zero_masked
from seqmix.mixers.ssm import (
    Branch,
    Discretization,
    make_branch,
    run_both_ways,
)


@register(
    paper="arXiv:2403.19888",
    cost="L",
    variants=(
        {"group": 4, "merge": "mean"},
        {"reading": "lifted", "group": 2, "discretization": "zoh"},
        {"reading": "transposed", "width": 10},
    ),
)
class SelectiveChannel(Mixer):
    """Selective channel mixer of MambaMixer: a bidirectional selective scan over the channels.

    ``y = W_out ((S6_f(u) + S6_b(u)) * SiLU(g))`` with ``u, g = W_in x`` (eq. 12 to 17); the scans run along the
    channels. The paper leaves open what one step of them holds:

    * ``dense``: for each token the ``width`` projected channels are the sequence, ``group`` of them a step.
    * ``lifted``: as ``dense``, but each of the ``width`` channels is a step, embedded into ``group`` features.
    * ``transposed``: the D channels are the sequence and the ``max_len`` positions the features, as in MLP-Mixer.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L width (D + N)) time, O(L width) memory; ``transposed`` O(L width D).

    Args:
        d_model: width D.
        max_len: longest sequence for ``transposed``; unused otherwise.
        width: channels after the input projection w. Default: 2 d_model, and 2 max_len for ``transposed``.
        group: features of one step, see above; ``transposed`` has no use for it.
        reading: content of one step of the scan, see above.
        d_state: state size per feature N.
        d_conv: steps seen by the short convolutions.
        merge: ``sum`` or ``mean`` of the two directions.
        discretization: of the input map, ``euler`` (dt B) or ``zoh`` (zero-order hold).

    Raises:
        ConfigError: if ``reading``, ``merge`` or ``discretization`` is not known, if ``width`` is not a multiple of
            ``group`` for ``dense``, if ``transposed`` meets a ``group`` or lacks ``max_len``.

    Source: Behrouz et al., 2024, arXiv:2403.19888, sec. 3.1. Differs from the original code in: unknown, it was not
    released; ``dense`` is the default because its weights do not depend on the number of tokens.
    """

    state_space = ("A_log", "D", "dt_proj.bias", "A_b_log", "D_b", "dt_proj_b.bias")

    def __init__(
        self,
        d_model: int,
        max_len: int | None = None,
        *,
        width: int | None = None,
        group: int = 1,
        reading: Literal["dense", "lifted", "transposed"] = "dense",
        d_state: int = 16,
        d_conv: int = 4,
        merge: Literal["sum", "mean"] = "sum",
        discretization: Discretization = "euler",
    ):
        super().__init__(d_model, max_len)
        check_at_least(1, width=width, group=group, d_state=d_state, d_conv=d_conv)
        check_choice("reading", reading, ("dense", "lifted", "transposed"))
        check_choice("merge", merge, ("sum", "mean"))
        check_choice("discretization", discretization, ("euler", "zoh"))
        self.reading, self.group, self.merge = reading, group, merge
        self.discretization: Discretization = discretization
        # tokens do not interact, unless positions are the features
        self.causal = self.pointwise = reading != "transposed"
        if reading == "transposed":
            if group != 1:
                raise ConfigError(f"group = {group} has no meaning for reading='transposed'; leave it out")
            features = require_max_len(self, max_len, "layers as wide as the sequence")
        else:
            features = d_model
        self.features = features
        width = width or 2 * features
        if reading == "dense" and width % group:
            raise ConfigError(f"width = {width} is not a multiple of group = {group}; change one of them")
        step_width = width if reading == "transposed" else group
        dt_rank = math.ceil((features if reading == "transposed" else group) / 16)

        def branch() -> Branch:
            return make_branch(step_width, d_state=d_state, d_conv=d_conv, dt_rank=dt_rank)

        self.in_proj = nn.Linear(features, 2 * width, bias=False)
        self.lift = nn.Linear(1, group) if reading == "lifted" else None
        self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D = branch()
        self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b = branch()
        self.lower = nn.Linear(group, 1, bias=False) if reading == "lifted" else None
        self.out_proj = nn.Linear(width, features, bias=False)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, state: None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, None]:
        """Mix the channels of ``x: (B, L, D)``; with ``return_state`` return the state too, which is None."""
        if return_state:
            state = self.init_state(len(x))
            return self(x, mask), state
        if self.reading != "transposed":
            return zero_masked(self._mix(zero_masked(x, mask)), mask)
        check_length(self, x, self.features)
        return mix_aligned(self._mix_transposed, x, mask)

    def _mix(self, x: Tensor) -> Tensor:
        B, L, _ = x.shape
        u, g = self.in_proj(x).chunk(2, -1)  # (B, L, w)
        if self.lift is not None and self.lower is not None:
            u = self.lift(rearrange(u, "b l w -> (b l) w 1"))
            y = self.lower(self._scan(u)).squeeze(-1)
        else:
            u = rearrange(u, "b l (s p) -> (b l) s p", p=self.group)
            y = rearrange(self._scan(u), "n s p -> n (s p)")
        return self.out_proj(y.view(B, L, -1) * nn.functional.silu(g))

    def _mix_transposed(self, x: Tensor) -> Tensor:
        L = x.shape[1]
        weight = self.in_proj.weight[:, :L]
        u, g = nn.functional.linear(x.transpose(1, 2), weight).chunk(2, -1)  # (B, D, w)
        y = self._scan(u) * nn.functional.silu(g)
        return nn.functional.linear(y, self.out_proj.weight[:L]).transpose(1, 2)

    def _scan(self, u: Tensor) -> Tensor:
        ahead = Branch(self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)
        back = Branch(self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b)
        return run_both_ways(u, ahead, back, mean=self.merge == "mean", discretization=self.discretization)
