"""Forecasting models trained on the residual of ridge regression."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seqmix.errors import ConfigError, check_choice
from seqmix.mixers import MixerFactory
from seqmix.models.forecast_model import ForecastModel, ForecastModelFactory, class_of
from seqmix.models.named import forecast_factory
from seqmix.models.ridge import Ridge
from seqmix.series import Series

Gating = Literal["one", "channel"]


def Residual(
    model: str | MixerFactory | ForecastModelFactory, *, ridge: ForecastModelFactory = Ridge, gating: Gating = "one"
) -> "partial[ResidualForecaster]":
    """Factory of a ``ResidualForecaster``, for every place that takes a model class: ``Residual(TSM2)``.

    Args:
        model: name of a model, encoder or mixer, a class of these, or a ``functools.partial`` of one.
        ridge: factory of the ridge, for example ``partial(Ridge, weights="own")``.
        gating: ``one`` gate for all channels, or one for each ``channel``.

    Raises:
        ConfigError: if no model, encoder or mixer has this name.
    """
    return partial(ResidualForecaster, model=forecast_factory(model), ridge=ridge, gating=gating)


class ResidualForecaster(ForecastModel):
    """A model trained on the residual of a frozen ``Ridge``: ``y = ridge(x) + gate * model(x)``.

    The ridge is fitted in closed form on windows as they are; then the model is trained on normalized windows, with a
    gate of 1. Its heads are 0 at the start, so that training begins at the forecast of the ridge. Each validation
    chooses the gate anew; at 0 the forecast is that of the ridge. Of quantiles and distributions the gate moves the
    location and leaves the spread to the model.

    ``forward`` is the correction ``model(x)`` alone; the task adds ``base``, the forecast of the ridge, and applies the
    gate.

    Shapes: ``(B, context, C) -> (B, horizon, C)``, or ``(B, horizon, C, K)`` for ``n_outputs`` K > 1.
    Cost: that of the model and of the ridge.

    Args:
        model: factory of the model, with the covariates that it uses.
        ridge: factory of the ridge, with the covariates that it uses.
        gating: ``one`` gate for all channels, or one for each ``channel``, which needs more validation windows.

    Raises:
        ConfigError: if the model has no ``heads``, or neither it nor the ridge uses the covariates of the data.

    Source: our own; heads of 0 after Zhang et al., 2019, arXiv:1901.09321. Differs from the original code in: there is
    none.
    """

    covariates = "used"
    masked = True

    def __init__(
        self,
        series: Series,
        *,
        model: ForecastModelFactory,
        ridge: ForecastModelFactory = Ridge,
        gating: Gating = "one",
    ):
        super().__init__(series)
        check_choice("gating", gating, ("one", "channel"))
        self.gating: Gating = gating
        self.ridge = _suited(ridge, replace(series, n_outputs=1)).requires_grad_(False)
        self.model = _suited(model, series)
        if series.covariates and not self.ridge.series.covariates and not self.model.series.covariates:
            raise ConfigError(
                f"neither {type(self.model).__name__} nor {type(self.ridge).__name__} uses covariates, the data has "
                f"{', '.join(series.covariates)}; use another model, or leave them out of the data"
            )
        start_at_zero(self.model)
        self.gate, self.gate_t = torch.zeros(series.n_channels), torch.zeros(series.n_channels)  # (C,)

    @classmethod
    def channels_meet(cls, options: Mapping[str, Any]) -> bool:
        """Whether the model mixes channels."""
        inner = class_of(options["model"])
        keywords = options["model"].keywords if isinstance(options["model"], partial) else {}
        return isinstance(inner, type) and issubclass(inner, ForecastModel) and inner.channels_meet(keywords)

    @property
    def note(self) -> str:
        """The model."""
        return self.model.label

    def fit_closed_form(self, train: Iterable[dict[str, Tensor]], val: Iterable[dict[str, Tensor]]) -> None:
        """Fit the ridge, on batches that are not normalized."""
        self.ridge.fit_closed_form(train, val)

    def base(
        self,
        x: Tensor,
        *,
        future: Tensor | None = None,
        static: Tensor | None = None,
        past: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The forecast of the ridge."""
        return self.ridge(x, mask=mask, **_used(self.ridge, future=future, static=static, past=past))

    def forward(
        self,
        x: Tensor,
        *,
        future: Tensor | None = None,
        static: Tensor | None = None,
        past: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The correction, from ``x: (B, context, C)``."""
        return self.model(x, mask=mask, **_used(self.model, future=future, static=static, past=past))


def start_at_zero(model: ForecastModel) -> None:
    """Set the heads of a model to 0, so that its correction is 0 at the start.

    Raises:
        ConfigError: if the model has no ``heads``.
    """
    heads = model.heads()
    if not heads:
        raise ConfigError(
            f"{type(model).__name__} has no heads() that are 0 at the start of a correction; use DLinear, "
            "MixerForecaster or TSM2, or give it that method"
        )
    for parameter in (p for head in heads for p in head.parameters()):
        nn.init.zeros_(parameter)


def _suited(factory: ForecastModelFactory, series: Series) -> ForecastModel:
    """The model, with the covariates of the data if it uses them."""
    plain = factory(series.without_covariates())
    return factory(series) if series.covariates and plain.covariates == "used" else plain


def _used(model: ForecastModel, **given: Tensor | None) -> dict[str, Tensor | None]:
    return {kind: given[kind] for kind in model.series.covariates}
