"""Short-term forecasting: one window for each series, scored by sMAPE, MASE and OWA as in the M4 competition."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seqmix import models
from seqmix.errors import check_choice
from seqmix.models import ForecastModelFactory
from seqmix.series import Series
from seqmix.tasks._baselines import trained
from seqmix.tasks._closed_form import batches_of
from seqmix.tasks._losses import Smape, make_loss
from seqmix.tasks._normalize import Normalize, WindowNorm
from seqmix.tasks._optim import AdamW, Optim, default_optim
from seqmix.tasks.score import Score, Table
from seqmix.tasks.task import Task, require_facts

Batch = dict[str, Tensor]

_OPTIM = default_optim(AdamW, lr=1e-3, weight_decay=0.01, warmup=0.1)


class ShortTerm(Task):
    """Short-term forecasting of ``horizon`` steps of series scaled by their seasonal naive error.

    A batch is ``{"x": (B, context, C), "y": (B, horizon, C)}``, with ``"x_mask"``, True where a value was observed, for
    windows that begin before their series, and in validation and test ``"naive2"``, the forecasts ``(B, horizon, C)``
    of Naive2. Metrics are means over all series and steps: sMAPE in percent, MASE, which is the mean absolute error
    here, and OWA, the mean of the ratios of both to those of Naive2.

    Args:
        model: model class, ``functools.partial`` or config entry, called with the facts of the data.
        series: the facts of the data, linked from the datamodule; a checkpoint holds them as a dict.
        loss: training loss: ``smape``, or ``mae``, ``huber`` or ``mse`` in units of the seasonal naive error.
        normalize: normalization of windows: ``none``, ``window``, ``last`` or ``season``, as in ``Forecasting``.

    Raises:
        ConfigError: if options contradict each other or are out of range.

    Source: Makridakis et al., 2020, International Journal of Forecasting 36(1), sec. 2.3. Differs from the original
    code in: nothing.
    """

    metrics = ("owa", "smape", "mase")
    counted = "series"
    facts = ("context", "horizon")
    extent = "{context} -> {horizon} steps"
    table = Table("short_term", ("context", "horizon"), "steps")
    chooses_baselines = True

    def __init__(
        self,
        model: ForecastModelFactory,
        series: Series | dict[str, int],
        *,
        loss: Literal["smape", "mae", "huber", "mse"] = "smape",
        normalize: Normalize = "window",
        optim: Optim = _OPTIM,
        patience: int | None = 3,
    ):
        super().__init__(optim=optim, patience=patience)
        self.save_hyperparameters(logger=False)
        self.forget_code()
        require_facts(self, series=series)
        check_choice("loss", loss, ("smape", "mae", "huber", "mse"))
        self.series = series if isinstance(series, Series) else Series(**series)
        self.hparams["series"] = asdict(self.series)
        self.loss = make_loss("mse", Smape, None) if loss == "smape" else make_loss(loss, None, None)
        self.model = model(self.series)
        self.norm = WindowNorm(
            "window" if normalize == "season" and self.model.repeats_season else normalize,
            self.series,
            season=self.series.season,
            affine=False,
            counts=False,
        )
        # sMAPE and absolute error, those of Naive2, values, series: sums over one pass of a loader
        self.sums = torch.zeros(6, dtype=torch.float64)

    @property
    def label(self) -> str:
        return self.model.label

    def forward(self, batch: Batch) -> Tensor:
        """Forecast a batch: ``(B, horizon, C)``."""
        mask = batch.get("x_mask")
        x, stats = self.norm(batch["x"], mask)
        y = self.model(x, mask=mask)
        return y if stats is None else self.loss.rescale(y, *stats)

    def example(self) -> dict[str, Batch]:
        """One window of zeros."""
        return {"batch": {"x": torch.zeros(1, self.series.context, self.series.n_channels)}}

    def on_fit_start(self) -> None:
        """Fit closed-form parts; a model without others takes no gradient steps."""
        self.model.fit_closed_form(*batches_of(self.trainer, self.norm, self.device))
        if self.model.closed_form:
            self.trainer.fit_loop.max_epochs = 0

    def loss_of(self, batch: Batch) -> Tensor:
        return self.loss.score(self(batch).float(), batch["y"].float()).mean()

    def add_batch(self, batch: Batch) -> None:
        """Add the errors of one batch, and those of Naive2."""
        y = batch["y"].double()
        errors = [each for found in (self(batch), batch["naive2"]) for each in _errors(found.double(), y)]
        counts = torch.tensor([y.numel(), len(y)], dtype=torch.float64)
        self.sums += torch.cat([torch.stack(errors).cpu(), counts])

    def finish(self, stage: str) -> tuple[dict[str, float], float]:
        """OWA, sMAPE and MASE, and the number of series."""
        *sums, count, series = self.sums.tolist()
        smape, mase, naive_smape, naive_mase = (value / count for value in sums)
        return {"owa": (smape / naive_smape + mase / naive_mase) / 2, "smape": smape, "mase": mase}, series

    def baselines(self, data: Any, chosen: Sequence[Any] | None, seed: int) -> list[Score]:
        """Naive2, SeasonalNaive and Ridge, or the chosen models, with default settings."""
        if chosen is None:
            *_, naive_smape, naive_mase, count, series = self.sums.tolist()
            known = {"owa": 1.0, "smape": naive_smape / count, "mase": naive_mase / count}
            first, chosen = [Score("Naive2", known, int(series))], [models.SeasonalNaive, models.Ridge]
        else:
            first = []
        # as functions: hyperparameters are copied, and a factory of the command line holds the running trainer
        tasks = (ShortTerm(lambda series, f=f: f(series), data.series, normalize="none") for f in chosen)
        return first + [trained(task, data, self.trainer, seed) for task in tasks]

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Truth ``y`` and forecast ``yhat``, each ``(B, horizon, C)``, in units of the seasonal naive error."""
        return {"y": batch["y"], "yhat": self(batch).float()}

    def prediction_rows(self, batch: Batch, first: int, data: Any) -> pd.DataFrame:
        """A row for each series and step, in the units of the data."""
        B, horizon, _ = batch["y"].shape
        ids, step = data.ids[first : first + B], np.arange(1, horizon + 1)
        frame = pd.DataFrame(index=pd.MultiIndex.from_product([ids, step], names=["unique_id", "step"])).reset_index()
        for name, values in batch.items():
            frame[name] = (values[..., 0].cpu() * data.scale[first : first + B, None]).flatten().numpy()
        return frame


def _errors(forecast: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of sMAPE in percent and of absolute errors."""
    error, size = (forecast - y).abs(), forecast.abs() + y.abs()
    return (200 * torch.where(size > 0, error / size, 0.0)).sum(), error.sum()
