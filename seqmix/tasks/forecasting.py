"""The forecasting task: losses, exact metrics over every window, optimiser, early stopping.

The protocol (standardised scale, every window counted) is that of the long-horizon benchmarks since Informer, without
their dropped last batch.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix import models
from seqmix.errors import ConfigError
from seqmix.mixers import auxiliary_loss
from seqmix.models import ForecastModelFactory
from seqmix.tasks._base import Task, require_facts
from seqmix.tasks._optim import Schedule

Batch = dict[str, Tensor]


class Forecasting(Task):
    """Forecast ``horizon`` steps of every channel from ``context`` steps of all channels.

    A batch is ``{"x": (B, context, C), "y": (B, horizon, C)}``, with ``"future": (B, context + horizon, F)`` and
    ``"static": (B, C, S)`` where the data has them. Validation and test MSE and MAE are sums over every window, step
    and channel divided by their count, never means of batch means; with ``quantile`` loss the median is scored.

    Args:
        model: what makes the model from the facts of the data: a class, a ``functools.partial``, an entry of a config.
        n_channels: number of channels C; linked from the datamodule.
        context: look-back length, in time steps; linked from the datamodule.
        horizon: forecast length, in time steps; linked from the datamodule.
        n_future: known-future inputs per time step F; linked from the datamodule.
        n_static: static inputs per channel S; linked from the datamodule.
        loss: what training minimises; ``huber`` has its corner at 1 channel std, ``quantile`` is the pinball loss.
        quantiles: levels forecast with ``quantile`` loss, rising, 0.5 among them; 0.1, 0.5 and 0.9 if not given.
        lr: peak learning rate of AdamW.
        weight_decay: decay of matrices; norms, biases and state-space rates are never decayed.
        warmup: length of the linear warm-up, as a fraction of all optimizer steps.
        schedule: ``cosine`` falls to zero over all optimizer steps, ``constant`` stays.
        patience: validations without a better validation MSE before training stops; null to train to the end.
        densify: put a dense layer along the sequence in place of every sequence mixer of the model (JustDense).

    Raises:
        ConfigError: if options contradict each other or are out of range.
    """

    metrics = ("mse", "mae")
    counted = "windows"
    facts = ("context", "horizon")

    def __init__(
        self,
        model: ForecastModelFactory,
        n_channels: int,
        context: int,
        horizon: int,
        n_future: int = 0,
        n_static: int = 0,
        *,
        loss: Literal["mse", "mae", "huber", "quantile"] = "mse",
        quantiles: list[float] | None = None,
        lr: float = 5e-4,
        weight_decay: float = 0.01,
        warmup: float = 0.0,
        schedule: Schedule = "cosine",
        patience: int | None = 3,
        densify: bool = False,
    ):
        super().__init__(lr=lr, weight_decay=weight_decay, warmup=warmup, schedule=schedule, patience=patience)
        self.save_hyperparameters(logger=False)
        # built in Python the factory is code, which a checkpoint of weights and plain values must not hold
        if callable(self.hparams["model"]):
            self.hparams.pop("model")
        require_facts(self, n_channels=n_channels, context=context, horizon=horizon)
        self.quantiles = _check_quantiles(loss, quantiles)
        self.loss = loss
        self.n_future, self.n_static = n_future, n_static
        self.model = model(n_channels, context, horizon, max(1, len(self.quantiles)), n_future, n_static)
        self.densified = densify
        if densify:
            models.densify(self.model, _blank_inputs(n_channels, context, horizon, n_future, n_static))
        # squared error, absolute error, values, windows: sums over one pass of a loader
        self.sums = torch.zeros(4, dtype=torch.float64)

    @property
    def label(self) -> str:
        """Class of the model, and what tells two of that class apart: its mixers, and whether it is densified."""
        names = self.model.backbone.mixer_names if isinstance(self.model, models.MixerForecaster) else []
        notes = ["+".join(names)] * bool(names) + ["densified"] * self.densified
        return type(self.model).__name__ + f" ({', '.join(notes)})" * bool(notes)

    def forward(self, batch: Batch) -> Tensor:
        """Forecast a batch: ``(B, horizon, C)``, or ``(B, horizon, C, K)`` with K rising quantiles."""
        # a model without covariates may share its data with one that has them
        future = batch["future"] if self.n_future else None
        static = batch["static"] if self.n_static else None
        y = self.model(batch["x"], future=future, static=static)
        if len(self.quantiles) == 1:
            return y.unsqueeze(-1)
        # quantiles are forecast one by one and may cross: in order they are no worse at any level
        return y.sort(dim=-1).values if self.quantiles and not self.training else y

    def point(self, forecast: Tensor) -> Tensor:
        """The point forecast ``(B, horizon, C)`` in what ``forward`` returns: the median where there are quantiles."""
        return forecast[..., self.quantiles.index(0.5)] if self.quantiles else forecast

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        forecast = self(batch)
        loss = _loss(self.loss, forecast.float(), batch["y"].float(), self.quantiles)
        self.log("train_loss", loss.detach(), prog_bar=True, batch_size=len(batch["y"]))
        return loss + auxiliary_loss(self)

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Truth ``y`` and forecast ``yhat``, each ``(B, horizon, C)``, and every quantile under ``yhat-<level>``."""
        forecast = self(batch).float()
        levels = {f"yhat-{q}": forecast[..., k] for k, q in enumerate(self.quantiles)}
        return {"y": batch["y"], "yhat": self.point(forecast), **levels}

    def on_validation_epoch_end(self) -> None:
        """Log ``val_mse`` and ``val_mae``."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log ``test_mse``, ``test_mae`` and the number of windows they are over."""
        self._log_metrics("test")
        self.log("test_windows", self.sums[3])

    def add_batch(self, batch: Batch) -> None:
        """Add squared error, absolute error, values and windows of one batch."""
        y = batch["y"].float()
        error = self.point(self(batch)).float() - y
        sums = torch.stack([error.square().sum(), error.abs().sum()]).double().cpu()
        self.sums += torch.cat([sums, torch.tensor([y.numel(), len(y)], dtype=torch.float64)])

    def _log_metrics(self, stage: str) -> None:
        squared, absolute, count, _ = self.sums.tolist()
        self.log_dict({f"{stage}_mse": squared / count, f"{stage}_mae": absolute / count}, prog_bar=stage == "val")


