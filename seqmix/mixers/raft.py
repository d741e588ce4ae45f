"""Raft-token-mixing of RaftMLP along one axis: a token MLP that sees a few channels of every position together."""

from einops import rearrange
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_at_least
from seqmix.mixers.mask import mix_aligned
from seqmix.mixers.mixer import Mixer, check_length, register, require_max_len


@register(paper="arXiv:2108.04384", cost="L^2", variants=({"n_rafts": 1}, {"n_rafts": 4, "expand": 1}))
class Raft(Mixer):
    """Raft-token-mixing: channels are grouped into rafts, and an MLP mixes the positions of one channel of each raft.

    ``u[g L + i] = x[i, g D/r + j]`` for each j, then ``u <- W2 gelu(W1 u + b1) + b2``, the same for all j.

    Shapes: ``(B, L, D) -> (B, L, D)``, ``L <= max_len``; shorter sequences stand at the start, zeros after them.
    Cost: O(max_len^2 expand r D) time, O(max_len expand D) memory.

    Args:
        d_model: width D.
        max_len: longest sequence, and size of the layers over r.
        n_rafts: number of rafts r, 2 in the paper; 1 is the token MLP of MLP-Mixer.
        expand: inner width over r max_len.

    Raises:
        ConfigError: if ``max_len`` is missing or ``d_model`` is not a multiple of ``n_rafts``.

    Source: Tatsunami and Taki, 2021, arXiv:2108.04384, sec. 3.2. Differs from the original code in: one axis instead of
    vertical and horizontal; norm and residual are those of the block; shorter sequences are not stretched.
    """

    def __init__(self, d_model: int, max_len: int | None = None, *, n_rafts: int = 2, expand: int = 2):
        super().__init__(d_model, max_len)
        check_at_least(1, n_rafts=n_rafts, expand=expand)
        self.max_len, self.n_rafts = require_max_len(self, max_len, "layers as wide as the sequence"), n_rafts
        if d_model % n_rafts:
            raise ConfigError(f"d_model = {d_model} is not a multiple of n_rafts = {n_rafts}; change one of them")
        width = n_rafts * self.max_len
        self.fc1 = nn.Linear(width, expand * width)
        self.fc2 = nn.Linear(expand * width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        check_length(self, x, self.max_len)
        return mix_aligned(self._mix, x, mask)

    def _mix(self, x: Tensor) -> Tensor:
        L = x.shape[1]
        x = nn.functional.pad(x, (0, 0, 0, self.max_len - L))
        u = rearrange(x, "b l (r j) -> b j (r l)", r=self.n_rafts)
        u = self.fc2(nn.functional.gelu(self.fc1(u)))
        return rearrange(u, "b j (r l) -> b l (r j)", r=self.n_rafts)[:, :L]
