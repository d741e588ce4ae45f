"""From windows to tokens: patches."""

from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.errors import ConfigError


class PatchEmbedding(nn.Module):
    """Overlapping patches of every channel, each mapped to a token by one shared linear layer.

    The last value is repeated ``patch_stride`` times at the end: ``(T - patch_len) // patch_stride + 2`` patches.

    Shapes: ``(B, C, T) -> (B, C, N, D)``. Cost: O(C N D patch_len).

    Args:
        d_model: width D of a token.
        patch_len: patch length, in time steps.
        patch_stride: time steps between the starts of patches.

    Raises:
        ConfigError: if a length is not positive.

    Source: Nie et al., 2023, arXiv:2211.14730, sec. 3.1. Differs from the original code in: no position embedding.
    """

    def __init__(self, d_model: int, *, patch_len: int = 16, patch_stride: int = 8):
        super().__init__()
        if patch_len < 1 or patch_stride < 1:
            raise ConfigError(
                f"patch_len = {patch_len} and patch_stride = {patch_stride} must be positive; use 16 and 8"
            )
        self.patch_len, self.patch_stride = patch_len, patch_stride
        self.proj = nn.Linear(patch_len, d_model)

    def n_patches(self, length: int) -> int:
        """Number of patches of a window of ``length`` time steps; raises ``ConfigError`` if none fits."""
        if length < self.patch_len:
            raise ConfigError(f"patch_len = {self.patch_len} does not fit context = {length}; use a shorter patch")
        return (length - self.patch_len) // self.patch_stride + 2

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``x: (B, C, T)``."""
        patches = F.pad(x, (0, self.patch_stride), mode="replicate").unfold(-1, self.patch_len, self.patch_stride)
        return self.proj(patches)  # (B, C, N, D)
