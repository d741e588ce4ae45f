"""SubPCA: a detector of unusual windows by their Mahalanobis distance."""

import torch
from torch import Tensor, nn

from seqmix.errors import check_at_least
from seqmix.models.detector import Detector
from seqmix.series import Series

# fraction of a window that must be observed
_OBSERVED = 0.9
# gaps between large errors that are closed, in windows
_CLOSED = 0.25


class SubPCA(Detector):
    """Principal components of windows: the sum of squared projections, each divided by its training variance.

    Components of small variance weigh most; variances are at least ``floor`` of their mean, which bounds the weights.
    The error of a row is the mean over the windows that cover it, so it depends on up to ``window - 1`` later rows.
    Channels have components of their own.

    The own error of a row is its part of these sums: with the symmetric square root of the inverse covariance the
    squares of the projections are those of rows. Between two rows with large ones, a quarter of the window apart at
    most, there are no small ones (the closing of image processing).

    Cost: O(T window^2) for T rows, O(window^3) to fit.

    Args:
        window: rows of a window. Default: the season of the data.
        floor: least variance of a component, in units of the mean one.
        own: rows have errors of their own; otherwise those of the windows are used for them, as published.

    Raises:
        ConfigError: if an option is out of range.

    Source: Shyu et al., 2003, on windows as in TSB-AD, Liu and Paparrizos, NeurIPS 2024. Differs from the original
    code in: it is fitted to training rows only, which are not standardized phase by phase; projections instead of
    distances to the components as points; ``floor``; means over windows instead of the center of one; own errors, after
    Garthwaite and Koch, 2016, on the parts of a quadratic form.
    """

    mean: Tensor
    components: Tensor

    def __init__(self, series: Series, *, window: int | None = None, floor: float = 0.1, own: bool = True):
        super().__init__(series)
        check_at_least(1, window=window)
        check_at_least(0, floor=floor)
        self.window, self.floor, self.own = series.season if window is None else window, floor, own
        C, W = series.n_channels, self.window
        self.register_buffer("mean", torch.zeros(C, W, dtype=torch.float64))
        # inverse square root of the covariance
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
            # a constant channel has no variance: any departure is an anomaly as large as float64 allows
            # the symmetric root: projection i belongs to row i
            self.components[c] = (components / variance.clamp(min=1e-12).sqrt()) @ components.t()

    def errors(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mean squared projection of the windows that cover each row, ``(T, C)``."""
        return self.both_errors(x, mask)[0]

    def both_errors(self, x: Tensor, mask: Tensor) -> Tensor:
        """The same, and the mean of the squared projections of each row alone, ``(2, T, C)``."""
        if len(x) < self.window:
            return torch.full_like(x, torch.nan).expand(2, -1, -1)
        windows, counted = x.unfold(0, self.window, 1), self._counted(mask)  # (N, C, window), (N, C)
        found, own = [], x.new_zeros(x.shape)
        first = 0
        # of each row there is one projection in each window: blocks as high as wide waste the least
        for part, seen in zip(windows.split(self.window), counted.split(self.window), strict=True):
            squared = torch.einsum("ncw,cwk->nck", part - self.mean, self.components).square()
            found.append(squared.mean(-1))
            if self.own:
                own[first : first + len(part) + self.window - 1] += _by_row(squared * seen.unsqueeze(-1))
                first += len(part)
        # up to rounding, whole numbers of windows
        count = _row_sums(counted.double(), self.window).round()
        errors = _row_sums(torch.cat(found).masked_fill(~counted, 0), self.window) / count
        errors = errors.masked_fill(count == 0, torch.nan)
        if not self.own:
            return errors.expand(2, -1, -1)
        return torch.stack([errors, _closed(own / count, round(_CLOSED * self.window))])

    def _counted(self, mask: Tensor) -> Tensor:
        """Windows that are observed enough, ``(T - window + 1, C)``."""
        return mask.double().unfold(0, self.window, 1).mean(-1) >= _OBSERVED


def _row_sums(windows: Tensor, length: int) -> Tensor:
    """Sums over the windows that cover each row, from a value for each window: ``(N, C) -> (N + length - 1, C)``."""
    padded = nn.functional.pad(windows.t(), (length - 1, length - 1))
    return length * nn.functional.avg_pool1d(padded, length, stride=1).t()


def _by_row(windows: Tensor) -> Tensor:
    """Sums over consecutive windows for each row: ``(N, C, window) -> (N + window - 1, C)``."""
    N, C, width = windows.shape
    # one column more in each window moves it by one row
    skewed = nn.functional.pad(windows, (0, N)).transpose(0, 1).flatten(1)[:, :-N]
    return skewed.view(C, N, width + N - 1).sum(1).t()


def _closed(errors: Tensor, width: int) -> Tensor:
    """Morphological closing of ``errors: (T, C)``: values lower than both sides within ``width`` rows are raised."""
    if width < 2:
        return errors
    known = nn.functional.pad(errors.nan_to_num(0).t(), (width - 1, width - 1))
    highest = nn.functional.max_pool1d(known, width, stride=1)
    return torch.where(errors.isnan(), errors, -nn.functional.max_pool1d(-highest, width, stride=1).t())
