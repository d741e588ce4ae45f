"""Batch norm that accepts a batch of one image in training."""

from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm of a map; in training, one value per channel has no variance and gets the running statistics.

    That is the last batch of an epoch where it has one image and a map of one cell, which is an error in PyTorch.

    Shapes: ``(B, C, H, W) -> (B, C, H, W)``.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize ``input: (B, C, H, W)``."""
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)

    def _check_input_dim(self, input: Tensor) -> None:
        """Do nothing: a condition on the shape would stop ``torch.fx``."""