def _blank_inputs(n_channels: int, context: int, horizon: int, n_future: int, n_static: int) -> Batch:
    """One window of zeros, with the covariates that there are."""
    inputs = {"x": torch.zeros(1, context, n_channels)}
    if n_future:
        inputs["future"] = torch.zeros(1, context + horizon, n_future)
    if n_static:
        inputs["static"] = torch.zeros(1, n_channels, n_static)
    return inputs


def _check_quantiles(loss: str, quantiles: list[float] | None) -> list[float]:
    if loss != "quantile":
        if quantiles is not None:
            raise ConfigError(
                f"quantiles = {quantiles} go with loss = 'quantile', got loss = {loss!r}; drop one of them"
            )
        return []
    levels = [0.1, 0.5, 0.9] if quantiles is None else list(quantiles)
    if 0.5 not in levels or levels != sorted(set(levels)) or not all(0 < q < 1 for q in levels):
        raise ConfigError(
            f"quantiles must rise between 0 and 1 and hold 0.5, whose forecast is scored, got {levels}; "
            "use for example [0.1, 0.5, 0.9]"
        )
    return levels


def _loss(name: str, forecast: Tensor, y: Tensor, quantiles: list[float]) -> Tensor:
    if name == "quantile":
        q = forecast.new_tensor(quantiles)  # (K,)
        error = y.unsqueeze(-1) - forecast  # (B, horizon, C, K)
        return torch.maximum(q * error, (q - 1) * error).mean()
    return {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}[name](forecast, y)
