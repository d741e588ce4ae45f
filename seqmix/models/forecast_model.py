"""The contract of forecasting models, and their registry."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from torch import Tensor, nn

from seqmix.errors import ConfigError
from seqmix.series import Series


class ForecastModel(nn.Module, ABC):
    """Base of forecasting models: from lookback window to horizon, ``(B, context, C) -> (B, horizon, C)``.

    Members are built as ``Model(series, *, options)``; ``series`` holds facts of the data, which are not part of a
    config. With ``n_outputs`` K > 1 (quantiles, parameters of a distribution) the result is ``(B, horizon, C, K)``,
    each of the K in the units of the window.

    Args:
        series: the facts of the data.

    Raises:
        ConfigError: if the data has covariates that the model cannot use.
    """

    #: whether ``future``, ``static`` and ``past`` inputs are used; a model that cannot use them is not built with them
    covariates: ClassVar[Literal["used", "refused"]] = "refused"
    #: a forecast may see all of the window, whatever its mixers do
    causal: ClassVar[bool] = False
    #: whether channels meet, so that aligned series are better forecast together
    mixes_channels: ClassVar[bool] = False
    #: whether the forecast is a linear map of the window, which cannot tell the scales of series apart
    linear: ClassVar[bool] = False
    #: whether the forecast itself has the last season in it, which is then not added to it once more
    repeats_season: ClassVar[bool] = False
    #: whether ``forward`` takes ``mask``, the observed values of the window; others see the level in their place
    masked: ClassVar[bool] = False
    #: whether the output is the window itself without its gaps, not what comes after it
    reconstructs: ClassVar[bool] = False
    #: whether the model comes with its weights and forecasts without training; it scales windows itself, takes ``mask``
    #: and can be built for any horizon
    pretrained: ClassVar[bool] = False
    #: levels of the quantiles that a pretrained model forecasts, rising, 0.5 among them; empty for others
    quantiles: ClassVar[tuple[float, ...]] = ()
    #: lookback that a pretrained model wants; None: any, as the data has it
    context: ClassVar[int | None] = None
    #: whether all parameters come from ``fit_closed_form``, none from gradient steps; such a model has ``left_out`` too
    closed_form: ClassVar[bool] = False
    #: whether gradient steps train it; not so in closed form, and without parameters
    by_steps: ClassVar[bool] = True

    #: options that are worth a search, and values to try; a member that has one of another name or range says so
    searched: ClassVar[Mapping[str, Sequence[Any]]] = {
        "d_model": (32, 64, 128),
        "n_layers": (1, 2, 3),
        "dropout": (0.0, 0.1, 0.2, 0.3),
    }

    #: share of the outputs that a forecast takes, ``(C,)``, a buffer that validations set; None: all of them
    gate: Tensor | None
    #: t-statistic of its gain in the validation that chose it, ``(C,)``
    gate_t: Tensor | None
    #: whether it is one for all channels, or one for each
    gating: Literal["one", "channel"] = "one"

    def __init__(self, series: Series):
        super().__init__()
        if series.covariates and self.covariates == "refused":
            given = " and ".join(f"n_{kind} = {size}" for kind, size in series.covariates.items())
            raise ConfigError(
                f"{type(self).__name__} uses no covariates, the data has {given}; "
                f"use {', '.join(covariate_models())}, or leave them out of the data"
            )
        self.series = series
        self.register_buffer("gate", None)
        self.register_buffer("gate_t", None)

    def __call__(
        self,
        x: Tensor,
        *,
        future: Tensor | None = None,
        static: Tensor | None = None,
        past: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Check the inputs, and run ``forward``; ``mask`` is for models that are ``masked``.

        Raises:
            ValueError: if an input is not of the shape that the model was built for.
        """
        name, facts = type(self).__name__, self.series
        shapes = {
            "x": (x, (facts.context, facts.n_channels)),
            "future": (future, (facts.context + facts.horizon, facts.n_future)),
            "static": (static, (facts.n_channels, facts.n_static)),
            "past": (past, (facts.context, facts.n_past)),
        }
        for key, (value, shape) in shapes.items():
            if value is None:
                continue
            fits = value.ndim == 3 and value.shape[1:] == shape and value.shape[0] == x.shape[0]
            if not fits or not value.is_floating_point():
                want, got = ", ".join(map(str, shape)), f"{value.dtype} {tuple(value.shape)}"
                raise ValueError(f"{name} was built for real {key} of shape (B, {want}), got {got}; build it for that")
        observed = {"mask": mask} if self.masked else {}
        return super().__call__(x, future=future, static=static, past=past, **observed)

    @classmethod
    def channels_meet(cls, options: Mapping[str, Any]) -> bool:
        """Whether a model built with ``options`` mixes channels; a wrapper asks the wrapped model."""
        return cls.mixes_channels

    @classmethod
    def takes(cls, options: Mapping[str, Any]) -> list[str]:
        """Names of the options of a model built with ``options``; a wrapper returns those of the wrapped model."""
        return [name for name, p in signature(cls).parameters.items() if p.kind is p.KEYWORD_ONLY]

    @property
    def label(self) -> str:
        """Name of the model in results: its class, and ``note``."""
        return type(self).__name__ + f" ({self.note})" * bool(self.note)

    @property
    def note(self) -> str:
        """Suffix that distinguishes models of the class in results. Default: empty."""
        return ""

    def heads(self) -> list[nn.Module]:
        """Modules whose outputs are summed in the forecast: it is 0 if their parameters are. Default: none."""
        return []

    def base(
        self,
        x: Tensor,
        *,
        future: Tensor | None = None,
        static: Tensor | None = None,
        past: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor | None:
        """Forecast ``(B, horizon, C)`` that the outputs are added to, from windows before normalization.

        Default: None, the outputs are added to the level of the normalized window.
        """
        return None

    @abstractmethod
    def forward(
        self, x: Tensor, *, future: Tensor | None = None, static: Tensor | None = None, past: Tensor | None = None
    ) -> Tensor:
        """Forecast.

        Args:
            x: lookback window ``(B, context, C)``.
            future: inputs known for the window and the horizon ``(B, context + horizon, F)``.
            static: inputs that do not change with time ``(B, C, S)``.
            past: inputs known for the window only ``(B, context, P)``.
        """

    def fit_closed_form(self, train: Iterable[dict[str, Tensor]], val: Iterable[dict[str, Tensor]]) -> None:
        """Fit the closed-form parameters before any gradient step. Default: there are none.

        Args:
            train: training batches as the task has normalized them, ``x``, ``y``, ``weight`` (of each window and
                channel, ``(B, C)``), and what there is of ``x_mask``, ``y_mask``, ``future``, ``static``, ``past``;
                they can be gone through several times.
            val: validation batches, none where nothing is held out.
        """

    def left_out(
        self,
        train: Iterable[dict[str, Tensor]],
        blocks: Sequence[tuple[Iterable[dict[str, Tensor]], Iterable[dict[str, Tensor]]]],
    ) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Forecasts of training windows by fits without them, for models in closed form.

        Args:
            train: training batches, as in ``fit_closed_form``.
            blocks: batches of each block of windows, and of all windows left out with it, the block included.

        Yields:
            Each batch of the blocks, and its forecast ``(B, horizon, C)``.

        Raises:
            TypeError: if the model cannot leave windows out of a fit.
        """
        raise TypeError(f"{type(self).__name__} cannot leave windows out of its fit; hold rows out with val_size")

    def given(self, name: str, value: Tensor | None) -> Tensor:
        """Return the covariate ``value`` that the model was built for, or raise ``ValueError`` if it is None."""
        if value is None:
            built = f"{type(self).__name__} was built with n_{name} = {getattr(self.series, f'n_{name}')}"
            raise ValueError(f"{built} and got none; pass {name}=...")
        return value


class ForecastModelFactory(Protocol):
    """Factory of forecasting models: a class, ``functools.partial`` or config entry, called with a ``Series``."""

    def __call__(self, series: Series) -> ForecastModel:
        """Build a model from the facts of the data."""
        ...


def class_of(factory: Any) -> Any:
    """The class, or function, under layers of ``functools.partial``."""
    while isinstance(factory, partial):
        factory = factory.func
    return factory


_REGISTRY: dict[str, tuple[type[ForecastModel], str, dict[str, Any]]] = {}
M = TypeVar("M", bound=type[ForecastModel])


def register_model(*, paper: str, **example: Any) -> Callable[[M], M]:
    """Register a forecasting model under its own name, with its source and the options of the tests."""

    def enter(cls: M) -> M:
        _REGISTRY[cls.__name__] = (cls, paper, example)
        return cls

    return enter


def list_models() -> list[str]:
    """Names of the registered forecasting models, sorted."""
    return sorted(name for name, (cls, _, _) in _REGISTRY.items() if not cls.reconstructs)


def covariate_models() -> list[str]:
    """Names of the registered forecasting models that use covariates, sorted."""
    return [name for name in list_models() if _REGISTRY[name][0].covariates == "used"]


def list_imputers() -> list[str]:
    """Names of the registered models that fill gaps of their window and do not forecast, sorted."""
    return sorted(name for name, (cls, _, _) in _REGISTRY.items() if cls.reconstructs)


def model_facts(name: str) -> tuple[type[ForecastModel], str, dict[str, Any]]:
    """Class, paper and example options of a registered model; raises ``KeyError`` for an unknown name."""
    return _REGISTRY[name]
