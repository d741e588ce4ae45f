"""Bidirectional: two mixers that see one direction each, summed."""

from torch import Tensor

from seqmix.mixers.mamba import Mamba
from seqmix.mixers.mixer import Mixer, MixerFactory, zero_masked


class Bidirectional(Mixer):
    """Sum of two causal mixers, one on the sequence and one on its reverse: the variate mixer of S-Mamba.

    ``y = f(x) + flip(g(flip(x)))`` with f and g built alike and trained apart.

    Shapes: ``(B, L, D) -> (B, L, D)``. Cost: twice that of the mixer.

    Args:
        d_model: width D.
        max_len: longest sequence, for mixers that store something per position.
        mixer: factory of the mixer of each direction.

    Source: Wang et al., 2024, arXiv:2403.11144, sec. 4.2. Differs from the original code in: any mixer.
    """

    def __init__(self, d_model: int, max_len: int | None = None, *, mixer: MixerFactory = Mamba):
        super().__init__(d_model, max_len)
        self.onward, self.back = mixer(d_model, max_len), mixer(d_model, max_len)

    @property
    def label(self) -> str:
        """Name with that of the mixer."""
        return f"Bidirectional {self.onward.label}"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = zero_masked(x, mask)
        reverse = None if mask is None else mask.flip(1)
        return self.onward(x, mask) + self.back(x.flip(1), reverse).flip(1)
