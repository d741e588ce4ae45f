"""RandomScores: the detector that knows nothing, which every metric should say."""

import torch
from torch import Tensor

from seqmix.models.detector import Detector
from seqmix.series import Series


class RandomScores(Detector):
    """Uniform random numbers: what a metric gives for no knowledge. The point-adjusted F1 is high for them.

    Args:
        seed: seed of the numbers, which depend on nothing else.
    """

    def __init__(self, series: Series, *, seed: int = 0):
        super().__init__(series)
        self.seed = seed

    def fit_rows(self, x: Tensor, mask: Tensor) -> None:
        """Nothing is fitted."""

    def errors(self, x: Tensor, mask: Tensor) -> Tensor:
        """A number between 0 and 1 for each value, ``(T, C)``."""
        return torch.rand(x.shape, generator=torch.Generator().manual_seed(self.seed), dtype=x.dtype)
