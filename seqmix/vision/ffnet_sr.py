"""FFNet for super-resolution: FFN-ified attention between one convolution and a pixel shuffle."""

from typing import Literal

from torch import Tensor, nn

from seqmix.errors import check_at_least, check_choice
from seqmix.vision._ffnet_block import LayerNorm2d
from seqmix.vision.batch_norm import BatchNorm2d


class FFNetSR(nn.Module):
    """FFNet for super-resolution: blocks of FFN-ified attention on the small image, and pixels shuffled at the end.

    ``y = shuffle(W_up body(W_in x) + repeat(x))``; the repeated input is nearest-neighbor enlargement.

    Shapes: ``(B, 3, H, W) -> (B, 3, scale H, scale W)``. Cost: O(n_layers H W d_model^2 (1 + 2 expand)).

    Args:
        scale: pixels out for a pixel in, along each axis.
        d_model: channels of the body, 96 in the paper.
        n_layers: blocks, 36 in the light model and 48 in the full one.
        expand: inner width of the channel mixer over ``d_model``.
        norm: ``none``; ``layer``, over channels before the first convolution of each mixer; or ``batch``, after it.

    Raises:
        ConfigError: if ``norm`` is not known.

    Source: Yun et al., 2024, arXiv:2406.02021; weights of ysj9909/FFNet load under their own keys. Differs
    from the original code in: nothing.
    """

    def __init__(
        self,
        *,
        scale: int = 2,
        d_model: int = 96,
        n_layers: int = 36,
        expand: int = 2,
        norm: Literal["none", "layer", "batch"] = "none",
    ):
        super().__init__()
        check_at_least(1, scale=scale, d_model=d_model, n_layers=n_layers, expand=expand)
        check_choice("norm", norm, ("none", "layer", "batch"))
        self.scale = scale
        self.proj = nn.Conv2d(3, d_model, 3, padding=1)
        self.body = nn.Sequential(*(_Block(d_model, expand, norm) for _ in range(n_layers)))
        self.conv_bef_up = nn.Conv2d(d_model, 3 * scale**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge ``x: (B, 3, H, W)``."""
        y = self.conv_bef_up(self.body(self.proj(x)))
        return nn.functional.pixel_shuffle(y + x.repeat_interleave(self.scale**2, 1), self.scale)


class _Block(nn.Module):
    def __init__(self, d_model: int, expand: int, norm: str):
        super().__init__()

        def depthwise() -> nn.Conv2d:
            return nn.Conv2d(d_model, d_model, 3, padding=1, groups=d_model)

        def mixer(first: nn.Conv2d, *others: nn.Module) -> nn.Sequential:
            before = [LayerNorm2d(d_model)] if norm == "layer" else []
            after = [BatchNorm2d(d_model)] if norm == "batch" else []
            return nn.Sequential(*before, first, *after, *others)

        self.token_mixer = mixer(nn.Conv2d(d_model, d_model, 1), depthwise(), nn.GELU(), depthwise())
        inner = expand * d_model
        self.channel_mixer = mixer(depthwise(), nn.Conv2d(d_model, inner, 1), nn.GELU(), nn.Conv2d(inner, d_model, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token_mixer(x)
        return x + self.channel_mixer(x)
