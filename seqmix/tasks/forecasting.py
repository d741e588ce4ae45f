"""The forecasting task.

The protocol (standardized scale, every window counted) is that of the long-horizon benchmarks since Informer, without
their dropped last batch.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seqmix import models
from seqmix.errors import ConfigError
from seqmix.models import ForecastModelFactory
from seqmix.series import Series
from seqmix.tasks._baselines import trained
from seqmix.tasks._closed_form import batches_of
from seqmix.tasks._gate import GateSums
from seqmix.tasks._losses import LossFactory, LossName, weighted_mean
from seqmix.tasks._normalize import Normalize
from seqmix.tasks._optim import AdamW, Optim, default_optim
from seqmix.tasks.predictor import Batch, Predictor, WindowPredictor
from seqmix.tasks.score import Score, Table
from seqmix.tasks.task import Task, require_facts

_OPTIM = default_optim(AdamW, lr=5e-4, weight_decay=0.01, warmup=0.0)


class Forecasting(Predictor, Task):
    """Forecasting of ``horizon`` steps of every channel from ``context`` steps of all channels.

    A batch is ``{"x": (B, context, C), "y": (B, horizon, C)}``, with ``"future": (B, context + horizon, F)``,
    ``"static": (B, C, S)`` and ``"past": (B, context, P)`` where the data has them. ``"x_mask"`` and ``"y_mask"``, of
    the shapes of x and y, are True where a value was observed; ``"weight": (B,)`` is the weight of a window. The model
    sees missing values as the level of the window, or 0; losses and metrics ignore them.

    Validation and test MSE and MAE are sums over every window, step and channel divided by their count, never means of
    batch means. They score the median with ``quantile`` loss and the mean of a distribution.

    Args:
        model: model class, ``functools.partial`` or config entry, called with the facts of the data.
        residual: train the model on the residual of a ridge regression: ``true``, or a config entry of the ridge.
            Validation metrics are those of the gated forecast. See ``ResidualForecaster``.
        series: the facts of the data, linked from the datamodule; a checkpoint holds them as a dict.
        loss: training loss; ``huber`` has its corner at 1 channel std, ``quantile`` is the pinball loss,
            ``normal``, ``student_t`` and ``negative_binomial`` (of unscaled counts) are negative log-likelihoods.
        loss_module: makes a module from point forecast and truth to a loss for each value, for example
            ``partial(nn.SmoothL1Loss, reduction="none")``; replaces ``loss``.
        quantiles: levels forecast with ``quantile`` loss, rising, 0.5 among them. Default: 0.1, 0.5 and 0.9.
        normalize: ``window`` removes mean and standard deviation of the observed values of each window before the model
            and puts them back into the forecast; ``last`` removes the last value in place of the mean. ``season`` adds
            the seasonal naive forecast in place of the mean: the model predicts the residual. Counts are divided by
            1 + their mean. ``none`` leaves the window as it is.
        normalize_affine: learn a scale and a shift per channel for normalized windows, as in RevIN.
        season: length of the season for ``season``, in time steps. Default: the season of the data.

    Raises:
        ConfigError: if options contradict each other or are out of range.

    Source: masks as weights and distributions of scaled windows after DeepAR, Salinas et al., 2017, arXiv:1704.04110,
    sec. 3.3. Differs from the original code in: see the losses.
    """

    metrics = ("mse", "mae")
    counted = "windows"
    facts = ("context", "horizon")
    extent = "{context} -> {horizon} steps"
    table = Table("forecasts", ("context", "horizon"), "steps")
    chooses_baselines = True

    def __init__(
        self,
        model: ForecastModelFactory,
        series: Series | dict[str, int],
        *,
        residual: bool | ForecastModelFactory = False,
        loss: LossName = "mse",
        loss_module: LossFactory | None = None,
        quantiles: list[float] | None = None,
        normalize: Normalize = "window",
        normalize_affine: bool = False,
        season: int | None = None,
        optim: Optim = _OPTIM,
        patience: int | None = 3,
    ):
        super().__init__(optim=optim, patience=patience)
        self.save_hyperparameters(logger=False)
        self.forget_code()
        require_facts(self, series=series)
        series = series if isinstance(series, Series) else Series(**series)
        self.hparams["series"] = asdict(series)
        made = WindowPredictor(
            model,
            series,
            residual=residual,
            loss=loss,
            loss_module=loss_module,
            quantiles=quantiles,
            normalize=normalize,
            normalize_affine=normalize_affine,
            season=season,
        )
        self._take(made)

    @classmethod
    def of(cls, made: Predictor, *, optim: Optim = _OPTIM, patience: int | None = 3) -> "Forecasting":
        """The task of a predictor, which is trained with it: both have the same modules."""
        task = cls.__new__(cls)
        Task.__init__(task, optim=optim, patience=patience)
        task._take(made)
        return task

    def _take(self, made: Predictor) -> None:
        # in the order of the parameters in checkpoints
        self.loss, self.norm, self.model = made.loss, made.norm, made.model
        self.series, self.quantiles = made.series, made.quantiles
        # squared error, absolute error, values, windows: sums over one pass of a loader
        self.sums = torch.zeros(4, dtype=torch.float64)
        # those of one validation that chooses the gate of a correction
        self.gate_sums: GateSums | None = None

    @property
    def label(self) -> str:
        return self.model.label

    def on_fit_start(self) -> None:
        """Fit closed-form parts; a model without others takes no gradient steps."""
        # the base of a correction sees windows that are not normalized
        norm = self.norm if self.model.gate is None else None
        self.model.fit_closed_form(*batches_of(self.trainer, norm, self.device))
        if self.model.closed_form:
            self.trainer.fit_loop.max_epochs = 0

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Refuse data that the loss does not allow, at the first batch."""
        if batch_idx == 0:
            mask = batch.get("y_mask")
            self.loss.check(batch["y"] if mask is None else batch["y"][mask])

    def loss_of(self, batch: Batch) -> Tensor:
        y, weight = _truth(batch)
        return weighted_mean(self.loss.score(self(batch).float(), y), weight)

    def baselines(self, data: Any, chosen: Sequence[Any] | None, seed: int) -> list[Score]:
        """SeasonalNaive, Ridge and DLinear, or the chosen models, with default settings and without covariates."""
        series = data.series.without_covariates()
        if chosen is None:
            # if the season is longer than the window, the last value is repeated
            options = {"season": 1} if series.season > series.context else {}
            chosen = [partial(models.SeasonalNaive, **options), models.Ridge, models.DLinear]
        tasks = (Forecasting(_plain(factory), series, normalize="none") for factory in chosen)
        return [trained(task, data, self.trainer, seed) for task in tasks]

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Truth ``y`` and forecast ``yhat``, each ``(B, horizon, C)``, and every quantile under ``yhat-<level>``."""
        forecast = self(batch).float()
        levels = {f"yhat-{q}": forecast[..., k] for k, q in enumerate(self.quantiles)}
        return {"y": batch["y"], "yhat": self.point(forecast), **levels}

    def prediction_rows(self, batch: Batch, first: int, data: Any) -> pd.DataFrame:
        """A row for each window, step and channel, in the units of the data.

        With quantile loss ``yhat`` is the median and there is one more column for each quantile.
        """
        B, horizon, C = batch["y"].shape
        window, step = np.arange(first, first + B), np.arange(horizon)
        times = data.test_times[(window[:, None] + step).ravel()]
        index = pd.MultiIndex.from_product([window, step + 1, data.channels], names=["window", "step", "channel"])
        frame = pd.DataFrame(index=index).reset_index()
        frame.insert(2, "ds", times.repeat(C))
        for name, values in batch.items():
            frame[name] = (values.cpu() * data.std + data.mean).flatten().numpy()
        return frame

    def add_batch(self, batch: Batch) -> None:
        """Add squared error, absolute error, values and windows of one batch; a window of weight 0 is none."""
        y, weight = _truth(batch)
        error = self.point(self(batch)).float() - y
        squared, absolute, count, windows = error.square(), error.abs(), y.numel(), len(y)
        if weight is not None:
            squared, absolute, count = squared * weight, absolute * weight, float(weight.sum(dtype=torch.float64))
            windows = int(weight.flatten(1).any(1).sum())
        sums = torch.stack([squared.sum(), absolute.sum()]).double().cpu()
        self.sums += torch.cat([sums, torch.tensor([count, windows], dtype=torch.float64)])

    def on_validation_epoch_start(self) -> None:
        """Begin the sums anew; a validation of a training chooses the gate of a correction."""
        super().on_validation_epoch_start()
        chosen = self.model.gate is not None and self.trainer.state.fn == "fit"
        each = self.model.gating == "channel"
        self.gate_sums = GateSums(self.series.n_channels, each=each) if chosen else None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the sums, or to those that choose the gate."""
        if self.gate_sums is None:
            super().validation_step(batch, batch_idx)
            return
        if "place" not in batch:
            raise ConfigError(
                f"the gate of {type(self.model).__name__} is chosen by blocks of time, and the validation batches do "
                "not say where they are; add 'place', the part of the validation time before each window, (B,)"
            )
        (y, weight), base = _truth(batch), self._base(batch)
        assert base is not None
        correction = self.point(self._forecast(batch, base, None)) - base
        self.gate_sums.add((y - base).float(), correction.float(), weight, batch["place"])

    def totals(self, stage: str) -> list[Tensor]:
        """The sums of the metrics, or those that choose the gate."""
        return self.gate_sums.totals() if stage == "val" and self.gate_sums is not None else [self.sums]

    def remarks(self) -> dict[str, float]:
        """Mean gate of a correction and mean t-statistic of its gain."""
        found = {"gate": self.model.gate, "gate_t": self.model.gate_t}
        return {name: float(value.mean()) for name, value in found.items() if value is not None}

    def finish(self, stage: str) -> tuple[dict[str, float], float]:
        """Mean squared and absolute error, with the gate that a validation has just chosen."""
        if stage == "val" and self.gate_sums is not None:
            gate, t = self.gate_sums.choose()
            assert self.model.gate is not None and self.model.gate_t is not None
            self.model.gate.copy_(gate)
            self.model.gate_t.copy_(t)
            mse, mae = self.gate_sums.errors(gate)
            return {"mse": mse, "mae": mae}, self.gate_sums.windows
        squared, absolute, count, windows = self.sums.tolist()
        return {"mse": squared / count, "mae": absolute / count}, windows


def _plain(factory: ForecastModelFactory) -> ForecastModelFactory:
    """The factory as a function: hyperparameters are copied, and one of the command line holds the running trainer."""
    return lambda series: factory(series)


def _truth(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Truth, 0 where it was not observed, and the weight of each value; None where all count the same."""
    y, mask, weight = batch["y"].float(), batch.get("y_mask"), batch.get("weight")
    if mask is not None:
        y = y.masked_fill(~mask, 0)
    if weight is None:
        return y, None if mask is None else mask.to(y.dtype)
    each = weight.to(y.dtype)[:, None, None].expand_as(y)
    return y, each if mask is None else each * mask
