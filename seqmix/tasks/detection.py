"""The anomaly detection task: a forecasting model reconstructs windows or forecasts rows, and its errors are scores."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor

from seqmix.errors import ConfigError, check_at_least, check_choice
from seqmix.models import (
    ConvForecaster,
    Detector,
    DetectorFactory,
    DetectorMean,
    ForecastErrors,
    ForecastModelFactory,
    RandomScores,
    SeasonalNaive,
    SpectralResidual,
    SubPCA,
    series_of,
)
from seqmix.series import Series
from seqmix.tasks import detection_metrics
from seqmix.tasks._baselines import trained
from seqmix.tasks._normalize import WindowNorm
from seqmix.tasks._optim import AdamW, Optim, default_optim
from seqmix.tasks.score import Score, Table
from seqmix.tasks.task import Task, require_facts

Batch = dict[str, Tensor]

_OPTIM = default_optim(AdamW, lr=1e-3, weight_decay=0.01, warmup=0.0)
# windows per forward pass
_BATCH = 2048

METRICS = ("vus_pr", "auc_pr", "range_f1", "f1", "vus_roc", "auc_roc", "best_f1", "point_adjusted_f1")


class AnomalyDetection(Task):
    """Anomaly detection: score each row by the error of a model trained on rows assumed to be mostly normal.

    Training and validation batches are windows ``{"x": (B, window, C), "x_mask": (B, window, C)}``, test batches whole
    series; see ``seqmix.data.DetectionData``. One model is trained on the windows of all series. In a test each series
    has what it needs from its own training rows: the units of its errors and its threshold, the ``1 - rate`` quantile
    of the scores of its training rows. Metrics are those of the rows after them, means over the series that have
    anomalies there and normal rows too: VUS-PR first, whose buffer widths go up to the median length of the anomalies;
    ``f1`` and ``range_f1`` at the threshold, ``best_f1`` at the best one, which needs the labels. ``point_adjusted_f1``
    counts an anomaly as found in all its rows if one is flagged: it is there to compare with publications, and high for
    random scores. Validation has the mean squared error.

    Args:
        model: model class, ``functools.partial`` or config entry, built with the facts of the data.
        series: the facts of the data, linked from the datamodule; a checkpoint holds them as a dict.
        score: the error is that of the reconstructed window (``reconstruction``), or of its last ``horizon`` rows,
            forecast from those before (``forecast``).
        horizon: rows that are forecast at once, with ``forecast``.
        normalize: ``window`` removes mean and standard deviation of what the model sees and puts them back; ``none``
            leaves windows in units of their series.
        stride: rows between the windows of a test; a row has the mean error of the windows that cover it. Default: an
            eighth of the window, or ``horizon``.
        smooth: rows of a centered moving average of the errors; 1 for none.
        rate: share of the training rows whose scores are above the threshold.

    Raises:
        ConfigError: if options contradict each other or are out of range, or a linear model is to reconstruct windows,
            which it can copy.

    Source: reconstruction as in the Time-Series Library; metrics after TSB-AD, Liu and Paparrizos, NeurIPS 2024.
    Differs from the original code in: every row is scored once, by overlapping windows; the threshold is of training
    rows only; no point adjustment under the name of F1.
    """

    metrics = METRICS
    validated = ("error",)
    better_in_test = "higher"
    counted = "series"
    facts = ("window",)
    extent = "windows of {window} rows"
    table = Table("detection", ("window",), "window")

    def __init__(
        self,
        model: ForecastModelFactory,
        series: Series | dict[str, int],
        *,
        score: Literal["reconstruction", "forecast"] = "reconstruction",
        horizon: int = 1,
        normalize: Literal["none", "window"] = "window",
        stride: int | None = None,
        smooth: int = 1,
        rate: float = 0.01,
        optim: Optim = _OPTIM,
        patience: int | None = 3,
    ):
        super().__init__(optim=optim, patience=patience)
        self.save_hyperparameters(logger=False)
        self.forget_code()
        require_facts(self, series=series)
        series = series if isinstance(series, Series) else Series(**series)
        self.hparams["series"] = asdict(series)
        check_choice("score", score, ("reconstruction", "forecast"))
        check_choice("normalize", normalize, ("none", "window"))
        check_at_least(1, horizon=horizon, stride=stride, smooth=smooth)
        if not 0 < rate < 1:
            raise ConfigError(f"rate = {rate} must be above 0 and below 1; use for example 0.01")
        self.window, self.ahead, self.rate, self.smooth = series.context, score == "forecast", rate, smooth
        if self.ahead and horizon >= self.window:
            raise ConfigError(f"horizon = {horizon} leaves nothing of window = {self.window}; use a smaller horizon")
        self.shown = self.window - horizon if self.ahead else self.window
        self.series = replace(series.without_covariates(), context=self.shown)
        self.series = replace(self.series, horizon=horizon if self.ahead else self.window)
        self.stride = stride or (horizon if self.ahead else max(1, self.window // 8))
        self.model = model(self.series)
        if self.model.linear and not self.ahead:
            raise ConfigError(
                f"{self.model.label} is linear and can copy a window, so that its error says nothing; use "
                "score='forecast'"
            )
        self.norm = WindowNorm(normalize, self.series, season=1, affine=False, counts=False)
        # squared error and values of a validation; in a test each metric, and the series that it is a mean over
        self.sums = torch.zeros(2 * len(METRICS), dtype=torch.float64)

    @property
    def label(self) -> str:
        return self.model.label

    def forward(self, batch: Batch) -> Tensor:
        """Reconstruction or forecast in units of ``x: (B, window, C)``; ``(B, window, C)`` or ``(B, horizon, C)``."""
        mask = batch["x_mask"][:, : self.shown]
        x, stats = self.norm(batch["x"][:, : self.shown].masked_fill(~mask, 0), mask)
        y = self.model(x, mask=mask)
        return y if stats is None else y * stats[1] + stats[0]

    def example(self) -> dict[str, Batch]:
        """One window of zeros, all observed."""
        x = torch.zeros(1, self.window, self.series.n_channels)
        return {"batch": {"x": x, "x_mask": torch.ones_like(x, dtype=torch.bool)}}

    def squared(self, batch: Batch) -> Tensor:
        """Squared errors ``(B, window, C)`` or ``(B, horizon, C)``, 0 where nothing was observed."""
        y, mask = (batch[name][:, -self.series.horizon :] for name in ("x", "x_mask"))
        return (self(batch).float() - y.float()).square().masked_fill(~mask, 0)

    def loss_of(self, batch: Batch) -> Tensor:
        """Mean squared error of the observed values."""
        return self.squared(batch).sum() / batch["x_mask"][:, -self.series.horizon :].sum().clamp(min=1)

    def detector(self) -> Detector:
        """A detector around the trained model, to be fitted to training rows of the series that it is to score.

        It is on the CPU, whatever device the model is on. Its own state is what ``fit`` has learned, without the model.
        """
        return _TrainedErrors(self)

    def on_fit_start(self) -> None:
        """Refuse a model that takes no gradient steps."""
        if self.model.closed_form:
            raise ConfigError(
                f"{self.model.label} takes no gradient steps; use it in seqmix.models.ForecastErrors, which "
                "is fitted to each series"
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the errors of one batch of windows."""
        count = batch["x_mask"][:, -self.series.horizon :].sum()
        self.sums[:2] += torch.stack([self.squared(batch).sum(), count]).double().cpu()

    def add_batch(self, batch: Batch) -> None:
        """Score the series of one batch, and add their metrics."""
        for x, mask, labels, n_train, length in zip(*(batch[name].cpu() for name in _TEST), strict=True):
            found = assess(self.detector(), x[:length], mask[:length], labels[:length], int(n_train), rate=self.rate)
            self.sums += found

    def finish(self, stage: str) -> tuple[dict[str, float], float]:
        """The validation error, or the mean of each metric over the series that have it, and their number."""
        if stage == "val":
            squared, count = self.sums[:2].tolist()
            return {"error": squared / max(count, 1)}, count
        return means(self.sums)

    def baselines(self, data: Any, chosen: Sequence[Any] | None, seed: int) -> list[Score]:
        """Detectors that are fitted to each series, and the convolutional forecaster trained on all of them.

        The detectors choose their windows by the period of the training rows of each series.
        """
        series = data.series
        small = AnomalyDetection(_conv, series, score="forecast", rate=self.rate)
        # as many as all processes have tested together
        n = int(self.trainer.num_test_batches[0]) * self.trainer.world_size
        batches = list(islice(data.test_dataloader(), n))
        found = [_fitted(name, make, batches, self.rate) for name, make in _DETECTORS.items()]
        return [*found, trained(small, data, self.trainer, seed)]


