"""The pretraining task: the quantiles of ZeroShot at every patch of synthetic series."""

from dataclasses import asdict

import torch
from torch import Tensor

from seqmix.errors import ConfigError
from seqmix.models.forecast_model import ForecastModelFactory
from seqmix.models.periods import find_periods
from seqmix.models.quantile_patches import LEVELS
from seqmix.models.zero_shot import ZeroShot
from seqmix.series import Series
from seqmix.tasks._optim import AdamW, Optim, default_optim
from seqmix.tasks.score import Table
from seqmix.tasks.task import Task, require_facts

Batch = dict[str, Tensor]

_OPTIM = default_optim(AdamW, lr=2e-3, weight_decay=0.02, warmup=0.02)
_MEDIAN, _LOW, _HIGH = (LEVELS.index(level) for level in (0.5, 0.1, 0.9))


class Pretraining(Task):
    """Training of ZeroShot on series of ``context + horizon`` steps.

    A batch is ``{"x": (B, T), "mask": (B, T), "periods": (B, 2)}``: series, observed values, and the two periods a user
    would know, 0 for none. The loss is the pinball loss over 13 quantiles at the end of every patch (dense
    supervision), in units of the series. Validation has that loss, the absolute error of the median over that of the
    seasonal naive forecast (``error``), and the share of values within the 80 % interval, both at the last origin.

    Args:
        model: factory of a ZeroShot model, called with the facts of the data.
        series: the facts of the data, linked from the datamodule; a checkpoint holds them as a dict.
        every: train one of ``every`` origins in a step, in turns.

    Raises:
        ConfigError: if the model is another one, or options are out of range.

    Source: dense supervision with causal statistics is our own.
    """

    metrics = ("loss", "error", "coverage")
    counted = "series"
    facts = ("context", "horizon")
    extent = "{context} -> {horizon} steps"
    table = Table("pretraining", ("context", "horizon"), "steps")

    def __init__(
        self,
        model: ForecastModelFactory,
        series: Series | dict[str, int],
        *,
        every: int = 3,
        optim: Optim = _OPTIM,
        patience: int | None = None,
    ):
        super().__init__(optim=optim, patience=patience)
        self.save_hyperparameters(logger=False)
        self.forget_code()
        require_facts(self, series=series)
        series = series if isinstance(series, Series) else Series(**series)
        self.hparams["series"] = asdict(series)
        built = model(series)
        if not isinstance(built, ZeroShot):
            raise ConfigError(f"Pretraining trains ZeroShot, got {type(built).__name__}; use the Forecasting task")
        if every < 1:
            raise ConfigError(f"every must be at least 1, got {every}; use 1 to train every origin in every step")
        if built.patches.horizon != series.horizon or series.context % built.patches.patch_len:
            raise ConfigError(
                f"series of {series.context} + {series.horizon} steps do not fit patches of {built.patches.patch_len} "
                f"and blocks of {built.patches.horizon}; set data.horizon to the block"
            )
        self.model, self.series, self.every = built, series, every
        # sums over one pass of a loader: loss, its weights, error, that of naive, values inside, values, series
        self.sums = torch.zeros(7, dtype=torch.float64)

    @property
    def label(self) -> str:
        """ZeroShot and its mixers."""
        return f"ZeroShot ({'+'.join(self.model.patches.backbone.mixer_names)})"

    def example(self) -> dict[str, Tensor]:
        """A series of zeros."""
        T = self.series.context
        return {"x": torch.zeros(1, T), "mask": torch.ones(1, T).bool(), "periods": torch.zeros(1, 2).long()}

    def forward(self, x: Tensor, mask: Tensor, periods: Tensor) -> Tensor:
        """Quantiles in units of the series ``(B, n, horizon, K)``, see ``QuantilePatches``."""
        return self.model.patches(x, mask, periods)[0]

    def loss_of(self, batch: Batch) -> Tensor:
        """Pinball loss of one batch at a part of the origins."""
        part = slice(self.global_step % self.every, None, self.every)
        return self.model.patches.loss(*self._series(batch), part)

    def add_batch(self, batch: Batch) -> None:
        T = self.series.context
        x, mask, periods = self._series(batch)
        forecast = self.model.patches(x[:, :T], mask[:, :T], periods)
        losses = self.model.patches.loss_sums(forecast, x, mask)
        found, naive, unit = (part[:, -1:] for part in forecast)
        truth = torch.asinh((x[:, T:] - naive[:, 0]) / unit)
        there = mask[:, T:] & (mask[:, :T].sum(1, keepdim=True) >= 3)
        y = found[:, 0].sort(-1).values
        errors = [((truth - guess).abs() * there).sum() for guess in (y[..., _MEDIAN], torch.zeros_like(truth))]
        inside = (truth >= y[..., _LOW]) & (truth <= y[..., _HIGH]) & there
        sums = [*losses, *errors, inside.sum(), there.sum(), torch.tensor(len(x))]
        self.sums += torch.stack([s.detach().double().cpu() for s in sums])

    def finish(self, stage: str) -> tuple[dict[str, float], float]:
        """Pinball loss, relative error and coverage."""
        loss, weight, error, naive, inside, values, count = self.sums.tolist()
        return {"loss": loss / weight, "error": error / naive, "coverage": inside / values}, count

    def _series(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        T = self.series.context
        x = batch["x"].masked_fill(~batch["mask"], 0)
        return x, batch["mask"], find_periods(x[:, :T], batch["mask"][:, :T], batch["periods"])
