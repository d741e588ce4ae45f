"""FFN-ified attention of MetaMixer: query, key and value with the operations of a feed-forward network."""

from torch import Tensor, nn

from seqmix.mixers.conv import convolve, require_odd
from seqmix.mixers.mixer import Mixer, register, zero_masked


@register(paper="arXiv:2406.02021", cost="L", variants=({"kernel_size": 3, "bias": False},))
class FFNifiedAttention(Mixer):
    """FFN-ified attention: keys and values are the weights of long depthwise convolutions.

    ``y = V * gelu(K * (W_q x))``, where the star is a depthwise convolution that sees both sides.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: O(L D (D + kernel_size)) time, O(L D) memory.

    Args:
        d_model: width D.
        max_len: unused, every length works.
        kernel_size: positions seen by keys and by values, odd, 7 on images and 51 on time series in the paper.
        bias: biases on the projection and both convolutions.

    Raises:
        ConfigError: if ``kernel_size`` is not odd and positive.

    Source: Yun et al., 2024, arXiv:2406.02021, sec. 3. Differs from the original code in: one axis instead of two; no
    batch normalization and no second kernel for training, which the image models add and fuse away.
    """

    def __init__(self, d_model: int, max_len: int | None = None, *, kernel_size: int = 7, bias: bool = True):
        super().__init__(d_model, max_len)
        require_odd("kernel_size", kernel_size)
        self.fc = nn.Linear(d_model, d_model, bias=bias)
        self.conv1 = nn.Conv1d(d_model, d_model, kernel_size, groups=d_model, bias=bias)
        self.conv2 = nn.Conv1d(d_model, d_model, kernel_size, groups=d_model, bias=bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        # biases fill the padding, which each convolution would carry into its neighbors
        query = zero_masked(self.fc(zero_masked(x, mask)), mask)
        scores = zero_masked(nn.functional.gelu(convolve(self.conv1, query)), mask)
        return zero_masked(convolve(self.conv2, scores), mask)