_TEST = ("x", "x_mask", "labels", "n_train", "length")


def _conv(series: Series) -> ConvForecaster:
    return ConvForecaster(series)


_DETECTORS: dict[str, DetectorFactory] = {
    "DetectorMean": DetectorMean,
    "SubPCA": partial(SubPCA, own=False),
    "ForecastErrors (Ridge)": ForecastErrors,
    "ForecastErrors (SeasonalNaive)": partial(ForecastErrors, model=SeasonalNaive),
    "SpectralResidual": SpectralResidual,
    "RandomScores": RandomScores,
}


def assess(detector: Detector, x: Tensor, mask: Tensor, labels: Tensor, n_train: int, *, rate: float) -> Tensor:
    """Fit a detector to the training rows of a series, and measure its scores on the others.

    Returns:
        The metrics, 0 where they are not defined, then 1 where they are, ``(2 * metrics,)`` in float64.
    """
    threshold = float(torch.quantile(detector.fit(x[:n_train], mask[:n_train]), 1 - rate))
    # training rows give the first rows a past
    scores = detector.score(x, mask, threshold=threshold)[n_train:]
    flags, truth, values = (scores > threshold).numpy(), labels[n_train:].numpy(), scores.numpy()
    volumes = detection_metrics.volumes(truth, values)
    found = {
        "vus_pr": volumes.pr,
        "vus_roc": volumes.roc,
        "auc_pr": detection_metrics.average_precision(truth, values),
        "auc_roc": detection_metrics.roc_auc(truth, values),
        "range_f1": detection_metrics.range_f1(truth, flags),
        "f1": detection_metrics.f1(truth, flags),
        "best_f1": detection_metrics.best_f1(truth, values),
        "point_adjusted_f1": detection_metrics.point_adjusted_f1(truth, flags),
    }
    measured = torch.tensor([found[name] for name in METRICS], dtype=torch.float64)
    return torch.cat([measured.nan_to_num(0), measured.isfinite().double()])


