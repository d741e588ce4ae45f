"""RandomScores: random scores, the baseline of detection metrics."""

import torch
from torch import Tensor

from seqmix.models.detector import Detector
from seqmix.series import Series


class RandomScores(Detector):
    """Uniform random scores, a baseline for every metric. Their point-adjusted F1 is high.

    Args:
        seed: seed of the numbers.
    """

    def __init__(self, series: Series, *, seed: int = 0):
        super().__init__(series)
        self.seed = seed

    def fit_rows(self, x: Tensor, mask: Tensor) -> None:
        """Do nothing."""

    def errors(self, x: Tensor, mask: Tensor) -> Tensor:
        """A number between 0 and 1 for each value, ``(T, C)``."""
        return torch.rand(x.shape, generator=torch.Generator().manual_seed(self.seed), dtype=x.dtype)
