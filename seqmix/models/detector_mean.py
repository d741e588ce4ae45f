"""DetectorMean: the mean of several detectors, and the default of anomaly detection."""

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from seqmix.models.detector import Detector, DetectorFactory
from seqmix.models.forecast_errors import ForecastErrors
from seqmix.models.sub_pca import SubPCA
from seqmix.series import Series


class DetectorMean(Detector):
    """Mean of the scores of several detectors, channel by channel, each in units of its largest training error.

    By default the one-step forecast error of Ridge, for single rows, and SubPCA on windows of one and of two
    periods, for shapes.

    Args:
        detectors: factories of the detectors. Default: as above.
    """

    def __init__(self, series: Series, *, detectors: list[DetectorFactory] | None = None):
        super().__init__(series)
        windows = (series.season, series.context)
        default = [ForecastErrors, *(partial(SubPCA, window=window) for window in windows)]
        self.detectors = nn.ModuleList(make(series) for make in (detectors or default))

    def fit_rows(self, x: Tensor, mask: Tensor) -> None:
        """Fit each detector."""
        for detector in self.detectors:
            cast(Detector, detector).learn(x, mask)

    def errors(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mean of log(1 + error / largest), ``(T, C)``."""
        return self.both_errors(x, mask)[0]

    def both_errors(self, x: Tensor, mask: Tensor) -> Tensor:
        """The same mean for both kinds of errors, ``(2, T, C)``."""
        members = [cast(Detector, detector) for detector in self.detectors]
        each = [(d.both_errors(d._rows(x, mask)[0], mask) / d.largest[:, None]).log1p() for d in members]
        return torch.stack(each).nanmean(0)