def means(sums: Tensor) -> tuple[dict[str, float], float]:
    """Mean metrics of summed results of ``assess``, NaN where no series has anomalies, and the number of series."""
    total, count = sums.view(2, -1)
    return dict(zip(METRICS, (total / count).tolist(), strict=True)), float(count.max())


def _fitted(name: str, make: DetectorFactory, batches: Sequence[Batch], rate: float) -> Score:
    """Metrics of a detector that is fitted to each test series."""
    sums = torch.zeros(2 * len(METRICS), dtype=torch.float64)
    for batch in batches:
        for x, mask, labels, n_train, length in zip(*(batch[part].cpu() for part in _TEST), strict=True):
            detector = make(series_of(x[:n_train], mask[:n_train]))
            sums += assess(detector, x[:length], mask[:length], labels[:length], int(n_train), rate=rate)
    metrics, count = means(sums)
    return Score(name, metrics, int(count))


class _TrainedErrors(Detector):
    """Errors of a trained task, which is not part of the state."""

    def __init__(self, task: AnomalyDetection):
        # a row needs a whole window, at its end for a forecast
        super().__init__(Series(task.series.n_channels, task.window - 1, 1))
        # not a submodule: the task holds the weights
        self._task = (task,)

    @property
    def label(self) -> str:
        return self._task[0].label

    def fit_rows(self, x: Tensor, mask: Tensor) -> None:
        """Do nothing: the model is already trained."""

    def errors(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error of the windows that cover each row, ``(T, C)``."""
        (task,) = self._task
        T, last = len(x), len(x) - task.window
        if last < 0:
            return torch.full_like(x, torch.nan)
        # the last window ends with the last row, whatever the stride
        starts = torch.unique(torch.cat([torch.arange(0, last, task.stride), torch.tensor([last])]))
        total, count = torch.zeros_like(x), torch.zeros(T, 1, dtype=x.dtype)
        windows, observed = (rows.unfold(0, task.window, 1).transpose(1, 2) for rows in (x.float(), mask))
        was, H = task.training, task.series.horizon
        task.eval()
        for part in starts.split(_BATCH):
            batch = {"x": windows[part].to(task.device), "x_mask": observed[part].to(task.device)}
            rows = (part[:, None] + torch.arange(task.window - H, task.window)).flatten()
            total.index_add_(0, rows, task.squared(batch).double().cpu().flatten(0, 1))
            count.index_add_(0, rows, torch.ones(len(rows), 1, dtype=x.dtype))
        task.train(was)
        return _smoothed(torch.where(count > 0, total / count, torch.nan), task.smooth)


def _smoothed(errors: Tensor, width: int) -> Tensor:
    """Centered moving average over ``width`` rows of ``errors: (T, C)``, of those that are known."""
    if width == 1:
        return errors
    known = ~errors.isnan()
    both = torch.stack([errors.nan_to_num(0), known.to(errors.dtype)]).transpose(1, 2)  # (2, C, T)
    before = (width - 1) // 2
    padded = torch.nn.functional.pad(both, (before, width - 1 - before))
    total, count = torch.nn.functional.avg_pool1d(padded, width, stride=1).transpose(1, 2)
    return torch.where(known, total / count, torch.nan)
