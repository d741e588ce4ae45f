"""Stages of image models: blocks one after another, whose output is a feature map."""

from torch import Tensor, nn

from seqmix.models.recompute import recomputed


class Stage(nn.Sequential):
    """Blocks one after another on a map; its output is a feature map of the model, which hooks can read.

    Shapes: ``(B, C, H, W) -> (B, C', H', W')``.

    Args:
        *blocks: the blocks.
        channels_last: the blocks take and give ``(B, H, W, C)``.
    """

    def __init__(self, *blocks: nn.Module, channels_last: bool):
        super().__init__(*blocks)
        self.channels_last, self.grad_checkpointing = channels_last, False

    def forward(self, input: Tensor) -> Tensor:
        """Apply the blocks to ``input: (B, C, H, W)``."""
        x = input.permute(0, 2, 3, 1) if self.channels_last else input
        for block in self:
            x = recomputed(block, x, enable=self.grad_checkpointing)
        return x.permute(0, 3, 1, 2) if self.channels_last else x
