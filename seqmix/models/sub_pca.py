"""SubPCA: how far a window is from the windows that were seen, in units of their spread in every direction."""

import torch
from torch import Tensor

from seqmix.errors import check_at_least
from seqmix.models.detector import Detector, row_means
from seqmix.series import Series

# windows whose projections are made at a time, in values
_BLOCK = 1 << 22
# part of a window that has to be observed
_OBSERVED = 0.9


class SubPCA(Detector):
    """Principal components of windows: the sum of squared projections, each divided by its training variance.

    The small components, which normal windows hardly have, weigh most; variances are at least ``floor`` of their mean,
    so that they do not weigh everything. The error of a row is the mean over the windows that cover it, so that it
    knows up to ``window - 1`` rows after it. Channels have components of their own.

    Cost: O(T window^2) for T rows, O(window^3) to fit.

    Args:
        window: rows of a window. Default: the season of the data.
        floor: least variance of a component, in units of the mean one.

    Raises:
        ConfigError: if an option is out of range.

    Source: Shyu et al., 2003, on windows as in TSB-AD, Liu and Paparrizos, NeurIPS 2024. Differs from the original
    code in: it is fitted to training rows only, which are not standardized phase by phase; projections instead of
    distances to the components as points; ``floor``; means over windows instead of the center of one.
    """

    mean: Tensor
    components: Tensor

    def __init__(self, series: Series, *, window: int | None = None, floor: float = 0.1):
        super().__init__(series)
        check_at_least(1, window=window)
        check_at_least(0, floor=floor)
        self.window, self.floor = series.season if window is None else window, floor
        C, W = series.n_channels, self.window
        self.register_buffer("mean", torch.zeros(C, W, dtype=torch.float64))
        # components, divided by the root of their variance
        self.register_buffer("components", torch.eye(W, dtype=torch.float64).repeat(C, 1, 1))

    def fit_rows(self, x: Tensor, mask: Tensor) -> None:
        """Find mean and components of the windows of each channel."""
        counted = self._counted(mask)
        for c, each in enumerate(x.unfold(0, self.window, 1).unbind(1)):
            windows = each[counted[:, c]]
            if not len(windows):
                continue
            mean = windows.mean(0)
            centered = windows - mean
            variance, components = torch.linalg.eigh(centered.t() @ centered / len(centered))
            variance = variance.clamp(min=float(self.floor * variance.mean()))
            self.mean[c] = mean
            # a constant channel has no variance at all: any departure is as far as float64 says
            self.components[c] = components / variance.clamp(min=1e-12).sqrt()

    def errors(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mean squared projection of the windows that cover each row, ``(T, C)``."""
        if len(x) < self.window:
            return torch.full_like(x, torch.nan)
        windows = x.unfold(0, self.window, 1)  # (T - window + 1, C, window)
        found = [
            torch.einsum("ncw,cwk->nck", part - self.mean, self.components).square().mean(-1)
            for part in windows.split(max(1, _BLOCK // (windows.shape[1] * self.window)))
        ]
        return row_means(torch.cat(found), self.window, self._counted(mask))

    def _counted(self, mask: Tensor) -> Tensor:
        """Windows that are observed enough, ``(T - window + 1, C)``."""
        return mask.double().unfold(0, self.window, 1).mean(-1) >= _OBSERVED
