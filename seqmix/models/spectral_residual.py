"""SpectralResidual: a detector of single unusual rows from the spectrum of a series, without a fit."""

import torch
from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.models.detector import Detector
from seqmix.series import Series


class SpectralResidual(Detector):
    """Spectral residual detector: saliency of each row from the log spectrum minus its moving average.

    The error of a row is how far its saliency is above the mean of the rows before it, in units of that mean. Nothing
    is fitted but the units, and the spectrum is that of all rows that are scored. It finds single rows.

    Args:
        smooth: frequencies of the moving average of the log spectrum.
        rows: number of rows up to a row whose mean saliency it is compared with.

    Raises:
        ConfigError: if an option is out of range.

    Source: Ren et al., 2019, arXiv:1906.03821. Differs from the original code in: no estimated rows are appended.
    """

    def __init__(self, series: Series, *, smooth: int = 3, rows: int = 21):
        super().__init__(series)
        check_at_least(1, smooth=smooth, rows=rows)
        self.smooth, self.rows = smooth, rows

    def fit_rows(self, x: Tensor, mask: Tensor) -> None:
        """Do nothing."""

    def errors(self, x: Tensor, mask: Tensor) -> Tensor:
        """Saliency above its local mean, in units of it, ``(T, C)``."""
        spectrum = torch.fft.fft(x, dim=0)
        size = spectrum.abs()
        # frequencies that are not there at all stay so
        there = size > 1e-9 * (1 + size.amax(0))
        log = size.clamp(min=1e-9).log()
        residual = torch.where(there, log - _trailing_mean(log, self.smooth), -torch.inf)
        saliency = torch.fft.ifft(torch.polar(residual.exp(), spectrum.angle()), dim=0).abs()
        local = _trailing_mean(saliency, self.rows)
        return ((saliency - local) / local.clamp(min=1e-9)).clamp(min=0)


def _trailing_mean(x: Tensor, length: int) -> Tensor:
    """Mean of each row and those before it, ``length`` at most; ``(T, C)``."""
    padded = nn.functional.pad(torch.stack([x, torch.ones_like(x)]).transpose(1, 2), (length - 1, 0))
    total, count = nn.functional.avg_pool1d(padded, length, stride=1).transpose(1, 2)
    return total / count
