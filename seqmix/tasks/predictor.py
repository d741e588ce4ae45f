"""Forecasts of windows by a model, its loss and the normalization of windows: what training and use share."""

from abc import ABC
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, final

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError
from seqmix.models import ForecastModel, ForecastModelFactory, Residual
from seqmix.series import Series
from seqmix.tasks._closed_form import Normalized, left_out_errors
from seqmix.tasks._loss import Loss
from seqmix.tasks._losses import LossFactory, LossName, QuantileLoss, make_loss
from seqmix.tasks._normalize import Normalize, WindowNorm

Batch = dict[str, Tensor]


class Predictor(nn.Module, ABC):
    """Base of what forecasts windows: a model, its loss and the normalization of windows.

    Batches are those of the ``Forecasting`` task.
    """

    model: ForecastModel
    loss: Loss
    norm: WindowNorm
    #: the facts of the data, with the numbers that the loss takes
    series: Series
    #: levels that are forecast with quantile loss
    quantiles: list[float]

    def forward(self, batch: Batch) -> Tensor:
        """Forecast a batch: ``(B, horizon, C)``, or ``(B, horizon, C, K)`` with rising quantiles or parameters."""
        return self._forecast(batch, self._base(batch), None if self.training else self.model.gate)

    def _base(self, batch: Batch) -> Tensor | None:
        """Base that the outputs of the model are added to, if it is not the level of the window."""
        x, mask = batch["x"], batch.get("x_mask")
        x = x if mask is None else x.masked_fill(~mask, 0)
        return self.model.base(x, mask=mask, **self._covariates(batch))

    def _covariates(self, batch: Batch) -> dict[str, Tensor]:
        """Covariates of the model, which may be fewer than those of the data."""
        return {kind: batch[kind] for kind in self.series.covariates}

    def _forecast(self, batch: Batch, base: Tensor | None, gate: Tensor | None) -> Tensor:
        """Forecast a batch from a base, with the share ``gate`` of the correction."""
        x, stats = self.norm(batch["x"], batch.get("x_mask"))
        found = self.model(x, mask=batch.get("x_mask"), **self._covariates(batch))
        y = self.loss.read(self.norm.undo_affine(found))
        # quantile forecasts may cross: sorting them is no worse at any level
        y = y.sort(dim=-1).values if self.quantiles and not self.training else y
        if gate is not None:
            y = self.loss.moved(y, (gate - 1) * self.loss.point(y))
        if base is not None:
            stats = base, base.new_ones(()) if stats is None else stats[1]
        return y if stats is None else self.loss.rescale(y, *stats)

    def example(self) -> dict[str, Batch]:
        """One window of zeros, with the covariates that there are."""
        s = self.series
        shapes = {
            "x": (s.context, s.n_channels),
            "future": (s.context + s.horizon, s.n_future),
            "static": (s.n_channels, s.n_static),
            "past": (s.context, s.n_past),
        }
        return {"batch": {name: torch.zeros(1, *shape) for name, shape in shapes.items() if shape[1]}}

    def point(self, forecast: Tensor) -> Tensor:
        """The point forecast ``(B, horizon, C)`` of a result of ``forward``: the median of quantiles, or the mean."""
        return self.loss.point(forecast)

    @torch.no_grad()
    def quantile_forecast(self, batch: Batch, quantiles: Sequence[float]) -> Tensor:
        """Quantiles of the forecast of a batch, which needs no ``y``; see ``quantiles_of``."""
        return self.quantiles_of(self(batch), quantiles)

    def quantiles_of(self, forecast: Tensor, quantiles: Sequence[float]) -> Tensor:
        """Quantiles of a result of ``forward``, ``(B, horizon, C, K)`` in the order given; they never cross.

        Those of a distribution are exact. With ``quantile`` loss levels between two that were trained are linear
        between their forecasts.

        Args:
            forecast: result of ``forward``.
            quantiles: levels between 0 and 1.

        Raises:
            ConfigError: if a level is out of range, beyond those trained, or the loss has point forecasts only.
        """
        if not quantiles or not all(0 < q < 1 for q in quantiles):
            raise ConfigError(
                f"quantiles are levels between 0 and 1, got {list(quantiles)}; use for example [0.1, 0.9]"
            )
        rising = sorted(quantiles)
        forecast = forecast.sort(dim=-1).values if self.quantiles else forecast
        # sorted again: rounding may swap two close levels
        found = self.loss.quantiles(forecast, rising).sort(dim=-1).values
        return found[..., [rising.index(q) for q in quantiles]]


@final
class WindowPredictor(Predictor):
    """A predictor without an optimizer; arguments are those of the ``Forecasting`` task."""

    def __init__(
        self,
        model: ForecastModelFactory,
        series: Series,
        *,
        residual: bool | ForecastModelFactory = False,
        loss: LossName = "mse",
        loss_module: LossFactory | None = None,
        quantiles: list[float] | None = None,
        normalize: Normalize = "window",
        normalize_affine: bool = False,
        season: int | None = None,
    ):
        super().__init__()
        self.loss = make_loss(loss, loss_module, quantiles)
        self.quantiles = self.loss.levels if isinstance(self.loss, QuantileLoss) else []
        self.series = replace(series, n_outputs=self.loss.n_outputs)
        if residual:
            model = Residual(model) if residual is True else Residual(model, ridge=residual)
        built = model(self.series)
        if built.reconstructs:
            raise ConfigError(f"{type(built).__name__} fills gaps of its window; use it with the Imputation task")
        if self.loss.counts and built.gate is not None:
            raise ConfigError(
                f"{type(built).__name__} adds a correction, and counts have none (loss = 'negative_binomial'); use "
                "loss='student_t', or the model without residual"
            )
        if normalize == "season" and built.repeats_season:
            normalize = "window"
        if built.closed_form:
            _check_closed_form(type(built).__name__, self.loss.n_outputs, normalize_affine)
        season = series.season if season is None else season
        self.norm = WindowNorm(normalize, series, season=season, affine=normalize_affine, counts=self.loss.counts)
        self.model = built

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for a model without any."""
        found = next(chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if found is None else found.device

    def fit_closed_form(self, train: Iterable[Batch], val: Iterable[Batch] | None) -> None:
        """Fit a model in closed form to batches, and, if there are any, choose its options by validation batches."""
        self.train()
        given = [Normalized(batches, None, self.norm, self.device) for batches in (train, val) if batches is not None]
        self.model.fit_closed_form(given[0], given[1] if val is not None else ())

    def left_out_errors(self, train: Iterable[Batch], blocks: Iterable[Any]) -> Tensor:
        """Errors of training windows of a model in closed form, by fits without them; see ``left_out``."""
        self.train()
        return left_out_errors(self.model, self.norm, train, blocks, self.device)


def _check_closed_form(name: str, n_outputs: int, affine: bool) -> None:
    """Refuse options that are learned in gradient steps only, for a model that takes none."""
    if n_outputs > 1:
        raise ConfigError(
            f"{name} has the least squared error in closed form, and the loss takes {n_outputs} numbers per value; "
            "leave loss out: intervals are calibrated on errors"
        )
    if affine:
        raise ConfigError(f"normalize_affine is learned in gradient steps, and {name} takes none; leave it out")
