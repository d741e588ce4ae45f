"""The token-mixing MLP of MLP-Mixer."""

from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.mixers.mask import mix_aligned
from seqmix.mixers.mixer import Mixer, check_length, register, require_max_len


@register(paper="arXiv:2105.01601", cost="L^2", variants=({"hidden": 5},))
class DenseMLP(Mixer):
    """Token-mixing MLP of MLP-Mixer.

    ``y = W2 gelu(W1 x + b1) + b2`` along the sequence (eq. 1), the same for every channel.

    Shapes: ``(B, L, D) -> (B, L, D)``, ``L <= max_len``; shorter sequences use the first columns of W1 and rows of W2.
    Cost: O(L hidden D) time, O(hidden D) memory.

    Args:
        d_model: width D, any.
        max_len: longest sequence, and size of the layers.
        hidden: inner width. Default: 2 max_len, about that of Mixer-B/16.

    Raises:
        ConfigError: if ``max_len`` is missing.

    Source: Tolstikhin et al., 2021, arXiv:2105.01601, sec. 2. Differs from the original code in: exact GELU instead of
    its tanh approximation; sequences shorter than ``max_len`` are accepted.
    """

    def __init__(self, d_model: int, max_len: int | None = None, *, hidden: int | None = None):
        super().__init__(d_model, max_len)
        check_at_least(1, hidden=hidden)
        self.max_len = require_max_len(self, max_len, "layers as wide as the sequence")
        hidden = hidden or 2 * self.max_len
        self.fc1 = nn.Linear(self.max_len, hidden)
        self.fc2 = nn.Linear(hidden, self.max_len)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        check_length(self, x, self.max_len)
        return mix_aligned(self._mix, x, mask)

    def _mix(self, x: Tensor) -> Tensor:
        L = x.shape[1]
        u = nn.functional.linear(x.transpose(1, 2), self.fc1.weight[:, :L], self.fc1.bias)  # (B, D, hidden)
        y = nn.functional.linear(nn.functional.gelu(u), self.fc2.weight[:L], self.fc2.bias[:L])
        return y.transpose(1, 2)
