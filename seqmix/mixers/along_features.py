"""AlongFeatures: any mixer along the features of each position."""

from torch import Tensor

from seqmix.mixers.dense import Dense
from seqmix.mixers.mixer import Mixer, MixerFactory, require_max_len, zero_masked


class AlongFeatures(Mixer):
    """Wrapper that applies any mixer along the features of each position, in place of a feed-forward layer.

    Where tokens are variates, features are the embedded time (``VariateEncoder(channel_mixer=AlongFeatures)``).

    Shapes: ``(B, L, D) -> (B, L, D)``, ``L = max_len``. Cost: that of the mixer on D positions of width L.

    Args:
        d_model: width D.
        max_len: number of positions L, which are the channels of the mixer.
        mixer: factory of the mixer, called with width ``max_len`` and length ``d_model``.

    Raises:
        ConfigError: if ``max_len`` is missing.

    Source: the twin of iTransformer in Park et al., 2025, arXiv:2508.09153. Differs from the original code in: any
    mixer.
    """

    def __init__(self, d_model: int, max_len: int | None = None, *, mixer: MixerFactory = Dense):
        super().__init__(d_model, max_len)
        self.mixer = mixer(require_max_len(self, max_len, "a mixer as wide as there are positions"), d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the features of ``x: (B, L, D)``; ``mask: (B, L)`` bool, True = keep."""
        return zero_masked(self.mixer(zero_masked(x, mask).transpose(1, 2)).transpose(1, 2), mask)
